"""A request's columns as the ranker's inputs: what `larr.data.featurise` does with tables.

Shapes: P places (row 0 stands for the unknown ones), K candidates, F categories, M numbers, S place
keywords, L recent places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from larr.config import Config
from larr.config.data import BucketConfig
from larr.data.enrich import KNOWN, NEVER_SEEN, PAIR, PAIR_FIGURES, Known
from larr.data.features import CLIP_DEVIATIONS, FeatureEncoder, load, read_features
from larr.data.keywords import MISSING, as_text, columns_of, level_one, parts, render, render_one
from larr.data.time_columns import TIME_COLUMNS, time_columns

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Edges = npt.NDArray[np.float64]
NO_PAIR = (0.0,) * len(PAIR_FIGURES)
POSITION, FIRST = "position", 1
"""Where a list is ranked nothing has a position yet: all are scored as if shown first."""
Row = Mapping[str, Any]
Kinds = tuple[type, ...]


class RequestInputs(NamedTuple):
    """What a request brings, in the order of `ColumnSplit.request`."""

    categories: Ints
    numbers: Floats
    texts: Ints
    recent: Ints
    known: bool
    """Whether the user is known."""
    missing: list[str]
    """Keywords whose text has no stored vector."""
    unknown: list[str]
    """Categories of the scene whose value the training days do not have."""


class CandidateInputs(NamedTuple):
    """What each candidate brings, in the order of `ColumnSplit.candidate`."""

    places: npt.NDArray[np.int64]
    """Its row of the place table; 0 = unknown."""
    categories: Ints
    numbers: Floats
    unknown: list[str]
    """Categories of which some candidate has a value that the training days do not have."""

    def rows(self, chosen: Sequence[int]) -> CandidateInputs:
        """Those of some candidates."""
        rows = list(chosen)
        return CandidateInputs(
            self.places[rows], self.categories[rows], self.numbers[rows], self.unknown
        )


class Reader:
    """Reads requests by what `larr prepare` kept in `prepare/`."""

    def __init__(self, config: Config, data: Path) -> None:
        self.config, self.features = config, read_features(data)
        self.encoder = load(config, data / "vocabularies")
        self.known = Known.load(config, data / KNOWN)
        self.names = [category.name for category in self.features.categories]
        self.categories = self.features.split(self.names)
        self.numbers = self.features.split(self.features.numbers)
        self.keywords = {one.name: one for one in config.scene_keywords}
        self.vocabularies = {
            name: dict(zip(values, range(1, len(values) + 1), strict=True))
            for name, values in self.encoder.vocabularies.items()
        }
        table = pl.read_parquet(data / "texts.parquet")
        self.texts = {
            name: dict(
                table.filter(pl.col("keyword") == name).select("text", "text_id").iter_rows()
            )
            for name in self.keywords
        }
        self.told = table.sort("text_id")["text"]
        self.told_since: list[str] = []
        self.templates = {name: parts(one) for name, one in self.keywords.items()}
        self.place_rows = _numbered(self.known.places["poi_id"], start=1)
        self.user_rows = _numbered(self.known.users["user_id"], start=0)
        self.situations = [
            (table.columns[1], table.columns[-1], _by_key(table))
            for table in self.known.situations.values()
        ]
        self.levels = {f"{bucket.column}_level": self._level(bucket) for bucket in config.buckets}
        self.pairs = _by_user(self.known.pairs)
        self.recent = dict(self.known.recent.select("user_id", "recent").iter_rows())

    def _level(self, bucket: BucketConfig) -> tuple[str, Edges, Ints]:
        """The column of a bucket, its edges, and the index of each level."""
        numbers = self.vocabularies.get(f"{bucket.column}_level", {})
        index_L = np.array([numbers.get(word, 0) for word in bucket.words], np.int32)
        return bucket.column, np.array(self.known.edges[bucket.column]), index_L

    def sent(self) -> tuple[dict[str, Kinds], dict[str, Kinds]]:
        """The columns that a client sends of the scene and of a candidate, and of which kinds."""
        told = [
            name for one in self.keywords.values() if one.owner != "poi" for name in columns_of(one)
        ]
        within = [column for column, *_ in self.situations]
        scene = [*told, *within, *self._names("request")]
        return self._raw(scene), {"poi_id": (str,)} | self._raw(self._names("candidate"))

    def _names(self, part: str) -> list[str]:
        categories, numbers = getattr(self.categories, part), getattr(self.numbers, part)
        names = [self.names[column] for column in categories]
        return names + [self.features.numbers[column] for column in numbers]

    def _raw(self, names: Sequence[str]) -> dict[str, Kinds]:
        """What is sent for these columns: not what the server knows, and a number for its level."""
        levels = {f"{bucket.column}_level": bucket.column for bucket in self.config.buckets}
        known = {"user_id", *TIME_COLUMNS, *(one.name for one in self.config.profiles)}
        raw = [levels.get(name, name) for name in names]
        kinds: dict[str, Kinds] = dict.fromkeys(levels.values(), (int, float, bool))
        kinds |= dict.fromkeys(self.features.numbers, (int, float))
        return {
            name: kinds.get(name, (str, int, float, bool))
            for name in raw
            if name not in known and not name.startswith(("user_", "poi_", "pair_"))
        }

    def text(self, number: int) -> str:
        """The text of a number."""
        stored = len(self.told)
        return str(self.told[number] if number < stored else self.told_since[number - stored])

    def place_inputs(self) -> tuple[Ints, Floats, Ints]:
        """Categories, numbers and texts of all places, the unknown one first."""
        unknown = pl.DataFrame({"poi_id": [None]}, schema_overrides={"poi_id": pl.String})
        places = pl.concat([unknown, self.known.places], how="diagonal_relaxed")
        categories_PF, numbers_PM, told = self.described(places)
        return categories_PF, numbers_PM, self.numbered(told, len(places))

    def numbered(self, told: Mapping[str, pl.Series], rows: int) -> Ints:
        """The numbers of the texts of so many places, [P, S]; -1 where there is none."""
        texts = [_looked_up(texts, self.texts[name]) for name, texts in told.items()]
        return np.stack(texts, axis=1) if texts else np.zeros((rows, 0), np.int32)

    def described(self, places: pl.DataFrame) -> tuple[Ints, Floats, dict[str, pl.Series]]:
        """Categories, numbers and, by keyword, the texts of places; no past where it is null."""
        never = [f"poi_{name}" for name in NEVER_SEEN]
        rows = pl.concat([self.known.places.head(0), places], how="diagonal_relaxed")
        rows = rows.with_columns(pl.col(never).fill_null(0.0))
        frame = replace(self.known, places=rows).described_places()
        names = [self.names[column] for column in self.categories.place]
        scaled = [self.features.numbers[column] for column in self.numbers.place]
        own = FeatureEncoder(
            {name: self.encoder.vocabularies[name] for name in names},
            {name: self.encoder.scales[name] for name in scaled},
            0,
        )
        texts = {
            name: render(frame, self.keywords[name])
            for name in self.features.scene_keywords
            if self.keywords[name].owner == "poi"
        }
        return own.categories(frame), own.numbers(frame), texts

    def request(self, row: Row) -> RequestInputs:
        """The inputs of one request: `user_id`, `time` and the columns of its scene."""
        user = self.user_rows.get(row["user_id"])
        values = {} if user is None else self.known.users.row(user, named=True)
        for name in (f"user_{name}" for name in NEVER_SEEN):
            values[name] = values.get(name) or 0.0
        values.update(row, **time_columns(row["time"]))
        for bucket in self.config.buckets:
            if bucket.column in values:
                edges = self.known.edges[bucket.column]
                values[f"{bucket.column}_level"] = level_one(values[bucket.column], bucket, edges)
        for within, name, table in self.situations:
            values[name] = table.get((row["user_id"], values.get(within)))
        texts, missing = self._texts(values)
        categories_F = [self._category(column, values) for column in self.categories.request]
        names = [self.names[column] for column in self.categories.request]
        unknown = [
            name
            for name, index in zip(names, categories_F, strict=True)
            if index == 0 and values.get(name) is not None and not name.startswith("user_")
        ]
        return RequestInputs(
            np.array(categories_F, np.int32),
            np.array([self._number(column, values) for column in self.numbers.request], np.float32),
            texts,
            self._recent(row["user_id"]),
            user is not None,
            missing,
            unknown,
        )

    def _category(self, column: int, values: Row) -> int:
        name = self.names[column]
        return _index(values.get(name), self.vocabularies[name])

    def _number(self, column: int, values: Row) -> float:
        name = self.features.numbers[column]
        value = values.get(name)
        if value is None:
            return 0.0
        mean, deviation = self.encoder.scales[name]
        scaled = (float(value) - mean) / deviation
        return min(max(scaled, -CLIP_DEVIATIONS), CLIP_DEVIATIONS) if isfinite(scaled) else 0.0

    def _texts(self, values: Row) -> tuple[Ints, list[str]]:
        numbers, missing = [], []
        for name in self.features.scene_keywords:
            if self.keywords[name].owner != "poi":
                text = render_one(values, self.templates[name])
                number = MISSING if text is None else self.texts[name].get(text, MISSING)
                missing += [name] if text is not None and number == MISSING else []
                numbers.append(number)
        return np.array(numbers, np.int32), missing

    def _recent(self, user_id: str) -> Ints:
        places = self.recent.get(user_id) or []
        row_L = np.zeros(self.features.recent, np.int32)
        for at, place in enumerate(places[: self.features.recent]):
            row_L[at] = self.vocabularies["poi_id"].get(place, 0)
        return row_L

    def candidates(self, user_id: str, columns: Mapping[str, Sequence[Any]]) -> CandidateInputs:
        """The inputs of the candidates: `poi_id` and the columns that differ between them."""
        places, bought = columns["poi_id"], self.pairs.get(user_id, {})
        nothing: Sequence[Any] = [None] * len(places)

        def told(name: str) -> Sequence[Any]:
            if name in PAIR_FIGURES:
                at = PAIR_FIGURES.index(name)
                return [bought.get(place, NO_PAIR)[at] for place in places]
            return columns.get(name, [FIRST] * len(places) if name == POSITION else nothing)

        categories_FK = [self._indices(column, told) for column in self.categories.candidate]
        unknown = [
            name
            for column, index_K in zip(self.categories.candidate, categories_FK, strict=True)
            if not index_K.all() and (name := self.names[column]) in columns
            if any(columns[name][at] is not None for at in np.flatnonzero(index_K == 0).tolist())
        ]
        numbers_MK = [self._scaled(column, told) for column in self.numbers.candidate]
        return CandidateInputs(
            np.array([self.place_rows.get(place, 0) for place in places], np.int64),
            np.array(categories_FK, np.int32).reshape(-1, len(places)).T,
            np.array(numbers_MK, np.float32).reshape(-1, len(places)).T,
            unknown,
        )

    def _indices(self, column: int, told: Callable[[str], Sequence[Any]]) -> npt.NDArray[Any]:
        """A category of all candidates."""
        name = self.names[column]
        if name not in self.levels:
            values, numbers = told(name), self.vocabularies[name]
            return np.array([_index(value, numbers) for value in values])
        raw, edges_E, index_L = self.levels[name]
        value_K = np.array(told(raw), np.float64)
        level_K = (value_K[:, None] > edges_E).sum(axis=1)
        return np.where(np.isnan(value_K), 0, index_L[level_K])

    def _scaled(self, column: int, told: Callable[[str], Sequence[Any]]) -> npt.NDArray[Any]:
        """A number of all candidates."""
        name = self.features.numbers[column]
        mean, deviation = self.encoder.scales[name]
        scaled_K = (np.array(told(name), np.float64) - mean) / deviation
        clipped_K = scaled_K.clip(-CLIP_DEVIATIONS, CLIP_DEVIATIONS)
        return np.where(np.isfinite(scaled_K), clipped_K, 0.0)


def _index(value: Any, numbers: dict[str, int]) -> int:
    """The index of a category's value."""
    return 0 if value is None else numbers.get(as_text(value), 0)


def _looked_up(texts: pl.Series, numbers: dict[str, int]) -> Ints:
    return np.array(
        [MISSING if text is None else numbers.get(text, MISSING) for text in texts], np.int32
    )


def _numbered(ids: pl.Series, start: int) -> dict[str, int]:
    return dict(zip(ids, range(start, start + len(ids)), strict=True))


def _by_key(table: pl.DataFrame) -> dict[tuple[Any, ...], str]:
    return {row[:-1]: row[-1] for row in table.iter_rows()}


def _by_user(pairs: pl.DataFrame) -> dict[str, dict[str, tuple[float, float]]]:
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for user, place, *figures in pairs.select(*PAIR, *PAIR_FIGURES).iter_rows():
        found.setdefault(user, {})[place] = tuple(figures)
    return found
