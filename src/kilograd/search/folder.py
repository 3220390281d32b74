"""A folder of update plans that were found: whole after every plan, so that a search goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct, structs

from kilograd.errors import InputError, field_of, flag, option
from kilograd.limits import EPISODES, RECORD_BYTES
from kilograd.output import Provenance, claim, make_folder, write_file
from kilograd.reading import inside, read_json, require_checksum, there, typed, with_checksum
from kilograd.search.found import Found, Front, Published
from kilograd.search.problem import UNLIMITED, Limits

RESULT = "search.json"

_DIGESTS = {"fingerprint": "the network", "gains": "the contribution analysis"}
_OPTIONS = ("size", "sram", "compute", "solver", "seed", "pareto", "shrink", "convention")


@dataclass(frozen=True)
class Results:
    """Plans in the order of their budgets, and the published ones, if there are any."""

    plans: tuple[Found, ...]
    published: tuple[Published, ...] = ()


class SearchFolder:
    """The plans of one search, kept as they are found.

    Raises `InputError` for a folder that holds something else, or a search with other settings.
    """

    def __init__(self, out: Path, settings: Mapping[str, object]) -> None:
        self._out = out
        self._settings = json.loads(json.dumps(settings))
        begun = claim(out, RESULT, _provenance(self._settings), _begun)
        found = None if begun is None else begun.results()
        self.finished = found if begun is not None and begun.done else None
        self._known = {_limits(f): f for f in found.plans} if found else {}

    def known(self, front: Front | None, limits: Limits) -> Found | None:
        """Return what an earlier run found within limits."""
        return self._known.get((front, limits))

    def add(self, plans: Sequence[Found], text: str | None = None) -> None:
        """Keep all plans so far, and the text of the last one where it is new."""
        if not (self._out / RESULT).exists():  # says whose folder it is, whatever happens now
            make_folder(self._out, RESULT)
            self._store(Results(tuple(plans[:-1])), done=False)
        if text is not None:
            write_file(self._out / plans[-1].plan, text)
        self._store(Results(tuple(plans)), done=False)

    def finish(self, results: Results) -> Results:
        """Keep all that was found, and that it is all."""
        self._store(results, done=True)
        return results

    def _store(self, results: Results, *, done: bool) -> None:
        found = {
            "settings": self._settings,
            "done": done,
            "plans": [asdict(f) for f in results.plans],
            "published": [asdict(p) for p in results.published],
        }
        write_file(self._out / RESULT, json.dumps(with_checksum(found), indent=1) + "\n")


def _limits(f: Found) -> tuple[Front | None, Limits]:
    limits = (UNLIMITED if x is None else x for x in (f.sram_limit, f.compute_limit))
    return f.front, Limits(*limits)


def _begun(file: Path) -> tuple[_Begun, Provenance]:
    """Return what a folder holds of a search, and what it depends on."""
    value = read_json(file, dict[str, Any], RECORD_BYTES)
    found = typed(value, _Begun, f"{file}: no search, or a damaged one")
    require_checksum(value, str(file))
    out = file.parent
    for i, plan in enumerate(found.plans):
        if not there(inside(out, plan.plan, f"{file}: plans[{i}].plan")):
            raise InputError(f"{option('out')} {out}: {plan.plan} is gone; choose another folder")
    return found, _provenance(found.settings)


def _provenance(stored: Mapping[str, Any]) -> Provenance:
    """Return what `Search.named` says, one by one."""
    version, network, recipe = (stored.get(k) for k in ("version", "network", "recipe"))
    others = {k: v for k, v in stored.items() if k in _OPTIONS}
    options = {"model": network, **others, **(recipe if isinstance(recipe, dict) else {})}
    named = {option(k): v for k, v in options.items() if field_of(flag(k)) == k}
    return Provenance(
        {"kilograd": version, **named},
        {called: str(stored.get(k)) for k, called in _DIGESTS.items()},
    )


_Bytes = Annotated[int, Meta(ge=0)]
_Some = Annotated[int, Meta(ge=1)]


class _Plan(Struct, frozen=True):
    """`Found`, with the range of each number."""

    plan: str
    front: Front | None
    sram_limit: _Bytes | None
    compute_limit: _Bytes | None
    sram_bytes: _Bytes
    predicted_sram_bytes: int
    backward_macs: _Bytes
    predicted_gain: float
    gain_bound: float | None
    k: _Some
    weights: dict[str, Annotated[float, Meta(gt=0, le=1)]]
    programs: _Some


class _Published(Struct, frozen=True):
    method: str
    sram_bytes: _Bytes
    backward_macs: _Bytes
    predicted_gain: float


class _Begun(Struct, frozen=True):
    """What a folder holds of a search."""

    settings: dict[str, Any]
    done: bool
    plans: Annotated[tuple[_Plan, ...], Meta(max_length=EPISODES)]
    published: Annotated[tuple[_Published, ...], Meta(max_length=EPISODES)]

    def results(self) -> Results:
        """Return it as what a search hands back."""
        plans = tuple(Found(**structs.asdict(f)) for f in self.plans)
        return Results(plans, tuple(Published(**structs.asdict(p)) for p in self.published))
