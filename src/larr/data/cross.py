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
from larr.data.log import Log
from larr.data.names import figure_names, figures_differ, is_listed, raw_column
from larr.data.statistics import SMOOTHING_IMPRESSIONS, as_of, daily_counts
from larr.data.transforms import Array, Vocabulary, text_column

TABLES = ("pairs", "firsts", "seconds")
KEY = ["first", "second"]
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
    def _taken(self) -> list[Array]:
        """How often each value was taken; row 0 stands for values that never were."""
        tables = (self.firsts, self.seconds)
        return [np.insert(table["taken"].to_numpy(), 0, 0.0) for table in tables]

    @cached_property
    def _table(self) -> tuple[Array, Array]:
        """The keys of the pairs, rising, int64 [P + 1], and their sums, [P + 1, S].

        The last row stands for values that were never seen together; no key is as large as its.
        """
        first, second = self.vocabularies
        key_P = self._key(first.column(self.pairs["first"]), second.column(self.pairs["second"]))
        order_P = np.argsort(key_P)
        sums_PS = self.pairs.drop(KEY).to_numpy()[order_P]
        keys = np.append(key_P[order_P], np.iinfo(np.int64).max)
        return keys, np.append(sums_PS, np.zeros((1, sums_PS.shape[1])), axis=0)

    def _key(self, first: Array, second: Array) -> Array:
        return first.astype(np.int64) * (len(self.vocabularies[1].texts) + 1) + second

    def figures(self, first_NV: Array, second_NW: Array) -> Array:
        """Returns the figures of values given by their indices (0 is none), float64 [N, G].

        Where a row has several values their counts are added up.
        """
        keys_P, sums_PS = self._table
        key_NX = self._key(first_NV[:, :, None], second_NW[:, None, :]).reshape(len(first_NV), -1)
        row_NX = np.searchsorted(keys_P, key_NX)
        row_NX[keys_P[row_NX] != key_NX] = len(keys_P) - 1
        sum_of = dict(zip(self.pairs.columns[2:], sums_PS[row_NX].sum(axis=1).T, strict=True))
        taken_first, taken_second = self._taken
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
        return rows.with_columns(
            pl.Series(name, figure_N)
            for name, figure_N in zip(self.names, figure_NG.T, strict=True)
        )

    def of_values(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Returns the figures of one row, whose columns hold single values."""
        sides = zip(self.pair.columns, self.vocabularies, strict=True)
        index = [np.array([[words.value(values.get(name))]]) for name, words in sides]
        return dict(zip(self.names, self.figures(*index)[0].tolist(), strict=True))

    def save(self, folder: Path) -> None:
        """Writes the tables, for serving."""
        for name in TABLES:
            getattr(self, name).write_parquet(folder / f"{self.pair.name}-{name}.parquet")

    @classmethod
    def load(cls, config: Config, pair: StatisticConfig, folder: Path) -> Self:
        """Returns what `save` wrote."""
        paths = (folder / f"{pair.name}-{name}.parquet" for name in TABLES)
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


@dataclass(frozen=True)
class DailyCross:
    """The counts of a pair of columns on each day of the log."""

    pair: StatisticConfig
    differs: bool
    pairs: pl.DataFrame
    """first, second, day and counts, see `daily_counts`."""
    firsts: pl.DataFrame
    seconds: pl.DataFrame

    @classmethod
    def of(
        cls, config: Config, pair: StatisticConfig, rows: pl.LazyFrame, history: pl.LazyFrame
    ) -> Self:
        """Returns the counts of rows that have both columns; `history` may lack them."""
        if not {*pair.columns} <= {*history.collect_schema()}:
            history = rows.clear()
        rows, history = _values(rows, pair.columns), _values(history, pair.columns)
        pairs = daily_counts(rows, history, KEY, config.dataset.sampling_rate)
        sides = (
            pairs.drop(other).group_by(side, "day").sum().sort(side, "day")
            for side, other in (KEY, KEY[::-1])
        )
        return cls(pair, figures_differ(config, pair), pairs, *sides)

    def as_of(self, day: date, half_life_days: float, users: pl.DataFrame) -> Cross:
        """Returns what is known at the start of a day; of columns of users for some users alone."""
        wanted = [
            users.select(text_column(column, users.schema[column]).alias(side)).unique()
            for column, side in zip(self.pair.columns, KEY, strict=True)
            if column in users.columns
        ]
        pairs = as_of(self.pairs, day, KEY, half_life_days, *wanted[:1])
        firsts = as_of(self.firsts, day, KEY[:1], half_life_days)
        seconds = as_of(self.seconds, day, KEY[1:], half_life_days)
        # Orders from before the log were taken, too, but not among its impressions.
        taken, sums = pl.col("clicks") + pl.col("orders") - pl.col("logged_orders"), ["taken"]
        pairs = pairs.with_columns(taken=taken)
        for event in (EVENTS[name] for name in self.pair.figures if name in EVENTS):
            pairs = _with_expected(pairs, firsts, seconds, event)
            sums += [event, f"expected_{event}"]
        pairs = pairs.select(*KEY, *sums)
        sides = (
            table.select(table.columns[0], taken.alias("taken")) for table in (firsts, seconds)
        )
        return Cross(self.pair, self.differs, pairs, *sides)


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
    schema = rows.collect_schema()
    for column, side in zip(columns, KEY, strict=False):
        value = text_column(column, schema[column])
        if is_listed(column):
            rows = rows.with_columns(value.str.split(",").alias(side)).explode(side)
            value = pl.col(side).str.strip_chars()
        rows = rows.with_columns(value.alias(side)).filter(pl.col(side) != "")
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
    scene = [name for name in categories if raw[name] in rows.collect_schema()]
    scene = [name for name in scene if name not in ("user_id", "poi_id", POSITION)]
    distinct = [pl.col(raw[name]).n_unique().alias(name) for name in scene]
    values = rows.select(distinct).collect(engine="streaming").to_dicts()[0] if scene else {}
    words = {f"{bucket.column}_level": len(bucket.words) for bucket in config.buckets}
    scene = [name for name in scene if (values | words)[name] <= FEW_VALUES]
    pairs = [("user_id", name) for name in dict.fromkeys(places)]
    pairs += [(key, name) for key in ("poi_id", "user_id") for name in scene]
    joined = rows.join(log.places.lazy(), on="poi_id", how="left")
    telling = {
        name: name in scene
        or (
            (name in words or _recurring(joined, name) >= LEAST_RECURRING)
            and (name == "user_id" or _differing(joined, raw.get(name, name)) >= LEAST_DIFFERING)
        )
        for name in dict.fromkeys(["user_id", "poi_id", *places, *scene])
    }
    chosen = [StatisticConfig(columns=pair) for pair in pairs if all(telling[n] for n in pair)]
    return config.model_copy(update={"statistics": chosen[:MOST_PAIRS]})


def _recurring(rows: pl.LazyFrame, column: str) -> float:
    """Returns the share of the values of a column that occurred on an earlier day, too."""
    daily = _values(rows, [column]).group_by("first", "day").agg(rows=pl.len())
    is_earlier = pl.col("day") > pl.col("day").min().over("first")
    counts = daily.collect(engine="streaming").select(
        again=pl.col("rows").filter(is_earlier).sum(), all=pl.col("rows").sum()
    )
    again, all_rows = counts.row(0)
    return float(again / max(all_rows, 1))


def _differing(rows: pl.LazyFrame, column: str) -> float:
    """Returns the share of the requests with several values of a column; of one candidate, 1."""
    differs = pl.col(column).min() != pl.col(column).max()
    requests = rows.group_by("request_id").agg(differs=differs, rows=pl.len())
    several = requests.filter(pl.col("rows") > 1).select(pl.col("differs").mean())
    share = several.collect(engine="streaming").item()
    return 1.0 if share is None else float(share)
