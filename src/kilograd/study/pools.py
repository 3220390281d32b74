"""Where rows are made: in this process, in several, or on a Ray cluster."""

from __future__ import annotations

import functools
import itertools
import logging
import multiprocessing.connection
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from kilograd import __version__, interruption, limits
from kilograd.errors import InputError, option
from kilograd.extras import Extra
from kilograd.options import check_most
from kilograd.study.work import Row, Work, Worker, portable
from kilograd.targets.cache import cache_folder

_PATIENCE = 0.2  # seconds; a process that is told to end at a bad moment is told again
_KNOCK = 3  # seconds for a connection
_GREETING = 30  # seconds for an answer


def here(works: Iterator[Work]) -> Generator[Row, None, None]:
    """Yield rows one after the other."""
    worker = Worker()
    for work in works:
        yield from worker(work)


def in_processes(works: Iterator[Work | None], jobs: int) -> Generator[Row, None, None]:
    """Yield rows, those of a work together, in the order in which works are done.

    Works may depend on rows: `None` in place of one waits for some that are on their way.

    Where a process dies, what all of them were doing is done again, once.

    Raises `InputError` where a process dies that does something again.
    """
    again: list[Work | None] = []
    while lost := (yield from _in_pool(itertools.chain(again, works), jobs)):
        if any(a is b for a in again for b in lost):
            raise InputError(
                f"{option('jobs')} {jobs}: a worker process died, and so did the one that took "
                "over, perhaps for lack of memory; the same command with fewer jobs goes on"
            )
        again = [*lost]


def _in_pool(works: Iterator[Work | None], jobs: int) -> Generator[Row, None, list[Work]]:
    """Yield rows until all is done or a process dies, and return what that leaves undone."""
    cache_folder()  # all use the same, also where it goes with this process
    before = set(multiprocessing.active_children())
    # Not forked: this process has threads, and so may numpy.
    context = multiprocessing.get_context("spawn")
    with _ctrl_c_later():  # it starts a process that keeps the books
        pool = ProcessPoolExecutor(jobs, context, initializer=_watch_parent)
    running: dict[Future[tuple[Row, ...]], Work] = {}
    lost: list[Work] = []
    try:
        for work in works:
            try:
                if work is not None:
                    with _ctrl_c_later():
                        running[pool.submit(_run, work)] = work
            except BrokenProcessPool:
                lost.extend(filter(None, [work]))
            if running and (work is None or len(running) == 2 * jobs):
                yield from _finished(running, lost)
            if lost:
                break
        while running:
            yield from _finished(running, lost)
    except BaseException:
        while workers := set(multiprocessing.active_children()) - before:
            for process in workers:
                process.terminate()
            multiprocessing.connection.wait([p.sentinel for p in workers], _PATIENCE)
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return lost


