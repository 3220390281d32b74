"""What a person should know of data before it is used."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from kilograd.data.dataset import Dataset
from kilograd.data.draw import Draw, EpisodeKind
from kilograd.data.listed import what_reads
from kilograd.data.overlap import shared_classes
from kilograd.data.pools import usable_classes
from kilograd.data.whole import sides
from kilograd.errors import shown
from kilograd.frontend import Model

_log = logging.getLogger(__name__)
_NAMED = 8


def remark_left_out(dataset: Dataset, draw: Draw) -> None:
    """Log which images cannot be read, and which classes have too few."""
    remark_skipped(dataset)
    if draw.episode is EpisodeKind.ALL:
        _remark_whole(dataset, draw)
        return
    shots = draw.least_shots
    usable = set(usable_classes(dataset, shots))
    if small := [c for c in dataset.classes if c not in usable]:
        total = len(dataset.classes)
        reason = f"too few images for {shots} shot{'s' if shots > 1 else ''}"
        _log.warning("%d of %d classes left out, %s: %s", len(small), total, reason, some(small))


def _remark_whole(dataset: Dataset, draw: Draw) -> None:
    learn, tested = (set(dataset.labels[x].tolist()) for x in sides(dataset, draw.test, seed=0))
    total = len(dataset.classes)
    classes = list(enumerate(dataset.classes))
    if empty := [name for label, name in classes if label not in learn]:
        _log.warning(
            "%d of %d classes left out, no image to learn from: %s", len(empty), total, some(empty)
        )
    if alone := [name for label, name in classes if label in learn - tested]:
        _log.warning(
            "%d of %d classes learned and not tested, no image left for it: %s",
            len(alone),
            total,
            some(alone),
        )


def remark_seen(dataset: Dataset, model: Model) -> None:
    """Log which classes a network was trained on: new they are not."""
    if seen := shared_classes(model.training_classes, dataset.classes):
        of = shown(dataset.name)
        _log.warning(
            "%s was trained on classes of %s, %d: %s", model.name, of, len(seen), some(seen)
        )


def remark_skipped(dataset: Dataset) -> None:
    """Log which images cannot be read."""
    if skipped := dataset.skipped:
        total = len(dataset) + len(skipped)
        _log.warning(
            "%d of %d images unreadable and skipped: %s", len(skipped), total, some(skipped)
        )
        if advice := what_reads(skipped):
            _log.warning("%s", advice)


def some(names: Sequence[str]) -> str:
    """Return the first of some names on one line, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return shown(", ".join(names[:_NAMED]) + more)
