"""Statistics as of the start of a day: sums over earlier days, whose weight halves with their age.

All that a row gets from the log is looked up by `Past`, which finds only days before the row's day,
so that no label of the same day or later can leak into it.

Shapes: N pairs of a key and a day that are asked for, M pairs that have a row, L recent places.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from larr.config.data import ProfileConfig
from larr.data.histories import add_latest
from larr.data.names import INTERNAL, PLACE, USER
from larr.data.transforms import Array, text_column

SMOOTHING_IMPRESSIONS = 20.0
"""A rate is smoothed as if it had this many more impressions with the overall rate."""
SUM_DIGITS = 10
"""Significant digits of sums; the last digits depend on the order of summing."""
NEVER_SEEN = ("log_impressions_per_day", "log_orders")
"""Figures that are 0 for a place or user without a past; rates are missing."""
NUMBER = f"{INTERNAL}number"
COUNTS = ("impressions", "clicks", "logged_orders", "orders")


class Past:
    """A table with a row for a key (a number) and a day, of which the latest before a day is found.

    The rows are sorted by key and day, so one binary search finds the latest row of each of many
    keys, each on a day of its own. A table of each day would grow with days times keys.
    """

    def __init__(self, rows: pl.DataFrame) -> None:
        """Takes the columns `key`, `day`, and those to be looked up."""
        rows = rows.sort("key", "day")
        key_M, day_M = rows["key"].to_numpy(), rows["day"].to_physical().to_numpy()
        self.first = int(day_M.min()) if len(rows) else 0
        self.days = int(day_M.max()) - self.first + 2 if len(rows) else 2
        # Key and day as one number, and neither of them besides: a long log has millions of rows.
        self.at_M = self._at(key_M, day_M)
        self.table = rows.drop("key", "day")

    def _at(self, key_N: Array, day_N: Array) -> Array:
        # days outside of the table find what the nearest one would
        at_N: Array = np.clip(day_N - self.first, 0, self.days - 1)
        return key_N.astype(np.int64) * self.days + at_N

    def keys(self) -> Array:
        """Returns all keys, rising."""
        key_M = self.at_M // self.days
        keys: Array = key_M[np.diff(key_M, prepend=-1) != 0]
        return keys

    def rows(self, key_N: Array, day_N: Array) -> pl.Series:
        """Returns the row of each key's latest day before a day, null where there is none."""
        at_N = self._at(key_N, day_N)
        order_N = np.argsort(at_N)  # neighbours find what they need in the cache: twice as fast
        row_N = np.empty(len(at_N), np.int64)
        row_N[order_N] = np.searchsorted(self.at_M, at_N[order_N]) - 1
        is_found_N = row_N >= 0
        is_found_N[is_found_N] = self.at_M[row_N[is_found_N]] // self.days == key_N[is_found_N]
        return pl.Series(row_N).set(pl.Series(~is_found_N), None)

    def before(self, key_N: Array, day_N: Array) -> pl.DataFrame:
        """Returns the latest earlier row of each key, nulls where there is none."""
        return self.table.select(pl.all().gather(self.rows(key_N, day_N)))


