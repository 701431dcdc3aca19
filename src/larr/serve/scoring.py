"""What is left to compute of a ranker when the rows of a request and its candidates are looked up.

PLE's first level is linear in its inputs, so each of them adds its own piece to the first products.
The pieces that depend on the place alone are looked up, those that depend on the request alone are
added up once; for a candidate only those are left that depend on both. Scores are those of the
unfolded model up to the rounding of float32. `save` writes all this as a graph of ONNX.

Shapes: K candidates of a request, L recent places, S place keywords, Q request keywords, O outputs
of the first products, F categories, M numbers, E embedding, H heads, C = D / H, D dimension of the
vectors, A units of the attention over the recent places, U of the common space, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from larr.data.features import ColumnSplit
from larr.rankers.larr import Larr
from larr.rankers.matching import Matching, similarities
from larr.rankers.ple import Ple
from larr.serve import graph
from larr.serve.fold import Finish, Partial, agg_partial, merged, partial

NONE = torch.empty(0)


class RequestRows(NamedTuple):
    """What is looked up for a request, whatever its candidates."""

    categories: Tensor
    """The embeddings of its categories, [F, E]."""
    numbers: Tensor
    """Standardised, [M]."""
    recent_places: Tensor
    """The embeddings of the recent places, [L, E], and which there are, [L]."""
    recent_there: Tensor
    logits: Tensor = NONE
    """The logits and values of its texts, [Q, H] and [Q, H, C]."""
    values: Tensor = NONE
    vectors: Tensor = NONE
    """The centred vectors of its texts, [Q, D]; 0 where one is missing."""
    recent_vectors: Tensor = NONE
    """The centred vectors of the recent places' texts, [L, D], and which there are, [L]."""
    recent_told: Tensor = NONE


class PlaceRows(NamedTuple):
    """What is stored of places, here of those of the candidates."""

    first: Tensor
    """What each adds to the first products, [K, O]."""
    embedding: Tensor
    """The embedding of its poi_id, [K, E], for the attention over the recent places."""
    largest: Tensor
    """The softmax over its texts, unfinished: [K, H], [K, H], [K, H, C]."""
    weight: Tensor
    value: Tensor
    vectors: Tensor
    """The centred vectors of its texts, [K, S, D]."""
    common: Tensor
    """Its side of the product in the common space, [K, U]."""


