"""What adapting to a task costs from its images to its last prototype: time, instructions, memory.

    python benchmarks/adaptation.py host gtsrb.parquet
    python benchmarks/adaptation.py target gtsrb.parquet

The task has five classes, five images each, and 40 passes.  `target` counts the instructions of a
call on an emulated Cortex-M7 (a mean over a pass with one image of each class), and multiplies by
how often learning calls it; `host` does the same with seconds here, of a whole pass.  `check` says
how far products are from counts of whole passes, `whole` how long whole adaptations take here.
Each prints tables for `benchmarks/fill.py`.  Needs the model folders: KILOGRAD_SHARED, by default
../shared.
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from rows import head, line
from script import script
from shared import load_network

from kilograd.data import Augment, Draw, augmented, load_dataset
from kilograd.emit import Program
from kilograd.ir import Array
from kilograd.learn.adapt import load_task
from kilograd.learn.inspect import inspector
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.learn.samples import Samples
from kilograd.learn.training import enrol, fit
from kilograd.learn.views import latents_each
from kilograd.passes import EntryPoint
from kilograd.select.greedy import INSPECTED
from kilograd.settings import Limits, OptimizerKind, Recipe, Schedule
from kilograd.targets import CORTEX_M7, Driver, HostProgram, Runner, build_host
from kilograd.targets.target import Device, Target

PLANS = Path(__file__).parents[1] / "examples" / "plans"
NETWORK, WAYS, SHOTS = "mcunet-5fps", 5, 5
SCHEDULE = Schedule(iterations=40, lr=0.001, augment=Augment.NOFLIP)
GENTLE = replace(SCHEDULE, lr=0.0001)  # at 0.001 `full` ends at chance, with zeros to skip
SHARE = "15%"  # of a full backward pass, for what is chosen for the task
STATIC = "static-pointwise-knapsack-15.json"
METHODS = ("full", "tinytl", "sparse-49kb", STATIC, "tinytrain", "last", "none")
KEPT = (0, 4, 40)
CLOCK, ISSUE = 216e6, 2  # an STM32F746; a Cortex-M7 issues so many instructions a cycle at most


class Meter:
    """A runner that counts its calls, and what they take: instructions, or seconds here."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.program, self.state = runner, runner.program, runner.state
        self.calls: Counter[str] = Counter()
        self.spent: dict[str, float] = defaultdict(float)

    def call(self, entry: str, **inputs: Array) -> dict[str, Array]:
        """Run an entry point."""
        start, runner = time.process_time(), self.runner
        out = runner.call(entry, **inputs)
        took = time.process_time() - start
        self.spent[entry] += (runner.instructions or 0) if isinstance(runner, Device) else took
        self.calls[entry] += 1
        return out

    def each(self) -> dict[str, float]:
        """Return the mean of a call."""
        return {name: self.spent[name] / n for name, n in self.calls.items()}


