"""A graph as a PyTorch module, and back: float weights to a calibrated int8 network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from kilograd.emit import link
from kilograd.errors import InputError, option
from kilograd.frontend import Model
from kilograd.frontend.layouts import folder_layout
from kilograd.ir import Array, Graph, Input, Node, Param
from kilograd.layers.raised import clamp, quantised, real_parameters
from kilograd.ops import Add, AvgPool, Conv, Depthwise, Window
from kilograd.passes import (
    AccumulatorError,
    EntryPoint,
    LimitError,
    accumulator_bounds,
    check_ranges,
)
from kilograd.targets import build_host

_BATCH = 64  # images at once, where no gradient is asked for
_RUNS = (Input, Param, Conv, Depthwise, Add, AvgPool)


class FloatNetwork(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """What the integers of a graph stand for, computed in float32 and trainable.

    Starts from the dequantised weights; with `fresh`, a seed, from random ones, and with batch
    normalisation, which `weights` folds.  A layer is clamped where its quantisation says that it
    ends in a ReLU or ReLU6, and nowhere else.

    Takes network input, int8 [n, h, w, c], and gives the outputs of the graph, float32 [n, c] each.

    Raises `InputError`, which names the network, for an op that is no part of a plain one.
    """

    def __init__(self, graph: Graph, fresh: int | None = None, name: str = "the network") -> None:
        super().__init__()
        for n in graph.nodes:
            if not isinstance(n.op, _RUNS):
                raise InputError(
                    f"{name}: {n.name!r} is a {type(n.op).__name__}, which cannot be trained "
                    "offline; give a network of convolutions, sums and means"
                )
        self.graph = graph
        self.layers = nn.ModuleList()
        self._place: dict[str, int] = {}
        random = None if fresh is None else torch.Generator().manual_seed(fresh)
        real = real_parameters(graph)
        for n in graph.nodes:
            if isinstance(n.op, Conv | Depthwise):
                self._place[n.name] = len(self.layers)
                last = n is graph.outputs[-1]  # a classifier is not normalised
                self.layers.append(_layer(n, real, random, normalise=not last))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the graph, flat."""
        values = self.values(images)
        return tuple(values[o].flatten(1) for o in self.graph.outputs)

    def values(self, images: Tensor) -> dict[Node, Tensor]:
        """Return every activation in real units, [n, c, h, w]."""
        values: dict[Node, Tensor] = {}
        for n in self.graph.nodes:
            match n.op:
                case Param():
                    continue  # in the layer that reads it
                case Input():
                    quant = n.type.affine
                    real = (images.to(torch.float32) - quant.zero_point) * quant.scale[0]
                    values[n] = real.permute(0, 3, 1, 2)
                case Conv(window=window) | Depthwise(window=window):
                    x = values[n.inputs[0]]
                    top, bottom, left, right = window.pad
                    if not _even(window):  # else the convolution pads, without a copy
                        x = functional.pad(x, (left, right, top, bottom))
                    values[n] = _clamped(n, self.layers[self._place[n.name]](x))
                case Add():
                    a, c = n.inputs
                    values[n] = _clamped(n, values[a] + values[c])
                case AvgPool():
                    values[n] = values[n.inputs[0]].mean(dim=(2, 3), keepdim=True)
                case _:
                    raise TypeError(f"{n} is of _RUNS, and has no case here")
        return values

    def layer(self, name: str) -> nn.Module:
        """Return the layer of a node: a convolution, with its normalisation if it has one."""
        return self.layers[self._place[name]]

    def learn(self, names: Sequence[str]) -> None:
        """Let these layers learn, and no others.  With batch normalisation all must."""
        for name, place in self._place.items():
            self.layers[place].requires_grad_(name in names)

    def take(self, other: FloatNetwork) -> None:
        """Take over the layers of another network that are called the same."""
        for name, place in other._place.items():
            self.layers[self._place[name]] = other.layers[place]

    def weights(self) -> dict[str, Array]:
        """Return weights and biases, batch normalisation folded, in the layout of the graph."""
        out: dict[str, Array] = {}
        for n in self.graph.nodes:
            if isinstance(n.op, Conv | Depthwise):
                w, b = _folded(self.layers[self._place[n.name]])
                depthwise = isinstance(n.op, Depthwise)
                own = w[:, 0].transpose(1, 2, 0) if depthwise else w.transpose(0, 2, 3, 1)
                # Copies: training goes on in the memory of the module.
                out[n.inputs[1].name], out[n.inputs[2].name] = own.copy(), b.copy()
        return out

    def device(self) -> torch.device:
        """Return where the weights are."""
        return next(self.parameters()).device

    def infer(self, images: NDArray[np.int8]) -> tuple[Array, ...]:
        """Return the outputs for images [n, h, w, c], without gradients, float32 [n, c] each."""
        self.eval()
        with torch.inference_mode():
            parts = [
                [o.cpu().numpy() for o in self(torch.from_numpy(part).to(self.device()))]
                for part in _batches(images)
            ]
        return tuple(np.concatenate(o) for o in zip(*parts, strict=True))


