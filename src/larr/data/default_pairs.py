"""Chooses the pairs of columns of the cross statistics, if the configuration names none."""

from __future__ import annotations

from functools import partial

import polars as pl

from larr.config import Config
from larr.config.data import StatisticConfig
from larr.data.cross import COUNT, pair_values
from larr.data.log import Log, differing, sample_requests
from larr.data.names import PLACE, USER, is_multivalued, raw_column
from larr.data.transforms import NAME_WORDS, with_name_words

MAX_PAIRS, MAX_VALUES, MIN_RECURRING, MIN_DIFFERING = 8, 12, 0.2, 0.2
"""Limits for the pairs chosen by default: their number; the values of a scene column; the minimum
share of a column's values that occurred on an earlier day; the minimum share of requests within
which a column of places differs."""
POSITION = "position"
OF_RARE_PLACES = ["log_clicks", "share", "ctr"]
"""The figures of users and columns of places if places rarely recur."""


def with_pairs(config: Config, log: Log) -> Config:
    """Returns the configuration with cross statistics, chosen if `statistics` is not set.

    The pairs are users with columns of places that features or profiles read, then users and places
    with scene categories of few values. Columns are excluded if their values rarely recur on
    another day, or rarely differ between candidates. If places themselves rarely recur, as the
    dishes of a daily menu do, the pairs of users and columns of places have all figures, and one of
    users and the words of names is added.
    """
    if config.statistics is not None:
        return config
    categories, rows = config.features.categories, log.counted()
    raw = partial(raw_column, config)
    places = [n for n in categories if is_multivalued(n) and raw(n) in log.places.columns]
    places += [profile.poi_column for profile in config.profiles if profile.within is None]
    places = list(dict.fromkeys([*places, NAME_WORDS]))
    words = {bucket.level: len(bucket.words) for bucket in config.buckets}
    logged, scene = rows.collect_schema(), list[str]()
    for name in categories:
        if raw(name) in logged and name not in ("user_id", "poi_id", POSITION):
            # unique needs less memory than n_unique, which holds the column.
            distinct = rows.select(raw(name)).unique().select(pl.len())
            if (words.get(name) or distinct.collect(engine="streaming").item()) <= MAX_VALUES:
                scene.append(name)
    pairs = [("user_id", name) for name in places]
    pairs += [(key, name) for key in ("poi_id", "user_id") for name in scene]
    table = with_name_words(log.places).lazy().with_row_index(PLACE, offset=1)
    compared = ["poi_id", *places]
    read = dict.fromkeys(map(raw, compared))
    requests = differing(sample_requests(rows).join(table, on=PLACE, how="left"), read)
    shares = requests.select(pl.col(*read).mean()).collect(engine="streaming").to_dicts()[0]
    recurs, is_useful = dict[str, bool](), dict.fromkeys(scene, True)
    for row, columns in ((USER, ["user_id"]), (PLACE, compared)):
        counts = rows.group_by(row, "day").agg(pl.len().alias(COUNT))
        daily = counts.collect(engine="streaming").lazy()
        daily = daily.join(table, on=row, how="left") if row == PLACE else daily
        for name in columns:
            recurs[name] = name in words or _recurring(daily, name) >= MIN_RECURRING
            share = shares.get(raw(name))  # None if no request has several candidates
            is_useful[name] = recurs[name] and (share is None or share >= MIN_DIFFERING)
    is_useful[NAME_WORDS] &= not recurs["poi_id"]
    chosen = []
    for pair in pairs:
        if all(is_useful[name] for name in pair):
            statistic = StatisticConfig(columns=pair)
            if pair[1] in places and not recurs["poi_id"]:
                statistic = statistic.model_copy(update={"figures": OF_RARE_PLACES})
            chosen.append(statistic)
    return config.model_copy(update={"statistics": chosen[:MAX_PAIRS]})


def _recurring(daily: pl.LazyFrame, column: str) -> float:
    """Returns the share of a column's values that also occurred on an earlier day.

    `daily` has the column, `day`, and `COUNT`, the number of rows.
    """
    values = pair_values(daily, [column]).group_by("first", "day").agg(pl.col(COUNT).sum())
    is_earlier = pl.col("day") > pl.col("day").min().over("first")
    again = pl.col(COUNT).filter(is_earlier).sum()
    share = again / pl.col(COUNT).sum().clip(lower_bound=1)
    found: float = values.collect(engine="streaming").select(share).item()
    return found
