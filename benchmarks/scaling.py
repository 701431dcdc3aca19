"""What a day of a large platform would cost, from the rates of a finished run.

    python benchmarks/scaling.py CONFIG [--impressions 1e9] [--days 14] [--kept 0.1] [--texts 1e6]

The stages whose cost grows with the log read each row or text once, so their time is

    prepare    impressions a day x days / rate
    embed      new texts a day / rate
    align      (clicks + kept x other impressions) x days x epochs / rate, for one ranker
    evaluate   impressions of the last day / rate

with the rates that the run measured on this machine. Stages 1 and 2 train on a fixed number of
tokens and triples; `larr plan` shows their cost. `machines` is how many of this kind are needed to
finish a stage in `--hours`; the stage that needs most is the bottleneck.
"""

from __future__ import annotations

import argparse
import os
from typing import NamedTuple

import numpy as np
from measure import config_parser
from rich import box
from rich.table import Table

from larr import artifacts
from larr.config import Config
from larr.data.batches import LogRows
from larr.evaluation.findings import BASE, LARR
from larr.progress import console
from larr.settings import load_config


class Cost(NamedTuple):
    """The work of a stage and the rate that was measured."""

    stage: str
    work: float
    unit: str
    rate: float
    """Per second."""


def costs(config: Config, arguments: argparse.Namespace) -> list[Cost]:
    """Returns the cost of each stage that grows with the log."""
    artifacts.require(config, "prepare", "embed", "align", "evaluate")
    manifests = {
        verb: artifacts.read_json(artifacts.folder(config, verb) / artifacts.MANIFEST)
        for verb in ("prepare", "embed", "align", "evaluate")
    }
    rates = {verb: content["measured"]["rate"] for verb, content in manifests.items()}
    rows = arguments.impressions * arguments.days
    log = LogRows(artifacts.folder(config, "prepare") / "train")
    clicks = float(np.mean(log.array("labels")[:, 0]))
    trained = rows * (clicks + (1 - clicks) * arguments.kept) * config.align.epochs
    speeds = manifests["align"]["figures"]
    return [
        Cost("prepare", rows, "impressions", rates["prepare"]),
        Cost("embed", arguments.texts, "texts", rates["embed"]),
        *(
            Cost(f"align, {name}", trained, "samples", speeds[name]["samples_per_second"])
            for name in (BASE, LARR)
        ),
        Cost("evaluate", arguments.impressions, "impressions", rates["evaluate"]),
    ]


def main() -> None:
    """Prints a table of the stages and the bottleneck."""
    parser = config_parser(__doc__)
    parser.add_argument("--impressions", type=float, default=1e9, help="a day")
    parser.add_argument("--days", type=float, default=14, help="in the training log")
    parser.add_argument("--kept", type=float, default=0.1, help="share of rows without a click")
    parser.add_argument("--texts", type=float, default=1e6, help="new ones a day")
    parser.add_argument("--hours", type=float, default=4, help="in which a stage must finish")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.overrides)
    table = Table("stage", "work", "rate here", "hours here", "machines", box=box.SIMPLE)
    stages = costs(config, arguments)
    for cost in stages:
        hours = cost.work / cost.rate / 3_600
        work, rate = f"{cost.work:.2g} {cost.unit}", f"{cost.rate:,.0f}/s"
        machines = f"{np.ceil(hours / arguments.hours):,.0f}"
        table.add_row(cost.stage, work, rate, f"{hours:,.1f}", machines)
    console.print(table)
    slowest = max(stages, key=lambda cost: cost.work / cost.rate)
    console.print(f"The bottleneck is {slowest.stage}; this machine has {os.cpu_count()} cores.")


if __name__ == "__main__":
    main()
