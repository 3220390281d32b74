"""The training loop: repeatable, and resumable at any step.

Whatever is random in a step depends on the seed and the number of the step alone, so that nothing
has to be remembered but weights, momentum and the step: a run that was killed and goes on ends
with the same bits (on a CPU) as one that was not.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
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
from kilograd.offline.settings import Course
from kilograd.progress import Progress, silent

_SAVE_AFTER = 60.0  # seconds; and after every epoch

Batch = tuple[NDArray[np.generic], ...]


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
    progress: Progress = silent
    say: Callable[[str], None] = lambda text: None


def train(lesson: Lesson, course: Course, out: Path, session: Session) -> History:
    """Train, or go on with what `out` holds, and leave the best weights in the module.

    `out` gets `checkpoints/`, the last two, and `log/` for TensorBoard.  The score before training
    counts too: where nothing is better, nothing changes.

    Raises `InputError` if the loss is no number any more, and as `lesson.batch` does.
    """
    folder, total = out / "checkpoints", course.epochs * course.steps
    run = _Run(lesson, course)
    run.begin(load_checkpoint(folder, session.say, run.check))
    saved = time.monotonic()
    with SummaryWriter(str(out / "log"), purge_step=run.step) as log:
        for batch in _batches(lesson.batch, range(run.step, total), session.workers):
            log.add_scalar("rate", course.rate(run.step), run.step)
            loss = run.learn(batch)
            log.add_scalar("loss", loss, run.step - 1)
            if run.step % course.steps == 0:
                log.add_scalar("score", run.end_epoch(), run.step)
            if run.step % course.steps == 0 or time.monotonic() - saved > _SAVE_AFTER:
                save_checkpoint(folder, run.step, run.state())
                saved = time.monotonic()
            session.progress(run.step, total, f"loss {loss:.3f}, best {max(run.scores):.1%}")
    return run.end()


class _Run:
    """Training under way: what learns, and how far it is."""

    def __init__(self, lesson: Lesson, course: Course) -> None:
        self.lesson, self.course = lesson, course
        self.optimizer = torch.optim.SGD(
            [p for p in lesson.module.parameters() if p.requires_grad],
            course.lr,
            course.momentum,
            weight_decay=course.weight_decay,
        )
        self.step = 0
        self.running = 0.0  # the sum of the losses of this epoch
        self.losses: list[float] = []
        self.scores: list[float] = []
        self.best: Mapping[str, Tensor] = {}

    def begin(self, state: State | None) -> None:
        """Go on from a checkpoint, or take the score of what has not learned yet."""
        module = self.lesson.module
        if state is None:
            self.best = copy.deepcopy(module.state_dict())
            self.scores = [self.lesson.score()]
            return
        module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.step, self.running = state["best"], state["step"], state["running"]
        self.scores, self.losses = list(state["scores"]), list(state["losses"])

    def state(self) -> State:
        """Return what a checkpoint holds."""
        return {
            "module": self.lesson.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "step": self.step,
            "scores": self.scores,
            "losses": self.losses,
            "running": self.running,
        }

    def check(self, state: State) -> None:
        """Raise a ValueError for a state that is of another training, or of none."""
        weights = self.lesson.module.state_dict()
        kept = {k: v for k, v in state.items() if k != "optimizer"}
        numbers = {"step": 0, "running": 0.0, "scores": [], "losses": []}
        check_like(kept, {"module": weights, "best": weights, **numbers})
        check_momentum(state.get("optimizer"), self.optimizer)
        epochs = state["step"] // self.course.steps
        if not 0 <= epochs <= self.course.epochs:
            raise ValueError(f"step {state['step']} is none of this training")
        if (len(state["losses"]), len(state["scores"])) != (epochs, epochs + 1):
            raise ValueError("it has scores of another number of epochs")

    def learn(self, batch: tuple[Tensor, ...]) -> float:
        """Take a step, and return its loss."""
        module = self.lesson.module
        module.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.course.rate(self.step)
        device = next(module.parameters()).device
        loss = self.lesson.loss(tuple(x.to(device) for x in batch))
        if not math.isfinite(value := loss.item()):
            raise InputError(
                f"the loss is {value} after {self.step} steps; use a lower {option('lr')}"
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        self.running += value
        return value

    def end_epoch(self) -> float:
        """Return the score after an epoch, and keep weights that are better than all before."""
        self.losses.append(self.running / self.course.steps)
        self.running = 0.0
        score = self.lesson.score()
        if score > max(self.scores):
            self.best = copy.deepcopy(self.lesson.module.state_dict())
        self.scores.append(score)
        return score

    def end(self) -> History:
        """Leave the best weights in the module, and tell how it went."""
        self.lesson.module.load_state_dict(self.best)
        epochs = tuple(map(Epoch, self.losses, self.scores[1:]))
        return History(self.scores[0], epochs, self.scores.index(max(self.scores)))


class _Steps(Dataset):  # type: ignore[misc]  # torch is untyped here
    """Batches by the number of their step, or what is wrong with one.

    An error is a value here: one that is raised in another process arrives as a text.
    """

    def __init__(self, batch: Callable[[int], Batch]) -> None:
        self.batch = batch

    def __getitem__(self, step: int) -> Batch | InputError:
        try:
            return self.batch(step)
        except InputError as e:
            return e


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
    for made in loader:
        if isinstance(made, InputError):
            raise made
        yield made
