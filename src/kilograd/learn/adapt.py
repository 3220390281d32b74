"""The main job: a network learns the classes of an episode, in the program that is flashed."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as packed

from kilograd.data.augment import Augment
from kilograd.data.episodes import Episode
from kilograd.data.load import Dataset
from kilograd.data.pixels import prepare
from kilograd.emit import Program
from kilograd.errors import InputError, option
from kilograd.frontend import Preprocess
from kilograd.frontend.model_folder import folder_layout
from kilograd.ir import Array, Role
from kilograd.learn.recipe import Compiled
from kilograd.learn.views import Cached, Fresh, Shown, latents_each, shown, views_of
from kilograd.output import whole_folder
from kilograd.targets import HostProgram, build_host

RESULT = "result.json"
ADAPTED = "adapted.safetensors"
"""The file that tells a folder of results: folders of training have a `RESULT`, too."""
RESULT_FILES = (RESULT, "episode.json", "selection.html")
"""What lies beside it."""

_SMALLEST, _LARGEST = (float(x) for x in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
"""Of rates: normal numbers of float32."""

Progress = Callable[[int, float], None]
"""Called after every sample with the number of samples done and the running loss."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn: `iterations` passes over the support at rate `lr`.

    The rate rises from zero in a straight line during the first `warmup` passes, and falls to zero
    along a cosine in the others.  It is never below the smallest normal float32: programs refuse
    a rate of zero.
    """

    iterations: int = 10
    lr: float = 0.003
    augment: Augment = Augment.FULL
    seed: int = 0
    warmup: int = 0

    def __post_init__(self) -> None:
        """Raise `InputError` for numbers that make no sense."""
        if self.iterations < 0:
            raise InputError(f"{option('iterations')} {self.iterations}: must not be negative")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"{option('lr')} {self.lr}: must be a positive number")
        if not _SMALLEST <= self.lr <= _LARGEST:
            raise InputError(
                f"{option('lr')} {self.lr}: must be in {_SMALLEST:.3g} ... {_LARGEST:.3g}"
            )
        if not 0 <= self.seed < 1 << 31:
            raise InputError(f"{option('seed')} {self.seed}: must be in 0 ... 2147483647")
        if not 0 <= self.warmup <= max(0, self.iterations - 1):
            raise InputError(
                f"{option('warmup')} {self.warmup}: must be in 0 ... "
                f"{max(0, self.iterations - 1)}, fewer passes than {option('iterations')} "
                f"{self.iterations}"
            )

    def rate(self, done: float) -> float:
        """Return the rate when the fraction `done` of the work is done."""
        warm = self.warmup / max(1, self.iterations)
        if done < warm:
            return max(_SMALLEST, self.lr * done / warm)
        falling = 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm)))
        return max(_SMALLEST, self.lr * falling)


@dataclass(frozen=True)
class Samples:
    """Images as network input, int8 [n, h, w, c], and their labels."""

    images: NDArray[np.int8]
    labels: NDArray[np.int32]


@dataclass(frozen=True)
class Summary:
    """What `kilograd adapt --json` prints; sizes in bytes, accuracies in 0 ... 1.

    `shots` and `max_shots` are the support images of the classes with the fewest and the most.
    With a cache, `latent_bytes` are kept for a view of an image, `cache_bytes` for all of them, and
    `macs_step` does not count `macs_prefix`; without, these are 0.  `macs_training` is all the work
    of training: steps, prefixes, and prototypes made anew before each pass.
    """

    accuracy_before: float
    accuracy_after: float
    ways: int
    shots: int
    max_shots: int
    queries: int
    iterations: int
    sram_bytes: int
    sram_lower_bound_bytes: int
    sram_proved_optimal: bool
    flash_bytes: int
    macs_forward: int
    macs_prefix: int
    macs_step: int
    macs_training: int
    latent_bytes: int
    cache_bytes: int
    learned_parameters: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What was learned: figures, the loss of every sample, predictions, and adapted tensors.

    `tensors` are in the layout of a model folder; layers that did not learn are not among them.
    """

    summary: Summary
    losses: tuple[float, ...]
    predictions: tuple[int, ...]
    tensors: Mapping[str, Array]


