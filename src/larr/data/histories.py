"""What each user took, clicked and left, as of the start of each day: once for a user and day.

Shapes: N rows of the log or events, U users (row 0 for an unknown one), H histories (row 0 is the
empty one), K kinds, L places, G groups (a user and a kind each).
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from larr import artifacts
from larr.data.log import SPLITS, Log
from larr.progress import track

KINDS = ("taken", "clicked", "left")
"""Ordered (clicked, in a log without orders); clicked and not ordered; shown and not clicked."""
LENGTH = 50
"""The latest distinct places of each kind that are kept."""
HISTORIES, HISTORY = "histories.npy", "history.npy"
PLACE_TEXTS = "place_texts.parquet"
"""The numbers of each place's texts that do not change with time, a column for each keyword; the
first row is that of an unknown place."""
Ints = npt.NDArray[np.int64]


def write_histories(log: Log, folder: Path, end: date | None = None) -> None:
    """Writes `histories.npy`, the histories' numbers of the rows, and users' histories at `end`.

    `histories.npy` (int32 [H, K, L]) holds places as `keys.npy` numbers them, the latest first,
    padded with 0. `history.npy` of a split (int32 [N, 1]) has the number of each row's history.
    `known/histories.npy` (int32 [U, K, L]) has the same for each user at the start of the day
    `end`. Only events of earlier days are in a history.
    """
    pairs = {split: _user_days(folder / split) for split in SPLITS}
    distinct = np.unique(np.concatenate(list(pairs.values())))  # ordered by day, then by user
    for split, pair_N in pairs.items():
        numbers_N1 = (np.searchsorted(distinct, pair_N) + 1).astype(np.int32)[:, None]
        np.save(folder / split / HISTORY, numbers_N1)
    days, user = distinct >> 32, distinct & (2**32 - 1)
    shape = (len(distinct) + 1, len(KINDS), LENGTH)
    histories = artifacts.new_array(folder / HISTORIES, np.int32, shape)
    users = len(log.users) + 1
    latest_GL = np.zeros((users * len(KINDS), LENGTH), np.int32)
    latest_UKL = latest_GL.reshape(users, len(KINDS), LENGTH)
    events, at_end = _events(log), ((end or date.min) - date(1970, 1, 1)).days
    asked = {*days.tolist(), at_end} if end else {*days.tolist()}
    all_days = events.select(pl.col("day").unique()).collect(engine="streaming")["day"].to_list()
    with track("histories", len(distinct), "user days") as advance:
        for day in sorted(asked.union(all_days)):
            if day > max(asked):
                break
            first, stop = np.searchsorted(days, [day, day + 1])
            histories[first + 1 : stop + 1] = latest_UKL[user[first:stop]]
            if day == at_end:
                np.save(folder / "known" / HISTORIES, latest_UKL)
            of_day = events.filter(pl.col("day") == day).collect(engine="streaming")
            of_day = of_day.sort("time", "place", descending=True)
            group_N = (of_day["user"] * len(KINDS) + of_day["kind"]).to_numpy()
            add_latest(latest_GL, group_N, of_day["place"].to_numpy())
            advance(int(stop - first))


def add_latest(latest_GL: npt.NDArray[np.int32], group_N: Ints, place_N: Ints) -> None:
    """Puts places, the newest first, before those that their groups have, each place once."""
    changed = np.unique(group_N)
    length = latest_GL.shape[1]
    group_N = np.concatenate([group_N, np.repeat(changed, length)])
    place_N = np.concatenate([place_N, latest_GL[changed].ravel()])
    group_N, place_N = group_N[place_N > 0], place_N[place_N > 0]
    # `unique` gives the first of equal pairs, which is the newest; a stable sort keeps that order.
    _, newest = np.unique(group_N << 32 | place_N, return_index=True)
    newest.sort()
    newest = newest[np.argsort(group_N[newest], kind="stable")]
    group_N, place_N = group_N[newest], place_N[newest]
    rank_N = np.arange(len(group_N)) - np.searchsorted(group_N, group_N)
    kept_N = rank_N < length
    latest_GL[changed] = 0
    latest_GL[group_N[kept_N], rank_N[kept_N]] = place_N[kept_N]


def _user_days(split: Path) -> Ints:
    """Returns day and user of each row as one number, [N]."""
    day_N, user_N = (np.load(split / f"{name}.npy")[:, 0] for name in ("days", "keys"))
    return np.asarray(day_N.astype(np.int64) << 32 | user_N)


def _events(log: Log) -> pl.LazyFrame:
    """Returns user, place and kind of all impressions and earlier orders as numbers, with time."""
    kind = pl.when("order").then(0).when("click").then(1).otherwise(2)
    numbered = (
        log.users.select("user_id").with_row_index("user", offset=1),
        log.places.select("poi_id").with_row_index("place", offset=1),
    )
    columns = ["user_id", "poi_id", "time", "day"]
    orders = log.history.lazy().select(*columns, kind=0)
    events = pl.concat([orders, log.counted().select(*columns, kind=kind)], how="vertical_relaxed")
    for table in numbered:
        events = events.join(table.lazy(), on=table.columns[1], how="inner")
    return events.select(
        pl.col("user", "place", "kind").cast(pl.Int64),
        "time",
        day=pl.col("day").dt.epoch("d").cast(pl.Int64),
    )
