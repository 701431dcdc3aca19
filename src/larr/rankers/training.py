"""How one ranker is trained: its steps, its optimizers, L_3.

Shapes: B rows of a batch, K sampled negatives of a row, R scene texts, A dimension of e_s,
U table rows that a batch touches.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from larr import artifacts, machine, progress, rankers
from larr.artifacts import Artifact
from larr.config import Config
from larr.config.rankers import AlignConfig
from larr.data import batches
from larr.data.batches import Batch
from larr.errors import LarrError
from larr.losses import click_loss, info_nce
from larr.rankers.larr import Larr
from larr.rankers.layers import CategoryTable, Network, Ranker, tower_rates
from larr.rankers.trees import Trees

POINTS, TOLD_POINTS = 50, 10  # of the loss curve; of these the mean is told
WARM_UP = 0.05
FEW_STEPS = 150
"""Fewer steps leave a ranker that reads texts behind one that does not."""
STEPS, FEWEST_ROWS, MOST_ROWS = 1_500, 60, 2_400
"""What `align.batch_size = 0` makes of a log."""


def ranker_artifact(config: Config, name: str) -> Artifact:
    """Returns the artifact of a trained ranker, `align/NAME`."""
    settings, inputs = built_from(config, name, config.align.of(name))
    return Artifact(artifacts.folder(config, "align") / name, settings, inputs)


def built_from(
    config: Config, name: str, align: AlignConfig
) -> tuple[dict[str, Any], dict[str, str | None]]:
    """Returns the settings and the inputs that a training of one model depends on."""
    entry, other = rankers.find(config, name), {"models", "workers", "tuned", "variants"}
    settings = {
        "seed": config.seed,
        "architecture": entry.architecture.__name__,
        "align": align.model_dump(mode="json", exclude=other),
    }
    inputs: dict[str, str | None] = {"prepare/": artifacts.key(artifacts.folder(config, "prepare"))}
    if source := entry.vectors:
        inputs[f"embed/{source}/"] = artifacts.key(artifacts.folder(config, "embed") / source)
    return settings, inputs


def fit(config: Config, name: str, log: Path) -> tuple[Ranker, list[dict[str, float]]]:
    """Trains one model on a log with the settings `config.align`; returns it with its losses."""
    if not config.align.rows:
        return _fit(config, name, log)
    scratch = config.output / f".rows-of-{name}"
    try:
        batches.write_part(log, batches.latest(log, config.align.rows), scratch)
        return _fit(config, name, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fit(config: Config, name: str, log: Path) -> tuple[Ranker, list[dict[str, float]]]:
    torch.set_float32_matmul_precision("medium")  # the fast fp32 products
    torch.manual_seed(config.seed)
    model = rankers.build(config, name)
    if isinstance(model, Trees):
        return model, _grow(config, name, model, log)
    assert isinstance(model, Network)  # noqa: S101 - there is no third kind
    rates_T = torch.from_numpy(batches.label_rates(log))
    model.start_at(tower_rates(rates_T, config.align.ctcvr))
    trainer = Trainer(model, config.align)
    curve = _train(config, name, trainer, log)
    model.fill_unseen(batches.in_order(log, batches.BLOCK_ROWS))
    return model, curve


def _grow(config: Config, name: str, model: Trees, log: Path) -> list[dict[str, float]]:
    rounds, rows = config.align.trees.rounds * len(model.tasks), batches.count_rows(log)
    with progress.track(name, rounds, "trees") as advance:
        losses = model.grow(log, config.seed, advance)
    return [
        {"samples": rows * point // len(losses), "loss": loss, "click": loss, "alignment": 0.0}
        for point, loss in enumerate(losses, 1)
    ]


def _train(config: Config, name: str, trainer: Trainer, log: Path) -> list[dict[str, float]]:
    """Runs all epochs; returns the mean losses of about `POINTS` equal stretches."""
    settings = config.align
    rows, alone = batches.count_rows(log), settings.alignment_epochs if trainer.aligns else 0
    joint = (settings.beta_ctr, settings.beta_alignment)
    epochs = [(0.0, 1.0)] * alone + [joint] * settings.epochs
    total = rows * len(epochs)
    size = settings.batch_size or step_rows(rows * settings.epochs)
    curve = Curve(name, math.ceil(rows / size) * len(epochs))
    if settings.batch_size and curve.steps < FEW_STEPS:
        progress.console.print(
            f"  {name}: {curve.steps} steps of {size} rows are few; a smaller align.batch_size "
            "learns more from such a log (0 chooses one)"
        )
    with progress.track(name, total, "samples") as advance:
        for epoch, betas in enumerate(epochs):
            random = np.random.default_rng([config.seed, epoch])
            negatives = settings.negatives if trainer.aligns else 0
            for batch, sampled in batches.shuffled(log, size, random, negatives):
                first, last = (0, alone) if epoch < alone else (alone, len(epochs))
                done = (curve.samples / rows - first) / (last - first)
                trainer.set_rate(rate_at(done, settings.schedule))
                curve.add(batch.rows, trainer.step(batch, sampled, betas))
                advance(batch.rows)
    return curve.points


def step_rows(rows: int) -> int:
    """The rows of a step in which the default learning rates suit so many rows."""
    return min(max(rows // STEPS, FEWEST_ROWS), MOST_ROWS)


def rate_at(done: float, schedule: Literal["constant", "linear"]) -> float:
    """The share of the learning rate after a share of the training: a short rise, then to 0."""
    if schedule == "constant":
        return 1.0
    return min(1.0, done / WARM_UP + 0.01) * (1 - done)


def rates_of(model: Network, settings: AlignConfig) -> list[dict[str, Any]]:
    """The parameters of the networks with their peak learning rates, for an optimizer.

    What reads text vectors has the rate and the weight decay of `align.scene`: at the rate of the
    ID embeddings, which are touched by few rows of a batch, it learns by heart which text belongs
    to whom.
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[name.partition(".")[0] in ("scene", "matching", "alignment")].append(parameter)
    rates = {
        True: {"lr": settings.scene.learning_rate, "weight_decay": settings.scene.weight_decay},
        False: {"lr": settings.learning_rate, "weight_decay": 0.0},
    }
    return [
        {"params": group, "peak": rates[reads_texts]["lr"]} | rates[reads_texts]
        for reads_texts, group in groups.items()
        if group
    ]


