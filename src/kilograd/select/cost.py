"""What training costs by the formulas of two papers.

They need shapes alone: a tuple of `Layer`s, and a `Selection` of what learns.  Their results are
estimates of different things, so they can be compared within a convention only.
docs/results/studies/cost.md has the published figures that they give again, and those they do not.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

from kilograd.errors import InputError, option
from kilograd.ops import Add
from kilograd.select.selection import Evidence, Selection, bias, weight

_FLOAT = 4  # bytes
_MOMENTS = 2  # of Adam


class Convention(enum.StrEnum):
    """How cost is counted: by the formulas of a paper, or as it is."""

    TINYTRAIN = "tinytrain"
    TTE = "tte"
    KILOGRAD = "kilograd"


@dataclass(frozen=True)
class Layer:
    """A convolution: channels, weights of one filter in one channel (`taps`), pixels of its maps.

    `relu`: nothing below zero is left of its output.  `residual`: the input of its block is added
    to its output.

    >>> layer = Layer("pw", False, 1, 96, 576, 16, 16, True, False)
    >>> layer.weights, layer.macs, layer.x, layer.y
    (55296, 884736, 1536, 9216)
    """

    name: str
    depthwise: bool
    taps: int
    inputs: int
    outputs: int
    pixels_in: int
    pixels_out: int
    relu: bool
    residual: bool

    @property
    def weights(self) -> int:
        """Weights, biases not counted."""
        return self.taps * self.outputs * (1 if self.depthwise else self.inputs)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the forward pass; dX and dW take as many each."""
        return self.weights * self.pixels_out

    @property
    def x(self) -> int:
        """Elements of the input."""
        return self.inputs * self.pixels_in

    @property
    def y(self) -> int:
        """Elements of the output."""
        return self.outputs * self.pixels_out


