"""An exported program: calls of PyTorch's operators on named tensors, as a `.pt2` file has them.

Plain data; nothing here needs PyTorch.  Shapes still have the batch axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

from kilograd.ir import Affine, Array
from kilograd.layers.unsupported import UnsupportedError


@dataclass(frozen=True)
class Ref:
    """The tensor, or the number, that a program calls so."""

    name: str


@dataclass(frozen=True)
class Other:
    """An argument that stands for no number, text or tensor: `kind` is PyTorch's word for it.

    `operators`: of a graph, what it calls.
    """

    kind: str
    operators: tuple[str, ...] = ()


Scalar = int | float | bool | str
Argument = Ref | Other | Scalar | None | tuple["Ref | Scalar | None", ...]


@dataclass(frozen=True)
class Call:
    """An operator's call.

    `target` is its full name, as in "aten.conv2d.default"; `path` that of the module that calls
    it, as in "layer1.0.conv1", empty for the outermost one, and `module` that of its class.
    Arguments that have the value that the operator has for them by itself may be missing.
    """

    name: str
    target: str
    arguments: Mapping[str, Argument]
    outputs: tuple[str, ...]
    path: str
    module: str

    @property
    def operator(self) -> str:
        """The operator without library, overload and mark of in-place forms: "relu"."""
        library, _, rest = self.target.partition(".")
        name = rest.partition(".")[0] if library == "aten" else self.target
        return name.rstrip("_") if self.in_place else name

    @property
    def in_place(self) -> bool:
        """Whether the result is written over the argument `self` or `input`."""
        name = self.target.split(".")[1] if self.target.startswith("aten.") else ""
        return name.endswith("_") and not name.startswith("__")

    def refs(self) -> list[str]:
        """Return the names of all that is read."""
        flat: list[Argument] = []
        for x in self.arguments.values():
            flat += x if isinstance(x, tuple) else [x]
        return [x.name for x in flat if isinstance(x, Ref)]

    def get(self, name: str, default: Argument = None) -> Argument:
        """Return an argument; `default` where it is missing."""
        return self.arguments.get(name, default)

    def ref(self, name: str) -> Ref:
        """Return an argument that is a tensor."""
        found = self.get(name)
        if not isinstance(found, Ref):
            raise UnsupportedError(f"its {name} is no tensor")
        return found

    def refs_of(self, name: str) -> list[Ref]:
        """Return an argument that is a list of tensors."""
        found = self.get(name)
        if not isinstance(found, tuple) or not all(isinstance(x, Ref) for x in found) or not found:
            raise UnsupportedError(f"its {name} are no tensors")
        return [x for x in found if isinstance(x, Ref)]

    def number(self, name: str, default: float | None = None) -> float:
        """Return an argument that is a number, perhaps an infinite one."""
        found = self.get(name, default)
        if not is_number(found) or math.isnan(found):
            raise UnsupportedError(f"its {name} is no number")
        return found

    def integer(self, name: str, default: int | None = None) -> int:
        """Return an argument that is an integer."""
        found = self.get(name, default)
        if type(found) is not int:
            raise UnsupportedError(f"its {name} is no integer that is known before it runs")
        return found

    def integers(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Return an argument that is an integer or a list of them."""
        found = self.get(name, default)
        items = found if isinstance(found, tuple) else (found,)
        numbers = tuple(x for x in items if type(x) is int)
        if len(numbers) != len(items):
            raise UnsupportedError(f"its {name} are no integers that are known before it runs")
        return numbers

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return an argument that is true or false."""
        return self.get(name, default) is True

    def text(self, name: str, default: str | None = None) -> str:
        """Return an argument that is a word."""
        found = self.get(name, default)
        if not isinstance(found, str):
            raise UnsupportedError(f"its {name} is no word")
        return found


def is_number(x: Argument) -> TypeGuard[float]:
    """Tell whether an argument is a number; truth values are none."""
    return isinstance(x, int | float) and not isinstance(x, bool)


@dataclass(frozen=True)
class Shaped:
    """What a program says of a tensor: the lengths of its axes, None where unknown; its type."""

    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Stored:
    """Numbers that a program comes with; `origin` is what the module calls them.

    `quant`: what they mean, where they are codes.
    """

    origin: str
    array: Array
    quant: Affine | None = None


@dataclass(frozen=True, eq=False)
class Program:
    """What `torch.export.export` makes of a module.

    `tensors`: of every name that is one.  `stored`: parameters, buffers and constants, by the
    names that calls have for them; `state` is the module's state dict.  `file` is how messages
    name it; `sha256` is empty for a module of this process.
    """

    name: str
    file: str
    sha256: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    calls: tuple[Call, ...]
    tensors: Mapping[str, Shaped]
    stored: Mapping[str, Stored]
    state: Mapping[str, Array]
