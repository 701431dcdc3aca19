"""LARR's ranker: PLE that also reads the scene, and the vectors that are aligned with each other.

Shapes: see `larr.models.layers`; A dimension of e_s.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from larr.batches import Batch
from larr.models.layers import Inputs, Scores
from larr.models.ple import Ple
from larr.models.scene_encoder import SceneEncoder


class Larr(Ple):
    """PLE over all ordinary features and e_s. Paper: section 3.3; decision 22."""

    targets: Tensor

    def __init__(self, inputs: Inputs) -> None:
        space = inputs.settings.ple.expert_units[-1]
        super().__init__(inputs, more=space)
        self.scene = SceneEncoder(inputs)
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
        e_s = self.scene(batch.texts, batch.recent)
        logits_BT = self.logits(torch.cat([encoded.joined(), e_s], dim=1))
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
