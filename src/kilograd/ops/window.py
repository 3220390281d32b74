"""The geometry that convolutions share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from kilograd.ir import Array, Params, Range
from kilograd.ir.params import Size
from kilograd.ops._common import require

Padding = Annotated[int, Range("int16_t", 0, 32767)]
Rows = Annotated[int, Range("int16_t", 0, 32767)]
"""A row of a stream may see nothing but padding."""


@dataclass(frozen=True, eq=False)
class WindowParams(Params):
    """Geometry of a convolution."""

    in_h: Rows
    in_w: Size
    in_c: Size
    out_h: Size
    out_w: Size
    out_c: Size
    kernel_h: Size
    kernel_w: Size
    stride_h: Size
    stride_w: Size
    pad_top: Padding
    pad_left: Padding
    struct = "kg_window"
    products = (
        ("in_h", "in_w", "in_c"),
        ("out_h", "out_w", "out_c"),
        (4, "kernel_h", "kernel_w", "in_c"),  # bytes of a row of sums
        (4, "kernel_h", "kernel_w", "out_c"),
    )


@dataclass(frozen=True)
class Window:
    """How a kernel slides: `stride` = down, across; `pad` = top, bottom, left, right."""

    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)

    @classmethod
    def same(cls, kernel: int, stride: int = 1) -> Window:
        """Return the window that keeps the size of a map at stride 1; a stride is both ways."""
        p = (kernel - 1) // 2
        return cls((stride, stride), (p, p, p, p))

    def __repr__(self) -> str:
        """Write one number for a stride both ways: fingerprints are made of this."""
        down, across = self.stride
        return f"Window(stride={down if down == across else self.stride}, pad={self.pad})"

    def output(self, height: int, width: int, kh: int, kw: int) -> tuple[int, int]:
        """Return the height and width of the result."""
        top, bottom, left, right = self.pad
        oh = (height + top + bottom - kh) // self.stride[0] + 1
        ow = (width + left + right - kw) // self.stride[1] + 1
        require(oh > 0 and ow > 0, f"a {kh}x{kw} kernel does not fit into {height}x{width}")
        return oh, ow

    def seen(self, shape: tuple[int, ...], kernel: tuple[int, ...]) -> Array:
        """Return how many pixels of a map each place of a kernel sees, [oh, ow]: padding is none.

        Raises `ShapeError` where a place sees nothing but padding.
        """
        counts = []
        out = self.output(*shape[:2], *kernel)
        for axis, places in enumerate(out):
            begin = np.arange(places) * self.stride[axis] - self.pad[2 * axis]
            end = np.minimum(begin + kernel[axis], shape[axis])
            counts.append(end - np.maximum(begin, 0))
        require(
            min(c.min() for c in counts) > 0,
            f"a kernel of {kernel} sees only padding somewhere on a map of {shape[:2]}",
        )
        return np.outer(*counts)

    def patches(self, x: Array, kh: int, kw: int) -> Array:
        """[h, w, c] -> [oh, ow, kh, kw, c], zero outside."""
        top, bottom, left, right = self.pad
        padded = np.pad(x, ((top, bottom), (left, right), (0, 0)))
        view = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), axis=(0, 1))
        down, across = self.stride
        return np.moveaxis(view[::down, ::across], 2, -1)

    def scatter(self, cols: Array, shape: tuple[int, ...]) -> Array:
        """Add patches [oh, ow, kh, kw, c] back to where `patches` took them: its transpose."""
        top, bottom, left, right = self.pad
        h, w, c = shape
        out = np.zeros((h + top + bottom, w + left + right, c), cols.dtype)
        oh, ow, kh, kw, _ = cols.shape
        down, across = self.stride
        for i in range(kh):
            for j in range(kw):
                rows = slice(i, i + down * (oh - 1) + 1, down)
                columns = slice(j, j + across * (ow - 1) + 1, across)
                out[rows, columns] += cols[:, :, i, j]
        return out[top : top + h, left : left + w]

    def params(
        self, x: tuple[int, ...], kernel: tuple[int, ...], y: tuple[int, ...]
    ) -> WindowParams:
        """Return the geometry: maps [h, w, c] from x to y, and height and width of the kernel."""
        top, _, left, _ = self.pad
        down, across = self.stride
        (ih, iw, ic), (oh, ow, oc), (kh, kw) = x, y, kernel
        return WindowParams(ih, iw, ic, oh, ow, oc, kh, kw, down, across, top, left)
