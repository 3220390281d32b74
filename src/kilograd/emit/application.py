"""A program with what is said of it and done with it: what an exported project is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kilograd.emit.pictures import Pictures
from kilograd.emit.program import Program
from kilograd.frontend import Attribution, Preprocess
from kilograd.ir import StreamedInput
from kilograd.ops import Cosine
from kilograd.passes import EntryPoint


@dataclass(frozen=True, kw_only=True)
class Application:
    """A program, the network it was made from, and how it is trained.

    `name` and `title` are the network's, `method` says what learns, `learned` how many parameters
    that are.  `rate` and `passes` are for the support; so many images as `group` share an update.
    `classes` are the names of the classes in the order of their labels, empty where nobody knows.
    `pictures` are for the example, frames or arrays as `preprocess` has it; `attribution` says
    whose the network is.
    """

    program: Program
    name: str
    title: str
    preprocess: Preprocess
    method: str
    learned: int
    rate: float
    passes: int
    group: int
    classes: tuple[str, ...] = ()
    pictures: Pictures
    attribution: Attribution

    @property
    def ways(self) -> int:
        """The classes that the program tells apart."""
        (logits,) = self.program.entries[EntryPoint.INFER].graph.outputs
        return logits.type.size

    @property
    def cosine_scale(self) -> float | None:
        """What cosines with prototypes are multiplied by; `None` where there are none."""
        nodes = self.program.entries[EntryPoint.INFER].graph.nodes
        return next((n.op.scale for n in nodes if isinstance(n.op, Cosine)), None)

    @property
    def by_rows(self) -> bool:
        """Whether the image comes row by row."""
        (image,) = self.program.entries[EntryPoint.INFER].inputs.values()
        return isinstance(image.op, StreamedInput)

    @property
    def latents(self) -> Mapping[str, int]:
        """Bytes of what stands in place of an image, by its name in C; nothing without a cut."""
        prefix = self.program.entries.get(EntryPoint.PREFIX)
        return {k: n.type.nbytes for k, n in prefix.outputs.items()} if prefix else {}

    @property
    def adapted(self) -> bool:
        """Whether the program starts with what was learned: then its classes have names."""
        return bool(self.classes)

    @property
    def trains(self) -> bool:
        """Whether layers learn in the example.

        What was learned goes on from images of all its classes, and from prototypes as they are:
        gradients of prototypes are those of images that were enrolled just before.
        """
        pictures = self.pictures
        goes_on = pictures.own and pictures.every_class and not self.has(EntryPoint.ENROL_GRAD)
        return self.has(EntryPoint.STEP) and (goes_on or not self.adapted)

    @property
    def enrols(self) -> bool:
        """Whether the example enrols images; drawn ones are of no class that was learned."""
        goes_on = self.pictures.own and bool(self.pictures.support_labels)
        return self.has(EntryPoint.ENROL) and (goes_on or not self.adapted)

    def has(self, *entries: EntryPoint) -> bool:
        """Return whether the program has all of these entry points."""
        return all(e in self.program.entries for e in entries)
