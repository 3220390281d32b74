"""The command line: each command a few lines over the public API."""

from __future__ import annotations

import enum
import functools
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, NoReturn, cast

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from typer.main import get_command

import kilograd
from kilograd.emit import Entry, Program
from kilograd.errors import InputError
from kilograd.frontend import (
    Model,
    available_models,
    load_model,
    model_places,
    with_last_conv,
)
from kilograd.learn.adapt import RESULT, Outcome, Samples, Schedule, adapt, load_samples, save
from kilograd.learn.augment import Augment
from kilograd.learn.cost import Convention, count
from kilograd.learn.data import Dataset, load_dataset
from kilograd.learn.digits import load_digits
from kilograd.learn.episodes import Episode, sample_episode, sample_meta_episode, usable_classes
from kilograd.learn.evaluate import (
    Evaluation,
    Line,
    Network,
    Settings,
    evaluate,
    summarise,
)
from kilograd.learn.guard import passes_that_help, trials
from kilograd.learn.inspect import inspector
from kilograd.learn.output import check_file, check_out, whole_folder, write_file
from kilograd.learn.recipe import Compiled, HeadKind, OptimizerKind, Recipe, compile_recipe
from kilograd.learn.statistics import Interval
from kilograd.passes import accumulator_bounds
from kilograd.report import (
    Bar,
    Estimate,
    Panel,
    Price,
    Section,
    Variant,
    ablation,
    choice,
    comparison,
    page,
    without,
)
from kilograd.select import METHODS, Budget, Evidence, Inspect, write_plan
from kilograd.select.cost import Cost
from kilograd.targets import (
    AARCH64,
    CORTEX_M4,
    CORTEX_M7,
    TARGETS,
    WASM32,
    CrossCompiler,
    ElfTarget,
    Emulator,
    Measurement,
    Target,
    build_host,
    measure,
)

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train neural networks in kilobytes.",
)
# Names of the user's are no markup: a class may be called [red].
_out = Console(markup=False, highlight=False)
_err = Console(markup=False, highlight=False, stderr=True)
# What typer raises for bad usage; it may be of a copy of click that typer keeps private.
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])

DEMO_DIGITS = (5, 6, 7, 8, 9)  # the bundled network was trained on 0 to 4 only


def _bytes(text: str, option: str = "--sram") -> int:
    """Read a size.

    >>> _bytes("256K"), _bytes("1.5 MiB"), _bytes("64000")
    (262144, 1572864, 64000)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KkMm]?)(?:i?[Bb])?\s*", text)
    if not match:
        raise InputError(f"{option} {text!r}: give bytes, or a number with K or M, as in 256K")
    return int(Decimal(match[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20}[match[2].lower()])


def _macs(text: str, full: int) -> int:
    """Read a number of multiply-accumulates, or a share of a `full` backward pass.

    >>> _macs("6.7M", 0), _macs("500k", 0), _macs("15%", 1000)
    (6700000, 500000, 150)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KkMm%]?)\s*", text)
    if not match:
        raise InputError(
            f"--compute {text!r}: give multiply-accumulates, as in 6.7M, or a share of the full "
            f"backward pass, as in 15%"
        )
    unit = {"": Decimal(1), "k": Decimal(1000), "m": Decimal(10**6), "%": Decimal(full) / 100}
    macs = int(Decimal(match[1]) * unit[match[2].lower()])
    if macs < 1:
        raise InputError(f"--compute {text}: must be positive")
    return macs