@dataclass(frozen=True)
class Memory:
    """Bytes by what they hold.  `None`: this convention does not count it, or not by itself.

    `buffers` are for the time of a call; `saved_inputs` and `masks` are what the backward pass
    needs of the forward pass; `weights` and `biases` are those that learn; `stamp` says whose
    state it is.
    """

    total: int
    buffers: int | None = None
    saved_inputs: int | None = None
    masks: int | None = None
    weights: int = 0
    biases: int | None = None
    optimizer: int | None = None
    head: int | None = None
    stamp: int | None = None


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates for one image: forward, gradients of maps, gradients of weights."""

    forward: int
    dx: int
    dw: int

    @property
    def backward(self) -> int:
        """What a training step adds to the forward pass."""
        return self.dx + self.dw


@dataclass(frozen=True)
class Cost:
    """Memory for a `batch` of images that are learned at once, and work for one of them."""

    memory: Memory
    macs: Macs
    batch: int = 1


def layers(evidence: Evidence) -> tuple[Layer, ...]:
    """Describe the convolutions of a network, in execution order.

    Raises `InputError` for a network without any.
    """
    if not evidence.layers:
        raise InputError(
            f"{option('model')} {evidence.name}: has no convolution, and the formulas count "
            "nothing else"
        )
    graph = evidence.graph
    at = {n: i for i, n in enumerate(graph.nodes)}
    # Of what an add reads, the later one ends the block and the earlier one came around it.
    ends = {max(n.inputs, key=at.__getitem__) for n in graph.nodes if isinstance(n.op, Add)}
    out = []
    for name in evidence.layers:
        node = graph[name]
        x, w = (n.type for n in node.inputs[:2])
        depthwise = len(w.shape) == 3
        out.append(
            Layer(
                name,
                depthwise,
                taps=math.prod(w.shape[:2] if depthwise else w.shape[1:3]),
                inputs=x.shape[2],
                outputs=node.type.shape[2],
                pixels_in=math.prod(x.shape[:2]),
                pixels_out=math.prod(node.type.shape[:2]),
                relu=node.type.affine.zero_point == -128,
                residual=node in ends,
            )
        )
    return tuple(out)


def tinytrain(network: Sequence[Layer], selection: Selection) -> Cost:
    """Count as TinyTrain does for one image: float32, Adam, weights only.

    Memory is F2 or B3 + B4, which share their place, whichever is more; and B1 and B2
    (arXiv:2307.09988, appendix A.4, "Further Details on Memory Usage"):

    - F2, `buffers`: input and output of the largest layer.  A depthwise layer makes its output in
      the place of its input, a channel at a time, as the memory profiler of TinyTL has it; only so
      come the 896 KB of appendix F.1 for MobileNetV2.
    - B3, `masks`: a bit for each output of a ReLU, or of a residual, from the first layer that
      learns on.  Why residuals count is not said; Table 7 is not met without.
    - B4, `saved_inputs`: the inputs of layers that learn; only the channels of which weights learn.
    - B1, `weights`, and B2, `optimizer`: for each weight that learns a new value, its gradient
      and two moments.  16 bytes are inferred from Table 2.

    Work is dX of all layers after the first that learns, and dW of what learns.

    Raises `InputError` where biases learn but no weight does: this model does not know biases.
    """
    learned = _learning(network, selection)
    first = next((i for i, n in enumerate(learned) if n.weights), len(network))
    if first == len(network) and any(n.biases for n in learned):
        raise InputError(
            f"{option('convention')} tinytrain: counts weights only, and with this method only "
            f"biases learn; use {option('convention')} tte or kilograd"
        )
    masks = sum(layer.y for layer in network[first:] if layer.relu or layer.residual)
    buffers = _FLOAT * max(la.x + (la.pixels_out if la.depthwise else la.y) for la in network)
    saved = _FLOAT * sum(n.x for n in learned)
    weights = _FLOAT * sum(n.weights for n in learned)
    optimizer = (1 + _MOMENTS) * weights
    memory = Memory(
        total=max(buffers, saved + _bytes(masks)) + weights + optimizer,
        buffers=buffers,
        saved_inputs=saved,
        masks=_bytes(masks),
        weights=weights,
        optimizer=optimizer,
    )
    return Cost(memory, _macs(network, learned, first))


def full_train(network: Sequence[Layer], batch: int = 100) -> Cost:
    """Count TinyTrain's FullTrain: Table 2 has it with another measure than its other rows.

    The memory is that of a framework: of every image the inputs of convolutions, of batch norms
    and of ReLUs (`masks`, here in float32), all kept; the rest as in `tinytrain`.  The paper does
    not say so; this comes within 0.4 % of its figures.  Work is twice the forward pass
    (appendix A.4), although nobody needs the gradient of the image.
    """
    saved = batch * _FLOAT * sum(layer.x + layer.y for layer in network)
    relus = batch * _FLOAT * sum(layer.y for layer in network if layer.relu)
    weights = _FLOAT * sum(layer.weights for layer in network)
    optimizer = (1 + _MOMENTS) * weights
    memory = Memory(
        total=saved + relus + weights + optimizer,
        saved_inputs=saved,
        masks=relus,
        weights=weights,
        optimizer=optimizer,
    )
    forward = sum(layer.macs for layer in network)
    return Cost(memory, Macs(forward, forward, forward), batch)


def tte(network: Sequence[Layer], selection: Selection) -> Cost:
    """Count as "On-Device Training Under 256KB Memory" does: what int8 training adds to inference.

    Memory is as in its released analysis (mit-han-lab/tiny-training,
    algorithm/core/utils/partial_backward.py): 8 bits for each weight that learns and for each
    input of such a layer, in the channels of which weights learn; 32 bits for each bias that
    learns; a bit for each output of a layer, since the clamp to int8 is the activation; and
    the input of the classifier, if that learns.  Not counted: maps and gradients while they are
    used, and the weights of the classifier.

    Masks count from the first layer that learns on; the paper counts them where biases learn,
    which in the published plans are the same layers.  No work was published in this convention:
    it is dX of all layers after the first that learns, and dW of what learns.
    """
    learned = _learning(network, selection)
    first = next((i for i, n in enumerate(learned) if n.weights or n.biases), len(network))
    masks = _bytes(sum(layer.y for layer in network[first:]))
    saved = sum(n.x for n in learned) + (network[-1].outputs if selection.head else 0)
    weights = sum(n.weights for n in learned)
    biases = 4 * sum(n.biases for n in learned)
    memory = Memory(
        total=masks + saved + weights + biases,
        saved_inputs=saved,
        masks=masks,
        weights=weights,
        biases=biases,
    )
    return Cost(memory, _macs(network, learned, first))


@dataclass(frozen=True)
class _Learned:
    """How much of a layer learns, and elements `x` of its input that this reads."""

    weights: int
    biases: int
    x: int


def _learning(network: Sequence[Layer], selection: Selection) -> tuple[_Learned, ...]:
    known = {layer.name for layer in network}
    if unknown := [p for p in selection.learn if p.layer not in known]:
        raise ValueError(f"{min(unknown)} belongs to no layer")
    return tuple(_learned(layer, selection) for layer in network)


def _learned(layer: Layer, selection: Selection) -> _Learned:
    biases = layer.outputs if bias(layer.name) in selection.learn else 0
    part = selection.learn.get(weight(layer.name))
    if part is None:
        return _Learned(0, biases, 0)
    inputs, filters = layer.inputs, 1 if layer.depthwise else layer.outputs
    if part.index is not None:
        if part.axis == 0:
            filters = len(part.index)
        else:
            inputs = len(part.index)
    return _Learned(layer.taps * filters * inputs, biases, layer.pixels_in * inputs)


def _macs(network: Sequence[Layer], learned: Sequence[_Learned], first: int) -> Macs:
    """Count work where `first` is the first layer that learns: TinyTrain, Table 2."""
    return Macs(
        forward=sum(layer.macs for layer in network),
        dx=sum(layer.macs for layer in network[first + 1 :]),
        dw=sum(n.weights * la.pixels_out for la, n in zip(network, learned, strict=True)),
    )


def _bytes(bits: int) -> int:
    return -(-bits // 8)
