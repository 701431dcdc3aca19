"""The whole ranker folded: what a place brings is stored, what a request brings is computed once.

PLE's first level is linear in its inputs, so each of them adds its own piece to the first products.
The pieces that depend on the place alone are a row of a table, those that depend on the request
alone are added up once; for a candidate only those are left that depend on both. Scores are those
of the unfolded model up to the rounding of float32.

Shapes: P places, K candidates of a request, L recent places, S place keywords, Q request keywords,
O outputs of the first products, E embedding, H heads, C = D / H, D dimension of the vectors, W
matching figures, U units of the common space, V texts, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from larr.errors import ConfigError
from larr.models.larr import Larr
from larr.models.matching import Matching, similarities
from larr.models.ple import Ple
from larr.serve.fold import (
    Finish,
    Partial,
    TextTables,
    agg_partial,
    merged,
    partial,
    text_rows,
    text_tables,
    why_not,
)
from larr.serve.rows import Rows

NONE = torch.empty(0)


class Columns(NamedTuple):
    """The numbers of those inputs, among all, that are the place's, the request's or neither's."""

    place: tuple[int, ...]
    request: tuple[int, ...]
    candidate: tuple[int, ...]


class Texts(NamedTuple):
    """What LARR's stored texts are of."""

    slot_V: Tensor
    """The keyword of each text."""
    place_slots: tuple[int, ...]
    """The keywords that describe a place."""


class PlaceTable(NamedTuple):
    """What is stored of every place."""

    first: Tensor
    """What it adds to the first products, [P, O]."""
    embedding: Tensor
    """The embedding of its poi_id, [P, E], for the attention over the recent places."""
    largest: Tensor
    """The softmax over its texts, unfinished: [P, H], [P, H], [P, H, C]."""
    weight: Tensor
    value: Tensor
    vectors: Tensor
    """The centred vectors of its texts, [P, S, D]."""
    common: Tensor
    """Its side of the product in the common space, [P, U]."""


class RequestPart(NamedTuple):
    """What a request brings, whatever its candidates."""

    first: Tensor
    """What it adds to the first products, [1, O]."""
    recent_places: Tensor
    """The embeddings of the recent places, [L, E], and which there are, [L]."""
    recent_there: Tensor
    texts: Partial | None = None
    """The softmax over `<agg>` and its texts."""
    vectors: Tensor = NONE
    """The centred vectors of its texts, [Q, D]."""
    recent_vectors: Tensor = NONE
    """The centred vectors of the recent places' texts, [1, L, D], and which there are, [1, L]."""
    recent_told: Tensor = NONE
    common: Tensor = NONE
    """Its side of the product in the common space, [1, U]."""


