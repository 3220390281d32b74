"""Device: the program on a microcontroller, a Pi or in a browser, emulated or as a C project."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from kilograd import api, limits
from kilograd.boards import BOARDS, Board
from kilograd.cli.command import (
    AdaptedOption,
    AsJson,
    BoardName,
    Group,
    ImageSize,
    ModelName,
    command,
    with_settings,
)
from kilograd.cli.console import OUT, Table, bar, fail, say
from kilograd.cli.memory import (
    about,
    memory_json,
    memory_rows,
    needs,
    show_rows,
    spare,
    time_json,
    time_rows,
)
from kilograd.cli.numbers import in_short, kib
from kilograd.errors import InputError
from kilograd.learn.recipe import Compiled
from kilograd.options import check_most
from kilograd.settings import Build
from kilograd.targets import (
    TARGETS,
    CrossCompiler,
    Emulator,
    Measurement,
    check_flash,
    chosen_target,
    footprint,
    measure,
    seconds,
)

app = typer.Typer()

_NAMES = [t.name for t in TARGETS]
Target = Annotated[
    str | None,
    typer.Option(
        help=f"The processor, by default that of the board, or cortex-m7: {', '.join(_NAMES)}.",
        autocompletion=lambda: _NAMES,
    ),
]
BoardRam = Annotated[str | None, typer.Option(help="RAM of the board, stack included, e.g. 192K.")]


@command(app, "boards", Group.DEVICE)
def boards_command(as_json: AsJson = False) -> None:
    """List the boards that are known: processor, clock, and the memory a program may use."""
    if as_json:
        print(json.dumps({"boards": [board_json(b) for b in BOARDS]}))
        return
    table = Table("name", "maker", "core", box=None)
    for name in ("MHz", "RAM", "flash"):
        table.add_column(name, justify="right")
    for b in BOARDS:
        sizes = (f"{region.size >> 10}K" for region in (b.ram, b.flash))
        table.add_row(b.name, b.maker, b.chip.core, str(b.mhz), *sizes)
    OUT.print(table)
    say("RAM and flash are what a program may use; docs/boards.md says where each figure is from")


def board_json(board: Board) -> dict[str, object]:
    """Return a board as JSON."""
    chip = board.chip
    return {
        "name": board.name,
        "title": board.title,
        "maker": board.maker,
        "chip": chip.part,
        "core": chip.core,
        "fpu": chip.fpu,
        "clock_mhz": board.mhz,
        "ram_usable_bytes": board.ram.size,
        "ram_origin": board.ram.origin,
        "ram_total_bytes": board.ram_total,
        "flash_usable_bytes": board.flash.size,
        "flash_origin": board.flash.origin,
        "sources": [board.source, chip.memory, chip.manual],
        "note": board.note,
    }


@command(app, "run", Group.DEVICE)
@with_settings(Build(), unset=True)
def run_command(
    *,
    model: ModelName = None,
    size: ImageSize = None,
    adapted: AdaptedOption = None,
    settings: dict[str, Any],
    board: BoardName = None,
    target: Target = None,
    board_ram: BoardRam = None,
    compiler: Annotated[
        CrossCompiler, typer.Option(help="clang comes with ziglang; gcc is the system's.")
    ] = CrossCompiler.CLANG,
    emulator: Annotated[
        Emulator, typer.Option(help="unicorn comes from PyPI; qemu is the system's.")
    ] = Emulator.UNICORN,
    steps: Annotated[int, typer.Option(help="Training steps to run and compare.")] = 20,
    seed: Annotated[int, typer.Option(help="Makes the run repeatable.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Build the firmware, run it in an emulator, and measure it."""
    if steps < 1:
        raise InputError(f"--steps {steps}: must be at least 1")
    check_most("steps", steps, limits.COUNT)
    if not 0 <= seed <= limits.SEED:
        raise InputError(f"--seed {seed}: must be in 0 ... {limits.SEED}")
    there = api.find_board_given(board)
    device = chosen_target(target, there).with_tools(compiler, emulator)
    ram = api.ram_given(board_ram, there)
    compiled = api.plan(model, size=size, board=board, adapted=adapted, **settings)
    if there is not None:
        check_flash(footprint(compiled.program, device), there)
    with bar("emulating") as progress:
        found = measure(
            compiled.program,
            device,
            steps,
            seed,
            ram=ram,
            progress=progress,
        )
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        show_measurement(compiled, found)
        if there is not None:
            say(f"{there.title} {spare(footprint(compiled.program, device), there)}")
            say(counted_time(found, there))
    if not found.bit_exact:
        fail(f"{found.target} and this machine disagree: a defect of kilograd")