class Scoring(nn.Module):
    """From the rows of a request and of its candidates to their probabilities."""

    def __init__(
        self, model: Ple, categories: ColumnSplit, numbers: ColumnSplit, place_slots: Sequence[int]
    ) -> None:
        super().__init__()
        self.model, self.place_slots = model, list(place_slots)
        self.larr = model if isinstance(model, Larr) else None
        encoder, linear = model.encoder, model.first.linear
        width, self.has_recent = encoder.embedding, encoder.counts[1] > 0
        flat, recent = len(encoder.seen) * width, width * self.has_recent
        sizes = [flat, recent, encoder.width - flat - recent, linear.in_features - encoder.width]
        by_flat, by_recent, self.by_number, by_more = linear.weight.detach().split(sizes, dim=1)
        self.by_category = by_flat.unflatten(1, (-1, width)).movedim(1, 0).contiguous()
        asked = [self.by_category[list(categories.request)].movedim(0, 1).flatten(1)]
        asked.append(self.by_number[:, list(numbers.request)])
        self.request_T = torch.cat(asked, dim=1).T.contiguous()
        left = [self.by_number[:, list(numbers.candidate)], by_recent, by_more]
        self.left_T = torch.cat(left, dim=1).T.contiguous()
        self.by_value = [self.category(column) for column in categories.candidate]
        if self.larr:
            self.agg, self.finish = agg_partial(self.larr.scene), Finish(self.larr.scene)

    def category(self, column: int, index_N: Tensor | None = None) -> Tensor:
        """What the values of a category add to the first products, all of them or some, [N, O]."""
        encoder = self.model.encoder
        start = int(encoder.shifts[column])
        ends = [*encoder.shifts[: len(encoder.seen)].tolist(), len(encoder.table.rows)]
        if index_N is None:
            index_N = torch.arange(ends[column + 1] - start)
        rows_NE = encoder.table.rows[start + index_N * encoder.seen[column], : encoder.embedding]
        added_NO: Tensor = rows_NE.detach() @ self.by_category[column].T
        return added_NO

    def forward(
        self, request: RequestRows, places: PlaceRows, categories_KF: Tensor, numbers_KM: Tensor
    ) -> Tensor:
        """The probabilities of the candidates, [K, T]."""
        said = torch.cat([request.categories.flatten(), request.numbers])
        first_1O = torch.addmm(self.model.first.linear.bias, said[None], self.request_T)
        first_KO, left = places.first + first_1O, [numbers_KM]
        for place, values_NO in enumerate(self.by_value):
            first_KO = first_KO + values_NO.index_select(0, categories_KF[:, place])
        if self.has_recent:
            left.append(self._recent(request, places.embedding))
        if self.larr:
            known = merged(self.agg, partial(request.logits[None], request.values[None]))
            texts = Partial(places.largest, places.weight, places.value)
            left.append(self.finish(merged(known, texts)))
            if self.larr.matching:
                left += self._figures(self.larr.matching, request, places)
        products_KO = torch.addmm(first_KO, torch.cat(left, dim=1), self.left_T)
        return self.model.logits_after(self.model.first.mixed(products_KO)).sigmoid()

    def _recent(self, request: RequestRows, embedding_KE: Tensor) -> Tensor:
        """`TargetAttention` over one user's recent places, whose side is computed once, [K, E]."""
        attention, recent_LE = self.model.encoder.attention, request.recent_places
        own_AE, product_AE = attention.pair.weight.chunk(2, dim=1)
        pair_LAE = recent_LE[:, None] * product_AE + attention.candidate.weight
        own_LA = recent_LE @ own_AE.T + attention.candidate.bias
        hidden = functional.relu(embedding_KE @ pair_LAE.flatten(0, 1).T + own_LA.flatten())
        score_KL1 = hidden.unflatten(1, own_LA.shape) @ attention.score.weight.T
        weight_KL: Tensor = (score_KL1.squeeze(2) + attention.score.bias) * request.recent_there
        return weight_KL @ recent_LE

    def _figures(self, matching: Matching, request: RequestRows, places: PlaceRows) -> list[Tensor]:
        """The figures of `Matching`, of one user's and request's texts with each place's."""
        said, asked, slots = (
            [request.vectors.flatten()],
            len(request.vectors),
            len(self.place_slots),
        )
        recent_LD, told_L = request.recent_vectors, request.recent_told
        if matching.recent_slot is not None:
            said.append(recent_LD.sum(dim=0) / told_L.sum().clamp(min=1))
        told_XD = torch.cat([request.vectors, recent_LD.reshape(-1, request.vectors.shape[1])])
        product_KSX = (places.vectors.flatten(0, 1) @ told_XD.T).unflatten(0, (-1, slots))
        figures = [product_KSX[:, :, :asked].flatten(1)]
        if matching.recent_slot is not None:
            slot = self.place_slots.index(matching.recent_slot)
            figures.append(similarities(product_KSX[:, slot, asked:], told_L[None]))
        return [*figures, matching.request(torch.cat(said)) * places.common]


class Flat(nn.Module):
    """`Scoring` with its inputs side by side, as a graph has them."""

    def __init__(self, scoring: Scoring) -> None:
        super().__init__()
        self.scoring = scoring

    def forward(self, *inputs: Tensor) -> Tensor:
        """Takes what `named` gives."""
        request, places = len(RequestRows._fields), len(PlaceRows._fields)
        rows = PlaceRows(*inputs[request : request + places])
        probabilities: Tensor = self.scoring(RequestRows(*inputs[:request]), rows, *inputs[-2:])
        return probabilities


def named(
    request: RequestRows, places: PlaceRows, categories_KF: Tensor, numbers_KM: Tensor
) -> dict[str, Tensor]:
    """The inputs of `Scoring` by the names that its graph has for them."""
    inputs = {f"request_{name}": tensor for name, tensor in request._asdict().items()}
    inputs |= {f"place_{name}": tensor for name, tensor in places._asdict().items()}
    return inputs | {"categories": categories_KF, "numbers": numbers_KM}


def save(scoring: Scoring, inputs: dict[str, Tensor], path: Path) -> None:
    """Writes the graph; the inputs are those of any request, `named`."""
    rows = [name for name in inputs if not name.startswith("request_")]
    graph.write(Flat(scoring), inputs, rows, "probabilities", path)
