"""Statistics as of the start of a day: sums over earlier days with exponentially decaying weights.

Rows read the log only through `Past`, which finds only earlier days, so no label of the same day or
later can leak into a row.

Shapes: N requested pairs of key and day, M stored pairs, L recent places.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from larr.config.data import ProfileConfig
from larr.data.counts import COUNTS
from larr.data.histories import add_latest
from larr.data.names import INTERNAL, PLACE, USER
from larr.data.transforms import Array, split_values, text_column

SMOOTHING_IMPRESSIONS = 20.0
"""Rates are smoothed by this many additional impressions at the overall rate."""
SUM_DIGITS = 10
"""Significant digits of sums; further digits depend on the order of summation."""
NEVER_SEEN, RATES = ("log_impressions_per_day", "log_orders"), ("ctr", "cvr")
"""The figures of `Statistics`; without a past the first two are 0, and the rates null."""
NUMBER = f"{INTERNAL}number"


def smoothed_rate(event: str, overall: pl.Expr | float) -> pl.Expr:
    """Returns the events per impression, smoothed towards the overall rate."""
    impressions = pl.col("impressions") + SMOOTHING_IMPRESSIONS
    return (pl.col(event) + SMOOTHING_IMPRESSIONS * overall) / impressions


class Past:
    """Finds the latest row of a key (a number) before a day.

    The rows are sorted by key and day, so one binary search serves many pairs of key and day. A
    table per day would grow with days times keys.
    """

    def __init__(self, rows: pl.DataFrame) -> None:
        """`rows` has the columns `key`, `day`, and those to look up."""
        day_M = rows["day"].to_physical().to_numpy()
        self.first = int(day_M.min()) if len(rows) else 0
        self.days = int(day_M.max()) - self.first + 2 if len(rows) else 2
        # Key and day are stored as one number, as a long log has millions of rows.
        at_M = self._at(rows["key"].to_numpy(), day_M)
        order_M = np.argsort(at_M, kind="stable")
        self.at_M = at_M[order_M]
        self.table = rows.drop("key", "day")[order_M]

    def _at(self, key_N: Array, day_N: Array) -> Array:
        # Days outside the table give the same result as the nearest day.
        found: Array = key_N.astype(np.int64) * self.days + np.clip(
            day_N - self.first, 0, self.days - 1
        )
        return found

    def keys(self) -> Array:
        """Returns all keys in ascending order."""
        key_M = self.at_M // self.days
        found: Array = key_M[np.diff(key_M, prepend=-1) != 0]
        return found

    def rows(self, key_N: Array, day_N: Array) -> pl.Series:
        """Returns the position of each key's latest row before a day, null if there is none."""
        at_N = self._at(key_N, day_N)
        order_N = np.argsort(at_N)  # sorted searches use the CPU cache: twice as fast
        row_N = np.empty(len(at_N), np.int64)
        row_N[order_N] = np.searchsorted(self.at_M, at_N[order_N]) - 1
        is_found_N = row_N >= 0
        is_found_N[is_found_N] = self.at_M[row_N[is_found_N]] // self.days == key_N[is_found_N]
        return pl.Series(row_N).set(pl.Series(~is_found_N), None)

    def before(self, key_N: Array, day_N: Array) -> pl.DataFrame:
        """Returns the latest row of each key before a day, nulls if there is none."""
        return self.table.select(pl.all().gather(self.rows(key_N, day_N)))


