"""Networks at another image size than that of their files."""

from __future__ import annotations

from dataclasses import replace

from kilograd import limits
from kilograd.errors import InputError, option
from kilograd.frontend.model_folder import Model, Preprocess
from kilograd.ir import ShapeError
from kilograd.passes import AccumulatorError, LimitError, accumulator_bounds, check_ranges, resize


def resized(model: Model, size: int | str) -> Model:
    """Return a network for images of `size` x `size` pixels: the same weights and scales.

    The shorter side of an image is resized as before, in proportion to `size`.

    Raises `InputError` that names the smallest and the largest size for what is no whole number,
    and for a size that the network cannot take.
    """
    pixels = _whole(size)
    why = "not a whole number, the side of square images in pixels"
    if pixels is not None:
        try:
            return _at(model, pixels)
        except _UNFIT as e:
            why = str(e)
    least, most = image_sizes(model)
    takes = f"{model.name} takes {least} to {most} pixels a side"
    if least == most:
        fix = f"{model.name} takes {least} pixels a side only; leave {option('size')} out"
    elif pixels is not None and least < pixels < most:
        below = next(s for s in range(pixels, 0, -1) if _fits(model, s))
        above = next(s for s in range(pixels, most + 1) if _fits(model, s))
        fix = f"{takes}, here {below} or {above}; choose one of these"
    else:
        fix = f"{takes}; choose one of these"
    shown = str(size)[:40].strip() or repr(size)
    raise InputError(f"{option('size')} {shown}: {why}; {fix}")


def image_sizes(model: Model) -> tuple[int, int]:
    """Return the smallest and the largest size in pixels that a network takes."""
    up, down = range(1, limits.RESIZE + 1), range(limits.RESIZE, 0, -1)
    least, most = (next(size for size in order if _fits(model, size)) for order in (up, down))
    return least, most


class _PixelsError(ValueError):
    """A size at which a network is more than Kilograd takes."""


_UNFIT = (ShapeError, LimitError, AccumulatorError, _PixelsError)


def _fits(model: Model, size: int) -> bool:
    try:
        _at(model, size)
    except _UNFIT:
        return False
    return True


def _whole(size: int | str) -> int | None:
    """Return a size as a number; `None` for what is none."""
    text = str(size).strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else None


def _at(model: Model, size: int) -> Model:
    """Return the network at a size; raises one of `_UNFIT` where there is none."""
    old = model.preprocess
    if size == old.size:
        return model
    side = round(size * old.resize / old.size)
    if not 1 <= size <= side <= limits.RESIZE:
        raise _PixelsError(
            f"images would be resized to {side} pixels first, {limits.RESIZE} are the most"
            if size
            else "there are no pixels"
        )
    graph = resize(model.graph, size)
    if (largest := max(n.type.size for n in graph.nodes)) > limits.MAP_ELEMENTS:
        raise _PixelsError(f"a map of {largest:,} elements; {limits.MAP_ELEMENTS:,} are the most")
    check_ranges(graph)
    accumulator_bounds(graph, ())
    mark = " at {0}x{0} pixels"
    title = f"{model.title.removesuffix(mark.format(old.size))}{mark.format(size)}"
    return replace(
        model,
        title=title if len(title) <= limits.LABEL_LENGTH else model.title,
        graph=graph,
        preprocess=Preprocess(size, side, old.channels),
    )
