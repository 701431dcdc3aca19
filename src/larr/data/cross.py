"""Cross statistics: what earlier days show of two values together, such as a user and a category.

All figures but the first compare what was counted with what each of the values alone lets expect.
All are 0 for values that were never seen together.

Shapes: N rows, V and W values of a row's columns (a text of a place may hold several), P pairs of
values, S of their sums, G figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from larr.config import Config
from larr.config.data import StatisticConfig
from larr.data.log import Log, some_requests
from larr.data.names import (
    INTERNAL,
    PLACE,
    ROWS,
    USER,
    figure_names,
    figures_differ,
    is_listed,
    raw_column,
)
from larr.data.statistics import SMOOTHING_IMPRESSIONS, SUM_DIGITS, Sums, daily_counts
from larr.data.transforms import Array, Vocabulary, text_column

TABLES = ("pairs", "firsts", "seconds")
KEY = ["first", "second"]
COUNT = f"{INTERNAL}count"
COUNTED = ("day", "split", "click", "order", COUNT)
"""Columns of the impressions by which values are counted."""
EVENTS = {"ctr": "clicks", "cvr": "logged_orders"}
"""What a figure counts of the impressions."""
MOST_PAIRS, FEW_VALUES, LEAST_RECURRING, LEAST_DIFFERING = 8, 12, 0.2, 0.2
"""Of the pairs chosen by default: how many there are, the most values of a column of the scene, the
least share of a column's values that occurred on an earlier day, and the least share of the
requests in which a column of places has several values."""
POSITION = "position"
PRIOR = 10.0
"""Added to a count and to what is expected of it; 3 is worse on the city, see docs/log.md."""


@dataclass(frozen=True)
class Cross:
    """What is known of a pair of columns at the start of a day."""

    pair: StatisticConfig
    differs: bool
    """Whether its figures differ between the candidates of a request."""
    pairs: pl.DataFrame
    """first, second (values of the columns), `taken`, and for each figure of `EVENTS` the number of
    its events and the expected one."""
    firsts: pl.DataFrame
    """first and `taken`, of all values."""
    seconds: pl.DataFrame
    """second and `taken`, of all values."""

    @property
    def names(self) -> list[str]:
        """The names of its figures."""
        return figure_names(self.pair)

    @cached_property
    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """The values of each column, in the order of `firsts` and `seconds`."""
        return Vocabulary(self.firsts["first"]), Vocabulary(self.seconds["second"])

    @cached_property
    def _lookup(self) -> tuple[Array, Array, list[Array]]:
        """The keys of the pairs, rising, int64 [P + 1]; their sums, [P + 1, S]; `taken` by side.

        The last key is larger than any, and has the sums of values that were never seen together.
        Row 0 of `taken` is that of values that never were.
        """
        first, second = self.vocabularies
        first_P, second_P = first.column(self.pairs["first"]), second.column(self.pairs["second"])
        key_P = pair_keys(first_P, second_P, second)
        order_P = np.argsort(key_P)
        sums_PS = self.pairs.drop(KEY).to_numpy()[order_P]
        sums_PS = np.append(sums_PS, np.zeros((1, sums_PS.shape[1])), axis=0)
        taken = [np.insert(t["taken"].to_numpy(), 0, 0.0) for t in (self.firsts, self.seconds)]
        return np.append(key_P[order_P], np.iinfo(np.int64).max), sums_PS, taken

    def figures(self, first_NV: Array, second_NW: Array) -> Array:
        """Returns the figures of values given by their indices (0 is none), float64 [N, G].

        Where a row has several values their counts are added up.
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
            "log_clicks": np.log1p(sum_of["taken"]),
            "share": _log_ratio(sum_of["taken"], expected_N),
        }
        for name, event in EVENTS.items():
            if event in sum_of:
                figures[name] = _log_ratio(sum_of[event], sum_of[f"expected_{event}"])
        return np.stack([figures[name] for name in self.pair.figures], axis=1)

    def enrich(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Adds the figures to rows that have both columns."""
        sides = zip(self.pair.columns, self.vocabularies, strict=True)
        figure_NG = self.figures(*(indices(rows, name, words) for name, words in sides))
        return rows.with_columns(map(pl.Series, self.names, figure_NG.T))

    def of_values(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Returns the figures of one row, whose columns hold single values."""
        sides = zip(self.pair.columns, self.vocabularies, strict=True)
        index = [np.array([[words.value(values.get(name))]]) for name, words in sides]
        return dict(zip(self.names, self.figures(*index)[0].tolist(), strict=True))

    def save(self, folder: Path) -> None:
        """Writes the tables, for serving."""
        folder.mkdir()
        for name in TABLES:
            getattr(self, name).write_parquet(folder / f"{name}.parquet")

    @classmethod
    def load(cls, config: Config, pair: StatisticConfig, folder: Path) -> Self:
        """Returns what `save` wrote."""
        paths = (folder / f"{name}.parquet" for name in TABLES)
        return cls(pair, figures_differ(config, pair), *(pl.read_parquet(path) for path in paths))


def _log_ratio(counted_N: Array, expected_N: Array) -> Array:
    """Returns the smoothed logarithm of what was counted over what was expected."""
    ratio_N: Array = np.log((counted_N + PRIOR) / (expected_N + PRIOR))
    return ratio_N


def indices(rows: pl.DataFrame, column: str, vocabulary: Vocabulary) -> Array:
    """Returns the indices of a column's values, int32 [N, V]; 0 for none and for padding."""
    texts = rows.select(text_column(column, rows.schema[column])).to_series()
    if not is_listed(column):
        return vocabulary.column(texts)[:, None]
    distinct = texts.drop_nulls().unique()  # rows share few texts
    values = distinct.str.split(",").list.eval(pl.element().str.strip_chars())
    longest = max(values.list.len(), default=1)
    index_DV = vocabulary.padded_column(values, longest)
    return np.insert(index_DV, 0, 0, axis=0)[Vocabulary(distinct).column(texts)]


def pair_keys(first: Array, second: Array, seconds: Vocabulary) -> Array:
    """Returns a number for each pair of indices, int64; the second ones are of a vocabulary."""
    return first.astype(np.int64) * (len(seconds.texts) + 1) + second


class DailyCross:
    """The sums of a pair of columns as of any day of the log.

    Training rows of all days look up `log_clicks` here at once; the other figures also need the
    totals of all values on a day, and so the `Cross` of each day.
    """

    def __init__(
        self,
        config: Config,
        log: Log,
        pair: StatisticConfig,
        rows: pl.LazyFrame,
        history: pl.LazyFrame,
    ) -> None:
        """`rows` have both columns, `history` may lack them."""
        self.pair, self.differs = pair, figures_differ(config, pair)
        self.events = [EVENTS[name] for name in pair.figures if name in EVENTS]
        if not {*pair.columns} <= {*history.collect_schema()}:
            history = rows.clear()
        if not self.events:  # impressions are not counted, and few of them are clicks
            rows = rows.filter(pl.col("click"))
        rows, history = (_values(table, pair.columns) for table in (rows, history))
        daily = daily_counts(rows, history, KEY, config.dataset.sampling_rate)
        # Orders from before the log were taken, too, but not among its impressions.
        taken = pl.col("clicks") + pl.col("orders") - pl.col("logged_orders")
        daily = daily.with_columns(taken=taken)
        self.vocabularies: list[Vocabulary] = []
        self.tables: dict[str, tuple[str, Array]] = {}
        """For a column of users or places: the column with their rows, and each row's indices."""
        for side, column in zip(KEY, pair.columns, strict=True):
            if column in ROWS:
                table = log.users if column == "user_id" else log.places
                self.vocabularies.append(Vocabulary(table[column]))
                continue
            words = Vocabulary(daily[side].unique().sort())
            self.vocabularies.append(words)
            daily = daily.with_columns(pl.Series(side, words.column(daily[side])))
            for key, table in (("user_id", log.users), ("poi_id", log.places)):
                if column in table.columns:
                    self.tables[column] = (ROWS[key], indices(table, column, words))
        keys = {side: daily[side] for side in KEY if pair.figures != ["log_clicks"]}
        first_N, second_N = (daily[side].to_numpy() for side in KEY)
        keys["pairs"] = pl.Series(pair_keys(first_N, second_N, self.vocabularies[1]))
        counts = ["taken", *(["impressions", *self.events] if self.events else [])]
        self.sums = {
            name: Sums(
                daily.with_columns(key=key).group_by("day", "key").agg(pl.col(counts).sum()),
                config.features.half_life_days,
            )
            for name, key in keys.items()
        }
        self.latest: dict[date, Cross] = {}
        """What is known on the latest day: many chunks of a log have the same one."""

    def enrich(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Adds the figures to rows that have both columns."""
        if self.pair.figures == ["log_clicks"]:
            sides = zip(self.pair.columns, self.vocabularies, strict=True)
            first_NV, second_NW = (self._indices(rows, *side) for side in sides)
            pair_NX = pair_keys(first_NV[:, :, None], second_NW[:, None], self.vocabularies[1])
            pair_NX = pair_NX.reshape(rows.height, -1)
            day_NX = np.repeat(rows["day"].to_physical().to_numpy(), pair_NX.shape[1])
            taken = self.sums["pairs"].as_of(pair_NX.ravel(), day_NX)["taken"].fill_null(0.0)
            taken_N = taken.to_numpy().reshape(pair_NX.shape).sum(axis=1)
            return rows.with_columns(pl.Series(figure_names(self.pair)[0], np.log1p(taken_N)))
        parts = []
        for (day,), part in rows.with_row_index(COUNT).group_by("day", maintain_order=True):
            if day not in self.latest:
                self.latest.clear()
                self.latest[day] = self.known((day - date(1970, 1, 1)).days)
            parts.append(self.latest[day].enrich(part))
        return pl.concat(parts).sort(COUNT).drop(COUNT) if parts else self.known(0).enrich(rows)

    def _indices(self, rows: pl.DataFrame, column: str, words: Vocabulary) -> Array:
        """Returns the indices of the values of a column in each row, [N, V]."""
        if column in ROWS:
            return rows[ROWS[column]].to_numpy()[:, None]
        if column in self.tables:
            row, index_RV = self.tables[column]
            index_NV: Array = index_RV[rows[row].to_numpy() - 1]
            return index_NV
        return indices(rows, column, words)

    def known(self, day: int) -> Cross:
        """Returns what is known at the start of a day, which counts from 1970."""
        sums = self.sums["pairs"].of_day(day)
        index = np.divmod(sums["key"].to_numpy(), len(self.vocabularies[1].texts) + 1)
        pairs = sums.drop("key").with_columns(
            words.texts[index_P - 1].alias(side)
            for words, index_P, side in zip(self.vocabularies, index, KEY, strict=True)
        )
        pairs = pairs.select(*KEY, *sums.columns[1:]).sort(KEY)
        tables = []
        for words, side in zip(self.vocabularies, KEY, strict=True):
            if side in self.sums:
                table = self.sums[side].of_day(day)
                table = table.with_columns(words.texts[table["key"] - 1].alias(side)).drop("key")
            else:  # for `log_clicks` no figure reads them; the table lists the values
                table = pairs.group_by(side).agg(pl.col("taken").sum().round_sig_figs(SUM_DIGITS))
            tables.append(table.select(side, *pairs.columns[2:]).sort(side))
        firsts, seconds = tables
        counts = ["taken"]
        for event in self.events:
            pairs = _with_expected(pairs, firsts, seconds, event)
            counts += [event, f"expected_{event}"]
        sides = (table.select(table.columns[0], "taken") for table in tables)
        return Cross(self.pair, self.differs, pairs.select(*KEY, *counts), *sides)


def _with_expected(
    pairs: pl.DataFrame, firsts: pl.DataFrame, seconds: pl.DataFrame, event: str
) -> pl.DataFrame:
    """Adds how many clicks or orders of the impressions both values let expect.

    Each value's rate is smoothed towards the rate of all.
    """
    count, seen = (float(firsts[name].sum()) for name in (event, "impressions"))
    overall = count / seen if seen else 0.0
    smoothed = (pl.col(event) + SMOOTHING_IMPRESSIONS * overall) / (
        pl.col("impressions") + SMOOTHING_IMPRESSIONS
    )
    for side, table in zip(KEY, (firsts, seconds), strict=True):
        rates = table.select(side, smoothed.alias(f"{side}_rate"))
        pairs = pairs.join(rates, on=side, how="left", maintain_order="left")
    rate = pl.col("first_rate") * pl.col("second_rate") / (overall or 1.0)
    expected = pl.col("impressions") * rate.clip(upper_bound=1.0)
    return pairs.with_columns(expected.alias(f"expected_{event}")).drop("^.*_rate$")


def _values(rows: pl.LazyFrame, columns: Sequence[str]) -> pl.LazyFrame:
    """Returns a row for each pair of values of each row; rows that miss one are left out."""
    schema, sides = rows.collect_schema(), dict(zip(KEY, columns, strict=False))
    values = {
        side: pl.col(ROWS[column]) if column in ROWS else text_column(column, schema[column])
        for side, column in sides.items()
    }
    rows = rows.select(*(name for name in COUNTED if name in schema), **values)
    for side, column in sides.items():
        if is_listed(column):
            rows = rows.with_columns(pl.col(side).str.split(",")).explode(side)
            rows = rows.with_columns(pl.col(side).str.strip_chars())
        if column not in ROWS:
            rows = rows.filter(pl.col(side) != "")
    return rows


def with_pairs(config: Config, log: Log) -> Config:
    """Returns the configuration with pairs for cross statistics, chosen if none are configured.

    Users with each column of places that is a feature or in a profile, then users and places with
    each category of the scene that has few values; without columns whose values hardly ever occur
    on a second day, and columns of places that hardly ever differ between candidates.
    """
    if config.statistics is not None:
        return config
    categories, rows = config.features.categories, log.counted()
    raw = {name: raw_column(config, name) for name in categories}
    places = [name for name in categories if is_listed(name) and raw[name] in log.places.columns]
    places += [profile.poi_column for profile in config.profiles if profile.within is None]
    words = {f"{bucket.column}_level": len(bucket.words) for bucket in config.buckets}
    logged, scene = rows.collect_schema(), list[str]()
    for name in categories:
        if raw[name] in logged and name not in ("user_id", "poi_id", POSITION):
            # Unlike n_unique, unique does not hold the column in memory.
            distinct = rows.select(raw[name]).unique().select(pl.len())
            if (words.get(name) or distinct.collect(engine="streaming").item()) <= FEW_VALUES:
                scene.append(name)
    pairs = [("user_id", name) for name in dict.fromkeys(places)]
    pairs += [(key, name) for key in ("poi_id", "user_id") for name in scene]
    names = list(dict.fromkeys(["user_id", "poi_id", *places, *scene]))
    table = log.places.lazy().with_row_index(PLACE, offset=1)
    compared = [name for name in names if name not in ("user_id", *scene)]
    differing = _differing(
        some_requests(rows).join(table, on=PLACE, how="left"),
        {name: raw.get(name, name) for name in compared},
    )
    telling = dict.fromkeys(scene, True)
    for row, columns in ((USER, ["user_id"]), (PLACE, compared)):
        daily = (
            rows.group_by(row, "day").agg(pl.len().alias(COUNT)).collect(engine="streaming").lazy()
        )
        daily = daily.join(table, on=row, how="left") if row == PLACE else daily
        for name in columns:
            recurs = name in words or _recurring(daily, name) >= LEAST_RECURRING
            telling[name] = recurs and differing.get(name, 1.0) >= LEAST_DIFFERING
    chosen = [StatisticConfig(columns=pair) for pair in pairs if all(telling[n] for n in pair)]
    return config.model_copy(update={"statistics": chosen[:MOST_PAIRS]})


def _recurring(daily: pl.LazyFrame, column: str) -> float:
    """Returns the share of the values of a column that occurred on an earlier day, too.

    `daily` has the column, `day`, and `COUNT`, the rows that have both.
    """
    values = _values(daily, [column]).group_by("first", "day").agg(pl.col(COUNT).sum())
    is_earlier = pl.col("day") > pl.col("day").min().over("first")
    counts = values.collect(engine="streaming").select(
        again=pl.col(COUNT).filter(is_earlier).sum(), all=pl.col(COUNT).sum()
    )
    again, all_rows = counts.row(0)
    return float(again / max(all_rows, 1))


def _differing(rows: pl.LazyFrame, columns: Mapping[str, str]) -> dict[str, float]:
    """Returns by name the share of the requests with several values of a column.

    It is 1 where all requests have a single candidate.
    """
    differs = [
        (pl.col(column).min() != pl.col(column).max()).alias(name)
        for name, column in columns.items()
    ]
    requests = rows.group_by("request_id").agg(*differs, pl.len().alias(COUNT))
    several = requests.filter(pl.col(COUNT) > 1).select(pl.col(list(columns)).mean())
    shares = several.collect(engine="streaming").row(0, named=True)
    return {name: 1.0 if share is None else float(share) for name, share in shares.items()}