class FoldedRanker:
    """PLE or LARR, trained, as tables and what is left to do for a candidate."""

    def __init__(
        self,
        model: Ple,
        categories: Columns,
        numbers: Columns,
        texts: Texts | None = None,
        stored: Sequence[Tensor] | None = None,
    ) -> None:
        """Folds a model; `stored` are the texts' tensors of an earlier folding of it."""
        self.model, self.categories, self.numbers = model.eval(), categories, numbers
        self.larr = model if isinstance(model, Larr) else None
        if self.larr and (reason := why_not(model.settings.scene)):
            raise ConfigError(f"this ranker cannot be folded: {reason}")
        encoder, linear = model.encoder, model.first.linear
        width = encoder.embedding
        flat = len(encoder.seen) * width
        recent = width if encoder.counts[1] else 0
        figures = encoder.width - flat - recent
        more = linear.in_features - encoder.width
        parts = linear.weight.detach().split([flat, recent, figures, more], dim=1)
        self.by_category = parts[0].unflatten(1, (-1, width)).movedim(1, 0).contiguous()
        self.by_recent, self.by_number, self.by_more = parts[1], parts[2], parts[3]
        candidate = [self.by_number[:, list(numbers.candidate)], self.by_recent, self.by_more]
        self.left_T = torch.cat(candidate, dim=1).T.contiguous()
        self.tables: TextTables | None = None
        if self.larr:
            assert texts is not None  # noqa: S101 - LARR reads them
            slots = range(len(self.larr.centres))
            self.place_slots = list(texts.place_slots)
            self.request_slots = [slot for slot in slots if slot not in texts.place_slots]
            self.stored_VD = self.larr.vectors
            if stored is None:
                stored = self._text_rows(self.larr.vectors, texts.slot_V)
            self.vectors = Rows(stored[:1])
            self.tables = text_tables(self.larr.scene, Rows(stored[1:]))
            self.agg, self.finish = agg_partial(self.larr.scene), Finish(self.larr.scene)
        columns = list(categories.request)
        self.request_rows, self.request_seen = encoder.shifts[columns], encoder.seen[columns]
        asked = [self.by_category[columns].movedim(0, 1).flatten(1)]
        asked.append(self.by_number[:, list(numbers.request)])
        self.by_request = torch.cat(asked, dim=1).contiguous()
        self.by_value = [self._category(column) for column in categories.candidate]

    @torch.no_grad()
    def _text_rows(self, vectors_VD: Tensor, slot_V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of vectors of the text embedding model: centred and scaled, their logits, values."""
        assert self.larr is not None  # noqa: S101 - PLE reads no texts
        centred_VD = (vectors_VD - self.larr.centres[slot_V]) * self.larr.scales[slot_V]
        return centred_VD, *text_rows(self.larr.scene, centred_VD, slot_V)

    def text_tensors(self) -> tuple[Tensor, ...]:
        """What is stored of the texts, for `stored`."""
        return (*self.vectors.stored, *self.tables.stored.stored) if self.tables else ()

    def add_texts(self, vectors_ND: Tensor, slot_N: Tensor) -> int:
        """Stores further texts, as vectors of the text embedding model; the number of the first."""
        assert self.tables is not None  # noqa: S101 - PLE reads no texts
        centred_ND, *rest = self._text_rows(vectors_ND, slot_N)
        self.vectors.add([centred_ND])
        return self.tables.stored.add(rest)

    def _category(self, column: int, index_N: Tensor | None = None) -> Tensor:
        """What the values of a category add to the first products, all of them or some, [N, O]."""
        encoder = self.model.encoder
        start = int(encoder.shifts[column])
        ends = [*encoder.shifts[: len(encoder.seen)].tolist(), len(encoder.table.rows)]
        if index_N is None:
            index_N = torch.arange(ends[column + 1] - start)
        rows_NE = encoder.table.rows[start + index_N * encoder.seen[column], : encoder.embedding]
        added_NO: Tensor = rows_NE.detach() @ self.by_category[column].T
        return added_NO

    @torch.inference_mode()
    def places(self, categories_PF: Tensor, numbers_PM: Tensor, texts_PS: Tensor) -> PlaceTable:
        """The rows of some places: indices and standardised numbers of their columns, texts."""
        first_PO = numbers_PM @ self.by_number[:, list(self.numbers.place)].T
        for place, column in enumerate(self.categories.place):
            first_PO += self._category(column, categories_PF[:, place].long())
        encoder, rows = self.model.encoder, len(first_PO)
        ids_P = categories_PF[:, self.categories.place.index(encoder.place)].long()
        embedding_PE = self._embeddings(ids_P)
        empty = first_PO.new_empty(rows, 0)
        if not self.larr or not self.tables:
            return PlaceTable(first_PO, embedding_PE, *[empty] * 5)
        matching, texts = self.larr.matching, partial(self.tables, texts_PS, self.place_slots)
        vectors_PSD = self._told(texts_PS)
        common_PU = matching.place(vectors_PSD.flatten(1)) if matching else empty
        return PlaceTable(first_PO, embedding_PE, *texts, vectors_PSD, common_PU)

    def _embeddings(self, ids_N: Tensor) -> Tensor:
        encoder = self.model.encoder
        rows = encoder.shifts[encoder.place] + ids_N * encoder.seen[encoder.place]
        return encoder.table.rows[rows, : encoder.embedding].detach()

    def _told(self, texts_NS: Tensor) -> Tensor:
        """The centred vectors of some texts, 0 where one is missing."""
        there_NS1 = (texts_NS >= 0)[..., None]
        return self.vectors.take(texts_NS.clamp(min=0))[0] * there_NS1

    @torch.inference_mode()
    def attention(self, texts_Q: Tensor, texts_KS: Tensor) -> Tensor:
        """How `<agg>` spreads its attention, the mean of the heads, [K, 1 + R].

        Over itself, then the texts in the order of the scene keywords.
        """
        assert self.tables is not None  # noqa: S101 - PLE reads no texts
        text_KR = texts_KS.new_empty(len(texts_KS), len(self.request_slots + self.place_slots))
        text_KR[:, self.request_slots] = texts_Q.to(text_KR)
        text_KR[:, self.place_slots] = texts_KS
        logits_KRH = self.tables.of(text_KR, range(text_KR.shape[1]))[0]
        agg_KH = self.agg.largest.expand(len(text_KR), -1)
        return torch.cat([agg_KH[:, None], logits_KRH], dim=1).softmax(dim=1).mean(dim=2)

    @torch.inference_mode()
    def request(
        self, categories_F: Tensor, numbers_M: Tensor, texts_Q: Tensor, recent_L: Tensor
    ) -> RequestPart:
        """What a request brings: indices and standardised numbers of its columns, its texts."""
        encoder, width = self.model.encoder, self.model.encoder.embedding
        embeddings_FE = encoder.table.rows[
            self.request_rows + categories_F * self.request_seen, :width
        ]
        said = torch.cat([embeddings_FE.flatten(), numbers_M])
        first_1O = torch.addmv(self.model.first.linear.bias, self.by_request, said)[None]
        recent_LE = self._embeddings(recent_L.long())
        part = RequestPart(first_1O, recent_LE, recent_L > 0)
        if not self.larr or not self.tables:
            return part
        texts = merged(self.agg, partial(self.tables, texts_Q[None], self.request_slots))
        part = part._replace(texts=texts)
        matching = self.larr.matching
        return self._matching(part, matching, texts_Q, recent_L) if matching else part

    def _matching(
        self, part: RequestPart, matching: Matching, texts_Q: Tensor, recent_L: Tensor
    ) -> RequestPart:
        """Adds what the request's side of the matching figures needs."""
        vectors_QD = self._told(texts_Q)
        said = [vectors_QD.flatten()[None]]
        if matching.recent_slot is None:
            return part._replace(vectors=vectors_QD, common=matching.request(said[0]))
        recent_1LD, there_1L = matching.recent_vectors(recent_L[None], self.stored_VD)
        said.append(recent_1LD.sum(dim=1) / there_1L.sum(dim=1, keepdim=True).clamp(min=1))
        return part._replace(
            vectors=vectors_QD,
            recent_vectors=recent_1LD,
            recent_told=there_1L,
            common=matching.request(torch.cat(said, dim=1)),
        )

    @torch.inference_mode()
    def score(
        self, part: RequestPart, places: PlaceTable, categories_KF: Tensor, numbers_KM: Tensor
    ) -> Tensor:
        """The probabilities of the candidates whose rows of the place table are given, [K, T]."""
        first_KO, left = places.first + part.first, [numbers_KM]
        for place, values_NO in enumerate(self.by_value):
            first_KO += values_NO.index_select(0, categories_KF[:, place])
        rows = len(first_KO)
        if self.model.encoder.counts[1]:
            recent_KLE = part.recent_places.expand(rows, -1, -1)
            there_KL = part.recent_there.expand(rows, -1)
            left.append(self.model.encoder.attention(places.embedding, recent_KLE, there_KL))
        if self.larr and part.texts:
            texts = Partial(places.largest, places.weight, places.value)
            left.append(self.finish(merged(part.texts, texts)))
            matching = self.larr.matching
            left += self._figures(part, places, matching) if matching else []
        first_KO.addmm_(torch.cat(left, dim=1), self.left_T)
        return self.model.logits_after(self.model.first.mixed(first_KO)).sigmoid()

    def _figures(self, part: RequestPart, places: PlaceTable, matching: Matching) -> list[Tensor]:
        slot, rows = matching.recent_slot, len(places.vectors)
        figures = [(places.vectors @ part.vectors.T).flatten(1)]
        if slot is not None:
            place_KD = places.vectors[:, self.place_slots.index(slot)]
            recent_KLD = part.recent_vectors.expand(rows, -1, -1)
            figures.append(similarities(place_KD, recent_KLD, part.recent_told.expand(rows, -1)))
        return [*figures, part.common * places.common]
