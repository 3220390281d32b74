"""Operators with weights and windows: convolutions, dense layers, pools, means, resizing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kilograd import limits
from kilograd.frontend.onnx.constants import numbers
from kilograd.frontend.onnx.draft import Draft, Entry, Flow, Known, reals
from kilograd.frontend.onnx.file import Operator
from kilograd.ir import Affine, Array
from kilograd.layers.network import (
    ChannelScale,
    Convolution,
    Dense,
    LogSoftmax,
    Mean,
    Pair,
    Pool,
    PoolKind,
    Resize,
    Sides,
    Softmax,
    Tensor,
)
from kilograd.layers.unsupported import UnsupportedError

_SCALES_ALIKE = 1e-4
"""Of a bias, and of what it is added to."""


def read(draft: Draft, node: Operator) -> list[Entry] | None:
    """Return what an operator makes; None where it is none of these."""
    one = _READ.get(node.kind)
    return None if one is None else [one(draft, node)]


# -- weights ---------------------------------------------------------------------------------------


def _convolution(draft: Draft, node: Operator) -> Flow:
    x = _map(draft.flow(node))
    known = _constant(draft, node, 1)
    w = _two_axes(known.values, 2)
    groups = node.integer("group", 1)
    size = _size(x)
    kernel: Pair = (w.shape[2], w.shape[3])
    window = _window(node, size, kernel)
    if groups < 1 or len(w) % groups or w.shape[1] * groups != x.value.shape[0]:
        raise ValueError(f"filters {list(known.values.shape)} in {groups} groups do not fit it")
    if known.quant is not None and known.quant.axis not in {None, 0}:
        raise UnsupportedError("has scales along another axis than the output channels")
    weight = _weight(draft, node, known, w.transpose(0, 2, 3, 1))
    op = Convolution(
        weight=weight,
        bias=_bias(draft, node, 2, x, weight),
        stride=window.stride,
        pad=window.pad,
        dilation=window.dilation,
        groups=groups,
    )
    return draft.add(node, op, [x], (len(w), *_as(x, window.out)))


def _gemm(draft: Draft, node: Operator) -> Flow:
    x = draft.flow(node)
    known = _constant(draft, node, 1)
    if node.integer("transA") or len(x.value.shape) != 1 or known.values.ndim != 2:
        raise UnsupportedError("multiplies other than a vector by a matrix of weights")
    if node.real("alpha", 1.0) != 1 or node.real("beta", 1.0) != 1:
        raise UnsupportedError("has factors alpha or beta; multiply its weights by them")
    return _dense(draft, node, x, known, transposed=bool(node.integer("transB")))


def _product(draft: Draft, node: Operator) -> Flow:
    a, b = draft.entry(node, 0), draft.entry(node, 1)
    if isinstance(a, Known) or not isinstance(b, Known):
        raise UnsupportedError("multiplies data by data; only products with weights are computed")
    if b.values.ndim != 2:
        raise UnsupportedError("multiplies by weights that are no matrix; write it as Gemm")
    return _dense(draft, node, draft.as_flow(node, a), b, transposed=False)


def _dense(draft: Draft, node: Operator, x: Flow, known: Known, *, transposed: bool) -> Flow:
    w = known.values if transposed else known.values.T
    if not x.value.shape or w.shape[1] != x.value.shape[-1]:
        raise ValueError(f"weights {list(known.values.shape)} do not fit {list(x.value.shape)}")
    quant = known.quant
    if quant is not None and quant.axis is not None:
        if (quant.axis == 0) != transposed:
            raise UnsupportedError("has scales along another axis than the output channels")
        known = replace(known, quant=replace(quant, axis=0))
    weight = _weight(draft, node, known, w)
    bias = _bias(draft, node, 2, x, weight) if node.kind == "Gemm" else None
    return draft.add(node, Dense(weight, bias), [x], (*x.value.shape[:-1], len(w)))


def _constant(draft: Draft, node: Operator, index: int) -> Known:
    known = draft.known(node, index)
    if known is None:
        raise UnsupportedError("has no weights")
    return known


def _weight(draft: Draft, node: Operator, known: Known, values: Array) -> Tensor:
    if known.quant is not None and known.quant.zero_point != 0:
        raise UnsupportedError("has weights with a zero point; quantise weights symmetrically")
    if known.quant is not None and values.dtype != np.int8:
        raise UnsupportedError(f"has weights of {values.dtype}; quantise to int8")
    return draft.tensor(known, values)


def _bias(draft: Draft, node: Operator, index: int, x: Flow, weight: Tensor) -> Tensor | None:
    """Return a bias; in int8 layers as int32 in the units of the sums, rounded where it is not."""
    known = draft.known(node, index)
    count = len(weight.values)
    if known is None:
        return None
    if known.values.size not in {1, count} or max(known.values.shape, default=1) not in {1, count}:
        raise ValueError(f"a bias {list(known.values.shape)} does not fit {count} outputs")
    scales = None if weight.quant is None else weight.quant.scale
    if scales is None or x.value.quant is None:
        if known.quant is not None:
            known = Known(reals(known))
        return draft.tensor(known, _each(known.values, count))
    unit = x.value.quant.scale[0]
    axis = 0 if len(scales) == count else None
    quant = Affine(scales, 0, axis, unit)
    units = np.array(scales) * unit
    own = known.quant
    if own and known.values.dtype == np.int32 and own.zero_point == 0:
        fits = np.allclose(np.array(own.scale), units, rtol=_SCALES_ALIKE, atol=0)
        if fits and known.values.size == count:
            return Tensor(known.values.ravel(), quant, known.origin)
    codes = np.rint(reals(known).astype(np.float64).ravel() / units)
    if not (np.abs(codes) < 1 << 31).all():
        raise UnsupportedError("has a bias that no int32 holds in units of its sums")
    origin = known.origin if own is None and codes.size == count else ""
    return Tensor(_each(codes.astype(np.int32), count), quant, origin)


def _each(values: Array, count: int) -> Array:
    """Return one number for each output; a view that may be written where there are as many."""
    return values.ravel() if values.size == count else np.broadcast_to(values.ravel(), (count,))


def _normalised(draft: Draft, node: Operator) -> Flow:
    """Return x * factor + offset, with the statistics of training."""
    x = draft.flow(node)
    if node.integer("training_mode") or len([o for o in node.outputs if o]) > 1:
        raise UnsupportedError("is in training mode; export the network for inference (eval())")
    if node.integer("spatial", 1) != 1:
        raise UnsupportedError("has statistics for each pixel")
    parts = [_constant(draft, node, i) for i in range(1, 5)]
    if any(p.values.shape != x.value.shape[:1] for p in parts):
        raise ValueError("its statistics are not one a channel")
    scale, offset, mean, variance = (
        draft.tensor(p, reals(p)).values.astype(np.float64) for p in parts
    )
    variance = variance + node.real("epsilon", 1e-5)
    if not (variance > 0).all():
        raise ValueError("a variance is below 0")
    root = np.sqrt(variance)
    factor = scale / root
    both = (v.astype(np.float32) for v in (factor, offset - mean * factor))
    return draft.add(node, ChannelScale(*both), [x], x.value.shape)


# -- windows ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Window:
    stride: Pair
    pad: Sides
    dilation: Pair
    out: Pair


def _map(x: Flow) -> Flow:
    if len(x.value.shape) not in {2, 3}:
        raise UnsupportedError("reads other than a map over one or two axes")
    return x


def _size(x: Flow) -> Pair:
    """Height and width of a map; one of a single axis has height 1."""
    shape = x.value.shape
    return (shape[1], shape[2]) if len(shape) == 3 else (1, shape[1])


def _as(x: Flow, size: Pair) -> tuple[int, ...]:
    return size if len(x.value.shape) == 3 else size[1:]


def _two_axes(w: Array, before: int) -> Array:
    """View what has one axis behind those `before` as if it had two."""
    if w.ndim == before + 1:
        w = np.expand_dims(w, before)
    if w.ndim != before + 2:
        raise UnsupportedError("works on maps of more than two axes")
    return w


def _pair(node: Operator, name: str, least: int = 1) -> Pair:
    given = node.integers(name) or (1, 1)
    if len(given) == 1:
        given = (1, *given)
    if len(given) != 2 or min(given) < least or max(given) > limits.SIDE:
        raise ValueError(f"{name} is {list(given)}")
    return given[0], given[1]


def _window(node: Operator, size: Pair, kernel: Pair, *, ceil: bool = False) -> _Window:
    """Return strides, padding and the size of what comes out, as ONNX defines them."""
    stride, dilation = _pair(node, "strides"), _pair(node, "dilations")
    if node.has("kernel_shape") and _pair(node, "kernel_shape") != kernel:
        raise ValueError(f"kernel_shape is {list(node.integers('kernel_shape'))}")
    span = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    begin, end = _padding(node, size, span, stride)
    out = []
    for i in range(2):
        free = size[i] + begin[i] + end[i] - span[i]
        if free < 0 or min(begin[i], end[i]) < 0 or max(begin[i], end[i]) > limits.SIDE:
            raise ValueError(f"a window of {span} on {list(size)} with pads {begin + end}")
        count = (-(-free // stride[i]) if ceil else free // stride[i]) + 1
        if ceil and (count - 1) * stride[i] >= size[i] + begin[i]:
            count -= 1  # a window that begins behind the map
        end[i] += max(0, (count - 1) * stride[i] - free)
        out.append(count)
    pad = (begin[0], end[0], begin[1], end[1])
    return _Window(stride, pad, dilation, (out[0], out[1]))


def _padding(
    node: Operator, size: Pair, span: Sequence[int], stride: Pair
) -> tuple[list[int], list[int]]:
    match node.text("auto_pad", "NOTSET"):
        case "NOTSET" | "":
            pads = node.integers("pads")
            if len(pads) == 2:
                pads = (0, pads[0], 0, pads[1])
            if len(pads) not in {0, 4}:
                raise ValueError(f"pads is {list(pads)}")
            pads = pads or (0, 0, 0, 0)
            return list(pads[:2]), list(pads[2:])
        case "VALID":
            return [0, 0], [0, 0]
        case "SAME_UPPER" | "SAME_LOWER" as mode:
            total = [
                max(0, (-(-n // s) - 1) * s + k - n)
                for n, s, k in zip(size, stride, span, strict=True)
            ]
            less, more = [t // 2 for t in total], [t - t // 2 for t in total]
            return (less, more) if mode == "SAME_UPPER" else (more, less)
        case mode:
            raise ValueError(f"auto_pad is {mode[:40]!r}")


def _pooled(draft: Draft, node: Operator) -> Flow:
    x = _map(draft.flow(node))
    if len([o for o in node.outputs if o]) > 1:
        raise UnsupportedError("also returns where its largest elements are")
    if not node.has("kernel_shape"):
        raise ValueError("kernel_shape is missing")
    kernel = _pair(node, "kernel_shape")
    if _pair(node, "dilations") != (1, 1):
        raise UnsupportedError("has a dilated window; use one without gaps")
    ceil = bool(node.integer("ceil_mode"))
    window = _window(node, _size(x), kernel, ceil=ceil)
    count_pad = node.kind == "AveragePool" and bool(node.integer("count_include_pad"))
    if count_pad and window.pad != _window(node, _size(x), kernel).pad:
        raise UnsupportedError("counts padding that ceil_mode adds; set one of both to 0")
    if any(p >= k for p, k in zip(window.pad, (kernel[0],) * 2 + (kernel[1],) * 2, strict=True)):
        raise UnsupportedError("has padding as large as its window")
    kind = PoolKind.MAX if node.kind == "MaxPool" else PoolKind.MEAN
    op = Pool(kind, kernel, window.stride, window.pad, count_pad)
    return draft.add(node, op, [x], (x.value.shape[0], *_as(x, window.out)))


def _whole(draft: Draft, node: Operator) -> Flow:
    """Return the mean or the largest of all pixels."""
    x = _map(draft.flow(node))
    shape = (x.value.shape[0], *(1,) * (len(x.value.shape) - 1))
    if node.kind == "GlobalMaxPool":
        return draft.add(node, Pool(PoolKind.MAX, _size(x), (1, 1)), [x], shape)
    return draft.add(node, Mean(tuple(range(1, len(x.value.shape)))), [x], shape)


def _mean(draft: Draft, node: Operator) -> Flow:
    x = draft.flow(node)
    rank = len(x.shape)
    given = numbers(node, draft.constants(node), 1, "axes")
    if not given and node.integer("noop_with_empty_axes"):
        return x
    axes = sorted({a % rank for a in given} if given else set(range(rank)))
    if 0 in axes and x.batch and not given:
        raise UnsupportedError("is the mean over the batch as well; name its axes")
    own = tuple(x.axis(a) for a in axes)
    keep = bool(node.integer("keepdims", 1))
    shape = [1 if i in axes else n for i, n in enumerate(x.shape) if keep or i not in axes]
    return draft.add(node, Mean(own), [x], shape[x.batch :])


# -- others ----------------------------------------------------------------------------------------


def _resized(draft: Draft, node: Operator) -> Flow:
    """Return each pixel repeated: what nearest neighbour means where factors are whole."""
    x = _map(draft.flow(node))
    if node.text("mode", "nearest") != "nearest":
        raise UnsupportedError("interpolates; only mode=nearest by whole factors is computed")
    target = _target(draft, node, x)
    size = x.shape
    if len(target) != len(size) or target[:2] != size[:2]:
        raise UnsupportedError("resizes channels or the batch")
    factors = tuple(t // n for t, n in zip(target[2:], size[2:], strict=True))
    if any(t != f * n or f < 1 for t, f, n in zip(target[2:], factors, size[2:], strict=True)):
        raise UnsupportedError(f"resizes {list(size[2:])} to {list(target[2:])}, no whole factors")
    if not all(_repeats(node, f) for f in factors):
        raise UnsupportedError("rounds to other neighbours than those that are repeated")
    if all(f == 1 for f in factors):
        return x
    if len(factors) == 1:
        raise UnsupportedError("resizes a map of one axis")
    return draft.add(node, Resize((factors[0], factors[1])), [x], target[1:])


def _target(draft: Draft, node: Operator, x: Flow) -> tuple[int, ...]:
    """Return the shape that a tensor is resized to."""
    xs = draft.constants(node)
    sizes = xs[3] if len(xs) > 3 else None
    if sizes is not None and sizes.size:
        given = tuple(map(int, sizes.ravel()))
        axes = node.integers("axes", range(len(x.shape)))
        target = list(x.shape)
        for a, n in zip(axes, given, strict=True):
            target[a] = n
        return tuple(target)
    index = 1 if node.kind == "Upsample" or len(xs) == 2 else 2
    scales: Sequence[float] = node.attributes.get("scales", ())
    if index < len(xs) and (found := xs[index]) is not None:
        scales = found.ravel().tolist()
    axes = node.integers("axes", range(len(x.shape)))
    target = list(x.shape)
    for a, s in zip(axes, scales, strict=True):
        target[a] = math.floor(target[a] * s)
    return tuple(target)


def _repeats(node: Operator, factor: int) -> bool:
    """Tell whether nearest neighbour at whole factors is each pixel repeated, as ONNX has it."""
    at = np.arange(8 * factor)
    default = "asymmetric" if node.kind == "Upsample" else "half_pixel"
    match node.text("coordinate_transformation_mode", default):
        case "asymmetric":
            place = at / factor
        case "half_pixel" | "pytorch_half_pixel" | "half_pixel_symmetric":
            place = (at + 0.5) / factor - 0.5
        case _:
            return factor == 1
    how = node.text("nearest_mode", "floor" if node.kind == "Upsample" else "round_prefer_floor")
    match how:
        case "floor":
            rounded = np.floor(place)
        case "ceil":
            rounded = np.ceil(place)
        case "round_prefer_floor":
            rounded = np.ceil(place - 0.5)
        case "round_prefer_ceil":
            rounded = np.floor(place + 0.5)
        case _:
            return False
    return bool((np.clip(rounded, 0, 7) == at // factor).all())


def _softmax(draft: Draft, node: Operator) -> Flow:
    x = draft.flow(node)
    new = draft.program.opset >= 13
    axis = node.integer("axis", -1 if new else 1) % len(x.shape)
    if axis != len(x.shape) - 1:
        raise UnsupportedError("is over another axis than the last")
    op = LogSoftmax() if node.kind == "LogSoftmax" else Softmax()
    return draft.add(node, op, [x], x.value.shape)


_READ: dict[str, Callable[[Draft, Operator], Flow]] = {
    "Conv": _convolution,
    "Gemm": _gemm,
    "MatMul": _product,
    "BatchNormalization": _normalised,
    "MaxPool": _pooled,
    "AveragePool": _pooled,
    "GlobalAveragePool": _whole,
    "GlobalMaxPool": _whole,
    "ReduceMean": _mean,
    "Resize": _resized,
    "Upsample": _resized,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
}
