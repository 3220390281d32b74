"""Operators of each element by itself, and of two tensors element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from kilograd.frontend.onnx.draft import Draft, Entry, Flow, Known, reals
from kilograd.frontend.onnx.file import Operator
from kilograd.frontend.onnx.functions import MOST_PARTS, Function
from kilograd.ir import Array
from kilograd.layers.network import (
    ChannelScale,
    Convolution,
    Curve,
    CurveKind,
    Dense,
    Operation,
    Product,
    Sum,
    Value,
)
from kilograd.layers.unsupported import UnsupportedError
from kilograd.quant.curves import curve

_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Min": np.minimum,
    "Max": np.maximum,
}


def read(draft: Draft, node: Operator) -> list[Entry] | None:
    """Return what an operator makes; None where it is none of these."""
    if node.kind in {"Identity", "Dropout", "Cast"}:
        return _unchanged(draft, node)
    if node.kind in _BINARY:
        return [_two(draft, node)]
    if (compute := _unary(draft, node)) is None:
        return None
    return [_function(draft, node, compute, [_operand(draft, node, 0)])]


def _unchanged(draft: Draft, node: Operator) -> list[Entry]:
    found = draft.entry(node, 0)
    if node.kind == "Dropout":
        training = draft.known(node, 2)
        if training is not None and training.values.any():
            raise UnsupportedError("is in training mode; export the network for inference (eval())")
    if node.kind == "Cast" and node.integer("to") not in {1, 10, 11}:
        raise UnsupportedError("makes integers of data")
    if node.kind == "Cast" and isinstance(found, Flow) and found.codes:
        raise UnsupportedError("makes numbers of codes; put a DequantizeLinear in its place")
    if found is None:
        raise UnsupportedError("reads nothing")
    return [found, *(Known(np.zeros(0)) for _ in node.outputs[1:])]


_PLAIN = {
    "Sigmoid": Curve(CurveKind.SIGMOID),
    "Tanh": Curve(CurveKind.TANH),
    "Softplus": Curve(CurveKind.SOFTPLUS),
    "Mish": Curve(CurveKind.MISH),
    "HardSwish": Curve(CurveKind.HARD_SWISH),
    "Abs": Curve(CurveKind.ABS),
    "Exp": Curve(CurveKind.EXP),
}
_NUMPY: dict[str, Callable[..., Array]] = {
    "Relu": lambda x: np.maximum(x, 0),
    "Erf": lambda x: np.asarray(np.frompyfunc(math.erf, 1, 1)(x), np.float64),
    "Sqrt": np.sqrt,
    "Neg": np.negative,
    "Reciprocal": np.reciprocal,
}


def _unary(draft: Draft, node: Operator) -> Callable[..., Array] | None:
    """Return a function of one number; None where an operator is none."""
    if node.kind in _PLAIN:
        return lambda x: curve(_PLAIN[node.kind], x)
    if node.kind in _NUMPY:
        return _NUMPY[node.kind]
    if node.kind in _ALPHA:
        return _with_alpha(node, node.real("alpha", _ALPHA[node.kind]))
    match node.kind:
        case "PRelu":
            slope = _single(draft, node, 1)
            return lambda x: curve(Curve(CurveKind.LEAKY, slope), x)
        case "Gelu":
            tanh = node.text("approximate", "none") == "tanh"
            kind = CurveKind.GELU_TANH if tanh else CurveKind.GELU
            return lambda x: curve(Curve(kind), x)
        case "Clip":
            low, high = _bounds(draft, node)
            return lambda x: np.minimum(np.maximum(x, low), high)
        case _:
            return None


def _with_alpha(node: Operator, alpha: float) -> Callable[..., Array]:
    match node.kind:
        case "LeakyRelu":
            return lambda x: curve(Curve(CurveKind.LEAKY, alpha), x)
        case "Elu":
            return lambda x: curve(Curve(CurveKind.ELU, alpha), x)
        case "Swish":
            return lambda x: x * curve(Curve(CurveKind.SIGMOID), alpha * x)
        case _:
            beta = node.real("beta", 0.5)
            return lambda x: np.clip(alpha * x + beta, 0, 1)


_ALPHA = {"LeakyRelu": 0.01, "Elu": 1.0, "Swish": 1.0, "HardSigmoid": 0.2}
"""Defaults of the attribute alpha."""


def _bounds(draft: Draft, node: Operator) -> tuple[float, float]:
    low, high = (
        float(reals(known).item()) if (known := draft.known(node, i)) else default
        for i, default in ((1, -math.inf), (2, math.inf))
    )
    low, high = node.attributes.get("min", low), node.attributes.get("max", high)
    if math.isnan(low) or math.isnan(high) or low > high:
        raise ValueError(f"bounds of {low} and {high}")
    return low, high


def _single(draft: Draft, node: Operator, index: int) -> float:
    known = draft.known(node, index)
    values = np.zeros(0) if known is None else reals(known).ravel()
    if not len(values) or (values != values[0]).any():
        raise UnsupportedError("has another slope for each channel; train with one, or LeakyRelu")
    return float(values[0])


def _operand(draft: Draft, node: Operator, index: int) -> Function | Flow:
    """Return data that an operator reads, as a function where it is one."""
    found = draft.entry(node, index)
    if isinstance(found, Function) and found.parts < MOST_PARTS:
        return found
    return draft.as_flow(node, found)


def _function(
    draft: Draft,
    node: Operator,
    compute: Callable[..., Array],
    operands: list[Function | Flow | float],
) -> Function:
    first = next(x for x in operands if not isinstance(x, float))
    if any(isinstance(x, Flow) and x.codes for x in operands):
        raise UnsupportedError("computes with codes; put a DequantizeLinear in front of it")
    args = tuple(x.value if isinstance(x, Flow) else x for x in operands)
    return Function(node, compute, args, _base(first), first.batch)


def _base(x: Function | Flow) -> Value:
    return x.base if isinstance(x, Function) else x.value


# -- two tensors -----------------------------------------------------------------------------------


def _two(draft: Draft, node: Operator) -> Entry:
    if len(node.inputs) != 2:
        raise UnsupportedError(f"takes {len(node.inputs)} tensors; two are computed with")
    a, b = (draft.entry(node, i) for i in range(2))
    if isinstance(b, Known):
        return _with_constant(draft, node, _operand(draft, node, 0), b, swapped=False)
    if isinstance(a, Known):
        return _with_constant(draft, node, _operand(draft, node, 1), a, swapped=True)
    x, y = _operand(draft, node, 0), _operand(draft, node, 1)
    if _base(x) == _base(y):
        return _function(draft, node, _BINARY[node.kind], [x, y])
    if node.kind not in {"Add", "Mul"}:
        raise UnsupportedError(f"{node.kind} of two tensors is not computed; only Add and Mul are")
    flows = (draft.as_flow(node, x), draft.as_flow(node, y))
    return _combined(draft, node, *flows, times=node.kind == "Mul")


def _combined(draft: Draft, node: Operator, x: Flow, y: Flow, *, times: bool) -> Flow:
    op: Operation = Product() if times else Sum()
    return draft.add(node, op, [x, y], np.broadcast_shapes(x.value.shape, y.value.shape))


def _with_constant(
    draft: Draft, node: Operator, operand: Function | Flow, known: Known, *, swapped: bool
) -> Entry:
    """Return what an operator makes of data and a constant, in this order or `swapped`."""
    if known.values.size == 1 and known.quant is None:
        value = float(known.values.item())
        args: list[Function | Flow | float] = [value, operand] if swapped else [operand, value]
        return _function(draft, node, _BINARY[node.kind], args)
    x = draft.as_flow(node, operand)
    values = _below_batch(x, known.values)
    if known.quant is not None:
        if node.kind not in {"Add", "Mul"}:
            raise UnsupportedError("computes with a constant in codes; only Add and Mul do")
        constant = draft.constant(node, known, values.shape or (1,))
        return _combined(draft, node, x, constant, times=node.kind == "Mul")
    found = _scaled(node, values.astype(np.float32), swapped=swapped)
    if found is None:
        raise UnsupportedError(f"{node.kind} of data and such a constant is not computed")
    if node.kind == "Add" and (biased := _biased(draft, node, x, known, values)):
        return biased
    factor, offset = found
    if _each_channel(values, x.value.shape):
        both = (np.broadcast_to(v, values.shape).ravel().astype(np.float32) for v in found)
        op = ChannelScale(*(draft.tensor(known, v).values for v in both))
        return draft.add(node, op, [x], x.value.shape)
    if swapped and node.kind == "Sub":
        raise UnsupportedError("subtracts data from a constant that is not one a channel")
    times = node.kind in {"Mul", "Div"}
    origin = known.origin if node.kind in {"Mul", "Add"} else ""
    own = Known(np.asarray(factor if times else offset), origin)
    return _combined(draft, node, x, draft.constant(node, own, values.shape), times=times)


def _below_batch(x: Flow, values: Array) -> Array:
    """Drop the axis of the batch of a constant."""
    if values.ndim == len(x.shape) and x.batch:
        if values.shape[0] != 1:
            raise UnsupportedError("has a constant for each image of a batch")
        return values[0]
    return values


def _scaled(
    node: Operator, values: Array, *, swapped: bool
) -> tuple[Array | float, Array | float] | None:
    """Return the factor and the offset that an operator with a constant means."""
    match node.kind, swapped:
        case "Add", _:
            return 1.0, values
        case "Sub", False:
            return 1.0, -values
        case "Sub", True:
            return -1.0, values
        case "Mul", _:
            return values, 0.0
        case "Div", False:
            return 1 / values, 0.0
        case _:
            return None


def _each_channel(values: Array, shape: tuple[int, ...]) -> bool:
    """Tell whether a constant has a number for each channel."""
    whole = (*(1,) * (len(shape) - values.ndim), *values.shape)
    return bool(shape) and whole == (shape[0], *(1,) * (len(shape) - 1))


def _biased(draft: Draft, node: Operator, x: Flow, known: Known, values: Array) -> Flow | None:
    """Give a layer the bias that it does not have; None where it cannot be one."""
    layer = draft.layers.get(x.value.name)
    if layer is None or x.value.quant is not None or not draft.only(x.value):
        return None
    op = layer.op
    if not isinstance(op, Dense | Convolution) or op.bias or op.weight.quant:
        return None
    count, shape = len(op.weight.values), x.value.shape
    along = (count,) if isinstance(op, Dense) else (count, *(1,) * (len(shape) - 1))
    if (*(1,) * (len(along) - values.ndim), *values.shape)[-len(along) :] != along:
        return None
    if values.size != count:
        return None
    biased = replace(op, bias=draft.tensor(known, values.reshape(count)))
    draft.layers[x.value.name] = replace(layer, op=biased)
    draft.tensors[x.value.name] = node.outputs[0]
    return x
