"""Turns the columns of a request, or of a table of rows, into the inputs of a ranker.

`larr prepare` fits the transforms, see `larr.data.transforms` and `larr.data.snapshot`.

Shapes: P places (row 0 is the unknown place), K candidates, F categories, M numbers, S place
keywords, L recent places.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from larr.config import Config
from larr.data.cross import Cross, indices
from larr.data.features import FeatureEncoder, read_features
from larr.data.histories import HISTORIES, of_situation
from larr.data.names import LOOKED_UP, compared_numbers, raw_column
from larr.data.situations import Situations
from larr.data.snapshot import KNOWN, PAIR_FIGURES, Row, Snapshot
from larr.data.transforms import (
    AGE,
    MISSING,
    TIME_COLUMNS,
    Array,
    Template,
    TextIds,
    Vocabulary,
    age_values,
    with_time_columns,
)
from larr.data.within import request_numbers, with_figures, within_names, within_request
from larr.serve.tables import open_array, with_rows
from larr.text.figures import TextFigures

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
POSITION, FIRST = "position", 1
"""Candidates have no position before ranking, so all are scored as if shown first."""
UNKNOWN = pl.DataFrame({"poi_id": [None]}, schema={"poi_id": pl.String})
"""The unknown place."""
Kinds = tuple[type, ...]


class RequestInputs(NamedTuple):
    """The inputs of a request, in the order of `ColumnSplit.request`."""

    categories: Ints
    numbers: Floats
    texts: Ints
    recent: Ints
    history: Ints
    """The places that the user took, clicked and left, and with situations took in this one,
    [K, L]; see `larr.data.histories`."""
    known: bool
    """Whether the user occurs in the log."""
    missing: list[str]
    """Keywords whose text has no stored vector."""
    unknown: list[str]
    """Categories of the scene whose value does not occur in the training days."""
    values: dict[str, Any]
    """All columns of the request, sent or looked up."""


class PlaceInputs(NamedTuple):
    """The inputs of places, in the order of `ColumnSplit.place`."""

    categories: Ints
    numbers: Floats
    texts: Ints
    """The IDs of the texts of the place keywords."""

    def select(self, rows: slice) -> PlaceInputs:
        """Returns the inputs of some of the places."""
        return PlaceInputs(self.categories[rows], self.numbers[rows], self.texts[rows])


class CandidateInputs(NamedTuple):
    """The inputs of each candidate, in the order of `ColumnSplit.candidate`."""

    places: npt.NDArray[np.int64]
    """The row of each candidate in the place table; 0 = unknown."""
    categories: Ints
    numbers: Floats
    unknown: list[str]
    """Categories in which some candidate has a value that does not occur in the training days."""


class ClientColumns(NamedTuple):
    """The columns that a client may send, with the types of their values."""

    scene: dict[str, Kinds]
    candidate: dict[str, Kinds]


class Reader:
    """Turns requests into inputs with the transforms and statistics in `prepare/`."""

    def __init__(self, config: Config, data: Path) -> None:
        self.features = read_features(data)
        pairs = list(self.features.statistics)
        self.config = config = config.model_copy(update={"statistics": pairs})
        self.encoder = FeatureEncoder.load(config, data / "vocabularies")
        self.snapshot = Snapshot.load(config, data / KNOWN)
        self.texts = TextIds(pl.read_parquet(data / "texts.parquet"))
        self.names = [category.name for category in self.features.categories]
        self.categories = self.features.split(self.names)
        self.numbers = self.features.split(self.features.numbers)
        self.request_categories = [self.names[column] for column in self.categories.request]
        self.candidate_categories = [self.names[column] for column in self.categories.candidate]
        self.request_scales = self.encoder.scales.select(self.numbers.request)
        self.candidate_scales = self.encoder.scales.select(self.numbers.candidate)
        self.templates = [Template(keyword) for keyword in config.scene_keywords]
        describes_place = [keyword.owner == "poi" for keyword in config.scene_keywords]
        self.place_slots = np.flatnonzero(describes_place)
        self.request_slots = np.flatnonzero(np.logical_not(describes_place))
        self.place_templates = [self.templates[slot] for slot in self.place_slots]
        self.request_templates = [self.templates[slot] for slot in self.request_slots]
        self.place_rows = {
            poi_id: row for row, poi_id in enumerate(self.snapshot.places["poi_id"], start=1)
        }
        self.histories_UKL = open_array(data / KNOWN / HISTORIES)
        self.situations = Situations.load(config, data / KNOWN)
        self.levels = {level.bucket.level: level for level in self.snapshot.levels}
        places = self.snapshot.describe_places(self.snapshot.places)
        self.crosses = [
            CandidateCross(cross, places) for cross in self.snapshot.crosses if cross.differs
        ]
        self.within = compared_numbers(config)
        self.compared = [name for name in self.within if name in places.columns]
        """Numbers of places that are compared within requests."""
        unknown = self.snapshot.describe_places(UNKNOWN)
        self.place_numbers_PW = np.append(self._compared(unknown), self._compared(places), axis=0)
        self.since_P = np.append(_since(unknown), _since(places))

    @property
    def reads_time(self) -> bool:
        """Whether rankers read the time of a request; False for a log without times."""
        names = [name for columns in self._columns() for name in columns]
        return any(raw_column(self.config, name) in (AGE, *TIME_COLUMNS) for name in names)

    def _columns(self) -> tuple[list[str], list[str]]:
        """Returns the columns that rankers read of the scene and of a candidate."""
        scene = [name for template in self.request_templates for name in template.columns]
        scene += [profile.within for profile in self.config.profiles if profile.within]
        scene += [*self.request_categories, *self.request_scales.names]
        candidate = [*self.candidate_categories, *self.candidate_scales.names]
        declared = self.config.features.candidate_columns
        for name in (name for pair in self.features.statistics for name in pair.columns):
            (candidate if raw_column(self.config, name) in declared else scene).append(name)
        return scene, candidate

    def client_columns(self) -> ClientColumns:
        """Returns the columns that rankers read and that the server cannot look up."""
        looked_up = {"user_id", *TIME_COLUMNS, *(profile.name for profile in self.config.profiles)}
        looked_up |= {name for pair in self.features.statistics for name in pair.figure_names}
        kinds: dict[str, Kinds] = {
            bucket.column: (int, float, bool) for bucket in self.config.buckets
        }
        kinds |= dict.fromkeys(self.features.numbers, (int, float))
        sent = ClientColumns({}, {"poi_id": (str,)})
        for columns, names in zip(sent, self._columns(), strict=True):
            for name in names:
                column = raw_column(self.config, name)  # clients send the number of a level
                if column not in looked_up and not column.startswith(LOOKED_UP):
                    columns[column] = kinds.get(column, (str, int, float, bool))
        return sent

    def table(self, rows: pl.DataFrame, figures: Iterable[Path] = ()) -> dict[str, Array]:
        """Returns the input arrays of a table with the columns of the contract's impressions.

        They equal those that `larr prepare` would write for rows of the day after training; texts
        that `larr embed` has not seen are missing. `figures` are the folders of the ranker's text
        figures.
        """
        rows = self.snapshot.enrich(with_time_columns(rows))
        rows = with_figures(rows, self.within)
        texts = [template.column(rows) for template in self.templates]
        text_NR = self._text_ids(texts, rows.height)
        users = self.snapshot.user_rows
        user_N = np.array([users.get(user_id, -1) + 1 for user_id in rows["user_id"]], np.int64)
        request_N = request_numbers(rows)
        arrays = self.encoder.arrays(rows)
        histories_NKL = self._histories(user_N, arrays["categories"])
        parts, row_N = [np.zeros((rows.height, 0), np.float32)], np.arange(rows.height)
        for folder in figures:
            opened = TextFigures.open(folder)
            parts.append(opened.compute(text_NR, row_N, histories_NKL, request_N))
        recent_NL = self.encoder.places.padded_column(rows["recent"], self.encoder.recent)
        return arrays | {"recent": recent_NL, "texts": text_NR, "figures": np.hstack(parts)}

    def _histories(self, user_N: Array, categories_NF: Array) -> Ints:
        """Returns the histories of rows of users, and of all categories, int32 [N, K, L]."""
        latest_NKL = self.histories_UKL[user_N]
        if self.situations is None:
            return latest_NKL
        situation_N = self.situations.of(categories_NF[:, self.situations.columns])
        return of_situation(latest_NKL, situation_N)

    def place_inputs(self) -> PlaceInputs:
        """Returns the inputs of all places, the unknown one first."""
        return self.inputs_of(pl.concat([UNKNOWN, self.snapshot.places], how="diagonal_relaxed"))

    def inputs_of(self, places: pl.DataFrame) -> PlaceInputs:
        """Returns the inputs of places, given by some or all columns of `Snapshot.places`.

        A new place has no statistics.
        """
        described = self.snapshot.describe_places(places)
        categories = [self.names[column] for column in self.categories.place]
        return PlaceInputs(
            self.encoder.categories(described, categories),
            self.encoder.scales.select(self.numbers.place).column(described),
            self._text_ids([t.column(described) for t in self.place_templates], places.height),
        )

    def place_texts(self, places: pl.DataFrame) -> list[pl.Series]:
        """Returns the texts of places, a column named by each of their keywords."""
        described = self.snapshot.describe_places(places)
        return [template.column(described) for template in self.place_templates]

    def _text_ids(self, texts: Sequence[pl.Series], rows: int) -> Ints:
        """Returns the IDs of columns of texts, [P, S] for places; -1 for no stored text."""
        id_PS = np.zeros((rows, len(texts)), np.int32)
        for slot, column in enumerate(texts):
            id_PS[:, slot] = self.texts.column(column)
        return id_PS

    def request(self, row: Row) -> RequestInputs:
        """Returns the inputs of one request: `user_id`, `time` and the columns of its scene."""
        values = self.snapshot.of_request(row)
        texts, missing = [], []
        for template in self.request_templates:
            keyword, text = template.keyword.name, template.value(values)
            texts.append(self.texts.value(keyword, text))
            if text is not None and texts[-1] == MISSING:
                missing.append(keyword)
        categories, unknown = [], []
        for name in self.request_categories:
            value = values.get(name)
            categories.append(self.encoder.vocabularies[name].value(value))
            if categories[-1] == 0 and value is not None and not name.startswith("user_"):
                unknown.append(name)
        number_M = np.array([values.get(name) for name in self.request_scales.names], np.float64)
        places = self.snapshot.recent_places.get(row["user_id"], [])
        all_1F = np.zeros((1, len(self.names)), np.int32)
        all_1F[0, self.categories.request] = categories
        user_1 = np.array([self.snapshot.user_rows.get(row["user_id"], -1) + 1])
        return RequestInputs(
            np.array(categories, np.int32),
            self.request_scales.value(number_M),
            np.array(texts, np.int32),
            self.encoder.places.padded_value(places, self.encoder.recent),
            self._histories(user_1, all_1F)[0],
            row["user_id"] in self.snapshot.user_rows,
            missing,
            unknown,
            values,
        )

    def candidates(
        self, request: RequestInputs, columns: Mapping[str, Sequence[Any]]
    ) -> CandidateInputs:
        """Returns the inputs of candidates: `poi_id` and the columns that differ between them."""
        row_K = np.array([self.place_rows.get(place, 0) for place in columns["poi_id"]], np.int64)
        values = self._candidate_values(request, columns, row_K)
        category_KF = np.zeros((len(row_K), len(self.candidate_categories)), np.int32)
        unknown = []
        for column, name in enumerate(self.candidate_categories):
            index_K = self._indices(name, self.encoder.vocabularies[name], values)
            category_KF[:, column] = index_K
            if name in columns and not index_K.all():
                by_index = zip(columns[name], index_K.tolist(), strict=True)
                if any(value is not None and index == 0 for value, index in by_index):
                    unknown.append(name)
        number_KM = np.empty((len(row_K), len(self.candidate_scales.names)))
        for column, name in enumerate(self.candidate_scales.names):
            number_KM[:, column] = np.array(values[name], np.float64)
        return CandidateInputs(row_K, category_KF, self.candidate_scales.value(number_KM), unknown)

    def _candidate_values(
        self, request: RequestInputs, columns: Mapping[str, Sequence[Any]], row_K: Array
    ) -> dict[str, Any]:
        """Returns the columns of candidates, sent or computed; other columns are missing."""
        values: dict[str, Any] = defaultdict(lambda: [None] * len(row_K))
        values |= {POSITION: [FIRST] * len(row_K), **columns}
        pairs_K2 = self.snapshot.pair_figures(request.values["user_id"], columns["poi_id"])
        values |= zip(PAIR_FIGURES, pairs_K2.T, strict=True)
        values[AGE] = age_values(request.values["time"], self.since_P[row_K])

        def index_of(name: str, vocabulary: Vocabulary) -> Ints:
            if raw_column(self.config, name) in self.config.features.candidate_columns:
                return self._indices(name, vocabulary, values)
            return np.full(len(row_K), vocabulary.value(request.values.get(name)), np.int32)

        for crossed in self.crosses:
            figure_KG = crossed.figures(row_K, index_of)
            values |= zip(crossed.cross.pair.figure_names, figure_KG.T, strict=True)
        if self.within:
            values |= zip(self.compared, self.place_numbers_PW[row_K].T, strict=True)
            number_WK = np.array([values[name] for name in self.within], np.float64)
            figures = within_request(number_WK.T, np.zeros(len(row_K), np.int64))
            values |= zip(within_names(self.within), figures.T, strict=True)
        return values

    def add(self, places: pl.DataFrame, rows: Sequence[int]) -> None:
        """Adds places, given by the columns of `Snapshot.places`, at these rows."""
        described = self.snapshot.describe_places(places)
        for cross in self.crosses:
            cross.set_places(described, rows)
        self.place_numbers_PW = with_rows(self.place_numbers_PW, rows, self._compared(described))
        self.since_P = with_rows(self.since_P, rows, _since(described))
        # last, so that a request finds a place only when its rows are complete
        self.place_rows |= dict(zip(places["poi_id"], rows, strict=True))

    def _compared(self, places: pl.DataFrame) -> Array:
        """Returns the numbers of places to compare within requests, float64 [P, W]."""
        numbers = [places[name].cast(pl.Float64).to_numpy() for name in self.compared]
        return np.array(numbers, np.float64).reshape(len(numbers), len(places)).T

    def _indices(
        self, name: str, vocabulary: Vocabulary, values: Mapping[str, Sequence[Any]]
    ) -> Ints:
        """Returns the indices of a column of candidates or of a level of one, int32 [K]."""
        if level := self.levels.get(name):
            raw_K = np.array(values[level.bucket.column], np.float64)
            # the last entry is for a missing number
            index_L = [*(vocabulary.value(word) for word in level.bucket.words), 0]
            return np.array(index_L, np.int32)[level.positions(raw_K)]
        return np.array([vocabulary.value(value) for value in values[name]], np.int32)


def _since(places: pl.DataFrame) -> Array:
    """Returns the start of each place, datetime64 [P], NaT if it is unknown."""
    if "poi_since" not in places.columns:
        return np.full(len(places), "NaT", "datetime64[us]")
    return places["poi_since"].cast(pl.Datetime("us")).to_numpy()


class CandidateCross:
    """Cross statistics of a request's candidates, computed without a data frame.

    At least one column of the pair differs between the candidates. V: values of a place's column.
    """

    def __init__(self, cross: Cross, places: pl.DataFrame) -> None:
        """Looks up the values of the known places."""
        self.cross = cross
        self.sides = list(zip(cross.pair.columns, cross.vocabularies, strict=True))
        self.place_indices = {
            column: np.zeros((1, 1), np.int32) for column, _ in self.sides if column in places
        }
        """A column of places -> the indices of each place's values, [P, V]."""
        self.set_places(places, range(1, len(places) + 1))

    def set_places(self, places: pl.DataFrame, rows: Sequence[int]) -> None:
        """Looks up the values of places and stores them at these rows."""
        for column, words in self.sides:
            if column in self.place_indices:
                index = indices(places, column, words)
                # replaced atomically, because requests may be reading it
                self.place_indices[column] = with_rows(self.place_indices[column], rows, index)

    def figures(self, row_K: Array, others: Callable[[str, Vocabulary], Array]) -> Array:
        """Returns the figures of the candidates at these rows, float64 [K, G].

        `others` returns the indices of the values of any other column, int32 [K].
        """
        index = [
            self.place_indices[column][row_K]
            if column in self.place_indices
            else others(column, words)[:, None]
            for column, words in self.sides
        ]
        return self.cross.figures(*index)
