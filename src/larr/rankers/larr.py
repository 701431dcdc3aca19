"""LARR's ranker: PLE that also reads the scene, and the vectors that are aligned with each other.

Shapes: see `larr.rankers.layers`; A dimension of e_s.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from larr.data.batches import Batch
from larr.rankers.layers import Inputs, Scores
from larr.rankers.matching import Matching
from larr.rankers.ple import Ple
from larr.rankers.scene_encoder import SceneEncoder


class Larr(Ple):
    """PLE over all ordinary features, e_s and the matching figures. Section 3.3; decision 22."""

    vectors: Tensor
    centres: Tensor
    scales: Tensor
    targets: Tensor

    def __init__(self, inputs: Inputs) -> None:
        space = inputs.settings.ple.expert_units[-1]
        matching = Matching(inputs) if inputs.settings.scene.matching else None
        super().__init__(inputs, more=space + (matching.width if matching else 0))
        self.scene, self.matching = SceneEncoder(inputs), matching
        self.register_buffer("vectors", inputs.vectors, persistent=False)
        self.register_buffer("centres", inputs.centres)
        self.register_buffer("scales", inputs.scales)
        sides = [category.side for category in inputs.features.categories]
        targets = [column for column, side in enumerate(sides) if side != "scene"]
        self.register_buffer("targets", torch.tensor(targets), persistent=False)
        self.alignment = nn.Linear(len(targets) * inputs.settings.embedding, space)

    def forward(self, batch: Batch) -> Scores:
        """Scores each row by itself; gives the two sides of Eq. (24) too.

        `stop_gradient` keeps the alignment from e_s or from the embeddings behind e_t (decision
        18); what maps them to each other is trained in either case.
        """
        encoded = self.encoder(batch)
        missing_BR = batch.texts < 0
        vectors_BRD = functional.embedding(batch.texts.clamp(min=0), self.vectors)
        vectors_BRD = (vectors_BRD - self.centres) * self.scales
        vectors_BRD = vectors_BRD.masked_fill_(missing_BR[:, :, None], 0)
        e_s = self.scene(vectors_BRD, missing_BR)
        read = [encoded.joined(), e_s]
        if self.matching:
            read.append(self.matching(vectors_BRD, batch.recent, self.vectors))
        logits_BT = self.logits(torch.cat(read, dim=1))
        stopped, categories_BFE = self.settings.stop_gradient, encoded.categories
        e_t = self.target(categories_BFE.detach() if stopped == "collaborative" else categories_BFE)
        return Scores(logits_BT, (e_s.detach() if stopped == "semantic" else e_s, e_t))

    def target(self, categories_BFE: Tensor) -> Tensor:
        """e_t, the user's and the place's embeddings, in the space of e_s, [B, A]. Decision 17."""
        e_t: Tensor = self.alignment(categories_BFE.index_select(1, self.targets).flatten(1))
        return e_t

    def sampled_target(self, batch: Batch) -> Tensor:
        """e_t of rows that are only negatives, [B, A]; their embeddings get no gradient."""
        with torch.no_grad():
            categories_BFE = self.encoder(batch).categories
        return self.target(categories_BFE)
