"""Several processes in stages 1 and 2; see `larr.group`.

Each process reads a part of a step's texts. Stage 2 gathers the vectors before the loss, so that
each text has the negatives that it has in one process.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import Module
from transformers import Trainer

from larr import machine
from larr.config import Config
from larr.group import ALONE

MIN_STEPS = 30
"""Fewer steps are trained by one process, as another takes about eight seconds to start."""


class ParallelTrainer(Trainer):
    """The library's trainer, for a process of a group; a loss is that of all its processes."""

    group = ALONE

    def training_step(self, model: Module, *arguments: Any, **named: Any) -> Tensor:
        """Returns the loss, and leaves the gradients of all processes."""
        loss: Tensor = super().training_step(model, *arguments, **named)
        if not self.group.divides:  # otherwise they are added up during backpropagation
            self.group.add_gradients(model)
        return loss


def processes_of(config: Config, verb: str, steps: int = MIN_STEPS) -> int:
    """Returns the number of processes of stage 1 or 2; on a GPU there is one."""
    stage = config.pretrain if verb == "pretrain" else config.contrast
    least = 2  # texts or triples of a step in each process
    several = max(1, min(config.cluster.workers, stage.batch_size // least))
    return 1 if steps < MIN_STEPS or machine.device() == "cuda" else several
