"""The served form of a trained ranker: ONNX graphs over the arrays of a request, without torch.

One graph over the arrays of a batch can serve any ranker (`Plain`). For PLE and LARR everything
that does not depend on the request is stored (`Folded`): numpy lookups, and a graph for the
remaining computation; see `larr.serve.fold`.

Shapes: K candidates, T tasks, P places, F categories, M numbers, G text figures, R scene keywords,
Q of them of the request, S of the place, V texts, N new texts, D dimension of their vectors,
H attention heads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime

from larr import artifacts
from larr.serve.features import CandidateInputs, PlaceInputs, Reader, RequestInputs
from larr.serve.tables import Array, Columns, Table, open_array

GRAPH, VECTORS = "ranker.onnx", "vectors.npy"
"""The files of a plain ranker."""
SETTINGS, EMBEDDINGS, RECENT_TEXTS = "settings.json", "embeddings.npy", "recent_texts.npy"
PLACE_ROWS, TEXT_ROWS = "place_rows", "text_rows"
"""The files of a folded ranker, and the folders of its tables."""


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
        """Returns the outputs; ignores inputs that the graph does not have."""
        values = self.session.run(None, {name: inputs[name] for name in self.inputs})
        return dict(zip(self.outputs, values, strict=True))


class Served(ABC):
    """One trained ranker of a version, which scores the inputs of a `Reader`."""

    def __init__(self, reader: Reader, places: Table) -> None:
        """Takes the reader and the table of all places' inputs."""
        self.reader, self.places = reader, places

    @abstractmethod
    def logits(
        self,
        request: RequestInputs,
        candidates: CandidateInputs,
        figure_KG: Array,
        places: PlaceInputs | None = None,
    ) -> Array:
        """Returns the logits of candidates, float32 [K, T].

        `places` replaces the stored inputs of the candidates' places.
        """

    @abstractmethod
    def add_texts(self, numbers: range, slots: Array, vectors_ND: Array) -> None:
        """Adds the vectors of new texts, by their indices and the slots of their keywords."""

    def add_places(self, rows: Sequence[int], inputs: PlaceInputs) -> None:  # noqa: B027
        """Adds or updates places, by their rows in the table of places.

        Does nothing by default, since the table already contains their inputs.
        """

    def attention(self, text_KR: Array) -> Array | None:  # noqa: ARG002
        """Returns the scene encoder's attention to each text, [K, R]; None without an encoder."""
        return None


class Plain(Served):
    """Any ranker, as one graph over the arrays of a batch."""

    def __init__(self, folder: Path, reader: Reader, places: Table) -> None:
        """Opens the files of `larr.serve.publish`."""
        super().__init__(reader, places)
        self.graph, path = Graph(folder / GRAPH), folder / VECTORS
        self.vectors_VD = open_array(path) if path.is_file() else np.zeros((0, 0), np.float32)

    def logits(
        self,
        request: RequestInputs,
        candidates: CandidateInputs,
        figure_KG: Array,
        places: PlaceInputs | None = None,
    ) -> Array:
        reader, rows = self.reader, len(candidates.places)
        place = places or PlaceInputs(**self.places.take(candidates.places))
        categories = (place.categories, request.categories, candidates.categories)
        numbers = (place.numbers, request.numbers, candidates.numbers)
        inputs = {
            "categories": join_columns(reader.categories, categories, rows),
            "numbers": join_columns(reader.numbers, numbers, rows),
            "texts": text_indices(reader, place, request),
            "recent": np.tile(request.recent, (rows, 1)),
            "vectors": self.vectors_VD,
            "figures": figure_KG,
        }
        return self.graph(inputs)["logits"]

    def add_texts(self, numbers: range, slots: Array, vectors_ND: Array) -> None:  # noqa: ARG002
        if self.vectors_VD.size:
            self.vectors_VD = np.concatenate([self.vectors_VD[: numbers.start], vectors_ND])


