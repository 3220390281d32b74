"""What a program is shown of each image: the image, or what the frozen layers leave of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from kilograd.data import Augment, augmented
from kilograd.errors import InputError, option
from kilograd.ir import Array
from kilograd.learn.recipe import Compiled
from kilograd.learn.samples import Images, stacked
from kilograd.passes import EntryPoint
from kilograd.targets import Driver, HostProgram, Shown


class Fresh:
    """A new view of an image for every step, computed from the first layer on."""

    def __init__(
        self,
        host: HostProgram,
        images: Images,
        augment: Augment,
        rng: np.random.Generator,
    ) -> None:
        self._driver, self._images, self._augment, self._rng = Driver(host), images, augment, rng

    def plain(self) -> Iterator[Shown]:
        """Yield the images as they are, to enrol."""
        return map(self._driver.show, self._images)

    def view(self, i: int, turn: int) -> Shown:
        """Return a view of image i to learn in the pass `turn`."""
        return self._driver.show(augmented(self._images[i], self._rng, self._augment))

    def generator(self) -> np.random.Generator:
        """Return what else may draw: the same generator that draws the views."""
        return self._rng


class Cached:
    """The latents of each image and of `count` views of it, which take turns.

    They are computed once; the images are not needed again.  Programs that cut a network at the
    same place may share them.
    """

    def __init__(
        self,
        host: HostProgram,
        images: Images,
        augment: Augment,
        rng: np.random.Generator,
        count: int,
    ) -> None:
        show = Driver(host).show

        def of_all(kind: Augment) -> _Latents:
            return _Latents(show(augmented(image, rng, kind)) for image in images)

        whole = augment is Augment.NONE
        plain = whole or EntryPoint.ENROL in host.program.entries
        self._plain = [of_all(Augment.NONE)] if plain else []
        self._views = self._plain if whole else [of_all(augment) for _ in range(count)]
        self._rng = rng

    def plain(self) -> Iterator[Shown]:
        """Yield the latents of the images as they are, to enrol."""
        return (latents[i] for latents in self._plain for i in range(len(latents)))

    def view(self, i: int, turn: int) -> Shown:
        """Return the latent of a view of image i, to learn in the pass `turn`."""
        return self._views[turn % len(self._views)][i]

    def generator(self) -> np.random.Generator:
        """Return what else may draw: a generator that is where the views have left it."""
        return copy.deepcopy(self._rng)

    @property
    def nbytes(self) -> int:
        """The bytes of all latents."""
        return sum(latents.nbytes for latents in {*self._plain, *self._views})


class _Latents:
    """Latents of many images: a row of bytes for each in one array, which may lie in a file."""

    def __init__(self, shown: Iterable[Shown]) -> None:
        self._kinds: list[tuple[str, np.dtype[Any], tuple[int, ...]]] = []
        self._rows = stacked(map(self._packed, shown))
        self.nbytes = self._rows.nbytes

    def _packed(self, shown: Shown) -> Array:
        self._kinds = [(name, x.dtype, x.shape) for name, x in shown.items()]
        return np.concatenate([np.frombuffer(x.tobytes(), np.uint8) for x in shown.values()])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> Shown:
        row, found, at = self._rows[i], {}, 0
        for name, kind, shape in self._kinds:
            end = at + kind.itemsize * math.prod(shape)
            found[name] = row[at:end].view(kind).reshape(shape)
            at = end
        return found


def views_of(
    host: HostProgram,
    compiled: Compiled,
    images: Images,
    augment: Augment,
    seed: int,
) -> Fresh | Cached:
    """Return what a program is shown of images: new views, or those that its recipe keeps."""
    rng = np.random.default_rng(seed)
    if compiled.recipe.cache:
        return Cached(host, images, augment, rng, compiled.recipe.cache)
    return Fresh(host, images, augment, rng)


def latents_each(compiled: Compiled, augment: Augment) -> int:
    """Return how many latents of an image `Cached` keeps; 0 where a recipe has no cache."""
    entries = compiled.program.entries
    if EntryPoint.STEP not in entries or not compiled.recipe.cache:
        return 0
    return 1 if augment is Augment.NONE else compiled.recipe.cache + (EntryPoint.ENROL in entries)


def within(
    limit: int | None, compiled: Compiled, images: int, augment: Augment, iterations: int
) -> Compiled:
    """Return a program that keeps as many views of so many images as `limit` bytes hold.

    A view for each pass is the most that can be of use.  Without a limit, and where nothing is
    kept, the program is as it was.  Raises `InputError` where not one view fits.
    """
    least, each = latents_each(compiled, augment), images * compiled.latent_bytes
    if limit is None or not least:
        return compiled
    if limit < least * each:
        kept = "each image as it is" if least == 1 else "each image and one view of it"
        raise InputError(
            f"{option('cache_bytes')} {limit}: does not hold {kept}, {images} images of "
            f"{compiled.latent_bytes} bytes; the smallest {option('cache_bytes')} that fits is "
            f"{least * each}"
        )
    views = min(limit // each - least + 1, max(1, iterations))
    return replace(compiled, recipe=replace(compiled.recipe, cache=views))
