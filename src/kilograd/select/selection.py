"""The question, the limits and the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from kilograd.errors import InputError, option
from kilograd.ir import Array, Graph, Node, Role, TensorType
from kilograd.ops import Depthwise, LayerOp
from kilograd.passes import Part


@dataclass(frozen=True, order=True)
class Parameter:
    """The weights or the biases of a layer; its name in graphs and files is LAYER.weight or .bias.

    >>> str(weight("blocks.1.dw"))
    'blocks.1.dw.weight'
    """

    layer: str
    role: Role

    def __str__(self) -> str:
        return f"{self.layer}.{self.role}"


def weight(layer: str) -> Parameter:
    """Return the weights of a layer."""
    return Parameter(layer, Role.WEIGHT)


def bias(layer: str) -> Parameter:
    """Return the biases of a layer."""
    return Parameter(layer, Role.BIAS)


@dataclass(frozen=True)
class Inspect:
    """Runs the support through the network: float32 [channels] for each layer asked about.

    `fisher`: the Fisher information of each output channel.  `steps`: by how many codes one step
    of gradient descent would change the weights of each channel (root mean square).
    """

    fisher: Callable[[tuple[str, ...]], Mapping[str, Array]]
    steps: Callable[[tuple[str, ...]], Mapping[str, Array]]


@dataclass(frozen=True)
class Demand:
    """What a selection costs as a program: bytes of RAM, and multiply-accumulates of one backward
    pass, weight gradients included.
    """

    sram: int
    backward_macs: int


@dataclass(frozen=True)
class Evidence:
    """What a strategy may look at.

    The network, its convolutions in execution order, what the compiler says a selection costs, and
    the images to learn from, where there are any.
    """

    name: str
    graph: Graph
    layers: tuple[str, ...]
    cost: Callable[[Selection], Demand] = lambda selection: Demand(0, 0)
    inspect: Inspect | None = None

    def fisher(self, layers: tuple[str, ...]) -> Mapping[str, Array]:
        """Return float32 [channels] for each layer: the mean over the support (TinyTrain, eq. 2).

        Raises `InputError` where there are no images, or none of them says anything.
        """
        return self._telling(self._support().fisher(layers))

    def steps(self, layers: tuple[str, ...]) -> Mapping[str, Array]:
        """Return float32 [channels] for each layer: the size of a step, in codes of the weights.

        Raises `InputError` where there are no images, or none of them says anything.
        """
        return self._telling(self._support().steps(layers))

    def _support(self) -> Inspect:
        if self.inspect is None:
            raise InputError(
                f"{option('method')}: this one looks at images to learn from; let kilograd adapt "
                f"choose with {option('save_plan')} FILE.json, and give {option('method')} "
                "FILE.json here"
            )
        return self.inspect

    def _telling(self, found: Mapping[str, Array]) -> Mapping[str, Array]:
        if not any(values.any() for values in found.values()):
            raise InputError(
                f"{option('method')}: no channel of {self.name} matters to the images given; use a "
                "method that does not look at them, as static-l2"
            )
        return found

    def macs(self, layer: str) -> int:
        """Return the multiply-accumulates of a layer's forward pass."""
        node = self.graph[layer]
        return node.op.macs(node)

    def full_backward(self) -> int:
        """Return the multiply-accumulates of a backward pass in which all learns, as TinyTrain
        counts them: twice the forward pass.
        """
        return 2 * sum(map(self.macs, self.layers))

    def node(self, parameter: Parameter) -> Node:
        """Return a parameter of the network."""
        return self.graph[str(parameter)]

    def weights(self, layer: str) -> TensorType:
        """Return the type of a layer's weights: [out, kh, kw, in], depthwise [kh, kw, c]."""
        return self.node(weight(layer)).type

    def axes(self, layer: str) -> tuple[int, ...]:
        """Return the axes of a layer's weights of which parts can learn.

        That of output channels comes first, and of input channels last, if they can; it is the
        same where each filter has channels of its own.
        """
        return parts_axes(self.graph, layer)

    def depthwise(self, layer: str) -> bool:
        """Say whether each output channel reads one input channel only."""
        return isinstance(self.graph[layer].op, Depthwise)

    def channels(self, layer: str) -> int:
        """Return the number of output channels."""
        return self.weights(layer).shape[self.axes(layer)[0]]

    def inputs(self, layer: str) -> int:
        """Return the number of channels of which `widest_inputs` chooses."""
        return self.weights(layer).shape[self.axes(layer)[-1]]


class RamError(InputError):
    """A budget of RAM that is too small: `need` bytes without stack would do.

    `ways`: the classes of the program, where that is known.
    """

    def __init__(self, message: str, need: int = 0, ways: int | None = None) -> None:
        super().__init__(message)
        self.need, self.ways = need, ways