@command(app, "export", Group.DEVICE)
@with_settings(Build(), unset=True)
def export_command(
    out: Annotated[Path, typer.Option(help="Folder for the C project.")],
    *,
    model: ModelName = None,
    size: ImageSize = None,
    adapted: AdaptedOption = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Images of the classes of --adapted: the example recognises a few of them.",
            metavar="DATA",
        ),
    ] = None,
    settings: dict[str, Any],
    board: BoardName = None,
    target: Target = None,
    board_ram: BoardRam = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the folder if it exists.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a C project that stands alone: model.c, model.h, the runtime, build files."""
    compiled = api.export(
        out,
        model,
        size=size,
        board=board,
        adapted=adapted,
        data=data,
        target=target,
        board_ram=board_ram,
        force=force,
        **settings,
    )
    there = api.find_board_given(board)
    need = needs(compiled.program, there)
    if as_json:
        files = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
        sizes: dict[str, object] = {
            "sram_bytes": compiled.program.sram_bytes,
            **memory_json(need, there),
        }
        sizes |= time_json(compiled.program, there)
        print(json.dumps({"out": str(out), **sizes, "files": files}))
        return
    show_rows([*memory_rows(need, there), *time_rows(compiled.program, there)])
    say(f"Written to {out}: start with README.md")


def show_measurement(compiled: Compiled, found: Measurement) -> None:
    """Print what a program needs on a target."""
    table = Table(show_header=False, box=None)
    exact = "every loss and every byte kept equal this machine's"
    rows = (
        ("target", f"{found.target} ({found.tools})"),
        ("network", f"{compiled.model.title}, method {compiled.recipe.method}"),
        *_ram(found),
        ("  state", kib(found.data_bss_bytes - found.arena_bytes)),
        ("  arena", kib(found.arena_bytes)),
        ("  stack", _stack(found)),
        ("flash", kib(found.flash_bytes)),
        ("  tables", kib(found.tables_bytes)),
        *_counts(found),
        ("bit exact", f"yes, {found.steps} steps: {exact}" if found.bit_exact else "NO"),
    )
    for row in rows:
        table.add_row(*row)
    OUT.print(table)


def counted_time(found: Measurement, board: Board) -> str:
    """Write how long calls may take on a board, from the instructions that were counted."""
    counts = ("forward", found.instructions_forward), ("step", found.instructions_step)
    texts = [f"{what} {about(seconds(n, board))}" for what, n in counts if n is not None]
    told = f"time at {board.mhz} MHz, which nobody measured"
    return f"{told}: {', '.join(texts) or 'nothing was counted'}"


def _ram(found: Measurement) -> list[tuple[str, str]]:
    if found.ram_bound_bytes is None:
        return [("RAM", kib(found.ram_bytes))]
    return [("RAM, at most", kib(found.ram_bound_bytes)), ("  in this run", kib(found.ram_bytes))]


def _counts(found: Measurement) -> list[tuple[str, str]]:
    if found.instructions_forward is None:
        return [(found.counted, "not counted by this emulator")]
    rows = [(found.counted, f"{in_short(found.instructions_forward)} forward")]
    if found.instructions_prefix is not None:
        rows.append(("", f"{in_short(found.instructions_prefix)} a kept view"))
    if found.instructions_step is not None:
        rows.append(("", f"{in_short(found.instructions_step)} a training step"))
    return rows


def _stack(found: Measurement) -> str:
    if found.stack_bound_bytes is None:
        return f"{kib(found.stack_bytes)} in linear memory"
    without = f", calls through pointers in {', '.join(found.unresolved)} not counted"
    bound = f"at most {found.stack_bound_bytes:,} B"
    return f"{kib(found.stack_bytes)}, {bound}{without if found.unresolved else ''}"