def _finished(
    running: dict[Future[tuple[Row, ...]], Work], lost: list[Work]
) -> Generator[Row, None, None]:
    """Wait for a work, take it from those that run, and yield its rows or note its loss."""
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        work = running.pop(future)
        try:
            rows = future.result()
        except BrokenProcessPool:
            lost.append(work)
        else:
            yield from rows


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Start processes that a terminal's Ctrl-C does not reach, nor its end: their parent does."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _watch_parent() -> None:
    """Let a worker process end with its parent, which may have been killed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent, main = multiprocessing.parent_process(), threading.main_thread().ident
    if parent is not None and main is not None:
        parent.join()
        while True:
            signal.pthread_kill(main, signal.SIGTERM)
            time.sleep(_PATIENCE)


@functools.cache
def _worker() -> Worker:
    """Return the worker of this process."""
    return Worker()


def _run(work: Work) -> tuple[Row, ...]:
    """Make rows in a worker process; ended in the middle, it leaves no files behind."""
    try:
        try:
            interruption.listen()
            interruption.begin()
            return tuple(_worker()(work))
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    except KeyboardInterrupt:
        os._exit(1)  # the pool would take it for a result and go on


def on_cluster(works: Iterator[Work | None], address: str) -> Generator[Row, None, None]:
    """Yield rows, those of a work together, in the order in which works are done.

    Works may depend on rows, as `in_processes` has them.

    Where a process or a node dies, Ray does its work again, once.  `check_cluster` comes before.

    Raises `InputError` where nodes have no kilograd or another one, and where a work fails twice.
    """
    import ray

    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        make = ray.remote(num_cpus=1, max_retries=1)(_run_there)
        running: list[Any] = []
        for work in works:
            most = 0 if work is None else 2 * _cpus(ray.cluster_resources(), address) - 1
            while len(running) > most:
                done, running = ray.wait(running)
                yield from ray.get(done[0])
                if work is None:
                    break
            if work is not None:
                running.append(make.remote(portable(work), __version__))
        while running:
            done, running = ray.wait(running)
            yield from ray.get(done[0])
    except ray.exceptions.RayTaskError as e:
        raise _named(e.cause, address) from e
    except ray.exceptions.RayError as e:
        raise InputError(
            f"{option('ray')} {address}: a process or node died, and so did the one that took "
            f"over, perhaps for lack of memory; the same command goes on ({type(e).__name__})"
        ) from e
    finally:
        ray.shutdown()


def check_jobs(jobs: int, cluster: str | None) -> None:
    """Raise `InputError` for a number of processes that cannot be, or that a cluster decides."""
    if jobs < 1:
        raise InputError(f"{option('jobs')} {jobs}: must be at least 1")
    check_most("jobs", jobs, limits.JOBS)
    if jobs > 1 and cluster is not None:
        raise InputError(
            f"{option('jobs')} {jobs}: {option('ray')} takes all CPUs of the cluster; leave one "
            "away"
        )


def check_cluster(address: str) -> None:
    """Raise `InputError` where no cluster answers: Ray itself asks for minutes, then exits."""
    Extra.RAY.need(option("ray"))
    where = re.fullmatch(r"(?:ray://)?([^/]+):(\d+)", address)
    fix = "start one with 'ray start --head', and give its HOST:PORT"
    try:
        if where:
            socket.create_connection((where[1], int(where[2])), _KNOCK).close()
        # A process of its own, since Ray ends the one that asks in vain.  What it says there is
        # all that is left: it exits, and raises nothing that could be handed back.
        ask = f"import ray; ray.init({address!r}, log_to_driver=False)"
        subprocess.run(
            [sys.executable, "-c", ask],
            check=True,
            capture_output=True,
            text=True,
            timeout=_GREETING,
        )
    except OSError as e:
        raise InputError(f"{option('ray')} {address}: nobody answers ({e}); {fix}") from e
    except subprocess.TimeoutExpired as e:
        raise InputError(
            f"{option('ray')} {address}: no Ray cluster has answered in {_GREETING} s; {fix}"
        ) from e
    except subprocess.CalledProcessError as e:
        why = (e.stderr.strip().splitlines() or ["?"])[-1].strip()
        raise InputError(f"{option('ray')} {address}: cannot be joined ({why}); {fix}") from e


def _cpus(resources: Mapping[str, float], address: str) -> int:
    """Return how many works run at once; nodes may come and go."""
    cpus = int(resources.get("CPU", 0))
    if cpus < 1:
        raise InputError(
            f"{option('ray')} {address}: no node has a CPU to give; add one: 'ray start'"
        )
    return cpus


def _named(cause: BaseException, address: str) -> BaseException:
    """Return the error that a node met, as the user should read it.

    Ray hands it over as a value; where a node cannot even import what raises, as an `ImportError`.
    """
    if isinstance(cause, ImportError):
        return InputError(
            f"{option('ray')} {address}: a node lacks what is installed here ({cause}); pip "
            f"install kilograd {__version__} on all nodes"
        )
    return cause


def _run_there(work: Work, version: str) -> tuple[Row, ...]:
    """Make rows in a process of a cluster."""
    if version != __version__:
        raise InputError(
            f"{option('ray')}: node {socket.gethostname()} has kilograd {__version__}, and here it "
            f"is {version}; install the same on all nodes"
        )
    return tuple(_worker()(work))
