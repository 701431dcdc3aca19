"""The whole ranker folded: what a place or a text brings is stored, and looked up for a request.

Shapes: P places, N rows, K candidates of a request, V texts, F categories, M numbers; the others
are those of `larr.serve.scoring`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from larr.data.features import ColumnSplit
from larr.errors import ConfigError
from larr.rankers.larr import Larr
from larr.rankers.ple import Ple
from larr.serve import scoring
from larr.serve.fold import TextTables, partial, text_rows, text_tables, why_not
from larr.serve.graph import Graph
from larr.serve.rows import Rows
from larr.serve.scoring import PlaceRows, RequestRows, Scoring


class Texts(NamedTuple):
    """What LARR's stored texts are of."""

    slot_V: Tensor
    """The keyword of each text."""
    place_slots: tuple[int, ...]
    """The keywords that describe a place."""


class FoldedRanker:
    """PLE or LARR, trained, as tables and what is left to do for a candidate."""

    def __init__(
        self,
        model: Ple,
        categories: ColumnSplit,
        numbers: ColumnSplit,
        texts: Texts | None = None,
        stored: Sequence[Tensor] | None = None,
    ) -> None:
        """Folds a model; `stored` are the texts' tensors of an earlier folding of it."""
        self.model, self.categories, self.numbers = model.eval(), categories, numbers
        self.larr = model if isinstance(model, Larr) else None
        if self.larr and (reason := why_not(model.settings.scene)):
            raise ConfigError(f"this ranker cannot be folded: {reason}")
        self.scoring = Scoring(model, categories, numbers, texts.place_slots if texts else ())
        self.tables: TextTables | None = None
        self.place_slots, self.request_slots = self.scoring.place_slots, list[int]()
        if self.larr:
            assert texts is not None  # noqa: S101 - LARR reads them
            slots = range(len(self.larr.centres))
            self.request_slots = [slot for slot in slots if slot not in texts.place_slots]
            self.stored_VD = self.larr.vectors
            if stored is None:
                stored = self._text_rows(self.larr.vectors, texts.slot_V)
            self.vectors = Rows(stored[:1])
            self.tables = text_tables(self.larr.scene, Rows(stored[1:]))
        columns, encoder = list(categories.request), model.encoder
        self.request_rows, self.request_seen = encoder.shifts[columns], encoder.seen[columns]
        self.graph: Graph | None = None

    @torch.no_grad()
    def _text_rows(self, vectors_VD: Tensor, slot_V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of vectors of the text embedding model: centred and scaled, their logits, values."""
        assert self.larr is not None  # noqa: S101 - PLE reads no texts
        centred_VD = (vectors_VD - self.larr.centres[slot_V]) * self.larr.scales[slot_V]
        return centred_VD, *text_rows(self.larr.scene, centred_VD, slot_V)

    def text_tensors(self) -> tuple[Tensor, ...]:
        """What is stored of the texts, for `stored`."""
        return (*self.vectors.stored, *self.tables.stored.stored) if self.tables else ()

    def add_texts(self, vectors_ND: Tensor, slot_N: Tensor) -> range:
        """Stores further texts, as vectors of the text embedding model; returns their numbers."""
        assert self.tables is not None  # noqa: S101 - PLE reads no texts
        centred_ND, *rest = self._text_rows(vectors_ND, slot_N)
        numbers = range(len(self.vectors), len(self.vectors) + len(vectors_ND))
        self.vectors.write(numbers, [centred_ND])
        self.tables.stored.write(numbers, rest)
        return numbers

    @torch.inference_mode()
    def places(self, categories_PF: Tensor, numbers_PM: Tensor, texts_PS: Tensor) -> PlaceRows:
        """The rows of some places: indices and standardised numbers of their columns, texts."""
        first_PO = numbers_PM @ self.scoring.by_number[:, list(self.numbers.place)].T
        for place, column in enumerate(self.categories.place):
            first_PO += self.scoring.category(column, categories_PF[:, place].long())
        encoder, rows = self.model.encoder, len(first_PO)
        ids_P = categories_PF[:, self.categories.place.index(encoder.place)].long()
        embedding_PE = self._embeddings(ids_P)
        empty = first_PO.new_empty(rows, 0)
        if not self.larr or not self.tables:
            return PlaceRows(first_PO, embedding_PE, *[empty] * 5)
        matching, texts = self.larr.matching, partial(*self.tables.of(texts_PS, self.place_slots))
        vectors_PSD = self._told(texts_PS)
        common_PU = matching.place(vectors_PSD.flatten(1)) if matching else empty
        return PlaceRows(first_PO, embedding_PE, *texts, vectors_PSD, common_PU)

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
        agg_KH = self.scoring.agg.largest.expand(len(text_KR), -1)
        return torch.cat([agg_KH[:, None], logits_KRH], dim=1).softmax(dim=1).mean(dim=2)

    @torch.inference_mode()
    def request(
        self, categories_F: Tensor, numbers_M: Tensor, texts_Q: Tensor, recent_L: Tensor
    ) -> RequestRows:
        """The rows of a request: indices and standardised numbers of its columns, its texts."""
        encoder, rows = self.model.encoder, self.request_rows + categories_F * self.request_seen
        embeddings_FE = encoder.table.rows[rows, : encoder.embedding]
        recent_LE = self._embeddings(recent_L.long())
        known = RequestRows(embeddings_FE, numbers_M, recent_LE, recent_L > 0)
        if not self.larr or not self.tables:
            return known
        logits_1QH, values_1QHC = self.tables.of(texts_Q[None], self.request_slots)
        known = known._replace(logits=logits_1QH[0], values=values_1QHC[0])
        if not self.larr.matching:
            return known
        known = known._replace(vectors=self._told(texts_Q))
        if self.larr.matching.recent_slot is None:
            return known
        told_1LD, there_1L = self.larr.matching.recent_vectors(recent_L[None], self.stored_VD)
        return known._replace(recent_vectors=told_1LD[0], recent_told=there_1L[0])

    @torch.inference_mode()
    def score(
        self, request: RequestRows, places: PlaceRows, categories_KF: Tensor, numbers_KM: Tensor
    ) -> Tensor:
        """The probabilities of candidates, [K, T], from the rows of a request and their places."""
        inputs = (request, places, categories_KF, numbers_KM)
        return self.graph(scoring.named(*inputs)) if self.graph else self.scoring(*inputs)

    def save(self, places: PlaceRows, path: Path) -> None:
        """Writes `score` as a graph for `use`; of the places any two will do."""
        columns = (len(self.categories.request), len(self.numbers.request), len(self.request_slots))
        sizes = (*columns, self.model.encoder.counts[1])
        kinds = (torch.int32, torch.float32, torch.int32, torch.int32)
        request = self.request(
            *(torch.zeros(n, dtype=t) for n, t in zip(sizes, kinds, strict=True))
        )
        rows = len(places.first)
        own = torch.zeros(rows, len(self.categories.candidate), dtype=torch.int32)
        told = torch.zeros(rows, len(self.numbers.candidate))
        scoring.save(self.scoring, scoring.named(request, places, own, told), path)

    def use(self, graph: Path) -> None:
        """Scores by a graph from now on, which is faster."""
        self.graph = Graph(graph)
