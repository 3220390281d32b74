"""From layers with codes to a graph of ops.

The network must be simple (`kilograd.layers.simplify`): channels last, every value with a
quantisation.  A value [c] is a map [1, 1, c], and [n, c] is [1, n, c].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kilograd import limits, ops
from kilograd.errors import InputError
from kilograd.ir import (
    Affine,
    Array,
    Builder,
    DType,
    Graph,
    Input,
    Node,
    Op,
    Param,
    Role,
    ShapeError,
    TensorType,
    dead_code,
)
from kilograd.layers.network import (
    Bounds,
    Clamp,
    Concat,
    Constant,
    Convolution,
    Dense,
    Gather,
    Layer,
    Mean,
    Network,
    Operation,
    Pad,
    Pool,
    PoolKind,
    Product,
    Requantise,
    Reshape,
    Resize,
    Slice,
    Sum,
    Tensor,
    Transpose,
    Value,
)
from kilograd.layers.with_number import with_number
from kilograd.ops import Window
from kilograd.passes import (
    AccumulatorError,
    LimitError,
    accumulator_bounds,
    check_ranges,
)
from kilograd.quant import Curve, Rounding, curve_codes, curve_slopes

Limits = tuple[int, int]
_CODES: Limits = (-128, 127)


@dataclass(frozen=True)
class Lowered:
    """A graph whose outputs are the features, int8 [1, 1, c], and then those of the network.

    `layers`: what has weights and is no part of the classifier, in the order of execution.
    `nodes`: which node each value of the network has become.
    """

    graph: Graph
    layers: tuple[str, ...]
    nodes: Mapping[Value, Node]


class NoGraphError(ValueError):
    """Layers that no op computes; `reasons` has a line for each."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = tuple(reasons)


def lower(network: Network) -> Lowered:
    """Return the graph of a network.

    Raises `NoGraphError` with a line for every layer that has no op, `InputError` where an int32
    sum could overflow, or a layer is larger than its kernel takes.
    """
    if len(network.inputs) != 1:
        names = ", ".join(v.name for v in network.inputs)
        raise NoGraphError([f"it has {len(network.inputs)} inputs ({names}); give one with one"])
    lowering = _Lowering(network.rounding)
    (image,) = network.inputs
    shape = _map(image.shape)
    b = lowering.builder
    lowering.nodes[image] = b.input("image", TensorType(shape, DType.I8, image.quant))
    for layer in network.layers:
        lowering.append(layer)
    if lowering.reasons:
        raise NoGraphError(lowering.reasons)
    outputs = [lowering.nodes[v] for v in network.outputs]
    graph = dead_code(b.graph(_features(b, outputs), *outputs))
    _check_size(network, graph)
    try:
        check_ranges(graph)
        accumulator_bounds(graph, ())
    except (AccumulatorError, LimitError) as e:
        raise InputError(f"{network.source.file or network.name}: {e}") from e
    return Lowered(graph, trunk(graph), lowering.nodes)


def _check_size(network: Network, graph: Graph) -> None:
    """Raise `NoGraphError` for more than a model folder can say."""
    count = sum(not isinstance(n.op, Param | Input) for n in graph.nodes)
    if count > limits.OPERATORS:
        raise NoGraphError([f"it has {count:,} operators; {limits.OPERATORS:,} are the most"])
    if len(network.outputs) > limits.INPUTS:
        raise NoGraphError([f"it has {len(network.outputs)} outputs; {limits.INPUTS} are the most"])


def _features(b: Builder, outputs: list[Node]) -> Node:
    """Return what a new head reads: what the last layer with weights reads, averaged if a map."""
    before = _ancestors(outputs[0]) | {outputs[0]}
    last = [n for n in b.nodes if n in before and isinstance(n.op, ops.LayerOp)]
    x = last[-1].inputs[0] if last else outputs[0]
    return x if x.type.shape[:2] == (1, 1) else b(ops.AvgPool(), x, name="features")


