"""A network as a file describes it: layers on tensors, in reals or in codes, before it is a graph.

Readers of files make it, `kilograd.layers.simplify` makes it plain, `kilograd.layers.quantise`
gives it codes where a file has none, and `kilograd.layers.lower` makes a graph of it.

Shapes have no batch axis.  In a network of `Layout.CHANNELS_LAST` maps are [h, w, c] (what TFLite
has), in one of `CHANNELS_FIRST` [c, h, w] (what ONNX and PyTorch have); all axes that operations
name count in that order, from 0, without the batch.  Filters are [out, kh, kw, in / groups] always.
A convolution over one axis is one over two, of which one has length 1.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass

from kilograd.ir import Affine, Array
from kilograd.quant import Curve as Curve  # noqa: PLC0414 an operation as others here
from kilograd.quant import CurveKind as CurveKind  # noqa: PLC0414
from kilograd.quant import Rounding

Pair = tuple[int, int]
"""Of the two axes of a map: down and across."""
Sides = tuple[int, int, int, int]
"""Top, bottom, left, right."""
Bounds = tuple[float, float]
"""The least and the largest real value; infinite where there is none."""

UNBOUNDED: Bounds = (-math.inf, math.inf)


class Layout(enum.Enum):
    """The order of the axes of a map."""

    CHANNELS_FIRST = enum.auto()
    CHANNELS_LAST = enum.auto()


@dataclass(frozen=True)
class Value:
    """A tensor that a layer makes or that is given: unlike others called so in its network.

    `quant`: what its codes mean, where the file says it; int8 then.
    """

    name: str
    shape: tuple[int, ...]
    quant: Affine | None = None


@dataclass(frozen=True, eq=False)
class Tensor:
    """Constant numbers: float32, or int8 and int32 codes with a `quant`.

    `origin`: where the file keeps them, in the words of its reader; what is written back goes
    there.  Empty: nowhere, they were computed from others.
    `order`: of weights [out, in] whose columns have changed places, which column of the file's
    each is; empty: none has.
    """

    values: Array
    quant: Affine | None = None
    origin: str = ""
    order: tuple[int, ...] = ()


# -- what layers do --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Constant:
    """Numbers; no inputs."""

    tensor: Tensor


@dataclass(frozen=True, eq=False)
class Convolution:
    """Filters [out, kh, kw, in / groups] over a map; bias [out]; then a clamp."""

    weight: Tensor
    bias: Tensor | None = None
    stride: Pair = (1, 1)
    pad: Sides = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    clamp: Bounds = UNBOUNDED


@dataclass(frozen=True, eq=False)
class Dense:
    """weight [out, in] times a vector [in], or each of the last axis; bias [out]; a clamp."""

    weight: Tensor
    bias: Tensor | None = None
    clamp: Bounds = UNBOUNDED


@dataclass(frozen=True, eq=False)
class ChannelScale:
    """x * factor[c] + offset[c], float32: what is left of a batch normalisation."""

    factor: Array
    offset: Array


@dataclass(frozen=True)
class Sum:
    """a + b, of one shape or broadcast as numpy does; then a clamp."""

    clamp: Bounds = UNBOUNDED


@dataclass(frozen=True)
class Product:
    """a * b, of one shape or broadcast as numpy does; then a clamp."""

    clamp: Bounds = UNBOUNDED


@dataclass(frozen=True)
class Clamp:
    """min(max(x, low), high): ReLU, ReLU6, clip."""

    bounds: Bounds


class PoolKind(enum.Enum):
    """What becomes of a window."""

    MAX = enum.auto()
    MEAN = enum.auto()


@dataclass(frozen=True)
class Pool:
    """Windows of a map.  Padding is never the largest, and counts in no mean unless `count_pad`."""

    kind: PoolKind
    kernel: Pair
    stride: Pair
    pad: Sides = (0, 0, 0, 0)
    count_pad: bool = False
    clamp: Bounds = UNBOUNDED


@dataclass(frozen=True)
class Mean:
    """The mean over some axes; they stay, 1 long, or go: the output's shape says which."""

    axes: tuple[int, ...]


@dataclass(frozen=True)
class Concat:
    """Tensors one behind the other along an axis."""

    axis: int


@dataclass(frozen=True)
class Slice:
    """count slices along an axis: from begin, each step further."""

    axis: int
    begin: int
    count: int
    step: int = 1


@dataclass(frozen=True)
class Gather:
    """The slices `index` along an axis."""

    axis: int
    index: tuple[int, ...]


@dataclass(frozen=True)
class Transpose:
    """Axes in another order: axis i of the output is axis order[i] of the input."""

    order: tuple[int, ...]


@dataclass(frozen=True)
class Reshape:
    """The same elements in the same order: the output says how."""


@dataclass(frozen=True)
class Pad:
    """value around a tensor: (before, after) for each axis."""

    sides: tuple[Pair, ...]
    value: float = 0.0


@dataclass(frozen=True)
class Resize:
    """Each pixel as factors[0] rows of factors[1]: nearest neighbour, larger only."""

    factors: Pair


@dataclass(frozen=True)
class Softmax:
    """Of the last axis: only where nothing follows that is not one, as it is left out."""


@dataclass(frozen=True)
class LogSoftmax:
    """The logarithm of `Softmax`, where that may stand."""


@dataclass(frozen=True)
class Requantise:
    """The same reals in another scale and zero point; in a float network nothing."""


Operation = (
    Constant
    | Convolution
    | Dense
    | ChannelScale
    | Sum
    | Product
    | Clamp
    | Curve
    | Pool
    | Mean
    | Concat
    | Slice
    | Gather
    | Transpose
    | Reshape
    | Pad
    | Resize
    | Softmax
    | LogSoftmax
    | Requantise
)


@dataclass(frozen=True, eq=False)
class Layer:
    """An operation on values: `name` is what people call it, unlike others in its network."""

    name: str
    op: Operation
    inputs: tuple[Value, ...]
    output: Value


@dataclass(frozen=True)
class Source:
    """The file that a network is from: its format, as people call it, its name and checksum.

    A network of this process has no checksum.
    """

    format: str
    file: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Taken:
    """How an input is had from what the file takes, of `shape` there, without a batch axis.

    Its axes are put in this `order`, then it is reshaped as the input of the network is.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Network:
    """Layers in an order in which they can be computed.

    `rounding`: whose arithmetic the codes were made for.
    `taken`: how each input is had from that of the file; empty: they are the same.
    """

    name: str
    layout: Layout
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    layers: tuple[Layer, ...]
    source: Source
    rounding: Rounding = Rounding.NEAREST
    taken: tuple[Taken, ...] = ()

    @property
    def quantised(self) -> bool:
        """Whether layers with weights have codes."""
        return any(
            isinstance(x.op, Convolution | Dense) and x.op.weight.quant is not None
            for x in self.layers
        )

    def made(self) -> dict[Value, Layer]:
        """Map each value to the layer that makes it."""
        return {x.output: x for x in self.layers}

    def users(self) -> dict[Value, list[Layer]]:
        """Map each value to the layers that read it, in order."""
        out: dict[Value, list[Layer]] = {v: [] for v in self.values()}
        for x in self.layers:
            for v in x.inputs:
                out[v].append(x)
        return out

    def values(self) -> Iterator[Value]:
        """Yield what is given and what layers make, in order."""
        yield from self.inputs
        for x in self.layers:
            yield x.output
