"""How long a call may take on a board: instructions by a model, cycles by a range.

Nothing here was measured on a board.  docs/time.md says how both were made, and what they leave
out; `benchmarks/time_model.py` fits the rates again.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kilograd import ops
from kilograd.boards import Board, Core
from kilograd.emit import Program
from kilograd.ir import Graph, Leaf, Node


class Work(enum.StrEnum):
    """What instructions are counted by.

    A weight is read once for a call of its kernel, and once for a row in a stream.
    """

    POINTWISE_MACS = "multiply-accumulates of 1x1 convolutions"
    POINTWISE_RESULTS = "results of 1x1 convolutions"
    POINTWISE_WEIGHTS = "weights read by 1x1 convolutions"
    CONV_RESULTS = "results of other convolutions, of few products each"
    CONV_MACS = "multiply-accumulates of other convolutions, of many products a result"
    DEPTHWISE_MACS = "multiply-accumulates of depthwise convolutions"
    DEPTHWISE_RESULTS = "results of depthwise convolutions"
    DEPTHWISE_WEIGHTS = "weights read by depthwise convolutions"
    DX_MACS = "multiply-accumulates of input gradients of convolutions"
    DX_RESULTS = "results of input gradients of convolutions"
    DX_WEIGHTS = "weights read by input gradients of convolutions"
    DEPTHWISE_DX_TAPS = "results times taps of input gradients of depthwise convolutions"
    DEPTHWISE_DX_RESULTS = "results of input gradients of depthwise convolutions"
    POINTWISE_DW_MACS = "multiply-accumulates of weight gradients of 1x1 convolutions"
    CONV_DW_MACS = "multiply-accumulates of weight gradients of other convolutions"
    DEPTHWISE_DW_MACS = "multiply-accumulates of weight gradients of depthwise convolutions"
    WEIGHTS_UPDATED = "weights updated with their gradient"
    VALUES_UPDATED = "other values updated"
    HEAD_MACS = "multiply-accumulates of the head"
    ELEMENTS = "elements read and written by everything else"
    CALLS = "calls of kernels"


#: Instructions of each, on a Cortex-M with the kernels of `arm_dsp`, clang -O3.
RATES: Mapping[Work, float] = MappingProxyType(
    {
        Work.POINTWISE_MACS: 0.761,
        Work.POINTWISE_RESULTS: 7.72,
        Work.POINTWISE_WEIGHTS: 3.92,
        Work.CONV_RESULTS: 35.7,
        Work.CONV_MACS: 1.09,
        Work.DEPTHWISE_MACS: 1.2,
        Work.DEPTHWISE_RESULTS: 18.7,
        Work.DEPTHWISE_WEIGHTS: 8.98,
        Work.DX_MACS: 0.712,
        Work.DX_RESULTS: 13.9,
        Work.DX_WEIGHTS: 2.23,
        Work.DEPTHWISE_DX_TAPS: 1.35,
        Work.DEPTHWISE_DX_RESULTS: 27.0,
        Work.POINTWISE_DW_MACS: 4.35,
        Work.CONV_DW_MACS: 12.7,
        Work.DEPTHWISE_DW_MACS: 15.9,
        Work.WEIGHTS_UPDATED: 65.3,
        Work.VALUES_UPDATED: 79.2,
        Work.HEAD_MACS: 6.0,
        Work.ELEMENTS: 0.831,
        Work.CALLS: 4370.0,
    }
)

_FEW = 75  # products of a result of a first layer, 5x5 of three channels

#: The largest share by which the model missed a call of a network that it was not fitted on.
ERROR = 0.25


def work(graph: Graph) -> Mapping[Work, float]:
    """Return the work of an entry point, which runs its calls once."""
    found: defaultdict[Work, float] = defaultdict(float)
    for node, rows in _calls(graph):
        found[Work.CALLS] += rows
        for kind, amount in _work(node, rows):
            found[kind] += amount
    return found


def instructions(graph: Graph) -> int:
    """Return about how many instructions an entry point executes."""
    return round(sum(RATES[kind] * amount for kind, amount in work(graph).items()))


def _calls(graph: Graph) -> Iterator[tuple[Node, int]]:
    """Yield what is computed, and how often its kernel is called: for each row in a stream."""
    for n in graph.nodes:
        if isinstance(n.op, Leaf) or n.op.view:
            continue
        if isinstance(n.op, ops.Stream):
            yield from ((inner, inner.type.shape[0]) for inner in n.op.unrolled(n))
        else:
            yield n, 1


def _work(n: Node, calls: int) -> Iterator[tuple[Work, float]]:
    results, macs = n.type.size, n.op.macs(n)
    match n.op:
        case ops.Conv() if n.inputs[1].type.shape[1] == 1:
            yield Work.POINTWISE_MACS, macs
            yield Work.POINTWISE_RESULTS, results
            yield Work.POINTWISE_WEIGHTS, calls * n.inputs[1].type.size
        case ops.Conv() if macs <= _FEW * results:
            yield Work.CONV_RESULTS, results
        case ops.Conv() | ops.GroupedConv():
            yield Work.CONV_MACS, macs
            yield Work.POINTWISE_RESULTS, results
            yield Work.POINTWISE_WEIGHTS, calls * n.inputs[1].type.size
        case ops.Depthwise():
            yield Work.DEPTHWISE_MACS, macs
            yield Work.DEPTHWISE_RESULTS, results
            yield Work.DEPTHWISE_WEIGHTS, calls * n.inputs[1].type.size
        case ops.ConvInputGrad() | ops.GroupedInputGrad():
            yield Work.DX_MACS, macs
            yield Work.DX_RESULTS, results
            yield Work.DX_WEIGHTS, n.inputs[1].type.size
        case ops.DepthwiseInputGrad():
            height, width, *_ = n.inputs[1].type.shape
            yield Work.DEPTHWISE_DX_TAPS, results * height * width
            yield Work.DEPTHWISE_DX_RESULTS, results
        case ops.RowUpdate():
            yield _gradient(n), macs
            yield Work.WEIGHTS_UPDATED, results
        case ops.Sgd() | ops.Momentum() | ops.RowRms() | ops.Adam() | ops.Accumulate():
            yield Work.VALUES_UPDATED, results
        case ops.Dense() | ops.DenseInputGrad() | ops.Cosine() | ops.CosineInputGrad():
            yield Work.HEAD_MACS, macs
        case _:
            read = sum(x.type.size for x in n.inputs if not isinstance(x.op, Leaf))
            yield Work.ELEMENTS, results + read


def _gradient(n: Node) -> Work:
    """Return what the gradient of an update is counted as."""
    match n.op:
        case ops.RowUpdate(grad=ops.DepthwiseWeightGrad()):
            return Work.DEPTHWISE_DW_MACS
        case ops.RowUpdate(grad=ops.GroupedWeightGrad()):
            return Work.POINTWISE_DW_MACS
        case ops.RowUpdate(grad=ops.ConvWeightGrad()):
            one = n.inputs[0].type.shape[1] == 1
            return Work.POINTWISE_DW_MACS if one else Work.CONV_DW_MACS
        case _:
            return Work.HEAD_MACS


@dataclass(frozen=True)
class Seconds:
    """About how long something takes, and between what."""

    about: float
    low: float
    high: float


@dataclass(frozen=True)
class _Cycles:
    """Cycles for an instruction: from the least to the most that is thinkable."""

    low: float
    about: float
    high: float


#: Where each figure is from: docs/time.md.
_CYCLES = {
    Core.M7: _Cycles(1.1, 1.26, 2.0),
    Core.M4: _Cycles(1.5, 1.75, 2.6),
    Core.M33: _Cycles(1.2, 1.75, 2.6),
}


def estimated(program: Program, entry: str, board: Board) -> Seconds | None:
    """Return about how long a call takes on a board; None where the program has none."""
    if entry not in program.entries:
        return None
    return seconds(instructions(program.entries[entry].graph), board, ERROR)


def seconds(executed: int, board: Board, error: float = 0.0) -> Seconds:
    """Return how long so many instructions take on a board at its fastest clock.

    `error` is the share by which their number may be wrong.

    >>> from kilograd.boards import find_board
    >>> found = seconds(50_000_000, find_board("stm32f746-disco"))
    >>> f"{found.about:.2f} s ({found.low:.2f} to {found.high:.2f})"
    '0.29 s (0.25 to 0.46)'
    """
    cycles, clock = _CYCLES[board.chip.core], board.mhz * 1e6
    return Seconds(
        executed * cycles.about / clock,
        executed * (1 - error) * cycles.low / clock,
        executed * (1 + error) * cycles.high / clock,
    )
