"""How stages 1 and 2 run a library's trainer."""

from __future__ import annotations

import math
import shutil
import time
from typing import Any

from transformers import PrinterCallback, Trainer, TrainerCallback

from larr.errors import LarrError
from larr.progress import Advance, track


class _Shown(TrainerCallback):
    def __init__(self, advance: Advance, samples: int) -> None:
        self.advance, self.samples = advance, samples

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.advance(self.samples)


def run(
    trainer: Trainer, section: str, what: str, unit: str, steps: int, of_step: int = 1
) -> tuple[list[dict[str, float]], float]:
    """Trains so many steps, each of `of_step` units; the records of the loss, and the seconds.

    LarrError if a loss is no finite number; `section` holds the learning rate.
    """
    trainer.remove_callback(PrinterCallback)
    started = time.perf_counter()
    with track(what, steps * of_step, unit) as advance:
        trainer.add_callback(_Shown(advance, of_step))
        trainer.train()
    seconds = time.perf_counter() - started
    shutil.rmtree(trainer.args.output_dir, ignore_errors=True)
    records = [entry for entry in trainer.state.log_history if "loss" in entry]
    if not all(math.isfinite(record["loss"]) for record in records):
        raise LarrError(
            f"{section}: the loss is no finite number any more; lower {section}.learning_rate and "
            "run the same command again"
        )
    return records, seconds
