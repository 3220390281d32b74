"""The way in for files: whatever stands in them, reading ends with a value or an `InputError`."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import msgspec

from kilograd.errors import InputError

T = TypeVar("T")

CHECKSUM = "sha256"
"""The field of a record with the checksum of its other fields."""


def there(path: Path) -> bool:
    """Tell whether something is at a path, which may be none that the system can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def file_there(path: Path) -> bool:
    """Tell whether a regular file is at a path that may be entered."""
    return there(path) and path.is_file()


def read_bytes(path: Path, most: int) -> bytes:
    """Return what a regular file holds, `most` bytes at most.

    Raises `InputError` for a folder, a pipe or a device, for a larger file, and where the system
    refuses.
    """
    try:
        with open(path, "rb", opener=_opener) as file:
            about = os.fstat(file.fileno())
            regular = stat.S_ISREG(about.st_mode)
            data = file.read(min(about.st_size, most) + 1) if regular else None
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror}); check the path") from e
    except ValueError as e:  # a path with a null character
        raise InputError(f"{path}: is no path ({e})") from e
    if data is None:
        raise InputError(f"{path}: is no file; give a regular one")
    if len(data) > most:
        raise InputError(f"{path}: is larger than {most:,} bytes, the most that is read")
    return data


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe nobody writes to must not block


def read_text(path: Path, most: int) -> str:
    """Return a text in UTF-8, with or without a byte order mark; at most `most` bytes.

    Raises `InputError` as `read_bytes` does, and for bytes that are no UTF-8.
    """
    return decoded(read_bytes(path, most), str(path))


def decoded(data: bytes, where: str) -> str:
    """Return bytes as text: UTF-8, with or without a byte order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise InputError(f"{where}: is no text in UTF-8 (byte {e.start}); save it as such") from e


def read_json(path: Path, kind: type[T], most: int) -> T:
    """Return a JSON file as a value of `kind`, as `parse_json` does."""
    return parse_json(read_text(path, most), kind, str(path))


def parse_json(text: str, kind: type[T], where: str) -> T:
    """Return JSON as a value of `kind`, a msgspec struct or what such a struct may hold.

    Raises `InputError`, which begins with `where`, for text that is no JSON, for a field that
    stands twice in an object, numbers that are not finite, and values that are not of the kind or
    out of the ranges that it states.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_finite, parse_float=_finite
        )
    except RecursionError as e:
        raise InputError(f"{where}: cannot be read as JSON (nested too deeply)") from e
    except ValueError as e:
        raise InputError(f"{where}: cannot be read as JSON ({e})") from e
    return typed(value, kind, where)


def typed(value: object, kind: type[T], where: str) -> T:
    """Return a value that came from JSON as one of `kind`; raises `InputError` where it is none."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as e:
        raise InputError(f"{where}: {_said(str(e))}") from e
    except UnicodeEncodeError as e:  # as JSON may write it: "\ud800"
        raise InputError(f"{where}: holds half a character, {e.object[e.start]!a}") from e


def inside(folder: Path, name: str, where: str) -> Path:
    """Return the path of a file that another file names, relative to a folder.

    Raises `InputError`, which begins with `where`, if it leads out of the folder, by `..` or links.
    """
    path = folder / relative(name, where)
    if not leads_inside(folder, path):
        raise InputError(f"{where}: {name[:80]!r} leads out of {folder}; put a copy there")
    return path


def relative(name: str, where: str) -> PurePosixPath:
    """Return a path that a file gives, relative to a folder; links are not looked at.

    Raises `InputError`, which begins with `where`, for an absolute one, and for one with `..`.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise InputError(
            f"{where}: {name[:80]!r} must be the path of a file inside the folder, without '..'"
        )
    return path


def leads_inside(folder: Path, path: Path) -> bool:
    """Tell whether a path, its links followed, stays inside a folder."""
    try:
        if path.is_relative_to(folder) and ".." not in path.parts:
            below = path.relative_to(folder).parts
            steps = [path, *path.parents][: len(below)]
            if not any(step.is_symlink() for step in steps):
                return True  # as nearly always, and ten times as fast
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a link to itself; a name that is too long
        return False


def checksum(record: Mapping[str, Any]) -> str:
    """Return what tells a record from a damaged one: SHA-256 of its other fields, keys sorted.

    >>> checksum({"a": 1}) == checksum({"a": 1, "sha256": "..."})
    True
    """
    rest = {k: v for k, v in record.items() if k != CHECKSUM}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def with_checksum(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with its checksum."""
    return {**record, CHECKSUM: checksum(record)}


def require_checksum(record: object, where: str) -> None:
    """Raise `InputError` where a record has a checksum, and it is not its own."""
    if not isinstance(record, dict) or CHECKSUM not in record:
        return
    if record[CHECKSUM] != checksum(record):
        raise InputError(
            f"{where}: is damaged, its checksum is another; if it was changed on purpose, remove "
            f"the field {CHECKSUM}"
        )


def _object(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"field {key[:80]!r} stands twice")
        found[key] = value
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _said(message: str) -> str:
    """Turn a message of msgspec into "place: what is wrong"."""
    reason, _, at = message.rpartition(" - at ")
    reason = reason or message
    place = re.search(r"\$\.?([^`]*)", at)
    reason = re.sub(r"^Object missing required field `(.*)`$", r"field '\1' is missing", reason)
    reason = re.sub(r"^Object contains unknown field `", "has an unknown field `", reason)
    reason = reason[:1].lower() + reason[1:].replace("`", "")
    return f"{place[1]}: {reason}" if place and place[1] else reason
