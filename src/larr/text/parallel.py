"""Data parallelism of stages 1 and 2: processes that share the texts of each step.

Each process has the whole model and reads a part of a step's texts. Stage 2 gathers the vectors
before the loss, so that each text has the negatives that it has in one process. The gradients are
added up before the optimizer's step. So the result is that of one process, up to rounding.

Shapes: N texts of a step, M of them in one process, D vector length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import Module
from torch.nn.functional import pad
from transformers import Trainer

from larr import machine, progress
from larr.config import Config
from larr.workers import POLL_SECONDS, processes

TIMEOUT = timedelta(days=7)
"""For a message from a process that may evaluate a large model; a lost process is noticed at once.
"""
MIN_STEPS = 30
"""Fewer steps are trained by one process, as another takes about eight seconds to start."""
GRACE_SECONDS = 5.0
"""Time for a failed process to end after its connection."""


@dataclass(frozen=True)
class Group:
    """The processes that train one model, and the number of this one."""

    rank: int = 0
    size: int = 1
    folder: Path = Path()
    """Where they find each other."""
    threads: int = 0
    """Threads of each process during the training."""
    others: tuple[Future[None], ...] = ()
    """The other processes, for the first one."""

    def start(self, model: Module) -> None:
        """Connects the processes, and gives each the weights of the first one.

        Raises the error of a process that failed before.
        """
        if self.size == 1:
            return
        (self.folder / f"{self.rank}").touch()
        while self.others and len(list(self.folder.iterdir())) < self.size:
            for process in wait(self.others, POLL_SECONDS, FIRST_COMPLETED).done:
                process.result()
        torch.set_num_threads(self.threads)
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{self.folder / 'store'}",
            rank=self.rank,
            world_size=self.size,
            timeout=TIMEOUT,
        )
        for tensor in (*model.parameters(), *model.buffers()):
            distributed.broadcast(tensor.data, 0)

    def part(self, items: Any) -> Any:
        """Returns the items of a list or the rows of a tensor for this process, every `size`-th."""
        return items[self.rank :: self.size]

    def gathered(self, vectors: list[Tensor], counts: list[int]) -> Tensor:
        """Returns the vectors of all processes in the order of the texts, float32 [N, D].

        `vectors` are those of `part(groups)`, each [texts of the group, D], `counts` the texts of
        all groups. Gradients flow into this process's own vectors only.
        """
        own_MD = torch.cat(vectors).float()
        if self.size == 1:
            return own_MD
        sizes = [sum(counts[rank :: self.size]) for rank in range(self.size)]
        padded_MD = pad(own_MD.detach(), (0, 0, 0, max(sizes) - len(own_MD)))
        received = [torch.empty_like(padded_MD) for _ in sizes]
        distributed.all_gather(received, padded_MD)
        received[self.rank] = own_MD
        parts: list[Any] = [None] * len(counts)
        for rank, (rows_MD, size) in enumerate(zip(received, sizes, strict=True)):
            parts[rank :: self.size] = rows_MD[:size].split(counts[rank :: self.size])
        return torch.cat(parts)

    def total(self, value: Tensor) -> Tensor:
        """Returns the sum over the processes; gradients flow into this process's own value only."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        distributed.all_reduce(total)
        return value + (total - value.detach())

    def add_gradients(self, model: Module) -> None:
        """Replaces each gradient by its sum over the processes."""
        if self.size == 1:
            return
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        flat = torch.cat(
            [
                torch.zeros(weight.numel()) if weight.grad is None else weight.grad.flatten()
                for weight in trained
            ]
        )
        distributed.all_reduce(flat)
        sums = flat.split([weight.numel() for weight in trained])
        for weight, total in zip(trained, sums, strict=True):
            weight.grad = total.view_as(weight)

    def agreed(self, decision: bool) -> bool:
        """Returns the decision of the first process."""
        if self.size == 1:
            return decision
        message = torch.tensor(decision)
        distributed.broadcast(message, 0)
        return bool(message)


ALONE = Group()


class ParallelTrainer(Trainer):
    """The library's trainer, for a process of a group; a loss is that of all its processes."""

    group = ALONE

    def training_step(self, model: Module, *arguments: Any, **named: Any) -> Tensor:
        """Returns the loss, and leaves the gradients of all processes."""
        loss: Tensor = super().training_step(model, *arguments, **named)
        self.group.add_gradients(model)
        return loss


def processes_of(config: Config, verb: str) -> int:
    """Returns the number of processes of stage 1 or 2; on a GPU there is one."""
    stage = config.pretrain if verb == "pretrain" else config.contrast
    least = 2  # texts or triples of a step in each process
    several = max(1, min(config.cluster.processes, stage.batch_size // least))
    return 1 if machine.device() == "cuda" else several


@contextmanager
def group_of(
    config: Config, verb: str, assist: Callable[[Config, Group], None], steps: int
) -> Iterator[Group]:
    """Yields the group of this process, which is the first; the others call `assist`.

    Raises LarrError if a process is killed.
    """
    size = processes_of(config, verb)
    if size == 1 or steps < MIN_STEPS:
        yield ALONE
        return
    threads = torch.get_num_threads()
    with processes(size - 1, threads) as pool, TemporaryDirectory() as folder:
        first = Group(0, size, Path(folder), max(1, threads // size))
        others = tuple(
            pool.submit(_assist, config, assist, replace(first, rank=rank))
            for rank in range(1, size)
        )
        try:
            yield replace(first, others=others)
        except RuntimeError:  # the connection to a process that has failed
            for process in wait(others, GRACE_SECONDS, FIRST_COMPLETED).done:
                process.result()
            raise
        finally:
            _leave()
            torch.set_num_threads(threads)
        for process in others:
            process.result()


def _assist(config: Config, assist: Callable[[Config, Group], None], group: Group) -> None:
    torch.set_num_threads(group.threads)
    progress.console.quiet = True  # the first process reports
    try:
        assist(config, group)
    finally:
        _leave()


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
