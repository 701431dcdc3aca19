"""A folded PLE or LARR: look-ups in numpy, and a graph of what is left to compute.

`larr.serve.fold` explains what is stored and what is left.

Shapes: K candidates, T tasks, P places, N texts, D dimension of their vectors, R scene keywords, Q
of them of the request, S of the place, H attention heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from larr import artifacts
from larr.serve.features import CandidateInputs, PlaceInputs, Reader, RequestInputs
from larr.serve.served import Graph, Served
from larr.serve.tables import Array, Columns, Table, open_array

SETTINGS, EMBEDDINGS, RECENT_TEXTS = "settings.json", "embeddings.npy", "recent_texts.npy"
PLACE_ROWS, TEXT_ROWS = "place_rows", "text_rows"
"""The folders of the tables."""


class Folded(Served):
    """A ranker of which what each place, text and category value adds is stored."""

    def __init__(self, folder: Path, reader: Reader, places: Table) -> None:
        """Opens what `larr.serve.publish` wrote."""
        super().__init__(reader, places)
        settings = artifacts.read_json(folder / SETTINGS)
        self.shifts = np.array(settings["shifts"], np.int32)
        self.seen = np.array(settings["seen"], np.int32)
        self.place_column: int = settings["place_column"]
        self.agg_logits_H = np.array(settings["agg_logits"], np.float32)
        self.recent_slot: int | None = settings["recent_slot"]
        self.reads_vectors: bool = settings["reads_vectors"]
        self.embeddings = open_array(folder / EMBEDDINGS)
        self.recent_texts = open_array(folder / RECENT_TEXTS)
        self.place_table = Table.open(folder / PLACE_ROWS)
        self.text_table = Table.open(folder / TEXT_ROWS)
        self.reads_texts = bool(self.text_table.published)
        self.keywords = len(reader.features.scene_keywords)
        self.graph = cache(lambda name: Graph(folder / f"{name}.onnx"))
        """The graphs `texts`, `places` and `scoring`, the modules of `larr.serve.fold`.

        Opened when first needed: `larr publish` uses the look-ups before all graphs are written.
        """

    def logits(
        self,
        request: RequestInputs,
        candidates: CandidateInputs,
        figure_KG: Array,
        places: PlaceInputs | None = None,
    ) -> Array:
        """Returns the logits of candidates, [K, T]."""
        stored = self.place_rows(places) if places else self.place_table.take(candidates.places)
        inputs = self.look_up(request) | stored
        inputs["candidate_categories"] = candidates.categories
        inputs["candidate_numbers"] = np.hstack([candidates.numbers, figure_KG])
        return self.graph("scoring")(inputs)["logits"]

    def place_rows(self, places: PlaceInputs) -> Columns:
        """Returns what is stored of places."""
        inputs = self.place_inputs(places)
        columns = self.graph("places")(inputs)
        place = self.reader.categories.place.index(self.place_column)
        columns["place_embedding"] = inputs["categories"][:, place]
        if self.reads_vectors:
            columns["place_vectors"] = inputs["vectors"]
        return columns

    def place_inputs(self, places: PlaceInputs) -> Columns:
        """Returns the inputs of the graph of places."""
        embeddings_PFE = self._embed(self.reader.categories.place, places.categories)
        inputs = {"categories": embeddings_PFE, "numbers": places.numbers}
        if self.reads_texts:
            inputs |= self._look_up_texts(places.texts, self.reader.place_slots)
        return inputs

    def look_up(self, request: RequestInputs) -> Columns:
        """Returns the inputs of the graph of scoring that are the same for all candidates."""
        recent_L: Array = request.recent + self.shifts[self.place_column]
        inputs = {
            "request_categories": self._embed(self.reader.categories.request, request.categories),
            "request_numbers": request.numbers,
            "recent_places": self.embeddings.take(recent_L, axis=0),
            "recent_known": request.recent > 0,
        }
        if self.reads_texts:
            texts = self._look_up_texts(request.texts, self.reader.request_slots)
            inputs |= {f"request_{name}": rows for name, rows in texts.items()}
        if self.recent_slot is not None:
            text_L = self.recent_texts[request.recent]
            inputs["recent_vectors"] = self._look_up_texts(text_L, self.recent_slot)["vectors"]
            inputs["recent_has_text"] = text_L >= 0
        return inputs

    def attention(self, text_KR: Array) -> Array | None:
        """Returns the softmax of `<agg>` over itself and the texts, the mean of the heads."""
        if not self.reads_texts:
            return None
        logits_KRH = self._look_up_texts(text_KR, np.arange(self.keywords))["logits"]
        agg_K1H = np.broadcast_to(self.agg_logits_H, (len(text_KR), 1, len(self.agg_logits_H)))
        logits_KXH = np.concatenate([agg_K1H, logits_KRH], axis=1)
        weight_KXH = np.exp(logits_KXH - logits_KXH.max(axis=1, keepdims=True))
        attention_KX: Array = (weight_KXH / weight_KXH.sum(axis=1, keepdims=True)).mean(axis=2)
        return attention_KX[:, 1:]

    def add_texts(self, numbers: range, slots: Array, vectors_ND: Array) -> None:
        """Adds the rows of new texts."""
        if self.reads_texts:
            rows = range(numbers.start + self.keywords, numbers.stop + self.keywords)
            self.text_table.write(rows, self.graph("texts")({"raw": vectors_ND, "slots": slots}))

    def add_places(self, rows: Sequence[int], inputs: PlaceInputs) -> None:
        """Adds the rows of places."""
        self.place_table.write(rows, self.place_rows(inputs))

    def _embed(self, columns: Sequence[int], index: Array) -> Array:
        """Returns the embeddings of some categories' values; hidden categories have one value."""
        chosen = list(columns)
        row: Array = self.shifts[chosen] + index * self.seen[chosen]
        return self.embeddings.take(row, axis=0)

    def _look_up_texts(self, text: Array, slots: Array | int) -> Columns:
        """Returns the rows of texts; the first R rows are those of each keyword's missing text."""
        return self.text_table.take(np.where(text < 0, slots, text + self.keywords))
