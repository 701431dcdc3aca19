"""Settings and the training loop shared by stages 1 and 2."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

from torch.distributed.fsdp import FSDPModule
from torch.nn import Module
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback

from larr.config import Config
from larr.config.text import BUILTIN_MODEL, ContrastConfig, InstructConfig, PretrainConfig
from larr.errors import LarrError
from larr.machine import bf16_is_fast, device, return_large_blocks
from larr.progress import Advance, track

CHECKPOINTED_PARAMETERS = 50_000_000
"""Larger models recompute their activations even on a CPU: those of SmolLM2 would take 10 GB for a
step of 64 triples."""
GATHERED_BLOCK = 2**20
"""Bytes from which a divided model returns memory to the system at once. Gathered weights come and
go; kept, they took 0.6 GB more of a model of 88 million parameters in two steps."""
BUILTIN_RATE, RATE = 1e-3, 1e-4
"""Default learning rates of the built-in model and of other pretrained models."""


class _ProgressCallback(TrainerCallback):
    def __init__(self, advance: Advance) -> None:
        self.advance = advance

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.advance(1)


def arguments(
    config: Config,
    stage: PretrainConfig | ContrastConfig | InstructConfig,
    folder: Path,
    steps: int,
) -> dict[str, Any]:
    """Returns the trainer settings of a stage; the trainer writes its files to `folder`."""
    is_builtin = config.backbone.model == BUILTIN_MODEL
    return {
        "output_dir": str(folder / "trainer"),
        "learning_rate": stage.learning_rate or (BUILTIN_RATE if is_builtin else RATE),
        "lr_scheduler_type": "cosine",
        "max_grad_norm": 1.0,
        "weight_decay": 0.01,
        "bf16": bf16_is_fast(),
        "use_cpu": device() == "cpu",
        "logging_steps": max(1, steps // 20),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": config.seed,
    }


def run(
    trainer: Trainer, section: str, title: str, steps: int
) -> tuple[list[dict[str, float]], float]:
    """Trains and returns the log entries with a loss, and the seconds.

    Raises LarrError if a loss is not finite; `section` is the section of the learning rate.
    """
    trainer.remove_callback(PrinterCallback)
    save_memory(trainer.model)
    started = time.perf_counter()
    with track(title, steps, "steps") as advance:
        trainer.add_callback(_ProgressCallback(advance))
        trainer.train()
    seconds = time.perf_counter() - started
    shutil.rmtree(trainer.args.output_dir, ignore_errors=True)
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    if not all(math.isfinite(entry["loss"]) for entry in entries):
        raise LarrError(
            f"{section}: the loss is not finite; lower {section}.learning_rate and run the same "
            "command again"
        )
    return entries, seconds


def save_memory(model: Module) -> None:
    """Enables activation checkpointing for large models, and for any model on a GPU.

    Disables the library's gradients of the inputs, which upper layers do not need.
    """
    size = sum(parameter.numel() for parameter in model.parameters())
    if device() == "cuda" or size >= CHECKPOINTED_PARAMETERS:
        return_large_blocks()
        body = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
        body.activation_checkpointing_enable()
        body.disable_input_require_grads()
    if isinstance(model, FSDPModule):
        return_large_blocks(GATHERED_BLOCK)
