"""A network between float and the device, in PyTorch, for `ladder.py`.

The layers of `kilograd.offline` in three arithmetics, all differentiated straight through their
roundings, as if these were not there, with the device's rule for clamps.  Maps are real numbers,
float32 [n, c, h, w]; where they are rounded, they are multiples of the scale of their tensor.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kilograd.frontend.model_folder import folder_layout
from kilograd.ir import Affine, Array, DType, Graph, Input, Node, Param
from kilograd.layers.raised import clamp
from kilograd.offline.network import FloatNetwork
from kilograd.ops import Add, AvgPool, Conv, Depthwise
from kilograd.ops.conv import requantisation
from kilograd.passes import Part

EXACT = 1 << 24
"""float32 holds every integer up to here: sums of codes below are exact in any order."""


class Rung(enum.StrEnum):
    """How a network learns; each differs in one thing from the one before.

    The first three are computed in PyTorch.  Nothing is rounded; or weights and maps are, to the
    grid of the int8 network; or all is done as docs/arithmetic.md has it, bit for bit.  The last is
    no step down: it shows how far chance alone moves a training.
    """

    FLOAT = "float32"
    ROUNDED = "fake-quantised forward"
    INTEGER = "int8 forward"
    BACKWARD = "integer backward"
    DEVICE = "int8 updates"
    FRESH = "fresh views"
    AGAIN = "other random numbers"


RUNGS = tuple(Rung)
IN_TORCH = RUNGS[:3]


class Rounding(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """What a map is rounded to, with the gradient of the map itself where the clamp passes it."""

    @staticmethod
    def forward(ctx: torch.autograd.Function, _: Tensor, y: Tensor, passes: Tensor) -> Tensor:
        ctx.save_for_backward(passes)
        return y

    @staticmethod
    def backward(ctx: torch.autograd.Function, g: Tensor) -> tuple[Tensor | None, ...]:
        return g * ctx.saved_tensors[0], None, None


class Network(FloatNetwork):
    """A graph in the arithmetic of a rung, of which some parameters learn, or a part of each.

    A parameter is called as on the device: NAME, or NAME.learned where a part of it learns.
    """

    def __init__(self, graph: Graph, learn: Mapping[str, Part], rung: Rung) -> None:
        super().__init__(graph)
        self.requires_grad_(requires_grad=False)
        self.to(memory_format=torch.channels_last)  # means are summed in its order
        self.rung = rung
        shapes = {name: graph[name].type.shape for name in learn}
        whole = {
            name: part.index is None or len(part.index) == shapes[name][part.axis]
            for name, part in learn.items()
        }
        self.learn = {n if whole[n] else f"{n}.learned": (n, part) for n, part in learn.items()}
        for n in graph.params():
            if n.type.dtype is DType.I8:  # as float32 multiplies, where float64 was rounded
                scale, weight = _by_channel(n.type.affine), self.tensor(n.name)
                weight.copy_((weight / scale).round() * scale)
        for name in learn:
            self.tensor(name).requires_grad_()

    def tensor(self, name: str) -> Tensor:
        """Return what PyTorch holds of a parameter of the graph."""
        layer, _, what = name.rpartition(".")
        found: Tensor = getattr(self.layer(layer), what)
        return found

    def gradients(self) -> dict[str, Array]:
        """Return gradients in the layout of the graph, and clear them."""
        found = {}
        for key, (name, part) in self.learn.items():
            tensor = self.tensor(name)
            assert tensor.grad is not None
            whole = graph_layout(tensor.grad.numpy(), self.graph[name])
            found[key] = np.ascontiguousarray(whole[_chosen(part)])
            tensor.grad = None
        return found

    def put(self, key: str, real: Array) -> None:
        """Give a parameter real values, in the layout of the graph; weights become codes' values.

        Biases stay as they are: what is exact rounds them as it computes.
        """
        name, part = self.learn[key]
        node, tensor = self.graph[name], self.tensor(name)
        whole = graph_layout(tensor.detach().numpy(), node).copy()
        whole[_chosen(part)] = real
        new = torch.from_numpy(np.ascontiguousarray(folder_layout(node, whole)))
        if self.rung is not Rung.FLOAT and new.ndim > 1:
            scale = _by_channel(node.type.affine)
            new = (new / scale).round().clamp(-127, 127) * scale
        with torch.no_grad():
            tensor.copy_(new)

    def maps(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return all maps that follow from some maps, by node."""
        found = dict(given)
        for n in self.graph.nodes:
            xs = [x for x in n.inputs if not isinstance(x.op, Param)]
            if n.name in found or isinstance(n.op, Input | Param):
                continue
            if all(x.name in found for x in xs):  # else it is in front of what was given
                found[n.name] = self._map(n, *(found[x.name] for x in xs))
        return found

    def features(self, given: Mapping[str, Tensor]) -> Tensor:
        """Return the features, float32 [n, c]."""
        return self.maps(given)[self.graph.outputs[0].name].flatten(1)

    def front(self, images: Array, names: Iterable[str], batch: int = 5) -> dict[str, Tensor]:
        """Return maps of images, int8 [n, h, w, c]; nothing may have been learned in front."""
        (start,) = self.graph.inputs()
        parts: dict[str, list[Tensor]] = {name: [] for name in names}
        with torch.no_grad():
            for at in range(0, len(images), batch):
                codes = torch.from_numpy(images[at : at + batch]).permute(0, 3, 1, 2).contiguous()
                found = self.maps({start.name: _real(codes.long(), start.type.affine)})
                for name, some in parts.items():
                    some.append(found[name])
        return {name: torch.cat(some) for name, some in parts.items()}

    def _map(self, n: Node, *xs: Tensor) -> Tensor:
        """Compute a map, rounded as the rung says; a gradient passes inside the clamp."""
        quant, mean = n.type.affine, isinstance(n.op, AvgPool)
        match n.op:
            case Conv() | Depthwise():
                conv = self.layer(n.name)
                real = _convolved(conv, *xs, conv.weight) + conv.bias[:, None, None]
            case Add():
                real = xs[0] + xs[1]
            case AvgPool():
                real = xs[0].mean(dim=(2, 3), keepdim=True)
            case _:
                raise TypeError(f"{n.name} is a {type(n.op).__name__}")
        with torch.no_grad():
            if self.rung is Rung.FLOAT:
                low, high = (-math.inf, math.inf) if mean else clamp(n.op)
                y = real.clamp(low, high)
                passes = (y > low) & (y < high) | mean
            else:
                rounded = self.rung is Rung.ROUNDED
                codes = _codes(real, quant) if rounded else self._exact(n, *xs)
                codes = codes.clamp(-128, 127)
                y, passes = _real(codes, quant), (codes > -128) & (codes < 127) | mean
        return Rounding.apply(real, y, passes)

    def _exact(self, n: Node, *xs: Tensor) -> Tensor:
        """Return the codes of a map, before the clamp, in integers."""
        quants = [x.type.affine for x in n.inputs]
        qs = [(x / q.scale[0]).round().long() for x, q in zip(xs, quants, strict=False)]
        zero = n.type.affine.zero_point
        match n.op:
            case Add():
                ma, mc, shift = n.op.multipliers(*(x.type for x in n.inputs))
                return ((ma * qs[0] + mc * qs[1] + (1 << (shift - 1))) >> shift) + zero
            case AvgPool():
                # float64 holds sums and their halves exactly; round() goes to the even of two.
                total = (qs[0] + zero).sum(dim=(2, 3), keepdim=True).double()
                return (total / (xs[0].shape[2] * xs[0].shape[3])).round().long()
        conv = self.layer(n.name)
        codes = (conv.weight / _by_channel(quants[1])).round()
        span = max(quants[0].zero_point + 128, 127 - quants[0].zero_point)
        assert codes.abs().sum(dim=(1, 2, 3)).max().item() * span < EXACT
        acc = _convolved(conv, qs[0].float(), codes)
        unit = torch.tensor(np.array(quants[2].scale) * quants[2].unit)
        total = acc.long() + (conv.bias.double() / unit).round().long()[:, None, None]
        multiplier, shift = (
            torch.from_numpy(x.astype(np.int64))[:, None, None]
            for x in requantisation(quants[0], quants[1], n.type.affine)
        )
        return ((total * multiplier + (1 << (shift - 1))) >> shift) + zero


def _convolved(conv: nn.Conv2d, x: Tensor, weight: Tensor) -> Tensor:
    return functional.conv2d(x, weight, None, conv.stride, conv.padding, 1, conv.groups)


def graph_layout(value: Array, n: Node) -> Array:
    """Turn what PyTorch has of a parameter into the layout of its graph."""
    if value.ndim == 1:
        return value
    depthwise = len(n.type.shape) == 3
    return value[:, 0].transpose(1, 2, 0) if depthwise else value.transpose(0, 2, 3, 1)


def _chosen(part: Part) -> tuple[slice | list[int], ...]:
    return (slice(None),) * part.axis + (slice(None) if part.index is None else [*part.index],)


def _by_channel(quant: Affine) -> Tensor:
    return torch.tensor(quant.scale, dtype=torch.float32)[:, None, None, None]


def _codes(real: Tensor, quant: Affine) -> Tensor:
    return (real.detach() / quant.scale[0]).round() + quant.zero_point


def _real(codes: Tensor, quant: Affine) -> Tensor:
    return (codes - quant.zero_point).float() * np.float32(quant.scale[0])
