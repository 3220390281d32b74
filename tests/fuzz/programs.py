"""Programs as others may treat them: callers of the C, and the cache that keeps them."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from helpers import call, gcc

from fuzz.case import Case, Target
from fuzz.drawn import WAYS
from fuzz.harness import Piped, built, feeds_of, same
from fuzz.mutate import flipped
from fuzz.records import small_model
from kilograd.emit import Entry
from kilograd.ir import Value, interpret
from kilograd.learn.recipe import compile_recipe
from kilograd.select import Budget
from kilograd.settings import HeadKind, OptimizerKind, Recipe
from kilograd.targets import HostProgram, build_host
from kilograd.targets.runner import RefusedError

_LABELS = (0, 1, 2, 3, -1, 100, 1 << 20, (1 << 31) - 1, -(1 << 31))
_FLOATS = (0.05, 1e-3, 1.0, 0.5, 0.0, -0.0, -1.0, 1e20, 1e38, 1e-45, math.inf, -math.inf, math.nan)
_CLOCKS = (0, 1, 7, 1000, (1 << 31) - 2, (1 << 31) - 1, -1, -2, -(1 << 31))


class Device(Target):
    """Calls with wrong labels, clocks, rates and shares, misaligned memory, damaged states."""

    share = 1.5
    deep = 4
    sample = 60
    seconds = 10.0

    _RECIPES = (
        Recipe("last:2", WAYS),
        Recipe("last:3", WAYS, HeadKind.LINEAR, OptimizerKind.ADAM),
        Recipe("bias:3", WAYS, None, OptimizerKind.ROWRMS, 4),
        Recipe("last:2", WAYS, rows=True, cache=2),
        Recipe("last:3", WAYS, None, OptimizerKind.ADAM, 4, state_bits=8),
        Recipe("bias:3", WAYS, HeadKind.LINEAR, OptimizerKind.MOMENTUM, state_bits=16),
    )

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.programs = [
            compile_recipe(small_model(home), r, Budget()).program for r in self._RECIPES
        ]
        self.files = []
        for i, program in enumerate(self.programs):
            folder = home / f"device{i}"
            folder.mkdir(exist_ok=True)
            self.files.append(built(program, folder, home))
        self.running: dict[int, Piped] = {}

    def make(self, rng: Random) -> Case:
        which = rng.randrange(len(self.programs))
        called = {
            "program": which,
            "entry": rng.choice(sorted(self.programs[which].entries)),
            "memory": rng.choice((*(0,) * 12, 1, 2, 3, 4, 8)),
            "label": rng.choice(_LABELS if rng.random() < 0.4 else (0, 1, 2)),
            "clock": [rng.choice(_CLOCKS), rng.choice(_CLOCKS if rng.random() < 0.5 else (0, 5))],
            "lr": rng.choice(_FLOATS if rng.random() < 0.4 else (0.05,)),
            "share": rng.choice(_FLOATS if rng.random() < 0.4 else (0.25, 1.0)),
            "noise": rng.getrandbits(31),
            "damage": self._damage(rng) if rng.random() < 0.4 else [],
        }
        return {"call.json": json.dumps(called).encode()}

    def _damage(self, rng: Random) -> list[tuple[float, str]]:
        """Return places in the state, as shares of it, and bytes that stand there, as hex."""
        words = (
            "00000000",
            "ffffffff",
            "00000040",
            "000000c0",
            "0000c07f",
            "0000807f",
            "000080ff",
            "00000080",
            "ffff7f7f",
        )
        return [
            (rng.random(), rng.choice((*words, "80", "7f"))) for _ in range(rng.choice((1, 3, 30)))
        ]

    def check(self, folder: Path, *, deep: bool) -> None:
        d = json.loads((folder / "call.json").read_text(encoding="utf-8"))
        host = self._host(d["program"])
        try:
            self._call(host, d, deep=deep)
        except RefusedError:
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for host in self.running.values():
            host.close()
        self.running.clear()

    def _host(self, which: int) -> Piped:
        """Return a program that runs as a child: begun by the worker, not before it forks."""
        if which not in self.running:
            self.running[which] = Piped(self.programs[which], self.files[which])
        return self.running[which]

    def _call(self, host: Piped, d: Mapping[str, Any], *, deep: bool) -> None:
        host.reset()
        fresh = host._state.copy()
        for at, text in d["damage"]:
            raw = np.frombuffer(bytes.fromhex(text), np.uint8)
            place = int(at * (host._state.size - 3)) & ~(len(raw) - 1)
            host._state[place : place + len(raw)] = raw
        graph = host.program.entries[d["entry"]].graph
        feeds = feeds_of(graph, np.random.default_rng(d["noise"]), 0, WAYS)
        given = {
            "label": np.array([d["label"]], np.int32),
            "clock": np.array(d["clock"], np.int64).astype(np.int32),
            "lr": np.array([d["lr"]], np.float32),
            "share": np.array([d["share"]], np.float32),
        }
        feeds |= {k: v for k, v in given.items() if k in feeds}
        entry, before = host.program.entries[d["entry"]], host._state.copy()
        own: dict[str, Value] = {k: v.copy() for k, v in host.state.items() if k in graph.data}
        damaged = bool((before != fresh)[-4:].any())
        wrong = _refusals(entry, feeds, d["memory"], kept=bool(own), damaged=damaged)
        host.memory = d["memory"]
        try:
            got = call(host, d["entry"], feeds)
        except RefusedError:
            assert wrong, "refused for no reason"
            assert (host._state == before).all(), "refused, and written to all the same"
            raise
        finally:
            host.memory = 0
        assert not wrong, f"accepted, {wrong[0]} or not"
        if deep:
            with np.errstate(all="ignore"):
                want = interpret(graph, {**feeds, **own})
            for key in got.keys() & want.keys():
                assert same(got[key], want[key]), f"{d['entry']}: {key} differs"


def _refusals(
    entry: Entry, feeds: Mapping[str, Any], memory: int, *, kept: bool, damaged: bool
) -> list[str]:
    """Return why a call is to be refused.  What an entry point does not use may be anything."""
    whole = {k: v.ravel().tolist() for k, v in feeds.items() if v.size <= 2}
    reasons = {
        "misaligned memory": memory & 3 and (kept or entry.plan.peak),
        "no state": memory & 4 and kept,
        "no arena": memory & 8 and entry.plan.peak,
        "a damaged state": damaged and kept,
        "a bad label": not 0 <= whole.get("label", [0])[0] < WAYS,
        "a bad clock": not 0 <= whole.get("clock", [0, 0])[1] < (1 << 31) - 1,
        "a bad rate": not 0 < whole.get("lr", [1])[0] < math.inf,
        "a bad share": not 0 < whole.get("share", [1])[0] <= 1,
    }
    return [reason for reason, found in reasons.items() if found]


class Kept(Target):
    """The cache of compiled programs: files cut off, emptied, exchanged, changed."""

    share = 1.0
    seconds = 20.0
    sample = 4

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.compiler = gcc("-O0")
        self.program = compile_recipe(small_model(home), Recipe("none", WAYS), Budget()).program
        self.image = {"image": np.zeros((8, 8, 3), np.int8)}
        cache = home / "compiled"
        self.answer = self._built(cache).call("infer", **self.image)
        self.seed = {
            str(f.relative_to(cache)): f.read_bytes()
            for f in sorted(cache.rglob("*"))
            if f.is_file()
        }

    def make(self, rng: Random) -> Case:
        files: dict[str, bytes | str] = dict(self.seed)
        names = sorted(n for n in files if rng.random() < 0.1 or not re.match("runtime", n))
        name = rng.choice(names)
        content = self.seed[name]
        match rng.randrange(6):
            case 0:
                del files[name]
            case 1:
                files[name] = b""
            case 2:
                files[name] = content[: rng.randrange(len(content) + 1)]
            case 3:
                files[name] = self.seed[rng.choice(sorted(files))]
            case 4:
                files[name] = flipped(rng, content)
            case 5:
                files[name] = rng.choice(("/dev/null", "nowhere", name))
        return files

    def check(self, folder: Path, *, deep: bool) -> None:
        got = self._built(folder).call("infer", **self.image)
        for name, value in got.items():
            assert (value == self.answer[name]).all(), f"{name} differs"

    def _built(self, cache: Path) -> HostProgram:
        before = os.environ.get("KILOGRAD_CACHE", "")
        os.environ["KILOGRAD_CACHE"] = str(cache)
        try:
            return build_host(self.program, self.compiler)
        finally:
            os.environ["KILOGRAD_CACHE"] = before
