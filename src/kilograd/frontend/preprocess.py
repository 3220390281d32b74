"""The input of a network: its shape, and how a sample of somebody's data becomes its codes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kilograd import limits
from kilograd.errors import InputError
from kilograd.ir import Affine
from kilograd.layers.network import Taken

Codes = NDArray[np.int8]


@dataclass(frozen=True)
class Normalised:
    """Pixels as real numbers, per channel `(pixel / 255 - mean) / std`, and those as codes.

    `affine`: the quantisation of the network's input, of one scale.

    Raises `InputError` for numbers that make no code of a pixel.

    >>> unit = Affine((1 / 255,), -128)
    >>> Normalised(mean=(0.0,), std=(1.0,), affine=unit).codes[[0, 1, 255], 0]
    array([-128, -127,  127], dtype=int8)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    affine: Affine

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not all(abs(x) <= limits.NORMAL for x in self.mean):
            raise InputError(f"preprocess: mean {self.mean} is not within {limits.NORMAL:g}")
        if not all(1 / limits.NORMAL <= x <= limits.NORMAL for x in self.std):
            raise InputError(
                f"preprocess: std {self.std} is not within {1 / limits.NORMAL:g} and "
                f"{limits.NORMAL:g}"
            )

    @property
    def codes(self) -> Codes:
        """The code of each pixel 0..255, for each channel, int8 [256, channels]."""
        mean, std = (np.array(x, np.float64) for x in (self.mean, self.std))
        reals = (np.arange(256)[:, None] / 255 - mean) / std
        return _rounded(reals / self.affine.scale[0], self.affine.zero_point)


@dataclass(frozen=True)
class Images:
    """Samples are images: resized until they cover a box, and the middle is the input.

    `resize`: the shorter side of the box, which has the proportions of the input and is as large at
    least.  A square box is covered when the shorter side of the image is as long.
    `normalised`: how pixels become codes; without it, `pixel - 128`.
    """

    resize: int
    normalised: Normalised | None = None


@dataclass(frozen=True)
class Arrays:
    """Samples are arrays of real numbers (or int8, codes as they are): windows, spectra, features.

    `affine`: the quantisation of the network's input, of one scale.
    `taken`: how the input is had from a sample, as the file that the network comes from has it;
    without it, samples have the axes of the input.
    """

    affine: Affine
    taken: Taken | None = None

    def codes(self, reals: ArrayLike) -> Codes:
        """Return numbers as codes: float32 divided by the scale, half to even, saturated.

        So computes ONNX's QuantizeLinear, and C on any board.  The numbers must be finite.

        >>> Arrays(Affine((0.5,), 3)).codes([0.0, 0.25, 0.75, -100.0])
        array([   3,    3,    5, -128], dtype=int8)
        """
        with np.errstate(over="ignore"):
            steps = np.asarray(reals, np.float32) / np.float32(self.affine.scale[0])
        return _rounded(steps, self.affine.zero_point)

    def reals(self, codes: Codes) -> NDArray[np.float64]:
        """Return the numbers that codes stand for."""
        scale, zero_point = self.affine.scale[0], self.affine.zero_point
        return scale * (codes.astype(np.float64) - zero_point)


def _rounded(steps: NDArray[np.floating], zero_point: int) -> Codes:
    # Clipped first: what lies far outside has no integer.  A zero point moves codes by 255 at most.
    return (np.rint(steps.clip(-512, 512)) + zero_point).clip(-128, 127).astype(np.int8)


@dataclass(frozen=True)
class Preprocess:
    """How a sample becomes network input, codes int8 [height, width, channels].

    `samples`: what samples are, and what is done to them.  Images have 3 channels, for RGB, or 1,
    for grey, and 2,048 pixels a side at most.

    Raises `InputError` if a value is out of range.

    >>> Preprocess(49, 10, 1, Arrays(Affine((0.5847,), 83))).spelled
    '49x10x1'
    """

    height: int
    width: int
    channels: int
    samples: Images | Arrays

    @classmethod
    def square(cls, size: int, resize: int, channels: int) -> Preprocess:
        """Return the input of square images whose code is `pixel - 128`, with no more said.

        `resize`: length of the shorter side before the middle is cut out.

        >>> Preprocess.square(size=128, resize=147, channels=3).shape
        (128, 128, 3)
        """
        return cls(size, size, channels, Images(resize))

    def __post_init__(self) -> None:
        """Check the ranges."""
        if isinstance(self.samples, Images):
            self._check_images(self.samples)
        else:
            self._check_arrays(self.samples)
        if math.prod(self.shape) > limits.MAP_ELEMENTS:
            raise InputError(
                f"preprocess: {self.spelled} are more than {limits.MAP_ELEMENTS:,} numbers"
            )

    def _check_arrays(self, arrays: Arrays) -> None:
        if not all(1 <= x <= limits.SIDE for x in self.shape):
            raise InputError(f"preprocess: {self.spelled} is not within 1 and {limits.SIDE}")
        if (taken := arrays.taken) is None:
            return
        shape = taken.shape
        if min(shape, default=1) < 1 or math.prod(shape) != math.prod(self.shape):
            raise InputError(
                f"preprocess: samples of {list(shape)} have other numbers than {self.spelled}"
            )
        if sorted(taken.order) != list(range(len(shape))):
            raise InputError(
                f"preprocess: {list(taken.order)} is no order of the axes of {list(shape)}"
            )

    def _check_images(self, images: Images) -> None:
        size = min(self.height, self.width)
        if size >= 1 and (longest := max(*self.shape, *self.box(images))) > limits.RESIZE:
            raise InputError(
                f"preprocess: {longest} pixels are too many; {limits.RESIZE} are the most"
            )
        if not 1 <= size <= images.resize:
            raise InputError(
                f"preprocess: size {size} must be 1 or more, and at most resize {images.resize}"
            )
        if self.channels not in {1, 3}:
            raise InputError(f"preprocess: channels is {self.channels}; give 3 (RGB) or 1 (grey)")
        if (normal := images.normalised) is None:
            return
        if not len(normal.mean) == len(normal.std) == self.channels:
            raise InputError(
                f"preprocess: {len(normal.mean)} means and {len(normal.std)} of std for "
                f"{self.channels} channels; give one for each"
            )

    def box(self, images: Images) -> tuple[int, int]:
        """Return height and width of the box that images are resized to cover."""
        short = min(self.height, self.width)
        high, wide = (round(images.resize * side / short) for side in (self.height, self.width))
        return high, wide

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width, self.channels

    @property
    def size(self) -> int | str:
        """Side of a square; else height x width.  As the option for image sizes takes it."""
        return self.height if self.height == self.width else f"{self.height}x{self.width}"

    @property
    def spelled(self) -> str:
        """Height, width and channels, for people."""
        return "x".join(map(str, self.shape))

    @property
    def told(self) -> dict[str, object]:
        """What tells one input from another, as JSON; of square images as it was before others."""
        match self.samples:
            case Images(resize, None) if self.height == self.width:
                return {"size": self.height, "resize": resize, "channels": self.channels}
            case Images(resize, normal):
                how: object = [resize, repr(normal)]
            case Arrays(affine, taken):
                how = [repr(affine), repr(taken)]
        return {"shape": list(self.shape), "samples": how}
