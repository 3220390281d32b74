"""Networks at another image size than that of their files."""

from __future__ import annotations

from dataclasses import replace

from kilograd import limits
from kilograd.errors import InputError, option
from kilograd.frontend.model_folder import Model
from kilograd.frontend.preprocess import Images
from kilograd.ir import ShapeError
from kilograd.passes import AccumulatorError, LimitError, accumulator_bounds, check_ranges, resize


def resized(model: Model, size: int | str) -> Model:
    """Return a network for images of another size: the same weights and scales.

    `size`: the side of squares in pixels, or height x width, as "96x128".  The shorter side of an
    image is resized as before, in proportion to `size`.

    Raises `InputError` that names the smallest and the largest size for what is no size, and for
    one that the network cannot take; and for a network that takes arrays.
    """
    if not isinstance(model.preprocess.samples, Images):
        raise InputError(
            f"{option('size')} {_said(size)}: {model.name} takes arrays of "
            f"{model.preprocess.spelled}, which have one size; leave {option('size')} out"
        )
    sides = _sides(size)
    why = "not a whole number, the side of square images in pixels"
    if len(sides) == 1 and isinstance(model.preprocess.size, str):
        why = "squares, and the network's own images are none"
    elif sides:
        try:
            return _at(model, sides[0], sides[-1])
        except _UNFIT as e:
            why = str(e)
    raise InputError(f"{option('size')} {_said(size)}: {why}; {_fix(model, sides)}")


def _said(size: int | str) -> str:
    return str(size)[:40].strip() or repr(size)


def _fix(model: Model, sides: tuple[int, ...]) -> str:
    """Return what to do about a size that a network does not take."""
    if isinstance(model.preprocess.size, str) or len(sides) == 2:
        own = f"{model.preprocess.height}x{model.preprocess.width}"
        return f"give height and width, as the {own} of {model.name} itself"
    least, most = image_sizes(model)
    takes = f"{model.name} takes {least} to {most} pixels a side"
    if least == most:
        return f"{model.name} takes {least} pixels a side only; leave {option('size')} out"
    if sides and least < sides[0] < most:
        below = next(s for s in range(sides[0], 0, -1) if _fits(model, s))
        above = next(s for s in range(sides[0], most + 1) if _fits(model, s))
        return f"{takes}, here {below} or {above}; choose one of these"
    return f"{takes}; choose one of these"


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
        _at(model, size, size)
    except _UNFIT:
        return False
    return True


def _sides(size: int | str) -> tuple[int, ...]:
    """Return the sides that a size names, one or two; nothing for what is no size."""
    texts = str(size).strip().split("x")
    if len(texts) > 2 or not all(t.isascii() and t.isdecimal() and len(t) <= 9 for t in texts):
        return ()
    return tuple(map(int, texts))


def _at(model: Model, height: int, width: int) -> Model:
    """Return the network at a size; raises one of `_UNFIT` where there is none."""
    old = model.preprocess
    images = old.samples
    if (height, width) == old.shape[:2] or not isinstance(images, Images):
        return model
    short = min(height, width)
    resize_to = round(short * images.resize / min(old.height, old.width))
    if not 1 <= short <= resize_to <= limits.RESIZE:
        raise _PixelsError(
            f"images would be resized to {resize_to} pixels first, {limits.RESIZE} are the most"
            if short
            else "there are no pixels"
        )
    try:
        preprocess = replace(
            old, height=height, width=width, samples=replace(images, resize=resize_to)
        )
    except InputError as e:
        raise _PixelsError(str(e)) from e
    graph = resize(model.graph, height, width)
    if (largest := max(n.type.size for n in graph.nodes)) > limits.MAP_ELEMENTS:
        raise _PixelsError(f"a map of {largest:,} elements; {limits.MAP_ELEMENTS:,} are the most")
    check_ranges(graph)
    accumulator_bounds(graph, ())
    mark = " at {}x{} pixels"
    title = model.title.removesuffix(mark.format(old.height, old.width))
    title += mark.format(height, width)
    return replace(
        model,
        title=title if len(title) <= limits.LABEL_LENGTH else model.title,
        graph=graph,
        preprocess=preprocess,
    )
