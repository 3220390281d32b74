"""What an exported project is made from: a compiled program, and how it is trained."""

from __future__ import annotations

from kilograd.emit.application import Application
from kilograd.emit.pictures import drawn
from kilograd.frontend import attribution
from kilograd.learn.automatic import suited_rate
from kilograd.learn.recipe import Compiled
from kilograd.settings import Schedule


def application(
    compiled: Compiled, schedule: Schedule | None = None, classes: tuple[str, ...] = ()
) -> Application:
    """Return a program as an application: trained by `schedule` or as suits it, on drawn images.

    `classes` are the names of the classes in the order of their labels, where somebody knows them.
    Raises `InputError` where a model folder does not say properly whose the network is.
    """
    schedule = schedule or Schedule(lr=suited_rate(compiled))
    model, recipe = compiled.model, compiled.recipe
    return Application(
        program=compiled.program,
        name=model.name,
        title=model.title,
        preprocess=model.preprocess,
        method=recipe.method,
        learned=compiled.learned_parameters,
        rate=schedule.lr,
        passes=schedule.iterations,
        group=recipe.accumulate,
        classes=classes,
        pictures=drawn(recipe.ways),
        attribution=attribution(model),
    )
