"""Latency of each kind of served ranker: 300 candidates on one core, columns to probabilities.

    .venv/bin/python benchmarks/forms.py configs/city.toml ple larr dcn lightgbm larr+lightgbm

Requires a finished `larr run` with these rankers in `align.models`; + averages logits. The rankers
alternate, so that noise of the machine affects all of them.
"""

from __future__ import annotations

import tempfile
from collections import ChainMap
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import config_parser, logged_request, milliseconds

from larr import artifacts
from larr.data.batches import LogRows
from larr.rankers import best
from larr.rankers.predict import load_ranker
from larr.serve.features import Reader
from larr.serve.publish import write_ranker
from larr.serve.ranker import ServedRanker
from larr.settings import load_config

CANDIDATES, ROUNDS, RUNS = 300, 30, 12


def main() -> None:
    """Prints the latency percentiles of each ranker."""
    torch.set_num_threads(1)
    parser = config_parser(__doc__)
    parser.add_argument("models", nargs="+")
    options = parser.parse_args()
    config = best.with_members(load_config(options.config, options.overrides))
    data = artifacts.folder(config, "prepare")
    reader, two = Reader(config, data), next(LogRows(data / "test").in_order(2))
    request = logged_request(data, CANDIDATES)
    times: dict[str, list[float]] = {name: [] for name in options.models}
    with tempfile.TemporaryDirectory() as scratch:
        served = {}
        for name in options.models:
            loaded = (load_ranker(config, each) for each in name.split("+"))
            members = ChainMap(*(blend.members for blend in loaded))
            write_ranker(members, reader, two, Path(scratch) / name)
            served[name] = ServedRanker(Path(scratch) / name, reader)
        for _ in range(ROUNDS):
            for name, ranker in served.items():
                times[name] += milliseconds(partial(ranker.score, *request), RUNS)
    for name, runs in times.items():
        p50, p99 = np.quantile(runs, [0.5, 0.99])
        print(f"{name:30} p50 {p50:7.3f} ms, p99 {p99:7.3f} ms, fastest {min(runs):7.3f} ms")


if __name__ == "__main__":
    main()
