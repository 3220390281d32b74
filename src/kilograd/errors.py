"""What the user gave cannot be used, and how texts of others are shown."""

from __future__ import annotations

_LONGEST = 2000


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


class InputError(ValueError):
    """A file, tensor or option from the user cannot be used.

    The message is one line for the user: it names the file, tensor or option, says what is wrong
    with it, and what to do instead. The command line prints it as it is and exits with code 2; a
    defect of Kilograd itself must never be raised as this type.

    Whatever is quoted in it is escaped (`shown`), and what is longer than 2,000 characters loses
    its middle.

    >>> raise InputError("photos/: no such folder; give a folder of class folders")
    Traceback (most recent call last):
    ...
    kilograd.errors.InputError: photos/: no such folder; give a folder of class folders
    """

    def __init__(self, message: str) -> None:
        line = shown(message)
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
        super().__init__(line)
