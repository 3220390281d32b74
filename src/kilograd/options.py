"""Options: fields of records, each said once, with what a person is told of it.

A record is a frozen dataclass.  Its fields are options, or records of options: `Settings` of a
schedule, a recipe and so on.  The command line makes its options of the fields, a method of an
evaluation may carry some of its own (`last:3@lr=0.01`), and Python gives them by name.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec

from kilograd.errors import InputError, option

Record = TypeVar("Record")


@dataclass(frozen=True)
class Option:
    """What a person is told of a field, and the most that a number may be."""

    help: str
    most: int | None = None


@dataclass(frozen=True)
class Leaf:
    """An option of a record: `group` is the record that has it as a field."""

    name: str
    kind: Any
    about: Option
    default: object
    group: type


def leaves(record: type) -> tuple[Leaf, ...]:
    """Return the options of a record and of the records in it; of one name, the first."""
    found: dict[str, Leaf] = {}
    for leaf in _leaves(record):
        found.setdefault(leaf.name, leaf)
    return tuple(found.values())


def _leaves(record: type) -> Iterator[Leaf]:
    hints = get_type_hints(record, include_extras=True)
    for f in fields(record):
        kind = hints[f.name]
        if is_dataclass(kind):
            yield from _leaves(cast("type", kind))
        elif get_origin(kind) is Annotated:
            plain, about = get_args(kind)
            yield Leaf(f.name, plain, about, f.default, record)


def values(record: object) -> dict[str, Any]:
    """Return the options of a record by name, in the order of its fields."""
    found: dict[str, Any] = {}
    known = {leaf.name for leaf in leaves(type(record))}
    for f in fields(record):  # type: ignore[arg-type]
        value = getattr(record, f.name)
        if is_dataclass(value):
            found = {**values(value), **found}
        elif f.name in known:
            found[f.name] = value
    return found


def changed(record: Record, given: Mapping[str, object]) -> Record:
    """Return a record with some of its options changed, wherever in it they stand.

    Raises `InputError` for a name that is no option, with those that are spelled nearly so; and
    what the records raise for values that make no sense.
    """
    known = {leaf.name: leaf for leaf in leaves(type(record))}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3) or sorted(known)
            raise InputError(f"{name}: no such option; there are {', '.join(near)}")
    return _changed(record, {name: checked(known[name], x) for name, x in given.items()})


def _changed(record: Record, given: Mapping[str, object]) -> Record:
    new: dict[str, object] = {}
    for f in fields(record):  # type: ignore[arg-type]
        value = getattr(record, f.name)
        if is_dataclass(value):
            new[f.name] = _changed(value, given)
        elif f.name in given:
            new[f.name] = given[f.name]
    return replace(record, **new)  # type: ignore[type-var]


def checked(leaf: Leaf, value: Any) -> Any:  # noqa: ANN401 whatever the field is
    """Return a value as its field has it; a text is read: "0.01", "true", "adam".

    Raises `InputError` for one that the field cannot be, or that is more than it may be.
    """
    try:
        value = msgspec.convert(value, leaf.kind, strict=False)
    except msgspec.ValidationError as e:
        kinds = [k for k in (leaf.kind, *get_args(leaf.kind)) if isinstance(k, enum.EnumType)]
        wants = f"; give {' or '.join(kinds[0])}" if kinds else ""
        raise InputError(f"{option(leaf.name)} {value}: cannot be used ({e}){wants}") from e
    if leaf.about.most is not None and value is not None:
        check_most(leaf.name, value, leaf.about.most)
    return value


def check_most(name: str, value: float, most: float) -> None:
    """Raise `InputError` for an option that is more than it may be."""
    if value > most:
        raise InputError(f"{option(name)} {value}: {most} is the most")
