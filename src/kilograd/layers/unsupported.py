"""What a reader cannot import, all of it in one message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kilograd.errors import InputError


class UnsupportedError(Exception):
    """A reader meets what cannot be a layer; the text says why, and what to do.

    It goes on from the name of a layer, as in "has open shapes: convert it without".  Readers catch
    it, go on, and tell all of them at once (`refuse`).
    """


@dataclass(frozen=True)
class Unsupported:
    """A layer that cannot be imported: its operator as the file calls it, and what to do.

    `shape`: of what it makes, or reads; None where it is not known.
    """

    layer: str
    operator: str
    shape: tuple[int, ...] | None
    advice: str

    @property
    def place(self) -> str:
        """The layer and its shape."""
        shape = "" if self.shape is None else f" [{', '.join(map(str, self.shape))}]"
        return f"{self.layer[-60:]}{shape}"


def refuse(where: str, found: Sequence[Unsupported]) -> None:
    """Raise `InputError` with all that was found; do nothing where that is nothing.

    Layers with one operator and one advice share a line.

    >>> refuse("n.onnx", [Unsupported("l1", "LSTM", (1, 8), "keeps a state")])
    Traceback (most recent call last):
    ...
    kilograd.errors.InputError: n.onnx: 1 layer cannot be imported
      LSTM (l1 [1, 8]): keeps a state
    """
    if not found:
        return
    groups: dict[tuple[str, str], list[str]] = {}
    for one in found:
        groups.setdefault((one.operator[:60], one.advice), []).append(one.place)
    told = [f"{op} ({', '.join(places)}): {advice}" for (op, advice), places in groups.items()]
    layers = "1 layer" if len(found) == 1 else f"{len(found)} layers"
    raise InputError(f"{where}: {layers} cannot be imported", told)
