"""LARR's ranker: PLE with a scene encoder, trained with an alignment loss.

Shapes: B rows of a batch, K sampled negatives of a row, R scene texts, D dimension of their
vectors, F categories, E embedding, A dimension of e_s and e_t, T tasks.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from larr import machine
from larr.data.batches import Batch, LogRows
from larr.group import ALONE, Group
from larr.losses import click_loss, info_nce
from larr.rankers.matching import Matching, project
from larr.rankers.neural import Weights
from larr.rankers.ple import Ple
from larr.rankers.ranker import LossCurve, Range, RankerInputs
from larr.rankers.scene_encoder import SceneEncoder


class Larr(Ple):
    """PLE over all ordinary features, e_s and the matching figures. Section 3.3; decision 22."""

    text_vectors = "encoder"
    search_space = Ple.search_space | {
        "scene.learning_rate": Range(5e-4, 8e-3),
        "scene.weight_decay": Range(0.1, 30.0),
        "beta_alignment": Range(1e-3, 1e-1),
    }
    alternatives: ClassVar = {
        "scene.text_dropout": (0.3,),
        "scene.whitened": (True,),
        "scene.weight_decay": (30.0,),
        **Ple.alternatives,
    }
    vectors: Tensor
    slots: Tensor
    recent_texts: Tensor
    axes: Tensor
    centres: Tensor
    scales: Tensor
    targets: Tensor

    def __init__(self, inputs: RankerInputs) -> None:
        space = inputs.settings.ple.expert_units[-1]
        matching = Matching(inputs) if inputs.settings.scene.matching else None
        super().__init__(inputs, more=space + (matching.width if matching else 0))
        self.negatives = inputs.settings.negatives
        self.scene, self.matching = SceneEncoder(inputs), matching
        # a text's key and value in the scene encoder then depend only on the text
        self.sources = inputs.sources
        self.foldable = self.scene.reads_agg_alone
        self.centred: Tensor | None = None
        for name in ("vectors", "slots", "recent_texts"):
            self.register_buffer(name, getattr(inputs, name), persistent=False)
        for name in ("axes", "centres", "scales"):
            self.register_buffer(name, getattr(inputs, name))
        sides = [category.side for category in inputs.features.categories]
        targets = [column for column, side in enumerate(sides) if side != "scene"]
        self.register_buffer("targets", torch.tensor(targets), persistent=False)
        self.alignment = nn.Linear(len(targets) * inputs.settings.embedding, space)

    def forward(self, batch: Batch) -> Tensor:
        """Returns the logits, [B, T]."""
        return self.outputs(batch)[0]

    def outputs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Returns logits [B, T], e_s [B, A] and the embeddings behind e_t [B, F, E]."""
        features = self.encoder(batch)
        texts_BR = batch.texts
        if self.training and self.settings.scene.text_dropout:
            drawn_BR = torch.rand(texts_BR.shape, device=texts_BR.device)
            texts_BR = texts_BR.masked_fill(drawn_BR < self.settings.scene.text_dropout, -1)
        vectors_BRD = self.read(texts_BR, slice(None))
        e_s = self.scene(self.own(vectors_BRD), texts_BR < 0)
        more = [e_s]
        if self.matching:
            slot = self.matching.recent_slot
            recent_BL = self.recent_texts[batch.recent] if slot is not None else texts_BR[:, :0]
            recent_BLD = self.read(recent_BL, slot or 0)
            more.append(self.matching(vectors_BRD, recent_BLD, recent_BL >= 0))
        return self.logits(features.joined(*more)), e_s, features.categories

    def read(self, texts_BX: Tensor, slots: slice | int) -> Tensor:
        """Returns the centred vectors of texts of these scene keywords, 0 for missing ones."""
        if self.centred is not None:
            return functional.embedding(texts_BX + 1, self.centred)
        vectors_BXD = functional.embedding(texts_BX.clamp(min=0), self.vectors)
        vectors_BXD = project(vectors_BXD, self.axes) - self.centres[slots]
        return (vectors_BXD * self.scales[slots]).masked_fill(texts_BX[:, :, None] < 0, 0)

    def own(self, vectors: Tensor) -> Tensor:
        """Returns the vectors of the ranker's own source, of mean squared length 1."""
        return vectors[..., : len(self.scene.agg)] * math.sqrt(self.sources)

    def fit(self, log: LogRows, seed: int) -> LossCurve:
        """Trains as `NeuralRanker`, with a table of centred vectors: each text is centred once."""
        self.centred = self.centred_table().to(machine.device())
        curve = super().fit(log, seed)
        self.centred = None
        return curve

    def centred_table(self) -> Tensor:
        """Returns the centred vectors of all texts, after a row for missing ones, [1 + V, D]."""
        dtype = torch.bfloat16 if machine.bf16_is_fast() else torch.float32
        table = torch.zeros(len(self.vectors) + 1, self.vectors.shape[1], dtype=dtype)
        for slot in range(len(self.centres)):
            texts_X1 = (self.slots == slot).nonzero()
            table[texts_X1[:, 0] + 1] = self.read(texts_X1, slot)[:, 0].to(dtype)
        return table

    def target(self, categories_BFE: Tensor) -> Tensor:
        """Returns e_t: user and place embeddings in the space of e_s, [B, A]. Decision 17.

        Excludes scene IDs; otherwise e_s could align with its own scene instead of with user and
        place.
        """
        e_t: Tensor = self.alignment(categories_BFE.index_select(1, self.targets).flatten(1))
        return e_t

    def losses(self, batch: Batch, sampled: Batch, weights: Weights) -> Tensor:
        """Returns L_3, L_ctr and L_cl, [3]. Paper: Eq. (26).

        `stop_gradient` blocks the gradient of the alignment into e_s or into the embeddings behind
        e_t (decision 18); the linear map between them is trained in either case.
        """
        logits_BT, e_s, categories_BFE = self.outputs(batch)
        click = click_loss(logits_BT, batch.labels, batch.weights)
        alignment = torch.zeros_like(click)
        if weights.alignment:
            if self.settings.stop_gradient == "collaborative":
                categories_BFE = categories_BFE.detach()
            elif self.settings.stop_gradient == "semantic":
                e_s = e_s.detach()
            alignment = self.alignment_loss(e_s, self.target(categories_BFE), batch, sampled)
        loss = weights.click * click + weights.alignment * alignment
        return torch.stack([loss, click, alignment])

    def alignment_loss(self, e_s: Tensor, e_t: Tensor, batch: Batch, sampled: Batch) -> Tensor:
        """Returns L_cl, with K sampled rows as extra negatives of each e_s. Eq. (24)-(25)."""
        scene_BA, target_BA = (functional.normalize(side.float(), dim=1) for side in (e_s, e_t))
        more_BKA = target_BA[:, None][:, :0]
        if sampled.rows:
            with torch.no_grad():  # sampled negatives do not update the embeddings
                categories_BFE = self.encoder(sampled).categories
            more_BKA = self.target(categories_BFE).unflatten(0, (batch.rows, -1)).float()
        # fp32 even under autocast: divided by a temperature of 0.1, bf16's step of 1/256 is 4 %
        with torch.autocast(e_s.device.type, enabled=False):
            more_BK = (functional.normalize(more_BKA, dim=2) @ scene_BA[:, :, None]).squeeze(2)
            if self.group.size > 1:  # the in-batch negatives are those of all processes
                widths = [scene_BA.shape[1], target_BA.shape[1], more_BK.shape[1]]
                rows = self.group.all_gather(torch.cat([scene_BA, target_BA, more_BK], dim=1))
                scene_BA, target_BA, more_BK = rows.split(widths, dim=1)
            similarities = torch.cat([scene_BA @ target_BA.T, more_BK], dim=1)
            mask = false_negatives(batch, sampled, self.group)
            return info_nce(similarities, mask, self.settings.temperature)

    def phases(self) -> list[tuple[int, Weights]]:
        """Returns epochs of alignment alone (decision 23), then the joint training."""
        return [(self.settings.alignment_epochs, Weights(0.0, 1.0)), *super().phases()]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns the text side, with the rate and decay of `align.scene`, and the rest.

        A batch updates few ID embeddings, but the complete text side. At the embeddings' rate and
        without decay the text side would memorise which text belongs to which user (decision 15d).
        """
        parts = [self.scene, self.alignment, *([self.matching] if self.matching else [])]
        texts = [parameter for part in parts for parameter in part.parameters()]
        text_ids = {id(parameter) for parameter in texts}
        (rest,) = super().parameter_groups()
        rest["params"] = [p for p in rest["params"] if id(p) not in text_ids]
        rate, decay = self.settings.scene.learning_rate, self.settings.scene.weight_decay
        return [{"params": texts, "lr": rate, "weight_decay": decay}, rest]


def false_negatives(batch: Batch, sampled: Batch, group: Group = ALONE) -> Tensor:
    """Returns the mask of false negatives for the rows of a group, bool [B, B + K]. Decision 19.

    Two rows with the same user, or with the same place in the same scene (the same texts), match
    each other's targets. The last K columns are the rows sampled for each row.
    """
    users_B, scenes_B = _keys(batch, group)
    same_BB = (users_B[:, None] == users_B).logical_or_(scenes_B[:, None] == scenes_B)
    if not sampled.rows:
        return same_BB
    users_BK, scenes_BK = (keys.view(len(users_B), -1) for keys in _keys(sampled, group))
    same_BK = (users_B[:, None] == users_BK).logical_or_(scenes_B[:, None] == scenes_BK)
    return torch.cat([same_BB, same_BK], dim=1)


def _keys(batch: Batch, group: Group) -> tuple[Tensor, ...]:
    """Returns the user of each row, and a 64-bit polynomial hash of its place and scene texts.

    Comparing one number per pair instead of eleven columns keeps the mask at B x B.
    """
    values = torch.cat([batch.keys[:, 1:], batch.texts], dim=1).long()
    fingerprints = torch.zeros_like(values[:, 0])
    for column in values.unbind(dim=1):
        fingerprints = fingerprints * 6364136223846793005 + column + 1
    return group.all_gather(torch.stack([batch.keys[:, 0], fingerprints], dim=1)).unbind(dim=1)
