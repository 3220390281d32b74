"""Mutations of bytes, text and JSON that keep enough structure to come far into a reader."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

#: Text that would hurt where it is written raw: into C, a terminal, a page, a path, a message.
TEXTS = (
    "",
    " ",
    "*/ #error x\n/*",
    '"; int x; char *y = "',
    "back\\\nslash",
    "??/",
    "\x1b[31m",
    "nul\x00",
    "two\nlines",
    "\r",
    "\x85",
    "\u202egnp",
    "\u2028",
    "\ud800",
    "\U000e0041",
    "\ue000",
    "int",
    "a.b",
    "a_b",
    "0abc",
    "e\u0301",
    "\u00e9",
    "x" * 10_000,
    "../../up",
    "/etc/passwd",
    "~",
    "$(touch PWN)",
    "%s%n",
    "<script>alert(1)</script>",
    "weight",
    "label",
    "1",
    "true",
    "all",
)

#: Numbers as JSON writes them: the ends of every type, and what Python reads and C does not.
NUMBERS = (
    *("0", "-0", "-1", "1", "2", "1.0", "0.5", "-0.5", "1e-9", "1e-46", "1e308", "1e17", "-1e17"),
    *("NaN", "Infinity", "-Infinity", "1e999", "127", "128", "-128", "-129", "255", "256"),
    *("32767", "32768", "-32769", "40000", "65535", "65536", "65537", "2147483647", "2147483648"),
    *("-2147483648", "-2147483649", "4294967296", "9223372036854775807", "9223372036854775808"),
    *("1000000000", "1" + "0" * 400, "1" + "0" * 5000, "1073741824", "16777217", "3.0000000001"),
)
_OTHERS = ("null", "true", "false", "[]", "{}", '"x"', "[[]]", '{"": 0}')
_NESTED = ("[" * 50 + "]" * 50, "[" * 20_000 + "]" * 20_000, '{"a":' * 5000 + "0" + "}" * 5000)

_MARK = "\ue0ff"
"""Stands before the number of a text that goes into the JSON as it is."""


def mutated_json(rng: Random, text: bytes) -> bytes:
    """Change one to three places of a JSON text, and now and then its encoding."""
    tree = json.loads(text)
    raw: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(_TREE)(rng, tree, raw)
    written = json.dumps(tree, ensure_ascii=rng.random() < 0.5)
    for i, one in enumerate(raw):
        for mark in (json.dumps(f"{_MARK}{i}:"), f'"{_MARK}{i}:"'):
            written = written.replace(mark, one)
    if rng.random() < 0.9:
        written = _signed(written)
    out = written.encode("utf-8", "surrogatepass")
    return out if rng.random() < 0.94 else rng.choice(_ENCODED)(rng, out)


def _signed(text: str) -> str:
    """Put the right checksum into a record that has one, so that it is read on."""
    try:
        record = json.loads(text)
        old, new = json.dumps(record["sha256"]), digest(record)
    except (KeyError, RecursionError, TypeError, ValueError):
        return text
    return text.replace(old, json.dumps(new))


def digest(record: Mapping[str, Any]) -> str:
    """Return the checksum of a record: SHA-256 of its other fields, keys sorted."""
    rest = {k: v for k, v in record.items() if k != "sha256"}
    raw = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(raw.encode("utf-8", "surrogatepass")).hexdigest()


Places = list[tuple[Any, Any]]


def _places(tree: Any) -> Places:
    """Return every container and key below the root."""
    found: Places = []
    todo = [tree]
    while todo:
        one = todo.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one))
        for key in keys:
            found.append((one, key))
            if isinstance(one[key], dict | list):
                todo.append(one[key])
    return found


def _raw(raw: list[str], text: str) -> str:
    raw.append(text)
    return f"{_MARK}{len(raw) - 1}:"


def _hostile(rng: Random, raw: list[str]) -> Any:
    kind = rng.random()
    if kind < 0.5:
        return _raw(raw, rng.choice(NUMBERS))
    if kind < 0.8:
        return rng.choice(TEXTS)
    return _raw(raw, rng.choice(_OTHERS if kind < 0.98 else _NESTED))


def _replace(rng: Random, tree: Any, raw: list[str]) -> None:
    box, key = rng.choice(_places(tree) or [([0], 0)])
    box[key] = _hostile(rng, raw)


def _nudge(rng: Random, tree: Any, raw: list[str]) -> None:
    """Change a number a little, or its type."""
    numbers = [(b, k) for b, k in _places(tree) if type(b[k]) in {int, float}]
    box, key = rng.choice(numbers or [([0], 0)])
    x = box[key]
    box[key] = rng.choice((x + 1, x - 1, 2 * x, -x, float(x), str(x), [x], x == 1, x + 0.5, x * 3))


def _rename(rng: Random, tree: Any, raw: list[str]) -> None:
    """Change a key, or a text that names something."""
    box, key = rng.choice(_places(tree) or [([0], 0)])
    if isinstance(box, dict):
        box[rng.choice((*TEXTS, str(key) + "x"))] = box.pop(key)
    else:
        box[key] = rng.choice(TEXTS)


def _drop(rng: Random, tree: Any, raw: list[str]) -> None:
    box, key = rng.choice(_places(tree) or [([0], 0)])
    del box[key]


def _add(rng: Random, tree: Any, raw: list[str]) -> None:
    box, key = rng.choice(_places(tree) or [([0], 0)])
    if isinstance(box, list):
        box.insert(key, json.loads(json.dumps(box[key])))
    else:  # a key twice: the second is written behind the first
        box[_raw(raw, f"{json.dumps(key)}: 0, {json.dumps(key)}")] = box[key]


def _swap(rng: Random, tree: Any, raw: list[str]) -> None:
    """Let two siblings change places."""
    box, key = rng.choice(_places(tree) or [([0], 0)])
    other = rng.choice(list(box) if isinstance(box, dict) else range(len(box)))
    box[key], box[other] = box[other], box[key]


def _copy(rng: Random, tree: Any, raw: list[str]) -> None:
    """Put a part of the tree in another place."""
    places = _places(tree) or [([0], 0)]
    (box, key), (to, at) = rng.choice(places), rng.choice(places)
    to[at] = json.loads(json.dumps(box[key]))


_TREE: Sequence[Callable[[Random, Any, list[str]], None]] = (
    *(_replace,) * 5,
    *(_nudge,) * 4,
    *(_rename, _drop, _add, _swap, _copy),
)


def flipped(rng: Random, data: bytes) -> bytes:
    """Change bytes: bits, runs, lengths, numbers, the end."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(out) + 1)
        n = rng.choice((1, 2, 4, 8, 64))
        match rng.randrange(8):
            case 0 | 1 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 2 if at < len(out):
                out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 3:
                out[at:at] = rng.randbytes(n)
            case 4:
                del out[at : at + n]
            case 5:
                other = rng.randrange(len(out) + 1)
                out[at : at + n] = out[other : other + n]
            case 6:
                width, code = rng.choice(((1, "B"), (2, "H"), (4, "I"), (8, "Q")))
                top = 1 << 8 * width
                number = rng.choice((0, 1, top - 1, top // 2, top // 2 - 1, top // 4))
                out[at : at + width] = struct.pack(rng.choice("<>") + code, number)
            case 7 if rng.random() < 0.3:
                del out[at:]
    return bytes(out)


_ENCODED: Sequence[Callable[[Random, bytes], bytes]] = (
    flipped,
    lambda rng, data: b"\xef\xbb\xbf" + data,
    lambda rng, data: data[: rng.randrange(len(data) + 1)],
    lambda rng, data: data.decode("utf-8", "replace").encode("utf-16"),
    lambda rng, data: data + b" x",
    lambda rng, data: b"",
    lambda rng, data: data.replace(b'"', b"\xff", 1),
)


def mutated_text(rng: Random, text: str) -> str:
    """Change a short text: a character, a piece, a number in it."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(text) + 1)
        piece = rng.choice((*TEXTS, *NUMBERS, *"0159.:/@-+eKMB%, \u0663\u00b2\u2460", "1/3", "inf"))
        keep = at + rng.choice((0, 1, 1, 3))
        text = text[:at] + piece + text[keep:]
    return text