class DivergedError(LarrError):
    """The loss of a training is not a finite number."""


class Curve:
    """The mean losses of the samples in stretches of as many steps."""

    def __init__(self, name: str, steps: int) -> None:
        self.name, self.steps = name, steps
        self.samples, self.done, self.since = 0, 0, 0
        self.losses: list[Tensor] = []
        self.points: list[dict[str, float]] = []

    def add(self, samples: int, losses: Tensor) -> None:
        """Adds a step's losses: the whole, L_ctr, L_cl."""
        self.samples, self.done = self.samples + samples, self.done + 1
        self.since += samples
        self.losses.append(samples * losses)
        if self.done * POINTS // self.steps > len(self.points):
            self._close()

    def _close(self) -> None:
        total, click, alignment = (torch.stack(self.losses).sum(dim=0) / self.since).tolist()
        if not math.isfinite(total):
            raise DivergedError(
                f"{self.name}: the loss is {total} after {self.samples:,} samples, expected a "
                "finite number; lower align.learning_rate, or set align.precision to fp32"
            )
        point = {"samples": self.samples, "loss": total, "click": click, "alignment": alignment}
        self.points.append(point)
        self.losses.clear()
        self.since = 0
        if len(self.points) % TOLD_POINTS == 0:
            lately = self.points[-TOLD_POINTS:]
            told = {
                name: sum(one[name] for one in lately) / TOLD_POINTS
                for name in ("loss", "click", "alignment")
            }
            progress.console.print(
                f"  {self.name}: {self.samples:,} samples, loss {told['loss']:.4f} lately "
                f"(click {told['click']:.4f}, alignment {told['alignment']:.4f})"
            )


