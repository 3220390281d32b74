"""A whole data set is learned: images in a file, and work that can go on."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from kilograd import __version__
from kilograd.data import Dataset, Episode, load_dataset
from kilograd.data.remarks import remark_left_out, remark_seen
from kilograd.frontend import Model
from kilograd.learn.adapt import Outcome, adapt, taken_task
from kilograd.learn.taken import Taken
from kilograd.learn.unfinished import Keeper, unfinished
from kilograd.options import values
from kilograd.progress import Progress
from kilograd.settings import Settings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Whole:
    """A data set to be learned whole: `data` is its place; see `adapt` for the others."""

    network: Model
    data: Path
    settings: Settings
    chosen: frozenset[str]
    progress: Progress


def learn_whole(work: Whole, out: Path | None, *, force: bool) -> Outcome:
    """Learn a data set, and keep what is done in `out`, if there is one, until all of it is.

    Raises `InputError` as `load_dataset`, the draw of the settings and `adapt` do, and where `out`
    holds work that is another.
    """
    with unfinished(out, force=force) as folder:
        taken = Taken(folder, work.data, work.network.preprocess, work.progress)
        dataset = load_dataset(work.data, taken)
        _log.debug("%d images of %d classes in %s", len(dataset), len(dataset.classes), work.data)
        remark_seen(dataset, work.network)
        remark_left_out(dataset, work.settings.draw)
        drawn = work.settings.draw(dataset, work.settings.schedule.seed)
        task = taken_task(dataset, drawn, taken.images())
        keeper = Keeper(folder, _key(work, dataset, drawn, taken))
        return adapt(work.network, task, work.settings, work.progress, work.chosen, keeper)


def _key(work: Whole, dataset: Dataset, drawn: Episode, taken: Taken) -> str:
    """Return what tells the work from any other."""
    said = [
        __version__,
        values(work.settings),
        sorted(work.chosen),
        work.network.fingerprint,
        list(dataset.classes),
        drawn.to_json(),
        taken.digest(),
    ]
    return hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()
