"""Which names files may give, to the machine and to people: two kinds, one function each."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable

from kilograd.errors import InputError
from kilograd.limits import IDENTIFIER_LENGTH, LABEL_LENGTH

_IDENTIFIER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/+-]*", re.ASCII)
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Categories of Unicode: control, format, surrogate, private, unassigned, line, paragraph."""

RESERVED = frozenset(
    {"image", "label", "lr", "clock", "share", "loss", "logits", "embedding", "one", "head"}
)
"""What Kilograd calls inputs, outputs and constants of programs, and its own classifier."""
RESERVED_PARTS = frozenset({"weight", "bias", "fisher", "again", "lite", "lora", "grouped"})
"""What it adds behind a dot: LAYER.weight, LAYER.weight.learned, LAYER.again, BLOCK.lite.add,
LAYER.lora, LAYER.grouped.0."""
_PARTS = sorted(RESERVED_PARTS)


def identifier(text: str, where: str) -> str:
    """Return the name of an operator, activation, tensor, layer or network.

    ASCII letters, digits and `_.:/+-`, the first one a letter, a digit or `_`; 1 to 128 characters.

    Raises `InputError`, which begins with `where`, for another.
    """
    if not 1 <= len(text) <= IDENTIFIER_LENGTH or not _IDENTIFIER.fullmatch(text):
        raise InputError(
            f"{where}: {_short(text)} is no name here; use letters A to Z, digits and _ . : / + -, "
            f"a letter, digit or _ first, at most {IDENTIFIER_LENGTH} characters"
        )
    return text


def operator(text: str, where: str) -> str:
    """Return an identifier that clashes with no name that Kilograd gives itself.

    Its first part (up to a dot) is none of `RESERVED` where it stands alone or is "head", and no
    later part is one of `RESERVED_PARTS`.

    Raises `InputError` for another.
    """
    first, *rest = identifier(text, where).split(".")
    alone = not rest and first in RESERVED
    if alone or first == "head" or RESERVED_PARTS.intersection(rest):
        raise InputError(
            f"{where}: {_short(text)} is a name that Kilograd gives itself; choose another, "
            f"none of {', '.join(sorted(RESERVED))}, and no part .{', .'.join(_PARTS)}"
        )
    return text


def spelled(text: str, taken: Collection[str]) -> str:
    """Return a name for an operator that comes as close as may be to one of another tool.

    It is unlike those that are `taken`.  Whatever `operator` refuses is spelled otherwise; of a
    long name the end is kept, which tells most.

    >>> spelled("model/conv 1/BiasAdd;x", {"model/conv_1/BiasAdd"}), spelled("head", ())
    ('model/conv_1/BiasAdd_1', 'head_')
    """
    text = text.partition(";")[0]
    room = IDENTIFIER_LENGTH - 32  # for what Kilograd adds
    plain = re.sub(r"[^A-Za-z0-9_./+-]+", "_", text)[-room:].lstrip("./+-") or "layer"
    parts = [f"{p}_" if p in RESERVED | RESERVED_PARTS else p for p in plain.split(".")]
    stem = name = ".".join(parts)
    i = 1
    while name in taken:
        name, i = f"{stem}_{i}", i + 1
    return name


def label(text: str, where: str) -> str:
    r"""Return a name that people read, of a class, a data set or a network, in Unicode's form C.

    Letters of any script, 1 to 200 characters, no space at either end, and nothing that cannot be
    seen: no control characters, line breaks, marks of direction, surrogates, or characters that
    Unicode has not assigned.

    Raises `InputError`, which begins with `where`, for another.

    >>> label("cafe\u0301", "class") == "caf\u00e9"
    True
    """
    unseen = [c for c in text[: LABEL_LENGTH + 1] if unicodedata.category(c) in _UNSEEN]
    if unseen:
        raise InputError(
            f"{where}: {_short(text)} holds the character {unseen[0]!a}; rename it without"
        )
    name = unicodedata.normalize("NFC", text[: 4 * LABEL_LENGTH])
    if name != name.strip() or not 1 <= len(name) <= LABEL_LENGTH or len(text) > 4 * LABEL_LENGTH:
        raise InputError(
            f"{where}: {_short(text)} is no name; give 1 to {LABEL_LENGTH} characters, without "
            f"spaces at the ends"
        )
    return name


def distinct(names: Iterable[str], where: str, what: str) -> tuple[str, ...]:
    """Return names as they are; raise `InputError` where two are the same.

    `what` are they, as in "two classes are called 'a'".
    """
    seen: set[str] = set()
    found = tuple(names)
    for name in found:
        if name in seen:
            raise InputError(
                f"{where}: two {what} are called {_short(name)}; give each its own name"
            )
        seen.add(name)
    return found


def _short(text: str) -> str:
    """Quote a name that may be long."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
