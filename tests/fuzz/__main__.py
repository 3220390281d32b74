"""The command: fuzz for a time, or try one case again."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import warnings
from contextlib import closing
from pathlib import Path

for _threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[_threads] = "1"  # read when numpy is imported

from fuzz.case import Case, Finding, judge, stored  # noqa: E402
from fuzz.run import Fuzzer, table  # noqa: E402
from fuzz.targets import made  # noqa: E402


def main() -> int:
    """Return 0 where nothing was found."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--targets", default="", help="names, with commas between; default: all")
    parser.add_argument(
        "--out", type=Path, default=Path("build/fuzz"), help="for findings, figures"
    )
    parser.add_argument("--case", type=int, help="try one case of one target again")
    parser.add_argument("--file", type=Path, help="try a stored case again")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", RuntimeWarning)  # numpy's: a number that is none
    memory = Path("/dev/shm")  # noqa: S108 made safe by mkdtemp; no disk is worn out
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as scratch:
        os.environ["KILOGRAD_CACHE"] = str(Path(scratch, "cache"))
        home = Path(scratch, "seeds")
        home.mkdir()
        if asked.file:
            name, case = stored(asked.file)
            return _again(home, name, case, Path(scratch))
        if asked.case is not None:
            (target,) = made(home, [asked.targets])
            return _again(home, target.name, target.case(asked.seed, asked.case), Path(scratch))
        targets = made(home, [x for x in asked.targets.split(",") if x])
        fuzzer = Fuzzer(targets, asked.seconds, asked.seed, asked.jobs, asked.out, Path(scratch))
        fuzzer.run()
        rows = fuzzer.rows()
    print(table(rows))
    about = {"seconds": asked.seconds, "seed": asked.seed, "jobs": asked.jobs, "targets": rows}
    (asked.out / "figures.md").write_text(table(rows), encoding="utf-8")
    (asked.out / "figures").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    found = rows[-1]["findings"]
    print(f"findings: {found}" + (f"; see {asked.out}" if found else ""))
    return int(found > 0)


def _again(home: Path, name: str, case: Case, scratch: Path) -> int:
    """Check one case, and say all there is to say."""
    (target,) = made(home, [name])
    for file, content in case.items():
        print(f"{file!r}: {content[:2000]!r}")
    with closing(target):
        result = judge(target, case, scratch, deep=True)
    if isinstance(result, Finding):
        print(f"{result.kind} at {result.where}\n{result.text}")
        return 1
    print("accepted" if result else "refused, as it should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
