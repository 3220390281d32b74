"""`evaluate --ray`, on a cluster of two nodes that starts here."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
from folders import listing, write_model, write_pictures

import kilograd
from kilograd.data import load_dataset
from kilograd.errors import InputError
from kilograd.frontend import load_model
from kilograd.settings import Settings
from kilograd.study import pools
from kilograd.study.evaluate import RESULTS, Evaluation, evaluate
from kilograd.study.work import Row

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or not Path("/proc/self/task").exists(),
    reason="Ray is not here: make ray, or pip install ray (and this needs Linux)",
)
SETTINGS = Settings.of(shots=3, queries=4, iterations=40, lr=0.05, seed=11)
METHODS, EPISODES = ("none", "last:2", "tinytrain"), 6
#: Ray leaves files and processes to the end of its own: it stays out of this one.
CLUSTER = """
from ray.cluster_utils import Cluster
node = {"num_cpus": 1, "object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
other = cluster.add_node(**node)
print(cluster.address, flush=True)
while (asked := input()) != "end":
    if asked == "remove":
        cluster.remove_node(other, allow_graceful=False)
        print("removed", flush=True)
    elif asked == "add":
        other = cluster.add_node(**node)
        print("added", flush=True)
    else:
        nodes = [other] if asked == "other" else [cluster.head_node, other]
        print(*(p.process.pid for n in nodes for p in n.all_processes["raylet"]), flush=True)
cluster.shutdown()
"""


class Cluster:
    """A head and one more node, a CPU each, in processes of their own."""

    def __init__(self, log: Path) -> None:
        with log.open("w", encoding="utf-8") as file:
            self.process = self._started(file)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

    @staticmethod
    def _started(log: IO[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", CLUSTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "RAY_raylet_start_wait_time_s": "90"},
        )

    def ask(self, what: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def workers(self, nodes: str) -> list[int]:
        """The processes at work, of the `other` node or of `both`."""
        tasks = [Path(f"/proc/{p}/task/{p}/children") for p in self.ask(nodes).split()]
        each = [int(p) for t in tasks if t.exists() for p in t.read_text().split()]
        return list(filter(working, each))


def working(process: int) -> bool:
    try:
        return "_run_there" in Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return False


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    log = tmp_path_factory.mktemp("ray") / "log"
    made = Cluster(log)
    if made.address:
        yield made
    made.process.communicate("end\n" if made.address else None, timeout=60)
    if not made.address:
        why = log.read_text("utf-8").strip().splitlines()[-1:]
        pytest.skip(f"Ray could not start two nodes here, perhaps in time: {why}")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_model(home / "small", seed=3)
    write_pictures(home / "discs")
    return home


@pytest.fixture(scope="module")
def expected(home: Path) -> list[Row]:
    """What one process finds, in no order."""
    network = load_model(str(home / "small"))
    asked = Evaluation((load_dataset(home / "discs"),), (network,), METHODS, EPISODES, SETTINGS)
    return timeless(evaluate(home / "alone", asked))


def timeless(rows: Any) -> list[Row]:
    return sorted((replace(r, seconds=0.0) for r in rows), key=str)


def stored(out: Path) -> list[Row]:
    if not (out / RESULTS).exists():
        return []
    try:
        with closing(sqlite3.connect(out / RESULTS)) as connection:
            found = connection.execute("SELECT * FROM rows")
            return [Row(*(*v, tuple(json.loads(text)))) for *v, text, _ in found]
    except sqlite3.OperationalError:  # no table yet
        return []


def begun(home: Path, out: Path, address: str, before: str = "") -> subprocess.Popen[str]:
    """Start the command, after some Python."""
    options = {
        "data": home / "discs",
        "models": home / "small",
        "methods": ",".join(METHODS),
        "episodes": EPISODES,
        "shots": 3,
        "queries": 4,
        "iterations": 40,
        "lr": 0.05,
        "seed": 11,
        "ray": address,
        "out": out,
    }
    words = [str(w) for k, v in options.items() for w in (f"--{k}", v)]
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    patient = "import kilograd.study.pools as p; p._GREETING = 300"  # of a machine that is busy
    code = f"{heard}\n{patient}\n{before}\nfrom kilograd.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "evaluate", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[str], out: Path, count: int) -> None:
    deadline = time.monotonic() + 300
    while len(stored(out)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@needs_ray
def test_a_node_that_dies_loses_nothing(
    cluster: Cluster, home: Path, tmp_path: Path, expected: list[Row]
) -> None:
    process = begun(home, tmp_path / "run", cluster.address)
    wait_for(process, tmp_path / "run", 1)
    early = stored(tmp_path / "run")
    assert len(early) < len(expected)
    assert cluster.workers("other"), "it is at work"
    cluster.ask("remove")
    text, err = process.communicate(timeout=240)
    cluster.ask("add")
    assert process.returncode == 0, err
    assert "less none" in text
    rows = stored(tmp_path / "run")
    assert rows[: len(early)] == early
    assert timeless(rows) == expected


@needs_ray
def test_a_work_that_kills_two_processes_is_given_up(
    cluster: Cluster, home: Path, tmp_path: Path, expected: list[Row]
) -> None:
    process = begun(home, tmp_path / "run", cluster.address)
    wait_for(process, tmp_path / "run", 1)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        for p in cluster.workers("both"):
            with suppress(ProcessLookupError):
                os.kill(p, signal.SIGKILL)
        time.sleep(0.05)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    last = err.strip().splitlines()[-1]
    assert last.startswith(f"error: --ray {cluster.address}: a process or node died, and so did")
    early = stored(tmp_path / "run")
    again = begun(home, tmp_path / "run", cluster.address)
    _, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    rows = stored(tmp_path / "run")
    assert rows[: len(early)] == early
    assert timeless(rows) == expected


@needs_ray
def test_ctrl_c_ends_what_the_cluster_does(
    cluster: Cluster, home: Path, tmp_path: Path, expected: list[Row]
) -> None:
    out, many = tmp_path / "run", 100 * EPISODES  # however late the signal comes, it is not over
    process = begun(home, out, cluster.address, f"import sys; sys.argv += ['--episodes', '{many}']")
    wait_for(process, out, 1)
    os.killpg(process.pid, signal.SIGINT)
    text, err = process.communicate(timeout=60)
    assert (process.returncode, text) == (130, ""), err
    assert err == f"error: interrupted; the same command goes on with what {out} holds\n"
    early = stored(out)
    assert 0 < len(early) < many * len(METHODS)
    deadline = time.monotonic() + 60
    while cluster.workers("both"):
        assert time.monotonic() < deadline, "at work for nobody"
        time.sleep(0.1)
    again = begun(home, out, cluster.address)
    _, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    rows = stored(out)
    assert rows[: len(early)] == early
    assert timeless(r for r in rows if r.episode < EPISODES) == expected


@needs_ray
@pytest.mark.parametrize(
    ("before", "message"),
    [
        ("import kilograd.study.pools as p; p.__version__ = '9'", "has kilograd"),
        ("import sys; sys.argv += ['--methods', 'none,last:99']", "--method: small has 7 convolut"),
    ],
)
def test_an_error_of_a_node_is_one_line(
    cluster: Cluster, home: Path, tmp_path: Path, before: str, message: str
) -> None:
    process = begun(home, tmp_path / "run", cluster.address, before)
    text, err = process.communicate(timeout=120)
    assert (process.returncode, text, message in err, err.count("\n")) == (2, "", True, 1), err


@needs_ray
def test_an_address_that_does_not_answer(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_model(str(home / "small"))
    asked = Evaluation((load_dataset(home / "discs"),), (network,), METHODS, 1, SETTINGS)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(pools, "_GREETING", 5)
        with pytest.raises(InputError, match="no Ray cluster has answered in 5 s; start one"):
            evaluate(tmp_path / "run", asked, cluster=f"127.0.0.1:{port}")
    monkeypatch.setattr(pools, "_GREETING", 120)  # importing Ray takes a while
    start = time.monotonic()
    with pytest.raises(InputError, match=f"ray 127.0.0.1:{port}: nobody answers"):
        evaluate(tmp_path / "run", asked, cluster=f"127.0.0.1:{port}")
    assert time.monotonic() - start < 10
    with pytest.raises(InputError, match=r"ray nowhere: cannot be joined \(ValueError: Invalid"):
        evaluate(tmp_path / "run", asked, cluster="nowhere")
    with pytest.raises(InputError, match="jobs 2: ray takes all CPUs"):
        evaluate(tmp_path / "run", asked, jobs=2, cluster="auto")
    assert listing(tmp_path) == []


def test_without_ray(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="ray needs ray; pip install ray"):
        pools.check_cluster("auto")


@needs_ray
def test_tuning_on_a_cluster_stores_what_one_process_goes_on_with(
    cluster: Cluster, home: Path, tmp_path: Path
) -> None:
    pytest.importorskip("optuna", reason="Optuna is not here: pip install optuna")
    options: dict[str, Any] = {
        "methods": ["last:1", "last:2"],
        "trials": 5,
        "episodes": 2,
        "shots": 3,
        "queries": 4,
        "iterations": 5,
    }
    places: list[Any] = [str(home / "discs"), str(tmp_path / "out"), str(home / "small")]
    code = (
        "import kilograd, kilograd.study.pools as p; p._GREETING = 300\n"
        f"found = kilograd.tune(*{places!r}, ray={cluster.address!r}, **{options!r})\n"
        "print([len(each.trials) for each in found.tuned])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[5, 5]\n"), done.stderr
    file = tmp_path / "out" / "tuning.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        before = connection.execute("SELECT * FROM rows").fetchall()
    alone = kilograd.tune(*places, **options)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT * FROM rows").fetchall() == before
    assert sum(len(t.rows) for each in alone.tuned for t in each.trials) == len(before)
