"""The published ranker: look-ups in numpy and arithmetic in ONNX Runtime, without torch.

`larr.serve.fold` explains what is stored and what is left to compute.

Shapes: K candidates, T tasks, P places, N texts, D dimension of their vectors, R scene keywords, Q
of them of the request, S of the place, H attention heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
import polars as pl

from larr import artifacts
from larr.data.known import Row
from larr.data.transforms import MISSING
from larr.serve.features import CandidateInputs, Reader, RequestInputs
from larr.serve.request import TextEffect
from larr.serve.tables import Array, Columns, Table, open_array

SETTINGS, EMBEDDINGS, RECENT_TEXTS = "ranker.json", "embeddings.npy", "recent_texts.npy"
PLACES, TEXTS = "places", "texts"
"""The folders of the tables."""
PLACE_INPUTS = ("inputs_categories", "inputs_numbers", "inputs_texts")
"""Columns of the table of places that `explain` computes a place from again."""
Embed = Callable[[list[tuple[str, str]]], Array]
"""Keywords and texts -> the vectors of the text embedding model, float32 [N, D]."""


class Graph:
    """An ONNX graph in ONNX Runtime, on one core."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.inputs = [node.name for node in self.session.get_inputs()]
        self.outputs = [node.name for node in self.session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Array]) -> Columns:
        """Returns its outputs; inputs that the graph does not have are ignored."""
        values = self.session.run(None, {name: inputs[name] for name in self.inputs})
        return dict(zip(self.outputs, values, strict=True))


class Scored(NamedTuple):
    """The probabilities of candidates, and the inputs from which they were computed."""

    probabilities: Array
    """Of a click, and of a click and an order, float32 [K, T]."""
    request: RequestInputs
    candidates: CandidateInputs


