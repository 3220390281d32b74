"""The contribution analysis: an evaluation whose methods are the choices."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from kilograd.data import Dataset
from kilograd.errors import InputError, flag, option
from kilograd.frontend import Model
from kilograd.intervals import interval
from kilograd.ir import architecture, fingerprint
from kilograd.output import check_file, write_file
from kilograd.search import Contribution, Effort, Gain, Gains, choices, read_contribution
from kilograd.select import Evidence
from kilograd.settings import HeadKind, Settings
from kilograd.study.evaluate import Evaluation
from kilograd.study.work import Row


def check_contribution(out: Path, model: Model) -> Path:
    """Return the folder for the rows of an analysis that ends in the file `out`.

    Raises `InputError` if the file cannot be written, or must not be replaced: it is of another
    network, no analysis, or nothing is left of what it was made from.
    """
    rows = out.with_suffix(".rows")
    check_file(out, ".json", force=True)
    if out.exists():
        measured = replace(read_contribution(out), architecture=None)  # of these very weights
        measured.check(model.name, model.graph, model.layers, out)
        if not rows.exists():
            raise InputError(
                f"{option('out')} {out}: exists already, and {rows}, what it was made from, is "
                "gone; choose another file"
            )
    return rows


def analysis(
    model: Model, sets: tuple[Dataset, ...], episodes: int, settings: Settings
) -> Evaluation:
    """Return the evaluation that measures all choices: the head alone, then each of them.

    Raises `InputError` for fewer than two episodes, which say nothing of how sure a gain is.
    """
    if episodes < 2:
        raise InputError(f"{option('episodes')} {episodes}: must be at least 2, for an interval")
    methods = [_head(settings)]
    # From the last layer on: neighbours cut the network at the same place, and share what is kept.
    for bias, layer in zip(_biases(model), reversed(model.layers), strict=True):
        methods += [bias, *(m for choice, m in _weights(model).items() if choice[0] == layer)]
    return Evaluation(sets, (model,), tuple(methods), episodes, settings)


def contribution(asked: Evaluation, rows: Sequence[Row]) -> Contribution:
    """Return what the rows of an `analysis` say."""
    (model,) = asked.networks
    accuracy = {(r.data, r.episode, r.method): r.accuracy_after for r in rows}
    head = _head(asked.settings)

    def gains(data: str | None, names: Sequence[str]) -> Gains:
        tasks = [(name, e) for name in names for e in range(asked.episodes)]

        def gain(method: str) -> Gain:
            found = interval([accuracy[*t, method] - accuracy[*t, head] for t in tasks])
            return Gain(found.mean, found.half or 0.0)

        return Gains(
            data,
            len(tasks),
            interval([accuracy[*t, head] for t in tasks]).mean,
            tuple(map(gain, _biases(model))),
            {choice: gain(method) for choice, method in _weights(model).items()},
        )

    alone = next(r for r in rows if r.method == head)
    spent = {
        r.method: Effort(
            r.learned_parameters - alone.learned_parameters, r.backward_macs - alone.backward_macs
        )
        for r in rows
    }
    names = [d.name for d in asked.sets]
    settings = {flag(k): v for k, v in asked.settings.named().items()}
    return Contribution(
        model.name,
        fingerprint(model.graph),
        model.layers,
        settings,
        gains(None, names),
        tuple(gains(name, [name]) for name in names),
        size if isinstance(size := model.preprocess.size, int) else None,
        architecture(model.graph),
        {choice: spent[method] for choice, method in _weights(model).items()},
    )


def write_contribution(out: Path, found: Contribution) -> None:
    """Write a whole file or nothing, so that `read_contribution` reads it back.

    Raises `InputError` if the disk refuses.
    """
    write_file(out, json.dumps(found.to_json(), indent=1) + "\n")


def _head(settings: Settings) -> str:
    """Return the method that learns the head and nothing else."""
    return "none" if settings.recipe.head in {None, HeadKind.PROTO} else "head"


def _biases(model: Model) -> list[str]:
    return [f"bias:{k}" for k in range(1, len(model.layers) + 1)]


def _weights(model: Model) -> dict[tuple[str, float], str]:
    evidence = Evidence(model.name, model.graph, model.layers)
    return {
        (layer, share): f"weights:{model.layers.index(layer)}:{Fraction(share)}"
        for layer, share in choices(evidence)
    }
