"""A network between float and the device, in PyTorch, for `ladder.py` and `recipes.py`.

The same layers in three arithmetics, all differentiated straight through their roundings, as if
these were not there, with the device's rule for clamps.  Maps are real numbers, float32
[n, c, h, w]; where they are rounded, they are multiples of the scale of their tensor.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kilograd.ir import Array, Graph, Input, Node, Param
from kilograd.ops import Add, AvgPool, Conv, Depthwise
from kilograd.ops.conv import requantisation
from kilograd.passes import Part, clamp

EXACT = 1 << 24
"""float32 holds every integer up to here: sums of codes below are exact in any order."""


class Arithmetic(enum.Enum):
    """What is rounded on the way forward.

    FLOAT: nothing.  ROUNDED: weights and maps, to the grid of the int8 network (fake quantisation).
    INTEGER: the definition of docs/arithmetic.md, bit for bit.
    """

    FLOAT = "float"
    ROUNDED = "rounded"
    INTEGER = "integer"


class Layer:
    """A convolution, or depthwise one, and which of its output channels learn."""

    def __init__(self, graph: Graph, n: Node, learn: Mapping[str, Part], kind: Arithmetic) -> None:
        x, w, b = n.inputs
        self.kind, self.out, self.x = kind, n.type.affine, x.type.affine
        op = n.op
        assert isinstance(op, Conv | Depthwise)
        top, bottom, left, right = op.window.pad
        assert top == bottom == left == right
        self.stride, self.pad = [op.window.stride] * 2, [top] * 2
        codes = graph.data[w.name].astype(np.float32)
        self.depthwise = isinstance(op, Depthwise)
        self.groups = codes.shape[-1] if self.depthwise else 1
        scale = np.broadcast_to(np.array(w.type.affine.scale), (self.channels(codes),))
        self.scale = torch.tensor(scale, dtype=torch.float32)
        self.codes = torch.from_numpy(self.filters(codes))
        self.weight = self.codes * self.scale[:, None, None, None]
        self.bias_codes = torch.from_numpy(graph.data[b.name].astype(np.int64))
        self.bias_scale = torch.tensor(scale * self.x.scale[0])  # float64
        self.bias = (self.bias_codes * self.bias_scale).float()
        multiplier, shift = requantisation(self.x, w.type.affine, self.out)
        self.multiplier = torch.from_numpy(multiplier.astype(np.int64))[:, None, None]
        self.shift = torch.from_numpy(shift.astype(np.int64))[:, None, None]
        self.low, self.high = clamp(self.out)
        part = learn.get(w.name)
        self.rows: Tensor | None = None  # None: all of them
        if part is not None and part.index is not None:
            assert part.axis == (2 if self.depthwise else 0), "input channels are not supported"
            self.rows = torch.tensor(part.index)

    def channels(self, codes: Array) -> int:
        """Return the number of output channels of weights as a graph has them."""
        return codes.shape[-1] if self.depthwise else codes.shape[0]

    def filters(self, weight: Array) -> Array:
        """Turn weights of a graph, or some rows of them, into [out, in, kh, kw]."""
        if self.depthwise:
            return np.ascontiguousarray(weight.transpose(2, 0, 1)[:, None])
        return np.ascontiguousarray(weight.transpose(0, 3, 1, 2))

    def rows_of_graph(self, filters: Array) -> Array:
        """Turn [out, in, kh, kw] into the layout of a graph."""
        return filters[:, 0].transpose(1, 2, 0) if self.depthwise else filters.transpose(0, 2, 3, 1)

    def replaced(self, whole: Tensor, rows: Tensor) -> Tensor:
        """Return all filters, with those that learn in their places."""
        return rows if self.rows is None else whole.index_copy(0, self.rows, rows)

    def put(self, weight: Tensor | None, bias: Tensor | None) -> None:
        """Take real values of what learns; where this arithmetic rounds, they are rounded."""
        if weight is not None:
            if self.kind is Arithmetic.FLOAT:
                self.weight = self.replaced(self.weight, weight)
            else:
                scale = self.scale if self.rows is None else self.scale[self.rows]
                codes = (weight / scale[:, None, None, None]).round().clamp(-127, 127)
                self.codes = self.replaced(self.codes, codes)
                self.weight = self.codes * self.scale[:, None, None, None]
        if bias is not None:
            self.bias = bias
            self.bias_codes = (bias.double() / self.bias_scale).round().long()

    def check(self) -> None:
        """Fail where a sum could leave the integers that float32 holds."""
        worst = self.codes.abs().sum(dim=(1, 2, 3)).max().item()
        assert worst * max(self.x.zero_point + 128, 127 - self.x.zero_point) < EXACT

    def convolved(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve, without a bias."""
        return functional.conv2d(x, weight, None, self.stride, self.pad, 1, self.groups)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map, and where its gradient passes."""
        if self.kind is Arithmetic.FLOAT:
            y = self.convolved(x, self.weight) + self.bias[:, None, None]
            if self.low == -math.inf:
                return y, torch.ones((), dtype=torch.bool)
            y = y.clamp(self.low, self.high)
            return y, (y > self.low) & (y < self.high)
        if self.kind is Arithmetic.ROUNDED:
            y = self.convolved(x, self.weight) + self.bias[:, None, None]
            codes = (y / self.out.scale[0]).round() + self.out.zero_point
        else:
            acc = self.convolved((x / self.x.scale[0]).round(), self.codes).long()
            acc = acc + self.bias_codes[:, None, None]
            half = torch.ones((), dtype=torch.int64) << (self.shift - 1)
            codes = ((acc * self.multiplier + half) >> self.shift) + self.out.zero_point
        return _real(codes, self.out.scale[0], self.out.zero_point)


class _Context(Protocol):
    """What PyTorch hands from a forward pass to its backward pass."""

    layer: Layer
    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep tensors."""


