"""Channels first to channels last, without a transpose where none is needed.

Maps become [h, w, c], maps of one axis [1, l, c].  Reshapes and transposes of the file compute
nothing: each only says anew where the elements of a value lie.  What reads the value takes them
from there: a convolution by a gather, a dense layer by the order of its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kilograd.ir import Array
from kilograd.layers.network import (
    ChannelScale,
    Clamp,
    Concat,
    Constant,
    Convolution,
    Curve,
    Dense,
    Gather,
    Layer,
    Layout,
    LogSoftmax,
    Mean,
    Network,
    Operation,
    Pad,
    Pool,
    Product,
    Requantise,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Sum,
    Tensor,
    Transpose,
    Value,
)
from kilograd.layers.simplify.edit import unused
from kilograd.layers.simplify.inputs import as_given, given, map_axes
from kilograd.layers.simplify.places import NEW, Axes, Place, arranged, index, lying, moves, natural


def channels_last(network: Network) -> Network:
    """Return the network in `Layout.CHANNELS_LAST`; its reshapes and transposes are worked out."""
    b = _Builder(network)
    for x in network.layers:
        b.add(x)
    outputs = tuple(b.output(v) for v in network.outputs)
    return replace(
        network,
        layout=Layout.CHANNELS_LAST,
        inputs=b.inputs,
        outputs=outputs,
        layers=tuple(b.layers),
        taken=b.taken or network.taken,
    )


class _Builder:
    """The new layers, and where each value of the file lies among them."""

    def __init__(self, network: Network) -> None:
        self.layout = network.layout
        self.layers: list[Layer] = []
        self._places: dict[Value, Place] = {}
        self._numbers: dict[Value, Tensor] = {}
        self._moved: dict[tuple[Value, Axes], Value] = {}
        made = {v.name for x in network.layers if isinstance(x.op, Constant) for v in (x.output,)}
        # A constant is made anew, by its own name, when something reads it.
        self._names = {v.name for v in network.values()} - made
        given_inputs = [given(network, v) for v in network.inputs]
        self._places.update(zip(network.inputs, (p for p, _ in given_inputs), strict=True))
        self.inputs = tuple(place.value for place, _ in given_inputs)
        self.taken = tuple(taken for _, taken in given_inputs)
        if all(t == as_given(v) for t, v in zip(self.taken, self.inputs, strict=True)):
            self.taken = ()

    # -- values

    def take(self, v: Value, axes: Axes) -> Value:
        """Return the value with its axes in this order; layers that move it are added."""
        if (v, axes) in self._moved:
            return self._moved[v, axes]
        if v in self._numbers:
            out = self._constant(v, axes)
        else:
            out = self._places[v].value
            steps = moves(self._places[v], axes)
            for op, shape in steps:
                moved = Value(self._new(f"{v.name}.moved"), shape, out.quant)
                self.layers.append(Layer(moved.name, op, (out,), moved))
                out = moved
        self._moved[v, axes] = out
        return out

    def _constant(self, v: Value, axes: Axes) -> Value:
        tensor = self._numbers[v]
        shape = arranged(v.shape, axes)
        values = tensor.values.ravel()[index(v.shape, axes)].reshape(shape)
        quant = tensor.quant
        if quant is not None and quant.axis is not None:
            quant = replace(quant, axis=axes.index(quant.axis))
        out = Value(self._new(v.name), shape, v.quant)
        new = replace(tensor, values=values, quant=quant)
        self.layers.append(Layer(out.name, Constant(new), (), out))
        return out

    def axes(self, v: Value) -> Axes:
        """Return the axes in which a value is had for nothing, or those of maps."""
        if v in self._numbers:
            return natural(v.shape)
        place = self._places[v]
        if place.axes is not None:
            return place.axes
        mine = map_axes(self.layout, len(v.shape))
        for axes in (mine, natural(v.shape)):
            if all(isinstance(op, Reshape) for op, _ in moves(place, axes)):
                return axes
        return lying(place) or mine

    def output(self, v: Value) -> Value:
        """Return an output of the file: a map as maps are, all else as in the file."""
        axes = self.axes(v)
        known = (map_axes(self.layout, len(v.shape)), natural(v.shape))
        return self.take(v, axes if axes in known else known[1])

    def _new(self, name: str) -> str:
        """Return a name like this one that nothing else has."""
        own = unused(name, self._names)
        self._names.add(own)
        return own

    def _emit(self, x: Layer, op: Operation, inputs: Sequence[Value], axes: Axes) -> None:
        out = Value(x.output.name, arranged(x.output.shape, axes), x.output.quant)
        self.layers.append(Layer(x.name, op, tuple(inputs), out))
        self._places[x.output] = Place(out, x.output.shape, axes)

    # -- layers

    def add(self, x: Layer) -> None:
        """Add a layer of the file."""
        match x.op:
            case Constant(tensor):
                self._numbers[x.output] = tensor
            case Reshape() | Transpose():
                self._view(x)
            case Clamp() | Curve() | Requantise():
                self._alone(x)
            case Convolution() | Pool() | Resize() | ChannelScale():
                self._map(x)
            case Dense():
                self._dense(x, x.op)
            case Sum() | Product():
                self._pair(x)
            case Concat():
                self._concat(x, x.op)
            case Mean(axes):
                self._mean(x, axes)
            case Slice() | Gather() | Pad() | Softmax() | LogSoftmax():
                self._along(x)

    def _view(self, x: Layer) -> None:
        (v,) = x.inputs
        if v in self._numbers:  # no reader leaves one whose codes change meaning
            flat = self._numbers[v].values
            order = x.op.order if isinstance(x.op, Transpose) else natural(v.shape)
            moved = flat.transpose(order).reshape(x.output.shape)
            self._numbers[x.output] = replace(self._numbers[v], values=moved)
            return
        place = self._places[v]
        where = place.index()
        if isinstance(x.op, Transpose):
            if place.axes is not None:
                axes = tuple(a if a == NEW else x.op.order.index(a) for a in place.axes)
                self._places[x.output] = Place(place.value, x.output.shape, axes)
                return
            became = np.empty(len(where), np.int64)
            became[index(v.shape, x.op.order)] = np.arange(len(where))
            where = became[where]
        self._places[x.output] = Place(place.value, x.output.shape, where)

    def _alone(self, x: Layer) -> None:
        """Elements by themselves: where they lie, they stay."""
        place = self._places[x.inputs[0]]
        out = Value(x.output.name, place.value.shape, x.output.quant)
        self.layers.append(Layer(x.name, x.op, (place.value,), out))
        self._places[x.output] = Place(out, x.output.shape, place.order)

    def _map(self, x: Layer) -> None:
        (v,) = x.inputs
        axes = map_axes(self.layout, len(v.shape))
        if not isinstance(x.op, ChannelScale) or len(v.shape) > 1:
            self._emit(x, x.op, (self.take(v, axes),), axes)
            return
        flat, where = self._flat(v)
        moved = ChannelScale(x.op.factor[where], x.op.offset[where])
        out = Value(x.output.name, flat.shape, x.output.quant)
        self.layers.append(Layer(x.name, moved, (flat,), out))
        self._places[x.output] = Place(out, x.output.shape, where)

    def _flat(self, v: Value) -> tuple[Value, Array]:
        """Return a vector as one, for nothing, and the index in the file of each element."""
        place = self._places[v]
        where = place.index()
        if len(place.value.shape) == 1:
            return place.value, where
        flat = Value(self._new(f"{v.name}.flat"), (len(where),), place.value.quant)
        self.layers.append(Layer(flat.name, Reshape(), (place.value,), flat))
        self._places[v] = Place(flat, v.shape, where)
        return flat, where

    def _dense(self, x: Layer, op: Dense) -> None:
        (v,) = x.inputs
        axes = natural(x.output.shape)
        if len(v.shape) > 1 or v in self._numbers:
            self._emit(x, op, (self.take(v, natural(v.shape)),), axes)
            return
        flat, where = self._flat(v)
        if (where != np.arange(len(where))).any():
            w = op.weight
            before = np.array(w.order) if w.order else np.arange(len(where))
            order = tuple(map(int, before[where]))
            op = replace(op, weight=replace(w, values=w.values[:, where], order=order))
        self._emit(x, op, (flat,), axes)

    def _pair(self, x: Layer) -> None:
        rank = len(x.output.shape)
        whole = [v for v in x.inputs if v.shape == x.output.shape and v not in self._numbers]
        if whole and self._in_place(x, self._places[whole[0]]):
            return
        axes = self.axes(whole[0]) if whole else map_axes(self.layout, rank)
        inputs = []
        for v in x.inputs:
            missing = rank - len(v.shape)
            own = tuple(NEW if a == NEW or a < missing else a - missing for a in axes)
            inputs.append(self.take(v, own))
        self._emit(x, x.op, inputs, axes)

    def _in_place(self, x: Layer, place: Place) -> bool:
        """Add a sum or product of values that lie alike, in no order of axes, if they do."""
        if place.axes is not None:
            return False
        inputs = []
        for v in x.inputs:
            if v in self._numbers:
                missing = len(place.value.shape) - len(v.shape)
                if self._numbers[v].values.size != 1 or missing < 0:
                    return False
                inputs.append(self.take(v, (NEW,) * missing + natural(v.shape)))
            else:
                other = self._places[v]
                if other.value.shape != place.value.shape or v.shape != x.output.shape:
                    return False
                if (other.index() != place.order).any():
                    return False
                inputs.append(other.value)
        out = Value(x.output.name, place.value.shape, x.output.quant)
        self.layers.append(Layer(x.name, x.op, tuple(inputs), out))
        self._places[x.output] = Place(out, x.output.shape, place.order)
        return True

    def _concat(self, x: Layer, op: Concat) -> None:
        moving = [v for v in x.inputs if v not in self._numbers]
        if len(x.output.shape) == 1 and len(moving) == len(x.inputs):
            flats = [self._flat(v) for v in x.inputs]
            starts = np.cumsum([0, *(len(where) for _, where in flats)])
            order = np.concatenate([w + s for (_, w), s in zip(flats, starts, strict=False)])
            out = Value(x.output.name, x.output.shape, x.output.quant)
            self.layers.append(Layer(x.name, op, tuple(v for v, _ in flats), out))
            self._places[x.output] = Place(out, x.output.shape, order)
            return
        axes = self.axes(moving[0])
        inputs = [self.take(v, axes) for v in x.inputs]
        self._emit(x, Concat(axes.index(op.axis)), inputs, axes)

    def _mean(self, x: Layer, over: tuple[int, ...]) -> None:
        (v,) = x.inputs
        axes = self.axes(v)
        new = tuple(i for i, a in enumerate(axes) if a == NEW or a in over)
        kept = axes
        if len(x.output.shape) < len(v.shape):
            left = sorted(a for a in natural(v.shape) if a not in over)
            kept = tuple(left.index(a) for a in axes if a in left)
        self._emit(x, Mean(new), (self.take(v, axes),), kept)

    def _along(self, x: Layer) -> None:
        """Add what names axes of the one value that it reads."""
        (v,) = x.inputs
        axes = natural(v.shape) if isinstance(x.op, Softmax | LogSoftmax) else self.axes(v)
        op: Operation = x.op
        match op:
            case Slice(axis) | Gather(axis):
                op = replace(op, axis=axes.index(axis))
            case Pad(sides):
                op = replace(op, sides=tuple((0, 0) if a == NEW else sides[a] for a in axes))
        self._emit(x, op, (self.take(v, axes),), axes)