def load_samples(
    dataset: Dataset, indices: tuple[int, ...], labels: tuple[int, ...], preprocess: Preprocess
) -> Samples:
    """Decode some images of a data set."""
    images = np.stack([prepare(dataset.image(i), preprocess) for i in indices])
    return Samples(images, np.array(labels, np.int32))


def adapt(
    compiled: Compiled,
    dataset: Dataset,
    episode: Episode,
    schedule: Schedule,
    progress: Progress = lambda done, loss: None,
    passes: int | None = None,
) -> Outcome:
    """Train on the support of an episode and test on its query.

    `passes` ends training before the schedule does.
    """
    start = time.perf_counter()
    preprocess = compiled.model.preprocess
    support = load_samples(dataset, episode.support, episode.support_labels, preprocess)
    query = load_samples(dataset, episode.query, episode.query_labels, preprocess)
    host = build_host(compiled.program)
    enrol(host, support)
    before = predict(host, query.images)
    losses = fit(host, compiled, support, schedule, progress, passes)
    enrol(host, support)
    after = predict(host, query.images)
    program = compiled.program
    shots = Counter(episode.support_labels).values()
    done = schedule.iterations if passes is None else passes
    prefixes = len(support.labels) * latents_each(compiled, schedule.augment) if done else 0
    seen = len(support.labels) * done
    summary = Summary(
        accuracy_before=float((before == query.labels).mean()),
        accuracy_after=float((after == query.labels).mean()),
        ways=len(episode.classes),
        shots=min(shots),
        max_shots=max(shots),
        queries=len(query.labels) // len(episode.classes),
        iterations=done,
        sram_bytes=program.sram_bytes,
        sram_lower_bound_bytes=program.sram_lower_bound_bytes,
        sram_proved_optimal=program.sram_proved_optimal,
        flash_bytes=program.flash_bytes,
        macs_forward=program.macs("infer"),
        macs_prefix=program.macs("prefix"),
        macs_step=program.macs("step"),
        macs_training=prefixes * program.macs("prefix") + seen * _macs_seen(program),
        latent_bytes=compiled.latent_bytes,
        cache_bytes=prefixes * compiled.latent_bytes,
        learned_parameters=compiled.learned_parameters,
        seconds=round(time.perf_counter() - start, 3),
    )
    return Outcome(summary, tuple(losses), tuple(after.tolist()), adapted_tensors(compiled, host))


def enrol(host: HostProgram, support: Samples) -> None:
    """Make the prototypes anew from the support; a linear head has none."""
    if "enrol" in host.program.entries:
        _enrol(host, (shown(host, image) for image in support.images), support.labels)


def _enrol(
    host: HostProgram, seen: Iterable[Shown], labels: NDArray[np.int32], entry: str = "enrol"
) -> None:
    """Enrol samples or, with `enrol_grad`, go back to them."""
    if entry not in host.program.entries:
        return
    if entry == "enrol":
        host.call("forget")
    for inputs, label in zip(seen, labels, strict=True):
        host.call(entry, **inputs, label=label)


def predict(host: HostProgram, images: NDArray[np.int8]) -> NDArray[np.int64]:
    """Return the most likely class of each image."""
    return np.array([int(host.call("infer", image=x)["logits"].argmax()) for x in images])


def fit(
    host: HostProgram,
    compiled: Compiled,
    support: Samples,
    schedule: Schedule,
    progress: Progress = lambda done, loss: None,
    passes: int | None = None,
    views: Fresh | Cached | None = None,
) -> list[float]:
    """Train in place; return the loss of every sample seen.

    `passes` ends training before the schedule does.  `views`: of the support with this schedule,
    where a program that cuts the network at the same place has kept them.
    """
    each = training(host, compiled, support, schedule, progress, views)
    return [loss for losses in itertools.islice(each, passes) for loss in losses]


