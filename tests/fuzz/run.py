"""Runs targets for a given time, in processes that may die: the parent knows at which case."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.case import Finding, Target, die_with_parent, judge, peak, store
from kilograd.ir import Array

ADDRESS_SPACE = 4 << 30
"""Bytes of data that a worker may have: beyond it Python raises MemoryError."""

PATIENCE = 8
"""A case that takes so many times its CPU limit by the clock hangs where nothing reaches it."""

_COLUMNS = ("cases", "accepted", "refused", "findings", "seconds", "peak")


@dataclass
class Fuzzer:
    """What to run, for how long, and where findings go.

    Worker w of n takes the cases w, w + n, ... of every target.
    """

    targets: Sequence[Target]
    seconds: float
    seed: int
    jobs: int
    findings: Path
    scratch: Path
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Share counts with the workers, so that they outlive them."""
        shape = (self.jobs, len(self.targets), len(_COLUMNS))
        self.counts = _shared(shape)
        self.now = _shared((self.jobs, 3))  # target, case number, since when
        self.next = _shared((self.jobs, len(self.targets)))
        self.findings.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Run to the end; prints a line now and then."""
        workers: list[BaseProcess | None] = [self._start(w) for w in range(self.jobs)]
        said = time.monotonic()
        while any(w is not None for w in workers):
            time.sleep(0.2)
            for w, process in enumerate(workers):
                if process is not None:
                    workers[w] = self._watched(w, process)
            if time.monotonic() - said > 60:
                said = time.monotonic()
                print(self.line(), flush=True)

    def _start(self, worker: int) -> BaseProcess:
        self.now[worker] = -1, 0, time.monotonic()
        process = multiprocessing.get_context("fork").Process(target=self._work, args=(worker,))
        process.start()
        return process

    def _watched(self, worker: int, process: BaseProcess) -> BaseProcess | None:
        """Return the process, or the one that takes its place; None at the end."""
        index, number, since = self.now[worker]
        target = self.targets[int(index)] if index >= 0 else None
        if process.is_alive():
            limit = PATIENCE * (target.seconds if target else 5)
            if time.monotonic() - since < limit:
                return process
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            kind = "hang"
        elif process.exitcode == 0:
            return None
        else:
            kind = f"crash {process.exitcode}"
        trace = self._trace(worker).read_text(encoding="utf-8", errors="replace")
        if target:
            self.counts[worker, int(index), 4] += time.monotonic() - since
            self._found(worker, int(index), int(number), Finding(kind, target.name, trace))
        return self._start(worker)

    def _trace(self, worker: int) -> Path:
        return self.scratch / f"trace-{worker}"

    def _work(self, worker: int) -> None:
        """Take the target that has had least of its share, until time is over."""
        die_with_parent()
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        # beside what the process it was forked from has: late in a test run that may be 4 GiB
        resource.setrlimit(resource.RLIMIT_DATA, (_data() + ADDRESS_SPACE, hard))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders in C write there
        home = self.scratch / f"worker-{worker}-{time.monotonic_ns()}"
        home.mkdir()
        shares = np.array([t.share for t in self.targets])
        with self._trace(worker).open("w", encoding="utf-8") as trace:
            faulthandler.enable(trace)
            try:
                while time.monotonic() - self.began < self.seconds:
                    index = int((self.counts[worker, :, 4] / shares).argmin())
                    self._case(worker, index, home)
            except BaseException:
                traceback.print_exc(file=trace)  # of this harness
                raise

    def _case(self, worker: int, index: int, home: Path) -> None:
        target, count = self.targets[index], self.counts[worker, index]
        number = int(self.next[worker, index]) * self.jobs + worker
        self.next[worker, index] += 1
        start = time.monotonic()
        self.now[worker] = index, number, start
        case = target.case(self.seed, number)
        result = judge(target, case, home, deep=number % target.deep == 0)
        if isinstance(result, Finding):
            self._found(worker, index, number, result)
        else:
            count[0] += 1
            count[1 if result else 2] += 1
        count[5] = max(count[5], peak())
        count[4] += time.monotonic() - start

    def _found(self, worker: int, index: int, number: int, finding: Finding) -> None:
        target = self.targets[index]
        self.counts[worker, index, 0] += 1
        self.counts[worker, index, 3] += 1
        file = self.findings / f"{target.name}-{finding.key}.json"
        if not file.exists():
            about = {
                "kind": finding.kind,
                "where": finding.where,
                "replay": f"--targets {target.name} --seed {self.seed} --case {number}",
                "after": round(time.monotonic() - self.began, 1),
                "text": finding.text[-6000:],
            }
            store(file, target.name, target.case(self.seed, number), about)

    # ---- what came of it ----

    def rows(self) -> list[Mapping[str, Any]]:
        """Return the figures of each target, and of all together."""
        by_target = self.counts.sum(0)
        by_target[:, 5] = self.counts[:, :, 5].max(0)
        together = by_target.sum(0)
        together[5] = by_target[:, 5].max()
        names = [*(t.name for t in self.targets), "all"]
        return [
            _row(name, counts) for name, counts in zip(names, [*by_target, together], strict=True)
        ]

    def line(self) -> str:
        """Say in one line how far it is."""
        total, past = self.rows()[-1], time.monotonic() - self.began
        kinds = len(list(self.findings.glob("*.json")))
        return (
            f"{past:5.0f} s: {total['cases']:,} cases, {total['cases'] / past:,.0f} a second, "
            f"{total['findings']} findings of {kinds} kinds"
        )


def _row(name: str, counts: Array) -> Mapping[str, Any]:
    cases, accepted, refused, findings, seconds, most = counts.tolist()
    return {
        "target": name,
        "cases": int(cases),
        "accepted": int(accepted),
        "refused": int(refused),
        "findings": int(findings),
        "cases/s": round(cases / seconds, 1) if seconds else 0.0,
        "peak MiB": int(most) >> 20,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the figures as a table of Markdown."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" + "---:|" * (len(rows[0]) - 1)]
    lines += [
        "| " + " | ".join(f"{x:,}" if x != str(x) else x for x in r.values()) + " |" for r in rows
    ]
    return "\n".join(lines) + "\n"


def _data() -> int:
    """Return the bytes that RLIMIT_DATA counts of this process."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[5]
    return int(pages) * resource.getpagesize()


def _shared(shape: tuple[int, ...]) -> Array:
    """Return zeros that processes share."""
    memory = multiprocessing.get_context("fork").RawArray("d", int(np.prod(shape)))
    return np.frombuffer(memory).reshape(shape)


if sys.platform != "linux":
    raise RuntimeError("fuzzing needs Linux: it forks, and limits memory and time")
