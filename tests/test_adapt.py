"""The main job, on a small network and pictures of discs: it learns, repeats, and writes."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import (
    CLASSES,
    FEATURES,
    LAYERS,
    SIZE,
    contents,
    listing,
    replace_tensors,
    write_model,
    write_pictures,
)
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from kilograd import api
from kilograd.data import Augment, Dataset, Episode, augmented, load_dataset, sample_episode
from kilograd.errors import InputError
from kilograd.frontend import Model, load_model
from kilograd.ir import Array, architecture
from kilograd.learn.adapt import RESULT_FILES, Outcome, load_task, save, train
from kilograd.learn.adapted import ADAPTED, RESULT
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.learn.samples import Samples
from kilograd.learn.training import adapted_tensors, enrol, fit, load_samples, predict
from kilograd.learn.views import within
from kilograd.output import check_out
from kilograd.progress import Progress, silent
from kilograd.select import ARCHITECTURES, PLANS, Budget, UpdatePlan
from kilograd.settings import HeadKind, OptimizerKind, Recipe, Schedule
from kilograd.targets import HostProgram, build_host

WAYS, SHOTS, QUERIES = len(CLASSES), 3, 9
HEADS = pytest.mark.parametrize("head", HeadKind)
OPTIMIZERS = pytest.mark.parametrize("optimizer", OptimizerKind)
ACCUMULATE = pytest.mark.parametrize("accumulate", [1, 4])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(write_model(tmp_path_factory.mktemp("models") / "small", seed=3)))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("pictures") / "discs"
    return load_dataset(write_pictures(folder, count=SHOTS + QUERIES))


@pytest.fixture(scope="module")
def episode(dataset: Dataset) -> Episode:
    return sample_episode(dataset, ways=None, shots=SHOTS, queries=QUERIES, seed=0)


@pytest.fixture(scope="module", autouse=True)
def plan_for_small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A plan that learns a part of a pointwise and of a depthwise layer, and three biases."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PLANS, "small", {"1kb": UpdatePlan(3, (4, 5), (0.5, 0.25))})
        folder = write_model(tmp_path_factory.mktemp("small") / "small")
        patch.setitem(ARCHITECTURES, architecture(load_model(str(folder)).graph), "small")
        yield


def adapt(
    compiled: Compiled,
    dataset: Dataset,
    episode: Episode,
    schedule: Schedule,
    progress: Progress = silent,
    passes: int | None = None,
) -> Outcome:
    task = load_task(dataset, episode, compiled.model.preprocess)
    return train(compiled, task, schedule, progress, passes)


def compiled_as(
    model: Model,
    method: str = "last:3",
    head: HeadKind | None = None,
    optimizer: OptimizerKind = OptimizerKind.ROWRMS,
    accumulate: int = 1,
    **more: Any,
) -> Compiled:
    recipe = Recipe(method, WAYS, head, optimizer, accumulate, **more)
    return compile_recipe(model, recipe, Budget())


def support_of(dataset: Dataset, episode: Episode, model: Model) -> Samples:
    return load_samples(dataset, episode.support, episode.support_labels, model.preprocess)


def same(a: dict[str, Array], b: dict[str, Array]) -> bool:
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and a[n].tobytes() == b[n].tobytes()
        for n in a
    )


# ---- it learns ----

#: Rates that suit the network, by head and optimiser; four samples an update bear more.
RATES = {
    ("proto", "sgd"): 0.05,
    ("proto", "momentum"): 0.003,
    ("proto", "rowrms"): 0.01,
    ("proto", "adam"): 0.01,
    ("linear", "sgd"): 0.2,
    ("linear", "momentum"): 0.02,
    ("linear", "rowrms"): 0.01,
    ("linear", "adam"): 0.01,
    ("int8", "sgd"): 0.2,
    ("int8", "momentum"): 0.03,
    ("int8", "rowrms"): 0.01,
    ("int8", "adam"): 0.01,
}


@HEADS
@OPTIMIZERS
@ACCUMULATE
def test_learns_an_easy_task(
    model: Model,
    dataset: Dataset,
    episode: Episode,
    head: HeadKind,
    optimizer: OptimizerKind,
    accumulate: int,
) -> None:
    compiled = compiled_as(model, "full", head, optimizer, accumulate)
    rate = RATES[str(head), str(optimizer)] * (1 if accumulate == 1 else 2)
    outcome = adapt(compiled, dataset, episode, Schedule(30, rate, Augment.NONE))
    summary, size = outcome.summary, WAYS * SHOTS
    assert len(outcome.losses) == 30 * size
    assert np.mean(outcome.losses[-size:]) < 0.95 * math.log(WAYS)
    assert np.mean(outcome.losses[-size:]) < np.mean(outcome.losses[:size])
    assert summary.accuracy_after >= summary.accuracy_before + 0.1
    if head is not HeadKind.PROTO:
        assert summary.accuracy_before == 1 / WAYS, "a head of zeros says one class of everything"
        assert outcome.losses[0] == pytest.approx(math.log(WAYS), rel=1e-6)


def test_head_alone_learns(model: Model, dataset: Dataset, episode: Episode) -> None:
    compiled = compiled_as(model, "head", optimizer=OptimizerKind.ADAM)
    outcome = adapt(compiled, dataset, episode, Schedule(30, 0.03, Augment.NONE))
    assert outcome.summary.accuracy_after > 1 / WAYS
    assert outcome.tensors.keys() == {"head.weight", "head.bias"}
    assert compiled.learned_parameters == WAYS * FEATURES + WAYS


def test_none_learns_nothing(model: Model, dataset: Dataset, episode: Episode) -> None:
    outcome = adapt(compiled_as(model, "none"), dataset, episode, Schedule(3))
    assert outcome.losses == ()
    assert outcome.tensors.keys() == {"head.prototypes"}
    assert outcome.summary.accuracy_before == outcome.summary.accuracy_after
    assert outcome.summary.macs_step == outcome.summary.learned_parameters == 0


@HEADS
@ACCUMULATE
def test_no_iterations_leave_everything_as_it_was(
    model: Model, dataset: Dataset, episode: Episode, head: HeadKind, accumulate: int
) -> None:
    compiled = compiled_as(model, "full", head, accumulate=accumulate)
    outcome = adapt(compiled, dataset, episode, Schedule(0))
    assert outcome.losses == ()
    assert outcome.summary.accuracy_before == outcome.summary.accuracy_after
    file = load_file(model.path / "model.safetensors")
    network = {n: v for n, v in outcome.tensors.items() if not n.startswith("head.")}
    assert same(network, {n: file[n] for n in network})
    assert network.keys() == {f"{x}.{kind}" for x in LAYERS for kind in ("weight", "bias")}
    if head is not HeadKind.PROTO:
        assert not outcome.tensors["head.weight"].any()


# ---- it repeats ----


@HEADS
@ACCUMULATE
def test_same_seed_same_bits(
    model: Model, dataset: Dataset, episode: Episode, head: HeadKind, accumulate: int
) -> None:
    compiled = compiled_as(model, "sparse-1kb", head, accumulate=accumulate)

    def run(seed: int) -> Outcome:
        return adapt(compiled, dataset, episode, Schedule(4, 0.02, Augment.FULL, seed))

    one, again, other = run(5), run(5), run(6)
    assert one.losses == again.losses
    assert one.predictions == again.predictions
    assert same(dict(one.tensors), dict(again.tensors))
    assert one.losses != other.losses
    assert not same(dict(one.tensors), dict(other.tensors))


def test_seed_decides_the_rounding_too(model: Model, dataset: Dataset, episode: Episode) -> None:
    """Also where the order of the samples cannot differ: one sample, one step."""
    support = support_of(dataset, episode, model)
    one = support.part(np.arange(len(support.labels)) < 1)
    compiled = compiled_as(model, "full", optimizer=OptimizerKind.SGD)

    def run(seed: int) -> dict[str, Array]:
        host = build_host(compiled.program)
        enrol(host, support)
        clock = np.array([seed, 0], np.int32)
        rate = np.array([0.3], np.float32)
        host.call("step", image=one.images[0], label=one.labels[0], lr=rate, clock=clock)
        return adapted_tensors(compiled, host)

    assert same(run(1), run(1))
    assert not same(run(1), run(2))


# ---- what one pass does ----


class Recorder:
    """Stands between the loop and the program, and notes every call."""

    def __init__(self, host: HostProgram, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        call = host.call

        def note(entry: str, **inputs: Any) -> dict[str, Array]:
            self.calls.append((entry, inputs))
            return call(entry, **inputs)

        patch.setattr(host, "call", note)

    def of(self, entry: str, value: str) -> list[Any]:
        return [inputs[value] for name, inputs in self.calls if name == entry]


@pytest.mark.parametrize("accumulate", [1, 5, 12, 100])
def test_every_pass_sees_every_sample_once(
    model: Model,
    dataset: Dataset,
    episode: Episode,
    monkeypatch: pytest.MonkeyPatch,
    accumulate: int,
) -> None:
    compiled = compiled_as(model, accumulate=accumulate)
    support, size = support_of(dataset, episode, model), WAYS * SHOTS
    host = build_host(compiled.program)
    calls = Recorder(host, monkeypatch)
    seen: list[tuple[int, float]] = []
    schedule = Schedule(3, 0.01, Augment.NONE, seed=9)
    losses = fit(host, compiled, support, schedule, lambda *at: seen.append(at))
    steps = calls.of("step", "image")
    keys = [image.tobytes() for image in support.images]
    orders = [
        tuple(keys.index(x.tobytes()) for x in steps[i * size : (i + 1) * size]) for i in range(3)
    ]
    assert all(sorted(order) == list(range(size)) for order in orders)
    assert len(set(orders)) == 3, "the order of the samples is drawn anew"
    labels = calls.of("step", "label")
    assert labels == [support.labels[i] for order in orders for i in order]
    assert [done for done, _ in seen] == list(range(1, 3 * size + 1))
    assert all(min(losses) <= loss <= max(losses) for _, loss in seen)
    # prototypes are made anew before each pass
    names = [name for name, _ in calls.calls if name != "apply"]
    assert names == (["forget"] + ["enrol"] * size + ["step"] * size) * 3
    # the rate falls along a cosine; each update has a clock of its own, and averages its samples
    update = "step" if accumulate == 1 else "apply"
    ends = [min(i + accumulate, size) for i in range(0, size, accumulate)]
    done = np.add.outer(np.arange(3) * size, np.array(ends) - 1).ravel()
    cosine = 0.01 * 0.5 * (1 + np.cos(np.pi * done / (3 * size)))
    rates = np.ravel(calls.of(update, "lr"))
    np.testing.assert_allclose(rates, cosine, rtol=1e-6)
    if accumulate > 1:
        averaged = np.diff([0, *ends])
        shares = np.tile(np.repeat(1 / averaged, averaged), 3)
        np.testing.assert_allclose(np.ravel(calls.of("step", "share")), shares, rtol=1e-6)
    clocks = [tuple(x.tolist()) for x in calls.of(update, "clock")]
    assert clocks == [(9, i) for i in range(len(done))]


@pytest.mark.parametrize("accumulate", [4, 100])
def test_accumulation_averages(
    model: Model, dataset: Dataset, episode: Episode, accumulate: int
) -> None:
    """At a head of zeros the gradient of the bias is 1/ways - [label], whatever the image."""
    compiled = compiled_as(model, "head", HeadKind.LINEAR, OptimizerKind.SGD, accumulate)
    support = support_of(dataset, episode, model)
    four = Samples(np.stack([*support.images][:4]), np.array([0, 0, 0, 2], np.int32))
    host = build_host(compiled.program)
    fit(host, compiled, four, Schedule(1, 0.5, Augment.NONE))
    rate = Schedule(1, 0.5).rate(3 / 4)
    mean = 1 / WAYS - np.array([3, 0, 1, 0]) / 4
    np.testing.assert_allclose(host.state["head.bias"], -rate * mean, rtol=1e-5)
    assert host.state["head.weight"].any()
    assert not host.state["head.weight.sum"].any(), "the sum starts anew after an update"


def test_the_rate_warms_up() -> None:
    """Ten passes, of which four are warm-up: a quarter of the rate after each, then a cosine."""
    schedule = Schedule(10, 0.4, warmup=4)
    rates = [schedule.rate(done / 10) for done in (0, 1, 2, 3, 4, 7, 10)]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4, 0.2, 0], atol=1e-12)
    plain = Schedule(10, 0.4)
    assert plain.rate(0) == 0.4
    first = np.float32(rates[0])
    assert 0 < first < 1e-37, "programs refuse a rate of zero"
    assert first == np.finfo(np.float32).tiny, (
        "denormal numbers are slow, and flushed on some boards"
    )
    assert plain.rate(0.5) == pytest.approx(0.2)
    for warmup in (-1, 10, 11):
        with pytest.raises(InputError, match=f"warmup {warmup}: must be in 0 ... 9"):
            Schedule(10, 0.4, warmup=warmup)
    assert Schedule(0).rate(0) > 0


# ---- latents that are kept ----


@HEADS
@ACCUMULATE
@pytest.mark.parametrize("method", ["last:3", "bias:2", "sparse-1kb"])
def test_a_cache_changes_nothing_without_views(
    model: Model,
    dataset: Dataset,
    episode: Episode,
    head: HeadKind,
    accumulate: int,
    method: str,
) -> None:
    schedule = Schedule(4, 0.02, Augment.NONE, seed=3)

    def run(cache: int) -> Outcome:
        compiled = compiled_as(model, method, head, accumulate=accumulate, cache=cache)
        return adapt(compiled, dataset, episode, schedule)

    plain, cached, more = run(0), run(1), run(3)
    assert plain.losses == cached.losses == more.losses
    assert plain.predictions == cached.predictions
    assert same(dict(plain.tensors), dict(cached.tensors))
    assert plain.summary.changed_parameters, "something was learned"
    assert cached.summary.macs_training < plain.summary.macs_training
    assert cached.summary.cache_bytes == more.summary.cache_bytes, "the image is its only view"


@HEADS
def test_a_cache_keeps_so_many_views(
    model: Model,
    dataset: Dataset,
    episode: Episode,
    monkeypatch: pytest.MonkeyPatch,
    head: HeadKind,
) -> None:
    """The prefix runs for each view once; views take turns; prototypes are of the plain images."""
    compiled = compiled_as(model, "last:3", head, cache=2)
    host, size = build_host(compiled.program), WAYS * SHOTS
    calls = Recorder(host, monkeypatch)
    fit(host, compiled, support_of(dataset, episode, model), Schedule(4, 0.01, seed=1))
    kept = 2 + (head is HeadKind.PROTO)
    names = [name for name, _ in calls.calls]
    assert names.count("prefix") == kept * size == names[: kept * size].count("prefix")
    (latent,) = (n.name for n in compiled.program.entries["prefix"].graph.outputs)
    steps = [x.tobytes() for x in calls.of("step", latent)]
    turns = [set(steps[i * size : (i + 1) * size]) for i in range(4)]
    assert turns[0] == turns[2] != turns[1] == turns[3]
    assert calls.of("step", "label") != sorted(calls.of("step", "label")), "in a random order"
    shown = calls.of("prefix", "image")
    plain = [host.call("prefix", image=x)[latent].tobytes() for x in shown[:size]]
    assert [x.tobytes() for x in calls.of("enrol", latent)] == (plain * 4 if kept == 3 else [])


@HEADS
@pytest.mark.parametrize(("cache", "augment"), [(0, "full"), (2, "full"), (2, "none")])
@pytest.mark.parametrize("passes", [None, 1, 0])
def test_all_the_work_of_training(
    model: Model,
    dataset: Dataset,
    episode: Episode,
    monkeypatch: pytest.MonkeyPatch,
    head: HeadKind,
    cache: int,
    augment: str,
    passes: int | None,
) -> None:
    """What the summary says equals what was called."""
    compiled = compiled_as(model, "last:3", head, cache=cache)
    schedule = Schedule(3, 0.01, Augment(augment))
    host, program = build_host(compiled.program), compiled.program
    calls = Recorder(host, monkeypatch)
    fit(host, compiled, support_of(dataset, episode, model), schedule, passes=passes)
    made = sum(program.macs(name) for name, _ in calls.calls)
    latents = [name for name, _ in calls.calls].count("prefix")
    s = adapt(compiled, dataset, episode, schedule, passes=passes).summary
    assert (s.macs_training, s.cache_bytes) == (made, latents * s.latent_bytes)
    assert (s.latent_bytes > 0) == (s.macs_prefix > 0) == (cache > 0)


@HEADS
@pytest.mark.parametrize("cache", [0, 2])
def test_a_test_after_each_pass_says_what_less_training_would_have_brought(
    model: Model, dataset: Dataset, episode: Episode, head: HeadKind, cache: int
) -> None:
    """As many trainings, each ended a pass later; and the tests leave no trace."""
    compiled = compiled_as(model, "last:3", head, cache=cache)
    plain = Schedule(4, 0.03, warmup=1)
    watched = dataclasses.replace(plain, test_each_pass=True)
    tested = adapt(compiled, dataset, episode, watched)
    ended = [adapt(compiled, dataset, episode, plain, passes=n) for n in (1, 2, 3, 4)]
    by_pass = tested.summary.accuracy_by_pass
    assert by_pass == tuple(x.summary.accuracy_after for x in ended)
    assert len(set(by_pass)) > 1 or head is not HeadKind.PROTO
    assert tested.losses == ended[-1].losses
    assert tested.tested == ended[-1].tested
    assert all(np.array_equal(v, ended[-1].tensors[k]) for k, v in tested.tensors.items())
    assert ended[-1].summary.accuracy_by_pass == ()
    short = adapt(
        compiled, dataset, episode, dataclasses.replace(plain, test_each_pass=True), passes=2
    )
    assert short.summary.accuracy_by_pass == by_pass[:2]


@HEADS
@pytest.mark.parametrize("augment", [Augment.FULL, Augment.NONE])
def test_as_many_views_as_fit(
    model: Model, dataset: Dataset, episode: Episode, head: HeadKind, augment: Augment
) -> None:
    """What is kept is within the limit, and one view more would not be."""
    compiled = compiled_as(model, "last:3", head, cache=1)
    size = WAYS * SHOTS * compiled.latent_bytes
    plain = head is HeadKind.PROTO and augment is not Augment.NONE
    least = (1 + plain) * size
    with pytest.raises(InputError, match=f"smallest cache_bytes that fits is {least}$"):
        within(least - 1, compiled, WAYS * SHOTS, augment, 9)
    for limit, views in ((least, 1), (least + size - 1, 1), (least + size, 2), (99 * size, 9)):
        made = within(limit, compiled, WAYS * SHOTS, augment, 9)
        assert made.recipe.cache == views
        kept = adapt(made, dataset, episode, Schedule(9, 0.01, augment), passes=1).summary
        assert kept.cache_bytes == (size if augment is Augment.NONE else (views + plain) * size)
        assert kept.cache_bytes <= limit
    assert within(least, compiled, WAYS * SHOTS, augment, 0).recipe.cache == 1
    nothing = compiled_as(model, "none", cache=1)
    assert within(0, nothing, WAYS * SHOTS, augment, 9) is nothing


def test_what_can_not_be_cached(model: Model, dataset: Dataset, episode: Episode) -> None:
    with pytest.raises(
        InputError, match="cache 1: method full on small learns from the first layer"
    ):
        api.plan(model.path, "full", WAYS, cache=1)
    with pytest.raises(InputError, match="cache -1: must not be negative"):
        compiled_as(model, "last", cache=-1)


def test_views_take_turns_where_the_first_layer_learns(
    model: Model, dataset: Dataset, episode: Episode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison shows a method that leaves no prefix the same views as the others."""
    seen: list[set[bytes]] = []
    for method in ("full", "last:3"):
        compiled = compiled_as(model, method, cache=2)
        host = build_host(compiled.program)
        calls = Recorder(host, monkeypatch)
        fit(host, compiled, support_of(dataset, episode, model), Schedule(4))
        entry = "step" if method == "full" else "prefix"
        seen.append({x["image"].tobytes() for name, x in calls.calls if name == entry})
    assert len(seen[0]) == 2 * WAYS * SHOTS, "views of a pass come again"
    assert seen[0] < seen[1], "which has the images as they are, too"


