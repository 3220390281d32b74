"""Entry points that share parameters, each with its memory plan.

RAM is two blocks that the caller provides: the *state*, which keeps its contents between calls
(learned parameters, optimiser states, head), and the *arena*, which does not.  Everything else
is constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kilograd.emit.names import check_own
from kilograd.ir import Array, Graph, Leaf, Node, Param, Role, StreamedInput
from kilograd.ir.params import INT32_MAX
from kilograd.memory import STAMP_BYTES, Plan, Planner, aligned, greedy, place
from kilograd.ops import Overlay, Take
from kilograd.passes import LimitError, Storage, store


@dataclass(frozen=True)
class Slot:
    """A parameter in the state: its bytes start at `offset`; `value` is what it holds first.

    `role` is what it is for, as its `Param` says.
    `origin` is the `Take` of a constant that has this value, if there is one.  `c_name` is what C
    calls it: its number, if its name is not ours.
    """

    name: str
    offset: int
    value: Array
    role: Role
    origin: Node | None = None
    c_name: str = ""


def bytes_kept(state: Sequence[Slot]) -> int:
    """Return the bytes of a state: its parameters and, if there are any, a stamp."""
    return max((aligned(s.offset + s.value.nbytes) + STAMP_BYTES for s in state), default=0)


@dataclass(frozen=True)
class Entry:
    """One callable graph and where its tensors lie in the arena."""

    name: str
    graph: Graph
    storage: Storage
    plan: Plan

    @property
    def rows(self) -> tuple[Node, ...]:
        """The images that come row by row, from a callback; in the order of the C arguments."""
        return tuple(n for n in self.graph.inputs() if isinstance(n.op, StreamedInput))

    @property
    def inputs(self) -> dict[str, Node]:
        """What the caller gives, in order, by its name in C."""
        return {n.c_name or f"input{i}": n for i, n in enumerate(self.graph.inputs())}

    @property
    def outputs(self) -> dict[str, Node]:
        """What the caller finds in the arena, in order, by its name in C."""
        found = [n for n in self.graph.outputs if not n.op.writes]
        return {n.c_name or f"output{i}": n for i, n in enumerate(found)}

    def offset(self, node: Node) -> int:
        """Return the arena offset of a computed tensor or an input."""
        return self.plan.offsets[self.storage.tensor[node]]


@dataclass(frozen=True)
class Program:
    """Everything that is needed to emit, run and describe a training program."""

    entries: Mapping[str, Entry]
    state: tuple[Slot, ...]
    constants: Mapping[str, Array]

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arena: the largest plan."""
        return max(e.plan.peak for e in self.entries.values())

    @property
    def state_bytes(self) -> int:
        """Bytes of the state with its stamp; none where nothing is kept."""
        return bytes_kept(self.state)

    @property
    def stamp_offset(self) -> int:
        """Where a state that there is says which program it belongs to: behind all parameters."""
        return self.state_bytes - STAMP_BYTES

    @property
    def sram_bytes(self) -> int:
        """Arena and state: all the memory that the program writes, its stack excepted."""
        return self.arena_bytes + self.state_bytes

    @property
    def sram_lower_bound_bytes(self) -> int:
        """State and the largest bound of a plan: no plan for these schedules needs less."""
        return max(e.plan.bound for e in self.entries.values()) + self.state_bytes

    @property
    def sram_proved_optimal(self) -> bool:
        """Whether the plan meets its lower bound."""
        return self.sram_bytes == self.sram_lower_bound_bytes

    @property
    def flash_bytes(self) -> int:
        """Bytes of constant tables and of the state's first values; code not counted."""
        tables = {}
        for entry in self.entries.values():
            for n in entry.graph.nodes:
                if not isinstance(n.op, Leaf) and not n.op.view:
                    for value in n.op.kernel(n).tables():
                        tables[value.dtype.str, value.tobytes()] = value.nbytes
        for slot in self.state:
            if slot.origin:
                for value in slot.origin.op.kernel(slot.origin).tables():
                    tables[value.dtype.str, value.tobytes()] = value.nbytes
        first = sum(s.value.nbytes for s in self.state if s.value.any() and not s.origin)
        return sum(tables.values()) + first + sum(v.nbytes for v in self.constants.values())

    def macs(self, entry: str) -> int:
        """Return the multiply-accumulates of one call."""
        return self.entries[entry].graph.macs() if entry in self.entries else 0


#: What C calls other things: `model_init`, MODEL_STATE_BYTES.
_RESERVED = ("init", "state", "arena")


def link(graphs: Mapping[str, Graph], planner: Planner = greedy) -> Program:
    """Plan the memory of every entry point and lay out what they share.

    A parameter that any entry point overwrites is state, every other one is constant.  Raises a
    ValueError where names of entry points or of ours are no names for C, and where two parameters
    of one name are not the same.  Raises
    `LimitError` where the state or the arena exceeds what int32 can address.
    """
    check_own([*_RESERVED, *graphs])
    written = {p.name for g in graphs.values() for p in g.written()}
    values = _values(graphs)
    params = [p for g in graphs.values() for p in g.params()]
    own = {p.name: p.c_name for p in params}
    roles = {p.name: p.op.role for p in params if isinstance(p.op, Param)}
    origins = {name: n for g in graphs.values() for name, n in _origins(g, written)}
    state: list[Slot] = []
    offset = 0
    for name, value in values.items():
        if name in written:
            c_name = own[name] or str(len(state))
            state.append(Slot(name, offset, value, roles[name], origins.get(name), c_name))
            offset = aligned(offset + value.nbytes)
    check_own(s.c_name for s in state if own[s.name])
    program = Program(
        entries={name: _entry(name, g, planner) for name, g in graphs.items()},
        state=tuple(state),
        constants={k: v for k, v in values.items() if k not in written},
    )
    for block, size in (("state", program.state_bytes), ("arena", program.arena_bytes)):
        if size > INT32_MAX:
            raise LimitError(f"the {block} of this program has {size} bytes, at most {INT32_MAX}")
    return program


def _values(graphs: Mapping[str, Graph]) -> dict[str, Array]:
    """Return the first value of every parameter: entry points know them by their names."""
    values: dict[str, Array] = {}
    for graph in graphs.values():
        for p in graph.params():
            value = graph.data[p.name]
            known = values.setdefault(p.name, value)
            same = known.dtype == value.dtype and np.array_equal(known, value)
            if known is not value and not same:
                raise ValueError(f"two parameters are called {p.name!r}")
    return values


def _origins(graph: Graph, written: set[str]) -> Iterator[tuple[str, Node]]:
    """Yield the parameters that are, at first, a part of a constant."""
    for n in graph.nodes:
        if isinstance(n.op, Overlay):
            whole, own = n.inputs
            if whole.name in written or not {whole.name, own.name} <= graph.data.keys():
                continue
            take = Take(n.op.axis, n.op.index)
            part = np.take(graph.data[whole.name], take.index, take.axis)
            if np.array_equal(part, graph.data[own.name]):
                yield own.name, Node(take, (whole,), own.type, own.name)


def _entry(name: str, graph: Graph, planner: Planner) -> Entry:
    storage = store(graph)
    entry = Entry(name, graph, storage, place(storage.buffers, planner))
    check_own([n.c_name for n in (*graph.inputs(), *entry.outputs.values()) if n.c_name])
    return entry
