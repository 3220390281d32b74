"""The commands: each a few lines over the public API."""

from __future__ import annotations

import errno
import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.main import get_command

import kilograd
from kilograd import interruption, limits
from kilograd.cli import offline
from kilograd.cli import search as searching
from kilograd.cli.options import (
    Accumulate,
    AsJson,
    Augmentation,
    BoardRam,
    Cache,
    CacheBytes,
    Channels,
    CompilerName,
    Compute,
    EmulatorName,
    Exact,
    Guard,
    Head,
    HeadWays,
    Iterations,
    Jobs,
    Method,
    ModelName,
    Optimizer,
    Options,
    PrototypeGradients,
    Queries,
    Rate,
    Recompute,
    Rows,
    Seed,
    Shots,
    Sram,
    TargetName,
    Warmup,
    Ways,
    at_most,
    cache_limit,
    check_seed,
    ram_of,
    split_names,
    with_options,
)
from kilograd.cli.show import (
    ERR,
    OUT,
    Table,
    cost_json,
    cost_line,
    facts_of,
    in_short,
    map_json,
    mention,
    mention_left_out,
    mention_trained_on,
    say,
    sections_of,
    show_ablation,
    show_choice,
    show_contribution,
    show_cost,
    show_digits,
    show_evaluation,
    show_map,
    show_measurement,
    show_outcome,
    variant_json,
)
from kilograd.emit.project import PROJECT_FILES
from kilograd.errors import InputError, shown
from kilograd.frontend import (
    available_models,
    load_model,
    model_places,
    with_last_conv,
)
from kilograd.interruption import goes_on
from kilograd.learn.adapt import (
    ADAPTED,
    RESULT_FILES,
    Outcome,
    Samples,
    Schedule,
    adapt,
    load_samples,
    save,
)
from kilograd.learn.augment import Augment
from kilograd.learn.contribution import (
    analysis,
    check_contribution,
    contribution,
    write_contribution,
)
from kilograd.learn.cost import Convention, count
from kilograd.learn.data import Dataset, load_dataset
from kilograd.learn.digits import load_digits
from kilograd.learn.episodes import (
    Draw,
    Episode,
    EpisodeKind,
    sample_episode,
    stored_episode,
)
from kilograd.learn.evaluate import (
    RESULTS,
    Evaluation,
    Network,
    evaluate,
    summarise,
)
from kilograd.learn.guard import passes_that_help, trials
from kilograd.learn.inspect import inspector
from kilograd.learn.recipe import Compiled, OptimizerKind, Recipe, compile_recipe
from kilograd.learn.suite import Suite, SuiteName, find_sets
from kilograd.learn.views import within
from kilograd.learn.work import Row, Settings
from kilograd.output import (
    FULL,
    check_apart,
    check_file,
    check_folder,
    check_out,
    whole_folder,
    write_file,
)
from kilograd.report import (
    ablation,
    choice,
    comparison,
    comparison_table,
    contribution_page,
    page,
    without,
)
from kilograd.select import Budget, write_plan
from kilograd.targets import (
    CORTEX_M7,
    CrossCompiler,
    Emulator,
    build_host,
    find_target,
    measure,
)

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train neural networks in kilobytes.",
)
app.add_typer(offline.app)
app.add_typer(searching.app)
# What typer raises for bad usage; it may be of a copy of click that typer keeps private.
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])
# How writing to standard output fails.
_UNWRITABLE = (*FULL, errno.EPIPE, errno.EIO)

DEMO_DIGITS = (5, 6, 7, 8, 9)  # the bundled network was trained on 0 to 4 only


def _episode(dataset: Dataset, kind: str, draw: Draw, seed: int | None) -> Episode:
    """Name what cannot be used, and draw from the rest; or read an episode that is stored."""
    if kind in set(EpisodeKind):
        mention_left_out(dataset, draw.least_shots)
        return draw(dataset, seed or 0)
    return stored_episode(Path(kind), dataset, seed)


