"""Independent jobs in worker processes, several at a time.

`ProcessPoolExecutor` as it is, but for what `larr align` needs beside it: Ctrl-C ends the workers
at once, a worker ends with its parent, and one that was killed for its memory is reported as that.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
from rich.console import Console

from larr import machine, progress
from larr.errors import LarrError

POLL_SECONDS = 0.5
"""Python handles an interrupt between two waits; one wait without end may sleep through it."""


def side_by_side(
    work: Callable[..., None],
    jobs: dict[str, tuple[Any, ...]],
    workers: int,
    done: Callable[[str], object] = lambda _: None,
) -> None:
    """Calls `work(*arguments)` for each job and `done(name)` after it, in any order.

    With two workers or more, each call has a process and its share of the threads, so `work` must
    be a function of a module. The first failure ends the other processes and is raised.
    """
    workers = min(workers, len(jobs))
    if workers < 2:
        for name, arguments in jobs.items():
            work(*arguments)
            done(name)
        return
    threads = max(1, torch.get_num_threads() // workers)
    # spawn: a fork of a process in which torch or polars has threads may hang
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, _start_worker, (threads,)) as pool:
        running = {pool.submit(work, *arguments): name for name, arguments in jobs.items()}
        try:
            while running:
                for job in wait(running, POLL_SECONDS, FIRST_COMPLETED).done:
                    job.result()
                    done(running.pop(job))
        except BaseException as error:
            # the pool would wait for the jobs that run, which can take hours
            for child in multiprocessing.active_children():
                child.kill()
            if isinstance(error, BrokenProcessPool):
                raise LarrError(
                    "a process that trained a ranker was killed, probably for lack of memory; set "
                    "align.workers to 1 and run the same command again"
                ) from error
            raise


def _start_worker(threads: int) -> None:
    """Prepares a worker: its parent handles Ctrl-C and draws the progress bars."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    machine.end_with_parent()
    machine.keep_freed_memory()
    torch.set_num_threads(threads)
    progress.console = Console(stderr=True, highlight=False, markup=False, force_terminal=False)