class ServedRanker:
    """A folded PLE or LARR with the reader of its requests."""

    def __init__(self, folder: Path, reader: Reader) -> None:
        """Opens what `larr.serve.publish.write_ranker` wrote."""
        self.reader = reader
        settings = artifacts.read_json(folder / SETTINGS)
        self.shifts = np.array(settings["shifts"], np.int32)
        self.seen = np.array(settings["seen"], np.int32)
        self.place_column: int = settings["place_column"]
        self.agg_logits_H = np.array(settings["agg_logits"], np.float32)
        self.recent_slot: int | None = settings["recent_slot"]
        self.reads_vectors: bool = settings["reads_vectors"]
        self.embeddings = open_array(folder / EMBEDDINGS)
        self.recent_texts = open_array(folder / RECENT_TEXTS)
        self.places, self.texts = Table.open(folder / PLACES), Table.open(folder / TEXTS)
        self.place_columns = [name for name in self.places.published if name not in PLACE_INPUTS]
        self.added_rows: dict[str, int] = {}
        """The rows of the places that were added, those forgotten since among them."""
        self.reads_texts = bool(self.texts.published)
        self.keywords = reader.features.scene_keywords if self.reads_texts else ()
        of_place = np.array([reader.keywords[name].owner == "poi" for name in self.keywords], bool)
        self.place_slots, self.request_slots = np.flatnonzero(of_place), np.flatnonzero(~of_place)
        self.graph = cache(lambda name: Graph(folder / f"{name}.onnx"))
        """The graphs `texts`, `places` and `scoring`, the modules of `larr.serve.fold`.

        Opened when first needed: `larr publish` uses the look-ups before all graphs are written.
        """

    def score(self, row: Row, candidates: Mapping[str, Sequence[Any]]) -> Scored:
        """Returns the probabilities of a request's candidates, from its row and their columns."""
        request = self.reader.request(row)
        inputs = self.reader.candidates(request, candidates)
        place = self.places.take(inputs.places, self.place_columns)
        return Scored(self.probabilities(self.look_up(request), place, inputs), request, inputs)

    def explain(self, scored: Scored, chosen: Sequence[int]) -> list[list[TextEffect]]:
        """Returns for some candidates the effect of each text: the score minus that without it.

        Exact, for the text as the scene encoder and the matching read it; IDs and numbers stay.
        """
        request, inputs, rows = scored.request, scored.candidates, list(chosen)
        candidates = CandidateInputs(
            inputs.places[rows], inputs.categories[rows], inputs.numbers[rows], inputs.unknown
        )
        known, place = self.look_up(request), self.places.take(candidates.places)
        categories_KF, numbers_KM, texts_KS = (place[name] for name in PLACE_INPUTS)
        text_KR = np.empty((len(chosen), len(self.keywords)), np.int64)
        text_KR[:, self.request_slots], text_KR[:, self.place_slots] = request.texts, texts_KS
        # The attention of `<agg>`: its softmax over itself and the texts, the mean of the heads.
        logits_KRH = self._look_up_texts(text_KR, np.arange(len(self.keywords)))["logits"]
        agg_K1H = np.broadcast_to(self.agg_logits_H, (len(chosen), 1, len(self.agg_logits_H)))
        logits_KXH = np.concatenate([agg_K1H, logits_KRH], axis=1)
        weight_KXH = np.exp(logits_KXH - logits_KXH.max(axis=1, keepdims=True))
        attention_KX = (weight_KXH / weight_KXH.sum(axis=1, keepdims=True)).mean(axis=2)
        score_K = scores(scored.probabilities[rows])
        effects: list[list[TextEffect]] = [[] for _ in chosen]
        for slot, keyword in enumerate(self.keywords):
            if slot in self.request_slots:
                left = np.where(self.request_slots == slot, MISSING, request.texts)
                without = self.look_up(request._replace(texts=left))
                left_KT = self.probabilities(without, place, candidates)
            else:
                left = np.where(self.place_slots == slot, MISSING, texts_KS)
                without = self.place_rows(categories_KF, numbers_KM, left)
                left_KT = self.probabilities(known, without, candidates)
            adds_K = score_K - scores(left_KT)
            for number in np.flatnonzero(text_KR[:, slot] != MISSING).tolist():
                text = self.reader.texts.text(text_KR[number, slot])
                attention, adds = float(attention_KX[number, slot + 1]), float(adds_K[number])
                effects[number].append(TextEffect(keyword, text, attention, adds))
        return effects

    def place_rows(self, categories_PF: Array, numbers_PM: Array, texts_PS: Array) -> Columns:
        """Returns the stored columns of places, from the indices, numbers and texts of `Reader`."""
        inputs = self.place_inputs(categories_PF, numbers_PM, texts_PS)
        columns = dict(zip(PLACE_INPUTS, (categories_PF, numbers_PM, texts_PS), strict=True))
        columns |= self.graph("places")(inputs)
        place = self.reader.categories.place.index(self.place_column)
        columns["place_embedding"] = inputs["categories"][:, place]
        if self.reads_vectors:
            columns["place_vectors"] = inputs["vectors"]
        return columns

    def place_inputs(self, categories_PF: Array, numbers_PM: Array, texts_PS: Array) -> Columns:
        """Returns the inputs of the graph of places."""
        embeddings_PFE = self._embed(self.reader.categories.place, categories_PF)
        inputs = {"categories": embeddings_PFE, "numbers": numbers_PM}
        if self.reads_texts:
            inputs |= self._look_up_texts(texts_PS, self.place_slots)
        return inputs

    def add_places(self, rows: pl.DataFrame, embed: Embed | None) -> None:
        """Adds places without statistics, or new values of added ones, by the columns of `Known`.

        They rank with these values from now on. A place that comes again keeps its row.
        """
        categories_PF, numbers_PM, texts = self.reader.described(rows)
        if self.reads_texts and embed:
            new = [
                (keyword, text)
                for keyword, column in texts.items()
                for text in column.drop_nulls().unique(maintain_order=True)
                if self.reader.texts.value(keyword, text) == MISSING
            ]
            if new:
                slot_N = np.array([self.keywords.index(keyword) for keyword, _ in new])
                text_rows = self.graph("texts")({"raw": embed(new), "slots": slot_N})
                self.texts.write(range(len(self.texts), len(self.texts) + len(new)), text_rows)
            for keyword, text in new:  # numbered as the rows, behind those of the stored texts
                self.reader.texts.add_value(keyword, text)
        texts_PS = self.reader.numbered(texts, len(rows))
        end = self.places.first_added
        row_P = [
            self.added_rows.setdefault(poi_id, end + len(self.added_rows))
            for poi_id in rows["poi_id"]
        ]
        self.places.write(row_P, self.place_rows(categories_PF, numbers_PM, texts_PS))
        self.reader.add(rows, row_P)

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
            texts = self._look_up_texts(request.texts, self.request_slots)
            inputs |= {f"request_{name}": rows for name, rows in texts.items()}
        if self.recent_slot is not None:
            text_L = self.recent_texts[request.recent]
            inputs["recent_vectors"] = self._look_up_texts(text_L, self.recent_slot)["vectors"]
            inputs["recent_has_text"] = text_L >= 0
        return inputs

    def _embed(self, columns: Sequence[int], index: Array) -> Array:
        """Returns the embeddings of some categories' values; hidden categories have one value."""
        chosen = list(columns)
        row: Array = self.shifts[chosen] + index * self.seen[chosen]
        return self.embeddings.take(row, axis=0)

    def _look_up_texts(self, text: Array, slots: Array | int) -> Columns:
        """Returns the rows of texts; the first R rows are those of each keyword's missing text."""
        return self.texts.take(np.where(text < 0, slots, text + len(self.keywords)))

    def probabilities(self, request: Columns, place: Columns, candidates: CandidateInputs) -> Array:
        """Returns the probabilities of candidates from what was looked up, [K, T]."""
        inputs = request | place
        inputs["candidate_categories"] = candidates.categories
        inputs["candidate_numbers"] = candidates.numbers
        return self.graph("scoring")(inputs)["probabilities"]


def scores(probability_KT: Array) -> npt.NDArray[np.float64]:
    """Returns what candidates are ranked by: the product of their probabilities, [K]."""
    return np.asarray(probability_KT.astype(np.float64).prod(axis=1))
