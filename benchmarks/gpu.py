"""Speed, share of the card's peak and memory of stages 1 and 2, embedding and stage 3.

    python benchmarks/gpu.py CONFIG --card h200 [--set ...]

Measures with the warm-up steps of `larr plan`, on a GPU in complete batches; without a GPU the same
steps run on the CPU, and there is no share. Needs `larr prepare`.
"""

from __future__ import annotations

import torch
from measure import config_parser
from rich import box
from rich.table import Table

from larr import artifacts, plan
from larr.data.batches import LogRows
from larr.machine import device, peak_memory
from larr.progress import console
from larr.settings import load_config
from larr.text.memory import gigabytes


def main() -> None:
    """Prints a row for each stage."""
    parser = config_parser(__doc__)
    parser.add_argument("--card", choices=plan.CARDS, required=True)
    options = parser.parse_args()
    config = load_config(options.config, options.overrides)
    artifacts.require(config, "prepare")
    on_gpu, flops = device() == "cuda", plan.CARDS[options.card].flops
    table = Table("stage", "unit", "per second", "share of the peak", "memory", box=box.SIMPLE)

    def add(stage: str, unit: str, speed: float, operations: float, process: int) -> None:
        share = f"{speed * operations / flops:.1%}" if on_gpu and operations else ""
        memory = torch.cuda.max_memory_allocated() if on_gpu else process
        table.add_row(stage, unit, f"{speed:,.0f}", share, gigabytes(memory))
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    for verb, amount in plan.workloads(config, 1).items():
        with peak_memory() as peak:
            rates = plan.measure_rates(config, {verb: amount})
        if verb in rates:
            tokens = amount.trained if amount.steps else amount.read
            operations = amount.operations[not amount.steps] / tokens
            add(verb, "tokens", 1 / rates[verb], operations, peak[0])
    with peak_memory() as peak:
        speed = plan.ranker_speed(config, LogRows(artifacts.folder(config, "prepare") / "train"))
    add("align", "samples of LARR", speed, 0, peak[0])
    console.print(f"{config.backbone.model} on {options.card if on_gpu else 'this CPU'}")
    console.print(table)


if __name__ == "__main__":
    main()