class Trainer:
    """A model with its two optimizers: AdamW for the networks, lazy Adam for the table."""

    def __init__(self, model: Network, settings: AlignConfig) -> None:
        self.device = torch.device(machine.device())
        self.model, self.settings = model.to(self.device).train(), settings
        self.aligns = isinstance(model, Larr)
        self.bf16 = settings.precision == "bf16" or (
            settings.precision == "auto" and machine.bf16_is_fast()
        )
        self.dense = torch.optim.AdamW(rates_of(model, settings), fused=True)
        table = model.table()
        self.rows = table and RowAdam(table, settings.learning_rate, settings.embedding_l2)

    def set_rate(self, share: float) -> None:
        """Sets the learning rates of the next step to a share of those configured."""
        for group in self.dense.param_groups:
            group["lr"] = share * group["peak"]
        if self.rows:
            self.rows.rate = share * self.settings.learning_rate

    def step(self, batch: Batch, sampled: Batch, betas: tuple[float, float]) -> Tensor:
        """One step on L_3; returns it with its two parts, [3]. Paper: Eq. (26)."""
        batch, sampled = batch.to(self.device), sampled.to(self.device)
        beta_ctr, beta_alignment = betas
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            scores = self.model(batch)
            click = click_loss(scores.logits, batch.labels)
            alignment = torch.zeros_like(click)
            if scores.aligned is not None and beta_alignment:
                alignment = self.alignment(scores.aligned, batch, sampled)
        loss = beta_ctr * click + beta_alignment * alignment
        self.dense.zero_grad()
        loss.backward()
        self.dense.step()
        if self.rows:
            self.rows.step()
        return torch.stack([loss, click, alignment]).detach()

    def alignment(self, aligned: tuple[Tensor, Tensor], batch: Batch, sampled: Batch) -> Tensor:
        """L_cl, with K sampled rows as further negatives of each e_s. Paper: Eq. (24)-(25)."""
        scene_BA, target_BA = (functional.normalize(side.float(), dim=1) for side in aligned)
        excluded, more_BKA = no_negatives(batch), target_BA[:, None][:, :0]
        if isinstance(self.model, Larr) and sampled.rows:
            more_BKA = self.model.sampled_target(sampled).unflatten(0, (batch.rows, -1)).float()
            excluded = torch.cat([excluded, no_sampled_negatives(batch, sampled)], dim=1)
        with torch.autocast(self.device.type, enabled=False):  # a small temperature asks for fp32
            more_BK = (functional.normalize(more_BKA, dim=2) @ scene_BA[:, :, None]).squeeze(2)
            similarities = torch.cat([scene_BA @ target_BA.T, more_BK], dim=1)
            return info_nce(similarities, excluded, self.settings.temperature)


def no_negatives(batch: Batch) -> Tensor:
    """Pairs of rows that are no negatives: the same user, or the same place with the same texts.

    Decision 19. Returns bool [B, B].
    """
    users_B, scenes_B = batch.keys[:, 0], _fingerprints(batch)
    same_BB: Tensor = users_B[:, None] == users_B
    return same_BB.logical_or_(scenes_B[:, None] == scenes_B)


def no_sampled_negatives(batch: Batch, sampled: Batch) -> Tensor:
    """The same for the K rows sampled for each row, bool [B, K]."""
    users_BK = sampled.keys[:, 0].unflatten(0, (batch.rows, -1))
    scenes_BK = _fingerprints(sampled).unflatten(0, (batch.rows, -1))
    same_BK: Tensor = batch.keys[:, :1] == users_BK
    return same_BK.logical_or_(_fingerprints(batch)[:, None] == scenes_BK)


def _fingerprints(batch: Batch) -> Tensor:
    """A 64-bit polynomial hash of each row's place and scene texts."""
    values = torch.cat([batch.keys[:, 1:], batch.texts], dim=1).long()
    fingerprints = torch.zeros_like(values[:, 0])
    for column in values.unbind(dim=1):
        fingerprints = fingerprints * 6364136223846793005 + column + 1
    return fingerprints


class RowAdam:
    """Adam on the rows of a table that a batch touches; the other rows and their moments rest."""

    def __init__(self, table: CategoryTable, rate: float, l2: float) -> None:
        self.table, self.rate, self.l2 = table, rate, l2
        self.mean, self.square = torch.zeros_like(table.rows), torch.zeros_like(table.rows)
        self.steps = 0

    @torch.no_grad()
    def step(self) -> None:
        """Updates the rows of the table's last lookup."""
        rows_U, leaf_UE = self.table.touched.pop()
        if leaf_UE.grad is None:
            return
        slope_UE = leaf_UE.grad.add_(leaf_UE, alpha=self.l2)
        self.steps += 1
        mean_UE = self.mean.index_select(0, rows_U).lerp_(slope_UE, 1 - 0.9)
        square_UE = self.square.index_select(0, rows_U).mul_(0.999)
        square_UE.addcmul_(slope_UE, slope_UE, value=1 - 0.999)
        self.mean.index_copy_(0, rows_U, mean_UE)
        self.square.index_copy_(0, rows_U, square_UE)
        rate = self.rate * math.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        leaf_UE.addcdiv_(mean_UE, square_UE.sqrt_().add_(1e-8), value=-rate)
        self.table.rows.index_copy_(0, rows_U, leaf_UE)
