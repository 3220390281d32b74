"""Networks of other tools' files as models of ours, once they have codes."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from kilograd import limits
from kilograd.errors import InputError, option, shown
from kilograd.frontend.model_folder import Model
from kilograd.frontend.preprocess import Arrays, Images, Normalised, Preprocess
from kilograd.ir import Affine
from kilograd.layers.lower import NoGraphError, lower
from kilograd.layers.network import Network, Taken
from kilograd.layers.quantise import coded
from kilograd.names import spelled
from kilograd.options import Option

Shape = tuple[int, int, int]
"""Height, width, channels."""

_LEAST_IMAGE, _LARGE_IMAGE = 16, 64
"""Pixels a side: of what may be an image, and of what is one though it is grey and not square."""


class InputKind(enum.StrEnum):
    """What samples are."""

    IMAGE = "image"
    ARRAY = "array"


@dataclass(frozen=True)
class Samples:
    """What a sample of somebody's data is to a network that comes without a word on it."""

    input: Annotated[
        InputKind | None,
        Option("What samples are, image or array; default: by the shape of the input."),
    ] = None
    mean: Annotated[
        str | None,
        Option("Taken off pixel / 255, one number or one a channel: 0.485,0.456,0.406."),
    ] = None
    std: Annotated[
        str | None, Option("What the rest is divided by: 0.229,0.224,0.225; default: 1.")
    ] = None
    resize: Annotated[
        int | None,
        Option(
            "Pixels of the shorter side of an image before its middle is cut out; default: the "
            "whole shorter side is seen.",
            limits.RESIZE,
        ),
    ] = None

    def kind(self, shape: Shape) -> InputKind:
        """Return what samples are: images where there are three channels, or grey ones that are
        square or large, unless `input` says it.

        Raises `InputError` where images have another number of channels.

        >>> Samples().kind((96, 96, 1)), Samples().kind((49, 10, 1))
        (<InputKind.IMAGE: 'image'>, <InputKind.ARRAY: 'array'>)
        """
        height, width, channels = shape
        if self.input is InputKind.IMAGE and channels not in {1, 3}:
            raise InputError(
                f"{option('input')} image: the input has {channels} channels, and images have 1 "
                "or 3; leave the option out"
            )
        if self.input is not None:
            return self.input
        least = min(height, width)
        grey = channels == 1 and (height == width or least >= _LARGE_IMAGE)
        image = least >= _LEAST_IMAGE and (channels == 3 or grey)
        return InputKind.IMAGE if image else InputKind.ARRAY

    def normal(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Return mean and std, one number a channel each; `None` where neither is given."""
        if self.mean is None and self.std is None:
            return None
        return (
            _numbers("mean", self.mean or "0", channels),
            _numbers("std", self.std or "1", channels),
        )

    def preprocess(self, shape: Shape, affine: Affine, taken: Taken | None) -> Preprocess:
        """Return how a sample becomes codes of a quantisation; `taken`: from the file's arrays."""
        if self.kind(shape) is InputKind.ARRAY:
            for name in ("mean", "std", "resize"):
                if getattr(self, name) is not None:
                    raise InputError(f"{option(name)}: is for images, and samples are arrays here")
            return Preprocess(*shape, Arrays(affine, taken))
        normal = self.normal(shape[2])
        normalised = None if normal is None else Normalised(*normal, affine)
        least = min(shape[:2])
        side = least if self.resize is None else self.resize
        if side < least:
            raise InputError(
                f"{option('resize')} {side}: must be at least {least}, the shorter side of the "
                "network's input"
            )
        return Preprocess(*shape, Images(side, normalised))


def _numbers(name: str, text: str, channels: int) -> tuple[float, ...]:
    try:
        found = tuple(float(x) for x in text.split(","))
    except ValueError as e:
        raise InputError(
            f"{option(name)} {text[:60]}: give numbers with commas between them"
        ) from e
    least = 1 / limits.NORMAL if name == "std" else -limits.NORMAL
    if not all(least <= x <= limits.NORMAL for x in found):
        raise InputError(
            f"{option(name)} {text[:60]}: numbers from {least:g} to {limits.NORMAL:g}, please"
        )
    found = found * channels if len(found) == 1 else found
    if len(found) != channels:
        raise InputError(f"{option(name)} {text[:60]}: {len(found)} numbers, {channels} channels")
    return found


def model_of(network: Network, samples: Samples, name: str, path: Path) -> Model:
    """Return the model of a simple network with codes.

    `path`: where it is from.

    Raises `InputError` that lists every layer which nothing computes.
    """
    where = network.source.file or network.name
    try:
        lowered = lower(network)
    except NoGraphError as e:
        count = "1 layer" if len(e.reasons) == 1 else f"{len(e.reasons)} layers"
        raise InputError(f"{where}: {count} cannot be computed", e.reasons) from e
    image = lowered.graph.inputs()[0].type
    height, width, channels = image.shape
    taken = network.taken[0] if network.taken else None
    preprocess = samples.preprocess((height, width, channels), image.affine, taken)
    title = shown(where)[: limits.LABEL_LENGTH].strip() or name
    own = spelled(name, ())
    graph, layers = lowered.graph, lowered.layers
    return Model(own, title, graph, layers, preprocess, path, source=network.source)


def sketched(network: Network) -> Network:
    """Return a simple network with codes, as near as can be had without data.

    A float network gets scales as if every number were in -1 ... 1: what it needs on a device, in
    memory and work, is right, and what it answers is not.
    """
    if network.quantised:
        return network
    return coded(network, dict.fromkeys(network.values(), (-1.0, 1.0)))