# ---- gradients through prototypes ----


def test_gradients_of_prototypes_come_last_in_a_pass(
    model: Model, dataset: Dataset, episode: Episode, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = compiled_as(model, accumulate=100, prototype_gradients=True)
    host, size = build_host(compiled.program), WAYS * SHOTS
    calls = Recorder(host, monkeypatch)
    support = support_of(dataset, episode, model)
    fit(host, compiled, support, Schedule(2, 0.01))
    names = [name for name, _ in calls.calls]
    turn = ["forget", *["enrol"] * size, *["step"] * size, *["enrol_grad"] * size, "apply"]
    assert names == turn * 2
    for entry in ("enrol", "enrol_grad"):
        assert all(
            np.array_equal(x, y)
            for x, y in zip(calls.of(entry, "image"), [*support.images] * 2, strict=True)
        ), "as they are, not augmented"
        assert calls.of(entry, "label") == [*support.labels] * 2
    assert not np.array_equal(np.stack(calls.of("step", "image")[:size]), [*support.images])


def test_gradients_of_prototypes_change_what_is_learned(
    model: Model, dataset: Dataset, episode: Episode
) -> None:
    """From the second update on: and with a cache the same as without one."""

    def run(*, exact: bool, cache: int = 0) -> Outcome:
        compiled = compiled_as(model, accumulate=100, prototype_gradients=exact, cache=cache)
        return adapt(compiled, dataset, episode, Schedule(3, 0.02, Augment.NONE))

    detached, exact, cached = run(exact=False), run(exact=True), run(exact=True, cache=1)
    size = WAYS * SHOTS
    assert detached.losses[:size] == exact.losses[:size]
    assert detached.losses[size:] != exact.losses[size:]
    assert exact.losses == cached.losses
    assert same(dict(exact.tensors), dict(cached.tensors))
    more = exact.summary.macs_training - detached.summary.macs_training
    assert more > 3 * size * exact.summary.macs_forward, "a further forward and backward pass"


def test_where_prototypes_have_no_gradients(
    model: Model, dataset: Dataset, episode: Episode
) -> None:
    with pytest.raises(InputError, match="prototype_gradients: needs one update for the whole"):
        compiled_as(model, prototype_gradients=True)
    with pytest.raises(InputError, match="prototype_gradients: a linear head has no prototypes"):
        compiled_as(model, head=HeadKind.LINEAR, accumulate=9, prototype_gradients=True)
    few = compiled_as(model, accumulate=WAYS * SHOTS - 1, prototype_gradients=True)
    with pytest.raises(InputError, match="support of 12 images, but accumulate is 11"):
        adapt(few, dataset, episode, Schedule(1))
    none = compiled_as(model, "none", accumulate=9, prototype_gradients=True)
    assert none.program.entries.keys() == {"infer", "enrol", "forget"}


# ---- what it costs ----


@HEADS
@OPTIMIZERS
@ACCUMULATE
@pytest.mark.parametrize("method", ["last", "bias:3", "sparse-1kb"])
def test_figures_agree(
    model: Model, head: HeadKind, optimizer: OptimizerKind, accumulate: int, method: str
) -> None:
    compiled = compiled_as(model, method, head, optimizer, accumulate)
    program = compiled.program
    assert program.sram_bytes == program.arena_bytes + program.state_bytes
    assert program.sram_lower_bound_bytes <= program.sram_bytes
    assert program.sram_proved_optimal == (program.sram_lower_bound_bytes == program.sram_bytes)
    elements = {  # by bytes each
        "last": {1: 24 * FEATURES},
        "bias:3": {4: 24 + 24 + FEATURES},
        "sparse-1kb": {1: 24 * 4 + 25 * 6, 4: 24 + 24 + FEATURES},
    }[method]
    biases = 24 + 24 + FEATURES  # each a row of its own
    rows = {"last": FEATURES, "bias:3": biases, "sparse-1kb": 24 + 6 + biases}[method]
    learned, kept = sum(elements.values()), sum(k * n for k, n in elements.items())
    if head is not HeadKind.PROTO:
        learned += WAYS * FEATURES + WAYS
        kept += (1 if head is HeadKind.INT8 else 4) * WAYS * FEATURES + 4 * WAYS
        rows += WAYS + WAYS
    else:
        kept += 4 * WAYS * FEATURES
    assert compiled.learned_parameters == learned
    states = {"sgd": 0, "momentum": learned, "rowrms": rows, "adam": 2 * learned}[str(optimizer)]
    sums = 0 if accumulate == 1 else learned
    assert sum(s.value.nbytes for s in program.state) == kept + 4 * (states + sums)


def test_summary_says_what_was_done(model: Model, dataset: Dataset, episode: Episode) -> None:
    compiled = compiled_as(model, "last:3")
    program = compiled.program
    outcome = adapt(compiled, dataset, episode, Schedule(2, 0.01))
    s = outcome.summary
    assert (s.ways, s.shots, s.queries, s.iterations) == (WAYS, SHOTS, QUERIES, 2)
    assert (s.sram_bytes, s.flash_bytes) == (program.sram_bytes, program.flash_bytes)
    assert s.sram_lower_bound_bytes == program.sram_lower_bound_bytes
    assert s.sram_proved_optimal is program.sram_proved_optimal
    assert s.learned_parameters == compiled.learned_parameters
    assert s.macs_forward == program.macs("infer") < s.macs_step == program.macs("step")
    right = np.array(outcome.predictions) == np.array(episode.query_labels)
    assert s.accuracy_after == right.mean()
    assert len(outcome.predictions) == WAYS * QUERIES
    assert s.seconds > 0
    kinds = {f.name: type(getattr(s, f.name)).__name__ for f in dataclasses.fields(s)}
    told = {f.name: re.split(r"\[| \|", str(f.type))[0] for f in dataclasses.fields(s)}
    assert kinds == told, "plain values, for json"


# ---- what it writes ----


@pytest.mark.parametrize("method", ["last", "last:2", "bias:4", "full", "sparse-1kb"])
@HEADS
def test_adapted_tensors_fit_the_model_folder(
    model: Model,
    dataset: Dataset,
    episode: Episode,
    tmp_path: Path,
    method: str,
    head: HeadKind,
) -> None:
    compiled = compiled_as(model, method, head)
    support = support_of(dataset, episode, model)
    query = load_samples(dataset, episode.query, episode.query_labels, model.preprocess)
    host = build_host(compiled.program)
    fit(host, compiled, support, Schedule(3, 0.02))
    enrol(host, support)
    tensors = adapted_tensors(compiled, host)

    # whole tensors, in the layout of the file, different only where something learned
    file = load_file(model.path / "model.safetensors")
    network = {n: v for n, v in tensors.items() if not n.startswith("head.")}
    assert network.keys() == compiled.training.learn.keys()
    for name, part in compiled.training.learn.items():
        now, before = network[name], file[name]
        assert (now.dtype, now.shape) == (before.dtype, before.shape)
        assert (now != before).any(), f"{name} did not learn"
        assert np.abs(now.astype(np.int64)).max() <= (127 if now.dtype == np.int8 else 2**31 - 1)
        if part.index is not None:
            depthwise = before.shape[1] == 1 and before.ndim == 4
            changed = np.flatnonzero(
                (now != before).any(axis=(1, 2, 3) if depthwise else (0, 2, 3))
            )
            assert set(changed.tolist()) <= set(part.index)

    # a network made with them is the network that learned
    copy = tmp_path / "small"
    shutil.copytree(model.path, copy)
    replace_tensors(copy, network)
    reloaded = load_model(str(copy))
    plain = Recipe("none" if head is HeadKind.PROTO else "head", WAYS, head)
    fresh = build_host(compile_recipe(reloaded, plain, Budget()).program)
    for name, value in tensors.items():
        if name.startswith("head."):
            fresh.state[name][...] = value
    for image in query.images:
        logits = fresh.call("infer", image=image)["logits"]
        assert logits.tobytes() == host.call("infer", image=image)["logits"].tobytes()
    assert predict(fresh, query.images).tolist() == predict(host, query.images).tolist()
    if head is HeadKind.PROTO:  # the prototypes are those of the network that learned
        enrol(fresh, support)
        assert fresh.state["head.prototypes"].tobytes() == tensors["head.prototypes"].tobytes()


def test_prototypes_and_predictions_are_of_the_network_that_learned(
    model: Model, dataset: Dataset, episode: Episode, tmp_path: Path
) -> None:
    outcome = adapt(compiled_as(model, "full"), dataset, episode, Schedule(2, 0.02))
    copy = tmp_path / "small"
    shutil.copytree(model.path, copy)
    replace_tensors(copy, {n: v for n, v in outcome.tensors.items() if n[:5] != "head."})
    again = adapt(compiled_as(load_model(str(copy)), "none"), dataset, episode, Schedule(0))
    assert same(dict(again.tensors), {"head.prototypes": outcome.tensors["head.prototypes"]})
    assert again.predictions == outcome.predictions
    assert again.summary.accuracy_before == outcome.summary.accuracy_after


@pytest.fixture(scope="module")
def finished(model: Model, dataset: Dataset, episode: Episode) -> tuple[Compiled, Episode, Outcome]:
    compiled = compiled_as(model, "sparse-1kb")
    return compiled, episode, adapt(compiled, dataset, episode, Schedule(2, 0.02))


Finished = tuple[Compiled, Episode, Outcome]


def test_saved_files(tmp_path: Path, finished: Finished, dataset: Dataset) -> None:
    _, episode, outcome = finished
    out = tmp_path / "deep" / "inside" / "run"
    save(out, finished[2])
    assert {p.name for p in out.iterdir()} == {
        "adapted.safetensors",
        "episode.json",
        "network",
        "result.json",
    }
    assert listing(out.parent) == ["run"]
    umask = os.umask(0)
    os.umask(umask)
    assert out.stat().st_mode & 0o777 == 0o777 & ~umask, "others may look, as into any new folder"
    assert {p.stat().st_mode & 0o777 for p in out.rglob("*") if p.is_file()} == {0o666 & ~umask}
    assert same(load_file(out / "adapted.safetensors"), dict(outcome.tensors))
    with safe_open(out / "adapted.safetensors", "numpy") as file:
        assert file.metadata() == {"model": "small"}
    assert Episode.from_json((out / "episode.json").read_text()) == episode
    result = json.loads((out / "result.json").read_text())
    summary = json.loads(json.dumps(dataclasses.asdict(outcome.summary)))
    assert {k: result[k] for k in summary} == summary
    assert result["model"] == "small"
    assert (result["method"], result["head"], result["optimizer"], result["accumulate"]) == (
        *("sparse-1kb", "proto", "rowrms", 1),
    )
    assert (result["dataset"], tuple(result["classes"])) == (dataset.name, episode.classes)
    assert tuple(result["losses"]) == outcome.losses
    assert tuple(result["predictions"]) == outcome.predictions


def test_saving_replaces_the_old_results(tmp_path: Path, finished: Finished) -> None:
    out = tmp_path / "run"
    save(out, finished[2])
    (out / "more.txt").write_text("of the old run")
    link = tmp_path / "link"
    link.symlink_to(out, target_is_directory=True)
    save(link, finished[2])
    assert listing(out) == ["adapted.safetensors", "episode.json", "network", "result.json"]
    assert link.is_symlink()
    assert listing(tmp_path) == ["link", "run"]


ERRORS = [
    pytest.param(OSError(28, "No space left on device"), InputError, id="disk full"),
    pytest.param(KeyboardInterrupt(), KeyboardInterrupt, id="Ctrl-C"),
    pytest.param(RuntimeError("defect"), RuntimeError, id="defect"),
]


@pytest.mark.parametrize("there", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize(("error", "raised"), ERRORS)
def test_a_failed_write_leaves_nothing_half_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    finished: Finished,
    error: BaseException,
    raised: type[BaseException],
    there: bool,
) -> None:
    out = tmp_path / "run"
    if there:
        save(out, finished[2])
    before = contents(tmp_path)

    def half_written(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(data[:20])
        raise error

    monkeypatch.setattr(Path, "write_bytes", half_written)
    with pytest.raises(raised) as caught:
        save(out, finished[2])
    if raised is InputError:
        assert str(caught.value).startswith(f"out {out}: cannot be written (")
        assert "No space left on device" in str(caught.value)
    assert contents(tmp_path) == before
    assert listing(tmp_path) == (["run"] if there else [])


@pytest.mark.parametrize("at", [1, 2], ids=["old moved away", "new moved in"])
@pytest.mark.parametrize(("error", "raised"), ERRORS)
def test_a_failed_replacement_leaves_the_old_results(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    finished: Finished,
    error: BaseException,
    raised: type[BaseException],
    at: int,
) -> None:
    out = tmp_path / "run"
    save(out, finished[2])
    (out / "mine.txt").write_text("of the old run")
    before = contents(tmp_path)
    rename, calls = Path.rename, Counter[str]()

    def failing(self: Path, target: Path) -> Path:
        calls["rename"] += 1
        if calls["rename"] == at:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    monkeypatch.setattr("kilograd.output._exchange", lambda *_: False)  # as on old systems
    with pytest.raises(raised):
        save(out, finished[2])
    assert calls["rename"] >= at
    assert contents(tmp_path) == before
    assert listing(tmp_path) == ["run"]


def test_interrupted_training_writes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: Model,
    dataset: Dataset,
    episode: Episode,
) -> None:
    monkeypatch.chdir(tmp_path)

    def stop(done: int, of: int, said: str) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt(compiled_as(model), dataset, episode, Schedule(2), stop)
    assert listing(tmp_path) == []


# ---- refusals ----


def test_folder_that_exists(tmp_path: Path, finished: Finished) -> None:
    out = tmp_path / "run"
    check_out(out, RESULT, force=False)
    check_out(tmp_path / "a" / "b" / "c", RESULT, force=False)
    out.mkdir()
    with pytest.raises(InputError, match="run: exists already; choose another folder or add force"):
        check_out(out, RESULT, force=False)
    check_out(out, RESULT, force=True)
    save(out, finished[2])
    check_out(out, ADAPTED, *RESULT_FILES, force=True)
    assert listing(tmp_path) == ["run"]


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_results_folder_is_never_replaced(tmp_path: Path, force: bool) -> None:
    """`--out photos --force` with the folder of the photographs must not delete them."""
    photos = write_pictures(tmp_path / "photos", count=1)
    with pytest.raises(InputError, match="force"):
        check_out(photos, RESULT, force=force)
    with pytest.raises(InputError, match="is a file; choose another folder"):
        check_out(photos / "red" / "0.png", RESULT, force=force)
    with pytest.raises(InputError, match=r"nothing can be written to .*0.png"):
        check_out(photos / "red" / "0.png" / "run" / "1", RESULT, force=force)


_RATES = (
    "must be in 1.18e-38 ... 1000; int8 weights learn at 0.0001 to 0.1 (with qas off: up to 1e+09)"
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iterations": -1}, "iterations -1: must not be negative"),
        ({"lr": math.nan}, "lr nan: must be a positive number"),
        ({"lr": math.inf}, "lr inf: must be a positive number"),
        ({"lr": 0.0}, "lr 0.0: must be a positive number"),
        ({"lr": -0.1}, "lr -0.1: must be a positive number"),
        (
            {"lr": 1e-39},
            f"lr 1e-39: {_RATES}",
        ),
        (
            {"lr": 2e9},
            f"lr 2e+09: {_RATES}",
        ),
        ({"seed": -1}, "seed -1: must be in 0 ... 2147483647"),
        ({"seed": 1 << 31}, "seed 2147483648: must be in 0 ... 2147483647"),
    ],
)
def test_schedules_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Schedule(**arguments)
    assert str(caught.value) == message