class Folded(Served):
    """A ranker with stored contributions of places, texts and category values."""

    def __init__(self, folder: Path, reader: Reader, places: Table) -> None:
        """Opens the files of `larr.serve.publish`."""
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
        """Opens `texts`, `places` or `scoring`, the modules of `larr.serve.fold`, at first use:
        `larr publish` needs the lookups before all graphs are written."""

    def logits(
        self,
        request: RequestInputs,
        candidates: CandidateInputs,
        figure_KG: Array,
        places: PlaceInputs | None = None,
    ) -> Array:
        stored = self.place_rows(places) if places else self.place_table.take(candidates.places)
        inputs = self.request_inputs(request) | stored
        inputs["candidate_categories"] = candidates.categories
        inputs["candidate_numbers"] = np.hstack([candidates.numbers, figure_KG])
        return self.graph("scoring")(inputs)["logits"]

    def place_rows(self, places: PlaceInputs) -> Columns:
        """Computes the stored rows of places."""
        inputs = self.place_inputs(places)
        columns = self.graph("places")(inputs)
        place = self.reader.categories.place.index(self.place_column)
        columns["place_embedding"] = inputs["categories"][:, place]
        if self.reads_vectors:
            columns["place_vectors"] = inputs["vectors"]
        return columns

    def place_inputs(self, places: PlaceInputs) -> Columns:
        """Returns the inputs of the graph `places`."""
        embeddings_PFE = self._embed(self.reader.categories.place, places.categories)
        inputs = {"categories": embeddings_PFE, "numbers": places.numbers}
        if self.reads_texts:
            inputs |= self._look_up_texts(places.texts, self.reader.place_slots)
        return inputs

    def request_inputs(self, request: RequestInputs) -> Columns:
        """Returns the inputs of the graph `scoring` that all candidates share."""
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
        """Returns the attention of `<agg>` to the texts, averaged over the heads."""
        if not self.reads_texts:
            return None
        logits_KRH = self._look_up_texts(text_KR, np.arange(self.keywords))["logits"]
        agg_K1H = np.broadcast_to(self.agg_logits_H, (len(text_KR), 1, len(self.agg_logits_H)))
        logits_KXH = np.concatenate([agg_K1H, logits_KRH], axis=1)
        weight_KXH = np.exp(logits_KXH - logits_KXH.max(axis=1, keepdims=True))
        attention_KX: Array = (weight_KXH / weight_KXH.sum(axis=1, keepdims=True)).mean(axis=2)
        return attention_KX[:, 1:]

    def add_texts(self, numbers: range, slots: Array, vectors_ND: Array) -> None:
        if self.reads_texts:
            rows = range(numbers.start + self.keywords, numbers.stop + self.keywords)
            self.text_table.write(rows, self.graph("texts")({"raw": vectors_ND, "slots": slots}))

    def add_places(self, rows: Sequence[int], inputs: PlaceInputs) -> None:
        self.place_table.write(rows, self.place_rows(inputs))

    def _embed(self, columns: Sequence[int], index: Array) -> Array:
        """Returns the embeddings of category values; a hidden category has a single value."""
        chosen = list(columns)
        row: Array = self.shifts[chosen] + index * self.seen[chosen]
        return self.embeddings.take(row, axis=0)

    def _look_up_texts(self, text: Array, slots: Array | int) -> Columns:
        """Returns the rows of texts; the first R rows are the missing texts of the keywords."""
        return self.text_table.take(np.where(text < 0, slots, text + self.keywords))


FORMS: dict[str, Callable[[Path, Reader, Table], Served]] = {"folded": Folded, "plain": Plain}


def text_indices(reader: Reader, places: PlaceInputs, request: RequestInputs) -> Array:
    """Returns the indices of the texts of each candidate's place and of the request, [K, R]."""
    slots = (reader.place_slots, reader.request_slots)
    return join_columns(slots, (places.texts, request.texts), len(places.texts))


def join_columns(
    positions: Sequence[Sequence[int] | Array], parts: Sequence[Array], rows: int
) -> Array:
    """Joins parts of the columns, each column at its position, [rows, columns].

    A one-dimensional part applies to all rows.
    """
    joined = np.empty((rows, sum(map(len, positions))), parts[0].dtype)
    for columns, part in zip(positions, parts, strict=True):
        joined[:, list(columns)] = part
    return joined