def trunk(graph: Graph) -> tuple[str, ...]:
    """Name the layers with weights that the features stand on."""
    features = graph.outputs[0]
    before = _ancestors(features) | {features}
    return tuple(n.name for n in graph.nodes if n in before and isinstance(n.op, ops.LayerOp))


def _ancestors(node: Node) -> set[Node]:
    """Return all that a node is computed from."""
    found: set[Node] = set()
    queue = list(node.inputs)
    while queue:
        n = queue.pop()
        if n not in found:
            found.add(n)
            queue += n.inputs
    return found


def _map(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape with three axes."""
    return (1,) * (3 - len(shape)) + shape


@dataclass
class _Lowering:
    """What has been appended so far, and what could not be."""

    rounding: Rounding
    builder: Builder = field(default_factory=Builder)
    nodes: dict[Value, Node] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def append(self, layer: Layer) -> None:
        """Append a layer, or the reason why not."""
        if any(v not in self.nodes for v in layer.inputs):
            return  # said of the layer that should have made it
        wide = [v for v in (*layer.inputs, layer.output) if len(v.shape) > 3]
        if wide:
            self._refuse(layer, f"{wide[0].name} has {len(wide[0].shape)} axes; 3 are the most")
            return
        if any(v.quant is None for v in (*layer.inputs, layer.output)):
            self._refuse(layer, "it is in float, and others have codes; quantise it too")
            return
        try:
            node = self._node(layer, [self.nodes[v] for v in layer.inputs])
        except ShapeError as e:
            self._refuse(layer, str(e))
            return
        if node is None:
            return
        shape = _map(layer.output.shape)
        if node.type.shape != shape:
            node = self.builder(ops.Reshape(shape), node, name=f"{layer.name}.shape")
        self.nodes[layer.output] = node

    def _refuse(self, layer: Layer, why: str) -> None:
        kind = type(layer.op).__name__.lower()
        self.reasons.append(f"{layer.name} ({kind} {list(layer.output.shape)}): {why}")

    def _node(self, layer: Layer, xs: list[Node]) -> Node | None:
        match layer.op:
            case Constant(tensor):
                codes = _constant(tensor, layer.output)
                return self.builder.param(layer.name, codes, layer.output.quant)
            case Convolution():
                return self._convolution(layer, layer.op, xs[0])
            case Dense(weight, bias, clamp):
                filters = Tensor(_dense_filters(weight.values), weight.quant)
                return self._convolution(layer, Convolution(filters, bias, clamp=clamp), xs[0])
            case Pool() | Mean():
                return self._pool(layer, layer.op, xs[0])
            case Slice() | Gather() | Transpose() | Reshape() | Pad() | Resize():
                moved = self._moved(layer, layer.op, xs[0])
                return moved and self._as(moved, layer.output, f"{layer.name}.scale")
        return self._each(layer, xs)

    def _each(self, layer: Layer, xs: list[Node]) -> Node | None:
        """Append what takes each element by itself."""
        b, name, out = self.builder, layer.name, layer.output
        quant, how = _quant(out), self.rounding
        match layer.op:
            case Sum(clamp):
                add = ops.Add(quant, limits=limits_of(clamp, quant), rounding=how)
                table = self._with_number(add, xs, name)
                return table or b(add, *self._as_large(xs), name=name)
            case Product(clamp):
                product = ops.Product(quant, limits=limits_of(clamp, quant), rounding=how)
                # The factor that is broadcast comes second.
                large_first = sorted(xs, key=lambda x: -x.type.size)
                return self._with_number(product, xs, name) or b(product, *large_first, name=name)
            case Clamp(bounds):
                own = ops.Rescale(quant, limits=limits_of(bounds, quant), rounding=how)
                return b(own, xs[0], name=name)
            case Requantise():
                return self._as(xs[0], out, name)
            case Curve() as curve:
                return self._table(curve, xs[0], out, name)
            case Concat() if len(xs) > limits.INPUTS:
                self._refuse(layer, f"joins {len(xs)} maps; {limits.INPUTS} are the most")
                return None
            case Concat(axis):
                parts = [self._as(x, out, f"{name}.{i}") for i, x in enumerate(xs)]
                return b(ops.Concat(axis + 3 - len(out.shape)), *parts, name=name)
        self._refuse(layer, "nothing computes this inside a network; cut the network before it")
        return None

    def _with_number(self, op: ops.Add | ops.Product, xs: list[Node], name: str) -> Node | None:
        """Append a sum or product with a single constant number, if it is one."""
        b = self.builder
        numbers = [x for x in xs if isinstance(x.op, Param) and x.type.size == 1]
        maps = [x for x in xs if x not in numbers]
        if len(maps) != 1 or len(xs) != 2:
            return None
        code = int(b.data[numbers[0].name].item())
        table = with_number(op, maps[0].type.affine, numbers[0].type.affine, code)
        return b(table, maps[0], name=name)

    def _as_large(self, xs: list[Node]) -> list[Node]:
        """Return nodes with constants as large as what they are added to."""
        largest = max((x.type.shape for x in xs), key=math.prod)
        return [self._repeated(x, largest) for x in xs]

    def _repeated(self, x: Node, shape: tuple[int, ...]) -> Node:
        b = self.builder
        if not isinstance(x.op, Param) or x.type.shape == shape:
            return x
        codes = np.ascontiguousarray(np.broadcast_to(b.data[x.name], shape))
        return b.param(f"{x.name}.all", codes, x.type.affine)

    def _as(self, x: Node, out: Value, name: str) -> Node:
        """Return a node in the quantisation of a value."""
        if x.type.affine == _quant(out):
            return x
        return self.builder(ops.Rescale(_quant(out), rounding=self.rounding), x, name=name)

    def _convolution(self, layer: Layer, op: Convolution, x: Node) -> Node | None:
        """Append a convolution with its parameters."""
        if op.dilation != (1, 1):
            self._refuse(layer, f"dilation {list(op.dilation)}; give a network without")
            return None
        b, name = self.builder, layer.name
        codes, quant = op.weight.values, op.weight.quant
        if quant is None or codes.dtype != np.int8:
            self._refuse(layer, "its weights have no scale, and others do; quantise them too")
            return None
        channels, depthwise = codes.shape[0], 1 < op.groups == x.type.shape[2]
        if depthwise and channels > op.groups:
            # Several filters a channel.  A copy of it for each costs less than their own groups:
            # a third of the instructions for eight filters, a tenth for two (Cortex-M7).
            copies = tuple(o * op.groups // channels for o in range(channels))
            x = b(ops.Take(2, copies), x, name=f"{name}.copies")
        scales = quant.scale if len(quant.scale) == channels else quant.scale * channels
        filters = codes[..., 0].transpose(1, 2, 0) if depthwise else codes
        weight = Affine(scales, axis=2 if depthwise else 0)
        w = b.param(f"{name}.weight", np.ascontiguousarray(filters), weight, role=Role.WEIGHT)
        zeros = np.zeros(channels, np.int32)
        bias = Affine(scales, axis=0, unit=x.type.affine.scale[0])
        sums = zeros if op.bias is None else op.bias.values.astype(np.int32)
        c = b.param(f"{name}.bias", sums, bias, role=Role.BIAS)
        window, out = Window(op.stride, op.pad), _quant(layer.output)
        limits, how = limits_of(op.clamp, out), self.rounding
        if depthwise:
            made: Op = ops.Depthwise(window, out, limits=limits, rounding=how)
        elif op.groups == 1:
            made = ops.Conv(window, out, limits=limits, rounding=how)
        else:
            made = ops.GroupedConv(window, out, op.groups, limits=limits, rounding=how)
        return b(made, x, w, c, name=name)

    def _table(self, curve: Curve, x: Node, out: Value, name: str) -> Node:
        affine = x.type.affine
        codes = curve_codes(curve, affine, _quant(out), self.rounding)
        slopes = curve_slopes(curve, affine, _quant(out))
        table = ops.Table(tuple(codes.tolist()), tuple(slopes.tolist()), _quant(out))
        return self.builder(table, x, name=name)

    def _pool(self, layer: Layer, op: Pool | Mean, x: Node) -> Node | None:
        """Append what makes one pixel of many."""
        b, name, out, rounding = self.builder, layer.name, _quant(layer.output), self.rounding
        same = x.type.affine == out
        if isinstance(op, Mean):
            axes = tuple(sorted(a + 3 - len(layer.inputs[0].shape) for a in op.axes))
            if axes == (0, 1) and same and rounding is Rounding.NEAREST:
                return b(ops.AvgPool(), x, name=name)
            return b(ops.Mean(out, rounding, axes), x, name=name)
        window, limits = Window(op.stride, op.pad), limits_of(op.clamp, out)
        if op.kind is PoolKind.MAX:
            node = b(ops.MaxPool(op.kernel, window), x, name=name)
            if same and limits == _CODES:
                return node
            end = ops.Rescale(out, limits=limits, rounding=rounding)
            return b(end, node, name=f"{name}.scale")
        if op.count_pad and any(op.pad):
            top, bottom, left, right = op.pad
            zeros = ops.PadMap(((top, bottom), (left, right), (0, 0)))
            x, window = b(zeros, x, name=f"{name}.pad"), Window(op.stride)
        if op.kernel == x.type.shape[:2] and not any(window.pad) and same and limits == _CODES:
            return b(ops.AvgPool(rounding), x, name=name)
        return b(
            ops.MeanPool(op.kernel, window, out, limits=limits, rounding=rounding), x, name=name
        )

    def _moved(self, layer: Layer, op: Operation, x: Node) -> Node | None:
        """Append what moves elements and computes nothing."""
        b, name, more = self.builder, layer.name, 3 - len(layer.inputs[0].shape)
        match op:
            case Reshape():
                return x
            case Slice(axis, begin, count, step):
                index = range(begin, begin + count * step, step)
                return b(ops.Take(axis + more, tuple(index)), x, name=name)
            case Gather(axis, index):
                return b(ops.Take(axis + more, index), x, name=name)
            case Pad(sides, value) if value == 0:
                return b(ops.PadMap(((0, 0),) * more + sides), x, name=name)
            case Resize(factors):
                return b(ops.Upsample(factors), x, name=name)
            case Transpose(order) if _keeps_order(order, layer.inputs[0].shape):
                return x
        self._refuse(layer, "nothing moves elements so; leave it out, or cut the network before it")
        return None


def _keeps_order(order: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Tell whether only axes of length 1 change places."""
    long = [axis for axis in order if shape[axis] > 1]
    return long == sorted(long)


def _quant(value: Value) -> Affine:
    if value.quant is None:
        raise TypeError(f"{value.name} is not quantised")
    return value.quant


def _constant(tensor: Tensor, out: Value) -> Array:
    return np.ascontiguousarray(tensor.values.reshape(_map(out.shape)).astype(np.int8))


def _dense_filters(weight: Array) -> Array:
    """Return [out, in] as filters of one pixel."""
    return weight[:, None, None, :]


def limits_of(clamp: Bounds, out: Affine) -> Limits:
    """Return the codes between which an output is clamped, as TensorFlow Lite rounds them.

    >>> limits_of((0.0, 6.0), Affine((6 / 255,), -128)), limits_of((0.0, 2.0), Affine((0.1,), 3))
    ((-128, 127), (3, 23))
    """
    low, high = (_code(x, out) for x in clamp)
    return max(low, _CODES[0]), min(high, _CODES[1])


def _code(real: float, out: Affine) -> int:
    """Return the code of a real, rounded half away from zero; far beyond codes where it is."""
    steps = np.float32(real) / np.float32(out.scale[0])
    if abs(steps) > 512:
        return math.copysign(512, steps).__int__()
    return out.zero_point + int(math.copysign(math.floor(abs(steps) + 0.5), steps))