def test_recipes_that_make_no_sense(model: Model) -> None:
    with pytest.raises(InputError, match="ways 0: must be at least 1"):
        compile_recipe(model, Recipe("last", 0), Budget())
    with pytest.raises(InputError, match="accumulate 0: must be at least 1"):
        compile_recipe(model, Recipe("last", 4, accumulate=0), Budget())


@HEADS
@OPTIMIZERS
def test_budget_is_the_judge(model: Model, head: HeadKind, optimizer: OptimizerKind) -> None:
    recipe = Recipe("last:2", WAYS, head, optimizer)
    needed = compile_recipe(model, recipe, Budget()).program.sram_bytes
    assert compile_recipe(model, recipe, Budget(needed)).program.sram_bytes == needed
    for budget in (0, 1, needed - 1):
        with pytest.raises(InputError, match=f"smallest sram that fits is {needed}(;|$)"):
            compile_recipe(model, recipe, Budget(budget))


# ---- random views ----


def views(image: NDArray[np.int8], augment: Augment, count: int = 300) -> list[NDArray[np.int8]]:
    rng = np.random.default_rng(0)
    return [augmented(image, rng, augment) for _ in range(count)]


def test_random_views(model: Model, dataset: Dataset, episode: Episode) -> None:
    image = support_of(dataset, episode, model).images[0]
    assert all(x is image for x in views(image, Augment.NONE))
    seen = views(image, Augment.FULL)
    assert {(x.shape, x.dtype) for x in seen} == {(image.shape, image.dtype)}
    as_it_is = sum(x is image for x in seen)
    assert 10 <= as_it_is <= 60, "about one in ten is shown as it is"
    assert len({x.tobytes() for x in seen}) == len(seen) - as_it_is + 1
    assert all(
        a.tobytes() == b.tobytes() for a, b in zip(seen, views(image, Augment.FULL), strict=True)
    )


