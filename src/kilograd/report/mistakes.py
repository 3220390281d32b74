"""One HTML page of arrays that are taken for something else: drawn small, as lines or in shades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kilograd.report.chart import CHART_STYLE
from kilograd.report.document import document
from kilograd.report.markup import escape

_Numbers = NDArray[np.floating]

_WIDTH, _HEIGHT, _EDGE = 300, 120, 4
_LINES = 8
"""Rows up to which each is a line; more are shades."""
_CELLS = 64
"""Columns and rows of shades at most: more are averaged."""
_SHADES = 12


@dataclass(frozen=True)
class Mistake:
    """A sample, real numbers [height, width, channels], what it is, and what it is taken for."""

    name: str
    label: str
    said: str
    sample: _Numbers


def mistakes(title: str, shown: Sequence[Mistake], wrong: int, tested: int) -> str:
    """Return the page: some of `wrong` samples of so many that were tested."""
    some = f"the first {len(shown)} of them" if len(shown) < wrong else "all of them"
    about = (
        f"{wrong:,} of {tested:,} test samples are wrong after learning; here are {some}. "
        "The longest axis goes to the right; low and high are real numbers."
    )
    return document(
        f"{title}: what is wrong",
        CHART_STYLE + "svg .shade { fill: var(--ink); stroke: none; }",
        [
            f"<h1>{escape(title)}</h1>",
            f'<p class="soft">{about}</p>',
            '<div class="others">',
            *map(_shown, shown),
            "</div>",
        ],
    )


def _shown(one: Mistake) -> str:
    low, high = float(one.sample.min()), float(one.sample.max())
    return (
        f"<div><h3>{escape(one.label)}, taken for {escape(one.said)}</h3>"
        f'<p class="soft">{escape(one.name)}: {low:.4g} to {high:.4g}</p>'
        f"{sketch(one.sample)}</div>"
    )


def sketch(sample: _Numbers) -> str:
    """Return a small picture of an array as one <svg> element."""
    rows = _rows(sample.astype(np.float64))
    low, high = rows.min(), rows.max()
    level = (rows - low) / (high - low) if high > low else np.full_like(rows, 0.5)
    inside = _lines(level) if len(rows) <= _LINES else _shades(level)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{len(rows)} rows of {rows.shape[1]} numbers">{inside}</svg>'
    )


def _rows(sample: _Numbers) -> _Numbers:
    """Return an array as rows along its longest axis, not more than can be seen."""
    rows = np.moveaxis(sample, int(np.argmax(sample.shape)), -1)
    rows = rows.reshape(-1, rows.shape[-1])
    if len(rows) > _LINES:
        rows = _averaged(_averaged(rows).T).T
    return rows


def _averaged(x: _Numbers) -> _Numbers:
    """Return the means of neighbours along the first axis, so that few are left."""
    if len(x) <= _CELLS:
        return x
    return np.stack([part.mean(axis=0) for part in np.array_split(x, _CELLS)])


def _lines(level: _Numbers) -> str:
    across = np.linspace(_EDGE, _WIDTH - _EDGE, level.shape[1])
    down = _HEIGHT - _EDGE - level * (_HEIGHT - 2 * _EDGE)
    paths = (
        f'<path class="curve c{i}" d="M'
        + "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(across, row, strict=True))
        + '"/>'
        for i, row in enumerate(down)
    )
    return "".join(paths)


def _shades(level: _Numbers) -> str:
    high, wide = _HEIGHT / level.shape[0], _WIDTH / level.shape[1]
    steps = np.rint(level * _SHADES).astype(int)
    cells = (
        f'<rect class="shade" x="{x * wide:.1f}" y="{y * high:.1f}" width="{wide + 0.3:.1f}" '
        f'height="{high + 0.3:.1f}" fill-opacity="{step / _SHADES:.2f}"/>'
        for (y, x), step in np.ndenumerate(steps)
        if step
    )
    return "".join(cells)
