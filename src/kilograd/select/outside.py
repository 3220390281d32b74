"""Strategies that live outside of Kilograd: in a file that the user names, or in a package.

Loading one runs its code.  That happens only where somebody gives it as a method: no file of
results, plan or suite can make it happen.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from kilograd.errors import InputError, option
from kilograd.passes import Part
from kilograd.select.plan_file import BadEntryError, check_part
from kilograd.select.selection import (
    Budget,
    Evidence,
    Parameter,
    Selection,
    Strategy,
    parts_axes,
)

GROUP = "kilograd.strategies"
"""Entry points of packages that have strategies."""


def from_file(method: str) -> Strategy:
    """Return the strategy that FILE.py:NAME names; the file is run.

    Raises `InputError` for a file that cannot be read or run, and a name that is no strategy.
    """
    file, _, name = method.rpartition(":") if not method.endswith(".py") else (method, "", "")
    path = Path(file)
    with _failing(method, path.name):
        module = _module(str(path.absolute()))
    found = getattr(module, name, None) if name else None
    if not callable(found):
        known = [k for k, v in vars(module).items() if _defines(module, v) and k[0] != "_"]
        raise InputError(
            f"{option('method')} {method}: names no function of {file}; give {file}:NAME, where "
            f"NAME is one of {', '.join(known) or 'its functions (there are none)'}"
        )
    return _checked(method, found)


def package_strategies() -> dict[str, EntryPoint]:
    """Return the strategies of installed packages by name; none is loaded."""
    return {found.name: found for found in entry_points(group=GROUP)}


def from_package(method: str, found: EntryPoint) -> Strategy:
    """Return the strategy of an installed package.  Raises `InputError` where it has none."""
    with _failing(method, found.value):
        strategy = found.load()
    return _checked(method, strategy)


@functools.cache
def _module(path: str) -> ModuleType:
    """Run a file once, however often a strategy of it is asked for."""
    name = f"kilograd_strategies_of_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for the names in their annotations
    spec.loader.exec_module(module)
    return module


def _defines(module: ModuleType, value: object) -> bool:
    return inspect.isfunction(value) and value.__module__ == module.__name__


def _checked(method: str, given: Callable[..., object]) -> Strategy:
    """Return a strategy that fails with an `InputError`, and chooses only what there is."""
    try:
        inspect.signature(given).bind(None, None)
    except (TypeError, ValueError) as e:
        raise InputError(
            f"{option('method')} {method}: is no strategy, which takes (evidence, budget); {e}"
        ) from e

    def strategy(evidence: Evidence, budget: Budget) -> Selection:
        with _failing(method, inspect.getsourcefile(given) or ""):
            found = given(evidence, budget)
        if not isinstance(found, Selection):
            raise InputError(
                f"{option('method')} {method}: returned {type(found).__name__}; a strategy returns "
                "a kilograd.select.Selection"
            )
        _check(method, found, evidence)
        return found

    return strategy


def _check(method: str, found: Selection, evidence: Evidence) -> None:
    """Raise `InputError` for a parameter, or channels, that the network does not have."""
    graph = evidence.graph if found.graph is None else found.graph
    known = {node.name for node in graph.params()}
    learn: object = found.learn  # whatever it is
    if not isinstance(learn, Mapping):
        raise InputError(
            f"{option('method')} {method}: chose {type(learn).__name__}; a Selection maps "
            "parameters to parts"
        )
    for parameter, part in learn.items():
        if not isinstance(parameter, Parameter) or str(parameter) not in known:
            raise InputError(
                f"{option('method')} {method}: chose {str(parameter)[:99]!r}, which is no "
                f"parameter of {evidence.name}; use weight(layer) and bias(layer) of a layer such "
                f"as {evidence.layers[-1]}"
            )
        if not isinstance(part, Part):
            raise InputError(
                f"{option('method')} {method}: {parameter} learns {type(part).__name__}; give a "
                "Part, as filters(evidence, layer, channels) returns it"
            )
        try:
            check_part(part, graph[str(parameter)].type, parts_axes(graph, parameter.layer))
        except BadEntryError as e:
            raise InputError(f"{option('method')} {method}: {parameter}: {e}") from e


@contextmanager
def _failing(method: str, file: str) -> Iterator[None]:
    """Say where code of the user's fails; what it says itself of bad input stays."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as e:
        frames = traceback.extract_tb(e.__traceback__)
        own = [f for f in frames if Path(f.filename).name == Path(file).name]
        at = f" (line {own[-1].lineno})" if own else ""
        raise InputError(
            f"{option('method')} {method}: failed with {type(e).__name__}: {e}{at}"
        ) from e
