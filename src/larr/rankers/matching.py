"""How well a place suits the request, read off the stored vectors: what LARR has beyond Eq. (23).

With its output read at `<agg>`, the scene encoder adds up what each text says; that a user likes
what a place serves is a product of two texts. These figures are such products; the ranker reads
them beside e_s. Serving stays cheap: each needs dot products of vectors that are stored, or
computed once a request.

Shapes: B rows of a batch, R scene texts (Q of the request, P of the place), L recent places, D
dimension of the vectors, K of the common space.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from larr.rankers.layers import Inputs

COMMON_UNITS = 64
SHARPNESS = 10.0
LOWEST = -1e9  # of a recent place that is not there


class Matching(nn.Module):
    """Similarities of request and place, and the product of both in a learned common space."""

    recent_texts: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        slots = range(len(inputs.features.scene_keywords))
        self.place_slots = list(inputs.poi_slots)
        self.request_slots = [slot for slot in slots if slot not in inputs.poi_slots]
        self.recent_slot = inputs.recent_slot
        self.register_buffer("recent_texts", inputs.recent_texts, persistent=False)
        dimension = inputs.vectors.shape[1]
        slot = self.recent_slot or 0
        self.register_buffer("centre", inputs.centres[slot], persistent=False)
        self.register_buffer("scale", inputs.scales[slot], persistent=False)
        request = len(self.request_slots) + (self.recent_slot is not None)
        self.request = nn.Linear(request * dimension, COMMON_UNITS)
        self.place = nn.Linear(len(self.place_slots) * dimension, COMMON_UNITS)

    @property
    def width(self) -> int:
        """How many figures there are for a row."""
        sequence = 0 if self.recent_slot is None else 3
        return len(self.request_slots) * len(self.place_slots) + COMMON_UNITS + sequence

    def forward(self, vectors_BRD: Tensor, recent_BL: Tensor, stored_VD: Tensor) -> Tensor:
        """All figures of a row [B, width]; `vectors_BRD` is 0 where a text is missing."""
        request_BQD = vectors_BRD[:, self.request_slots]
        place_BPD = vectors_BRD[:, self.place_slots]
        figures = [(place_BPD @ request_BQD.mT).flatten(1)]
        said = [request_BQD.flatten(1)]
        if self.recent_slot is not None:
            recent_BLD, there_BL = self.recent_vectors(recent_BL, stored_VD)
            place_BD1 = vectors_BRD[:, self.recent_slot, :, None]
            figures.append(similarities((recent_BLD @ place_BD1).squeeze(2), there_BL))
            said.append(recent_BLD.sum(dim=1) / there_BL.sum(dim=1, keepdim=True).clamp(min=1))
        product_BK = self.request(torch.cat(said, dim=1)) * self.place(place_BPD.flatten(1))
        return torch.cat([*figures, product_BK], dim=1)

    def recent_vectors(self, recent_BL: Tensor, stored_VD: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors of the recent places' texts [B, L, D], and which there are [B, L].

        Paper: "the user's long interaction sequence is also used to produce interaction sequence
        vectors" (section 3.2).
        """
        texts_BL = self.recent_texts[recent_BL]
        there_BL = texts_BL >= 0
        vectors_BLD = functional.embedding(texts_BL.clamp(min=0), stored_VD)
        centred_BLD = (vectors_BLD - self.centre) * self.scale
        return centred_BLD * there_BL[:, :, None], there_BL


def similarities(product_BL: Tensor, there_BL: Tensor) -> Tensor:
    """Largest, mean and softly largest product of a place with the recent ones [B, 3], or 0."""
    product_BL = product_BL.float()
    masked_BL = product_BL.masked_fill(~there_BL, LOWEST)
    weights_BL = (SHARPNESS * masked_BL).softmax(dim=1) * there_BL
    mean_B1 = product_BL.sum(dim=1, keepdim=True) / there_BL.sum(dim=1, keepdim=True).clamp(min=1)
    largest_B1 = masked_BL.max(dim=1, keepdim=True).values * there_BL.any(dim=1, keepdim=True)
    softly_B1 = (weights_BL * product_BL).sum(dim=1, keepdim=True)
    return torch.cat([largest_B1, mean_B1, softly_B1], dim=1)
