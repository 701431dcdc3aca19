"""Independent pieces of work in processes of their own, some at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
from rich.console import Console

from larr import memory, progress
from larr.errors import LarrError

LOOK_SECONDS = 0.5
"""An interrupt is heeded between two looks: a wait without an end may sleep through it."""


def side_by_side(
    work: Callable[..., None],
    jobs: dict[str, tuple[Any, ...]],
    workers: int,
    done: Callable[[str], object] = lambda _: None,
) -> None:
    """Calls `work(*arguments)` for each job and `done(name)` after it; the order is not kept.

    With two workers or more, each call has a process and its share of the threads, so `work` must
    be a function of a module. A failure ends the other processes at once.
    """
    workers = min(workers, len(jobs))
    if workers < 2:
        for name, arguments in jobs.items():
            work(*arguments)
            done(name)
        return
    threads = max(1, torch.get_num_threads() // workers)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, _begin, (threads,)) as pool:
        running = {pool.submit(work, *arguments): name for name, arguments in jobs.items()}
        try:
            while running:
                ended = wait(running, LOOK_SECONDS, FIRST_COMPLETED).done
                for job in ended:
                    job.result()
                    done(running.pop(job))
        except BaseException as error:
            for child in multiprocessing.active_children():
                child.kill()
            if isinstance(error, BrokenProcessPool):
                raise LarrError(
                    "a process that trained a ranker was killed, perhaps for want of memory; set "
                    "align.workers to 1 and run the same command again"
                ) from error
            raise


def _begin(threads: int) -> None:
    """Makes a worker leave the keyboard and the bars to its parent, and end when that ends."""

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    memory.keep_freed()
    torch.set_num_threads(threads)
    progress.console = Console(stderr=True, highlight=False, force_terminal=False)