class Sums(Past):
    """The sums of daily values. The day before has weight 1; it halves every `half_life_days`."""

    def __init__(self, daily: pl.DataFrame, half_life_days: float) -> None:
        """Takes the columns `key`, `day` and values; a key has one row a day."""
        super().__init__(daily)
        self.half_life_days = half_life_days
        # Each row becomes the sum up to its day: in step n it has the last 2^n days of its key with
        # a row, and adds what the row before these has.
        sums_M = [column.to_numpy(writable=True) for column in self.table]
        key_M, day_M = np.divmod(self.at_M, self.days)
        step = 1
        while step < min(self.days, len(self.table)):
            weight = self._weight(day_M[step:] - day_M[:-step])
            weight[key_M[step:] != key_M[:-step]] = 0.0
            for sum_M in sums_M:
                sum_M[step:] += weight * sum_M[:-step]
            step *= 2
        self.table = pl.DataFrame(dict(zip(self.table.columns, sums_M, strict=True)))

    def _weight(self, days_N: Array) -> Array:
        weight_N: Array = np.exp2(days_N / -self.half_life_days)
        return weight_N

    def as_of(self, key_N: Array, day_N: Array) -> pl.DataFrame:
        """Returns the sums of the days before a day, nulls where there is none."""
        row_N = self.rows(key_N, day_N)
        day_of_row_N = self.first + pl.Series(self.at_M).gather(row_N) % self.days
        age_N = pl.Series(day_N) - 1 - day_of_row_N
        weight = pl.Series(self._weight(age_N.cast(pl.Float64).to_numpy()))
        sums = self.table.select(pl.all().gather(row_N) * weight)
        return sums.with_columns(pl.all().round_sig_figs(SUM_DIGITS))

    def of_day(self, day: int) -> pl.DataFrame:
        """Returns all keys with a past at the start of a day, which counts from 1970, and sums."""
        key_N = self.keys()
        sums = self.as_of(key_N, np.full(len(key_N), day))
        return pl.DataFrame({"key": key_N}).hstack(sums).drop_nulls()


class Statistics:
    """Statistics of places or users as of any day, as columns for features and texts.

    `<prefix>_log_impressions_per_day` and `<prefix>_log_orders` (history included) are log(1 + x).
    `<prefix>_ctr` and `<prefix>_cvr` are clicks and orders per impression, smoothed towards the
    overall rate; null where nothing was logged before.
    """

    def __init__(self, prefix: str, daily: pl.DataFrame, half_life_days: float) -> None:
        """`daily` comes from `daily_counts`."""
        self.prefix, self.sums = prefix, Sums(daily, half_life_days)
        of_days = daily.filter(pl.col("impressions") > 0).group_by("day")
        totals = of_days.agg(pl.col(COUNTS).sum(), observed_days=pl.lit(1.0))
        self.totals = Sums(totals.with_columns(key=0), half_life_days)

    def as_of(self, key_N: Array, day_N: Array) -> pl.DataFrame:
        """Returns the statistics of each place or user at the start of its day."""
        overall = self.totals.as_of(np.zeros(len(day_N), np.int64), day_N)
        rows = self.sums.as_of(key_N, day_N)
        rows = rows.hstack(overall.select(pl.all().name.prefix("overall_")))

        def rate(count: str) -> pl.Expr:
            of_all = pl.col(f"overall_{count}") / pl.col("overall_impressions")
            seen = pl.col("impressions") + SMOOTHING_IMPRESSIONS
            return (pl.col(count) + SMOOTHING_IMPRESSIONS * of_all) / seen

        daily = pl.col("impressions") / pl.col("overall_observed_days")
        figures = rows.select(
            log_impressions_per_day=daily.log1p().fill_null(0.0),
            log_orders=pl.col("orders").log1p().fill_null(0.0),
            ctr=rate("clicks"),
            cvr=rate("logged_orders"),
        )
        return figures.select(pl.all().name.prefix(f"{self.prefix}_"))


def daily_counts(
    log: pl.LazyFrame, history: pl.LazyFrame, key: list[str], sampling_rate: float = 1.0
) -> pl.DataFrame:
    """Returns impressions, clicks and orders of each key on each day.

    `logged_orders` are those of the impression log, `orders` include the history. Decision 27.
    """
    # Of the training impressions without a click only a share may be in the log. Each of them
    # stands for 1 / share impressions, so that rates are those of the complete log.
    sampled = (pl.col("split") == "train") & ~pl.col("click")
    logged = log.select(
        *key,
        "day",
        impressions=pl.when(sampled).then(1.0 / sampling_rate).otherwise(1.0),
        clicks=pl.col("click").cast(pl.Float64),
        logged_orders=pl.col("order").cast(pl.Float64),
        orders=pl.col("order").cast(pl.Float64),
    )
    earlier = history.select(
        *key, "day", impressions=0.0, clicks=0.0, logged_orders=0.0, orders=1.0
    )
    counts = pl.concat([logged, earlier]).group_by(*key, "day").agg(pl.col(COUNTS).sum())
    return counts.sort(*key, "day").collect(engine="streaming")


