"""Cross statistics of a request's candidates, without a table for each request.

Shapes: P places (row 0 stands for the unknown ones), K candidates, V values of a place's column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from larr.data.cross import Cross, indices
from larr.data.transforms import Array, Vocabulary


class CandidateCross:
    """The figures of a pair of columns, of which at least one differs between the candidates."""

    def __init__(self, cross: Cross, places: pl.DataFrame) -> None:
        """Looks up the values of known places, given by all their columns."""
        self.cross = cross
        sides = zip(cross.pair.columns, cross.vocabularies, strict=True)
        self.sides = [(column, words) for column, words in sides]
        self.of_places = {
            column: np.zeros((1, 1), np.int32) for column, _ in self.sides if column in places
        }
        """The indices of the values of each place, [P, V], for the columns of places."""
        self.set_places(places, range(1, len(places) + 1))

    def set_places(self, places: pl.DataFrame, rows: Sequence[int]) -> None:
        """Looks up the values of places that have these rows from now on."""
        for column, words in self.sides:
            if column in self.of_places:
                new, old = indices(places, column, words), self.of_places[column]
                shape = (max(len(old), max(rows, default=0) + 1), max(old.shape[1], new.shape[1]))
                index_PV = np.zeros(shape, np.int32)
                index_PV[: len(old), : old.shape[1]] = old
                index_PV[list(rows)] = 0
                index_PV[list(rows), : new.shape[1]] = new
                self.of_places[column] = index_PV  # replaced at once: requests read it meanwhile

    def figures(self, row_K: Array, others: Callable[[str, Vocabulary], Array]) -> Array:
        """Returns the figures of candidates by their rows, float64 [K, G].

        `others` returns the indices of the values of a column that is not of places, int32 [K].
        """
        index = [
            self.of_places[column][row_K]
            if column in self.of_places
            else others(column, words)[:, None]
            for column, words in self.sides
        ]
        return self.cross.figures(*index)
