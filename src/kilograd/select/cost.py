"""What training costs by the formulas of two papers.

They need shapes alone: a tuple of `Layer`s, and a `Selection` of what learns.  Their results are
estimates of different things, so they can be compared within a convention only.
docs/results/studies/cost.md has the published figures that they give again, and those they do not.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from kilograd.errors import InputError, option
from kilograd.ir import Graph, Node
from kilograd.ops import Add, GroupedConv, LayerOp
from kilograd.passes import Part
from kilograd.select.selection import Evidence, Selection, bias, weight

_FLOAT = 4  # bytes
_MOMENTS = 2  # of Adam

WEIGHT_BYTES = _FLOAT * (2 + _MOMENTS)
"""What TinyTrain counts for each weight that learns: it, its gradient, and two moments."""


class Convention(enum.StrEnum):
    """How cost is counted: by the formulas of a paper, or as it is."""

    TINYTRAIN = "tinytrain"
    TTE = "tte"
    KILOGRAD = "kilograd"


@dataclass(frozen=True)
class Layer:
    """A convolution: channels, weights of one filter in one channel (`taps`), pixels of its maps.

    `relu`: nothing below zero is left of its output.  `residual`: the input of its block is added
    to its output.  `sources`: the layers that made its input, with no other layer between; `None`
    is the one before.  `groups` are not those of depthwise layers.

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
    sources: tuple[str, ...] | None = field(default=None, compare=False)
    groups: int = 1

    @property
    def weights(self) -> int:
        """Weights, biases not counted."""
        return self.taps * self.outputs * (1 if self.depthwise else self.inputs // self.groups)

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


def layers(evidence: Evidence, grown: Graph | None = None) -> tuple[Layer, ...]:
    """Describe the convolutions of a network, in execution order.

    `grown`: the network with what a selection adds; its convolutions count like all others.  One
    that runs in groups is a layer for each group there, and so here.
    Raises `InputError` for a network without any.
    """
    if not evidence.layers:
        raise InputError(
            f"{option('model')} {evidence.name}: has no convolution, and the formulas count "
            "nothing else"
        )
    graph = evidence.graph if grown is None else grown
    known = set(evidence.layers) | _added(evidence.graph, graph)
    sources: dict[Node, tuple[str, ...]] = {}  # of every node, itself where it is a layer
    at = {n: i for i, n in enumerate(graph.nodes)}
    # Of what an add reads, the later one ends the block and the earlier one came around it.
    ends = {max(n.inputs, key=at.__getitem__) for n in graph.nodes if isinstance(n.op, Add)}
    out = []
    for node in graph.nodes:
        before = tuple(dict.fromkeys(s for n in node.inputs for s in sources[n]))
        if node.name not in known or not isinstance(node.op, LayerOp):
            sources[node] = before
            continue
        sources[node] = (node.name,)
        x, w = (n.type for n in node.inputs[:2])
        depthwise = len(w.shape) == 3
        out.append(
            Layer(
                node.name,
                depthwise,
                taps=math.prod(w.shape[:2] if depthwise else w.shape[1:3]),
                inputs=x.shape[2],
                outputs=node.type.shape[2],
                pixels_in=math.prod(x.shape[:2]),
                pixels_out=math.prod(node.type.shape[:2]),
                relu=node.op.limits[0] >= node.type.affine.zero_point,
                residual=node in ends,
                sources=before,
                groups=node.op.groups if isinstance(node.op, GroupedConv) else 1,
            )
        )
    return tuple(out)


def _added(network: Graph, grown: Graph) -> set[str]:
    own = {n.name for n in network.nodes}
    return {n.name for n in grown.nodes if isinstance(n.op, LayerOp) and n.name not in own}


def tinytrain(network: Sequence[Layer], selection: Selection) -> Cost:
    """Count as TinyTrain does for one image: float32, Adam, weights only.

    Memory is F2 or B3 + B4, which share their place, whichever is more; and B1 and B2
    (arXiv:2307.09988, appendix A.4, "Further Details on Memory Usage"):

    - F2, `buffers`: input and output of the largest layer.  A depthwise layer makes its output in
      the place of its input, a channel at a time, as the memory profiler of TinyTL has it; only so
      come the 896 KB of appendix F.1 for MobileNetV2.
    - B3, `masks`: a bit for each output of a ReLU, or of a residual, of layers that learn or that
      a gradient passes.  Why residuals count is not said; Table 7 is not met without.
    - B4, `saved_inputs`: the inputs of layers that learn; only the channels of which weights learn.
    - B1, `weights`, and B2, `optimizer`: for each weight that learns a new value, its gradient
      and two moments.  16 bytes are inferred from Table 2.

    Work is dX of all layers behind one that learns, and dW of what learns.

    Raises `InputError` where biases learn but no weight does: this model does not know biases.
    """
    learned = _learning(network, selection)
    learns = [n.weights > 0 for n in learned]
    behind = _behind(network, learns)
    if not any(learns) and any(n.biases for n in learned):
        raise InputError(
            f"{option('convention')} tinytrain: counts weights only, and with this method only "
            f"biases learn; use {option('convention')} tte or kilograd"
        )
    passed = _either(network, learns, behind)
    masks = sum(layer.y for layer in passed if layer.relu or layer.residual)
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
    return Cost(memory, _macs(network, learned, behind))


def backward_memory(evidence: Evidence, selection: Selection) -> int:
    """Return the bytes of a backward pass as TinyTrain counts them: its memory budget is of these.

    Raises `InputError` as `tinytrain`.
    """
    return tinytrain(layers(evidence, selection.graph), selection).memory.total


def full_train(network: Sequence[Layer], batch: int = 100) -> Cost:
    """Count TinyTrain's FullTrain: all weights learn, and a framework keeps what it keeps.

    Memory as in `in_framework`; it comes within 0.4 % of Table 2.  Work is twice the forward pass
    (appendix A.4), although nobody needs the gradient of the image.
    """
    everything = Selection({weight(layer.name): Part() for layer in network})
    forward = sum(layer.macs for layer in network)
    memory = in_framework(network, everything, batch).memory
    return Cost(memory, Macs(forward, forward, forward), batch)


def in_framework(network: Sequence[Layer], selection: Selection, batch: int = 100) -> Cost:
    """Count as Table 2 of TinyTrain counts its rows for a batch of 100: FullTrain and TinyTL.

    Of every image, and of every layer that learns or that a gradient passes, frozen or not, the
    inputs of the convolution, of its batch norm and of its ReLU (`masks`, here in float32); the
    rest as in `tinytrain`.  The paper does not say so, and its appendix A.4 says otherwise.
    """
    learned = _learning(network, selection)
    learns = [n.weights > 0 for n in learned]
    behind = _behind(network, learns)
    passed = _either(network, learns, behind)
    saved = batch * _FLOAT * sum(layer.x + layer.y for layer in passed)
    relus = batch * _FLOAT * sum(layer.y for layer in passed if layer.relu)
    weights = _FLOAT * sum(n.weights for n in learned)
    optimizer = (1 + _MOMENTS) * weights
    memory = Memory(
        total=saved + relus + weights + optimizer,
        saved_inputs=saved,
        masks=relus,
        weights=weights,
        optimizer=optimizer,
    )
    return Cost(memory, _macs(network, learned, behind), batch)


def tte(network: Sequence[Layer], selection: Selection) -> Cost:
    """Count as "On-Device Training Under 256KB Memory" does: what int8 training adds to inference.

    Memory is as in its released analysis (mit-han-lab/tiny-training,
    algorithm/core/utils/partial_backward.py): 8 bits for each weight that learns and for each
    input of such a layer, in the channels of which weights learn; 32 bits for each bias that
    learns; a bit for each output of a layer, since the clamp to int8 is the activation; and
    the input of the classifier, if that learns.  Not counted: maps and gradients while they are
    used, and the weights of the classifier.

    Masks count where a layer learns or a gradient passes; the paper counts them where biases
    learn, which in the published plans are the same layers.  No work was published in this
    convention: it is dX of all layers behind one that learns, and dW of what learns.
    """
    learned = _learning(network, selection)
    learns = [n.weights + n.biases > 0 for n in learned]
    behind = _behind(network, learns)
    masks = _bytes(sum(layer.y for layer in _either(network, learns, behind)))
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
    return Cost(memory, _macs(network, learned, behind))


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
    weights = layer.taps * filters * inputs // layer.groups
    return _Learned(weights, biases, layer.pixels_in * inputs)


def _behind(network: Sequence[Layer], learns: Sequence[bool]) -> tuple[bool, ...]:
    """Tell of each layer whether one that learns, anywhere before, had a part in its input."""
    behind: list[bool] = []
    carries: dict[str, bool] = {}
    for i, (layer, own) in enumerate(zip(network, learns, strict=True)):
        before = [n.name for n in network[max(i - 1, 0) : i]]
        sources = before if layer.sources is None else layer.sources
        behind.append(any(carries[n] for n in sources))
        carries[layer.name] = behind[-1] or own
    return tuple(behind)


def _either(
    network: Sequence[Layer], learns: Sequence[bool], behind: Sequence[bool]
) -> list[Layer]:
    return [la for la, a, b in zip(network, learns, behind, strict=True) if a or b]


def _macs(network: Sequence[Layer], learned: Sequence[_Learned], behind: Sequence[bool]) -> Macs:
    """Count work where layers `behind` one that learns compute dX: TinyTrain, Table 2."""
    return Macs(
        forward=sum(layer.macs for layer in network),
        dx=sum(layer.macs for layer, needed in zip(network, behind, strict=True) if needed),
        dw=sum(n.weights * la.pixels_out for la, n in zip(network, learned, strict=True)),
    )


def _bytes(bits: int) -> int:
    return -(-bits // 8)
