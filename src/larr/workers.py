"""Independent jobs in worker processes, several at a time.

`ProcessPoolExecutor` as it is, but for what larr needs beside it: Ctrl-C ends the workers at once,
a worker ends with its parent, and one that was killed for its memory is reported as that.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from larr import machine, progress
from larr.errors import LarrError

POLL_SECONDS = 0.5
"""Python handles an interrupt between two waits; one wait without end may sleep through it."""

KILLED = (
    "a worker process was killed, probably for lack of memory; set a lower cluster.workers, such "
    "as 1, and run the same command again"
)


def side_by_side(
    work: Callable[..., None],
    jobs: dict[str, tuple[Any, ...]],
    workers: int,
    done: Callable[[str], object] = lambda _: None,
) -> None:
    """Calls `work(*arguments)` for each job and `done(name)` after it, in any order.

    With two workers or more, each call has a process and its share of the threads, so `work` must
    be a function of a module. The first failure ends the other processes and is raised. On a GPU
    the jobs follow each other.
    """
    workers = min(workers, len(jobs))
    if workers < 2 or machine.device() == "cuda":
        for name, arguments in jobs.items():
            work(*arguments)
            done(name)
        return
    import torch  # noqa: PLC0415 - not all workers need it

    with processes(workers, torch.get_num_threads()) as pool:
        running = {pool.submit(work, *arguments): name for name, arguments in jobs.items()}
        while running:
            for job in wait(running, POLL_SECONDS, FIRST_COMPLETED).done:
                job.result()
                done(running.pop(job))


@contextmanager
def processes(count: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    """Yields a pool of processes that share some threads; an error ends them at once."""
    share = str(max(1, threads // count))
    # spawn: a fork of a process in which torch or polars has threads may hang
    spawn = multiprocessing.get_context("spawn")
    with (
        _environment({"OMP_NUM_THREADS": share, "POLARS_MAX_THREADS": share}),
        ProcessPoolExecutor(count, spawn, _start_worker) as pool,
    ):
        try:
            yield pool
        except BaseException as error:
            # the pool would wait for the jobs that run, which can take hours
            for child in multiprocessing.active_children():
                child.kill()
            if isinstance(error, BrokenProcessPool):
                raise LarrError(KILLED) from error
            raise


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets variables for processes that are started within; torch and polars read them once."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _start_worker() -> None:
    """Prepares a worker: its parent handles Ctrl-C and draws the progress bars."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    machine.end_with_parent()
    machine.keep_freed_memory()
    progress.console = Console(stderr=True, highlight=False, markup=False, force_terminal=False)
