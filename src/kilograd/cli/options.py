"""Options, and what they stand for."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

import typer

from kilograd import limits
from kilograd.errors import InputError
from kilograd.frontend import (
    Model,
    load_model,
)
from kilograd.learn.augment import Augment
from kilograd.learn.recipe import Compiled, HeadKind, OptimizerKind, Recipe, compile_recipe
from kilograd.select import METHODS, Budget, Evidence, Inspect
from kilograd.targets import TARGETS, CrossCompiler, Emulator

_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,9})?"


def parse_bytes(text: str, option: str = "--sram") -> int:
    """Read a size.

    >>> parse_bytes("256K"), parse_bytes("1.5 MiB"), parse_bytes("64000")
    (262144, 1572864, 64000)
    """
    match = re.fullmatch(rf"\s*({_NUMBER})\s*([KkMm]?)(?:i?[Bb])?\s*", text)
    if not match:
        raise InputError(f"{option} {text!r}: give bytes, or a number with K or M, as in 256K")
    return int(Decimal(match[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20}[match[2].lower()])


def parse_macs(text: str, full: int) -> int:
    """Read a number of multiply-accumulates, or a share of a `full` backward pass.

    >>> parse_macs("6.7M", 0), parse_macs("500k", 0), parse_macs("15%", 1000)
    (6700000, 500000, 150)
    """
    match = re.fullmatch(rf"\s*({_NUMBER})\s*([KkMm%]?)\s*", text)
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


def check_seed(seed: int) -> None:
    """Raise `InputError` for a seed that is none."""
    if not 0 <= seed <= limits.SEED:
        raise InputError(f"--seed {seed}: must be in 0 ... {limits.SEED}")


def at_most(limit: int) -> Callable[[typer.CallbackParam, int | None], int | None]:
    """Return what checks an option against its limit."""

    def check(param: typer.CallbackParam, value: int | None) -> int | None:
        if value is not None and value > limit:
            raise InputError(f"{param.opts[0]} {value}: {limit} is the most")
        return value

    return check


_count, _ways = at_most(limits.COUNT), at_most(limits.WAYS)

ModelName = Annotated[str, typer.Option("--model", help="Name of a network, or its folder.")]
Method = Annotated[str, typer.Option(help=f"What learns: {', '.join(METHODS)}.")]
Head = Annotated[
    HeadKind | None, typer.Option(help="proto (default) or linear (default of method head).")
]
Optimizer = Annotated[OptimizerKind, typer.Option(help="How a gradient becomes a step.")]
Accumulate = Annotated[int, typer.Option(help="Samples averaged for one update.", callback=_count)]
Cache = Annotated[
    int,
    typer.Option(
        help="Keep the frozen layers' output for so many views of an image; 0: none.",
        callback=_count,
    ),
]
CacheBytes = Annotated[
    str | None,
    typer.Option(help="In place of --cache: as many views as fit, e.g. 512K; beside the RAM."),
]
PrototypeGradients = Annotated[
    bool,
    typer.Option("--prototype-gradients", help="Learn through prototypes too; a further pass."),
]
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
Iterations = Annotated[int, typer.Option(help="Passes over the support images.", callback=_count)]
Rate = Annotated[float, typer.Option(help="Learning rate, in real units.")]
Warmup = Annotated[
    int, typer.Option(help="Passes at first in which the rate rises from zero.", callback=_count)
]
Ways = Annotated[
    int | None, typer.Option(help="Classes; default: all, at most 10.", callback=_ways)
]
HeadWays = Annotated[int, typer.Option(help="Classes of the head.", callback=_ways)]
Jobs = Annotated[
    int, typer.Option(help="Processes that learn at once.", callback=at_most(limits.JOBS))
]
Shots = Annotated[
    int | None, typer.Option(help="Support images of each class; default: 5.", callback=_count)
]
Queries = Annotated[
    int | None,
    typer.Option(help="Test images of each class, at most; default: 15.", callback=_count),
]
Guard = Annotated[
    bool, typer.Option("--guard", help="Stop early where held-out support images get worse.")
]
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
    cache: Cache = 0
    prototype_gradients: PrototypeGradients = False
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
        return budget_of(self.network, self.sram, self.compute, self.channels)

    def compile(self, ways: int, inspect: Inspect | None = None) -> Compiled:
        """Choose what learns and compile it.

        Raises `InputError` for a cache that saves nothing: only a comparison has a use for it.
        """
        recipe = Recipe(
            self.method,
            ways,
            self.head,
            self.optimizer,
            self.accumulate,
            rows=self.rows,
            recompute=self.recompute,
            exact=self.exact,
            cache=self.cache,
            prototype_gradients=self.prototype_gradients,
        )
        compiled = compile_recipe(self.network, recipe, self.budget, inspect)
        if self.cache and "prefix" not in compiled.program.entries:
            raise InputError(
                f"--cache {self.cache}: method {self.method} on {self.network.name} learns from "
                f"the first layer on, so no work can be kept; leave the option away, or choose a "
                f"method that learns in fewer layers"
            )
        return compiled


def with_options(command: Callable[..., None]) -> Callable[..., None]:
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


def budget_of(
    network: Model, sram: str | None, compute: str | None, channels: float | None
) -> Budget:
    """Read what a program of a network may cost."""
    full = Evidence(network.name, network.graph, network.layers).full_backward()
    return Budget(
        None if sram is None else parse_bytes(sram),
        None if compute is None else parse_macs(compute, full),
        channels,
    )


def cache_limit(cache: int, text: str | None) -> int | None:
    """Read the bytes for latents; `InputError` where the number of views is given as well."""
    if text is not None and cache:
        raise InputError(f"--cache {cache}: --cache-bytes says how many views; leave one away")
    return None if text is None else parse_bytes(text, "--cache-bytes")


_TARGETS = [t.name for t in TARGETS]
TargetName = Annotated[
    str,
    typer.Option(
        "--target",
        help=f"The processor: {', '.join(_TARGETS)}.",
        autocompletion=lambda: _TARGETS,
    ),
]
CompilerName = Annotated[
    CrossCompiler, typer.Option(help="clang comes with ziglang; gcc is the system's.")
]
EmulatorName = Annotated[
    Emulator, typer.Option(help="unicorn comes from PyPI; qemu is the system's.")
]
BoardRam = Annotated[str | None, typer.Option(help="RAM of the board, stack included, e.g. 192K.")]


def ram_of(board_ram: str | None) -> int | None:
    """Read the RAM of a board."""
    return None if board_ram is None else parse_bytes(board_ram, "--board-ram")


def split_names(text: str) -> tuple[str, ...]:
    """Split names at commas."""
    return tuple(name for name in map(str.strip, text.split(",")) if name)