class Favourites:
    """The most frequent values in the orders of each user, joined by commas, as of any day."""

    def __init__(
        self,
        orders: pl.DataFrame,
        places: pl.DataFrame,
        profile: ProfileConfig,
        half_life_days: float,
    ) -> None:
        self.profile = profile
        within = [profile.within] if profile.within else []
        orders = orders.drop_nulls(within)
        situations = orders.select(within).unique().sort(within) if within else pl.DataFrame()
        self.situations = situations.with_row_index(NUMBER, offset=1)
        """The values of the scene column within which orders count, if any, from 1."""
        texts = text_column(profile.poi_column, places.schema[profile.poi_column])
        words = places.select("poi_id", value=texts.str.split(",")).explode("value")
        words = words.with_columns(pl.col("value").str.strip_chars()).filter(pl.col("value") != "")
        daily = orders.select("poi_id", "day", self._keys(orders)).join(words, on="poi_id")
        daily = daily.group_by("key", "value", "day").agg(count=pl.len().cast(pl.Float64))
        # The order of the values changes on days with orders alone, since the weights of all
        # earlier days halve together.
        values = daily.select("key", "value").unique().with_row_index("number")
        counts = daily.join(values, on=["key", "value"]).select("day", "count", key="number")
        asked = daily.select("key", "day").unique().join(values, on="key")
        after_N = asked["day"].to_physical().to_numpy() + 1
        sums = Sums(counts, half_life_days).as_of(asked["number"].to_numpy(), after_N)
        ordered = (
            asked.hstack(sums).drop_nulls("count").sort("count", "value", descending=[True, False])
        )
        chosen = pl.col("value").head(profile.top).str.join(", ").alias("text")
        self.past = Past(ordered.group_by("key", "day", maintain_order=True).agg(chosen))

    def _keys(self, rows: pl.DataFrame) -> pl.Series:
        """Returns the number of each row's user and situation."""
        key_N = rows[USER].cast(pl.Int64).alias("key") * (len(self.situations) + 1)
        if within := self.profile.within:
            found = rows.join(self.situations, on=within, how="left", maintain_order="left")
            key_N += found[NUMBER].fill_null(0)
        return key_N

    def as_of(self, rows: pl.DataFrame) -> pl.Series:
        """Returns the text of each row, which has a user, a day, and the scene column."""
        day_N = rows["day"].to_physical().to_numpy()
        texts = self.past.before(self._keys(rows).to_numpy(), day_N)
        return texts["text"].alias(self.profile.name)

    def known(self, day: int, users: pl.Series) -> pl.DataFrame:
        """Returns user_id, the scene column and the texts at the start of a day, where it has one.

        `day` counts from 1970; `users` are the IDs in the order of their rows.
        """
        key_N = self.past.keys()
        user_N, number_N = np.divmod(key_N, len(self.situations) + 1)
        texts = self.past.before(key_N, np.full(len(key_N), day))
        situations = self.situations.drop(NUMBER)[number_N - 1]
        rows = users[user_N - 1].to_frame().hstack(situations)
        return rows.with_columns(texts["text"].alias(self.profile.name)).drop_nulls()


def daily_spending(orders: pl.DataFrame, places: pl.DataFrame) -> pl.DataFrame:
    """Returns per user (`key`) and day the sum of the prices of the orders and their number."""
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
        recent_NL: Array = self.recent_ML[self.past.rows(user_N, day_N).fill_null(-1).to_numpy()]
        return recent_NL
