"""Samples of learned classes, for the example of an exported project: some of the user's own."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np

from kilograd.data import Dataset
from kilograd.data.pixels import middle
from kilograd.emit.pictures import COLOURS, Codes, Frames, Pictures
from kilograd.errors import InputError, option, shown
from kilograd.frontend import Arrays, Preprocess
from kilograd.sizes import spelled

ROOM = 1 << 20
"""Bytes of flash for all images, where nobody says less."""

_CLASSES, _TESTS, _SHOTS = 10, 3, 2

_log = logging.getLogger(__name__)


def own_pictures(
    classes: Sequence[str],
    preprocess: Preprocess,
    dataset: Dataset,
    asked: Sequence[int],
    room: int = ROOM,
) -> Pictures:
    """Return three images of each class to test on, and two to learn from, of ten classes at most.

    `classes`: those that were learned.  `asked`: images of the set that may be tested on, one of
    those classes at least.  The images to learn from are others of them, else of the whole set.
    `room`: bytes of flash; where that is little there are fewer images, and then fewer classes.
    Raises `InputError` where there is no room for one, and for images that cannot be decoded.
    """
    names = [dataset.classes[label] for label in dataset.labels]
    given = {names[i] for i in asked}
    known = [way for way, name in enumerate(classes) if name in given]
    size = math.prod(preprocess.shape)
    count = room // size
    if not count:
        raise InputError(
            f"{option('data')} {dataset.name}: an image takes {spelled(size)} of flash, and "
            f"{max(0, room):,} bytes are left; leave this out"
        )
    ways = known[: min(_CLASSES, max(1, count // 2))]
    if len(ways) < len(known):
        _log.warning("images of %d of %d classes are put in", len(ways), len(known))
    each = min(count // len(ways), _TESTS + _SHOTS)
    tests: list[int] = []
    support: list[int] = []
    for way in ways:
        held = [i for i in asked if names[i] == classes[way]]
        others = [i for i, name in enumerate(names) if name == classes[way] and i not in held]
        most = (each + 1) // 2
        tests += held[:most]
        support += (held[most:] + others)[: each - most]
    learned = {name: way for way, name in enumerate(classes)}
    return Pictures(
        names=tuple(map(shown, classes)),
        support=_frames(dataset, support, preprocess),
        support_labels=tuple(learned[names[i]] for i in support),
        tests=_frames(dataset, tests, preprocess),
        test_labels=tuple(learned[names[i]] for i in tests),
        own=True,
    )


def _frames(dataset: Dataset, images: Sequence[int], preprocess: Preprocess) -> Frames | Codes:
    """Return images as the network sees them, in colours: grey is of three equal ones; or codes."""
    if isinstance(preprocess.samples, Arrays):
        codes = np.zeros((len(images), *preprocess.shape), np.int8)
        for sample, i in zip(codes, images, strict=True):
            sample[...] = dataset.prepared(i, preprocess)
        return codes
    frames = np.zeros((len(images), *preprocess.shape[:2], COLOURS), np.uint8)
    for frame, i in zip(frames, images, strict=True):
        frame[...] = middle(dataset.image(i), preprocess, preprocess.samples)
    return frames