def last_layers(model: Model, count: int) -> tuple[str, ...]:
    """Name the last `count` convolutions; raises `InputError` if there are not so many."""
    if not 1 <= count <= len(model.layers):
        raise InputError(
            f"{option('last')} {count}: {model.name} has {len(model.layers)} convolutions"
        )
    return model.layers[-count:]


def int8_graph(network: FloatNetwork, images: NDArray[np.int8]) -> Graph:
    """Quantise what was trained; the ranges of activations are those of `images` [n, h, w, c].

    Raises `InputError` where a sum of the integer network could overflow.
    """
    network.eval()
    ranges: dict[str, tuple[float, float]] = {}
    with torch.inference_mode():
        for part in _batches(images):
            for n, x in network.values(torch.from_numpy(part).to(network.device())).items():
                low, high = ranges.get(n.name, (math.inf, -math.inf))
                ranges[n.name] = min(low, x.min().item()), max(high, x.max().item())
    graph = quantised(network.graph, network.weights(), ranges)
    try:
        check_ranges(graph)
        accumulator_bounds(graph, ())
    except (AccumulatorError, LimitError) as e:
        raise InputError(
            f"the trained weights cannot be quantised: {e}; use a lower {option('lr')}"
        ) from e
    return graph


def int8_outputs(graph: Graph, images: NDArray[np.int8]) -> tuple[Array, ...]:
    """Run the C program of a network; return its outputs in real units, float32 [n, c] each."""
    host = build_host(link({EntryPoint.INFER: graph}))
    parts = [host.call(EntryPoint.INFER, image=image) for image in images]
    outputs = []
    for o in graph.outputs:
        codes = np.stack([part[o.name].ravel() for part in parts]).astype(np.float32)
        quant = o.type.affine
        outputs.append((codes - quant.zero_point) * np.float32(quant.scale[0]))
    return tuple(outputs)


def _layer(
    n: Node, real: dict[str, Array], random: torch.Generator | None, *, normalise: bool
) -> nn.Module:
    _, weight, bias = n.inputs
    w = torch.from_numpy(folder_layout(weight, real[weight.name]).copy())
    out, inputs, *kernel = w.shape
    groups = out if isinstance(n.op, Depthwise) else 1
    assert isinstance(n.op, Conv | Depthwise)  # noqa: S101
    window = n.op.window
    pad = window.pad[0] if _even(window) else 0
    conv = nn.Conv2d(inputs * groups, out, kernel, window.stride, pad, groups=groups)
    with torch.no_grad():
        conv.weight.copy_(w)
        conv.bias.copy_(torch.from_numpy(real[bias.name]))
        if random is None:
            return conv
        fan = math.prod(w.shape[1:])
        conv.weight.normal_(0, math.sqrt(2 / fan), generator=random)
        conv.bias.zero_()
    if not normalise:
        return conv
    conv.bias = None  # batch normalisation has one
    return nn.Sequential(conv, nn.BatchNorm2d(out))


def _even(window: Window) -> bool:
    return len(set(window.pad)) == 1


def _folded(layer: nn.Module) -> tuple[Array, Array]:
    """Return weight [out, in, kh, kw] and bias of a layer."""
    if isinstance(layer, nn.Conv2d):
        return layer.weight.detach().cpu().numpy(), layer.bias.detach().cpu().numpy()
    conv, norm = layer
    factor = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
    weight = conv.weight.detach() * factor[:, None, None, None]
    bias = norm.bias.detach() - norm.running_mean * factor
    return weight.cpu().numpy(), bias.cpu().numpy()


def _clamped(n: Node, x: Tensor) -> Tensor:
    low, high = clamp(n.op)
    # Not x.clamp: its gradient takes three passes over the activations, that of hardtanh one.
    return x if low == -math.inf else functional.hardtanh(x, low, high)


def _batches(images: NDArray[np.int8]) -> list[NDArray[np.int8]]:
    return [images[i : i + _BATCH] for i in range(0, len(images), _BATCH)]
