"""The training loop of stages 1 and 2, in one or several processes; see `larr.group`.

Each process reads a part of a step's texts. With `cluster.divide_model` it also keeps only a part
of every weight, with its gradient and optimizer state (fully sharded data parallelism). The weights
of a layer are gathered when it computes, and freed afterwards; its gradients are added up, and each
process receives those of its part. So all processes must call the model equally often.
Source: ZeRO, arXiv 1910.02054; FSDP, arXiv 2304.11277.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn import Module, Parameter
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback

from larr.config import Config
from larr.config.text import BUILTIN_MODEL, ContrastConfig, InstructConfig, PretrainConfig
from larr.errors import LarrError
from larr.group import ALONE, Group
from larr.machine import bf16_is_fast, device, return_large_blocks
from larr.progress import Advance, track
from larr.text.backbone import layer_stack

CHECKPOINTED_PARAMETERS = 50_000_000
"""Larger models recompute their activations even on a CPU: those of SmolLM2 would take 10 GB for a
step of 64 triples."""
GATHERED_BLOCK = 2**20
"""Bytes from which a divided model returns memory to the system at once. Gathered weights come and
go; kept, they took 0.6 GB more of a model of 88 million parameters in two steps."""
MIN_STEPS = 30
"""Fewer steps are trained by one process, as another takes about eight seconds to start."""
BUILTIN_RATE, RATE = 1e-3, 1e-4
"""Default learning rates of the built-in model and of other pretrained models."""


class _ProgressCallback(TrainerCallback):
    def __init__(self, advance: Advance) -> None:
        self.advance = advance

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.advance(1)


class ParallelTrainer(Trainer):
    """The library's trainer, for a process of a group; a loss is that of all its processes."""

    group = ALONE

    def training_step(self, model: Module, *arguments: Any, **named: Any) -> Tensor:
        """Returns the loss, and leaves the gradients of all processes."""
        loss: Tensor = super().training_step(model, *arguments, **named)
        if not self.group.divides:  # otherwise they are added up during backpropagation
            self.group.all_reduce_gradients(model)
        return loss


def arguments(
    config: Config, stage: PretrainConfig | ContrastConfig | InstructConfig, steps: int
) -> dict[str, Any]:
    """Returns the trainer settings of a stage."""
    is_builtin = config.backbone.model == BUILTIN_MODEL
    return {
        "output_dir": str(config.output),  # required, but nothing is written
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


def process_count(config: Config, verb: str, steps: int = MIN_STEPS) -> int:
    """Returns the number of processes of stage 1 or 2; on a GPU there is one."""
    stage = config.pretrain if verb == "pretrain" else config.contrast
    least = 2  # texts or triples of a step in each process
    several = max(1, min(config.cluster.workers, stage.batch_size // least))
    return 1 if steps < MIN_STEPS or device() == "cuda" else several


def divide(model: Module, group: Group) -> Module:
    """Divides a model in place, and returns a copy without weights, for `collect`.

    If the group does not divide, returns the model itself. Embeddings and heads are gathered for
    the whole of a forward or backward pass.
    """
    if not group.divides:
        return model
    empty = {
        id(weight): Parameter(weight.detach().to("meta"), weight.requires_grad)
        for weight in model.parameters()
    }
    whole: Module = copy.deepcopy(model, empty)
    torch.set_autocast_cache_enabled(False)  # it would keep copies of gathered weights
    mesh = init_device_mesh("cpu", (group.size,))
    body = next(part for part in model.modules() if isinstance(part, PreTrainedModel))
    for part in (*body.get_submodule(layer_stack(body)), model):
        # by default the outermost module would keep its weights, which the optimizer must not see
        divided = fully_shard(part, mesh=mesh, reshard_after_forward=True)
        divided.set_gradient_divide_factor(1.0)  # losses are shares of the sum over all processes
        divided.set_force_sum_reduction_for_comms(enable=True)
    return whole


@torch.no_grad()
def collect(model: Module, whole: Module) -> None:
    """Gives the copy from `divide` the weights, in the first process; all processes must call it.

    In the others it has none.
    """
    if whole is model:
        return
    torch.set_autocast_cache_enabled(True)
    parts: Iterable[Any] = model.parameters()
    for part, empty in zip(parts, whole.parameters(), strict=True):
        weight = part.full_tensor()
        if distributed.get_rank() == 0:
            torch.utils.swap_tensors(empty, Parameter(weight, empty.requires_grad))
