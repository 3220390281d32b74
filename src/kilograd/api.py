"""What the commands do, as functions; `import kilograd` offers them.

Options are given by name, as `kilograd adapt --help` lists them, with underscores; what cannot be
used raises an `InputError`.  What a person should know is logged to the logger `kilograd`.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kilograd.boards import Board, find_board
from kilograd.data import Draw, EpisodeKind, load_dataset, stored_episode
from kilograd.data.remarks import remark_left_out, remark_seen
from kilograd.data.toys import EACH, write_toys
from kilograd.emit.project import PROJECT_FILES
from kilograd.errors import InputError, option
from kilograd.frontend import Arrays, Model, load_model, load_sizes
from kilograd.frontend import pull as fetch
from kilograd.importing import from_file, from_onnx, from_tflite, from_torch
from kilograd.interruption import goes_on
from kilograd.learn.adapt import RESULT_FILES, Outcome, load_task, save
from kilograd.learn.adapt import adapt as learn
from kilograd.learn.adapted import ADAPTED, Adapted
from kilograd.learn.application import application
from kilograd.learn.automatic import CHOSEN
from kilograd.learn.on_board import check_ram, feature_bytes, fitting, within
from kilograd.learn.own_pictures import ROOM
from kilograd.learn.recipe import Compiled, compile_program
from kilograd.learn.unfinished import UNFINISHED, begun
from kilograd.learn.whole import Whole, learn_whole
from kilograd.merging import Merged, merge
from kilograd.options import (
    as_list,
    as_path,
    check_names,
    converted,
    leaves,
    record_given,
    with_given,
)
from kilograd.output import (
    check_apart,
    check_file,
    check_folder,
    check_out,
    whole_folder,
    write_file,
)
from kilograd.progress import Progress, silent
from kilograd.report import (
    Mistake,
    choice,
    comparison,
    comparison_table,
    learning,
    mistakes,
)
from kilograd.report.choice import cost_line
from kilograd.report.evaluation import facts_of, sections_of
from kilograd.report.layers import layers_page
from kilograd.select import write_plan
from kilograd.settings import Build, Settings
from kilograd.sizes import ram_of, spelled
from kilograd.study.evaluate import RESULTS, Evaluation, Line, summarise
from kilograd.study.evaluate import evaluate as study
from kilograd.study.pools import check_jobs
from kilograd.study.suite import Suite, SuiteName, find_sets
from kilograd.study.work import Row
from kilograd.targets import Footprint, check_flash, chosen_target, footprint
from kilograd.tuning import Tuning, tune
from kilograd.use import (
    Learned,
    Prediction,
    Tested,
    learn_further,
    learned_from,
    load_adapted,
    pictures_of,
    predict,
    started,
    test,
)

_log = logging.getLogger(__name__)

__all__ = [
    "Adapted",
    "Build",
    "Comparison",
    "InputError",
    "Merged",
    "Outcome",
    "Prediction",
    "Settings",
    "Tested",
    "Tuning",
    "adapt",
    "evaluate",
    "export",
    "from_file",
    "from_onnx",
    "from_tflite",
    "from_torch",
    "load_adapted",
    "merge",
    "pictures",
    "plan",
    "predict",
    "test",
    "tune",
]

Place = str | Path

_DRAWN = ("ways", "shots", "queries")
"""Options of a task that is drawn."""

_EXAMPLE = 32 << 10
"""Bytes of flash that an example takes beside its program and its images, at most."""


def adapt(  # noqa: PLR0913 options by name
    data: Place,
    model: Place | Model | None = None,
    method: str | None = None,
    settings: Settings | None = None,
    *,
    size: int | str | None = None,
    board: str | None = None,
    start: Learned | None = None,
    forget: Sequence[str] = (),
    episode: Place | None = None,
    seed: int | None = None,
    out: Place | None = None,
    save_plan: Place | None = None,
    force: bool = False,
    progress: Progress | None = None,
    **options: object,
) -> Outcome:
    """Learn new classes from images, and return what was gained.

    `data`: a folder of class folders, or a Parquet file.  `model`: a network's name or folder.
    `method`: what learns, as `kilograd adapt --help` lists it.
    `size`: the side of the images in pixels, where it shall not be the network's own.
    `board`: where the program must fit, as `kilograd boards` lists them.
    All images of all classes take part, but for a share `test` that is held back, unless `ways`,
    `shots`, `queries` or `episode` asks for a drawn task.
    `start`: what was learned before, to go on from: classes are known by their names, new ones are
    added, and those in `forget` dropped.
    `episode`: how classes and images are drawn, or a file of episodes, of which `seed` takes one.
    `out` and `save_plan`: where results and the update plan go; `force` replaces what is there.
    `options` by name: how to draw and learn, as `kilograd adapt --help` lists them; method,
    head, optimiser, passes and rate are chosen to suit, where they are not given.  With `settings`
    nothing is chosen: what they say, or have as their default, holds.

    >>> import kilograd
    >>> kilograd.adapt("photos", shot=5)
    Traceback (most recent call last):
    ...
    kilograd.errors.InputError: shot: no such option; there are shots
    """
    if start is not None:
        given = {"model": model, "size": size, "method": method, "seed": seed, **options}
        others = {"settings": settings, "episode": episode, "save_plan": save_plan, "board": board}
        if odd := [name for name, value in others.items() if value is not None]:
            raise InputError(f"{option(odd[0])}: has no use where learning goes on; leave it out")
        place, told = as_path("data", data), progress or silent
        return _further(start, place, forget, given, out, told, force=force)
    if forget:
        raise InputError(f"{option('forget')}: there is nothing to forget without a start")
    named = {k for k, value in {"method": method, **options}.items() if value is not None}
    chosen = CHOSEN - named if settings is None else frozenset()
    usual = record_given("settings", settings, _usual(options, episode))
    settings = with_given(usual, {"method": method, **options})
    network, place = load_model(model, size), as_path("data", data)
    settings = with_given(settings, {"seed": seed})
    there = _board_for(network, board)
    if there is not None:
        settings = replace(settings, limits=within(settings.limits, there))
    stored = _stored(episode)
    if stored is None:
        settings = with_given(settings, {"episode": episode})
    else:
        _check_as_it_is(settings, stored)
    folder = None if out is None else as_path("out", out)
    plan = None if save_plan is None else as_path("save_plan", save_plan)
    whole = stored is None and settings.draw.episode is EpisodeKind.ALL
    _check_places(place, folder, plan, force=force, resumes=whole)
    if whole:
        with fitting(there, network, settings.recipe):
            work = Whole(network, place, settings, chosen, progress or silent)
            outcome = learn_whole(work, folder, force=force)
    else:
        dataset = load_dataset(place)
        remark_seen(dataset, network)
        if stored is None:
            remark_left_out(dataset, settings.draw)
            drawn = settings.draw(dataset, settings.schedule.seed)
        else:
            drawn = stored_episode(stored, dataset, seed)
            settings = with_given(settings, {"seed": drawn.seed if seed is None else None})
        task = load_task(dataset, drawn, network.preprocess)
        with fitting(there, network, settings.recipe):
            outcome = learn(network, task, settings, progress or silent, chosen)
    if folder is not None:
        save(folder, outcome, _pages(outcome, settings))
    if plan is not None:
        write_plan(plan, network.name, network.graph, outcome.compiled.selection)
    return outcome


def _further(
    start: Learned,
    data: Path,
    forget: Sequence[str],
    given: Mapping[str, object],
    out: Place | None,
    progress: Progress,
    *,
    force: bool,
) -> Outcome:
    """Go on learning, and write what `adapt` writes."""
    check_names(given, ["model", "size", *(leaf.name for leaf in leaves(Settings))])
    folder = None if out is None else as_path("out", out)
    _check_places(data, folder, None, force=force)
    dropped = converted("forget", as_list(forget), list[str])
    outcome = learn_further(start, data, dropped, given, progress)
    if folder is not None:
        save(folder, outcome, _by_pass(outcome))
    return outcome


def _usual(options: Mapping[str, object], episode: Place | None) -> Settings:
    """Return what holds where nobody gives settings: all images, unless a task is to be drawn."""
    drawn = (episode, *(options.get(name) for name in _DRAWN))
    every = all(x is None for x in drawn)
    return Settings(draw=Draw(EpisodeKind.ALL if every else EpisodeKind.FIXED))


def _check_places(
    data: Path, out: Path | None, plan: Path | None, *, force: bool, resumes: bool = False
) -> None:
    """Raise `InputError` where results or an update plan could not be written at the end.

    `resumes`: what `out` holds of unfinished work is gone on with, or refused, later on.
    """
    if out is not None:
        if not (resumes and begun(out)):
            check_out(out, ADAPTED, *RESULT_FILES, UNFINISHED, force=force)
        check_apart(out, data)
    if plan is not None:
        check_file(plan, ".json", force=force, field="save_plan")
        check_apart(plan, data, "save_plan")
        if out is not None and plan.resolve().is_relative_to(out.resolve()):
            raise InputError(f"{option('save_plan')} {plan}: lies in {out}; choose another place")


def _stored(episode: Place | None) -> Path | None:
    """Return the file of an episode that is stored; `None` where one is to be drawn."""
    if episode is None or str(episode) in set(EpisodeKind):
        return None
    if not str(episode).endswith((".json", ".jsonl")):
        raise InputError(
            f"{option('episode')} {episode}: give {', '.join(EpisodeKind)}, or a file .json or "
            ".jsonl of episodes"
        )
    return Path(episode)


def _check_as_it_is(settings: Settings, stored: Path) -> None:
    """Raise `InputError` where a stored episode would have to be another."""
    for name in (*_DRAWN, "test"):
        if (value := getattr(settings.draw, name)) is not None:
            raise InputError(
                f"{option(name)} {value}: the episode in {stored} is as it is; leave this out"
            )


def _pages(outcome: Outcome, settings: Settings) -> dict[str, str]:
    reasons, pages = outcome.compiled.selection.reasons, _by_pass(outcome)
    if reasons:
        cost = cost_line(outcome.compiled, settings.limits.budget(outcome.compiled.model))
        pages["selection.html"] = choice(_title(outcome), reasons, cost)
    return pages


def _by_pass(outcome: Outcome) -> dict[str, str]:
    s, losses, pages = outcome.summary, outcome.pass_losses, dict[str, str]()
    if s.accuracy_by_pass:
        page = learning(_title(outcome), s.accuracy_before, s.accuracy_by_pass, losses, s.tested)
        pages["learning.html"] = page
    wrong, arrays = outcome.tested.wrong, outcome.compiled.model.preprocess.samples
    if outcome.mistaken and isinstance(arrays, Arrays):
        drawn = [
            Mistake(w.image, w.label, w.said, arrays.reals(codes))
            for w, codes in zip(wrong, outcome.mistaken, strict=False)
        ]
        pages["wrong.html"] = mistakes(_title(outcome), drawn, len(wrong), s.tested)
    return pages


def _title(outcome: Outcome) -> str:
    compiled = outcome.compiled
    return f"{compiled.model.title}, {compiled.recipe.method}, {outcome.episode.dataset}"


def pictures(out: Place, each: int = EACH, seed: int = 0) -> tuple[str, ...]:
    """Write a folder of class folders: `each` small pictures of each of six toys, drawn here.

    Returns the names of the classes.  `out` is new, or empty.
    """
    folder = as_path("out", out)
    return write_toys(folder, converted("each", each, int), converted("seed", seed, int))


def pull(name: str, *, from_: Place | None = None, progress: Progress | None = None) -> Path:
    """Fetch a published network from its authors, and return its folder.

    `from_`: its file, or a folder in which that lies, in place of the network.  What is there
    already stays.
    """
    return fetch(name, None if from_ is None else as_path("from_", from_), progress or silent)


def plan(
    model: Place | Model | None = None,
    method: str | None = None,
    ways: int | None = None,
    build: Build | None = None,
    *,
    size: int | str | None = None,
    board: str | None = None,
    adapted: Learned | None = None,
    **options: object,
) -> Compiled:
    """Compile a training program of `ways` classes, by default 10, and return its memory plan.

    `size`: the side of the images in pixels, where it shall not be the network's own.
    `board`: where the program must fit, as `kilograd boards` lists them.
    `adapted`: what was learned: the program starts with it.  Network, method and classes then are
    those of `adapted`.

    >>> program = plan("digits", "last:3", ways=5).program
    >>> program.sram_bytes >= program.sram_lower_bound_bytes
    True
    """
    given = {"method": method, "ways": ways, **options}
    if adapted is not None:
        if build is not None:
            raise InputError(f"build: {option('adapted')} has a recipe; give options by name")
        found = started(adapted, {"model": model, "size": size, **given})
        there = _board_for(found.model, board)
        if there is not None:
            check_ram(found, there)
        return found
    build = with_given(record_given("build", build, Build()), given)
    network = load_sizes(model, size)
    there = _board_for(network, board)
    limits = build.limits if there is None else within(build.limits, there)
    with fitting(there, network, build.recipe):
        return compile_program(network, build.recipe, limits.budget(network))


def export(  # noqa: PLR0913 options by name
    out: Place,
    model: Place | Model | None = None,
    method: str | None = None,
    ways: int | None = None,
    build: Build | None = None,
    *,
    size: int | str | None = None,
    board: str | None = None,
    adapted: Learned | None = None,
    data: Place | None = None,
    target: str | None = None,
    board_ram: str | int | None = None,
    force: bool = False,
    **options: object,
) -> Compiled:
    """Write a C project that stands alone: model.c, model.h, the runtime, build files.

    `adapted`: what was learned: the program starts with it, and learns on from there.
    `data`: images of its classes, a few of which the example has in it, to be recognised.
    `board`: what it is for, as `kilograd boards` lists them; or `target`: the processor, as
    `kilograd export --help` lists them, by default cortex-m7.  `board_ram`: its RAM, stack
    included.  Raises `InputError` where the program does not fit.
    """
    folder = as_path("out", out)
    check_out(folder, "model.h", *PROJECT_FILES, force=force)
    there = find_board_given(board)
    goal, ram = chosen_target(target, there), ram_given(board_ram, there)
    place = None if data is None else as_path("data", data)
    if place is not None:
        if adapted is None:
            raise InputError(f"{option('data')} {place}: needs {option('adapted')}, what it shows")
        check_apart(folder, place)
    places = () if place is None else (place,)
    learned = None if adapted is None else learned_from(adapted, places)
    if learned is None:
        model = load_model(model)
    compiled = plan(model, method, ways, build, size=size, board=board, adapted=learned, **options)
    room = ROOM
    if there is not None:
        need = footprint(compiled.program, goal)
        check_flash(need, there)
        room = min(room, there.flash.size - (need.flash_bytes or need.tables_bytes) - _EXAMPLE)
    classes, pictures = learned.classes if learned else (), None
    if adapted is not None and learned is not None and place is not None:
        pictures = pictures_of(adapted, learned, place, room)
    with whole_folder(folder) as new:
        goal.export(application(compiled, classes=classes, pictures=pictures), new, ram)
    return compiled


def _board_for(network: Model, board: object) -> Board | None:
    """Return the board that is given; `InputError` where its features are too large for it."""
    there = find_board_given(board)
    if there is not None:
        check_flash(Footprint(0, 0, feature_bytes(network.graph)), there)
    return there


def find_board_given(board: object) -> Board | None:
    """Return the board of a name, if one is given."""
    return None if board is None else find_board(converted("board", board, str))


def ram_given(board_ram: str | int | None, board: Board | None) -> int | None:
    """Return the RAM that is given; `InputError` where a board has less."""
    if board_ram is None:
        return None
    ram = ram_of(board_ram, "board_ram")
    if board is not None and ram > board.ram.size:
        raise InputError(
            f"{option('board_ram')} {board_ram}: {option('board')} {board.name} has "
            f"{spelled(board.ram.size)} for a program; leave one away"
        )
    return ram


@dataclass(frozen=True)
class Comparison:
    """Methods on many episodes: a row for each, and what they say together, line by line."""

    asked: Evaluation
    rows: tuple[Row, ...]
    lines: tuple[Line, ...]

    @property
    def table(self) -> str:
        """The results as tables in Markdown, laid out as in TinyTrain's paper."""
        return comparison_table(sections_of(self.asked, self.lines))

    @functools.cached_property
    def layers_page(self) -> str | None:
        """What single layers bring, as a page, where methods are of single layers."""
        return layers_page(self.asked, self.rows, facts_of(self.asked.settings))

    def to_json(self) -> dict[str, object]:
        """Return what summary.json holds."""
        settings = self.asked.settings.named() | {"episodes": self.asked.episodes}
        return {"settings": settings, "results": [asdict(line) for line in self.lines]}


