"""Options: fields of records, each said once, with what a person is told of it.

A record is a frozen dataclass.  Its fields are options, or records of options: `Settings` of a
schedule, a recipe and so on.  The command line makes its options of the fields, a method of an
evaluation may carry some of its own (`last:3@lr=0.01`), and Python gives them by name.
"""

from __future__ import annotations

import difflib
import enum
import functools
import operator
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path, PurePath
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

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
    check_names(given, known)
    return _changed(record, {name: checked(known[name], x) for name, x in given.items()})


def with_given(record: Record, options: Mapping[str, object]) -> Record:
    """Return a record with the options that were given: `None` leaves one as it is."""
    check_names(options, [leaf.name for leaf in leaves(type(record))])
    return changed(record, {k: v for k, v in options.items() if v is not None})


def record_given(name: str, given: object, usual: Record) -> Record:
    """Return the record that was given, or the usual one; `InputError` for another thing."""
    if given is None:
        return usual
    if not isinstance(given, type(usual)):
        kind = type(usual).__name__
        raise InputError(
            f"{option(name)}: must be a kilograd.{kind}, not a {type(given).__name__}; or give "
            "options by name"
        )
    return given


def as_list(given: object) -> object:
    """Return what is alone as a list of one."""
    return [given] if isinstance(given, str | Path) else given


def check_names(given: Collection[str], known: Collection[str]) -> None:
    """Raise `InputError` for a name that is not known, with those that are spelled nearly so."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3) or sorted(known)
            raise InputError(f"{name}: no such option; there are {', '.join(near)}")


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
    value = converted(leaf.name, value, leaf.kind)
    if leaf.about.most is not None and value is not None:
        check_most(leaf.name, value, leaf.about.most)
    return value


def converted(name: str, value: Any, kind: Any) -> Any:  # noqa: ANN401
    """Return what was given for a name as a kind of value; `InputError` where it is none."""
    if isinstance(value, np.generic):
        value = value.item()
    kinds = get_args(kind) or (kind,)
    try:
        if isinstance(value, PurePath) and str in kinds:
            return str(value)
        if not isinstance(value, str):
            return msgspec.convert(value, kind)
        if float in kinds:
            return float(value.replace("_", "?"))
        no_null = functools.reduce(operator.or_, (k for k in kinds if k is not type(None)))
        return msgspec.convert(value, no_null, strict=False)
    except (msgspec.ValidationError, ValueError) as e:
        what = value if str(value).strip() else repr(value)
        raise InputError(f"{option(name)} {what}: cannot be used ({e}){_wants(kinds)}") from e


def as_path(name: str, given: object) -> Path:
    """Return what was given for a name as a path; `InputError` for what is none."""
    if not isinstance(given, str | Path):
        raise InputError(f"{option(name)} {given!r}: give a path")
    return Path(given)


def _wants(kinds: tuple[Any, ...]) -> str:
    for kind in kinds:
        if isinstance(kind, enum.EnumType):
            return f"; give {' or '.join(kind)}"
        if kind is bool:
            return "; give true or false"
        if kind in {int, float}:
            return "; give a number"
    return ""


def check_most(name: str, value: float, most: float) -> None:
    """Raise `InputError` for an option that is more than it may be."""
    if value > most:
        raise InputError(f"{option(name)} {value}: {most} is the most")
