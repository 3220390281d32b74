"""Plain data from a pickle, without unpickling: nothing that the file names is imported or called.

A pickle is a program for a machine with a stack.  This is such a machine with few instructions: it
makes dictionaries, lists, tuples, numbers, texts and numpy arrays, and knows the few names by
which arrays and numbers of numpy are written.  Whatever else a file asks for is refused.

torch.save writes a zip file in which the pickle is `NAME/data.pkl`.
"""

from __future__ import annotations

import enum
import io
import math
import pickletools
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kilograd.errors import InputError
from kilograd.ir import Array

_MEMBERS = 1000
_STEPS = 1 << 20
_BYTES = 1 << 25
_TYPES = frozenset({"b1", "i1", "u1", "i2", "i4", "i8", "f4", "f8"})


class _BadPickleError(Exception):
    """What a pickle asks for that this machine does not do."""


class _Name(enum.Enum):
    """What a pickle may name: as written by numpy 1 and 2, and by Python."""

    ARRAY = "_reconstruct"
    NUMBER = "scalar"
    NDARRAY = "ndarray"
    DTYPE = "dtype"
    ENCODE = "encode"
    BYTES = "bytes"


_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _Name.ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _Name.ARRAY,
    ("numpy.core.multiarray", "scalar"): _Name.NUMBER,
    ("numpy._core.multiarray", "scalar"): _Name.NUMBER,
    ("numpy", "ndarray"): _Name.NDARRAY,
    ("numpy", "dtype"): _Name.DTYPE,
    ("_codecs", "encode"): _Name.ENCODE,
    ("__builtin__", "bytes"): _Name.BYTES,
}

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    {
        *_CONSTANTS,
        *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    }
)


@dataclass(frozen=True)
class _Dtype:
    """A type of numbers; the lowest byte comes first."""

    kind: str

    def numbers(self, data: bytes) -> Array:
        return np.frombuffer(data, f"<{self.kind}")


@dataclass
class Stored:
    """An array of a pickle; its numbers come after it is made, and there may be none."""

    array: Array | None = None


def read_archive(data: bytes, where: str) -> object:
    """Return what is in a file of torch.save, as plain data; arrays are `Stored`.

    Raises `InputError`, which begins with `where`, for what is no such file, for one that is
    larger unpacked than it may be, and for a pickle that asks for anything but data.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/data.pkl")]
            if len(names) != 1 or len(archive.namelist()) > _MEMBERS:
                raise _BadPickleError("no file of torch.save")
            with archive.open(names[0]) as file:
                pickle = file.read(_BYTES + 1)
        if len(pickle) > _BYTES:
            raise _BadPickleError(f"unpacked it is larger than {_BYTES:,} bytes")
        return _Machine().run(pickle)
    except (
        *(_BadPickleError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError),
        *(RuntimeError, ValueError, OSError),
    ) as e:
        raise InputError(f"{where}: cannot be read as a network in numpy arrays ({e})") from e


@dataclass
class _Machine:
    """The stack, what lies below each mark on it, and what the pickle wants to use again."""

    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, pickle: bytes) -> object:
        for step, (code, given, _) in enumerate(pickletools.genops(pickle)):
            if step > _STEPS:
                raise _BadPickleError("too many instructions")
            try:
                self._step(code.name, given)
            except (IndexError, KeyError, TypeError, AttributeError) as e:
                raise _BadPickleError(f"instruction {code.name} has nothing to work on") from e
        (found,) = self.stack
        return found

    def _step(self, code: str, given: Any) -> None:  # noqa: ANN401 whatever an instruction has
        match code:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _ if code in _LITERALS:
                self.stack.append(_CONSTANTS.get(code, given))
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "BINPUT" | "LONG_BINPUT":
                self.memo[given] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[given])
            case "GLOBAL" | "STACK_GLOBAL" | "REDUCE" | "BUILD":
                self._call(code, given)
            case _:
                self._collect(code)

    def _collect(self, code: str) -> None:
        """Make a container, or fill one."""
        match code:
            case "EMPTY_DICT":
                self.stack.append({})
            case "EMPTY_LIST":
                self.stack.append([])
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = self._pop(int(code[-1]))
                self.stack.append(tuple(items))
            case "TUPLE":
                items = self._marked()
                self.stack.append(tuple(items))
            case "APPEND" | "APPENDS":
                items = self._pop(1) if code == "APPEND" else self._marked()
                _of(list, self.stack[-1]).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._pop(2) if code == "SETITEM" else self._marked()
                for key, value in zip(items[::2], items[1::2], strict=True):
                    _of(dict, self.stack[-1])[_of(str, key)] = value
            case _:
                raise _BadPickleError(f"instruction {code} is not for data")

    def _call(self, code: str, given: Any) -> None:  # noqa: ANN401
        """Do what a pickle makes objects with, for arrays and numbers only."""
        match code:
            case "GLOBAL":
                module, _, name = given.partition(" ")
                self.stack.append(_named(module, name))
            case "STACK_GLOBAL":
                self.stack.append(_named(*self._pop(2)))
            case "REDUCE":
                name, arguments = self._pop(2)
                self.stack.append(_made(name, _of(tuple, arguments)))
            case "BUILD":
                (state,) = self._pop(1)
                _fill(self.stack[-1], _of(tuple, state))

    def _pop(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        if len(items) < count:
            raise IndexError
        del self.stack[-count:]
        return items

    def _marked(self) -> list[Any]:
        """Take what lies above the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items


def _of(kind: type, value: Any) -> Any:  # noqa: ANN401
    if type(value) is not kind:
        raise TypeError
    return value


def _named(module: str, name: str) -> _Name:
    if (module, name) not in _NAMES:
        raise _BadPickleError(f"it names {module}.{name}, which is not data")
    return _NAMES[module, name]


def _made(name: object, arguments: tuple[Any, ...]) -> object:
    """Return what a call would make, of those that there are."""
    match name, arguments:
        case _Name.ENCODE, (str(text), "latin1"):
            return text.encode("latin1")
        case _Name.BYTES, ():
            return b""
        case _Name.DTYPE, (str(kind), *_) if kind in _TYPES:
            return _Dtype(kind)
        case _Name.ARRAY, (_Name.NDARRAY, (0,), bytes()):
            return Stored()
        case _Name.NUMBER, (_Dtype() as dtype, bytes(data)):
            return dtype.numbers(data).item()
    raise _BadPickleError(f"{name} is called in a way that makes no array")


def _fill(made: object, state: tuple[Any, ...]) -> None:
    """Give an array its numbers; all types have the order of bytes that they were made with."""
    match made, state:
        case _Dtype(), (3, "<" | "|", None, None, None, -1, -1, 0):
            pass
        case Stored(array=None), (1, tuple(shape), _Dtype() as dtype, bool(columns), bytes(data)):
            numbers = dtype.numbers(data)
            if not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 4:
                raise _BadPickleError("an array has a shape that is none")
            if math.prod(shape) != numbers.size:
                raise _BadPickleError("an array has not as many numbers as its shape says")
            made.array = numbers.reshape(shape, order="F" if columns else "C")
        case _:
            raise _BadPickleError("something that is no array is given a state")
