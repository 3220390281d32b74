"""What is known about a tensor before it has any data, and what holds the data.

Tensors have no batch axis: a device sees one image at a time.  Maps are [height, width,
channels], convolution weights [out, height, width, in], depthwise weights [height, width,
channels].
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class DType(enum.Enum):
    """Element types that exist on the device."""

    I8 = ("int8_t", "int8")
    U8 = ("uint8_t", "uint8")
    I16 = ("int16_t", "int16")
    I32 = ("int32_t", "int32")
    F32 = ("float", "float32")

    def __init__(self, c_name: str, numpy_name: str) -> None:
        self.c_name = c_name
        self.numpy = np.dtype(numpy_name)

    @property
    def nbytes(self) -> int:
        """Size of one element in bytes."""
        return self.numpy.itemsize

    @classmethod
    def of(cls, array: Array) -> DType:
        """Return the element type of a numpy array."""
        return next(d for d in cls if d.numpy == array.dtype)


@dataclass(frozen=True)
class Affine:
    """Integers that stand for reals: real = unit * scale * (stored - zero_point).

    `scale` has one entry for the tensor, or one for each index along `axis`.  Only biases have a
    unit, the scale of what their layer reads: so they share the scales of its weights.
    """

    scale: tuple[float, ...]
    zero_point: int = 0
    axis: int | None = None
    unit: float = 1.0

    def take(self, index: tuple[int, ...]) -> Affine:
        """Return the quantisation of the slices `index` along `axis`."""
        return replace(self, scale=tuple(self.scale[i] for i in index))


@dataclass(frozen=True)
class BlockExponent:
    """Mantissas that share an exponent: real = scale * mantissa * 2**exponent.

    The exponent is data, chosen while the program runs; `scale` is known when it is compiled.
    Mantissas have at most `bits` bits beside the sign: |mantissa| < 2**bits.
    """

    bits: int
    scale: float = 1.0


@dataclass(frozen=True)
class RowCodes:
    """Bytes that stand for the reals of a tensor of `shape`: first a signed code of `bits` bits for
    each element, row by row, then an int8 exponent for each row: real = code * 2**exponent.

    Rows are the slices along `axis`; None: all is one row.
    """

    shape: tuple[int, ...]
    axis: int | None
    bits: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return 1 if self.axis is None else self.shape[self.axis]

    @property
    def length(self) -> int:
        """Number of elements of a row."""
        return math.prod(self.shape) // self.rows

    @property
    def tensor(self) -> TensorType:
        """The type of the bytes."""
        return TensorType((self.rows * (self.length * self.bits // 8 + 1),), DType.U8, self)


@dataclass(frozen=True, eq=False)
class Block:
    """The value of a tensor with a shared exponent."""

    mantissa: Array
    exponent: int

    def real(self) -> Array:
        """Return what the tensor stands for, as float64, not counting the static scale."""
        return np.ldexp(self.mantissa.astype(np.float64), self.exponent)


Value = Array | Block


@dataclass(frozen=True)
class TensorType:
    """Shape, element type, and what the elements mean."""

    shape: tuple[int, ...]
    dtype: DType
    quant: Affine | BlockExponent | RowCodes | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in memory; a shared exponent is an int32 in front of the mantissas."""
        header = 4 if isinstance(self.quant, BlockExponent) else 0
        return header + self.size * self.dtype.nbytes

    @property
    def affine(self) -> Affine:
        """The quantisation of stored integers; a TypeError where there is none."""
        if not isinstance(self.quant, Affine):
            raise TypeError(f"{self} is not quantised")
        return self.quant

    @property
    def block(self) -> BlockExponent:
        """The format of a gradient; a TypeError where the tensor is none."""
        if not isinstance(self.quant, BlockExponent):
            raise TypeError(f"{self} does not share an exponent")
        return self.quant

    def __str__(self) -> str:
        kind = self.dtype.name.lower()
        if isinstance(self.quant, RowCodes):
            return f"c{self.quant.bits}[{','.join(map(str, self.quant.shape))}]"
        if isinstance(self.quant, BlockExponent):
            kind = f"b{self.quant.bits + 1}" if self.dtype is DType.I16 else "b32"
        return f"{kind}[{','.join(map(str, self.shape))}]"
