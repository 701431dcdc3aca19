"""Runs independent jobs in worker processes.

In addition to `ProcessPoolExecutor`, Ctrl-C ends the workers immediately, workers end with their
parent, and a worker that was killed for lack of memory is reported.
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
"""Waits have this timeout, as an unlimited wait may not be interrupted by Ctrl-C."""

KEEP_FREED, DECAY = "_RJEM_MALLOC_CONF", "dirty_decay_ms:5000,muzzy_decay_ms:5000"
"""Polars' allocator keeps freed memory for a few seconds: a third of the page faults per chunk."""
KILLED = (
    "a worker process was killed, probably for lack of memory; set a lower cluster.workers, such "
    "as 1, and run the same command again"
)


def run_parallel(
    work: Callable[..., None],
    jobs: dict[str, tuple[Any, ...]],
    workers: int,
    done: Callable[[str], object] = lambda _: None,
) -> None:
    """Calls `work(*arguments)` for each job, then `done(name)`, in any order.

    With two or more workers, each call runs in a process with a share of the threads, so `work`
    must be a module-level function. The first error ends the other processes and is raised. On a
    GPU the jobs run one by one.
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
    """Yields a pool of processes that share some threads; an error ends them immediately."""
    share = str(max(1, threads // count))
    # A fork of a process with threads of torch or polars may hang.
    spawn = multiprocessing.get_context("spawn")
    with (
        _environment({"OMP_NUM_THREADS": share, "POLARS_MAX_THREADS": share, KEEP_FREED: DECAY}),
        ProcessPoolExecutor(count, spawn, _start_worker) as pool,
    ):
        try:
            yield pool
        except BaseException as error:
            # The pool would wait for running jobs, which can take hours.
            for child in multiprocessing.active_children():
                child.kill()
            if isinstance(error, BrokenProcessPool):
                raise LarrError(KILLED) from error
            raise


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets environment variables for new processes; torch and polars read them at the start."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _start_worker() -> None:
    """Initialises a worker; its parent handles Ctrl-C and progress bars."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    machine.end_with_parent()
    machine.keep_freed_memory()
    progress.console = Console(stderr=True, highlight=False, markup=False, force_terminal=False)