ModelName = Annotated[str, typer.Option("--model", help="Name of a network, or its folder.")]
Method = Annotated[str, typer.Option(help=f"What learns: {', '.join(METHODS)}.")]
Head = Annotated[
    HeadKind | None, typer.Option(help="proto (default) or linear (default of method head).")
]
Optimizer = Annotated[OptimizerKind, typer.Option(help="How a gradient becomes a step.")]
Accumulate = Annotated[int, typer.Option(help="Samples averaged for one update.")]
Rows = Annotated[
    bool, typer.Option("--rows", help="Take images row by row, from a callback; never whole.")
]
Recompute = Annotated[
    bool, typer.Option("--recompute", help="Run layers again to keep fewer maps: less RAM, slower.")
]
Sram = Annotated[str | None, typer.Option(help="RAM the program may use, e.g. 256K.")]
Compute = Annotated[
    str | None, typer.Option(help="MACs of a backward pass, e.g. 6.7M, or 15% of a full one.")
]
Channels = Annotated[
    float | None, typer.Option(help="Share of a layer's channels that may learn, e.g. 0.25.")
]
Exact = Annotated[bool, typer.Option("--exact", help="Search longer for a plan proved optimal.")]
Seed = Annotated[int, typer.Option(help="Makes the run repeatable.")]
Iterations = Annotated[int, typer.Option(help="Passes over the support images.")]
Rate = Annotated[float, typer.Option(help="Learning rate, in real units.")]
Ways = Annotated[int | None, typer.Option(help="Classes; default: all, at most 10.")]
Shots = Annotated[int, typer.Option(help="Support images of each class.")]
Queries = Annotated[int, typer.Option(help="Test images of each class, at most.")]
Augmentation = Annotated[Augment, typer.Option(help="Random views of the support images.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@dataclass(frozen=True)
class Options:
    """What to compile: options that several commands share."""

    model: ModelName = "digits"
    method: Method = "last"
    head: Head = None
    optimizer: Optimizer = OptimizerKind.SGD
    accumulate: Accumulate = 1
    rows: Rows = False
    recompute: Recompute = False
    sram: Sram = None
    compute: Compute = None
    channels: Channels = None
    exact: Exact = False

    @functools.cached_property
    def network(self) -> Model:
        """The network."""
        return load_model(self.model)

    @property
    def budget(self) -> Budget:
        """What the program may cost."""
        network = self.network
        full = Evidence(network.name, network.graph, network.layers).full_backward()
        return Budget(
            None if self.sram is None else _bytes(self.sram),
            None if self.compute is None else _macs(self.compute, full),
            self.channels,
        )

    def compile(self, ways: int, inspect: Inspect | None = None) -> Compiled:
        """Choose what learns and compile it."""
        recipe = Recipe(
            self.method,
            ways,
            self.head,
            self.optimizer,
            self.accumulate,
            rows=self.rows,
            recompute=self.recompute,
            exact=self.exact,
        )
        return compile_recipe(self.network, recipe, self.budget, inspect)


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the fields of `Options` as options of its own, in place of `options`."""
    own = inspect.signature(command, eval_str=True).parameters
    shared = inspect.signature(Options, eval_str=True).parameters
    parameters = [
        p.replace(kind=p.KEYWORD_ONLY)
        for name, q in own.items()
        for p in (shared.values() if name == "options" else (q,))
    ]

    @functools.wraps(command)
    def run(**given: object) -> None:
        chosen = {name: given.pop(name) for name in shared}
        command(options=Options(**chosen), **given)  # type: ignore[arg-type]

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


class TargetKind(enum.StrEnum):
    """What can be built for."""

    CORTEX_M7 = CORTEX_M7.name
    CORTEX_M4 = CORTEX_M4.name
    AARCH64 = AARCH64.name
    WASM32 = WASM32.name


TargetName = Annotated[TargetKind, typer.Option(help="The processor.")]


CompilerName = Annotated[
    CrossCompiler, typer.Option(help="clang comes with ziglang; gcc is the system's.")
]
EmulatorName = Annotated[
    Emulator, typer.Option(help="unicorn comes from PyPI; qemu is the system's.")
]
BoardRam = Annotated[str | None, typer.Option(help="RAM of the board, stack included, e.g. 192K.")]


def _target(kind: TargetKind) -> Target:
    return next(t for t in TARGETS if t.name == kind)


def _ram(board_ram: str | None) -> int | None:
    return None if board_ram is None else _bytes(board_ram, "--board-ram")


def _with_tools(target: Target, compiler: CrossCompiler, emulator: Emulator) -> Target:
    if isinstance(target, ElfTarget):
        return replace(target, compiler=compiler, emulator=emulator)
    if compiler is CrossCompiler.GCC or emulator is Emulator.QEMU:
        raise InputError(f"--target {target.name}: has no other tools than {target.tools}")
    return target


class EpisodeKind(enum.StrEnum):
    """How the ways and shots of a task come about."""

    FIXED = "fixed"
    META_DATASET = "meta-dataset"


def _episode(
    dataset: Dataset,
    kind: EpisodeKind,
    ways: int | None,
    shots: int | None,
    queries: int | None,
    seed: int,
) -> Episode:
    """Name what cannot be used, and draw from the rest."""
    if kind is EpisodeKind.META_DATASET:
        for name, value in (("ways", ways), ("shots", shots), ("queries", queries)):
            if value is not None:
                raise InputError(
                    f"--{name} {value}: --episode {kind} draws this itself; give one of the two"
                )
        _mention_left_out(dataset, shots=1)
        return sample_meta_episode(dataset, seed=seed)
    shots = 5 if shots is None else shots
    queries = 15 if queries is None else queries
    _mention_left_out(dataset, shots)
    return sample_episode(dataset, ways=ways, shots=shots, queries=queries, seed=seed)


@app.command("adapt")
@_with_options
def adapt_command(
    data: Annotated[Path, typer.Argument(help="Folder of class folders, or a Parquet file.")],
    options: Options,
    ways: Annotated[int | None, typer.Option(help="Classes; default: all, at most 10.")] = None,
    shots: Annotated[
        int | None, typer.Option(help="Support images of each class; default: 5.")
    ] = None,
    queries: Annotated[
        int | None, typer.Option(help="Test images of each class, at most; default: 15.")
    ] = None,
    episode_kind: Annotated[
        EpisodeKind,
        typer.Option("--episode", help="Ways and shots: as given, or drawn as Meta-Dataset does."),
    ] = EpisodeKind.FIXED,
    iterations: Iterations = 10,
    lr: Rate = 0.003,
    augment: Augmentation = Augment.FULL,
    seed: Seed = 0,
    guard: Annotated[
        bool, typer.Option("--guard", help="Train only as far as held-out support images gain.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show why these layers and channels learn.")
    ] = False,
    save_plan: Annotated[
        Path | None, typer.Option(help="Write what learns to a file for --method: FILE.json.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the folder, and the plan, if they exist.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Learn new classes from a few images, and show what was gained."""
    schedule = Schedule(iterations, lr, augment, seed)
    if out is not None:
        check_out(out, RESULT, force=force)
    if save_plan is not None:
        check_file(save_plan, ".json", force=force, option="--save-plan")
    dataset = load_dataset(data)
    episode = _episode(dataset, episode_kind, ways, shots, queries, seed)
    support = load_samples(
        dataset, episode.support, episode.support_labels, options.network.preprocess
    )
    inspect = inspector(options.network, support, schedule)
    compiled = options.compile(len(episode.classes), inspect)
    passes = _guarded(compiled, support, schedule, quiet=as_json) if guard else None
    outcome = _run(compiled, dataset, episode, schedule, passes, quiet=as_json)
    reasons = compiled.selection.reasons
    if out is not None:
        title = f"{compiled.model.title}, {options.method}, {episode.dataset}"
        cost = _cost_line(compiled, options.budget)
        pages = {"selection.html": choice(title, reasons, cost)} if reasons else {}
        save(out, compiled, episode, outcome, pages)
    if save_plan is not None:
        write_plan(save_plan, compiled.model.name, compiled.selection)
    if as_json:
        why = {"selection": [asdict(r) for r in reasons]} if explain else {}
        print(json.dumps(asdict(outcome.summary) | why))
        return
    _show(compiled, outcome)
    if explain:
        _explain(compiled, options.budget)
    if out is not None:
        more = ", selection.html" if reasons else ""
        print(f"Written to {out}: adapted.safetensors, episode.json, result.json{more}")
    if save_plan is not None:
        print(f"Written to {save_plan}: give it as --method {save_plan}")


@app.command("evaluate")
def evaluate_command(
    data: Annotated[str, typer.Option(help="Folders or Parquet files, with commas between.")],
    out: Annotated[Path, typer.Option(help="Folder for the results; a begun one goes on.")],
    models: Annotated[str, typer.Option(help="Networks, with commas between.")] = "digits",
    methods: Annotated[
        str, typer.Option(help="Methods, with commas between; differences are to the first.")
    ] = "none,last",
    episodes: Annotated[int, typer.Option(help="Episodes of each data set.")] = 10,
    ways: Ways = None,
    shots: Shots = 5,
    queries: Queries = 15,
    sram: Sram = None,
    compute: Compute = None,
    optimizer: Optimizer = OptimizerKind.SGD,
    lr: Rate = 0.003,
    iterations: Iterations = 10,
    augment: Augmentation = Augment.FULL,
    seed: Annotated[int, typer.Option(help="Episode number e has the seed SEED + e.")] = 0,
    jobs: Annotated[int, typer.Option(help="Processes that learn at once.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Compare methods on many episodes of several data sets; interrupted, it goes on later."""
    settings = Settings(
        ways, shots, queries, sram, compute, optimizer, iterations, lr, augment, seed
    )
    options = [Options(model, sram=sram, compute=compute) for model in _names(models)]
    networks = tuple(Network(o.network, o.budget) for o in options)
    sets = tuple(load_dataset(name) for name in _names(data))
    asked = Evaluation(sets, networks, _names(methods), episodes, settings)
    for dataset in sets:
        _mention_left_out(dataset, shots)
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    unseen = as_json or not _err.is_terminal
    try:
        with Progress(*columns, console=_err, disable=unseen, transient=True) as bar:
            task = bar.add_task("evaluating", total=None)
            rows = evaluate(
                out, asked, jobs, lambda done, of: bar.update(task, completed=done, total=of)
            )
        lines = summarise(rows)
        summary = {
            "settings": asdict(settings) | {"episodes": episodes},
            "results": [asdict(line) for line in lines],
        }
        write_file(out / "summary.json", json.dumps(summary, indent=1) + "\n")
        write_file(out / "comparison.html", _comparison(asked, lines))
    except KeyboardInterrupt:
        _fail(f"interrupted; the same command goes on with what {out} holds", 130)
    if as_json:
        print(json.dumps(summary))
        return
    _show_evaluation(asked, lines)
    print(f"Written to {out}: evaluation.sqlite, episodes.jsonl, summary.json, comparison.html")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in map(str.strip, text.split(",")) if name)


@app.command()
@_with_options
def plan(
    options: Options,
    ways: Annotated[int, typer.Option(help="Classes of the head.")] = 10,
    entry: Annotated[
        str | None, typer.Option(help="Entry point to map; default: the one with the peak.")
    ] = None,
    with_ablation: Annotated[
        bool, typer.Option("--ablation", help="Show what each part of the compiler saves.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Draw the map: an HTML file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the memory map of a training program, and what sets its peak."""
    if out is not None:
        check_file(out, ".html", force=force)
    compiled = options.compile(ways)
    program = compiled.program
    if entry is not None and entry not in program.entries:
        raise InputError(
            f"--entry {entry}: no such entry point; there are {', '.join(program.entries)}"
        )
    chosen = (
        program.entries[entry]
        if entry
        else max(program.entries.values(), key=lambda e: e.plan.peak)
    )
    trains = "step" in program.entries
    if with_ablation and not trains:
        raise InputError(f"--ablation: method {options.method} trains nothing; choose another")
    graph, training = compiled.model.graph, compiled.training
    steps = ablation(graph, training) if trains and (with_ablation or out) else ()
    if out is not None:
        others = without(graph, training) if trains else ()
        title = f"{compiled.model.title}, {options.method}, {ways} classes"
        html = page(title, program, chosen, budget=options.budget.sram, steps=steps, without=others)
        write_file(out, html)
    if as_json:
        parts = {"ablation": [_variant_json(program, v) for v in steps]} if with_ablation else {}
        print(json.dumps(_map_json(program, chosen) | parts))
        return
    _print_map(compiled, chosen)
    if with_ablation:
        _print_ablation(program, steps)
    if out is not None:
        print(f"Written to {out}")


@app.command("cost")
def cost_command(
    model: ModelName = "digits",
    method: Method = "last",
    convention: Annotated[
        Convention, typer.Option(help="kilograd: the compiled program; else a paper's formulas.")
    ] = Convention.KILOGRAD,
    last_conv: Annotated[
        int | None, typer.Option(help="Append a random 1x1 convolution to so many channels.")
    ] = None,
    ways: Annotated[int, typer.Option(help="Classes of the head; kilograd only.")] = 10,
    head: Head = None,
    optimizer: Optimizer = OptimizerKind.SGD,
    as_json: AsJson = False,
) -> None:
    """Count memory and work of training by the convention of a paper, or of the real program."""
    network = load_model(model)
    if last_conv is not None:
        network = with_last_conv(network, last_conv)
    cost = count(network, Recipe(method, ways, head, optimizer), convention)
    if as_json:
        print(json.dumps(_cost_json(network, method, convention, cost)))
    else:
        _print_cost(network, method, convention, cost)


@app.command("run")
@_with_options
def run_command(
    options: Options,
    target: TargetName = TargetKind.CORTEX_M7,
    ways: Annotated[int, typer.Option(help="Classes of the head.")] = 10,
    board_ram: BoardRam = None,
    compiler: CompilerName = CrossCompiler.CLANG,
    emulator: EmulatorName = Emulator.UNICORN,
    steps: Annotated[int, typer.Option(help="Training steps to run and compare.")] = 20,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Build the firmware, run it in an emulator, and measure it there."""
    if steps < 1:
        raise InputError(f"--steps {steps}: must be at least 1")
    compiled = options.compile(ways)
    columns = (TextColumn("emulating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_err, disable=as_json, transient=True) as bar:
        task = bar.add_task("emulating", total=steps)
        found = measure(
            compiled.program,
            _with_tools(_target(target), compiler, emulator),
            steps,
            seed,
            ram=_ram(board_ram),
            progress=lambda done: bar.update(task, completed=done),
        )
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        _show_measurement(compiled, found)
    if not found.bit_exact:
        _fail(f"{found.target} and this machine disagree: a defect of kilograd", 1)


@app.command("export")
@_with_options
def export_command(
    out: Annotated[Path, typer.Option(help="Folder for the C project.")],
    options: Options,
    target: TargetName = TargetKind.CORTEX_M7,
    ways: Annotated[int, typer.Option(help="Classes of the head.")] = 10,
    board_ram: BoardRam = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the folder if it exists.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a C project that stands alone: model.c, model.h, the runtime, build files."""
    check_out(out, "model.h", force=force)
    compiled = options.compile(ways)
    with whole_folder(out) as folder:
        _target(target).export(compiled.program, folder, _ram(board_ram))
    if as_json:
        files = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
        sizes = {"sram_bytes": compiled.program.sram_bytes}
        print(json.dumps({"out": str(out), **sizes, "files": files}))
    else:
        _out.print(f"Written to {out}: start with README.md", markup=False)


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the networks that can be named, and where they were found."""
    loaded = [(found, load_model(str(found.path))) for found in available_models()]
    if as_json:
        rows = [
            {
                "name": f.name,
                "title": m.title,
                "path": str(f.path),
                "origin": f.origin,
                "input": [m.preprocess.size, m.preprocess.size, m.preprocess.channels],
                "convolutions": len(m.layers),
                "macs_forward": m.graph.macs(),
            }
            for f, m in loaded
        ]
        print(json.dumps({"models": rows}))
        return
    table = Table("name", "network", "input", "layers", "MACs", "found in", box=None)
    for f, m in loaded:
        size = f"{m.preprocess.size}x{m.preprocess.size}x{m.preprocess.channels}"
        table.add_row(f.name, m.title, size, str(len(m.layers)), _count(m.graph.macs()), f.origin)
    _out.print(table)
    print("Searched: " + "; ".join(f"{origin} {place}" for origin, place in model_places()))


@app.command()
def demo(seed: Seed = 0, as_json: AsJson = False) -> None:
    """Learn handwritten digits that the bundled network has never seen, within 64 KB."""
    dataset = load_digits(DEMO_DIGITS)
    episode = sample_episode(dataset, ways=5, shots=5, queries=40, seed=seed)
    recipe = Recipe("last:6", 5)
    compiled = compile_recipe(load_model("digits"), recipe, Budget(64 << 10))
    schedule = Schedule(iterations=30, lr=0.01, augment=Augment.NOFLIP, seed=seed)
    outcome = _run(compiled, dataset, episode, schedule, quiet=as_json)
    if as_json:
        print(json.dumps(asdict(outcome.summary)))
        return
    _show(compiled, outcome)
    _show_digits(dataset, episode, outcome)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(kilograd.__version__)
        raise typer.Exit


def _mention_left_out(dataset: Dataset, shots: int) -> None:
    if skipped := dataset.skipped:
        total = len(dataset) + len(skipped)
        _mention(f"{len(skipped)} of {total} images unreadable and skipped: {_some(skipped)}")
    usable = set(usable_classes(dataset, shots))
    if small := [c for c in dataset.classes if c not in usable]:
        total = len(dataset.classes)
        reason = f"too few images for {shots} shots"
        _mention(f"{len(small)} of {total} classes left out, {reason}: {_some(small)}")


def _mention(text: str) -> None:
    _err.print(text, soft_wrap=True)


def _some(names: tuple[str, ...] | list[str]) -> str:
    shown = 8
    return ", ".join(names[:shown]) + (
        f" and {len(names) - shown} more" if len(names) > shown else ""
    )


def _guarded(compiled: Compiled, support: Samples, schedule: Schedule, *, quiet: bool) -> int:
    """Try on held-out images of the support how far to train, and say what was found."""
    found = trials(build_host(compiled.program), compiled, support, schedule)
    passes = passes_that_help(found)
    if not quiet:
        tried = ", ".join(f"{t.right} after {t.passes}" for t in found)
        total = len(support.labels)
        _mention(f"held-out images right, of {total}: {tried} passes; {passes} it is")
    return passes


def _run(
    compiled: Compiled,
    dataset: Dataset,
    episode: Episode,
    schedule: Schedule,
    passes: int | None = None,
    *,
    quiet: bool,
) -> Outcome:
    columns = (
        TextColumn("learning"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_err, disable=quiet, transient=True) as bar:
        total = (schedule.iterations if passes is None else passes) * len(episode.support)
        task = bar.add_task("learning", total=total, loss=float("nan"))
        return adapt(
            compiled,
            dataset,
            episode,
            schedule,
            lambda done, loss: bar.update(task, completed=done, loss=loss),
            passes,
        )


def _count(n: int) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return str(n)


def _kib(n: int) -> str:
    return f"{n:,} B ({n / 1024:.1f} KiB)"


def _show(compiled: Compiled, outcome: Outcome) -> None:
    s = outcome.summary
    shots = f"{s.shots}" if s.shots == s.max_shots else f"{s.shots} to {s.max_shots}"
    optimal = "met: the plan is optimal" if s.sram_proved_optimal else "not met"
    table = Table(show_header=False, box=None)
    rows = (
        ("network", f"{compiled.model.title}, method {compiled.recipe.method}"),
        ("task", f"{s.ways} classes, {shots} images each; tested on {s.queries} each"),
        ("accuracy before", f"{100 * s.accuracy_before:.1f} %"),
        ("accuracy after", Text(f"{100 * s.accuracy_after:.1f} %", "bold")),
        ("RAM", _kib(s.sram_bytes)),
        ("lower bound", f"{_kib(s.sram_lower_bound_bytes)}, {optimal}"),
        ("flash (tables)", _kib(s.flash_bytes)),
        ("MACs", f"{_count(s.macs_forward)} forward, {_count(s.macs_step)} a training step"),
        ("learned", f"{s.learned_parameters:,} parameters in {s.seconds:.1f} s"),
    )
    for row in rows:
        table.add_row(*row)
    _out.print(table)


def _cost_line(compiled: Compiled, budget: Budget) -> str:
    sram, macs = compiled.program.sram_bytes, compiled.backward_macs
    of_sram = "" if budget.sram is None else f" of {budget.sram:,}"
    of_macs = "" if budget.compute is None else f" of {budget.compute:,}"
    return f"{sram:,}{of_sram} bytes of RAM, {macs:,}{of_macs} MACs for a backward pass"


def _estimate(found: Interval) -> Estimate:
    return Estimate(100 * found.mean, None if found.half is None else 100 * found.half)


def _by_method(lines: Sequence[Line]) -> dict[tuple[str, str], list[Line]]:
    """Group lines by network and method; in a group one for each data set, and the one of all."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.model, line.method), []).append(line)
    return groups


def _show_evaluation(asked: Evaluation, lines: Sequence[Line]) -> None:
    groups = _by_method(lines)
    less = f"less {asked.methods[0]}"
    for network in asked.networks:
        _out.print(f"{network.model.title}: accuracy in %, differences in points")
        table = Table("data set", "method", box=None)
        for name in ("RAM, B", "before", "after", less):
            table.add_column(name, justify="right", no_wrap=True)
        found = [groups[network.model.name, method] for method in asked.methods]
        for column in zip(*found, strict=True):
            for line in column:
                numbers = (
                    f"{line.sram_bytes:,}",
                    str(_estimate(line.before)),
                    str(_estimate(line.after)),
                    _estimate(line.difference).signed() if line.difference else "",
                )
                first = line is column[0]
                table.add_row((line.data or "all") if first else "", line.method, *numbers)
            table.add_section()
        _out.print(table)
    if (whole := lines[-1].after).half is not None:
        print(f"±: 95 % intervals (Student's t) over episodes, {whole.count} in all")


def _comparison(asked: Evaluation, lines: Sequence[Line]) -> str:
    sections = []
    groups = _by_method(lines)
    for network in asked.networks:
        found = [groups[network.model.name, method] for method in asked.methods]
        panels = []
        for column in zip(*found, strict=True):
            bars = tuple(
                Bar(
                    line.method,
                    100 * line.before.mean,
                    _estimate(line.after),
                    line.difference and _estimate(line.difference),
                )
                for line in column
            )
            title = f"{column[0].data or 'All data sets'}, {column[0].after.count} episodes"
            panels.append(Panel(title, bars))
        prices = tuple(
            Price(f[-1].sram_bytes, f[-1].backward_macs, f[-1].learned_parameters) for f in found
        )
        sections.append(Section(network.model.title, tuple(panels), prices))
    s = asked.settings
    limits = "".join(
        f" At most {limit} {what}."
        for limit, what in ((s.sram, "of RAM"), (s.compute, "MACs of a backward pass"))
        if limit is not None
    )
    facts = (
        f"{'Up to 10' if s.ways is None else s.ways} classes, {s.shots} images each to learn "
        f"from, up to {s.queries} to test on; {s.iterations} passes with {s.optimizer} at rate "
        f"{s.lr:g}, views: {s.augment}; seeds from {s.seed} on.{limits}"
    )
    return comparison("Methods compared", facts, sections)


def _explain(compiled: Compiled, budget: Budget) -> None:
    reasons = compiled.selection.reasons
    if not reasons:
        method = compiled.recipe.method
        _out.print(f"method {method} always takes the same layers: nothing to explain")
        return
    table = Table("layer", box=None)
    for name in ("Fisher", "weights", "MACs", "score", "channels"):
        table.add_column(name, justify="right")
    table.add_column("why not")
    for r in reasons:
        found = ["" if x is None else f"{x:.3g}" for x in (r.potential, r.score)]
        size = (_count(r.weights), _count(r.macs))
        table.add_row(r.layer, found[0], *size, found[1], f"{r.chosen} of {r.channels}", r.why)
    _out.print(table)
    _out.print(_cost_line(compiled, budget))


def _show_measurement(compiled: Compiled, found: Measurement) -> None:
    table = Table(show_header=False, box=None)
    exact = "every loss and every byte kept equal this machine's"
    rows = (
        ("target", f"{found.target} ({found.tools})"),
        ("network", f"{compiled.model.title}, method {compiled.recipe.method}"),
        ("RAM in all", _kib(found.ram_bytes)),
        ("  arena", _kib(found.arena_bytes)),
        ("  kept", _kib(found.data_bss_bytes - found.arena_bytes)),
        ("  stack", _stack(found)),
        ("flash", _kib(found.flash_bytes)),
        *_counts(found),
        ("bit exact", f"yes, {found.steps} steps: {exact}" if found.bit_exact else "NO"),
    )
    for row in rows:
        table.add_row(*row)
    _out.print(table)


def _counts(found: Measurement) -> list[tuple[str, str]]:
    if found.instructions_forward is None:
        return [(found.counted, "not counted by this emulator")]
    rows = [(found.counted, f"{_count(found.instructions_forward)} forward")]
    if found.instructions_step is not None:
        rows.append(("", f"{_count(found.instructions_step)} a training step"))
    return rows


def _stack(found: Measurement) -> str:
    if found.stack_bound_bytes is None:
        return f"{_kib(found.stack_bytes)} in linear memory"
    without = f", calls through pointers in {', '.join(found.unresolved)} not counted"
    bound = f"at most {found.stack_bound_bytes:,} B"
    return f"{_kib(found.stack_bytes)}, {bound}{without if found.unresolved else ''}"


def _show_digits(dataset: Dataset, episode: Episode, outcome: Outcome) -> None:
    """Draw one test image of each class, with what the network says it is."""
    shades = " .:-=+*#%@"
    blocks: list[list[str]] = []
    for way, name in enumerate(episode.classes):
        at = episode.query_labels.index(way)
        said = episode.classes[outcome.predictions[at]]
        levels = np.asarray(dataset.image(episode.query[at]).convert("L"), np.int64) * 10 // 256
        rows = ["".join(2 * shades[level] for level in row) for row in levels]
        blocks.append([*rows, f"a {name}: says {said}".ljust(16)])
    for line in zip(*blocks, strict=True):
        print("   ".join(line))


def _map_json(program: Program, entry: Entry) -> dict[str, object]:
    return {
        "sram_bytes": program.sram_bytes,
        "sram_lower_bound_bytes": program.sram_lower_bound_bytes,
        "sram_proved_optimal": program.sram_proved_optimal,
        "state_bytes": program.state_bytes,
        "arena_bytes": program.arena_bytes,
        "flash_bytes": program.flash_bytes,
        "state": [
            {"name": s.name, "offset": s.offset, "size": s.value.nbytes} for s in program.state
        ],
        "entries": {
            e.name: {"peak": e.plan.peak, "lower_bound": e.plan.bound}
            for e in program.entries.values()
        },
        "entry": entry.name,
        "buffers": [
            {**asdict(b), "offset": entry.plan.offsets[b.name]} for b in entry.storage.buffers
        ],
    }


def _print_map(compiled: Compiled, entry: Entry) -> None:
    program = compiled.program
    buffers = entry.storage.buffers
    peak_step = max(
        {b.first for b in buffers},
        key=lambda t: sum(b.room for b in buffers if b.first <= t < b.last),
    )
    nodes = entry.graph.nodes
    table = Table("offset", "bytes", "in use", "buffer", "", box=None)
    for b in sorted(buffers, key=lambda b: (entry.plan.offsets[b.name], b.first)):
        mark = "peak" if b.first <= peak_step < b.last else ""
        offset = f"{entry.plan.offsets[b.name]:,}"
        table.add_row(offset, f"{b.size:,}", f"{b.first}-{b.last - 1}", b.name, mark)
    _out.print(table)
    state = Table("offset", "bytes", "kept between calls", box=None)
    for s in program.state:
        state.add_row(f"{s.offset:,}", f"{s.value.nbytes:,}", s.name)
    _out.print(state)
    names = compiled.training.learn
    worst = max(accumulator_bounds(entry.graph, names), key=lambda b: b.worst, default=None)
    _out.print(f"peak of {entry.name}: step {peak_step}, {nodes[peak_step].name}")
    for e in program.entries.values():
        verdict = "optimal" if e.plan.peak == e.plan.bound else f"lower bound {e.plan.bound:,}"
        _out.print(f"{e.name}: {e.plan.peak:,} B of arena, {verdict}")
    _out.print(f"RAM: {_kib(program.sram_bytes)}, of which {program.state_bytes:,} B kept")
    if worst:
        share = worst.worst / (1 << 31)
        _out.print(f"no int32 accumulator can overflow: {worst.node} comes closest, {share:.0%}")


def _variant_json(program: Program, variant: Variant) -> dict[str, object]:
    arena = variant.step.plan.peak
    sizes = {"arena_bytes": arena, "sram_bytes": program.state_bytes + arena}
    return {"name": variant.name, "adds": variant.adds, **sizes}


def _print_ablation(program: Program, steps: Sequence[Variant]) -> None:
    table = Table("training step", "", box=None)
    table.add_column("RAM, B", justify="right")
    table.add_column("less than naive", justify="right")
    rams = [program.state_bytes + v.step.plan.peak for v in steps]
    for v, ram in zip(steps, rams, strict=True):
        table.add_row(v.name, v.adds, f"{ram:,}", f"{rams[0] / ram:.1f} x")
    _out.print(table)


def _cost_json(model: Model, method: str, convention: Convention, cost: Cost) -> dict[str, object]:
    return {
        "network": model.name,
        "method": method,
        "convention": convention.value,
        "batch": cost.batch,
        "memory_bytes": asdict(cost.memory),
        "macs": {**asdict(cost.macs), "backward": cost.macs.backward},
    }


def _print_cost(model: Model, method: str, convention: Convention, cost: Cost) -> None:
    memory, macs = cost.memory, cost.macs
    table = Table(show_header=False, box=None)
    table.add_row("network", f"{model.title}, method {method}")
    table.add_row("convention", f"{convention}, {cost.batch} learned at once")
    table.add_row("memory", Text(_kib(memory.total), "bold"))
    parts = {
        "buffers": memory.buffers,
        "saved inputs": memory.saved_inputs,
        "masks": memory.masks,
        "weights": memory.weights,
        "biases": memory.biases,
        "optimizer": memory.optimizer,
        "head": memory.head,
    }
    absent = "in the buffers" if convention is Convention.KILOGRAD else "not counted"
    for name, size in parts.items():
        table.add_row(f"  {name}", absent if size is None else _kib(size))
    if memory.total < sum(size or 0 for size in parts.values()):
        table.add_row("", "buffers, and saved inputs with masks, share their place")
    table.add_row("MACs", f"{_count(macs.forward)} forward, {_count(macs.backward)} backward")
    table.add_row("", f"of which {_count(macs.dx)} dX, {_count(macs.dw)} dW")
    _out.print(table)


def main() -> None:
    """Run the command line; bad input ends with one line and exit code 2."""
    command = get_command(app)
    try:
        # Not app(): what that does on Ctrl-C is typer's own, and changes with its version.
        with command.make_context("kilograd", sys.argv[1:] or ["--help"]) as context:
            command.invoke(context)
        sys.stdout.flush()
    except InputError as e:
        _fail(str(e), 2)
    except _UsageError as e:
        _fail(e.format_message(), 2)
    except typer.Exit as e:
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; nothing was written", 130)
    except BrokenPipeError:  # as in `kilograd demo | head`; what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
