"""Runs jobs in worker processes, on this machine or on the machines of a Ray cluster.

In addition to `ProcessPoolExecutor`, Ctrl-C ends the workers immediately, workers end with their
parent, and a worker that was killed for lack of memory is reported.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import platform
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from larr import machine, progress
from larr.config import ClusterConfig
from larr.errors import ConfigError, LarrError

POLL_SECONDS = 0.5
"""Waits have this timeout, as an unlimited wait may not be interrupted by Ctrl-C."""

KEEP_FREED, DECAY = "_RJEM_MALLOC_CONF", "dirty_decay_ms:5000,muzzy_decay_ms:5000"
"""Polars' allocator keeps freed memory for a few seconds: a third of the page faults per chunk."""
KILLED = (
    "a worker process was killed, probably for lack of memory; set a lower cluster.workers, such "
    "as 1, and run the same command again"
)
LOST = (
    "a worker process or its machine was lost, or cannot be reached; run the same command again, "
    "which continues with the unfinished stage; if memory was short, set a lower cluster.workers"
)


class Pool(NamedTuple):
    """Worker processes."""

    submit: Callable[..., Future[Any]]
    """`submit(work, *arguments)` calls a module-level function in one of them."""
    threads: int
    """The threads of each."""
    address: str = "127.0.0.1"
    """The address at which they reach this process."""


def run_parallel(
    work: Callable[..., None],
    jobs: dict[str, tuple[Any, ...]],
    cluster: ClusterConfig,
    done: Callable[[str], object] = lambda _: None,
) -> None:
    """Calls `work(*arguments)` for each job, then `done(name)`, in any order.

    With two or more workers, each call runs in a process with a share of the threads, so `work`
    must be a module-level function. The first error ends the other processes and is raised. On a
    GPU the jobs run one by one.
    """
    workers = min(cluster.workers, len(jobs))
    if workers < 2 or machine.device() == "cuda":
        for name, arguments in jobs.items():
            work(*arguments)
            done(name)
        return
    with pool(cluster, workers) as started:
        running = {started.submit(work, *arguments): name for name, arguments in jobs.items()}
        while running:
            for job in wait(running, POLL_SECONDS, FIRST_COMPLETED).done:
                job.result()
                done(running.pop(job))


@contextmanager
def pool(cluster: ClusterConfig, count: int, *, this_one: bool = False) -> Iterator[Pool]:
    """Yields `count` workers; they share the cores, with `this_one` also with this process.

    Raises LarrError if a worker is killed.
    """
    if cluster.engine == "ray":
        with connected(cluster):
            yield _tasks(count, this_one=this_one)
        return
    import torch  # noqa: PLC0415 - serving imports this module, and has no torch

    threads = max(1, torch.get_num_threads() // (count + this_one))
    with processes(count, count * threads) as executor:
        yield Pool(executor.submit, threads)


@contextmanager
def processes(count: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    """Yields a pool of processes that share some threads; an error ends them immediately."""
    share = str(max(1, threads // count))
    # A fork of a process with threads of torch or polars may hang.
    spawn = multiprocessing.get_context("spawn")
    with (
        _environment({"OMP_NUM_THREADS": share, "POLARS_MAX_THREADS": share, KEEP_FREED: DECAY}),
        ProcessPoolExecutor(count, spawn, _start_worker) as executor,
    ):
        try:
            yield executor
        except BaseException as error:
            # The pool would wait for running jobs, which can take hours.
            for child in multiprocessing.active_children():
                child.kill()
            if isinstance(error, BrokenProcessPool):
                raise LarrError(KILLED) from error
            raise


@contextmanager
def connected(cluster: ClusterConfig) -> Iterator[None]:
    """Connects to a Ray cluster, or starts a local one; disconnects or stops it at the end."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - by default workers have low priority
    try:
        import ray  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "cluster.engine is \"ray\", but Ray is not installed; run `pip install 'larr[ray]'`, "
            'or set cluster.engine = "local"'
        ) from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised as well
    started = {} if cluster.address else {"num_cpus": cluster.workers, "include_dashboard": False}
    ray.init(
        cluster.address or "local",
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"env_vars": {"POLARS_MAX_THREADS": "1"}},  # a task has one core
        **started,
    )
    try:
        yield
    finally:
        ray.shutdown()


def _tasks(count: int, *, this_one: bool) -> Pool:
    """Returns a pool whose workers are Ray tasks, with as many cores as `count` of them can have.

    They take turns on the machines; with `this_one` this machine is left out once. Raises
    ConfigError if there are not enough cores.
    """
    import ray  # noqa: PLC0415
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

    alive = [node for node in ray.nodes() if node["Alive"]]
    cores = {node["NodeID"]: int(node["Resources"].get("CPU", 0)) for node in alive}
    threads = max(cores.values())
    while threads and sum(of_node // threads for of_node in cores.values()) < count + this_one:
        threads -= 1
    if not threads:
        raise ConfigError(
            f"cluster.workers: {count + this_one} processes need a core each, but the machines of "
            f"the Ray cluster have {sum(cores.values())}; set a lower cluster.workers"
        )
    turns = sorted((turn, node) for node in cores for turn in range(cores[node] // threads))
    here = (0, ray.get_runtime_context().get_node_id())
    nodes = itertools.cycle(node for turn, node in turns if not this_one or (turn, node) != here)
    task = ray.remote(_result_or_error)

    def submit(work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        result: Future[Any] = Future()
        placed = task.options(
            num_cpus=threads,
            max_retries=0,  # the processes of a group cannot be replaced one by one
            scheduling_strategy=NodeAffinitySchedulingStrategy(next(nodes), soft=True),
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}},
        )
        running: Future[Any] = placed.remote(Path.cwd(), work, *arguments).future()
        running.add_done_callback(lambda finished: _pass_on(finished, result))
        return result

    return Pool(submit, threads, ray.util.get_node_ip_address())


def _result_or_error(folder: Path, work: Callable[..., Any], *arguments: Any) -> Any:
    """Returns the result, or the LarrError, which Ray would wrap in its own error.

    Paths in the configuration may be relative to `folder`, where the command was called.
    """
    try:
        if not folder.is_dir():
            raise ConfigError(
                f"cluster.engine: {platform.node()} has no folder {folder}, in which the command "
                "was called; all machines must see it and `output` under the same path"
            )
        os.chdir(folder)
        return work(*arguments)
    except LarrError as error:
        return error


def _pass_on(finished: Future[Any], result: Future[Any]) -> None:
    """Gives `result` the result or the error of a Ray task."""
    from ray.exceptions import RayError, RayTaskError  # noqa: PLC0415

    error = finished.exception()
    if isinstance(error, RayError) and not isinstance(error, RayTaskError):
        error = LarrError(LOST)
    elif error is None and isinstance(finished.result(), LarrError):
        error = finished.result()
    if error is None:
        result.set_result(finished.result())
    else:
        result.set_exception(error)


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
