"""What an exported project is made from: a compiled program, and how it is trained."""

from __future__ import annotations

from dataclasses import replace

from kilograd.emit.application import Application
from kilograd.emit.pictures import Pictures, drawn
from kilograd.emit.waves import waves
from kilograd.frontend import Arrays, attribution
from kilograd.learn.automatic import suited_rate
from kilograd.learn.recipe import Compiled
from kilograd.settings import Schedule

_MORE_PASSES = 3
"""Over a few images, where something was learned before."""


def application(
    compiled: Compiled,
    schedule: Schedule | None = None,
    classes: tuple[str, ...] = (),
    pictures: Pictures | None = None,
) -> Application:
    """Return a program as an application: trained by `schedule` or as suits it, on drawn images.

    `classes` are the names of the classes in the order of their labels, if the program starts with
    what was learned; then there may be `pictures` of them in place of drawn ones.
    Raises `InputError` where a model folder does not say properly whose the network is.
    """
    usual = _MORE_PASSES if classes else Schedule().iterations
    schedule = schedule or Schedule(usual, suited_rate(compiled))
    model, recipe = compiled.model, compiled.recipe
    arrays = isinstance(model.preprocess.samples, Arrays)
    made_up = waves(recipe.ways, model.preprocess.shape) if arrays else drawn(recipe.ways)
    app = Application(
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
        pictures=pictures or made_up,
        attribution=attribution(model),
    )
    return app if app.trains or app.enrols else replace(app, pictures=app.pictures.tests_only)