class Idle:
    """A runner that is called and does nothing, to count what would be called."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.calls: Counter[str] = Counter()
        self.state: dict[str, Array] = {}

    def call(self, entry: str, **inputs: Array) -> dict[str, Array]:
        """Note the call, and return zeros."""
        self.calls[entry] += 1
        outputs = self.program.entries[entry].graph.outputs
        return {n.name: np.zeros(1, np.float32) for n in outputs}


@dataclass(frozen=True)
class Load:
    """What a program needs on the target, and the instructions of a call."""

    each: dict[str, float]
    ram: int
    flash: int

    def cells(self, entries: Sequence[str]) -> list[str]:
        """Write what a call of each entry point takes, and the sizes."""
        calls = (f"{self.each[x] / 1e6:.1f} M" if x in self.each else "" for x in entries)
        return [*calls, f"{self.ram:,}", f"{self.flash:,}"]


class Task:
    """A network and the images of a task, and what asks them which channels matter."""

    def __init__(self, data: Path, seed: int, network: str = NETWORK) -> None:
        self.model, dataset = load_network(network), load_dataset(data)
        e = Draw(ways=WAYS, shots=SHOTS, queries=1)(dataset, seed)
        self.support = load_task(dataset, e, self.model.preprocess).support
        self._layers = self.model.layers[-INSPECTED:]
        self._programs: dict[Hashable, HostProgram] = {}
        self._inspect = inspector(self.model, self.support, SCHEDULE, self._programs)
        self._inspect.fisher(self._layers)
        (host,) = self._programs.values()
        self.inspection = host.program

    @functools.cached_property
    def ways(self) -> list[Compiled]:
        """Every method, with nothing kept and with some views."""
        return [
            self.compile(method, views)
            for method, views in product(METHODS, KEPT)
            if not views or method not in {"full", "none"}
        ]

    def compile(self, method: str, views: int) -> Compiled:
        """Choose for the task where a method does that, and compile."""
        name = str(PLANS / method) if method.endswith(".json") else method
        recipe = Recipe(name, WAYS, optimizer=OptimizerKind.ROWRMS, cache=views)
        budget = Limits(compute=SHARE if method == "tinytrain" else None).budget(self.model)
        return compile_recipe(self.model, recipe, budget, self._inspect)

    def look(self) -> float:
        """Ask the images once more, in a program that is there; return the CPU seconds."""
        start = time.process_time()
        inspector(self.model, self.support, SCHEDULE, self._programs).fisher(self._layers)
        return time.process_time() - start


def named(way: Compiled) -> str:
    """Return the cells that name a way."""
    return f"`{Path(way.recipe.method).name}` | {way.recipe.cache}"


def schedule_of(way: Compiled) -> Schedule:
    """Return how a method learns."""
    return GENTLE if way.recipe.method == "full" else SCHEDULE


def learn(runner: Meter | Idle, way: Compiled, support: Samples, passes: int | None = None) -> None:
    """Adapt: all passes, and the prototypes of the network that comes out."""
    fit(runner, way, support, schedule_of(way), passes=passes)
    enrol(runner, support)


def program_of(way: Compiled) -> tuple[str, bool]:
    """Return what tells programs apart: they do not know how many views are kept."""
    return way.recipe.method, way.recipe.cache > 0


def calls(way: Compiled, count: int) -> Counter[str]:
    """Return how often each entry point is called to learn from `count` images."""
    idle = Idle(way.program)
    learn(idle, way, Samples(np.zeros((count, 8, 8, 3), np.int8), np.zeros(count, np.int32)))
    return idle.calls


# ---- this machine ----


def host_tables(task: Task, turns: int) -> Iterator[str]:
    """Yield seconds here: of a call, in a turn of one pass each, times calls; views come on top."""
    hosts: dict[tuple[str, bool], HostProgram] = {}
    for w in task.ways:
        hosts.setdefault(program_of(w), build_host(w.program))
    called = [calls(w, len(task.support.labels)) for w in task.ways]
    learning, viewing = np.zeros((2, turns, len(task.ways)))
    looking = np.zeros(turns)
    for turn in range(turns):
        each: dict[tuple[str, bool], dict[str, float]] = {}
        view = seconds_of_a_view(task.support)
        for i, w in enumerate(task.ways):
            key = program_of(w)
            if key not in each:
                one = replace(w, recipe=replace(w.recipe, cache=int(key[1])))
                hosts[key].reset()
                meter = Meter(hosts[key])
                learn(meter, one, task.support, passes=1)
                each[key] = meter.each()
            views = called[i][EntryPoint.PREFIX] - len(task.support.labels) * 2 if key[1] else 0
            viewing[turn, i] = view * (views or called[i][EntryPoint.STEP])
            learning[turn, i] = viewing[turn, i] + total(each[key], called[i])
        looking[turn] = task.look()
    parts = "of these views", "of these the look", "full takes"
    yield head("method", "views kept", "CPU s", *parts, texts=1)
    for i, w in enumerate(task.ways):
        look = looking * (w.recipe.method == "tinytrain")
        whole = learning[:, i] + look
        seen = f"{np.median(look):.2f}, {np.median(look / whole):.1%}" if look.any() else ""
        each_ = (f"{np.median(x):.2f}" for x in (whole, viewing[:, i]))
        yield line(named(w), *each_, seen, f"{np.median(learning[:, 0] / whole):.1f} x")


def seconds_of_a_view(support: Samples) -> float:
    """Return the mean CPU time of a random view."""
    rng = np.random.default_rng(0)
    start = time.process_time()
    for image in support.images:
        augmented(image, rng, SCHEDULE.augment)
    return (time.process_time() - start) / len(support.images)


def whole_tables(task: Task) -> Iterator[str]:
    """Yield the seconds of whole adaptations, and of what a workstation does before them."""
    yield head("method", "views kept", "whole, CPU s", texts=1)
    for method, views in (("full", 0), ("tinytrain", 0), ("tinytrain", 4)):
        w = task.compile(method, views)
        host = build_host(w.program)
        start = time.process_time()
        learn(Meter(host), w, task.support)
        yield line(named(w), f"{time.process_time() - start:.2f}")
    start = time.process_time()
    made = task.compile("tinytrain", 0)
    chosen = time.process_time() - start
    with tempfile.TemporaryDirectory() as cache:
        os.environ["KILOGRAD_CACHE"] = cache
        build_host(task.inspection)  # and with it what all programs share
        before = os.times().children_user
        build_host(made.program)
    yield "\n| to choose within the budget, CPU s | the C compiler, CPU s |\n|---:|---:|"
    yield f"| {chosen:.1f} | {os.times().children_user - before:.1f} |"


# ---- a Cortex-M7 ----


def few(support: Samples) -> Samples:
    """Return an image of each class."""
    places = [int(np.flatnonzero(support.labels == way)[0]) for way in range(WAYS)]
    return Samples(support.images[places], support.labels[places])


def measured(meter: Meter) -> Load:
    """Return what was counted on a device, and what it has."""
    sizes = meter.runner.sizes
    ram = sizes.data_bss_bytes + meter.runner.stack_bytes
    return Load(meter.each(), ram, sizes.flash_bytes)


def load(way: Compiled, support: Samples, target: Target = CORTEX_M7) -> Load:
    """Count the instructions of each entry point, in the program as it starts."""
    meter = Meter(target.build(way.program))
    learn(meter, way, few(support), passes=1)
    return measured(meter)


def look(task: Task, target: Target = CORTEX_M7) -> Load:
    """Count the instructions of what asks the images."""
    meter, some = Meter(target.build(task.inspection)), few(task.support)
    driver = Driver(meter)
    enrol(meter, some)
    rng = np.random.default_rng(SCHEDULE.seed)
    for image, label in zip(some.images, some.labels, strict=True):
        view = augmented(image, rng, SCHEDULE.augment)
        driver.inspect(driver.show(view), label)
    return measured(meter)


def total(each: dict[str, float], calls: Counter[str]) -> float:
    """Return the instructions of so many calls."""
    return sum(each[name] * n for name, n in calls.items())


def target_tables(task: Task) -> Iterator[str]:
    """Yield instructions of a call, and of all of them."""
    entries = (EntryPoint.PREFIX, EntryPoint.ENROL, EntryPoint.STEP, EntryPoint.INSPECT)
    yield head("program", "cut", *entries, "RAM, B", "flash, B", texts=2)
    loads: dict[tuple[str, bool], Load] = {}
    for w in task.ways:
        key = program_of(w)
        if key not in loads:
            loads[key] = made = load(w, task.support)
            name = f"`{Path(w.recipe.method).name}`", "cut" if key[1] else ""
            yield line(*name, *made.cells(entries))
    asked = look(task)
    yield f"| the look at the images | {line(*asked.cells(entries))}\n"
    count = len(task.support.labels)
    questions = Counter({EntryPoint.ENROL: count, EntryPoint.INSPECT: count, EntryPoint.FORGET: 1})
    yield (
        "| method | views kept | latents, B | prefix, enrol, step: calls | GMACs | MACs of full "
        "| G instructions | of these the look | instructions of full | at least |"
    )
    yield "|---|---:|---:|---|---:|---:|---:|---:|---:|---:|"
    full: tuple[float, float] | None = None
    for w in task.ways:
        asks = w.recipe.method == "tinytrain"
        called = calls(w, count)
        macs = sum(n * w.program.macs(name) for name, n in called.items())
        macs += asks * sum(n * task.inspection.macs(name) for name, n in questions.items())
        extra = asks * total(asked.each, questions)
        spent = extra + total(loads[program_of(w)].each, called)
        full = full or (macs, spent)
        yield line(
            named(w),
            f"{count * latents_each(w, SCHEDULE.augment) * w.latent_bytes:,}",
            ", ".join(f"{called[x]:,}" for x in entries[:3]),
            f"{macs / 1e9:.2f}",
            f"{full[0] / macs:.1f} x",
            f"{spent / 1e9:.2f}",
            f"{extra / 1e9:.2f}, {extra / spent:.1%}" if asks else "",
            f"{full[1] / spent:.1f} x",
            f"{spent / CLOCK / ISSUE:,.0f} s",
        )


def check_table(task: Task) -> Iterator[str]:
    """Yield how far products are from counts: of the first pass, and of one more at the end."""
    yield line("method", "views kept", "images", "pass", "counted", "product", "less counted")
    yield "|---|---:|---:|---|---:|---:|---:|"
    every, some = task.support, few(task.support)
    for method, views, images in (
        ("sparse-49kb", 0, every),
        ("sparse-49kb", 4, every),
        ("full", 0, some),
    ):
        w = task.compile(method, views)
        each = load(w, task.support).each
        host = build_host(w.program)
        for name in ("first", "one more"):
            meter = Meter(CORTEX_M7.build(w.program))
            if name == "one more":
                fit(host, w, task.support, schedule_of(w))
                for key, value in meter.state.items():
                    value[...] = host.state[key]
            learn(meter, w, images, passes=1)
            counted, expected = sum(meter.spent.values()), total(each, meter.calls)
            sums = (f"{x / 1e6:,.1f} M" for x in (counted, expected))
            yield line(named(w), len(images.labels), name, *sums, f"{expected / counted - 1:+.2%}")


def main() -> None:
    """Print the tables of a part."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("part", choices=("host", "whole", "target", "check"))
    ask.add_argument("data", type=Path)
    ask.add_argument("--turns", type=int, default=7, help="of the host")
    ask.add_argument("--seed", type=int, default=0)
    given = ask.parse_args()
    task = Task(given.data, given.seed)
    tables = {
        "host": lambda: host_tables(task, given.turns),
        "whole": lambda: whole_tables(task),
        "target": lambda: target_tables(task),
        "check": lambda: check_table(task),
    }
    for text in tables[given.part]():
        print(text, flush=True)


if __name__ == "__main__":
    script(main)