@dataclass(frozen=True)
class Budget:
    """What the program may cost; `None` is no limit.  The compiler is the judge.

    `sram`: bytes of RAM.  `compute`: backward MACs of a sample.  `channels`: the share of a layer's
    channels that learns, in (0, 1].  `cache`: bytes for the latents of all images, which lie
    outside the program's RAM.  `backward_memory`: bytes as TinyTrain counts them, by a formula
    that knows no program (`select.cost.backward_memory`).
    """

    sram: int | None = None
    compute: int | None = None
    channels: float | None = None
    cache: int | None = None
    backward_memory: int | None = None

    def __post_init__(self) -> None:
        """Raise `InputError` for limits that nothing can meet."""
        for name in ("compute", "backward_memory"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise InputError(f"{option(name)} {value}: must be positive")
        if self.channels is not None and not 0 < self.channels <= 1:
            raise InputError(
                f"{option('channels')} {self.channels}: must be more than 0 and at most 1"
            )

    def admits(self, cost: Demand) -> bool:
        """Say whether a program of that cost is within the budget."""
        return (self.sram is None or cost.sram <= self.sram) and (
            self.compute is None or cost.backward_macs <= self.compute
        )


@dataclass(frozen=True)
class Reason:
    """Why so many channels of a layer learn; `None` where a strategy does not look at that.

    `potential`: Fisher information, summed over the channels.  `score`: what the strategy ranks
    layers by.  `weights` and `macs` are those of the whole layer, forward.  `why` says what kept
    the layer, or more of it, from learning; empty where nothing did.
    """

    layer: str
    potential: float | None
    weights: int
    macs: int
    score: float | None
    chosen: int
    channels: int
    why: str = ""


@dataclass(frozen=True)
class Selection:
    """Which parameters of the network learn, and which part of each; and whether the head does.

    `reasons` has one entry for each layer that a strategy thought about, in execution order.
    `graph`: the network with what the strategy adds to it; `None`: as it is.
    `within`: the limits that it was chosen within, those included that hold where none is given.
    """

    learn: Mapping[Parameter, Part] = field(default_factory=dict)
    head: bool = True
    reasons: tuple[Reason, ...] = field(default=(), compare=False)
    graph: Graph | None = None
    within: Budget | None = field(default=None, compare=False)

    @property
    def by_name(self) -> dict[str, Part]:
        """What learns, by its name in the graph: as `Training` takes it."""
        return {str(parameter): part for parameter, part in self.learn.items()}


Strategy = Callable[[Evidence, Budget], Selection]


def biases(layers: Iterable[str]) -> dict[Parameter, Part]:
    """Select all biases of some layers."""
    return dict.fromkeys(map(bias, layers), Part())


def weights(layers: Iterable[str]) -> dict[Parameter, Part]:
    """Select all weights of some layers."""
    return dict.fromkeys(map(weight, layers), Part())


def filters(evidence: Evidence, layer: str, chosen: Iterable[int]) -> Part:
    """Select the weights of some output channels; all of them are the whole parameter."""
    index = tuple(sorted(chosen))
    axis = evidence.axes(layer)[0]
    return Part() if len(index) == evidence.channels(layer) else Part(axis, index)


def best_first(values: Array) -> tuple[int, ...]:
    """Return channels by falling value; ties go to the lower channel."""
    return tuple(np.argsort(-values, kind="stable").tolist())


def energies(evidence: Evidence, layer: str, axis: int) -> Array:
    """Return the sum of squares of the real weights, float64, for each channel along `axis`."""
    node = evidence.node(weight(layer))
    quant = node.type.affine
    real = np.moveaxis(evidence.graph.data[node.name].astype(np.float64), quant.axis or 0, -1)
    real = np.moveaxis(real * np.array(quant.scale), -1, quant.axis or 0)
    return (real**2).sum(axis=tuple(a for a in range(real.ndim) if a != axis))


def output_energies(evidence: Evidence, layer: str) -> Array:
    """Return the sum of squares of the real weights, float64, for each output channel."""
    return energies(evidence, layer, evidence.axes(layer)[0])


def widest_inputs(evidence: Evidence, layer: str, count: int) -> Part:
    """Select the `count` input channels with the largest weight norm ("magnitude+").

    A depthwise layer has one input channel a filter, and of groups the filters are chosen.  Norms
    are of real weights; ties go to the lower channel.
    """
    axis = evidence.axes(layer)[-1]
    return Part(axis, tuple(sorted(best_first(energies(evidence, layer, axis))[:count])))


def parts_axes(graph: Graph, layer: str) -> tuple[int, ...]:
    """Return the axes of the weights of a layer of which parts can learn: of outputs first."""
    op = graph[layer].op
    if not isinstance(op, LayerOp):
        raise TypeError(f"{layer} has no weights")
    return op.parts