class _Convolution(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """A layer; its gradients are those of the real convolution with the weights as rounded."""

    @staticmethod
    def forward(
        ctx: _Context, x: Tensor, weight: Tensor | None, bias: Tensor | None, layer: Layer
    ) -> Tensor:
        layer.put(weight, bias)
        y, passes = layer.forward(x)
        ctx.layer = layer
        ctx.save_for_backward(x, layer.weight, passes)
        return y

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layer, (x, whole, passes) = ctx.layer, ctx.saved_tensors
        g = grads[0] * passes
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = _backward(g, x, whole, layer, layer.groups, 0)
        if ctx.needs_input_grad[1]:
            rows = slice(None) if layer.rows is None else layer.rows
            own, seen = g[:, rows], x[:, rows] if layer.depthwise else x
            groups = own.shape[1] if layer.depthwise else 1
            dw = _backward(own, seen, whole[rows], layer, groups, 1)
        if ctx.needs_input_grad[2]:
            db = g.sum(dim=(0, 2, 3))
        return dx, dw, db, None


def _backward(
    g: Tensor, x: Tensor, weight: Tensor, layer: Layer, groups: int, which: int
) -> Tensor:
    wanted, forward = [which == 0, which == 1, False], False
    return torch.ops.aten.convolution_backward(
        g, x, weight, None, layer.stride, layer.pad, [1, 1], forward, [0, 0], groups, wanted
    )[which]


class _Rounding(torch.autograd.Function):  # type: ignore[misc]
    """Return y, with the gradient of what it was rounded from where `passes`."""

    @staticmethod
    def forward(ctx: _Context, _: Tensor, y: Tensor, passes: Tensor) -> Tensor:
        ctx.save_for_backward(passes)
        return y

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0] * ctx.saved_tensors[0], None, None


def _real(codes: Tensor, scale: float, zero: int) -> tuple[Tensor, Tensor]:
    """Clamp codes; return what they stand for, and where the clamp lets a gradient pass."""
    codes = codes.clamp(-128, 127)
    passes = (codes > -128) & (codes < 127)
    return (codes - zero).float() * np.float32(scale), passes


