"""The geometry that convolutions share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kilograd.ir import Array
from kilograd.ops._common import require


@dataclass(frozen=True)
class Window:
    """How a kernel slides: `stride` both ways, `pad` = top, bottom, left, right."""

    stride: int = 1
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)

    @classmethod
    def same(cls, kernel: int, stride: int = 1) -> Window:
        """Return the window that keeps the size of a map at stride 1."""
        p = (kernel - 1) // 2
        return cls(stride, (p, p, p, p))

    def output(self, height: int, width: int, kh: int, kw: int) -> tuple[int, int]:
        """Return the height and width of the result."""
        top, bottom, left, right = self.pad
        oh = (height + top + bottom - kh) // self.stride + 1
        ow = (width + left + right - kw) // self.stride + 1
        require(oh > 0 and ow > 0, f"a {kh}x{kw} kernel does not fit into {height}x{width}")
        return oh, ow

    def patches(self, x: Array, kh: int, kw: int) -> Array:
        """[h, w, c] -> [oh, ow, kh, kw, c], zero outside."""
        top, bottom, left, right = self.pad
        padded = np.pad(x, ((top, bottom), (left, right), (0, 0)))
        view = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), axis=(0, 1))
        return np.moveaxis(view[:: self.stride, :: self.stride], 2, -1)

    def scatter(self, cols: Array, shape: tuple[int, ...]) -> Array:
        """Add patches [oh, ow, kh, kw, c] back to where `patches` took them: its transpose."""
        top, bottom, left, right = self.pad
        h, w, c = shape
        out = np.zeros((h + top + bottom, w + left + right, c), cols.dtype)
        oh, ow, kh, kw, _ = cols.shape
        for i in range(kh):
            for j in range(kw):
                rows = slice(i, i + self.stride * (oh - 1) + 1, self.stride)
                columns = slice(j, j + self.stride * (ow - 1) + 1, self.stride)
                out[rows, columns] += cols[:, :, i, j]
        return out[top : top + h, left : left + w]

    def params(
        self, x: tuple[int, ...], kernel: tuple[int, int], y: tuple[int, ...]
    ) -> dict[str, int]:
        """Return the fields of `kg_window`."""
        return {
            "window.in_h": x[0],
            "window.in_w": x[1],
            "window.in_c": x[2],
            "window.out_h": y[0],
            "window.out_w": y[1],
            "window.out_c": y[2],
            "window.kernel_h": kernel[0],
            "window.kernel_w": kernel[1],
            "window.stride": self.stride,
            "window.pad_top": self.pad[0],
            "window.pad_left": self.pad[2],
        }
