"""Neural rankers: training steps, optimizers, learning rates and losses.

Shapes: B rows of a batch, T tasks.
"""

from __future__ import annotations

import gc
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from larr import machine, progress
from larr.data.batches import BLOCK_ROWS, Batch, LogRows
from larr.errors import LarrError
from larr.losses import click_loss
from larr.rankers.embedding import DividedTable, FeatureEmbedding
from larr.rankers.graph import VECTORS, Logits, graph_inputs, write_graph
from larr.rankers.layers import Towers, initialise, tower_rates
from larr.rankers.optimizers import FlatAdamW, LazyAdam
from larr.rankers.ranker import IDS, LossCurve, Range, Ranker, RankerInputs

POINTS, PRINTED = 50, 10  # points of the loss curve; every tenth is printed
WARM_UP = 0.05
"""Share of the training in which the learning rate rises: at the full rate Adam's first steps are
too long, because its moments come from a few batches."""
FEW_STEPS = 150
"""With fewer steps, rankers with texts are worse than rankers without."""
STEPS, FEWEST_ROWS, MOST_ROWS = 1_500, 60, 2_400
"""For `align.batch_size = 0`: the target number of steps, and the limits of the batch size."""


class Weights(NamedTuple):
    """The weights of the two parts of L_3. Paper: Eq. (26)."""

    click: float
    alignment: float


class DivergedError(LarrError):
    """The loss of a training is not a finite number."""


class NeuralRanker(nn.Module, Ranker):
    """A network trained on L_3 by gradient descent; `forward` maps a batch to logits, [B, T]."""

    search_space: ClassVar[dict[str, Range]] = {
        "learning_rate": Range(1e-3, 2e-2),
        "dropout": Range(0.0, 0.3, log=False),
    }
    alternatives: ClassVar[dict[str, Sequence[Any]]] = {
        "epochs": (3, 10, 30),
        "dropout": (0.2,),
        "id_dropout": (0.3,),
        "hidden": (IDS,),
    }
    negatives: int = 0
    """The number of extra negatives that `losses` needs for each row of a batch."""

    def __init__(self, inputs: RankerInputs) -> None:
        super().__init__()
        self.name, self.settings, self.group = inputs.name, inputs.settings, inputs.group
        self.tasks = len(inputs.features.tasks)

    @abstractmethod
    def set_base_rates(self, rates_T: Tensor) -> None:
        """Sets the output biases so that training starts from these probabilities."""

    def losses(self, batch: Batch, sampled: Batch, weights: Weights) -> Tensor:  # noqa: ARG002
        """Returns L_3, L_ctr and L_cl of a batch, means over its rows, [3]. Paper: Eq. (26).

        If several processes train the ranker, this is a part of a batch. A loss that compares rows
        must gather them with `group.all_gather`.
        """
        click = click_loss(self(batch), batch.labels, batch.weights)
        return torch.stack([weights.click * click, click, torch.zeros_like(click)])

    def add_gradients(self) -> None:
        """Replaces each gradient by its sum over the processes that train the ranker."""
        self.group.all_reduce_gradients(self)

    def phases(self) -> list[tuple[int, Weights]]:
        """Returns the phases of the training: their epochs and the weights of the losses."""
        weights = Weights(self.settings.beta_ctr, self.settings.beta_alignment)
        return [(self.settings.epochs, weights)]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns AdamW's parameter groups with their learning rates and weight decays."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [{"params": trained, "lr": self.settings.learning_rate, "weight_decay": 0.0}]

    def more_optimizers(self) -> list[Optimizer]:
        """Returns optimizers of parameters without gradient, at their peak learning rates."""
        return []

    def fit(self, log: LogRows, seed: int) -> LossCurve:
        """Trains on L_3, shuffling the rows in each epoch.

        Raises DivergedError if the loss becomes infinite or NaN.
        """
        settings, device = self.settings, torch.device(machine.device())
        self.set_base_rates(tower_rates(torch.from_numpy(log.label_rates()), settings.ctcvr))
        self.to(device).train()
        self.group.start(self)
        bf16 = machine.bf16_is_fast()
        adamw = FlatAdamW(self, self.parameter_groups(), bf16)
        optimizers = [adamw, *self.more_optimizers()]
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        peaks = [group["lr"] for group in groups]
        rows, epochs = len(log), sum(epochs for epochs, _ in self.phases())
        size = settings.batch_size or step_rows(rows * settings.epochs)
        steps = math.ceil(rows / size) * epochs
        if settings.batch_size and steps < FEW_STEPS:
            progress.console.print(
                f"  {self.name}: only {steps} steps of {size} rows; a smaller align.batch_size "
                "learns more from this log (0 selects one)"
            )
        curve: LossCurve = []
        samples = 0
        gc.freeze()  # collections during the training then skip the objects of all modules
        # samples times losses since the last point; kept on the device, because reading a value
        # at each step would wait for the GPU
        sums: list[Tensor] = []
        with progress.track(self.name, rows * epochs, "samples") as advance:
            for step, (batch, sampled, weights, done) in enumerate(self._batches(log, size, seed)):
                for group, peak in zip(groups, peaks, strict=True):
                    group["lr"] = rate_at(done) * peak
                own, drawn, share = self._part(batch, sampled)
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    losses = share * self.losses(own.to(device), drawn.to(device), weights)
                for optimizer in optimizers:
                    optimizer.zero_grad()
                losses[0].backward()
                self.add_gradients()
                for optimizer in optimizers:
                    optimizer.step()
                samples += batch.rows
                sums.append(batch.rows * losses.detach())
                if (step + 1) * POINTS // steps > len(curve):
                    curve.append(self._point(sums, samples, curve))
                    sums.clear()
                advance(batch.rows)
        adamw.finish()
        self.eval()
        return curve

    def _batches(
        self, log: LogRows, size: int, seed: int
    ) -> Iterator[tuple[Batch, Batch, Weights, float]]:
        """Yields the batches of all phases with their weights and the progress of their phase."""
        rows, samples, first = len(log), 0, 0
        for epochs, weights in self.phases():
            for epoch in range(first, first + epochs):
                random = np.random.default_rng([seed, epoch])
                for batch, sampled in log.shuffled(size, random, self.negatives):
                    yield batch, sampled, weights, (samples / rows - first) / epochs
                    samples += batch.rows
            first += epochs

    def _part(self, batch: Batch, sampled: Batch) -> tuple[Batch, Batch, float]:
        """Returns this process's part of a batch and of its negatives, and its share of the rows.

        If there are fewer rows than processes, each process reads all of them.
        """
        if self.group.size == 1:
            return batch, sampled, 1.0
        if batch.rows < self.group.size:
            return batch, sampled, 1 / self.group.size
        own_M = self.group.part(torch.arange(batch.rows))
        drawn_MK = self.group.part(torch.arange(sampled.rows).view(batch.rows, -1))
        own, drawn = batch.select(own_M), sampled.select(drawn_MK.flatten())
        return own, drawn, own.rows / batch.rows

    def _point(self, sums: list[Tensor], samples: int, curve: LossCurve) -> dict[str, float]:
        """Returns the mean losses since the last point of the curve; prints every tenth point.

        `sums` holds this process's share of each step's losses, times the step's samples.
        """
        since = samples - (int(curve[-1]["samples"]) if curve else 0)
        total = self.group.all_reduce(torch.stack(sums).sum(dim=0))
        loss, click, alignment = (total / since).tolist()
        if not math.isfinite(loss):
            raise DivergedError(
                f"{self.name}: the loss is {loss} after {samples:,} samples, expected a finite "
                "number; lower align.learning_rate"
            )
        if (len(curve) + 1) % PRINTED == 0:
            progress.console.print(
                f"  {self.name}: {samples:,} samples, loss {loss:.4f} "
                f"(click {click:.4f}, alignment {alignment:.4f})"
            )
        return {"samples": samples, "loss": loss, "click": click, "alignment": alignment}

    @torch.inference_mode()
    def score(self, batch: Batch) -> Tensor:
        """Returns the logits, float32 [B, T] on the CPU."""
        self.eval()
        logits_BT: Tensor = self(batch.to(next(self.parameters()).device))
        return logits_BT.float().cpu()

    def save(self, path: Path) -> None:
        """Writes the parameters and the persistent buffers."""
        save_file({name: t.contiguous().cpu() for name, t in self.state_dict().items()}, path)

    def load(self, path: Path) -> None:
        """Reads what `save` wrote."""
        self.load_state_dict(load_file(path))
        self.eval()

    def write_graph(self, path: Path, example: Batch) -> None:
        """Exports `forward`; the buffer `vectors`, if any, becomes an input."""
        inputs, buffers = graph_inputs(example), dict(self.named_buffers())
        if VECTORS in buffers:
            inputs[VECTORS] = buffers[VECTORS].numpy()
        write_graph(Logits(self), inputs, path)


