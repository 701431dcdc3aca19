"""The text figures of a request's candidates, computed as `larr embed` computes those of the log.

Shapes: K candidates, R scene keywords, N new texts, D dimension of their vectors, G figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from larr.serve.features import PlaceInputs, Reader, RequestInputs
from larr.serve.served import in_order
from larr.serve.tables import Array
from larr.text.figures import TextFigures


class ServedFigures:
    """The text figures of the vector sources that the members of a version read."""

    def __init__(self, folder: Path, reader: Reader) -> None:
        """Opens a folder that has one of `larr.text.figures.copy_figures` for each source."""
        self.reader = reader
        self.by_source = {path.name: TextFigures.open(path) for path in sorted(folder.glob("*"))}

    def of_candidates(self, request: RequestInputs, places: PlaceInputs) -> dict[str, Array]:
        """Returns the figures of each source, float32 [K, G]; `places` are the candidates'."""
        rows, slots = len(places.texts), (self.reader.place_slots, self.reader.request_slots)
        text_KR = in_order(slots, (places.texts, request.texts), rows)
        same_K = np.zeros(rows, np.int64)
        return {
            source: figures.of_rows(text_KR, same_K, request.history[None], same_K)
            for source, figures in self.by_source.items()
        }

    def add_texts(self, slot_N: Array, vectors: Mapping[str, Array]) -> None:
        """Adds new texts after all others: the slots of their keywords, their vectors by source.

        To a source without vectors of them they are missing.
        """
        for source, figures in self.by_source.items():
            figures.add_texts(slot_N, vectors.get(source))
