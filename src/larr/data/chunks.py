"""The chunks of a log, worked on in this process, in several, or on Ray Data; results in order.

What all chunks need is written once, to files that every process maps: it is in memory once on each
machine, however many processes read it. Pickle is used between these processes alone, as Python and
Ray use it themselves: no pickled file is an input, and none is left when the stage ends.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
import polars as pl

from larr.config import ClusterConfig
from larr.errors import ConfigError, LarrError
from larr.workers import KILLED, POLL_SECONDS, processes

Work = Callable[[Any, Any], Any]
"""A function of a module, of what all chunks need and of a chunk."""
Mapped = Callable[[Work, Any, Iterable[Any]], Iterator[Any]]
"""`mapped(work, shared, chunks)` yields `work(shared, chunk)` of each chunk, in their order."""
WAITING = 2
"""Chunks for each process that are worked on or wait for that: more would only take memory."""
RETRIES = 2
"""How often Ray repeats a chunk whose process or machine has ended; by default it never stops."""
SMALL = 2**16
"""Arrays of fewer bytes are pickled as they are."""


def one_by_one(work: Work, shared: Any, chunks: Iterable[Any]) -> Iterator[Any]:
    """Works on the chunks in this process."""
    for chunk in chunks:
        yield work(shared, chunk)


@contextmanager
def mapping(cluster: ClusterConfig, folder: Path) -> Iterator[Mapped]:
    """Yields how chunks are worked on; `folder` holds what processes share, for as long."""
    if cluster.engine == "local" and cluster.workers == 1:
        yield one_by_one
        return
    folder = folder.absolute()  # workers may be in other folders
    folder.mkdir()
    try:
        if cluster.engine == "ray":
            with _ray(cluster):
                yield partial(_on_ray, cluster.workers, folder)
        else:
            with processes(cluster.workers, pl.thread_pool_size()) as pool:
                yield partial(_in_processes, pool, cluster.workers, folder)
    finally:
        shutil.rmtree(folder)


def _in_processes(
    pool: ProcessPoolExecutor,
    workers: int,
    folder: Path,
    work: Work,
    shared: Any,
    chunks: Iterable[Any],
) -> Iterator[Any]:
    """Works on the chunks in the processes of a pool."""
    waiting: deque[Future[Any]] = deque()
    with _written(shared, folder) as path:
        for chunk in chunks:
            waiting.append(pool.submit(_call, path, work, chunk))
            if len(waiting) >= WAITING * workers:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())


def _result(job: Future[Any]) -> Any:
    while not job.done():
        wait([job], POLL_SECONDS)
    return job.result()


@contextmanager
def _ray(cluster: ClusterConfig) -> Iterator[None]:
    """Connects to a Ray cluster, or starts a Ray on this machine that ends again."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray would report its use to its makers
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - by default its workers give way
    try:
        import ray.data  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "cluster.engine is \"ray\", and Ray cannot be imported; run `pip install 'larr[ray]'`, "
            'or set cluster.engine = "local"'
        ) from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised, too
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


def _on_ray(
    workers: int, folder: Path, work: Work, shared: Any, chunks: Iterable[Any]
) -> Iterator[Any]:
    """Works on the chunks in the tasks of a data set of Ray, a block for each chunk."""
    import ray.data  # noqa: PLC0415
    from ray.exceptions import RayError, RayTaskError  # noqa: PLC0415

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    with _written(shared, folder) as path:
        rows: list[dict[str, str]] = []
        for chunk in chunks:  # into files, since all of them may be larger than the memory
            file = path.with_name(f"chunk-{len(rows)}")
            file.write_bytes(pickle.dumps(chunk))
            rows.append({"chunk": str(file)})
        if not rows:
            return
        with warnings.catch_warnings(action="ignore"):  # Ray 2.64 will have no max_retries
            called = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
                partial(_call_of_row, path, work),
                compute=ray.data.TaskPoolStrategy(size=workers),
                max_retries=RETRIES,
            )
        try:
            for row in called.iter_rows():
                result = pickle.loads(row["result"])  # noqa: S301 - of a process that this one started
                if isinstance(result, LarrError):
                    raise result
                yield result
        except RayError as error:
            if isinstance(error, RayTaskError):
                raise
            raise LarrError(KILLED) from error


def _call_of_row(path: Path, work: Work, row: dict[str, str]) -> dict[str, bytes]:
    """Returns the result of a chunk, or larr's error, which Ray would wrap in its own."""
    try:
        chunk = pickle.loads(Path(row["chunk"]).read_bytes())  # noqa: S301 - see `_on_ray`
        result = _call(path, work, chunk)
    except LarrError as error:
        result = error
    return {"result": pickle.dumps(result)}


def _call(path: Path, work: Work, chunk: Any) -> Any:
    return work(_read(path), chunk)


@lru_cache(maxsize=1)
def _read(path: Path) -> Any:
    """Returns what `_written` wrote, once for all chunks of a process."""
    return pickle.loads(path.read_bytes())  # noqa: S301 - written by the process that started this


@contextmanager
def _written(shared: Any, folder: Path) -> Iterator[Path]:
    """Writes what all chunks need; yields the file for `_read`."""
    with TemporaryDirectory(dir=folder) as own:
        path = Path(own) / "shared.pickle"
        with path.open("wb") as file:
            _Pickler(file, path.parent).dump(shared)
        yield path


class _Pickler(pickle.Pickler):
    """Pickles an object whose tables and arrays go to files that are mapped when it is read."""

    def __init__(self, file: BinaryIO, folder: Path) -> None:
        super().__init__(file)
        self.paths = (folder / f"{number}.npy" for number in itertools.count())

    def reducer_override(self, value: Any) -> Any:
        """Returns how tables and arrays are read; all else is pickled as ever."""
        if isinstance(value, np.ndarray) and value.nbytes >= SMALL:
            np.save(path := next(self.paths), value)
            return np.load, (path, "r")
        if isinstance(value, pl.DataFrame):
            value.write_ipc(path := next(self.paths), record_batch_size=max(1, value.height))
            return _table, (path,)
        if isinstance(value, pl.Series):
            return pl.DataFrame.to_series, (value.to_frame(),)
        return NotImplemented


def _table(path: Path) -> pl.DataFrame:
    """Returns a mapped table."""
    import pyarrow as pa  # noqa: PLC0415 - serving, which imports its neighbours, does without it

    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    return pl.DataFrame(pl.from_arrow(table, rechunk=False))
