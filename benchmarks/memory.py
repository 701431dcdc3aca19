"""Memory of stage 3 by the rows of the log.

    python benchmarks/memory.py CONFIG --folder FOLDER [--rows 1 10 100] [--seconds 75] [--set ...]

Repeats the prepared training rows of a finished run to logs of millions of ROWS in FOLDER, one
after the other, and trains LARR on each for some seconds in a process of its own. Prints the peak
of the memory that this process alone uses; pages of the mapped files, which the system can drop at
any time, are not in it. A hundred million rows of the demo take 27 GB on disk.
"""

from __future__ import annotations

import multiprocessing
import shutil
import time
from pathlib import Path

import numpy as np
import psutil
from measure import config_parser

from larr import artifacts
from larr.config import Config
from larr.data.batches import LogRows
from larr.progress import track
from larr.rankers.align import train
from larr.settings import load_config

RANKER, MILLION, CHUNK_ROWS = "larr", 1_000_000, 250_000


def repeated(data: Path, folder: Path, rows: int) -> None:
    """Writes the arrays of a log, repeated to `rows` rows."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in sorted(data.glob("*.npy")):
        source_N = np.load(path, mmap_mode="r")
        shape = (rows, *source_N.shape[1:])
        target_N = artifacts.new_array(folder / path.name, source_N.dtype, shape)
        with track(f"writing {path.name}", rows, "rows") as advance:
            for start in range(0, rows, CHUNK_ROWS):
                stop = min(start + CHUNK_ROWS, rows)
                target_N[start:stop] = source_N[np.arange(start, stop) % len(source_N)]
                advance(stop - start)
        target_N.flush()


def fit(config: Config, folder: Path) -> None:
    """Trains until the process is killed."""
    train(config, RANKER, config.align.of(RANKER), LogRows(folder))


def peak_gigabytes(config: Config, folder: Path, seconds: float) -> float:
    """Returns the largest anonymous memory of a training process in its first seconds."""
    process = multiprocessing.get_context("spawn").Process(target=fit, args=(config, folder))
    process.start()
    watched, peak, end = psutil.Process(process.pid), 0.0, time.monotonic() + seconds
    while time.monotonic() < end and process.is_alive():
        used = watched.memory_info()
        peak = max(peak, (used.rss - used.shared) / 1e9)
        time.sleep(0.1)
    process.kill()
    process.join()
    return peak


def main() -> None:
    """Prints a line for each length of the log."""
    parser = config_parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--seconds", type=float, default=75)
    options = parser.parse_args()
    config = load_config(options.config, options.overrides)
    data = artifacts.folder(config, "prepare") / "train"
    for millions in options.rows:
        folder = options.folder / f"{millions}_million"
        repeated(data, folder, millions * MILLION)
        peak = peak_gigabytes(config, folder, options.seconds)
        print(f"{millions} million rows: {peak:.2f} GB", flush=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
