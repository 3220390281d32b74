"""Chains of layers over rows instead of whole maps.

A stream computes what its stages compute one after the other, but a row at a time and on
demand: each stage keeps only the rows that later stages still have to read.  Nothing is computed
twice, and the integers are the same.  The input may come row by row as well: then it is a stage
that reads its next row from the caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

from kilograd.ir import (
    Kernel,
    Node,
    Op,
    Param,
    Params,
    Range,
    StageCall,
    StreamedInput,
    TensorType,
    Value,
)
from kilograd.ir.params import Count, Length, Size
from kilograd.memory import aligned
from kilograd.ops._common import array, no_vjp, require
from kilograd.ops.conv import Conv
from kilograd.ops.depthwise import Depthwise
from kilograd.ops.elementwise import Add, AddLimitedParams, AddParams
from kilograd.ops.max_pool import MaxPool
from kilograd.ops.mean_pool import MeanPool

INPUT = -1
"""The source that stands for the input of the stream."""

StageOp = Conv | Depthwise | Add | MaxPool | MeanPool
_KINDS = {Conv: 0, Depthwise: 1, Add: 2, MaxPool: 8, MeanPool: 9}  # kg_stage_kind in kg.h
_LIMITED = 4  # added for layers with limits or another rounding
_ROWS = 3
COUNTER_BYTES = 4  # per stage: first and last row in its buffer, int16 each


Bytes = Annotated[int, Range("int32_t", 0, (1 << 31) - 1)]


@dataclass(frozen=True, eq=False)
class StageParams(Params):
    """A layer of a stream: what it computes a whole map with (`params`: kg_conv_params,
    kg_depthwise_params or kg_add_params, or kg_conv_limited_params and so on; null for the rows of
    an image), and the buffer that keeps its newest rows, at `offset` of the scratch memory.
    source: stages whose rows it reads; -1: the input.
    """

    row_bytes: Count
    offset: Bytes
    kind: Annotated[int, Range("int16_t", 0, 9)]  # kg_stage_kind
    source: Annotated[tuple[int, int], Range("int16_t", -1, 32766)]
    height: Size
    rows: Annotated[int, Range("int16_t", 0, 32767)]
    struct = "kg_stage"
    pointers = {"params": "const void *", "w": "const int8_t *", "b": "const int32_t *"}  # noqa: RUF012
    products = (("height", "row_bytes"),)


@dataclass(frozen=True, eq=False)
class StreamParams(Params):
    """Layers, the last of which writes the result, and their input."""

    count: Length
    row_bytes: Count
    height: Length
    work_offset: Bytes
    pointers = {"stages": "const kg_stage *"}  # noqa: RUF012
    products = (("height", "row_bytes"),)


@dataclass(frozen=True)
class Stage:
    """A layer of a stream.  Its maps come from earlier stages, or from the `INPUT`."""

    op: StageOp
    sources: tuple[int, ...]


@dataclass(frozen=True)
class Stream(Op):
    """Several layers, all of them a row at a time.

    Inputs: the map, then weights and bias of each stage that has them, in order.
    Weights must be constant: a stream belongs to the part of a network that does not learn.
    """

    stages: tuple[Stage, ...]

    def infer(self, *xs: TensorType) -> TensorType:
        maps: list[TensorType] = []
        for stage, params in self._with_params(xs[1:]):
            sources = [xs[0] if i == INPUT else maps[i] for i in stage.sources]
            maps.append(stage.op.infer(*sources, *params))
        require(maps, "a stream needs a stage")
        return maps[-1]

    def _with_params(
        self, params: tuple[TensorType, ...]
    ) -> Iterator[tuple[Stage, tuple[TensorType, ...]]]:
        taken = 0
        for stage in self.stages:
            count = 2 if isinstance(stage.op, Conv | Depthwise) else 0
            yield stage, params[taken : taken + count]
            taken += count
        require(taken == len(params), f"the stages take {taken} parameters, not {len(params)}")

    def unrolled(self, node: Node) -> tuple[Node, ...]:
        """Return the stages as nodes of their own."""
        out: list[Node] = []
        params = iter(node.inputs[1:])
        for i, stage in enumerate(self.stages):
            inputs = [node.inputs[0] if s == INPUT else out[s] for s in stage.sources]
            if isinstance(stage.op, Conv | Depthwise):
                inputs += [next(params), next(params)]
            kind = stage.op.infer(*(x.type for x in inputs))
            out.append(Node(stage.op, tuple(inputs), kind, f"{node.name}.{i}"))
        return tuple(out)

    def reference(self, node: Node, *xs: Value) -> Value:
        env = dict(zip(node.inputs, map(array, xs), strict=True))
        nodes = self.unrolled(node)
        for n in nodes:
            env[n] = array(n.op.reference(n, *(env[x] for x in n.inputs)))  # type: ignore[arg-type]
        return env[nodes[-1]]

    vjp = no_vjp

    def macs(self, node: Node) -> int:
        return sum(n.op.macs(n) for n in self.unrolled(node))

    def kernel(self, node: Node) -> Kernel:
        image, nodes = node.inputs[0], self.unrolled(node)
        height, width, channels = image.type.shape
        delivered = isinstance(image.op, StreamedInput)
        offset = COUNTER_BYTES * (len(nodes) + delivered)
        stages: list[StageCall] = []
        work = 0
        if delivered:
            rows = self.input_rows(node)
            layout = StageParams(width * channels, offset, _ROWS, (INPUT, INPUT), height, rows)
            stages.append(StageCall(None, layout))
            offset += aligned(rows * width * channels)
        for n, stage, rows in zip(nodes, self.stages, self.capacities(node), strict=True):
            k = n.op.kernel(n)
            row_bytes = n.type.shape[1] * n.type.shape[2]
            if isinstance(stage.op, Add):
                assert isinstance(k.params, AddParams | AddLimitedParams)  # noqa: S101 says so to the type checker
                k = replace(k, params=replace(k.params, size=row_bytes))
            constants = n.inputs[1:] if isinstance(stage.op, Conv | Depthwise) else ()
            source = (stage.sources[0] + delivered, stage.sources[-1] + delivered)
            kind = _kind(stage.op)
            layout = StageParams(row_bytes, offset, kind, source, n.type.shape[0], rows)
            stages.append(StageCall(k, layout, *constants))
            offset += aligned(rows * row_bytes)
            work = max(work, k.scratch)
        return Kernel(
            _symbol(max(_kind(stage.op) for stage in self.stages)),
            (None, image) if delivered else (image, None),
            StreamParams(len(stages), width * channels, height, offset),
            scratch=offset + work,
            stages=tuple(stages),
        )

    def capacities(self, node: Node) -> tuple[int, ...]:
        """Return how many rows each stage must be able to keep; the last one writes its map."""
        return self._rows_kept(node)[1:]

    def input_rows(self, node: Node) -> int:
        """Return how many rows of its input the stream must keep, where those come one by one."""
        return self._rows_kept(node)[0]

    def _rows_kept(self, node: Node) -> tuple[int, ...]:
        """Run the schedule of kg_stream.c without the arithmetic; number 0 is the input."""
        nodes = self.unrolled(node)
        reads = [[(0, 0)] * node.inputs[0].type.shape[0], *map(_rows_read, nodes)]
        final = len(nodes)
        sources = [(), *([s + 1 for s in stage.sources] for stage in self.stages)]
        readers = [[j for j, s in enumerate(sources) if i in s] for i in range(final + 1)]
        done = [0] * (final + 1)
        kept = [0] * (final + 1)

        def lacking(i: int) -> int | None:
            """Return a stage that must go on before stage i can compute its next row."""
            end = reads[i][done[i]][1]
            return next((s for s in sources[i] if done[s] < end), None)

        while done[final] < len(reads[final]):
            i = final
            while (before := lacking(i)) is not None:
                i = before
            wanted = [reads[j][done[j]][0] for j in readers[i] if done[j] < len(reads[j])]
            kept[i] = max(kept[i], done[i] + 1 - min(wanted, default=done[i] + 1))
            done[i] += 1
        return tuple(kept)


def _kind(op: StageOp) -> int:
    """Return the kg_stage_kind of a layer."""
    limited = isinstance(op, Conv | Depthwise | Add) and not op.usual
    return _KINDS[type(op)] + (_LIMITED if limited else 0)


def _symbol(kind: int) -> str:
    """Return the function that knows kinds up to one: programs hold the kernels of few."""
    if kind >= _KINDS[MaxPool]:
        return "kg_stream_pooled"
    return "kg_stream_limited" if kind >= _LIMITED else "kg_stream"


def _rows_read(n: Node) -> list[tuple[int, int]]:
    """Return, for every row of a stage, the half-open range of input rows that it reads."""
    rows, height = n.type.shape[0], n.inputs[0].type.shape[0]
    match n.op:
        case Conv(window=window):
            kernel = n.inputs[1].type.shape[1]
        case Depthwise(window=window):
            kernel = n.inputs[1].type.shape[0]
        case MaxPool(size=(kernel, _), window=window) | MeanPool(size=(kernel, _), window=window):
            pass
        case _:
            return [(row, row + 1) for row in range(rows)]
    starts = [row * window.stride[0] - window.pad[0] for row in range(rows)]
    return [(max(start, 0), min(start + kernel, height)) for start in starts]


def streamable(n: Node, learned: frozenset[str]) -> bool:
    """Say whether a node can be a stage: a layer with constant weights, a residual sum, a pool."""
    if isinstance(n.op, Add | MaxPool | MeanPool):
        return True
    return isinstance(n.op, Conv | Depthwise) and all(
        isinstance(p.op, Param) and p.name not in learned for p in n.inputs[1:]
    )
