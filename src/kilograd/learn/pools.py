"""Where rows are made: in this process, or in several."""

from __future__ import annotations

import functools
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from kilograd.errors import InputError
from kilograd.learn.work import Row, Work, Worker

_PATIENCE = 0.2  # seconds; a process that is told to end at a bad moment is told again


def here(works: Iterator[Work]) -> Generator[Row, None, None]:
    """Yield rows one after the other."""
    worker = Worker()
    for work in works:
        yield from worker(work)


def in_processes(works: Iterator[Work], jobs: int) -> Generator[Row, None, None]:
    """Yield rows, those of a work together, in the order in which works are done.

    Raises `InputError` where a process dies.
    """
    before = set(multiprocessing.active_children())
    # Not forked: this process has threads, and so may numpy.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=_watch_parent)
    try:
        running: set[Future[tuple[Row, ...]]] = set()
        for work in works:
            with _ctrl_c_later():
                running.add(pool.submit(_run, work))
            if len(running) == 2 * jobs:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (row for f in done for row in f.result())
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (row for f in done for row in f.result())
    except BrokenProcessPool as e:
        raise InputError(
            f"--jobs {jobs}: a worker process died, perhaps for lack of memory; the same command "
            f"with fewer jobs goes on"
        ) from e
    except BaseException:
        while workers := set(multiprocessing.active_children()) - before:
            for process in workers:
                process.terminate()
            multiprocessing.connection.wait([p.sentinel for p in workers], _PATIENCE)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Start processes that a terminal's Ctrl-C does not reach: their parent ends them."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
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
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
            return tuple(_worker()(work))
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    except SystemExit:
        os._exit(1)  # the pool would take it for a result and go on
