"""The picture shows the plan as it is, and the ablation ends where the compiler does."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from helpers import model_path, needs_shared

from kilograd.frontend import load_model
from kilograd.ir import Leaf
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.report import (
    Bar,
    Estimate,
    Panel,
    Price,
    Section,
    Variant,
    ablation,
    comparison_table,
    learning,
    page,
    without,
)
from kilograd.report.chart import Curve, Point, chart, chart_alone
from kilograd.report.document import document
from kilograd.report.memory_map import Frame, Kind, draw, kind, peak_step
from kilograd.select import Budget
from kilograd.settings import Recipe

FRAME = Frame(900, 500, detail=True)
KINDS = {str(k) for k in Kind}

METHODS = ["last", "last:6", "full", "head"]


@functools.cache
def compiled(method: str, *, rows: bool = False, accumulate: int = 1) -> Compiled:
    recipe = Recipe(method, 5, rows=rows, accumulate=accumulate)
    return compile_recipe(load_model("digits"), recipe, Budget())


@functools.cache
def built(method: str) -> tuple[Variant, ...]:
    made = compiled(method)
    return ablation(made.model.graph, made.training)


def elements(svg: str) -> list[ET.Element]:
    return list(ET.fromstring(svg).iter())  # noqa: S314 our own


def rectangles(svg: str) -> dict[str, tuple[str, float, float, float, float]]:
    """Class, left, top, right, bottom by the first line of the title."""
    out = {}
    for e in elements(svg):
        if e.tag == "rect":
            x, y, w, h = (float(e.attrib[k]) for k in ("x", "y", "width", "height"))
            title = e.findtext("title") or ""
            out[title.partition("\n")[0]] = (e.attrib["class"], x, y, x + w, y + h)
    return out


# ---- the picture ----


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["step", "infer"])
def test_every_buffer_is_drawn_to_scale(method: str, name: str) -> None:
    program = compiled(method).program
    entry = program.entries[name]
    drawn = rectangles(draw(entry, program.state, FRAME))
    kept = {s.name for s in program.state}
    assert drawn.keys() == {b.name for b in entry.storage.buffers if b.size} | kept
    assert {what for what, *_ in drawn.values()} <= KINDS
    places = {s.name: (s.offset, s.value.nbytes) for s in program.state}
    for b in entry.storage.buffers:
        places[b.name] = (program.state_bytes + entry.plan.offsets[b.name], b.size)
    ground = max(bottom for *_, bottom in drawn.values())
    highest = max(at + size for at, size in places.values())
    scale = (ground - min(top for _, _, top, _, _ in drawn.values())) / highest
    assert scale * highest > FRAME.height / 2
    for buffer, (_, _, top, _, bottom) in drawn.items():
        at, size = places[buffer]
        assert ground - bottom == pytest.approx(at * scale, abs=0.03)
        assert bottom - top == pytest.approx(size * scale, abs=0.03)


@pytest.mark.parametrize("method", METHODS)
def test_no_two_rectangles_overlap(method: str) -> None:
    program = compiled(method).program
    shapes = list(rectangles(draw(program.entries["step"], program.state, FRAME)).values())
    for i, (_, left, top, right, bottom) in enumerate(shapes):
        assert left < right
        assert top < bottom
        for _, x0, y0, x1, y1 in shapes[i + 1 :]:
            apart = x1 <= left + 0.02 or right <= x0 + 0.02 or y1 <= top + 0.02
            assert apart or bottom <= y0 + 0.02


def test_the_picture_stays_inside_its_frame() -> None:
    program = compiled("full").program
    for detail in (True, False):
        svg = draw(program.entries["step"], program.state, replace(FRAME, detail=detail))
        for _, left, top, right, bottom in rectangles(svg).values():
            assert -0.02 <= left < right <= 900.02
            assert -0.02 <= top < bottom <= 500.02


def test_labels_do_not_touch_each_other() -> None:
    program = compiled("full").program
    boxes = []
    for e in elements(draw(program.entries["step"], program.state, FRAME)):
        if e.tag == "text" and e.text:
            x, y, wide, high = float(e.attrib["x"]), float(e.attrib["y"]), 5.0 * len(e.text), 8.0
            x -= {"start": 0.0, "middle": wide / 2, "end": wide}[e.attrib["text-anchor"]]
            if "transform" in e.attrib:  # upright
                x, wide, y, high = x + wide / 2 - 4, 8.0, y + wide / 2 - 4, wide
            boxes.append((x, y - high, x + wide, y, e.text))
    assert len(boxes) > 10
    for i, (x0, y0, x1, y1, text) in enumerate(boxes):
        for a0, b0, a1, b1, other in boxes[i + 1 :]:
            assert a1 <= x0 or x1 <= a0 or b1 <= y0 or y1 <= b0, (text, other)


def test_what_a_buffer_holds() -> None:
    program = compiled("full").program
    step = program.entries["step"]
    kinds = {b.name: kind(step, b) for b in step.storage.buffers}
    assert kinds["image"] is Kind.IMAGE
    assert kinds["label"] is Kind.OTHER
    assert all(kinds[name] is Kind.SCRATCH for name in step.storage.scratch.values())
    for n, name in step.storage.tensor.items():
        if str(n.op).startswith("ClipMask("):
            assert kinds[name] is Kind.MASK
        if str(n.op).startswith(("ConvInputGrad(", "DepthwiseInputGrad(")):
            assert kinds[name] is Kind.GRADIENT
    # In a full step every map is kept that some weight gradient reads; inference keeps none.
    assert Kind.SAVED in kinds.values()
    infer = program.entries["infer"]
    held = {kind(infer, b) for b in infer.storage.buffers}
    assert not held & {Kind.SAVED, Kind.GRADIENT, Kind.MASK, Kind.STATE}


def test_the_peak_is_where_the_most_bytes_are_alive() -> None:
    step = compiled("full").program.entries["step"]
    buffers = step.storage.buffers
    at = peak_step(buffers)
    assert sum(b.room for b in buffers if b.first <= at < b.last) == step.plan.bound
    svg = draw(step, (), FRAME)
    assert f"peak: {step.graph.nodes[at].name}" in svg
    assert not isinstance(step.graph.nodes[at].op, Leaf)


def test_a_budget_is_a_line_or_a_note() -> None:
    program = compiled("last").program
    step, need = program.entries["step"], program.sram_bytes
    near = draw(step, program.state, FRAME, budget=need + 100)
    far = draw(step, program.state, FRAME, budget=10 * need)
    assert ('class="budget"' in near, 'class="budget"' in far) == (True, False)
    assert "budget" in far
    assert "budget" not in draw(step, program.state, FRAME)


# ---- the page ----


def whole_page(method: str = "last") -> str:
    made = compiled(method)
    graph, program = made.model.graph, made.program
    others = without(graph, made.training)
    entry = program.entries["step"]
    return page("a <b> & c", program, entry, budget=65536, steps=built(method), without=others)


def test_a_page_stands_alone() -> None:
    html = whole_page()
    assert not re.search(r"https?:|<script|<link|<img|url\(|@import|src=", html)
    assert "a &lt;b&gt; &amp; c" in html
    assert "prefers-color-scheme: dark" in html
    assert html.count("<svg") == html.count("</svg>") == 7
    for v in built("last"):
        assert f"{compiled('last').program.state_bytes + v.step.plan.peak:,} B" in html
    assert html == whole_page()


def test_every_colour_is_defined_for_light_and_dark() -> None:
    style = whole_page().partition("<style>")[2].partition("</style>")[0]
    used = set(re.findall(r"var\(--(\w+)\)", style))
    light, _, dark = style.partition("@media (prefers-color-scheme: dark)")
    defined = [set(re.findall(r"--(\w+):", part.partition("}")[0])) for part in (light, dark)]
    assert used <= defined[0]
    assert used <= defined[1]


# ---- what each part saves ----


@pytest.mark.parametrize("method", METHODS)
def test_the_ablation_ends_with_the_program(method: str) -> None:
    step = compiled(method).program.entries["step"]
    assert built(method)[-1].step.plan.peak == step.plan.peak
    assert str(built(method)[-1].step.graph) == str(step.graph)


@pytest.mark.parametrize("method", METHODS)
def test_no_part_costs_memory(method: str) -> None:
    bounds = [v.step.plan.bound for v in built(method)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[-1]


def test_naive_keeps_the_gradients_of_all_parameters() -> None:
    """int32 for each parameter, all of them alive when the first is used."""
    infer = compiled("none").program.entries["infer"].graph
    every = 4 * sum(p.type.size for p in infer.params() if not p.name.startswith("head."))
    naive = built("last")[0].step
    update = next(i for i, n in enumerate(naive.graph.nodes) if n.op.writes)
    kept = sum(b.size for b in naive.storage.buffers if b.first <= update < b.last)
    assert every <= kept < 1.02 * every


def test_nothing_shares_memory_before_in_place() -> None:
    for v in built("full"):
        tensors = list(v.step.storage.tensor.values())
        shared = len(tensors) - len(set(tensors))
        assert (shared > 0) == (v.name not in {"naive", "+ pruned backward"})


def test_rows_are_the_last_part() -> None:
    made = compiled("last", rows=True)
    variants = ablation(made.model.graph, made.training)
    assert variants[-1].name == "+ image by rows"
    assert variants[-1].step.plan.peak == made.program.entries["step"].plan.peak
    assert [v.step.plan for v in variants[:-1]] == [v.step.plan for v in built("last")]
    others = without(made.model.graph, made.training)
    assert all(v.step.plan.bound >= variants[-1].step.plan.bound for v in others)


def test_a_cut_is_the_last_part_and_leaves_out_the_front() -> None:
    recipe = Recipe("last:6", 5, cache=1, accumulate=9, prototype_gradients=True)
    made = compile_recipe(load_model("digits"), recipe, Budget())
    variants = ablation(made.model.graph, made.training)
    assert variants[-1].name == "+ cache"
    assert variants[-1].step.plan.peak == made.program.entries["step"].plan.peak
    assert variants[-1].step.graph.macs() == made.program.macs("step")
    assert "image" in {n.name for n in variants[-2].step.graph.inputs()}
    assert "image" not in {n.name for n in variants[-1].step.graph.inputs()}
    for other in without(made.model.graph, made.training):
        assert other.step.graph.macs() >= made.program.macs("step"), other.name
        assert other.step.plan.peak >= made.program.entries["step"].plan.peak, other.name


def test_summed_gradients_can_be_taken_apart_too() -> None:
    made = compiled("last", accumulate=4)
    variants = ablation(made.model.graph, made.training)
    assert variants[-1].step.plan.peak == made.program.entries["step"].plan.peak


@pytest.mark.parametrize("method", METHODS)
def test_leaving_a_part_out_saves_nothing(method: str) -> None:
    made = compiled(method)
    ours = made.program.entries["step"]
    *others, planning = without(made.model.graph, made.training)
    assert len(others) == 5
    assert all(v.step.plan.bound >= ours.plan.bound for v in others)
    assert planning.step.plan.peak == sum(b.room for b in ours.storage.buffers)
    assert planning.step.plan.bound == ours.plan.bound


@needs_shared
@pytest.mark.parametrize("name", ["mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3"])
def test_published_networks_can_be_taken_apart(name: str) -> None:
    made = compile_recipe(load_model(str(model_path(name))), Recipe("sparse-49kb", 10), Budget())
    variants = ablation(made.model.graph, made.training)
    peaks = [v.step.plan.peak for v in variants]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] == made.program.entries["step"].plan.peak
    assert peaks[0] > 10 * peaks[-1]


# ---- what is foreign is text ----


def test_no_page_may_run_or_load_anything() -> None:
    """Said to the browser too, should an escape ever be forgotten."""
    text = document("<b>", "", ["<p>x</p>"])
    assert "<title>&lt;b&gt;</title>" in text
    assert "default-src 'none'; style-src 'unsafe-inline'" in text


def test_what_is_wide_scrolls_by_itself() -> None:
    text = document("wide", "", ["<svg viewBox='0 0 9 9'>", "</svg>", "<table></table>"])
    assert text.count('<div class="wide"><') == text.count("></div>") == 2


def test_names_are_no_markup_in_a_markdown_table() -> None:
    hostile = "a|b<img src=x>[c](d)`e\\"
    bars = (Bar(hostile, 1.0, Estimate(2.0, None), None),)
    section = Section(hostile, (Panel(hostile, 1, bars),) * 2, (Price(1, 2, 3),))
    title, _, head, rule, row, _ = comparison_table((section, section)).splitlines()[:6]
    bare = re.sub(r"\\.", "", head + row + title)
    assert not set("<[") & set(bare)
    assert re.sub(r"\\.", "", row).count("`") == 2
    assert {re.sub(r"\\.", "", line).count("|") for line in (head, rule, row)} == {8}


# ---- curves ----


def test_a_curve_is_drawn_where_its_numbers_are() -> None:
    """Positions against the grid, which is labelled with numbers of its own."""
    points = (Point(0, 10), Point(5, 30, half=4.0, says="five"), Point(10, 50))
    picture = ET.fromstring(chart_alone([Curve("a <b>", points)], "passes & more", "%"))  # noqa: S314 our own
    ns = "{http://www.w3.org/2000/svg}"
    labels = {
        (x.text, x.get("text-anchor")): (float(x.get("x", "")), float(x.get("y", "")))
        for x in picture.iter(f"{ns}text")
    }
    at = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in picture.iter(f"{ns}circle")]
    across = [labels[name, "middle"][0] for name in ("0", "10")]
    up = [labels[name, "end"][1] - 4 for name in ("10", "50")]
    middle = ((across[0] + across[1]) / 2, (up[0] + up[1]) / 2)
    assert at == [
        pytest.approx((across[0], up[0]), abs=0.11),
        pytest.approx(middle, abs=0.11),
        pytest.approx((across[1], up[1]), abs=0.11),
    ]
    (spread,) = [p for p in picture.iter(f"{ns}path") if "spread" in p.get("class", "")]
    ends = [float(x) for x in spread.get("d", "").split()[1].split("V")]
    ten = (up[0] - up[1]) / 4
    assert ends == pytest.approx([middle[1] + 0.4 * ten, middle[1] - 0.4 * ten], abs=0.11)
    assert "a <b>: five" in [t.text for t in picture.iter(f"{ns}title")]


def test_the_page_of_a_training_shows_every_pass() -> None:
    page = learning("<net>", 0.125, (0.5, 0.75), (1.25, 0.0625), 64)
    assert "<net>" not in page
    assert page.count("<circle") == 3
    for cells in (("0", "12.5", ""), ("1", "50.0", "1.250"), ("2", "75.0", "0.062")):
        assert "".join(f'<td class="n">{x}</td>' for x in cells) in page
    assert "64 images" in page


def test_one_point_is_a_picture_too() -> None:
    assert "<circle" in chart([Curve("one", (Point(3, 3),))], "x", "y")
