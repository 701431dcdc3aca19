"""What several benchmarks share: command line, timed calls, a request of the simulated log."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

CANDIDATE_COLUMNS = ("poi_id", "position", "distance_km", "delivery_minutes", "delivery_fee_yuan")


def config_parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser of CONFIG and `--set`, as of larr's commands."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="A.B=VALUE")
    return parser


def milliseconds(call: Callable[[], object], runs: int) -> list[float]:
    """Returns the time of each of several calls, after one that warms the caches."""
    call()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return times


def cpu_seconds(call: Callable[[], object]) -> float:
    """Returns the CPU time of a call, which other work on the machine hardly affects."""
    started = time.process_time()
    call()
    return time.process_time() - started


def logged_request(data: Path, count: int) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Returns the scene of a row of the last day in `prepare/`, and the columns of candidates."""
    log = pl.read_parquet(sorted((data / "raw" / "impressions").glob("*.parquet"))[-1])
    scene = log.drop(*CANDIDATE_COLUMNS, "request_id", "click", "order").row(0, named=True)
    return scene, log.head(count).select(CANDIDATE_COLUMNS).to_dict(as_series=False)