class Sums(Past):
    """Decaying sums of daily values: weight 1 for yesterday, halved every `half_life_days`."""

    def __init__(self, daily: pl.DataFrame, half_life_days: float) -> None:
        """`daily` has the columns `key`, `day` and values, which are added up by key and day."""
        super().__init__(daily)
        self.half_life_days = half_life_days
        first_M = np.flatnonzero(np.diff(self.at_M, prepend=-1))
        self.at_M = self.at_M[first_M]
        # Prefix sums by doubling: before step n each row holds the sum over the last 2^n rows of
        # its key, and adds the sum over the 2^n rows before them.
        names = self.table.columns
        sums_M = [np.add.reduceat(self.table[name].to_numpy(), first_M) for name in names]
        del self.table, first_M  # large in a long log
        key_M, day_M = np.divmod(self.at_M, self.days)
        step = 1
        while step < min(self.days, len(self.at_M)):
            weight = self._weight(day_M[step:] - day_M[:-step])
            weight[key_M[step:] != key_M[:-step]] = 0.0
            for sum_M in sums_M:
                sum_M[step:] += weight * sum_M[:-step]
            step *= 2
        self.table = pl.DataFrame(dict(zip(names, sums_M, strict=True)))

    def _weight(self, days_N: Array) -> Array:
        return np.exp2(days_N / -self.half_life_days)

    def as_of(self, key_N: Array, day_N: Array) -> pl.DataFrame:
        """Returns the sums over the days before a day, nulls if there are none."""
        row_N = self.rows(key_N, day_N)
        day_of_row_N = self.first + pl.Series(self.at_M).gather(row_N) % self.days
        age_N = pl.Series(day_N) - 1 - day_of_row_N
        weight = pl.Series(self._weight(age_N.cast(pl.Float64).to_numpy()))
        sums = self.table.select(pl.all().gather(row_N) * weight)
        return sums.with_columns(pl.all().round_sig_figs(SUM_DIGITS))

    def of_day(self, day: int) -> pl.DataFrame:
        """Returns the sums at the start of a day (since 1970) for all keys with a past."""
        key_N = self.keys()
        sums = self.as_of(key_N, np.full(len(key_N), day))
        return pl.DataFrame({"key": key_N}).hstack(sums).drop_nulls()


class Statistics:
    """Statistics of places or users as of any day, as columns for features and texts.

    `<prefix>_log_impressions_per_day` and `<prefix>_log_orders` (with the history) are log(1 + x).
    `<prefix>_ctr` and `<prefix>_cvr` are clicks and orders per impression, smoothed towards the
    overall rate; they are null before the first event.
    """

    def __init__(self, prefix: str, daily: pl.DataFrame, half_life_days: float) -> None:
        """`daily` has the columns `key`, `day` and `COUNTS`."""
        self.prefix, self.sums = prefix, Sums(daily, half_life_days)
        of_days = daily.filter(pl.col("impressions") > 0).group_by("day")
        totals = of_days.agg(pl.col(COUNTS).sum(), observed_days=pl.lit(1.0))
        self.totals = Sums(totals.with_columns(key=0), half_life_days)

    def as_of(self, key_N: Array, day_N: Array) -> pl.DataFrame:
        """Returns the statistics of each place or user at the start of its day."""
        overall = self.totals.as_of(np.zeros(len(day_N), np.int64), day_N)
        rows = self.sums.as_of(key_N, day_N)
        rows = rows.hstack(overall.select(pl.all().name.prefix("overall_")))

        clicks, orders = pl.col("overall_clicks"), pl.col("overall_logged_orders")
        daily = pl.col("impressions") / pl.col("overall_observed_days")
        figures = rows.select(
            log_impressions_per_day=daily.log1p().fill_null(0.0),
            log_orders=pl.col("orders").log1p().fill_null(0.0),
            ctr=smoothed_rate("clicks", clicks / pl.col("overall_impressions")),
            cvr=smoothed_rate("logged_orders", orders / pl.col("overall_impressions")),
        )
        return figures.select(pl.all().name.prefix(f"{self.prefix}_"))


