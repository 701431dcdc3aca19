"""A version with a million places: time to publish and to start, memory, request latency.

    python benchmarks/million.py CONFIG --store FOLDER [--places 1000000] [--set ...]

Repeats the places of a run under other IDs: the copies share texts, and the tables have a row for
each. FOLDER needs about 6 GB for a million places.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import psutil
from measure import config_parser

from larr import artifacts
from larr.data.snapshot import KNOWN
from larr.serve import publish as module
from larr.serve.request import RankRequest
from larr.serve.store import VERSIONS, Store, read_golden
from larr.settings import load_config

ROUNDS = 200


def larger(data: Path, places: int) -> None:
    """Repeats the rows of the table of known places."""
    path = data / KNOWN / "places.parquet"
    known = pl.read_parquet(path)
    copies = -(-places // len(known))
    parts = [known] + [
        known.with_columns(pl.format("{}-{}", "poi_id", pl.lit(copy))) for copy in range(1, copies)
    ]
    pl.concat(parts).head(places).write_parquet(path)


def main() -> None:
    """Publishes a version, opens it and sends requests."""
    parser = config_parser(__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--places", type=int, default=1_000_000)
    options = parser.parse_args()
    config = load_config(options.config, options.overrides)
    copied = options.store / "run"
    shutil.rmtree(options.store, ignore_errors=True)
    for verb in ("prepare", "embed", "align", "contrast"):
        folder = artifacts.folder(config, verb)
        ignored = shutil.ignore_patterns("train", "raw", "orders.parquet")
        shutil.copytree(folder, copied / folder.name, ignore=ignored)
    config = config.model_copy(update={"output": copied})
    larger(artifacts.folder(config, "prepare"), options.places)
    module.require_ranker = lambda *_: None  # the tables are stale on purpose

    store, started = Store(options.store), time.perf_counter()
    version = module.publish(store, config, "larr")
    print(f"published {options.places:,} places in {time.perf_counter() - started:.0f} s")
    shutil.rmtree(copied)
    size = sum(path.stat().st_size for path in options.store.rglob("*") if path.is_file())
    print(f"size of the version: {size / 2**30:.1f} GB")
    process = psutil.Process()
    before, started = process.memory_full_info().uss, time.perf_counter()
    opened = store.load(version)
    seconds, memory = time.perf_counter() - started, process.memory_full_info().uss - before
    print(f"opened, checked and replayed in {seconds:.1f} s; {memory / 2**20:.0f} MB private")

    request = read_golden(options.store / VERSIONS / version)[0]["request"]
    ids = opened.known_places["poi_id"].to_list()
    degrees = opened.known_places.select("poi_lat", "poi_lon").drop_nulls()
    random = np.random.default_rng(1)

    def at_random() -> dict[str, Any]:
        chosen = random.choice(len(ids), 300, replace=False)
        return {"candidates": [{"poi_id": ids[number]} for number in chosen]}

    def around() -> dict[str, Any]:
        lat, lon = degrees.row(int(random.integers(len(degrees))))
        return {"candidates": None, "near": {"lat": lat, "lon": lon, "at_most": 300}}

    for name, candidates in (("at random", at_random), ("near a point", around)):
        times = []
        for _ in range(ROUNDS):
            content = json.dumps(request | candidates() | {"k": 20}).encode()
            started = time.perf_counter()
            opened.rank(msgspec.json.decode(content, type=RankRequest))
            times.append(1000 * (time.perf_counter() - started))
        middle, high = np.quantile(times, [0.5, 0.99])
        print(f"300 candidates {name}, on one core: p50 {middle:.1f} ms, p99 {high:.1f} ms")


if __name__ == "__main__":
    main()