class EmbeddingRanker(NeuralRanker):
    """A network between `FeatureEmbedding`, the common inputs, and `Towers`."""

    search_space = NeuralRanker.search_space | {"embedding_l2": Range(1e-6, 1e-3)}
    encoder: FeatureEmbedding
    towers: Towers

    def initialise(self, seed: int) -> None:
        """Initialises every parameter from the seed and the parameter's name."""
        initialise(self, seed)

    @torch.no_grad()
    def set_base_rates(self, rates_T: Tensor) -> None:
        """Sets the towers' last biases."""
        self.towers.layers[-1].bias.copy_(rates_T.logit(eps=1e-6)[:, None, None])  # type: ignore[operator]

    def more_optimizers(self) -> list[Optimizer]:
        """Returns `LazyAdam` for the embedding table."""
        settings = self.settings
        return [LazyAdam(self.encoder.table, settings.learning_rate, settings.embedding_l2)]

    def add_gradients(self) -> None:
        """Also sends the gradients of a divided table's rows to their processes."""
        super().add_gradients()
        if isinstance(self.encoder.table, DividedTable):
            self.encoder.table.add_gradients()

    def fit(self, log: LogRows, seed: int) -> LossCurve:
        """Trains, then sets the vectors of unseen values; see `average_unseen`.

        Only the first of several processes has the whole table afterwards.
        """
        curve = super().fit(log, seed)
        if isinstance(self.encoder.table, DividedTable):
            self.encoder.table = self.encoder.table.whole()
        if self.group.rank == 0:
            self.encoder.average_unseen(log.in_order(BLOCK_ROWS))
        return curve


def step_rows(rows: int) -> int:
    """Returns the batch size for this many training rows at the default learning rates."""
    return min(max(rows // STEPS, FEWEST_ROWS), MOST_ROWS)


def rate_at(done: float) -> float:
    """Returns the learning rate as a share of its peak, at a given progress of a phase.

    It rises briefly, then falls linearly to 0. The paper's is constant, at a fifth of the default
    peak and for a thousand times as many steps.
    """
    return min(1.0, done / WARM_UP + 0.01) * (1 - done)