class ProfileTexts:
    """The texts of a profile, the main values in each user's earlier events, as of any day."""

    def __init__(
        self,
        events: pl.DataFrame,
        places: pl.DataFrame,
        profile: ProfileConfig,
        half_life_days: float,
    ) -> None:
        self.profile = profile
        within = [profile.within] if profile.within else []
        events = events.drop_nulls(within)
        scenes = events.select(within).unique().sort(within) if within else pl.DataFrame()
        self.scenes = scenes.with_row_index(NUMBER, offset=1)
        """The values of the scene column `profile.within`, numbered from 1; may be empty."""
        texts = text_column(profile.poi_column, places.schema[profile.poi_column])
        words = places.select("poi_id", value=split_values(texts)).explode("value")
        words = words.filter(pl.col("value") != "")
        daily = events.select("poi_id", "day", self._keys(events)).join(words, on="poi_id")
        daily = daily.group_by("key", "value", "day").agg(count=pl.len().cast(pl.Float64))
        # The ranking of values is computed on days with events: counts decay together.
        values = daily.select("key", "value").unique()
        asked = daily.select("key", "day").unique().join(values, on="key")

        def count_of(*names: str) -> pl.Series:
            """Returns the decayed counts, of rows with equal `names`, at the end of the day."""
            numbers = daily.select(names).unique().with_row_index("number")
            counts = daily.join(numbers, on=names).select("day", "count", key="number")
            key = asked.join(numbers, on=names, how="left", maintain_order="left")["number"]
            after_N = asked["day"].to_physical().to_numpy() + 1
            return Sums(counts, half_life_days).as_of(key.to_numpy(), after_N)["count"]

        weight = count_of("key", "value")
        if profile.ranked_by == "tfidf":
            daily, asked = (table.with_columns(all=pl.lit(0)) for table in (daily, asked))
            weight *= (count_of("all") / count_of("value")).log()
        ordered = (
            asked.with_columns(weight=weight)
            .drop_nulls("weight")
            .sort("weight", "value", descending=[True, False])
        )
        chosen = pl.col("value").head(profile.top).str.join(", ").alias("text")
        self.past = Past(ordered.group_by("key", "day", maintain_order=True).agg(chosen))

    def _keys(self, rows: pl.DataFrame) -> pl.Series:
        """Returns a number for each row's user and value of the scene column."""
        key_N = rows[USER].cast(pl.Int64).alias("key") * (len(self.scenes) + 1)
        if within := self.profile.within:
            found = rows.join(self.scenes, on=within, how="left", maintain_order="left")
            key_N += found[NUMBER].fill_null(0)
        return key_N

    def as_of(self, rows: pl.DataFrame) -> pl.Series:
        """Returns the text of each row; `rows` has a user, a day, and the scene column."""
        day_N = rows["day"].to_physical().to_numpy()
        texts = self.past.before(self._keys(rows).to_numpy(), day_N)
        return texts["text"].alias(self.profile.name)

    def snapshot(self, day: int, users: pl.Series) -> pl.DataFrame:
        """Returns user_id, the scene column (if any) and the texts at the start of a day.

        `day` counts from 1970; `users` are the IDs in row order.
        """
        key_N = self.past.keys()
        user_N, number_N = np.divmod(key_N, len(self.scenes) + 1)
        texts = self.past.before(key_N, np.full(len(key_N), day))
        rows = users[user_N - 1].to_frame().hstack(self.scenes.drop(NUMBER)[number_N - 1])
        return rows.with_columns(texts["text"].alias(self.profile.name)).drop_nulls()


def daily_spending(orders: pl.DataFrame, places: pl.DataFrame) -> pl.DataFrame:
    """Returns the number and total price of the priced orders of each user (`key`) and day."""
    prices = places.select("poi_id", spent_yuan="poi_price_yuan").drop_nulls()
    return (
        orders.select("poi_id", "day", key=USER)
        .join(prices, on="poi_id")
        .group_by("key", "day")
        .agg(pl.col("spent_yuan").sum(), priced_orders=pl.len().cast(pl.Float64))
    )


class RecentPlaces:
    """The latest distinct places of each user as of any day."""

    def __init__(self, events: pl.DataFrame, users: int, length: int) -> None:
        """`events` has `USER`, `PLACE` and `day`, the latest event first."""
        latest_GL = np.zeros((users + 1, length), np.int32)
        keys, recent = [events.select("day", key=USER).clear()], [latest_GL[:0]]
        for (day,), of_day in sorted(events.partition_by("day", as_dict=True).items()):
            user_N, place_N = (of_day[name].cast(pl.Int64).to_numpy() for name in (USER, PLACE))
            add_latest(latest_GL, user_N, place_N)
            changed = of_day.select(pl.lit(day).alias("day"), key=pl.col(USER).unique().sort())
            keys.append(changed)
            recent.append(latest_GL[changed["key"]])
        self.past = Past(pl.concat(keys).with_row_index("row"))
        order_M = self.past.table["row"].to_numpy()
        self.recent_ML = np.concatenate([np.concatenate(recent)[order_M], latest_GL[:1]])

    def as_of(self, user_N: Array, day_N: Array) -> Array:
        """Returns the places before a day, the latest first, padded with 0, int32 [N, L]."""
        found: Array = self.recent_ML[self.past.rows(user_N, day_N).fill_null(-1).to_numpy()]
        return found
