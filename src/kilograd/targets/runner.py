"""What every target does with a program: write inputs, run an entry point, read outputs."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping

import numpy as np

from kilograd.emit import Entry, Program
from kilograd.ir import Array, Node


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
    def run(self, function: str, *images: Array) -> None:
        """Run `init` or an entry point of the program, which reads `images` row by row."""

    def reset(self) -> None:
        """Forget everything learned."""
        self.run("init")

    def call(self, entry: str, **inputs: Array) -> dict[str, Array]:
        """Run an entry point; return copies of its outputs by name.

        Raises a ValueError for an input of the wrong size.
        """
        into, out = self._ports[entry]
        for name, view in into.items():
            view[...] = _shaped(name, inputs[name], view.shape)
        rows = (_shaped(n.name, inputs[n.name], n.type.shape) for n in self._rows[entry])
        self.run(entry, *rows)
        return {name: view.copy() for name, view in out.items()}

    @property
    def state(self) -> Mapping[str, Array]:
        """The parameters that change, by name: views that may be read and written."""
        return self._views


def _shaped(name: str, value: Array, shape: tuple[int, ...]) -> Array:
    value = np.asarray(value)
    if value.size != math.prod(shape):
        raise ValueError(f"{name} must have shape {shape}, not {value.shape}")
    return value.reshape(shape)


def _view(memory: Array, offset: int, like: Array) -> Array:
    return memory[offset : offset + like.nbytes].view(like.dtype).reshape(like.shape)


def _node_view(memory: Array, offset: int, n: Node) -> Array:
    nbytes = n.type.size * n.type.dtype.nbytes
    return memory[offset : offset + nbytes].view(n.type.dtype.numpy).reshape(n.type.shape)
