"""Processes the chunks of a log in order: in this process, in a process pool, or on Ray Data.

Data shared by all chunks is written once, to files that every process memory-maps, so each machine
holds it in memory once. Pickle is used only between these processes, as Python and Ray do
themselves: no pickled file is an input, and none remains when the stage ends.
"""

from __future__ import annotations

import itertools
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
from larr.errors import LarrError
from larr.workers import LOST, POLL_SECONDS, connected, processes

Work = Callable[[Any], Any]
"""A function of a chunk that can be pickled, such as a `functools.partial` with the shared data."""
ParallelMap = Callable[[Work, Iterable[Any]], Iterator[Any]]
"""`pmap(work, chunks)` yields `work(chunk)` for each chunk, in order, as `map` does."""
WAITING = 2
"""Chunks submitted per process, running or queued; more would only use memory."""
RETRIES = 2
"""Times that Ray retries a chunk whose worker or machine has died; its default is no limit."""
SMALL = 2**16
"""Arrays of fewer bytes are pickled, not memory-mapped."""


@contextmanager
def parallel_map(cluster: ClusterConfig, folder: Path) -> Iterator[ParallelMap]:
    """Yields the function that processes chunks; `folder`, an absolute path, holds shared data."""
    if cluster.engine == "local" and cluster.workers == 1:
        yield map
        return
    folder.mkdir()
    try:
        if cluster.engine == "ray":
            with connected(cluster):
                yield partial(_on_ray, cluster.workers, folder)
        else:
            with processes(cluster.workers, pl.thread_pool_size()) as pool:
                yield partial(_in_processes, pool, cluster.workers, folder)
    finally:
        shutil.rmtree(folder)


def _in_processes(
    pool: ProcessPoolExecutor, workers: int, folder: Path, work: Work, chunks: Iterable[Any]
) -> Iterator[Any]:
    waiting: deque[Future[Any]] = deque()
    with _written(work, folder) as path:
        for chunk in chunks:
            waiting.append(pool.submit(_call, path, chunk))
            if len(waiting) >= WAITING * workers:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())


def _result(job: Future[Any]) -> Any:
    while not job.done():
        wait([job], POLL_SECONDS)
    return job.result()


def _on_ray(workers: int, folder: Path, work: Work, chunks: Iterable[Any]) -> Iterator[Any]:
    """Processes the chunks as tasks of a Ray dataset, one block per chunk."""
    import ray.data  # noqa: PLC0415
    from ray.exceptions import RayError, RayTaskError  # noqa: PLC0415

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    with _written(work, folder) as path:
        rows: list[dict[str, str]] = []
        for chunk in chunks:  # written to files, as all chunks may not fit in memory
            file = path.with_name(f"chunk-{len(rows)}")
            file.write_bytes(pickle.dumps(chunk))
            rows.append({"chunk": str(file)})
        if not rows:
            return
        with warnings.catch_warnings(action="ignore"):  # Ray 2.64 will remove max_retries
            called = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
                partial(_call_of_row, path),
                compute=ray.data.TaskPoolStrategy(size=workers),
                max_retries=RETRIES,
            )
        try:
            for row in called.iter_rows():
                result = pickle.loads(row["result"])  # noqa: S301 - from a worker of this process
                if isinstance(result, LarrError):
                    raise result
                yield result
        except RayError as error:
            if isinstance(error, RayTaskError):
                raise
            raise LarrError(LOST) from error


def _call_of_row(path: Path, row: dict[str, str]) -> dict[str, bytes]:
    """Returns the pickled result, or the LarrError, which Ray would wrap in its own error."""
    try:
        chunk = pickle.loads(Path(row["chunk"]).read_bytes())  # noqa: S301 - see `_on_ray`
        result = _call(path, chunk)
    except LarrError as error:
        result = error
    return {"result": pickle.dumps(result)}


def _call(path: Path, chunk: Any) -> Any:
    return _read(path)(chunk)


@lru_cache(maxsize=1)
def _read(path: Path) -> Work:
    """Returns what `_written` wrote; each process reads it once."""
    found: Work = pickle.loads(path.read_bytes())  # noqa: S301 - written by the parent process
    return found


@contextmanager
def _written(work: Work, folder: Path) -> Iterator[Path]:
    """Writes a function with its shared data; yields the path for `_read`."""
    with TemporaryDirectory(dir=folder) as own:
        path = Path(own) / "work.pickle"
        with path.open("wb") as file:
            _Pickler(file, path.parent).dump(work)
        yield path


class _Pickler(pickle.Pickler):
    """Writes tables and large arrays to separate files, which unpickling memory-maps."""

    def __init__(self, file: BinaryIO, folder: Path) -> None:
        super().__init__(file)
        self.paths = (folder / f"{number}.npy" for number in itertools.count())

    def reducer_override(self, value: Any) -> Any:
        """Returns the reader of a table or large array; other objects are pickled by default."""
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
    """Returns a memory-mapped table."""
    import pyarrow as pa  # noqa: PLC0415 - serving imports this module and must not need pyarrow

    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    return pl.DataFrame(pl.from_arrow(table, rechunk=False))
