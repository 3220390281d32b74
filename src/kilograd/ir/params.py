"""What a C kernel is told when it is called, field by field, each with its range.

A record is a struct in C.  Its class is the only place that knows the struct's fields, their C
types and the values that kernels take; `runtime/include/kg_params.h` is written from these classes
(`docs/make_params.py`).  A record with a value out of range cannot be made.
"""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, get_type_hints

import numpy as np

from kilograd.ir.types import Array

INT32_MAX = (1 << 31) - 1


class RangeError(ValueError):
    """A number is smaller or larger than what is made of it can take."""

    def __init__(self, field: str, value: float, least: float, most: float) -> None:
        super().__init__(field, value, least, most)
        self.field, self.value, self.least, self.most = field, value, least, most

    def __str__(self) -> str:
        limit = f"at least {self.least}" if self.value < self.least else f"at most {self.most}"
        return f"{self.field} is {self.value}, {limit}"


def require_range(field: str, value: float, least: float, most: float) -> None:
    """Raise `RangeError` unless `least <= value <= most`; no number is in no range."""
    if not least <= value <= most:
        raise RangeError(field, value, least, most)


@dataclass(frozen=True)
class Range:
    """The C type of a field or of the elements of a table, and what kernels take."""

    c_type: str
    least: float
    most: float


Size = Annotated[int, Range("int16_t", 1, 32767)]
Code = Annotated[int, Range("int32_t", -128, 127)]
Count = Annotated[int, Range("int32_t", 1, INT32_MAX)]
Length = Annotated[int, Range("int32_t", 1, 32767)]
Bits = Annotated[int, Range("int32_t", 4, 15)]
Header = Annotated[int, Range("int32_t", 0, 4)]
Multiplier = Annotated[int, Range("int32_t", 0, INT32_MAX)]
Shift = Annotated[int, Range("int32_t", 1, 62)]
"""Of `kg_requantise`: 2^62 is the largest product that leaves room for rounding."""
SCALES = (2.0**-40, 2.0**16)
"""Real units a code, of activations and weights: so that float32 arithmetic of the head neither
overflows nor loses a length (docs/arithmetic.md, section 7).
"""
Scale = Annotated[float, Range("float", *SCALES)]
Fractions = Annotated[Array, Range("int32_t", 1, INT32_MAX)]
Index = Annotated[Array, Range("int16_t", 0, 32767)]


@dataclass(frozen=True, eq=False)
class Params:
    """Base of the records; a derived class has a docstring for the struct, and annotated fields.

    Fields are integers and floats (`Size`, `Scale`, ...), tables in flash (`Index`, ...; `None` is
    a null pointer) and other records.  Raises `RangeError` for a value out of range.
    """

    #: The struct's name in C, where it does not follow from the name of the class.
    struct: ClassVar[str] = ""
    #: Pointers in front of the fields, for the compiler to fill in: C type by name.
    pointers: ClassVar[dict[str, str]] = {}
    #: Fields and constants whose products must fit into int32.
    products: ClassVar[tuple[tuple[str | int, ...], ...]] = ()
    #: Pairs of fields of which the first must not be larger.
    ordered: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __post_init__(self) -> None:
        """Check every field, then what fields have to do with each other."""
        name = self.c_name()
        for field, kind in members(type(self)).items():
            value = getattr(self, field)
            if isinstance(kind, Range) and value is not None:
                _check(f"{name}.{field}", value, kind)
        for factors in self.products:
            total = math.prod(f if isinstance(f, int) else self.value(f) for f in factors)
            require_range(f"{name}: {' * '.join(map(str, factors))}", total, 0, INT32_MAX)
        for small, large in self.ordered:
            require_range(f"{name}.{small}", self.value(small), -INT32_MAX, self.value(large))

    @classmethod
    def c_name(cls) -> str:
        """Return the name of the struct: `kg_conv_params` for `ConvParams`."""
        return cls.struct or "kg" + re.sub(r"([A-Z])", r"_\1", cls.__name__).lower()

    def value(self, path: str) -> Any:  # noqa: ANN401 a number, whichever the field holds
        """Return a field of this record, or of one in it: `window.in_h`."""
        return operator.attrgetter(path)(self)

    def values(self) -> Iterator[tuple[str, int | float | Array | None]]:
        """Yield the designator of every number and table, as C writes it, and its value."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Params):
                yield from ((f"{field.name}.{inner}", v) for inner, v in value.values())
            elif isinstance(value, tuple):
                yield from ((f"{field.name}[{i}]", v) for i, v in enumerate(value))
            else:
                yield field.name, value

    def tables(self) -> Iterator[Array]:
        """Yield the tables that the record points to."""
        yield from (v for _, v in self.values() if isinstance(v, np.ndarray))


def members(record: type[Params]) -> dict[str, Range | type[Params]]:
    """Return what each field of a record is: a number or table with its range, or a record."""
    return _members(record)  # type: ignore[arg-type]  # to mypy, that of its values


@functools.cache
def _members(record: type[Params]) -> dict[str, Range | type[Params]]:
    hints = get_type_hints(record, include_extras=True)
    found = {}
    for field in fields(record):
        hint = hints[field.name]
        found[field.name] = next((x for x in getattr(hint, "__metadata__", ())), hint)
    return found


def _check(field: str, value: Any, kind: Range) -> None:  # noqa: ANN401 any field's value
    if isinstance(value, np.ndarray):
        if value.dtype != np.dtype(kind.c_type.removesuffix("_t")):
            raise TypeError(f"{field} is a table of {value.dtype}, not of {kind.c_type}")
        least, most = (value.min(), value.max()) if value.size else (kind.least, kind.most)
        _check(field, (int(least), int(most)), kind)
        return
    for number in value if isinstance(value, tuple) else (value,):
        exact = number if kind.c_type == "float" else operator.index(number)
        require_range(field, exact, kind.least, kind.most)
