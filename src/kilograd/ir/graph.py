"""Four nouns and no registry.

A `Graph` is an ordered tuple of `Node`s.  A `Node` applies one `Op` to earlier nodes and
yields one tensor, described by a `TensorType`.  Everything is immutable, so a pass is a plain
function from graph to graph.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kilograd.ir.params import Params
from kilograd.ir.types import Array, TensorType, Value

if TYPE_CHECKING:
    from kilograd.ir.builder import Builder


class ShapeError(ValueError):
    """An op was given tensors it cannot take."""


@dataclass(frozen=True)
class Kernel:
    """How a node is called on the device.

    The C function is `symbol(out, *args, [scratch], &params)`, its last parameter the struct of
    `params`.  An array in there becomes a table in flash, `None` among `args` a null pointer, and
    several nodes an array of pointers.
    """

    symbol: str
    args: tuple[Node | tuple[Node, ...] | None, ...]
    params: Params
    scratch: int = 0  # bytes of working memory, alive during the call only
    stages: tuple[StageCall, ...] = ()

    def tables(self) -> Iterator[Array]:
        """Yield the constant tables of a call, those of its stages included."""
        yield from self.params.tables()
        for stage in self.stages:
            if stage.kernel:
                yield from stage.kernel.tables()


@dataclass(frozen=True)
class StageCall:
    """A call that a kernel makes itself, row by row; it becomes an entry of a table.

    `layout` says where its rows lie; `weight` and `bias` are constants.  Without a `kernel` the
    rows come from the caller.
    """

    kernel: Kernel | None
    layout: Params
    weight: Node | None = None
    bias: Node | None = None


class Op(abc.ABC):
    """One operation.  Concrete ops are frozen dataclasses; their fields are attributes.

    These five methods are everything the compiler knows about an op.
    """

    #: Inputs that are overwritten with new values; the node stands for the first of them.
    writes: tuple[int, ...] = ()
    #: Inputs whose buffer the output may take over, when nobody reads them later.
    overwrites: tuple[int, ...] = ()
    #: Never computed into a buffer of its own: readers look through it at its inputs.
    view: bool = False

    @abc.abstractmethod
    def infer(self, *xs: TensorType) -> TensorType:
        """Return the output type, or raise `ShapeError`."""

    @abc.abstractmethod
    def reference(self, node: Node, *xs: Value) -> Value | tuple[Value, ...]:
        """Compute the result in numpy: the definition that every kernel must match.

        An op that `writes` returns a tuple: the new value of each input it overwrites.
        """

    @abc.abstractmethod
    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        """Emit the gradient of each input, `None` where there is none."""

    @abc.abstractmethod
    def macs(self, node: Node) -> int:
        """Multiply-accumulates, the unit of the cost model."""

    @abc.abstractmethod
    def kernel(self, node: Node) -> Kernel:
        """Say how the device computes this node."""


@dataclass(frozen=True, eq=False)
class Node:
    """One application of an op.  Its identity is its tensor.

    `c_name` is what C calls an input, an output or a parameter that Kilograd itself gives a
    program, such as the label.  All others, whose names come from elsewhere, have numbers in C.
    """

    op: Op
    inputs: tuple[Node, ...]
    type: TensorType
    name: str
    c_name: str = ""

    def reads(self) -> Iterator[Node]:
        """Yield the nodes whose memory this one reads, looking through views."""
        for x in self.inputs:
            if x.op.view:
                yield from x.reads()
            else:
                yield x

    @property
    def holder(self) -> Node:
        """The node whose memory holds this tensor: of a view of one other, what it is a view of."""
        return self.inputs[0].holder if self.op.view and len(self.inputs) == 1 else self

    def __str__(self) -> str:
        args = ", ".join(x.name for x in self.inputs)
        return f"%{self.name}: {self.type} = {self.op}({args})"

    __repr__ = __str__  # with inputs in full it would double at every fork


class Leaf(Op):
    """A tensor that nothing computes."""

    def infer(self, *xs: TensorType) -> TensorType:
        raise TypeError("a leaf is created with its type")

    def reference(self, node: Node, *xs: Value) -> Value:
        raise TypeError("a leaf has no definition")

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        return ()

    def macs(self, node: Node) -> int:
        return 0

    def kernel(self, node: Node) -> Kernel:
        raise TypeError("a leaf is not called")


@dataclass(frozen=True)
class Check:
    """How C looks at a value before it is used: `symbol(value, arguments...)` is a `kg_status`."""

    symbol: str
    arguments: tuple[int, ...] = ()


@dataclass(frozen=True)
class Input(Leaf):
    """Supplied by the caller on every call; lives in the arena like any other tensor.

    Any value will do.  What can be wrong is a class of its own, which says how C looks at it, and
    what that finds.
    """

    def check(self) -> Check | None:
        """Return what every entry point does first with a value, if there is something to do."""
        return None

    def wrong(self, value: Value) -> str:
        """Say what a value must be that the check refuses; nothing where it is accepted."""
        return ""


@dataclass(frozen=True)
class StreamedInput(Input):
    """An input that comes row by row while a stream runs: it is never in memory as a whole."""


class Role(enum.StrEnum):
    """What a parameter is for: said where it is made, never read from its name."""

    WEIGHT = "weight"  # of a layer of the network, or a part of it
    BIAS = "bias"
    HEAD = "head"  # weights and biases of the classifier, prototypes
    OPTIMIZER = "optimizer"  # states of an update, sums of gradients
    STATISTIC = "statistic"  # what inspection adds up
    CONSTANT = "constant"


@dataclass(frozen=True)
class Param(Leaf):
    """Kept between calls; `Graph.data` holds the initial value."""

    role: Role = field(default=Role.CONSTANT, repr=False)


@dataclass(frozen=True)
class Graph:
    """Nodes in execution order: the order is the schedule.  `outputs` is what must survive."""

    nodes: tuple[Node, ...]
    outputs: tuple[Node, ...]
    data: Mapping[str, Array] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return "\n".join(
            [*map(str, self.nodes), f"return {', '.join(o.name for o in self.outputs)}"]
        )

    def __getitem__(self, name: str) -> Node:
        """Return the node called `name`; a KeyError names the graph's outputs."""
        for n in self.nodes:
            if n.name == name:
                return n
        raise KeyError(f"no node {name!r} in the graph of {[o.name for o in self.outputs]}")

    def users(self) -> dict[Node, list[Node]]:
        """Map each node to the nodes that take it as an input."""
        out: dict[Node, list[Node]] = {n: [] for n in self.nodes}
        for n in self.nodes:
            for x in n.inputs:
                out[x].append(n)
        return out

    def params(self) -> tuple[Node, ...]:
        """Return the parameters, in order."""
        return tuple(n for n in self.nodes if isinstance(n.op, Param))

    def inputs(self) -> tuple[Node, ...]:
        """Return the inputs, in order."""
        return tuple(n for n in self.nodes if isinstance(n.op, Input))

    def written(self) -> frozenset[Node]:
        """Return the parameters that the graph overwrites."""
        return frozenset(n.inputs[i] for n in self.nodes for i in n.op.writes)

    def macs(self) -> int:
        """Return the multiply-accumulates of one run."""
        return sum(n.op.macs(n) for n in self.nodes)
