"""Networks of layers for tests: layers are added one by one, shapes follow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from kilograd.ir import Affine, Array
from kilograd.layers.evaluate import evaluate
from kilograd.layers.network import (
    UNBOUNDED,
    Bounds,
    ChannelScale,
    Clamp,
    Concat,
    Constant,
    Convolution,
    Curve,
    CurveKind,
    Dense,
    Gather,
    Layer,
    Layout,
    Mean,
    Network,
    Operation,
    Pad,
    Pool,
    PoolKind,
    Product,
    Requantise,
    Reshape,
    Slice,
    Softmax,
    Source,
    Sum,
    Tensor,
    Transpose,
    Value,
)

RELU: Bounds = (0.0, math.inf)


@dataclass
class Sketch:
    """A network that grows; random numbers come from its seed."""

    layout: Layout = Layout.CHANNELS_FIRST
    seed: int = 0
    inputs: list[Value] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def input(self, *shape: int, quant: Affine | None = None) -> Value:
        v = Value(f"input {len(self.inputs)}", shape, quant)
        self.inputs.append(v)
        return v

    def normal(self, *shape: int) -> Array:
        return self.rng.normal(size=shape).astype(np.float32)

    def add(
        self,
        op: Operation,
        *inputs: Value,
        shape: tuple[int, ...],
        quant: Affine | None = None,
        name: str = "",
    ) -> Value:
        name = name or f"{type(op).__name__.lower()} {len(self.layers)}"
        out = Value(f"{name}:0", shape, quant)
        self.layers.append(Layer(name, op, inputs, out))
        return out

    def network(self, *outputs: Value) -> Network:
        source = Source("test")
        return Network(
            "sketch", self.layout, tuple(self.inputs), outputs, tuple(self.layers), source
        )

    # -- layers

    def conv(
        self,
        x: Value,
        out: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        pad: int | None = None,
        groups: int = 1,
        clamp: Bounds = UNBOUNDED,
        bias: bool = True,
        name: str = "",
    ) -> Value:
        pad = kernel // 2 if pad is None else pad
        flat = len(x.shape) == 2
        axis = 0 if self.layout is Layout.CHANNELS_FIRST else -1
        channels = x.shape[axis]
        kernels = (1, kernel) if flat else (kernel, kernel)
        w = self.normal(out, *kernels, channels // groups) / math.sqrt(
            channels // groups * math.prod(kernels)
        )
        op = Convolution(
            Tensor(w.astype(np.float32)),
            Tensor(self.normal(out)) if bias else None,
            (1 if flat else stride, stride),
            (0, 0, pad, pad) if flat else (pad, pad, pad, pad),
            groups=groups,
            clamp=clamp,
        )
        return self.add(op, x, shape=self._spatial(x, out, kernel, stride, pad), name=name)

    def _spatial(self, x: Value, out: int, kernel: int, stride: int, pad: int) -> tuple[int, ...]:
        first = self.layout is Layout.CHANNELS_FIRST
        sides = [
            (n + 2 * pad - kernel) // stride + 1 for n in (x.shape[1:] if first else x.shape[:-1])
        ]
        return (out, *sides) if first else (*sides, out)

    def norm(self, x: Value, name: str = "") -> Value:
        c = x.shape[0] if self.layout is Layout.CHANNELS_FIRST else x.shape[-1]
        op = ChannelScale(self.normal(c) + 1, self.normal(c))
        return self.add(op, x, shape=x.shape, name=name)

    def relu(self, x: Value, bounds: Bounds = RELU) -> Value:
        return self.add(Clamp(bounds), x, shape=x.shape, quant=x.quant)

    def curve(self, kind: CurveKind, x: Value) -> Value:
        return self.add(Curve(kind), x, shape=x.shape)

    def number(self, values: Array | float) -> Value:
        numbers = np.asarray(values, np.float32)
        return self.add(Constant(Tensor(numbers)), shape=numbers.shape)

    def plus(self, a: Value, b: Value) -> Value:
        return self.add(Sum(), a, b, shape=np.broadcast_shapes(a.shape, b.shape))

    def times(self, a: Value, b: Value) -> Value:
        return self.add(Product(), a, b, shape=np.broadcast_shapes(a.shape, b.shape))

    def dense(self, x: Value, out: int, name: str = "") -> Value:
        w = self.normal(out, x.shape[-1]) / math.sqrt(x.shape[-1])
        op = Dense(Tensor(w.astype(np.float32)), Tensor(self.normal(out)))
        return self.add(op, x, shape=(*x.shape[:-1], out), name=name)

    def mean(self, x: Value, *axes: int, keep: bool = False) -> Value:
        kept = tuple(1 if a in axes else n for a, n in enumerate(x.shape) if keep or a not in axes)
        return self.add(Mean(axes), x, shape=kept)

    def pool(self, kind: PoolKind, x: Value, kernel: int, stride: int, pad: int = 0) -> Value:
        c = x.shape[0] if self.layout is Layout.CHANNELS_FIRST else x.shape[-1]
        op = Pool(kind, (kernel, kernel), (stride, stride), (pad,) * 4)
        return self.add(op, x, shape=self._spatial(x, c, kernel, stride, pad))

    def reshape(self, x: Value, *shape: int) -> Value:
        return self.add(Reshape(), x, shape=shape, quant=x.quant)

    def transpose(self, x: Value, *order: int) -> Value:
        shape = tuple(x.shape[a] for a in order)
        return self.add(Transpose(order), x, shape=shape, quant=x.quant)

    def pad(self, x: Value, *sides: tuple[int, int], value: float = 0.0) -> Value:
        shape = tuple(n + a + b for n, (a, b) in zip(x.shape, sides, strict=True))
        return self.add(Pad(sides, value), x, shape=shape, quant=x.quant)

    def concat(self, axis: int, *xs: Value) -> Value:
        shape = list(xs[0].shape)
        shape[axis] = sum(x.shape[axis] for x in xs)
        return self.add(Concat(axis), *xs, shape=tuple(shape), quant=xs[0].quant)

    def slice(self, x: Value, axis: int, begin: int, count: int, step: int = 1) -> Value:
        shape = list(x.shape)
        shape[axis] = count
        return self.add(Slice(axis, begin, count, step), x, shape=tuple(shape), quant=x.quant)

    def gather(self, x: Value, axis: int, *index: int) -> Value:
        shape = list(x.shape)
        shape[axis] = len(index)
        return self.add(Gather(axis, index), x, shape=tuple(shape), quant=x.quant)

    def softmax(self, x: Value) -> Value:
        return self.add(Softmax(), x, shape=x.shape)

    def requantise(self, x: Value, quant: Affine | None) -> Value:
        return self.add(Requantise(), x, shape=x.shape, quant=quant)


def batches(network: Network, count: int = 3, seed: int = 1) -> dict[str, Array]:
    """Random inputs as the file takes them."""
    rng = np.random.default_rng(seed)
    return {v.name: rng.normal(size=(count, *v.shape)) for v in network.inputs}


def as_taken(plain: Network, inputs: dict[str, Array]) -> dict[str, Array]:
    """Inputs of the file as a plain network takes them."""
    if not plain.taken:
        return inputs
    return {
        v.name: inputs[v.name].transpose(0, *(a + 1 for a in t.order)).reshape(-1, *v.shape)
        for v, t in zip(plain.inputs, plain.taken, strict=True)
    }


def outputs(network: Network, inputs: dict[str, Array]) -> list[Array]:
    got = evaluate(network, inputs)
    return [got[v] for v in network.outputs]


def in_file_order(network: Network, got: Array, right: Array) -> Array:
    """A map [n, h, w, c] or [n, 1, l, c] as the file has it."""
    if network.layout is Layout.CHANNELS_FIRST and got.ndim == 4:
        got = np.moveaxis(got, -1, 1)
    return got.reshape(right.shape)


def kinds(network: Network) -> list[str]:
    """What the layers of a network are."""
    return [type(x.op).__name__ for x in network.layers]