def _draw(kind: str, ways: int | None, shots: int | None, queries: int | None) -> Draw:
    if kind in set(EpisodeKind):
        return Draw(EpisodeKind(kind), ways, shots, queries)
    if not kind.endswith((".json", ".jsonl")):
        kinds = ", ".join(EpisodeKind)
        raise InputError(f"--episode {kind}: give {kinds}, or a file .json or .jsonl of episodes")
    for name, value in (("ways", ways), ("shots", shots), ("queries", queries)):
        if value is not None:
            raise InputError(f"--{name} {value}: the episode in {kind} is as it is; leave this out")
    return Draw()


@app.command("adapt")
@with_options
def adapt_command(
    data: Annotated[Path, typer.Argument(help="Folder of class folders, or a Parquet file.")],
    options: Options,
    ways: Ways = None,
    shots: Shots = None,
    queries: Queries = None,
    kind: Annotated[
        str,
        typer.Option(
            "--episode",
            help="fixed: ways and shots as given; meta-dataset: drawn as there; or a FILE.json "
            "or .jsonl with stored episodes, of which --seed takes one.",
        ),
    ] = EpisodeKind.FIXED,
    iterations: Iterations = 10,
    lr: Rate = 0.003,
    warmup: Warmup = 0,
    augment: Augmentation = Augment.FULL,
    seed: Annotated[
        int | None,
        typer.Option(help="Makes the run repeatable; default: 0, or that of a stored episode."),
    ] = None,
    guard: Guard = False,
    cache_bytes: CacheBytes = None,
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
    schedule = Schedule(iterations, lr, augment, seed or 0, warmup)
    latents = cache_limit(options.cache, cache_bytes)
    options = replace(options, cache=options.cache or int(latents is not None))
    draw = _draw(kind, ways, shots, queries)
    if out is not None:
        check_out(out, ADAPTED, *RESULT_FILES, force=force)
        check_apart(out, data)
    if save_plan is not None:
        check_file(save_plan, ".json", force=force, option="--save-plan")
        check_apart(save_plan, data, "--save-plan")
    dataset = load_dataset(data)
    mention_trained_on(options.network, dataset)
    episode = _episode(dataset, kind, draw, seed)
    if seed is None:
        schedule = replace(schedule, seed=episode.seed)
    support = load_samples(
        dataset, episode.support, episode.support_labels, options.network.preprocess
    )
    inspect = inspector(options.network, support, schedule)
    compiled = options.compile(len(episode.classes), inspect)
    compiled = within(latents, compiled, len(support.labels), augment, iterations)
    passes = _guarded(compiled, support, schedule, quiet=as_json) if guard else None
    outcome = _run(compiled, dataset, episode, schedule, passes, quiet=as_json)
    reasons = compiled.selection.reasons
    if out is not None:
        title = f"{compiled.model.title}, {options.method}, {episode.dataset}"
        cost = cost_line(compiled, options.budget)
        pages = {"selection.html": choice(title, reasons, cost)} if reasons else {}
        save(out, compiled, episode, outcome, pages)
    if save_plan is not None:
        write_plan(save_plan, compiled.model.name, compiled.selection)
    if as_json:
        why = {"selection": [asdict(r) for r in reasons]} if explain else {}
        print(json.dumps(asdict(outcome.summary) | why))
        return
    show_outcome(compiled, outcome)
    if explain:
        show_choice(compiled, options.budget)
    if out is not None:
        more = ", selection.html" if reasons else ""
        say(f"Written to {out}: adapted.safetensors, episode.json, result.json{more}")
    if save_plan is not None:
        say(f"Written to {save_plan}: give it as --method {save_plan}")


@app.command("evaluate")
def evaluate_command(
    data: Annotated[
        str,
        typer.Option(
            help="Folders or Parquet files, with commas between; or the folder of those of --suite."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results; a begun one goes on.")],
    suite: Annotated[
        SuiteName | None,
        typer.Option(help="A comparison to show; other options change it, defaults are its own."),
    ] = None,
    models: Annotated[
        str | None, typer.Option(help="Networks, with commas between; default: digits.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods, with commas between; differences are to the first; default: none,last."
        ),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(help="Episodes of each data set; default: 10.")
    ] = None,
    ways: Ways = None,
    shots: Shots = None,
    queries: Queries = None,
    kind: Annotated[
        EpisodeKind | None,
        typer.Option("--episode", help="Ways and shots: as given, or drawn as Meta-Dataset does."),
    ] = None,
    head: Head = None,
    optimizer: Annotated[
        OptimizerKind | None, typer.Option(help="How a gradient becomes a step; default: sgd.")
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            help="Samples averaged for one update; default: 1.", callback=at_most(limits.COUNT)
        ),
    ] = None,
    prototype_gradients: PrototypeGradients = False,
    rows: Rows = False,
    recompute: Recompute = False,
    cache: Annotated[
        int | None,
        typer.Option(
            help="Keep the frozen layers' output for so many views of an image; 0: none.",
            callback=at_most(limits.COUNT),
        ),
    ] = None,
    cache_bytes: CacheBytes = None,
    sram: Sram = None,
    compute: Compute = None,
    channels: Channels = None,
    exact: Exact = False,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate, in real units; METHOD@LR has its own; default: 0.003."),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            help="Passes over the support images; default: 10.", callback=at_most(limits.COUNT)
        ),
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(
            help="Passes at first in which the rate rises from zero.",
            callback=at_most(limits.COUNT),
        ),
    ] = None,
    augment: Annotated[
        Augment | None, typer.Option(help="Random views of the support images; default: full.")
    ] = None,
    guard: Guard = False,
    seed: Annotated[
        int | None, typer.Option(help="Episode number e has the seed SEED + e; default: 0.")
    ] = None,
    jobs: Jobs = 1,
    ray: Annotated[
        str | None, typer.Option(help="Learn on a Ray cluster: HOST:PORT, or auto.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare methods on many episodes of several data sets; interrupted, it goes on later."""
    usual = Suite() if suite is None else suite.suite
    given: dict[str, Any] = {
        "episode": kind,
        "ways": ways,
        "shots": shots,
        "queries": queries,
        "head": head,
        "optimizer": optimizer,
        "accumulate": accumulate,
        "prototype_gradients": prototype_gradients or None,
        "rows": rows or None,
        "recompute": recompute or None,
        "cache": cache,
        "cache_bytes": cache_bytes,
        "sram": sram,
        "compute": compute,
        "channels": channels,
        "exact": exact or None,
        "iterations": iterations,
        "lr": lr,
        "warmup": warmup,
        "augment": augment,
        "guard": guard or None,
        "seed": seed,
    }
    settings = replace(usual.settings, **{k: v for k, v in given.items() if v is not None})
    options = [
        Options(m, sram=settings.sram, compute=settings.compute, channels=settings.channels)
        for m in (usual.models if models is None else split_names(models))
    ]
    latents = cache_limit(settings.cache, settings.cache_bytes)
    networks = tuple(Network(o.network, replace(o.budget, cache=latents)) for o in options)
    places = tuple(map(Path, split_names(data)))
    if suite is not None and len(places) == 1 and places[0].is_dir():
        places = find_sets(places[0], suite)
    for place in places:
        check_apart(out, place)
    check_folder(out, RESULTS)
    sets = tuple(map(load_dataset, places))
    asked = Evaluation(
        sets,
        networks,
        usual.methods if methods is None else split_names(methods),
        usual.episodes if episodes is None else episodes,
        settings,
    )
    for dataset in sets:
        mention_left_out(dataset, settings.draw.least_shots)
        for n in networks:
            mention_trained_on(n.model, dataset)
    with goes_on(out):
        found = _evaluated(out, asked, jobs, ray, quiet=as_json)
        lines = summarise(found)
        summary = {
            "settings": settings.named() | {"episodes": asked.episodes},
            "results": [asdict(line) for line in lines],
        }
        sections, facts = sections_of(asked, lines), facts_of(asked)
        table = comparison_table(sections)
        write_file(out / "summary.json", json.dumps(summary, indent=1) + "\n")
        write_file(out / "table.md", f"{table}{facts}\n")
        write_file(out / "comparison.html", comparison("Methods compared", facts, sections))
    if as_json:
        print(json.dumps(summary))
        return
    if suite is None:
        show_evaluation(asked, lines)
    else:
        for line in table.splitlines():
            say(line)
    files = "evaluation.sqlite, episodes.jsonl, summary.json, table.md, comparison.html"
    say(f"Written to {out}: {files}")


@app.command("contribution")
def contribution_command(
    data: Annotated[str, typer.Option(help="Folders or Parquet files, with commas between.")],
    out: Annotated[
        Path, typer.Option(help="File for the analysis: FILE.json; FILE.html shows it.")
    ],
    model: ModelName = "digits",
    episodes: Annotated[int, typer.Option(help="Episodes of each data set, at least 2.")] = 10,
    ways: Ways = None,
    shots: Shots = None,
    queries: Queries = None,
    head: Head = None,
    optimizer: Optimizer = OptimizerKind.ROWRMS,
    accumulate: Accumulate = 1,
    cache: Cache = 4,
    lr: Rate = 0.001,
    iterations: Iterations = 10,
    warmup: Warmup = 0,
    augment: Augmentation = Augment.FULL,
    seed: Annotated[int, typer.Option(help="Episode number e has the seed SEED + e.")] = 0,
    jobs: Jobs = 1,
    ray: Annotated[
        str | None, typer.Option(help="Learn on a Ray cluster: HOST:PORT, or auto.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure what each layer brings when it alone learns; interrupted, it goes on later."""
    settings = Settings(
        ways=ways,
        shots=shots,
        queries=queries,
        head=head,
        optimizer=optimizer,
        accumulate=accumulate,
        cache=cache,
        iterations=iterations,
        lr=lr,
        warmup=warmup,
        augment=augment,
        seed=seed,
    )
    network = load_model(model)
    rows = check_contribution(out, network)
    places = tuple(map(Path, split_names(data)))
    for place in places:
        check_apart(out, place)
    sets = tuple(map(load_dataset, places))
    asked = analysis(network, sets, episodes, settings)
    for dataset in sets:
        mention_left_out(dataset, settings.draw.least_shots)
        mention_trained_on(network, dataset)
    with goes_on(rows):
        found = contribution(asked, _evaluated(rows, asked, jobs, ray, quiet=as_json))
        facts = facts_of(asked)
        write_contribution(out, found)
        html = contribution_page(network.title, found, network.graph, facts)
        write_file(out.with_suffix(".html"), html)
    if as_json:
        print(json.dumps(found.to_json()))
        return
    show_contribution(network, found)
    say(f"Written to {out} and {out.with_suffix('.html')}; every episode is in {rows}")


@app.command()
@with_options
def plan(
    options: Options,
    ways: HeadWays = 10,
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
        parts = {"ablation": [variant_json(program, v) for v in steps]} if with_ablation else {}
        print(json.dumps(map_json(program, chosen) | parts))
        return
    show_map(compiled, chosen)
    if with_ablation:
        show_ablation(program, steps)
    if out is not None:
        say(f"Written to {out}")


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
    ways: HeadWays = 10,
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
        print(json.dumps(cost_json(network, method, convention, cost)))
    else:
        show_cost(network, method, convention, cost)


@app.command("run")
@with_options
def run_command(
    options: Options,
    target: TargetName = CORTEX_M7.name,
    ways: HeadWays = 10,
    board_ram: BoardRam = None,
    compiler: CompilerName = CrossCompiler.CLANG,
    emulator: EmulatorName = Emulator.UNICORN,
    steps: Annotated[
        int,
        typer.Option(help="Training steps to run and compare.", callback=at_most(limits.COUNT)),
    ] = 20,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Build the firmware, run it in an emulator, and measure it there."""
    if steps < 1:
        raise InputError(f"--steps {steps}: must be at least 1")
    check_seed(seed)
    compiled = options.compile(ways)
    columns = (TextColumn("emulating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=ERR, disable=as_json, transient=True) as bar:
        task = bar.add_task("emulating", total=steps)
        found = measure(
            compiled.program,
            find_target(target).with_tools(compiler, emulator),
            steps,
            seed,
            ram=ram_of(board_ram),
            progress=lambda done: bar.update(task, completed=done),
        )
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        show_measurement(compiled, found)
    if not found.bit_exact:
        _fail(f"{found.target} and this machine disagree: a defect of kilograd", 1)


@app.command("export")
@with_options
def export_command(
    out: Annotated[Path, typer.Option(help="Folder for the C project.")],
    options: Options,
    target: TargetName = CORTEX_M7.name,
    ways: HeadWays = 10,
    board_ram: BoardRam = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the folder if it exists.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a C project that stands alone: model.c, model.h, the runtime, build files."""
    check_out(out, "model.h", *PROJECT_FILES, force=force)
    compiled = options.compile(ways)
    with whole_folder(out) as folder:
        find_target(target).export(compiled.program, folder, ram_of(board_ram))
    if as_json:
        files = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
        sizes = {"sram_bytes": compiled.program.sram_bytes}
        print(json.dumps({"out": str(out), **sizes, "files": files}))
    else:
        say(f"Written to {out}: start with README.md")


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the networks that can be named, and where they were found."""
    loaded, broken = [], {}
    for found in available_models():
        try:
            loaded.append((found, load_model(str(found.path))))
        except InputError as e:
            broken[str(found.path)] = str(e)
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
        print(json.dumps({"models": rows, "broken": broken}))
        return
    table = Table("name", "network", "input", "layers", "MACs", "found in", box=None)
    for f, m in loaded:
        size = f"{m.preprocess.size}x{m.preprocess.size}x{m.preprocess.channels}"
        layers, macs = str(len(m.layers)), in_short(m.graph.macs())
        table.add_row(f.name, m.title, size, layers, macs, f.origin)
    OUT.print(table)
    for reason in broken.values():
        mention(f"broken: {reason}")
    say("Searched: " + "; ".join(f"{origin} {place}" for origin, place in model_places()))


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
    show_outcome(compiled, outcome)
    show_digits(dataset, episode, outcome)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(kilograd.__version__)
        raise typer.Exit


def _guarded(compiled: Compiled, support: Samples, schedule: Schedule, *, quiet: bool) -> int:
    """Try on held-out images of the support how far to train, and say what was found."""
    found = trials(build_host(compiled.program), compiled, support, schedule)
    passes = passes_that_help(found)
    if not quiet:
        tried = ", ".join(f"{sum(t.right)} after {t.passes}" for t in found)
        total = len(support.labels)
        mention(f"held-out images right, of {total}: {tried} passes; {passes} it is")
    return passes


def _evaluated(
    out: Path, asked: Evaluation, jobs: int, ray: str | None, *, quiet: bool
) -> tuple[Row, ...]:
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    unseen = quiet or not ERR.is_terminal
    with Progress(*columns, console=ERR, disable=unseen, transient=True) as bar:
        task = bar.add_task("evaluating", total=None)
        return evaluate(
            out, asked, jobs, lambda done, of: bar.update(task, completed=done, total=of), ray
        )


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
    with Progress(*columns, console=ERR, disable=quiet, transient=True) as bar:
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


def main() -> None:
    """Run the command line; bad input ends with one line and exit code 2."""
    code: int | None
    try:
        code = _run_command(sys.argv[1:] or ["--help"])
    except BaseException as e:
        code = _error(e)
        if code is None:
            raise
    finally:
        interruption.over()
    if code:
        sys.exit(code)


def _run_command(words: list[str]) -> int:
    """Run a command and return its exit code, whatever it raises."""
    interruption.begin()
    command = get_command(app)
    try:
        # Not app(): what that does on Ctrl-C is typer's own, and changes with its version.
        with command.make_context("kilograd", words) as context:
            command.invoke(context)
    except typer.Exit as e:
        return e.exit_code
    finally:
        sys.stdout.flush()
    return 0


def _error(e: BaseException) -> int | None:
    """Say in one line why a command ended, and return its exit code; None: a defect, or an exit."""
    if code := interruption.code_of(e):
        ERR.show_cursor()  # a bar that was torn down may have left it hidden
        return _said(interruption.said(e), code)
    if isinstance(e, InputError):
        return _said(str(e), 2)
    if isinstance(e, _UsageError):
        return _said(e.format_message(), 2)
    if isinstance(e, OSError) and e.filename is None and e.errno in _UNWRITABLE:
        # Files and folders name themselves: it is standard output.  What it holds goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if e.errno == errno.EPIPE:  # as in `kilograd demo | head`
            return 1
        return _said(f"the output cannot be written ({e.strerror})", 2)
    return None


def _said(message: str, code: int) -> int:
    with suppress(OSError):
        print(f"error: {shown(message)}", file=sys.stderr, flush=True)
    return code


def _fail(message: str, code: int) -> NoReturn:
    sys.exit(_said(message, code))
