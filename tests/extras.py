"""What stands behind a unit of a random network: products, tables, parts that join again, views."""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from samples import table

from kilograd import ops
from kilograd.ir import Affine, Node, Op
from kilograd.ops import Window
from kilograd.quant import CurveKind

if TYPE_CHECKING:
    from helpers import Network


class Extra(enum.Enum):
    """A few ops that make a map of a map."""

    SQUEEZE = "a factor for each channel, from the mean of all pixels"
    GATE = "a factor for each pixel"
    SILU = "a table, times its own argument"
    LEAKY = "a table"
    CLIP = "another scale, with a clamp of its own"
    SHUFFLE = "channels in another order"
    REPEAT = "rows, some of them several times"
    HALVES = "half of the channels through a layer, then joined"
    BANDS = "three bands of rows, joined in another order"
    MARGIN = "zeros around a map, and channels of zeros"
    WIDER = "columns twice"
    ROW = "all pixels in one row"
    FLAT = "one pixel of all elements"


def extended(  # noqa: PLR0912 a case for each
    net: Network, name: str, x: Node, extra: Extra
) -> Node:
    """Append what `extra` says behind x."""
    h, w, c = x.type.shape
    quant = x.type.affine

    def run(op: Op, *xs: Node, part: str = "y") -> Node:
        return net._run(net.b(op, *xs, name=f"{name}.{part}"))

    def layer(part: str, y: Node, channels: int, *, relu: bool = False) -> Node:
        shape = (channels, 1, 1, y.type.shape[2])
        return net.layer(f"{name}.{part}", y, Window(), shape, relu=relu)

    match extra:
        case Extra.SQUEEZE:
            few = layer("few", run(ops.AvgPool(), x, part="mean"), 1 + c // 3, relu=True)
            gate = _gate(run, CurveKind.SIGMOID, layer("many", few, c))
            return run(ops.Product(replace(quant, zero_point=3)), x, gate)
        case Extra.GATE:
            gate = _gate(run, CurveKind.HARD_SIGMOID, layer("one", x, 1))
            return run(ops.Product(quant), x, gate)
        case Extra.SILU:
            return run(ops.Product(quant), x, _gate(run, CurveKind.SIGMOID, x))
        case Extra.LEAKY:
            out = Affine((quant.scale[0] * 0.7,), -11)
            return run(table(CurveKind.LEAKY, x.type, out, 0.1), x)
        case Extra.CLIP:
            out = Affine((quant.scale[0] * 1.3,), 17)
            return run(ops.Rescale(out, limits=(-60, 90)), x)
        case Extra.SHUFFLE:
            return run(ops.Take(2, tuple(net.rng.permutation(c).tolist())), x)
        case Extra.REPEAT:
            return run(ops.Take(0, (h - 1, *range(h), 0)), x)
        case Extra.HALVES if c > 1:
            low, high = (
                run(ops.Take(2, part), x, part=f"part{part[0]}")
                for part in (tuple(range(c // 2)), tuple(range(c // 2, c)))
            )
            same = run(ops.Rescale(quant), layer("half", low, c // 2), part="scaled")
            return run(ops.Concat(), high, same, low)
        case Extra.BANDS:
            top, bottom = (
                run(ops.Take(0, rows), x, part=f"rows{rows[0]}")
                for rows in ((0,), tuple(range(h // 2, h)))
            )
            return run(ops.Concat(0), bottom, top, x)
        case Extra.MARGIN:
            return run(ops.PadMap(((1, 0), (0, 2), (0, 1))), x)
        case Extra.WIDER:
            return run(ops.Upsample((1, 2)), x)
        case Extra.ROW:
            return run(ops.Reshape((1, h * w, c)), x)
        case Extra.FLAT:
            line = run(ops.Reshape((1, 1, h * w * c)), x, part="line")
            return run(ops.Reshape((1, 1, h * w * c)), line)  # a view of a view
    return x


class _Run(Protocol):
    def __call__(self, op: Op, *xs: Node, part: str = ...) -> Node: ...


def _gate(run: _Run, kind: CurveKind, x: Node) -> Node:
    """Append a table whose results lie between 0 and 1."""
    return run(table(kind, x.type, Affine((1 / 256,), -128)), x, part="gate")
