"""A trained ranker as it is served: a graph of ONNX over the arrays of a request, without torch.

Shapes: K candidates, T tasks, P places, F categories, M numbers, G text figures, R scene keywords,
V texts, N new texts, D dimension of their vectors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from larr.serve.features import CandidateInputs, PlaceInputs, Reader, RequestInputs
from larr.serve.tables import Array, Columns, Table, open_array

GRAPH, VECTORS = "ranker.onnx", "vectors.npy"


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


class Served(ABC):
    """One trained ranker of a version: what it computes from the inputs that a `Reader` gives."""

    def __init__(self, reader: Reader, places: Table) -> None:
        """`places` has the inputs of all places."""
        self.reader, self.places = reader, places

    @abstractmethod
    def logits(
        self,
        request: RequestInputs,
        candidates: CandidateInputs,
        figure_KG: Array,
        places: PlaceInputs | None = None,
    ) -> Array:
        """Returns the logits of candidates, float32 [K, T], from their text figures, too.

        With `places` these are the inputs of the candidates' places instead of the stored ones.
        """

    @abstractmethod
    def add_texts(self, numbers: range, slots: Array, vectors_ND: Array) -> None:
        """Adds the vectors of new texts, by their numbers and the slots of their keywords."""

    def add_places(self, rows: Sequence[int], inputs: PlaceInputs) -> None:  # noqa: B027
        """Adds places, or new values of added ones, by their rows in the table of places.

        Nothing to do for a ranker that reads only their inputs.
        """

    def attention(self, text_KR: Array) -> Array | None:  # noqa: ARG002
        """Returns the scene encoder's attention to each text, [K, R]; None without an encoder."""
        return None


class Plain(Served):
    """Any ranker: its graph takes the arrays that a batch of the log has."""

    def __init__(self, folder: Path, reader: Reader, places: Table) -> None:
        """Opens what `larr.serve.publish` wrote."""
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
        """Returns the logits of candidates, [K, T]."""
        reader, rows = self.reader, len(candidates.places)
        place = places or PlaceInputs(**self.places.take(candidates.places))
        categories = (place.categories, request.categories, candidates.categories)
        numbers = (place.numbers, request.numbers, candidates.numbers)
        inputs = {
            "categories": in_order(reader.categories, categories, rows),
            "numbers": in_order(reader.numbers, numbers, rows),
            "texts": all_texts(reader, place, request),
            "recent": np.tile(request.recent, (rows, 1)),
            "vectors": self.vectors_VD,
            "figures": figure_KG,
        }
        return self.graph(inputs)["logits"]

    def add_texts(self, numbers: range, slots: Array, vectors_ND: Array) -> None:  # noqa: ARG002
        """Adds the vectors, if it reads any."""
        if self.vectors_VD.size:
            self.vectors_VD = np.concatenate([self.vectors_VD[: numbers.start], vectors_ND])


def all_texts(reader: Reader, places: PlaceInputs, request: RequestInputs) -> Array:
    """Returns the numbers of the texts of candidates, of the place and of the request, [K, R]."""
    slots = (reader.place_slots, reader.request_slots)
    return in_order(slots, (places.texts, request.texts), len(places.texts))


def in_order(
    positions: Sequence[Sequence[int] | Array], parts: Sequence[Array], rows: int
) -> Array:
    """Returns parts of the columns side by side, each column at its position, [rows, columns].

    A part without a dimension of rows is the same for all.
    """
    joined = np.empty((rows, sum(map(len, positions))), parts[0].dtype)
    for columns, part in zip(positions, parts, strict=True):
        joined[:, list(columns)] = part
    return joined
