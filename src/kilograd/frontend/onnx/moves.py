"""Operators that move elements: shapes, order, parts, borders."""

from __future__ import annotations

import math

import numpy as np

from kilograd.frontend.onnx.constants import numbers, parts, slices
from kilograd.frontend.onnx.draft import Draft, Entry, Flow, Known, reals
from kilograd.frontend.onnx.file import Operator
from kilograd.layers.network import Concat, Gather, Pad, Slice, Transpose
from kilograd.layers.unsupported import UnsupportedError


def read(draft: Draft, node: Operator) -> list[Entry] | None:
    """Return what an operator makes; None where it is none of these."""
    match node.kind:
        case "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze":
            x = draft.flow(node)
            return [draft.reshaped(node, x, _shape(draft, node, x.shape))]
        case "Expand":
            return [_expanded(draft, node)]
        case "Transpose":
            return [_transposed(draft, node)]
        case "Concat":
            return [_joined(draft, node)]
        case "Split":
            return _split(draft, node)
        case "Slice":
            return [_sliced(draft, node)]
        case "Gather":
            return [_gathered(draft, node)]
        case "Pad":
            return [_padded(draft, node)]
        case _:
            return None


def _shape(draft: Draft, node: Operator, old: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that a tensor of the file gets."""
    given = draft.constants(node)
    rank = len(old)
    match node.kind:
        case "Reshape":
            asked = numbers(node, given, 1, "shape") or ()
            zeros = node.integer("allowzero")
            shape = [old[i] if d == 0 and not zeros else d for i, d in enumerate(asked)]
        case "Flatten":
            axis = node.integer("axis", 1)
            if not -rank <= axis <= rank:
                raise ValueError(f"axis {axis}")
            before = math.prod(old[: axis % rank if axis != rank else rank])
            shape = [before, math.prod(old) // before]
        case "Squeeze":
            axes = numbers(node, given, 1, "axes")
            gone = {a % rank for a in axes} if axes else {i for i, n in enumerate(old) if n == 1}
            if any(old[a] != 1 for a in gone):
                raise ValueError(f"axes {sorted(gone)} of {list(old)} are longer than 1")
            shape = [n for i, n in enumerate(old) if i not in gone]
        case _:
            axes = numbers(node, given, 1, "axes") or ()
            longer = rank + len(axes)
            new = {a % longer for a in axes}
            if len(new) != len(axes) or any(not -longer <= a < longer for a in axes):
                raise ValueError(f"axes {list(axes)}")
            rest = iter(old)
            shape = [1 if i in new else next(rest) for i in range(longer)]
    return _filled(shape, math.prod(old))


def _filled(shape: list[int], size: int) -> tuple[int, ...]:
    """Replace the one -1 of a shape."""
    rest = math.prod(d for d in shape if d != -1)
    if shape.count(-1) == 1 and rest:
        shape = [size // rest if d == -1 else d for d in shape]
    if min(shape, default=1) < 1 or math.prod(shape) != size:
        raise ValueError(f"{size} elements have no shape {shape}")
    return tuple(shape)


def _expanded(draft: Draft, node: Operator) -> Flow:
    x = draft.flow(node)
    (_, shape) = draft.constants(node)
    asked = () if shape is None else tuple(map(int, shape.ravel()))
    if np.broadcast_shapes(x.shape, asked) != x.shape:
        raise UnsupportedError("repeats data; Add and Mul repeat by themselves, or use Resize")
    return x


def _transposed(draft: Draft, node: Operator) -> Flow:
    x = draft.flow(node)
    rank = len(x.shape)
    order = node.integers("perm", range(rank)[::-1])
    if sorted(order) != list(range(rank)):
        raise ValueError(f"perm is {list(order)}")
    shape = [x.shape[i] for i in order]
    own = tuple(i - x.batch for i in order if i or not x.batch)
    if own != tuple(range(len(own))):
        x = draft.add(node, Transpose(own), [x], [x.value.shape[i] for i in own])
    return draft.reshaped(node, x, shape)


def _joined(draft: Draft, node: Operator) -> Flow:
    xs = [_part(draft, node, i) for i in range(len(node.inputs))]
    flows = [x for x in xs if isinstance(x, Flow)]
    if not flows:
        raise ValueError("it joins nothing")
    axis = flows[0].axis(node.integer("axis", 1))
    all_flows = [
        draft.constant(node, x, x.values.shape[flows[0].batch :]) if isinstance(x, Known) else x
        for x in xs
    ]
    shapes = [list(x.value.shape) for x in all_flows]
    length = sum(s[axis] for s in shapes)
    rest = {tuple(s[:axis] + s[axis + 1 :]) for s in shapes}
    if len(rest) != 1:
        raise ValueError(f"it joins {shapes}")
    if len(all_flows) == 1:
        return all_flows[0]
    shape = [length if i == axis else n for i, n in enumerate(shapes[0])]
    return draft.add(node, Concat(axis), all_flows, shape)


def _part(draft: Draft, node: Operator, index: int) -> Flow | Known:
    found = draft.entry(node, index)
    return found if isinstance(found, Known) else draft.as_flow(node, found)


def _split(draft: Draft, node: Operator) -> list[Entry]:
    x = draft.flow(node)
    axis = x.axis(node.integer("axis"))
    begin, made = 0, []
    for count, output in zip(
        parts(node, draft.constants(node), x.value.shape[axis]), node.outputs, strict=True
    ):
        made.append(_cut(draft, node, x, Slice(axis, begin, count), output))
        begin += count
    return list(made)


def _cut(draft: Draft, node: Operator, x: Flow, op: Slice, output: str) -> Flow:
    shape = [op.count if i == op.axis else n for i, n in enumerate(x.value.shape)]
    if tuple(shape) == x.value.shape and op.step == 1:
        return x
    return draft.add(node, op, [x], shape, output=output)


def _sliced(draft: Draft, node: Operator) -> Flow:
    x = draft.flow(node)
    for axis, begin, end, step in slices(node, draft.constants(node), len(x.shape)):
        chosen = range(x.shape[axis])[slice(begin, _end(end, step, x.shape[axis]), step)]
        if not chosen:
            raise ValueError("it leaves nothing")
        if x.batch and axis == 0:
            continue
        own = x.axis(axis)
        if step > 0:
            x = _cut(draft, node, x, Slice(own, chosen[0], len(chosen), step), node.outputs[0])
        else:
            x = _taken(draft, node, x, own, tuple(chosen))
    return x


def _end(end: int, step: int, length: int) -> int | None:
    return None if step < 0 and end < -length else end


def _taken(draft: Draft, node: Operator, x: Flow, axis: int, index: tuple[int, ...]) -> Flow:
    shape = [len(index) if i == axis else n for i, n in enumerate(x.value.shape)]
    return draft.add(node, Gather(axis, index), [x], shape)


def _gathered(draft: Draft, node: Operator) -> Flow:
    x = draft.flow(node)
    known = draft.known(node, 1)
    if known is None or known.values.ndim > 1 or known.values.dtype.kind not in "iu":
        raise UnsupportedError("takes elements by an index of several axes; use one")
    place = node.integer("axis")
    axis = x.axis(place)
    length = x.value.shape[axis]
    index = tuple(int(i) for i in known.values.ravel())
    if any(not -length <= i < length for i in index):
        raise ValueError(f"an index of {list(index)[:8]} is none of {length}")
    taken = _taken(draft, node, x, axis, tuple(i % length for i in index))
    if known.values.ndim == 1:
        return taken
    shape = list(taken.shape)
    del shape[place % len(x.shape)]
    return draft.reshaped(node, taken, shape)


def _padded(draft: Draft, node: Operator) -> Flow:
    x = draft.flow(node)
    if node.text("mode", "constant") != "constant":
        raise UnsupportedError("pads with other than a number; use mode=constant")
    xs = draft.constants(node)
    pads = numbers(node, xs, 1, "pads") or node.integers("paddings")
    rank = len(x.shape)
    axes = numbers(node, xs, 3, "axes") or tuple(range(rank))
    if len(pads) != 2 * len(axes) or any(not -rank <= a < rank for a in axes):
        raise ValueError(f"pads {list(pads)} of axes {list(axes)}")
    sides = [(0, 0)] * rank
    for a, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        sides[a % rank] = (before, after)
    if x.batch:
        if sides[0] != (0, 0):
            raise UnsupportedError("pads the batch")
        sides = sides[1:]
    if any(min(s) < 0 for s in sides):
        raise UnsupportedError("has negative pads; use Slice")
    if all(s == (0, 0) for s in sides):
        return x
    if x.codes:
        raise UnsupportedError("pads codes; put a DequantizeLinear in front of it")
    value = draft.known(node, 2)
    number = node.real("value") if value is None else float(reals(value).item())
    if not math.isfinite(number):
        raise UnsupportedError("pads with what is not finite")
    shape = [n + before + after for n, (before, after) in zip(x.value.shape, sides, strict=True)]
    return draft.add(node, Pad(tuple(sides), number), [x], shape)
