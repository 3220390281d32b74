"""One HTML page about how accuracy came about, pass by pass."""

from __future__ import annotations

from collections.abc import Sequence

from kilograd.report.chart import CHART_STYLE, Curve, Point, chart
from kilograd.report.document import document
from kilograd.report.markup import escape


def learning(
    title: str, before: float, by_pass: Sequence[float], losses: Sequence[float], tested: int
) -> str:
    """Return the page: accuracies in 0 ... 1 on `tested` images, and the mean loss of each pass."""
    found = [before, *by_pass]
    points = (
        Point(i, 100 * a, says=f"{100 * a:.1f} % after {i} passes") for i, a in enumerate(found)
    )
    curve = Curve("accuracy, %", tuple(points))
    rows = "".join(
        f'<tr><td class="n">{i}</td><td class="n">{100 * a:.1f}</td><td class="n">{loss}</td></tr>'
        for i, (a, loss) in enumerate(zip(found, ["", *(f"{x:.3f}" for x in losses)], strict=True))
    )
    about = (
        f"Tested on the same {tested:,} images after each pass. Who chooses the best pass by this "
        "curve has learned from the test."
    )
    head = "".join(f'<th class="n">{x}</th>' for x in ("passes", "accuracy, %", "mean loss"))
    return document(
        f"{title}: pass by pass",
        CHART_STYLE,
        [
            f"<h1>{escape(title)}</h1>",
            f'<p class="soft">{about}</p>',
            chart([curve], "passes", "accuracy, %"),
            f"<table><tr>{head}</tr>{rows}</table>",
        ],
    )
