"""The entry points of a training program, and the order in which they are called.

Every entry point is a graph of its own over the same parameters:

    infer   image -> logits
    enrol   image, label -> prototypes[label] += features          (prototype head)
    forget  -> prototypes = 0                                       (prototype head)
    step    image, label, lr, clock -> loss, logits; parameters updated

With a cut (`Training.cache`), the layers in front of what learns are an entry point of their own,
and `enrol` and `step` take what it leaves in place of the image:

    prefix  image -> latent: one or more tensors, with the same names on both sides

With an exact prototype head, `step` adds up the gradient of the prototypes, `forget` clears it, and

    enrol_grad  image, label -> mean gradients += the share of what was enrolled so

With gradient accumulation `step` takes, in place of lr and clock, the share of the sample in the
mean gradient (and where sums are rounded, `step` and `enrol_grad` take a clock that counts images),
and the parameters are updated by

    apply   lr, clock -> parameters updated from the mean gradients, which are zeroed

A pass over the support is `ENROLMENT`, then one `UPDATE` for each group of samples that share it:
for each sample where gradients are not accumulated.  After the last pass `ENROLMENT` comes again.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class EntryPoint(enum.StrEnum):
    """What the entry points of a training program are called, here and in C."""

    INFER = "infer"
    PREFIX = "prefix"
    ENROL = "enrol"
    FORGET = "forget"
    STEP = "step"
    ENROL_GRAD = "enrol_grad"
    APPLY = "apply"
    INSPECT = "inspect"


class Over(enum.Enum):
    """How often a phase makes its call."""

    ONCE = enum.auto()
    SUPPORT = enum.auto()  # for each image of the support, as it is
    GROUP = enum.auto()  # for a view of each image of the group that shares an update


@dataclass(frozen=True)
class Phase:
    """One line of the order of calls; left out where the program has no such entry point."""

    entry: EntryPoint
    over: Over


ENROLMENT = (
    Phase(EntryPoint.FORGET, Over.ONCE),
    Phase(EntryPoint.ENROL, Over.SUPPORT),
)
UPDATE = (
    Phase(EntryPoint.STEP, Over.GROUP),
    Phase(EntryPoint.ENROL_GRAD, Over.SUPPORT),
    Phase(EntryPoint.APPLY, Over.ONCE),
)
