"""What any choice would cost, predicted from the cost of its parts.

A compiled program takes its state and, at the worst moment, so many bytes of its arena.  A weight
that learns adds to the state, and to the arena from the moment its input is kept to the moment it
is updated; what the others do does not change that, as long as the order of execution stays.  So
the bytes at each moment are a sum: those of the biases alone, and what each share adds.  The parts
are read off programs in which one share learns, compiled up to their memory plan.

A moment is a step that the program of the biases has, too; what comes between belongs to the one
before it.  Two things decide what a share adds: the share, and whether its layer is the earliest
that learns, since no gradient passes through that one.

The prediction is the most bytes alive at once: no plan of that order can need less, and a greedy
one may need a little more.  Of 260 random update plans of MCUNet 229 needed what was predicted and
none less; the largest lack was 2,048 bytes (docs/results/studies/search.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from kilograd.errors import InputError, option
from kilograd.ir import Array, Graph, Leaf
from kilograd.memory import STAMP_BYTES, aligned
from kilograd.passes import EntryPoint, store
from kilograd.search.contribution import SHARES
from kilograd.search.genome import Genome, selection
from kilograd.select.selection import Demand, Evidence, Selection

Lower = Callable[[Selection], Mapping[str, Graph]]
"""Makes the entry points of a program, scheduled; `InputError` where what learns does not allow it.
"""

Moment = tuple[str, str]
"""An entry point, and a node of it."""

_ALL: Moment = ("", "")
"""The only moment of a count by formulas."""

_BEFORE = 3
"""So many layers before a share learn biases where its cost as not the earliest is taken: a block,
so that a map around it is kept as well."""


@dataclass(frozen=True)
class _Program:
    """Bytes of state, and of state and arena at moments; MACs of a backward pass."""

    state: int
    sram: Mapping[Moment, int]
    macs: int

    def less(self, base: _Program) -> _Program:
        """Return what this has more than `base`, at the moments that both have."""
        both = {m: size - base.sram[m] for m, size in self.sram.items() if m in base.sram}
        return _Program(self.state - base.state, both, self.macs - base.macs)


@dataclass(frozen=True)
class Footprint:
    """Costs of n layers with S shares each, at the T moments that can be the worst.

    `depths`: bool [n + 1], how many layers may learn biases so that there is a program.
    `able`: bool [2, n, S + 1], whether a share was compiled as below; share 0, none, always.
    `base`: int64 [n + 1, T], bytes where the biases of the last k learn; `base_macs`: [n + 1].
    `more`: int64 [2, n, S + 1, T], what a share adds, share 0 being none; [1] where its layer is
    the earliest that learns; `more_macs`: [2, n, S + 1].
    """

    depths: Array
    able: Array
    base: Array
    base_macs: Array
    more: Array
    more_macs: Array

    def totals(self, k: Array, genes: Array) -> tuple[Array, Array]:
        """Return bytes [m, T] and MACs [m] of k [m] and indices of shares, genes [m, n]."""
        sram, macs = self.base[k].copy(), self.base_macs[k].copy()
        layers = genes.shape[1]
        for i in range(layers):
            first = (k == layers - i).astype(int)
            sram += self.more[first, i, genes[:, i]]
            macs += self.more_macs[first, i, genes[:, i]]
        return sram, macs


def footprint(
    evidence: Evidence,
    lower: Lower,
    options: Collection[tuple[int, int]],
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Footprint:
    """Compile the parts: biases to every depth, and each of `options`, a layer and a share's index.

    Raises `InputError` where not one depth makes a program: the last reason.
    """
    count = len(evidence.layers)
    total, done = count + 2 * len(options), 0

    def tick() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    base: dict[int, _Program] = {}
    failed: InputError | None = None
    for k in range(1, count + 1):
        try:
            base[k] = _program(lower(selection(evidence, _only(count, k))))
        except InputError as e:
            failed = e
        tick()
    if not base:
        raise failed or InputError(
            f"{option('model')} {evidence.name}: has no convolution that could learn"
        )
    adds: dict[tuple[int, int, int], _Program] = {}
    for i, s in sorted(options):
        for first in (1, 0):
            tick()
            depth = _depth(base, count, i, earliest=bool(first))
            if depth is None:
                continue
            alone = selection(evidence, _only(count, depth, i, SHARES[s - 1]))
            try:
                graphs = lower(alone)
            except InputError:
                continue
            found = _program(graphs, base[depth].sram, evidence.layers[i])
            adds[first, i, s] = found.less(base[depth])
    return _tables(count, base, adds)


def counted(
    evidence: Evidence, cost: Callable[[Selection], Demand], options: Collection[tuple[int, int]]
) -> Footprint:
    """Return what parts cost by formulas: of one moment, and to each layer a term of its own.

    `cost` says so of a selection, and must be a sum over layers once biases learn from the first
    of them on: as `kilograd.select.cost.tte` is.
    """
    count = len(evidence.layers)

    def program(genome: Genome) -> _Program:
        demand = cost(selection(evidence, genome))
        return _Program(0, {_ALL: demand.sram}, demand.backward_macs)

    base = {k: program(_only(count, k)) for k in range(1, count + 1)}
    adds = {}
    for i, s in options:
        depth = count - i
        added = program(_only(count, depth, i, SHARES[s - 1])).less(base[depth])
        adds[0, i, s] = adds[1, i, s] = added
    return _tables(count, base, adds)


def _depth(base: Collection[int], count: int, layer: int, *, earliest: bool) -> int | None:
    """Return how many layers shall learn biases beside the weights of one."""
    if earliest:
        return count - layer if count - layer in base else None
    deeper = [k for k in base if k > count - layer]
    return min(deeper, key=lambda k: abs(k - (count - layer + _BEFORE)), default=None)


def _only(count: int, k: int, layer: int = 0, share: float = 0.0) -> Genome:
    shares = [0.0] * count
    shares[layer] = share
    return Genome(k, tuple(shares))


def _program(
    graphs: Mapping[str, Graph],
    moments: Collection[Moment] | None = None,
    since: str | None = None,
) -> _Program:
    """Return the bytes in use at each of the moments, by default at each step.

    `since`: look only at what comes from this layer on.  Which chains of earlier layers are
    streamed follows from the peak, and is no cost of the layer.
    """
    written = {p.name for g in graphs.values() for p in g.written()}
    values = {p.name: g.data[p.name] for g in graphs.values() for p in g.params()}
    state = sum(aligned(v.nbytes) for name, v in values.items() if name in written)
    state += STAMP_BYTES if written else 0
    sram: dict[Moment, int] = {}
    for entry, graph in graphs.items():
        changes = np.zeros(len(graph.nodes) + 2, np.int64)
        for b in store(graph).buffers:
            changes[b.first] += b.room
            changes[b.last] -= b.room
        names = [n.name for n in graph.nodes]
        begun = since is None or (since not in names and bool(graph.written()))
        moment = None
        for node, arena in zip(graph.nodes, np.cumsum(changes).tolist(), strict=False):
            begun = begun or node.name == since
            if isinstance(node.op, Leaf) or node.op.view or not begun:
                continue
            if moments is None or (entry, node.name) in moments:
                moment = (entry, node.name)
            if moment is not None:
                sram[moment] = max(sram.get(moment, 0), state + arena)
    step = sum(graphs[e].macs() for e in (EntryPoint.PREFIX, EntryPoint.STEP) if e in graphs)
    return _Program(state, sram, step - graphs[EntryPoint.INFER].macs())


def _tables(
    count: int,
    base: Mapping[int, _Program],
    adds: Mapping[tuple[int, int, int], _Program],
) -> Footprint:
    at = {m: t for t, m in enumerate(dict.fromkeys(m for p in base.values() for m in p.sram))}
    depths = np.zeros(count + 1, bool)
    tables = np.zeros((2, count, len(SHARES) + 1, len(at)), np.int64)
    table_macs = np.zeros(tables.shape[:-1], np.int64)
    for where, added in adds.items():
        tables[where] = added.state  # at moments that the program it was read off does not have
        for m, size in added.sram.items():
            tables[where][at[m]] = size
        table_macs[where] = added.macs
    # A moment that a program does not have shall never be its worst.
    absent = -tables.max(axis=(0, 2)).sum(axis=0)
    rows = np.tile(absent, (count + 1, 1))
    base_macs = np.zeros(count + 1, np.int64)
    for k, program in base.items():
        depths[k], base_macs[k] = True, program.macs
        for m, size in program.sram.items():
            rows[k, at[m]] = size
    able = np.zeros(tables.shape[:-1], bool)
    able[:, :, 0] = True
    for where in adds:
        able[where] = True
    worst = _undominated(np.concatenate([rows[depths], tables.reshape(-1, len(at))]))
    return Footprint(depths, able, rows[:, worst], base_macs, tables[..., worst], table_macs)


def _undominated(bytes_: Array) -> Array:
    """Return the moments that can be the worst: of bytes [parts, T], indices of columns.

    One that takes no more in any part than another is never the worst alone.
    """
    kept = np.arange(bytes_.shape[1])
    for t in range(bytes_.shape[1]):
        mine = bytes_[:, [t]]
        others = kept[kept != t]
        if (bytes_[:, others] >= mine).all(axis=0).any():
            kept = others
    return kept
