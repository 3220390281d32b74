"""What every target does with a program: write inputs, run an entry point, read outputs."""

from __future__ import annotations

import abc
from collections.abc import Mapping

import numpy as np

from kilograd.emit import Program
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
        self.reset()

    @abc.abstractmethod
    def run(self, function: str) -> None:
        """Run `init` or an entry point of the program."""

    def reset(self) -> None:
        """Forget everything learned."""
        self.run("init")

    def call(self, entry: str, **inputs: Array) -> dict[str, Array]:
        """Run an entry point; return copies of its outputs by name."""
        e = self.program.entries[entry]
        for n in e.graph.inputs():
            if n in e.storage.tensor:
                value = np.ascontiguousarray(inputs[n.name], n.type.dtype.numpy)
                if value.size != n.type.size:
                    raise ValueError(f"{n.name} must be {n.type}, not {value.shape}")
                _node_view(self._arena, e.offset(n), n)[...] = value.reshape(n.type.shape)
        self.run(entry)
        return {
            n.name: _node_view(self._arena, e.offset(n), n).copy()
            for n in e.graph.outputs
            if not n.op.writes
        }

    @property
    def state(self) -> Mapping[str, Array]:
        """The parameters that change, by name: views that may be read and written."""
        return self._views


def _view(memory: Array, offset: int, like: Array) -> Array:
    return memory[offset : offset + like.nbytes].view(like.dtype).reshape(like.shape)


def _node_view(memory: Array, offset: int, n: Node) -> Array:
    nbytes = n.type.size * n.type.dtype.nbytes
    return memory[offset : offset + nbytes].view(n.type.dtype.numpy).reshape(n.type.shape)