def test_only_full_views_are_mirrored() -> None:
    ramp = np.broadcast_to(np.arange(-64, 64, 8)[None, :, None], (16, 16, 3)).astype(np.int8)

    def rising(x: NDArray[np.int8]) -> bool:
        middle = x[8, 4:12].astype(np.int64).mean(axis=1)  # shifts move black in from the sides
        return bool(middle[-1] >= middle[0])

    assert all(rising(x) for x in views(ramp, Augment.NOFLIP))
    mirrored = sum(not rising(x) for x in views(ramp, Augment.FULL))
    assert 90 <= mirrored <= 180


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_a_passing_program_leaves_nothing(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILOGRAD_CACHE", str(tmp_path))
    program = compile_recipe(model, Recipe("last", 4), Budget()).program
    host = build_host(program, keep=False)
    assert [p.name.partition("-")[0] for p in tmp_path.iterdir()] == ["runtime"]
    image = np.full((SIZE, SIZE, 3), 9, np.int8)
    kept = build_host(program)
    assert same(host.call("infer", image=image), kept.call("infer", image=image))
    assert f"{tmp_path}/.kilograd-scratch-" in Path("/proc/self/maps").read_text()
    del host
    assert f"{tmp_path}/.kilograd-scratch-" not in Path("/proc/self/maps").read_text()
