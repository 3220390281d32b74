"""Curves that a file spells out in sums, products and clamps: of float networks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kilograd.layers.network import (
    UNBOUNDED,
    Bounds,
    Clamp,
    Curve,
    CurveKind,
    Layer,
    Network,
    Product,
    Sum,
    Tensor,
    Value,
)
from kilograd.layers.simplify.clamps import both
from kilograd.layers.simplify.edit import constants, edited, scalar


@dataclass(frozen=True)
class _Ramp:
    """Of the value x: behind * min(max(factor * x + offset, low), high) + shift."""

    x: Value
    factor: float
    offset: float
    bounds: Bounds = UNBOUNDED
    behind: float = 1.0
    shift: float = 0.0

    def then(self, factor: float, offset: float) -> _Ramp:
        """Return this times factor plus offset."""
        if self.bounds == UNBOUNDED:
            return _Ramp(self.x, self.factor * factor, self.offset * factor + offset)
        behind, shift = self.behind * factor, self.shift * factor + offset
        return _Ramp(self.x, self.factor, self.offset, self.bounds, behind, shift)

    def clamped(self, bounds: Bounds) -> _Ramp | None:
        """Return this within bounds; None where something stands between two clamps."""
        if bounds == UNBOUNDED:
            return self
        if (self.behind, self.shift) != (1, 0):
            return None
        return _Ramp(self.x, self.factor, self.offset, both(self.bounds, bounds))

    @property
    def is_hard_sigmoid(self) -> bool:
        """Whether this is relu6(x + 3) / 6."""
        if self.bounds == UNBOUNDED or math.inf in map(abs, self.bounds):
            return False
        ends = [self.behind * bound + self.shift for bound in self.bounds]
        line = (self.behind * self.factor, self.behind * self.offset + self.shift)
        return self.factor > 0 and all(
            math.isclose(got, right, rel_tol=1e-5, abs_tol=1e-6)
            for got, right in zip((*line, *ends), (1 / 6, 1 / 2, 0, 1), strict=True)
        )


def recognise_curves(network: Network) -> Network:
    """Name hard sigmoids, and the products x * sigmoid(x), x * tanh(softplus(x)) and the like."""
    numbers, made = constants(network), network.made()
    ramps: dict[Value, _Ramp] = {}
    new: dict[Layer, tuple[Layer, ...]] = {}
    for x in network.layers:
        if x.output.quant is not None:
            continue
        ramp = _ramp(x, numbers, ramps)
        if ramp is not None:
            ramps[x.output] = ramp
            if ramp.is_hard_sigmoid:
                op = Curve(CurveKind.HARD_SIGMOID)
                new[x] = (Layer(x.name, op, (ramp.x,), x.output),)
        if x not in new and isinstance(x.op, Product) and x.op.clamp == UNBOUNDED:
            found = _gated(x.output, made, numbers, ramps)
            if found is not None:
                kind, of = found
                new[x] = (Layer(x.name, Curve(kind), (of,), x.output),)
    return edited(network, new)


def _ramp(x: Layer, numbers: Mapping[Value, Tensor], ramps: Mapping[Value, _Ramp]) -> _Ramp | None:
    """Return what a layer is as a ramp of an earlier value, if it is one."""
    match x.op:
        case Clamp(bounds):
            return ramps.get(x.inputs[0], _Ramp(x.inputs[0], 1, 0)).clamped(bounds)
        case Sum(clamp) | Product(clamp):
            for v, other in (x.inputs, x.inputs[::-1]):
                number = scalar(numbers.get(other))
                if number is None or v in numbers or v.shape != x.output.shape:
                    continue
                ramp = ramps.get(v, _Ramp(v, 1, 0))
                line = (1.0, number) if isinstance(x.op, Sum) else (number, 0.0)
                return ramp.then(*line).clamped(clamp)
    return None


def _gated(
    v: Value,
    made: Mapping[Value, Layer],
    numbers: Mapping[Value, Tensor],
    ramps: Mapping[Value, _Ramp],
) -> tuple[CurveKind, Value] | None:
    """Return the curve x * g(x) that a product is, and x."""
    number, factors = 1.0, list(_factors(v, made, top=True))
    for f in list(factors):
        constant = scalar(numbers.get(f))
        if constant is not None:
            number *= constant
            factors.remove(f)
    if len(factors) != 2 or factors[0].shape != factors[1].shape:
        return None
    for x, gate in (factors, factors[::-1]):
        ramp = ramps.get(gate)
        if ramp is not None and ramp.x == x and ramp.then(number, 0).is_hard_sigmoid:
            return CurveKind.HARD_SWISH, x
        kind = _gate(made.get(gate), x, made) if number == 1 else None
        if kind is not None:
            return kind, x
    return None


def _factors(v: Value, made: Mapping[Value, Layer], *, top: bool = False) -> Iterator[Value]:
    """Yield what a value is the product of, as long as every product has its shape."""
    layer = made.get(v)
    if layer is not None and layer.op == Product() and (top or layer.output.shape == v.shape):
        for x in layer.inputs:
            yield from _factors(x, made)
    else:
        yield v


def _gate(layer: Layer | None, x: Value, made: Mapping[Value, Layer]) -> CurveKind | None:
    """Return the curve x * g(x) of the layer that computes g(x)."""
    if layer is None:
        return None
    match layer.op, layer.inputs:
        case Curve(kind=CurveKind.SIGMOID), (v,) if v == x:
            return CurveKind.SILU
        case Curve(kind=CurveKind.HARD_SIGMOID), (v,) if v == x:
            return CurveKind.HARD_SWISH
        case Curve(kind=CurveKind.TANH), (v,) if v in made:
            inner = made[v]
            if isinstance(inner.op, Curve) and inner.op.kind is CurveKind.SOFTPLUS:
                return CurveKind.MISH if inner.inputs == (x,) else None
    return None
