"""Cross statistics: counts of two values together on earlier days, such as a user and a category.

All figures but `log_clicks` compare the observed count with the count expected if the two values
were independent. All are 0 for pairs that were never observed.

Shapes: N rows, V and W values per row of the two columns (a column of places can hold several), P
pairs of values, S sums, G figures, R rows of a table of users or places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from larr.config import Config
from larr.config.data import StatisticConfig
from larr.data.counts import TAKEN, daily_counts
from larr.data.names import (
    INTERNAL,
    PLACE,
    ROWS,
    USER,
    figures_differ,
    is_multivalued,
    raw_column,
)
from larr.data.statistics import SUM_DIGITS, Sums, smoothed_rate
from larr.data.transforms import (
    Array,
    Levels,
    Vocabulary,
    as_texts,
    split_values,
    text_column,
    with_levels,
)

TABLES = ("pairs", "firsts", "seconds")
KEY = ["first", "second"]
COUNT = f"{INTERNAL}count"
COUNTED = ("day", "split", "click", "order", COUNT, *ROWS.values())
"""Columns of the impressions that are needed for counting."""
EVENTS = {"ctr": "clicks", "cvr": "logged_orders"}
"""Figure -> the event that it counts."""
PRIOR = 10.0
"""Added to the observed and the expected count; 3 is worse on the city, see docs/log.md."""


@dataclass(frozen=True)
class Cross:
    """The counts of a pair of columns at the start of a day."""

    pair: StatisticConfig
    differs: bool
    """Whether the figures differ between the candidates of a request."""
    pairs: pl.DataFrame
    """`first`, `second` (values of the columns), `taken`, and the observed and expected number of
    events for each figure of `EVENTS`."""
    firsts: pl.DataFrame
    """`first` and `taken`, for all values."""
    seconds: pl.DataFrame
    """`second` and `taken`, for all values."""

    @cached_property
    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """The values of each column, in the order of `firsts` and `seconds`."""
        return Vocabulary(self.firsts["first"]), Vocabulary(self.seconds["second"])

    @cached_property
    def _lookup(self) -> tuple[Array, Array, list[Array]]:
        """Sorted keys of the pairs, int64 [P + 1]; their sums, [P + 1, S]; `taken` of both sides.

        The last key is larger than any other, and has the sums of unobserved pairs. Row 0 of
        `taken` is for unknown values.
        """
        first, second = self.vocabularies
        first_P, second_P = first.column(self.pairs["first"]), second.column(self.pairs["second"])
        key_P = pair_keys(first_P, second_P, second)
        order_P = np.argsort(key_P)
        sums_PS = self.pairs.drop(KEY).to_numpy()[order_P]
        sums_PS = np.append(sums_PS, np.zeros((1, sums_PS.shape[1])), axis=0)
        taken = [np.insert(t[TAKEN].to_numpy(), 0, 0.0) for t in (self.firsts, self.seconds)]
        return np.append(key_P[order_P], np.iinfo(np.int64).max), sums_PS, taken

    def figures(self, first_NV: Array, second_NW: Array) -> Array:
        """Returns the figures for indices of values (0 for no value), float64 [N, G].

        The counts of a row with several values are summed.
        """
        keys_P, sums_PS, (taken_first, taken_second) = self._lookup
        key_NX = pair_keys(first_NV[:, :, None], second_NW[:, None], self.vocabularies[1])
        key_NX = key_NX.reshape(len(first_NV), -1)
        row_NX = np.searchsorted(keys_P, key_NX)
        row_NX[keys_P[row_NX] != key_NX] = len(keys_P) - 1
        sum_of = dict(zip(self.pairs.columns[2:], sums_PS[row_NX].sum(axis=1).T, strict=True))
        expected_N = taken_first[first_NV].sum(axis=1) * taken_second[second_NW].sum(axis=1)
        expected_N /= max(taken_first.sum(), 1.0)
        figures = {
            "log_clicks": np.log1p(sum_of[TAKEN]),
            "share": _log_ratio(sum_of[TAKEN], expected_N),
        }
        for name, event in EVENTS.items():
            if event in sum_of:
                figures[name] = _log_ratio(sum_of[event], sum_of[f"expected_{event}"])
        return np.stack([figures[name] for name in self.pair.figures], axis=1)

    def enrich(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Adds the figures to rows with both columns."""
        sides = zip(self.pair.columns, self.vocabularies, strict=True)
        figure_NG = self.figures(*(indices(rows, name, words) for name, words in sides))
        return rows.with_columns(map(pl.Series, self.pair.figure_names, figure_NG.T))

    def of_values(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Returns the figures of one row with single values."""
        sides = zip(self.pair.columns, self.vocabularies, strict=True)
        index = [np.array([[words.value(values.get(name))]]) for name, words in sides]
        return dict(zip(self.pair.figure_names, self.figures(*index)[0].tolist(), strict=True))

    def save(self, folder: Path) -> None:
        """Writes the tables, for serving."""
        folder.mkdir()
        for name in TABLES:
            getattr(self, name).write_parquet(folder / f"{name}.parquet")

    @classmethod
    def load(cls, config: Config, pair: StatisticConfig, folder: Path) -> Self:
        paths = (folder / f"{name}.parquet" for name in TABLES)
        return cls(pair, figures_differ(config, pair), *(pl.read_parquet(path) for path in paths))


def _log_ratio(counted_N: Array, expected_N: Array) -> Array:
    """Returns the smoothed log ratio of observed and expected counts."""
    return np.log((counted_N + PRIOR) / (expected_N + PRIOR))


def indices(rows: pl.DataFrame, column: str, vocabulary: Vocabulary) -> Array:
    """Returns the indices of a column's values, int32 [N, V]; 0 for unknown values and padding."""
    texts = as_texts(rows[column])
    if not is_multivalued(column):
        return vocabulary.column(texts)[:, None]
    distinct = texts.drop_nulls().unique()  # few texts are distinct
    values = split_values(distinct)
    longest = max(values.list.len(), default=1)
    index_DV = vocabulary.padded_column(values, longest)
    return np.insert(index_DV, 0, 0, axis=0)[Vocabulary(distinct).column(texts)]


def pair_keys(first: Array, second: Array, seconds: Vocabulary) -> Array:
    """Returns a number for each pair of indices, int64; `seconds` has the second values."""
    return first.astype(np.int64) * (len(seconds.texts) + 1) + second


@dataclass(frozen=True)
class Values:
    """The values of a column of users or places, by row of their table."""

    row: str
    """The column of row numbers, see `ROWS`."""
    words: Vocabulary
    index_RV: Array
    """The indices of each row's values, padded with 0."""

    @classmethod
    def of(cls, table: pl.DataFrame, column: str) -> Self:
        """Reads a column of the table of users or places."""
        row = USER if "user_id" in table.columns else PLACE
        if column in ROWS:
            return cls(row, Vocabulary(table[column]), np.arange(1, len(table) + 1)[:, None])
        words = Vocabulary(pair_values(table.lazy(), [column]).collect()["first"].unique().sort())
        return cls(row, words, indices(table, column, words))

    @cached_property
    def numbers(self) -> pl.DataFrame:
        """The row number and the index of each value of each row."""
        row_N, value_N = np.nonzero(self.index_RV)
        index_N = self.index_RV[row_N, value_N]
        return pl.DataFrame({self.row: (row_N + 1).astype(np.uint32), "index": index_N})


def pair_counts(
    rows: pl.LazyFrame,
    counts: Mapping[str, pl.Expr],
    config: Config,
    pair: StatisticConfig,
    owned: Mapping[str, Values],
    levels: Sequence[Levels],
) -> pl.DataFrame:
    """Returns `KEY`, `day` and the counts of the pair; empty if `rows` lack a column.

    `owned` holds the columns of users and places, whose values are counted by index.
    """
    names = {*pair.columns} - {*owned}
    names |= {raw_column(config, name) for name in names} | {*COUNTED}
    rows = rows.select(name for name in rows.collect_schema() if name in names)
    table = with_levels(rows.collect(), levels)
    if not {*pair.columns} <= {*table.columns, *owned}:
        return pl.DataFrame()
    return daily_counts(pair_values(table.lazy(), pair.columns, owned), counts, [*map(pl.col, KEY)])


def count_names(pair: StatisticConfig) -> list[str]:
    """Returns the counts from which the figures of a pair are computed."""
    events = [EVENTS[name] for name in pair.figures if name in EVENTS]
    return [TAKEN, *(["impressions", *events] if events else [])]


class DailyCross:
    """The sums of a pair of columns as of any day of the log.

    `log_clicks` is looked up for rows of all days at once. The other figures also need totals over
    all values, and so the `Cross` of each day.
    """

    def __init__(
        self,
        config: Config,
        pair: StatisticConfig,
        owned: Mapping[str, Values],
        daily: pl.DataFrame,
    ) -> None:
        """`daily` has the counts of `pair_counts`, which are added up."""
        self.pair, self.differs = pair, figures_differ(config, pair)
        self.owned = {name: owned[name] for name in pair.columns if name in owned}
        self.vocabularies: list[Vocabulary] = []
        for side, column in zip(KEY, pair.columns, strict=True):
            if column in owned:
                self.vocabularies.append(owned[column].words)
            else:
                words = Vocabulary(daily[side].unique().sort())
                self.vocabularies.append(words)
                daily = daily.with_columns(pl.Series(side, words.column(daily[side])))
        keys = {side: daily[side] for side in KEY if pair.figures != ["log_clicks"]}
        first_N, second_N = (daily[side].to_numpy() for side in KEY)
        keys["pairs"] = pl.Series(pair_keys(first_N, second_N, self.vocabularies[1]))
        daily = daily.drop(KEY)
        self.sums = {
            name: Sums(daily.with_columns(key=key), config.features.half_life_days)
            for name, key in keys.items()
        }
        self.latest: dict[int, Cross] = {}
        """The counts of the latest day, which consecutive chunks often share."""

    def enrich(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Adds the figures to rows with both columns."""
        if self.pair.figures == ["log_clicks"]:
            sides = zip(self.pair.columns, self.vocabularies, strict=True)
            first_NV, second_NW = (self._indices(rows, *side) for side in sides)
            pair_NX = pair_keys(first_NV[:, :, None], second_NW[:, None], self.vocabularies[1])
            pair_NX = pair_NX.reshape(rows.height, -1)
            day_NX = np.repeat(rows["day"].to_physical().to_numpy(), pair_NX.shape[1])
            taken = self.sums["pairs"].as_of(pair_NX.ravel(), day_NX)[TAKEN].fill_null(0.0)
            taken_N = taken.to_numpy().reshape(pair_NX.shape).sum(axis=1)
            return rows.with_columns(pl.Series(self.pair.figure_names[0], np.log1p(taken_N)))
        parts = []
        day_N = pl.col("day").to_physical()
        for (day,), part in rows.with_row_index(COUNT).group_by(day_N, maintain_order=True):
            if day not in self.latest:
                self.latest.clear()
                self.latest[day] = self.snapshot(day)
            parts.append(self.latest[day].enrich(part))
        return pl.concat(parts).sort(COUNT).drop(COUNT) if parts else self.snapshot(0).enrich(rows)

    def _indices(self, rows: pl.DataFrame, column: str, words: Vocabulary) -> Array:
        """Returns the indices of a column's values, [N, V]."""
        if column in self.owned:
            values = self.owned[column]
            found: Array = values.index_RV[rows[values.row].to_numpy() - 1]
            return found
        return indices(rows, column, words)

    def snapshot(self, day: int) -> Cross:
        """Returns the counts at the start of a day, counted from 1970."""
        sums = self.sums["pairs"].of_day(day)
        index = np.divmod(sums["key"].to_numpy(), len(self.vocabularies[1].texts) + 1)
        columns = zip(self.vocabularies, index, KEY, strict=True)
        values = [words.texts[index_P - 1].alias(side) for words, index_P, side in columns]
        pairs = sums.select(*values, pl.exclude("key"))
        tables = []
        for words, side in zip(self.vocabularies, KEY, strict=True):
            if side in self.sums:
                table = self.sums[side].of_day(day)
                table = table.with_columns(words.texts[table["key"] - 1].alias(side)).drop("key")
            else:  # `log_clicks` needs no totals; the table only lists the values
                table = pairs.group_by(side).agg(pl.col(TAKEN).sum().round_sig_figs(SUM_DIGITS))
            tables.append(table.select(side, *pairs.columns[2:]).sort(side))
        firsts, seconds = tables
        counts = [TAKEN]
        for event in count_names(self.pair)[2:]:
            pairs = _with_expected(pairs, firsts, seconds, event)
            counts += [event, f"expected_{event}"]
        sides = (table.select(table.columns[0], TAKEN) for table in tables)
        return Cross(self.pair, self.differs, pairs.select(*KEY, *counts), *sides)


def _with_expected(
    pairs: pl.DataFrame, firsts: pl.DataFrame, seconds: pl.DataFrame, event: str
) -> pl.DataFrame:
    """Adds the expected number of clicks or orders if both values were independent.

    The rate of each value is smoothed towards the overall rate.
    """
    count, seen = (float(firsts[name].sum()) for name in (event, "impressions"))
    overall = count / seen if seen else 0.0
    for side, table in zip(KEY, (firsts, seconds), strict=True):
        rates = table.select(side, smoothed_rate(event, overall).alias(f"{side}_rate"))
        pairs = pairs.join(rates, on=side, how="left", maintain_order="left")
    rate = pl.col("first_rate") * pl.col("second_rate") / (overall or 1.0)
    expected = pl.col("impressions") * rate.clip(upper_bound=1.0)
    return pairs.with_columns(expected.alias(f"expected_{event}")).drop("^.*_rate$")


def pair_values(
    rows: pl.LazyFrame, columns: Sequence[str], owned: Mapping[str, Values] | None = None
) -> pl.LazyFrame:
    """Returns one row per pair of values of each row, without missing values.

    Users and places are row numbers, the values of `owned` columns indices, others texts.
    """
    schema, sides, owned = rows.collect_schema(), dict(zip(KEY, columns, strict=False)), owned or {}
    values = {
        side: pl.col(ROWS[column]) if column in ROWS else text_column(column, schema[column])
        for side, column in sides.items()
        if column in ROWS or column not in owned
    }
    rows = rows.select(*(name for name in COUNTED if name in schema), **values)
    for side, column in sides.items():
        if column in owned and column not in ROWS:
            numbers = owned[column].numbers.lazy().rename({"index": side})
            rows = rows.join(numbers, on=owned[column].row)
        elif column not in ROWS:
            if is_multivalued(column):
                rows = rows.with_columns(split_values(pl.col(side))).explode(side)
            rows = rows.filter(pl.col(side) != "")
    return rows
