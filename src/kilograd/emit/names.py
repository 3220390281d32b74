"""Names in C.  All are ours: what a network calls its tensors never gets there."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from kilograd.errors import InputError

LONGEST = 64
"""Characters of a program's name: compilers need not tell longer names apart."""

_KEYWORDS = """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t
    char8_t class co_await co_return co_yield compl concept const const_cast consteval constexpr
    constinit continue decltype default delete do double dynamic_cast else enum explicit export
    extern false float for friend goto if inline int long mutable namespace new noexcept not not_eq
    nullptr operator or or_eq private protected public register reinterpret_cast requires restrict
    return short signed sizeof static static_assert static_cast struct switch template this
    thread_local throw true try typedef typeid typename typeof typeof_unqual union unsigned using
    virtual void volatile wchar_t while xor xor_eq
"""
"""Of C23 and C++23.  Those that begin with an underscore are no names for us anyway."""

_HEADERS = """
    assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign
    stdarg stdatomic stdbit stdbool stdckdint stddef stdint stdio stdlib stdnoreturn string tgmath
    threads time uchar wchar wctype
"""


def checked_name(name: str) -> str:
    """Return what a program is to be called in C; its functions and macros begin with it.

    Raises `InputError` for what is no identifier of C and C++, or could clash with the runtime.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or len(name) > LONGEST:
        raise InputError(
            f"program name {name[:80]!r}: must be 1 to {LONGEST} letters of a to z, digits and "
            f"underscores, and begin with a letter"
        )
    if name in _KEYWORDS.split():
        raise InputError(f"program name {name!r}: is a keyword of C or C++; choose another")
    if f"{name.lower()}_".startswith("kg_"):
        raise InputError(f"program name {name!r}: names that begin with kg_ are the runtime's")
    if name.lower() in _HEADERS.split():
        raise InputError(f"program name {name!r}: {name}.h is a header of C; choose another")
    return name


def c_string(text: str) -> str:
    r"""Return text as a string literal of C, in ASCII: what cannot be seen or ends it is escaped.

    >>> print(c_string('a "b"??/ \u00fc'))
    "a \"b\"\?\?/ \303\274"
    """
    data = text.encode("utf-8", "replace")
    plain = set(range(32, 127)) - set(b'"\\?')
    return '"' + "".join(chr(b) if b in plain else _escaped(b) for b in data) + '"'


def _escaped(byte: int) -> str:
    """Return a byte as an escape that no digit behind it can lengthen."""
    return f"\\{chr(byte)}" if byte in b'"\\?' else f"\\{byte:03o}"


def markdown(text: str) -> str:
    r"""Return text of others for a line of Markdown: it shows as it is, and means nothing.

    >>> print(markdown("*a* [b](http://c) <d>|e"))
    \*a\* \[b\](http\://c) \<d\>\|e
    """
    seen = "".join(c if c.isprintable() else "?" for c in text)
    return re.sub(r"([\\`*_\[\]<>|&~$#:@]|(?<=www)\.)", r"\\\1", seen)


def check_own(names: Iterable[str]) -> None:
    """Raise a ValueError unless all names of one kind are identifiers, in capitals too."""
    seen: set[str] = set()
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise ValueError(f"{name!r} is no name for C: letters, digits and underscores")
        if name.lower() in seen:
            raise ValueError(f"{name!r} is the name of two things in C")
        seen.add(name.lower())


def c_float(value: float) -> str:
    """Return a float32 that C reads as the same number."""
    text = repr(float(str(np.float32(value))))
    return f"{text}f"