def training(
    host: HostProgram,
    compiled: Compiled,
    support: Samples,
    schedule: Schedule,
    progress: Progress = lambda done, loss: None,
    views: Fresh | Cached | None = None,
) -> Iterator[list[float]]:
    """Train in place, and yield the losses of each pass over the support when it is done.

    Prototypes are made anew before each pass, and detached, unless the program has gradients for
    them: then what they add to the mean gradient comes last, right before its update.
    Raises `InputError` if such a program would update before the end of a pass.
    """
    if "step" not in host.program.entries or not schedule.iterations:
        return
    if views is None:
        views = views_of(host, compiled, support.images, schedule.augment, schedule.seed)
    rng = views.generator()
    every = compiled.recipe.accumulate
    count = len(support.labels)
    total = schedule.iterations * count
    exact = "enrol_grad" in host.program.entries
    if exact and every < count:
        raise InputError(
            f"{option('prototype_gradients')}: needs one update for the whole support of {count} "
            f"images, but {option('accumulate')} is {every}; make it {count} or more"
        )
    seen = updates = pending = 0
    running = math.nan
    for turn in range(schedule.iterations):
        losses: list[float] = []
        _enrol(host, views.plain(), support.labels)
        for left, i in zip(reversed(range(count)), rng.permutation(count), strict=True):
            rate = schedule.rate(seen / total)
            inputs = {**views.view(i, turn), "label": support.labels[i]}
            if every == 1:
                clock = np.array([schedule.seed, updates], np.int32)
                out = host.call("step", **inputs, lr=np.array([rate], np.float32), clock=clock)
                updates += 1
            else:
                share = 1 / min(every, pending + left + 1)
                out = host.call("step", **inputs, share=np.array([share], np.float32))
                pending += 1
                if pending == every or left == 0:
                    if exact:
                        _enrol(host, views.plain(), support.labels, "enrol_grad")
                    clock = np.array([schedule.seed, updates], np.int32)
                    host.call("apply", lr=np.array([rate], np.float32), clock=clock)
                    updates, pending = updates + 1, 0
            loss = float(out["loss"][0])
            running = 0.95 * running + 0.05 * loss if seen else loss
            losses.append(loss)
            seen += 1
            progress(seen, running)
        yield losses


def _macs_seen(program: Program) -> int:
    """Return the work of a sample in a pass: its step, and what it does for the prototypes."""
    entries = ("enrol", "step", "enrol_grad")
    return sum(map(program.macs, entries)) if "step" in program.entries else 0


def adapted_tensors(compiled: Compiled, host: HostProgram) -> dict[str, Array]:
    """Return whole tensors of every layer that learned, and the head."""
    tensors: dict[str, Array] = {}
    for name, part in compiled.training.learn.items():
        node = compiled.model.graph[name]
        if name in host.state:
            value = host.state[name].copy()
        else:
            value = compiled.model.graph.data[name].copy()
            where = (slice(None),) * part.axis + (list(part.index or ()),)
            value[where] = host.state[f"{name}.learned"]
        tensors[name] = folder_layout(node, value)
    heads = [s.name for s in compiled.program.state if s.role is Role.HEAD]
    tensors.update((name, host.state[name].copy()) for name in heads)
    return tensors


def save(
    out: Path,
    compiled: Compiled,
    episode: Episode,
    outcome: Outcome,
    pages: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write result.json, episode.json, adapted.safetensors and `pages`; all of them or none.

    Raises `InputError` if the disk refuses.
    """
    result = {
        **asdict(outcome.summary),
        "model": compiled.model.name,
        "method": compiled.recipe.method,
        "head": str(compiled.recipe.head_kind),
        "optimizer": str(compiled.recipe.optimizer),
        "accumulate": compiled.recipe.accumulate,
        "cache": compiled.recipe.cache,
        "prototype_gradients": compiled.recipe.prototype_gradients,
        "exact": compiled.recipe.exact,
        "dataset": episode.dataset,
        "selection": [asdict(r) for r in compiled.selection.reasons],
        "classes": list(episode.classes),
        "predictions": list(outcome.predictions),
        "losses": list(outcome.losses),
    }
    with whole_folder(out) as new:
        (new / RESULT).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (new / "episode.json").write_text(episode.to_json() + "\n", encoding="utf-8")
        # one entry: several are written in a random order, and a run must repeat to the byte
        metadata = {"model": compiled.model.name}
        tensors = packed(dict(outcome.tensors), metadata=metadata)
        (new / ADAPTED).write_bytes(tensors)
        for name, text in pages.items():
            (new / name).write_text(text, encoding="utf-8")
