"""Calls a training program: nobody else knows in which order its entry points are called.

`passes.calls` states the order.  Here it is kept, whatever the program consists of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import numpy as np

from kilograd.emit import Program
from kilograd.ir import Array
from kilograd.passes import ENROLMENT, UPDATE, EntryPoint, Over, Phase

Shown = Mapping[str, Array]
"""What an entry point reads of an image, by name: the image or, with a cut, its latent."""

Sample = tuple[Shown, Array]
"""What is shown of an image, and its label: one integer."""


_NUMBERS = (1 << 31) - 1
"""That a clock may have; more images than that begin anew."""


class Driven(Protocol):
    """What a driver calls: a `Runner`, or something that stands in front of one."""

    @property
    def program(self) -> Program:
        """The program, whose entry points say what they take."""

    def call(self, entry: str, **inputs: Array) -> dict[str, Array]:
        """Run an entry point; return its outputs by name."""


class Driver:
    """Makes the calls of a training program in their order.

    It hides what kind of program it is: whether there are prototypes, whether the network is cut,
    whether gradients are accumulated, and whether prototypes have gradients of their own.
    It keeps nothing: several drivers of one runner are as good as one.
    """

    def __init__(self, runner: Driven) -> None:
        self._runner = runner
        self._entries = runner.program.entries

    def show(self, image: Array) -> Shown:
        """Return what all other calls but `infer` read of an image, int8 [h, w, c]."""
        if EntryPoint.PREFIX in self._entries:
            return self._runner.call(EntryPoint.PREFIX, image=image)
        return {"image": image}

    def enrol(self, support: Iterable[Sample]) -> None:
        """Make the prototypes anew.  A linear head has none; then `support` is not read."""
        for _ in self._calls(ENROLMENT, support=support):
            pass

    def update(
        self,
        group: Iterable[Sample],
        support: Iterable[Sample] = (),
        *,
        share: float,
        rate: float,
        clock: tuple[int, int],
        seen: int | None = None,
    ) -> Iterator[float]:
        """Make one update, and yield the loss of each sample of a group.

        The update is not done before the iterator has ended.  `share` is 1 / the size of the
        group, `rate` above 0, `clock` a seed and the number of the update, from 0.  `seen`: images
        that were learned from before; a program that rounds its sums must be told, so that it does
        not round those of two groups alike.
        `support`: what was enrolled; not read unless prototypes have gradients.
        Raises a ValueError for a share below 1 where the program does not accumulate, and where it
        must be told what was seen.
        """
        if share < 1 and EntryPoint.APPLY not in self._entries:
            raise ValueError(f"share {share}: this program updates after each sample")
        first = seen if self._rounds_sums() else None
        if self._rounds_sums() and seen is None:
            raise ValueError("this program rounds sums of gradients: say how many images were seen")
        given = {
            "share": np.array([share], np.float32),
            "lr": np.array([rate], np.float32),
            "clock": np.array(clock, np.int32),
        }
        for entry, outputs in self._calls(UPDATE, group, support, first, **given):
            if entry is EntryPoint.STEP:
                yield float(outputs["loss"][0])

    def accumulate(self, shown: Shown, label: Array) -> float:
        """Add the gradient of a sample to the sums in the state, without an update.

        Returns the loss.  The program must be one that accumulates.
        """
        share = np.ones(1, np.float32)
        outputs = self._runner.call(EntryPoint.STEP, **shown, label=label, share=share)
        return float(outputs["loss"][0])

    def _rounds_sums(self) -> bool:
        """Return whether what adds up gradients takes a clock, as `apply` does."""
        step = self._entries.get(EntryPoint.STEP)
        rounds = step is not None and any(n.name == "clock" for n in step.graph.inputs())
        return rounds and EntryPoint.APPLY in self._entries

    def infer(self, image: Array) -> Array:
        """Return the logits of an image, float32 [ways]."""
        return self._runner.call(EntryPoint.INFER, image=image)["logits"]

    def inspect(self, shown: Shown, label: Array) -> float:
        """Add to the state what a sample says of each channel; return the loss."""
        outputs = self._runner.call(EntryPoint.INSPECT, **shown, label=label)
        return float(outputs["loss"][0])

    def _calls(
        self,
        phases: Iterable[Phase],
        group: Iterable[Sample] = (),
        support: Iterable[Sample] = (),
        first: int | None = None,
        **given: Array,
    ) -> Iterator[tuple[EntryPoint, Mapping[str, Array]]]:
        """Make the calls of some phases one by one, each with those inputs that it takes.

        `first`: the number that the clock of the first image has; None: all have the same clock.
        """
        for phase in phases:
            if phase.entry not in self._entries:
                continue
            takes = {n.name for n in self._entries[phase.entry].graph.inputs()}
            inputs = {name: value for name, value in given.items() if name in takes}
            if phase.over is Over.ONCE:
                yield phase.entry, self._runner.call(phase.entry, **inputs)
                continue
            samples = group if phase.over is Over.GROUP else support
            for i, (shown, label) in enumerate(samples):
                if first is not None and "clock" in takes:
                    number = (first + i) % _NUMBERS
                    inputs["clock"] = np.array([given["clock"][0], number], np.int32)
                yield phase.entry, self._runner.call(phase.entry, **shown, label=label, **inputs)
