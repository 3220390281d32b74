"""What every target does with a program: write inputs, run an entry point, read outputs."""

from __future__ import annotations

import abc
import enum
import math
from collections.abc import Mapping

import numpy as np

from kilograd.emit import Entry, Program
from kilograd.ir import Array, Input, Node, TensorType


class Status(enum.IntEnum):
    """`kg_status` of kg_status.h, which says what each of them means."""

    OK = 0
    NO_MEMORY = 1
    MISALIGNED = 2
    BAD_STATE = 3
    NO_ROWS = 4
    BAD_LABEL = 5
    BAD_CLOCK = 6
    BAD_RATE = 7
    BAD_SHARE = 8


class RefusedError(ValueError):
    """A program would not do a call; it has changed nothing."""

    def __init__(self, entry: str, status: Status, why: str) -> None:
        super().__init__(f"{entry}: {why}")
        self.entry, self.status = entry, status


class Runner(abc.ABC):
    """A program with a state and an arena of its own, on some machine.

    Inputs and outputs are numpy arrays by name, as the graphs declare them.
    """

    def __init__(self, program: Program, state: Array, arena: Array) -> None:
        self.program = program
        self._state = state
        self._arena = arena
        self._views = {s.name: _view(state, s.offset, s.value) for s in program.state}
        self._ports = {e.name: self._entry_ports(e) for e in program.entries.values()}
        self._rows = {e.name: e.rows for e in program.entries.values()}
        self.reset()

    def _entry_ports(self, entry: Entry) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return views of an entry point's inputs and outputs in the arena."""
        inputs = [n for n in entry.graph.inputs() if n in entry.storage.tensor]
        outputs = [n for n in entry.graph.outputs if not n.op.writes]
        first, second = (
            {n.name: _node_view(self._arena, entry.offset(n), n) for n in nodes}
            for nodes in (inputs, outputs)
        )
        return first, second

    @abc.abstractmethod
    def status(self, function: str, *images: Array) -> int:
        """Run `init` or an entry point, which reads `images` row by row; return its `kg_status`."""

    def run(self, function: str, *images: Array) -> None:
        """Run `init` or an entry point of the program on what lies in state and arena.

        Raises `RefusedError` where the program refuses it.
        """
        status = Status(self.status(function, *images))
        if status:
            raise RefusedError(function, status, self._why(function, status))

    def _why(self, function: str, status: Status) -> str:
        """Say what a program refuses: which input, or which block of memory."""
        entry = self.program.entries.get(function)
        for n in entry.graph.inputs() if entry else ():
            value = self._ports[function][0].get(n.name)
            if isinstance(n.op, Input) and value is not None and (wrong := n.op.wrong(value)):
                return f"{n.name} {' '.join(map(str, value.tolist()))} {wrong}"
        return f"refused with {status.name.lower().replace('_', ' ')}"

    def reset(self) -> None:
        """Forget everything learned."""
        self.run("init")

    def call(self, entry: str, **inputs: Array) -> dict[str, Array]:
        """Run an entry point; return copies of its outputs by name.

        Raises a TypeError where inputs are missing or not asked for, a ValueError for one that is
        not what the entry point takes, and `RefusedError` for a value that the program refuses.
        """
        into, out = self._ports[entry]
        nodes = {n.name: n for n in self.program.entries[entry].graph.inputs()}
        if wrong := sorted(nodes.keys() ^ inputs.keys()):
            word = "does not take" if wrong[0] in inputs else "needs"
            raise TypeError(f"{entry} {word} {wrong[0]!r}; it takes {sorted(nodes)}")
        given = {k: _taken(f"{entry}: {k}", v, nodes[k].type) for k, v in inputs.items()}
        for name, view in into.items():
            view[...] = given[name]
        self.run(entry, *(given[n.name] for n in self._rows[entry]))
        return {name: view.copy() for name, view in out.items()}

    @property
    def state(self) -> Mapping[str, Array]:
        """The parameters that change, by name: views that may be read and written."""
        return self._views


def _taken(name: str, value: Array, kind: TensorType) -> Array:
    """Return a value as an entry point takes it: integers as they are, reals rounded to float32."""
    value = np.asarray(value)
    if value.size != math.prod(kind.shape):
        raise ValueError(f"{name} must have shape {kind.shape}, not {value.shape}")
    if value.dtype == kind.dtype.numpy:
        return value.reshape(kind.shape)
    if not np.can_cast(value.dtype, kind.dtype.numpy, "same_kind"):
        raise ValueError(f"{name} must be {kind.dtype.numpy}, not {value.dtype}")
    with np.errstate(over="ignore"):  # to infinity, which programs refuse
        taken = value.reshape(kind.shape).astype(kind.dtype.numpy)
    if taken.dtype.kind != "f" and not np.array_equal(taken, value.reshape(kind.shape)):
        raise ValueError(f"{name} has numbers that {kind.dtype.numpy} cannot hold")
    return taken


def _view(memory: Array, offset: int, like: Array) -> Array:
    return memory[offset : offset + like.nbytes].view(like.dtype).reshape(like.shape)


def _node_view(memory: Array, offset: int, n: Node) -> Array:
    nbytes = n.type.size * n.type.dtype.nbytes
    return memory[offset : offset + nbytes].view(n.type.dtype.numpy).reshape(n.type.shape)
