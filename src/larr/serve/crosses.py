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
        self.sides = list(zip(cross.pair.columns, cross.vocabularies, strict=True))
        self.of_places = {
            column: np.zeros((1, 1), np.int32) for column, _ in self.sides if column in places
        }
        """The indices of the values of each place, [P, V], for the columns of places."""
        self.set_places(places, range(1, len(places) + 1))

    def set_places(self, places: pl.DataFrame, rows: Sequence[int]) -> None:
        """Looks up the values of places that have these rows from now on."""
        for column, words in self.sides:
            if column in self.of_places:
                index = indices(places, column, words)
                # Replaced at once, since requests read it meanwhile.
                self.of_places[column] = with_rows(self.of_places[column], rows, index)

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


def with_rows(table: Array, rows: Sequence[int], values: Array) -> Array:
    """Returns a table in which these rows have values; it grows as needed, padded with 0."""
    shape = (max(len(table), max(rows, default=0) + 1), max(table.shape[1], values.shape[1]))
    grown = np.zeros(shape, table.dtype)
    grown[: len(table), : table.shape[1]] = table
    grown[list(rows)] = 0
    grown[list(rows), : values.shape[1]] = values
    return grown
