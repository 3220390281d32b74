"""The training loop: repeatable, and resumable at any step.

Whatever is random in a step depends on the seed and the number of the step alone, so that nothing
has to be remembered but weights, momentum and the step: a run that was killed and goes on ends
with the same bits (on a CPU) as one that was not.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

from kilograd.errors import InputError, option
from kilograd.offline.checkpoint import (
    State,
    check_like,
    check_momentum,
    load_checkpoint,
    save_checkpoint,
)
from kilograd.offline.folder import Epoch, History

_SAVE_AFTER = 60.0  # seconds; and after every epoch

Batch = tuple[NDArray[np.generic], ...]
Progress = Callable[[int, int, float, float], None]
"""Called after every step: steps done, all of them, the loss, the best score so far."""


@dataclass(frozen=True)
class Course:
    """How long and how fast to train, by SGD with momentum.

    The rate rises from `floor` to `lr` in `warmup` epochs and returns along a cosine.  With
    `whole_epochs` it changes between epochs only.

    Raises `InputError` for numbers that make no sense.
    """

    epochs: int
    steps: int
    lr: float
    floor: float
    warmup: int
    momentum: float = 0.9
    weight_decay: float = 0.0
    whole_epochs: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value, least in (
            ("epochs", self.epochs, 0),
            ("steps", self.steps, 1),
            ("warmup", self.warmup, 0),
        ):
            if value < least:
                raise InputError(f"{option(name)} {value}: must be at least {least}")
        for name, number in (("floor", self.floor), ("weight-decay", self.weight_decay)):
            if not (math.isfinite(number) and number >= 0):
                raise InputError(f"{option(name)} {number}: must not be negative")
        if not 0 <= self.momentum < 1:
            raise InputError(
                f"{option('momentum')} {self.momentum}: must be at least 0 and below 1"
            )
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"{option('lr')} {self.lr}: must be a positive number")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        epoch = step // self.steps if self.whole_epochs else step / self.steps
        floor = min(self.floor, self.lr)
        if epoch < self.warmup:
            return floor + (self.lr - floor) * epoch / self.warmup
        done = (epoch - self.warmup) / (self.epochs - self.warmup)
        return floor + (self.lr - floor) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Lesson:
    """What learns, from what, and how well.

    `module`: its parameters that ask for a gradient learn.
    `batch`: the arrays of a step, which depend on its number alone; runs in other processes too.
    `loss`: of a batch, as tensors on the device of the module.
    `score`: how good the module is now, the more the better; must leave it as it was.
    """

    module: nn.Module
    batch: Callable[[int], Batch]
    loss: Callable[[tuple[Tensor, ...]], Tensor]
    score: Callable[[], float]


@dataclass(frozen=True)
class Session:
    """What a run has beside what its result depends on: where it computes, and whom it tells.

    `device`: as PyTorch calls it, "cpu" or "cuda".
    `workers`: processes that make batches ahead; 0: this one makes them.
    `say`: is told what a user should know.
    """

    device: str = "cpu"
    workers: int = 0
    progress: Progress = lambda done, of, loss, best: None
    say: Callable[[str], None] = lambda text: None


def train(lesson: Lesson, course: Course, out: Path, session: Session) -> History:
    """Train, or go on with what `out` holds, and leave the best weights in the module.

    `out` gets `checkpoints/`, the last two, and `log/` for TensorBoard.  The score before training
    counts too: where nothing is better, nothing changes.

    Raises `InputError` if the loss is no number any more.
    """
    module, total = lesson.module, course.epochs * course.steps
    device = next(module.parameters()).device
    optimizer = torch.optim.SGD(
        [p for p in module.parameters() if p.requires_grad],
        course.lr,
        course.momentum,
        weight_decay=course.weight_decay,
    )
    state = load_checkpoint(
        out / "checkpoints", session.say, lambda state: _check(state, module, optimizer, course)
    )
    if state is None:
        best_weights = copy.deepcopy(module.state_dict())
        scores, losses, running, done = [lesson.score()], [], 0.0, 0
    else:
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        best_weights, done = state["best"], state["step"]
        scores, losses, running = list(state["scores"]), list(state["losses"]), state["running"]

    def save() -> None:
        now = {
            "module": module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "best": best_weights,
            "step": done,
            "scores": scores,
            "losses": losses,
            "running": running,
        }
        save_checkpoint(out / "checkpoints", done, now)

    saved = time.monotonic()
    with SummaryWriter(str(out / "log"), purge_step=done) as log:
        for batch in _batches(lesson.batch, range(done, total), session.workers):
            module.train()
            for group in optimizer.param_groups:
                group["lr"] = course.rate(done)
            loss = lesson.loss(tuple(x.to(device) for x in batch))
            if not math.isfinite(value := loss.item()):
                raise InputError(
                    f"the loss is {value} after {done} steps; use a lower {option('lr')}"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            log.add_scalar("loss", value, done)
            log.add_scalar("rate", course.rate(done), done)
            done, running = done + 1, running + value
            if done % course.steps == 0:
                losses.append(running / course.steps)
                scores.append(lesson.score())
                running = 0.0
                log.add_scalar("score", scores[-1], done)
                if scores[-1] > max(scores[:-1]):
                    best_weights = copy.deepcopy(module.state_dict())
            if done % course.steps == 0 or time.monotonic() - saved > _SAVE_AFTER:
                save()
                saved = time.monotonic()
            session.progress(done, total, value, max(scores))
    module.load_state_dict(best_weights)
    epochs = tuple(Epoch(*pair) for pair in zip(losses, scores[1:], strict=True))
    return History(scores[0], epochs, scores.index(max(scores)))


def _check(
    state: State, module: nn.Module, optimizer: torch.optim.Optimizer, course: Course
) -> None:
    """Raise a ValueError for a state that is of another training, or of none."""
    weights = module.state_dict()
    kept = {k: v for k, v in state.items() if k != "optimizer"}
    numbers = {"step": 0, "running": 0.0, "scores": [], "losses": []}
    check_like(kept, {"module": weights, "best": weights, **numbers})
    check_momentum(state.get("optimizer"), optimizer)
    epochs = state["step"] // course.steps
    if not 0 <= epochs <= course.epochs:
        raise ValueError(f"step {state['step']} is none of this training")
    if (len(state["losses"]), len(state["scores"])) != (epochs, epochs + 1):
        raise ValueError("it has scores of another number of epochs")


class _Steps(Dataset):  # type: ignore[misc]  # torch is untyped here
    """Batches by the number of their step."""

    def __init__(self, batch: Callable[[int], Batch]) -> None:
        self.batch = batch

    def __getitem__(self, step: int) -> Batch:
        return self.batch(step)


def _batches(
    batch: Callable[[int], Batch], steps: range, workers: int
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the batches of some steps as tensors; `workers` processes make them ahead."""
    loader = DataLoader(
        _Steps(batch),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
    )
    try:
        yield from loader
    except InputError as e:  # from another process it comes with a traceback for a message
        raise InputError(str(e).strip().splitlines()[-1].rpartition("InputError: ")[2]) from e
