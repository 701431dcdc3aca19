"""What the trainers of stages 1 and 2 have in common."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, Trainer, TrainerCallback

from larr.errors import LarrError
from larr.machine import bf16_is_fast, device
from larr.progress import Advance, track


class _ProgressCallback(TrainerCallback):
    def __init__(self, advance: Advance) -> None:
        self.advance = advance

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.advance(1)


def arguments(folder: Path, learning_rate: float, steps: int, seed: int) -> dict[str, Any]:
    """Returns the settings that both stages give to their trainer; `folder` is for its files."""
    on_gpu = device() == "cuda"
    return {
        "output_dir": str(folder / "trainer"),
        "learning_rate": learning_rate,
        "lr_scheduler_type": "cosine",
        "max_grad_norm": 1.0,
        "weight_decay": 0.01,
        "bf16": bf16_is_fast(),
        "use_cpu": not on_gpu,
        "activation_checkpointing": on_gpu,  # a GPU's memory is short, a CPU's time
        "logging_steps": max(1, steps // 20),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
    }


def run(
    trainer: Trainer, section: str, title: str, steps: int
) -> tuple[list[dict[str, float]], float]:
    """Trains, and returns the log entries that have a loss, and the seconds.

    Raises LarrError if a loss is not finite; `section` is where the learning rate is set.
    """
    trainer.remove_callback(PrinterCallback)
    started = time.perf_counter()
    with track(title, steps, "steps") as advance:
        trainer.add_callback(_ProgressCallback(advance))
        trainer.train()
    seconds = time.perf_counter() - started
    shutil.rmtree(trainer.args.output_dir, ignore_errors=True)
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    if not all(math.isfinite(entry["loss"]) for entry in entries):
        raise LarrError(
            f"{section}: the loss is not finite any more; lower {section}.learning_rate and "
            "run the same command again"
        )
    return entries, seconds
