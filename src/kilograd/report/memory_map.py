"""A picture of one call's memory: time to the right, addresses upwards, a rectangle a buffer."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from kilograd.emit import Entry, Slot, bytes_kept
from kilograd.ir import BlockExponent, Input, Leaf, Node
from kilograd.memory import Buffer
from kilograd.ops import ClipMask, Copy, CrossEntropy
from kilograd.report.markup import escape

_CHARACTER = 5.9  # width of a letter of a label in pixels, roughly
_LINE = 15  # height of a line of text


class Kind(enum.StrEnum):
    """What a buffer holds: classes of the style sheet."""

    IMAGE = "image"
    SAVED = "saved"
    MAP = "map"
    GRADIENT = "gradient"
    MASK = "mask"
    SCRATCH = "scratch"
    OTHER = "other"
    STATE = "state"


LEGEND = {
    Kind.IMAGE: "image, or what frozen layers left of it",
    Kind.MAP: "map",
    Kind.SAVED: "map kept for the backward pass",
    Kind.MASK: "clip mask",
    Kind.GRADIENT: "gradient",
    Kind.SCRATCH: "scratch memory of one operation",
    Kind.OTHER: "other",
    Kind.STATE: "state: kept between calls",
}


@dataclass(frozen=True)
class Frame:
    """The size of a picture in pixels; `detail` adds axes, labels and the state's tensors."""

    width: int
    height: int
    detail: bool

    @property
    def margins(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom."""
        return (62, 26, 128, 46) if self.detail else (1, 8, 1, 18)


def kib(n: float) -> str:
    """Write a number of bytes.

    >>> kib(1536)
    '1.5 KiB'
    """
    return f"{n / 1024:,.1f} KiB"


def boundary(entry: Entry) -> int | None:
    """Return the step behind the loss, where the backward pass begins; `None` without one."""
    nodes = entry.graph.nodes
    return next((i + 1 for i, n in enumerate(nodes) if isinstance(n.op, CrossEntropy)), None)


def peak_step(buffers: tuple[Buffer, ...]) -> int:
    """Return the first step at which the most bytes are in use."""
    steps = sorted({b.first for b in buffers})
    load = {t: sum(b.room for b in buffers if b.first <= t < b.last) for t in steps}
    return max(load, key=lambda t: load[t], default=0)


def kind(entry: Entry, buffer: Buffer) -> Kind:
    """Say what a buffer holds; where it is handed on, what it held first."""
    held = [n for n, name in entry.storage.tensor.items() if name == buffer.name]
    if not held:
        return Kind.SCRATCH
    first, loss = held[0], boundary(entry)
    backward = loss is not None and buffer.first >= loss
    if isinstance(first.op, Input):
        return Kind.IMAGE if len(first.type.shape) == 3 else Kind.OTHER
    if isinstance(first.op, ClipMask):
        return Kind.MASK
    if isinstance(first.op, Copy):
        return Kind.OTHER
    if isinstance(first.type.quant, BlockExponent) or backward:
        return Kind.GRADIENT
    return Kind.SAVED if loss is not None and buffer.last > loss else Kind.MAP


def draw(
    entry: Entry,
    state: tuple[Slot, ...],
    frame: Frame,
    *,
    top: int | None = None,
    budget: int | None = None,
) -> str:
    """Return the map of a call as one <svg> element.

    `top` draws a line at so many bytes, for comparison; `budget` one for what may be used.
    """
    return "\n".join(_Picture(entry, state, frame, top, budget).elements())


class _Picture:
    def __init__(
        self,
        entry: Entry,
        state: tuple[Slot, ...],
        frame: Frame,
        top: int | None,
        budget: int | None,
    ) -> None:
        self.entry, self.state, self.frame = entry, state, frame
        self.top, self.budget = top, budget
        runs = [not isinstance(n.op, Leaf) and not n.op.view for n in entry.graph.nodes]
        self.column = [0, *accumulate(runs)]
        self.ran: list[Node] = [n for n, run in zip(entry.graph.nodes, runs, strict=True) if run]
        self.kept = bytes_kept(state)
        self.total = self.kept + entry.plan.peak
        shown = [n for n in (self.total, top or 0, budget or 0) if n <= 1.5 * self.total]
        left, above, right, below = frame.margins
        self.left, self.above = left, above
        self.per_column = (frame.width - left - right) / max(1, len(self.ran))
        self.per_byte = (frame.height - above - below) / max(1, *shown)

    def x(self, column: float) -> float:
        return self.left + column * self.per_column

    def y(self, address: float) -> float:
        return self.frame.height - self.frame.margins[3] - address * self.per_byte

    def elements(self) -> Iterator[str]:
        frame = self.frame
        name = escape(f"Memory of {self.entry.name}: {kib(self.total)}")
        yield f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" aria-label="{name}">'
        if frame.detail:
            yield from self.grid()
        yield from self.band()
        for b in self.entry.storage.buffers:
            yield from self.buffer(b)
        yield from self.phases()
        yield from self.lines()
        yield "</svg>"

    def grid(self) -> Iterator[str]:
        """Draw addresses in round KiB."""
        end = self.x(len(self.ran))
        height = (self.y(0) - self.above) / self.per_byte
        rough = height / 6 / 1024
        unit = 2 ** max(0, round(math.log2(max(rough, 1))))
        for k in range(0, int(height / 1024) + 1, unit):
            at = self.y(k * 1024)
            yield f'<path class="grid" d="M{self.left} {at:.1f}H{end:.1f}"/>'
            yield _text(self.left - 8, at + 4, f"{k} KiB", "end")

    def band(self) -> Iterator[str]:
        """Draw the state: below the arena, always there."""
        for s in self.state:
            title = f"{s.name}\n{s.value.nbytes:,} B, kept between calls"
            yield self.rect(0, len(self.ran), s.offset, s.value.nbytes, Kind.STATE, title)
        room = self.kept * self.per_byte
        if self.frame.detail and room > _LINE:
            label = f"state: {len(self.state)} parameters, {kib(self.kept)}"
            yield _text(self.x(0) + 6, self.y(self.kept / 2) + 4, label, "start", "label")

    def buffer(self, b: Buffer) -> Iterator[str]:
        first, last = self.column[b.first], self.column[min(b.last, len(self.column) - 1)]
        if not b.size or last <= first:
            return
        held = [n.name for n, name in self.entry.storage.tensor.items() if name == b.name]
        what = kind(self.entry, b)
        offset = self.entry.plan.offsets[b.name]
        title = (
            f"{b.name}\n{b.size:,} B at {offset:,}: {LEGEND[what]}\noperations {first + 1} to "
            f"{last}: {self.ran[first].name} to {self.ran[last - 1].name}"
        )
        if len(held) > 1:
            title += f"\nhanded on to {', '.join(held[1:])}"
        yield self.rect(first, last, self.kept + offset, b.size, what, title)
        if self.frame.detail:
            yield from self.label(b, first, last, self.kept + offset)

    def label(self, b: Buffer, first: int, last: int, address: int) -> Iterator[str]:
        """Write name and size where there is room for them, upright or lying."""
        width, height = (last - first) * self.per_column, b.size * self.per_byte
        x, y = self.x((first + last) / 2), self.y(address + b.size / 2)
        for text in (f"{b.name}  {kib(b.size)}", b.name, kib(b.size)):
            long = len(text) * _CHARACTER + 6
            if width >= long and height >= _LINE:
                yield _text(x, y + 4, text, "middle", "label")
                return
            if height >= long and width >= _LINE:
                turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"'
                yield _text(x, y + 4, text, "middle", "label", turned)
                return

    def rect(self, first: int, last: int, address: int, size: int, what: Kind, title: str) -> str:
        x, y = self.x(first), self.y(address + size)
        width, height = (last - first) * self.per_column, size * self.per_byte
        return (
            f'<rect class="{what}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" '
            f'height="{height:.2f}"><title>{escape(title)}</title></rect>'
        )

    def phases(self) -> Iterator[str]:
        """Mark where the backward pass begins."""
        loss, low, end = boundary(self.entry), self.y(0), len(self.ran)
        parts = [(0, end, "forward")]
        if loss is not None:
            turn = self.column[loss]
            parts = [(0, turn, "forward"), (turn, end, "backward and update")]
            yield f'<path class="turn" d="M{self.x(turn):.1f} {self.above - 6}V{low + 16:.1f}"/>'
        for first, last, name in parts:
            text = name if (last - first) * self.per_column > len(name) * _CHARACTER else ""
            yield _text(self.x((first + last) / 2), low + 14, text, "middle")
        if self.frame.detail:
            note = f"{end} operations, in the order in which they run"
            yield _text(self.x(end / 2), low + 34, note, "middle")

    def lines(self) -> Iterator[str]:
        """Draw the total, the peak, the budget, and what to compare with."""
        low, end = self.y(0), self.x(len(self.ran))
        level = self.y(self.total)
        yield f'<path class="total" d="M{self.left} {level:.1f}H{end:.1f}"/>'
        buffers = self.entry.storage.buffers
        if self.frame.detail:
            yield _text(end + 6, level + 4, f"RAM {kib(self.total)}", "start", "strong")
            if buffers:
                at = self.x(self.column[peak_step(buffers)] + 0.5)
                name = self.entry.graph.nodes[peak_step(buffers)].name
                yield f'<path class="peak" d="M{at:.1f} {level:.1f}V{self.y(self.kept):.1f}"/>'
                side = "end" if at > (self.left + end) * 0.6 else "start"
                label = f"peak: {name}"
                yield _text(at, level - 7, label, side, "strong")
            if self.budget and self.budget * self.per_byte > low - self.above + 0.5:
                note = f"budget {kib(self.budget)} ↑"
                yield _text(end + 6, self.above - 12, note, "start", "over")
        for limit, style, name in ((self.top, "ours", ""), (self.budget, "budget", "budget")):
            if limit is not None and limit * self.per_byte <= low - self.above + 0.5:
                at = self.y(limit)
                yield f'<path class="{style}" d="M{self.left} {at:.1f}H{end:.1f}"/>'
                if self.frame.detail:
                    # below the line if the total's label is just above it, and the reverse
                    beside = at + (4 if abs(at - level) > _LINE else -10 if at <= level else 18)
                    yield _text(end + 6, beside, f"{name} {kib(limit)}", "start", "over")


def _text(x: float, y: float, text: str, anchor: str, style: str = "", more: str = "") -> str:
    css = f' class="{style}"' if style else ""
    return f'<text{css} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'
