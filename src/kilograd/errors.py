"""What the user gave cannot be used, and how texts of others are shown."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LONGEST = 2000
_OPTION = re.compile("\x1a([a-z_]+)\x1a")


def shown(text: object) -> str:
    r"""Return a text that somebody else wrote as a part of one line on a terminal.

    What does not print is escaped: control characters, line breaks, marks that change the
    direction of writing, halves of surrogate pairs.  Letters of any script stay.

    >>> print(shown("né\x1b[2J\n\u202e"))
    né\x1b[2J\n\u202e
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text)
    )


def option(name: str) -> str:
    """Return how the message of an `InputError` names a field that the caller has set.

    A Python user reads the name of the field; the command line shows its option.

    >>> error = InputError(f"{option('cache_bytes')} 7: holds no image; give {option('cache')}")
    >>> print(error, "|", error.on_command_line())
    cache_bytes 7: holds no image; give cache | --cache-bytes 7: holds no image; give --cache
    """
    if not _OPTION.fullmatch(marked := f"\x1a{name}\x1a"):
        raise ValueError(f"{name!r} is the name of no field")
    return marked


def flag(name: str) -> str:
    """Return a field's option as it is typed on the command line, and stored.

    A name that Python keeps for itself ends in `_` there, as `from_` does.

    >>> flag("from_"), flag("cache_bytes"), field_of("--cache-bytes"), field_of("kilograd")
    ('--from', '--cache-bytes', 'cache_bytes', None)
    """
    return f"--{name.removesuffix('_').replace('_', '-')}"


def field_of(flag: str) -> str | None:
    """Return the field of an option that is stored as it is typed; None for what is no option."""
    match = re.fullmatch("--([a-z-]+)", flag)
    return match[1].replace("-", "_") if match else None


def as_named(text: str) -> str:
    """Return a text in which options stand by the names of their fields, as Python gives them."""
    return _OPTION.sub(r"\1", text)


def as_typed(text: str) -> str:
    """Return a text in which options stand as they are typed on the command line."""
    return _OPTION.sub(lambda m: flag(m[1]), text)


class InputError(ValueError):
    """A file, tensor or option from the user cannot be used.

    The message is one line for the user: it names the file, tensor or option (`option`), says what
    is wrong with it, and what to do instead.  The command line prints it and exits with code 2; a
    defect of Kilograd itself must never be raised as this type.

    Whatever is quoted in it is escaped (`shown`), and what is longer than 2,000 characters loses
    its middle.

    `items`: all that is wrong, a line each, where one sentence cannot say it: of a network's layers
    every one that cannot be computed, so that nobody meets them one by one.

    >>> raise InputError("photos/: no such folder; give a folder of class folders")
    Traceback (most recent call last):
    ...
    kilograd.errors.InputError: photos/: no such folder; give a folder of class folders
    """

    def __init__(self, message: str, items: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.items = tuple(items)

    def __str__(self) -> str:
        """Return the message with the names of fields, and the items below."""
        return "\n".join(_line(as_named(x)) for x in self._lines())

    def __format__(self, how: str) -> str:
        """Return the message as a part of another one."""
        return self.args[0]

    def on_command_line(self) -> str:
        """Return the message with options as they are typed, and the items below."""
        return "\n".join(_line(as_typed(x)) for x in self._lines())

    def _lines(self) -> list[str]:
        return [self.args[0], *(f"  {item}" for item in self.items)]


def _line(message: str) -> str:
    line = shown(message)
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
    return line