class Network:
    """A graph in one arithmetic; `learned` are real values of what learns, laid out for torch.

    A parameter is called as on the device: NAME, or NAME.learned where a part of it learns.
    """

    def __init__(self, graph: Graph, learn: Mapping[str, Part], kind: Arithmetic) -> None:
        self.graph, self.kind = graph, kind
        self.layers = {
            n.name: Layer(graph, n, learn, kind)
            for n in graph.nodes
            if isinstance(n.op, Conv | Depthwise)
        }
        self.learned: dict[str, Tensor] = {}
        self._weights: dict[str, str] = {}
        self._biases: dict[str, str] = {}
        for name, part in learn.items():
            layer, _, what = name.rpartition(".")
            own = self.layers[layer]
            full = part.index is None
            if what == "bias":
                self._biases[layer] = name
                self.learned[name] = own.bias.clone().requires_grad_()
            else:
                key = name if full else f"{name}.learned"
                self._weights[layer] = key
                rows = own.weight if own.rows is None else own.weight[own.rows]
                self.learned[key] = rows.clone().requires_grad_()

    def layer_of(self, name: str) -> Layer:
        """Return the layer that a parameter belongs to."""
        return self.layers[name.removesuffix(".learned").rpartition(".")[0]]

    def gradients(self) -> dict[str, Array]:
        """Return gradients in the layout of the graph, and clear them."""
        found = {}
        for name, p in self.learned.items():
            g = p.grad.numpy()
            found[name] = self.layer_of(name).rows_of_graph(g) if g.ndim == 4 else g
            p.grad = None
        return found

    def put(self, name: str, real: Array) -> None:
        """Give a parameter real values, in the layout of the graph."""
        own = self.layer_of(name).filters(real) if real.ndim > 1 else real
        with torch.no_grad():
            self.learned[name].copy_(torch.from_numpy(own))

    def values(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return all maps that follow from some maps, by node."""
        values = dict(given)
        for n in self.graph.nodes:
            if n.name in values or isinstance(n.op, Input | Param):
                continue
            if any(not isinstance(x.op, Param) and x.name not in values for x in n.inputs):
                continue  # in front of what was given
            xs = [values[x.name] for x in n.inputs if not isinstance(x.op, Param)]
            match n.op:
                case Conv() | Depthwise():
                    weight = self.learned.get(self._weights.get(n.name, ""))
                    bias = self.learned.get(self._biases.get(n.name, ""))
                    layer = self.layers[n.name]
                    values[n.name] = _Convolution.apply(*xs, weight, bias, layer)
                case Add():
                    values[n.name] = self._sum(n, *xs)
                case AvgPool():
                    values[n.name] = self._mean(n, *xs)
                case _:
                    raise TypeError(f"{n.name} is a {type(n.op).__name__}")
        return values

    def features(self, given: Mapping[str, Tensor]) -> Tensor:
        """Return the features, float32 [n, c]."""
        return self.values(given)[self.graph.outputs[0].name].flatten(1)

    def front(self, images: Array, names: Iterable[str], batch: int = 5) -> dict[str, Tensor]:
        """Return maps of images, int8 [n, h, w, c]; nothing may have been learned in front."""
        start = next(n for n in self.graph.nodes if isinstance(n.op, Input))
        quant = start.type.affine
        parts: dict[str, list[Tensor]] = {name: [] for name in names}
        with torch.no_grad():
            for at in range(0, len(images), batch):
                codes = torch.from_numpy(images[at : at + batch]).permute(0, 3, 1, 2).contiguous()
                x, _ = _real(codes.long(), quant.scale[0], quant.zero_point)
                found = self.values({start.name: x})
                for name in names:
                    parts[name].append(found[name])
        return {name: torch.cat(some) for name, some in parts.items()}

    def codes(self, name: str, real: Tensor) -> Array:
        """Return the codes of maps, int8 [n, h, w, c]."""
        quant = self.graph[name].type.affine
        codes = (real / quant.scale[0]).round() + quant.zero_point
        return codes.permute(0, 2, 3, 1).numpy().astype(np.int8)

    def check(self) -> None:
        """Fail where exact sums are wanted and could not be."""
        if self.kind is Arithmetic.INTEGER:
            for layer in self.layers.values():
                layer.check()

    def _sum(self, n: Node, a: Tensor, c: Tensor) -> Tensor:
        op, total = n.op, a + c
        assert isinstance(op, Add)
        if self.kind is Arithmetic.FLOAT:
            return total
        if self.kind is Arithmetic.ROUNDED:
            codes = (total / op.out.scale[0]).round() + op.out.zero_point
        else:
            ta, tc = (x.type for x in n.inputs)
            ma, mc, shift = op.multipliers(ta, tc)
            qa, qc = (
                (x.detach() / t.affine.scale[0]).round().long() for x, t in ((a, ta), (c, tc))
            )
            codes = ((ma * qa + mc * qc + (1 << (shift - 1))) >> shift) + op.out.zero_point
        y, passes = _real(codes.detach(), op.out.scale[0], op.out.zero_point)
        return _Rounding.apply(total, y, passes)

    def _mean(self, n: Node, x: Tensor) -> Tensor:
        mean = x.mean(dim=(2, 3), keepdim=True)
        if self.kind is Arithmetic.FLOAT:
            return mean
        quant = n.type.affine
        if self.kind is Arithmetic.ROUNDED:
            codes = (mean.detach() / quant.scale[0]).round() + quant.zero_point
        else:
            # float64 holds sums and their halves exactly; round() goes to the even of two.
            whole = ((x.detach() / quant.scale[0]).round() + quant.zero_point).double()
            codes = (whole.sum(dim=(2, 3), keepdim=True) / (x.shape[2] * x.shape[3])).round()
        y, _ = _real(codes, quant.scale[0], quant.zero_point)
        return _Rounding.apply(mean, y, torch.ones((), dtype=torch.bool))