def evaluate(  # noqa: PLR0913 options by name
    data: Place | Sequence[Place],
    out: Place,
    models: Place | Sequence[Place] | None = None,
    methods: Sequence[str] | None = None,
    episodes: int | None = None,
    settings: Settings | None = None,
    *,
    size: int | str | None = None,
    suite: SuiteName | str | None = None,
    jobs: int = 1,
    ray: str | None = None,
    progress: Progress | None = None,
    **options: object,
) -> Comparison:
    """Compare methods on many episodes of several data sets; a begun folder `out` goes on.

    `data`: folders or Parquet files, or the folder of those of a `suite`, which has settings of
    its own; without one, they are those of `settings`.  `size`: the side of the images in pixels,
    for all networks, where it shall not be their own.  A method may have options of its own, as
    in "last:3@lr=0.01,optimizer=adam".  With more `jobs` than one, a script must guard its main
    module.  `ray`: the address of a cluster that learns, in place of this machine.
    """
    jobs = converted("jobs", jobs, int)
    check_jobs(jobs, ray)
    if suite is not None and settings is not None:
        raise InputError(f"{option('suite')} {suite}: has settings of its own; leave one away")
    named = None if suite is None else converted("suite", suite, SuiteName)
    usual = Suite(settings=record_given("settings", settings, Settings()))
    usual = usual if named is None else named.suite
    if "method" in options:
        raise InputError("method: no such option; there are methods")
    settings = with_given(usual.settings, options)
    folder, places = as_path("out", out), _places(data, named)
    names = usual.models if models is None else converted("models", as_list(models), list[Any])
    asked_methods = usual.methods if methods is None else as_list(methods)
    networks = tuple(
        load_model(name, size) for name in ([None] if names is None else map(str, names))
    )
    for place in places:
        check_apart(folder, place)
    check_folder(folder, RESULTS)
    asked = Evaluation(
        tuple(map(load_dataset, places)),
        networks,
        tuple(str(m) for m in converted("methods", asked_methods, list[Any])),
        usual.episodes if episodes is None else converted("episodes", episodes, int),
        settings,
    )
    for dataset in asked.sets:
        remark_left_out(dataset, settings.draw)
        for model in networks:
            remark_seen(dataset, model)
    with goes_on(folder):
        rows = study(folder, asked, jobs, progress or silent, ray)
        found = Comparison(asked, rows, summarise(rows))
        _write(folder, found)
    return found


def _places(data: Place | Sequence[Place], suite: SuiteName | None) -> tuple[Path, ...]:
    places = tuple(as_path("data", p) for p in converted("data", as_list(data), list[Any]))
    if suite is not None and len(places) == 1 and places[0].is_dir():
        return find_sets(places[0], suite)
    return places


def _write(out: Path, found: Comparison) -> None:
    facts = facts_of(found.asked.settings)
    sections = sections_of(found.asked, found.lines)
    write_file(out / "summary.json", json.dumps(found.to_json(), indent=1) + "\n")
    write_file(out / "table.md", f"{found.table}{facts}\n")
    write_file(out / "comparison.html", comparison("Methods compared", facts, sections))
    if found.layers_page:
        write_file(out / "layers.html", found.layers_page)
