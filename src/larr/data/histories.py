"""User histories: the places that a user took, clicked and left before the start of each day.

With `features.situation` also those taken in the situation of the row, see `larr.data.situations`.

Shapes: N rows of the log or events, U users (row 0 for an unknown one), H histories (row 0 is the
empty one), K kinds, S situations, L places, G groups (a user and a kind each).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from larr import artifacts
from larr.data.log import SPLITS, Log
from larr.data.names import PLACE, USER
from larr.data.situations import Situations
from larr.progress import track

KINDS = ("taken", "clicked", "left")
"""Ordered (or clicked, in a log without orders); clicked but not ordered; shown but not clicked."""
ALIKE = "taken_alike"
"""The fourth kind, with `features.situation`: the latest orders in the row's situation, in which a
place is repeated. On a simulated city with long histories this is worth more than distinct
places."""
BLOCK_USERS = 100_000
"""Users updated at a time, which limits memory."""
LENGTH = 50
"""The number of latest places kept for each kind."""
HISTORIES, HISTORY = "histories.npy", "history.npy"
PLACE_TEXTS = "place_texts.parquet"
"""The numbers of each place's time-independent texts, one column per keyword. The first row is for
unknown places."""
Ints = npt.NDArray[np.int64]
Ints32 = npt.NDArray[np.int32]


def write_histories(
    log: Log, folder: Path, situations: Situations | None, end: int | None = None
) -> None:
    """Writes the histories, and each row's history number.

    `histories.npy` (int32 [H, K, L]) holds place numbers as in `keys.npy`, the latest first, padded
    with 0. `history.npy` of a split (int32 [N, 1]) holds the number of each row's history. With
    `end`, a day since 1970, `known/` gets the histories of all users at the start of that day
    (int32 [U, 3 + S, L], for `of_situation`) and the situations. A history contains only events of
    earlier days.
    """
    distinct = _distinct_user_days(folder, situations)
    for split in SPLITS:
        shape, first = np.load(folder / split / "days.npy", mmap_mode="r").shape, 0
        artifacts.new_array(folder / split / HISTORY, np.int32, shape)
        for key_N in _user_days(folder / split, situations):
            number_N = (np.searchsorted(distinct, key_N) + 1).astype(np.int32)
            artifacts.write_rows(folder / split / HISTORY, first, number_N[:, None])
            first += len(number_N)
    days, situation, user = distinct >> 48, distinct >> 32 & (2**16 - 1), distinct & (2**32 - 1)
    users, kinds = len(log.users) + 1, len(KINDS) + (situations.count if situations else 0)
    latest_GL = np.zeros((users * kinds, LENGTH), np.int32)
    latest_UKL = latest_GL.reshape(users, kinds, LENGTH)
    repeats_G = np.tile(np.arange(kinds) >= len(KINDS), users)
    events = _events(log, situations)
    asked = {*days.tolist(), *(() if end is None else (end,))}
    all_days = events.select(pl.col("day").unique()).collect(engine="streaming")["day"].to_list()
    # Row 0, the empty history, remains 0.
    shape = (len(distinct) + 1, len(KINDS) + bool(situations), LENGTH)
    artifacts.new_array(folder / HISTORIES, np.int32, shape)
    with track("histories", len(distinct), "user days") as advance:
        for day in sorted(day for day in asked.union(all_days) if day <= max(asked)):
            first, stop = np.searchsorted(days, [day, day + 1])
            latest = of_situation(latest_UKL[user[first:stop]], situation[first:stop])
            artifacts.write_rows(folder / HISTORIES, int(first) + 1, latest)
            if day == end:
                np.save(folder / "known" / HISTORIES, latest_UKL)
                if situations:
                    situations.save(folder / "known")
            today = events.filter(pl.col("day") == day).collect(engine="streaming")
            today = today.sort("time", "place", descending=True)
            for block in range(-(-users // BLOCK_USERS)):
                rows = today.filter(pl.col("user") // BLOCK_USERS == block)
                group_N = (rows["user"] * kinds + rows["kind"]).to_numpy()
                add_latest(latest_GL, group_N, rows["place"].to_numpy(), repeats_G)
            advance(int(stop - first))


def of_situation(latest_NKL: Ints32, situation_N: Ints) -> Ints32:
    """Returns the kinds of history that rankers read, of the lists of each kind and situation.

    These are `KINDS`, and with situations the places taken in a row's one; none in situation 0.
    """
    if latest_NKL.shape[1] == len(KINDS):
        return latest_NKL
    of_all_NKL, by_situation = latest_NKL[:, : len(KINDS)], latest_NKL[:, len(KINDS) :]
    alike_NL = by_situation[np.arange(len(latest_NKL)), situation_N - 1]
    alike_NL[situation_N == 0] = 0
    return np.concatenate([of_all_NKL, alike_NL[:, None]], axis=1)


def add_latest(
    latest_GL: Ints32, group_N: Ints, place_N: Ints, repeats_G: npt.NDArray[np.bool_] | None = None
) -> None:
    """Inserts places, sorted from newest to oldest, at the front of their groups' lists.

    Each place is kept once, except in the groups of `repeats_G`.
    """
    changed = np.unique(group_N)
    row_N, column_N = np.nonzero(latest_GL[changed])
    group_N = np.concatenate([group_N, changed[row_N]])
    place_N = np.concatenate([place_N, latest_GL[changed[row_N], column_N]])
    key_N = group_N << 32 | place_N
    if repeats_G is not None:
        key_N = np.where(repeats_G[group_N], -1 - np.arange(len(key_N)), key_N)  # all distinct
    # `unique` returns the first of equal keys, the newest; a stable sort keeps that order.
    _, newest = np.unique(key_N, return_index=True)
    newest.sort()
    newest = newest[np.argsort(group_N[newest], kind="stable")]
    group_N, place_N = group_N[newest], place_N[newest]
    rank_N = np.arange(len(group_N)) - np.searchsorted(group_N, group_N)
    kept_N = rank_N < latest_GL.shape[1]
    latest_GL[changed] = 0
    latest_GL[group_N[kept_N], rank_N[kept_N]] = place_N[kept_N]


def _distinct_user_days(folder: Path, situations: Situations | None) -> Ints:
    """Returns the distinct keys of `_user_days` of all splits, sorted by day."""
    by_day: dict[int, Ints] = {}
    for split in SPLITS:
        for block in map(np.unique, _user_days(folder / split, situations)):
            # In a chronological log a block has few days, and only these have to be merged.
            days, first = np.unique(block >> 48, return_index=True)
            for day, of_day in zip(days.tolist(), np.split(block, first[1:]), strict=True):
                known = by_day.get(day)
                by_day[day] = of_day if known is None else np.union1d(known, of_day)
    return np.concatenate([by_day[day] for day in sorted(by_day)])


def _user_days(split: Path, situations: Situations | None) -> Iterator[Ints]:
    """Yields day, situation and user of each row as one number, block by block."""
    blocks = (artifacts.array_blocks(split / f"{n}.npy") for n in ("days", "keys", "categories"))
    for days, keys, categories in zip(*blocks, strict=True):
        day_N = days[:, 0].astype(np.int64) << 16
        if situations:
            day_N |= situations.of(categories[:, situations.columns])
        yield day_N << 32 | keys[:, 0]


def _events(log: Log, situations: Situations | None) -> pl.LazyFrame:
    """Returns time, day, user, place and kind of all impressions and earlier orders.

    An order in situation s (from 1) is also an event of the kind `len(KINDS) + s - 1`.
    """
    kind = pl.when("order").then(0).when("click").then(1).otherwise(2)
    rows = [log.history.lazy().with_columns(kind=0), log.counted().with_columns(kind=kind)]
    if situations:
        alike = pl.col("situation") + len(KINDS) - 1
        rows.append(situations.orders.lazy().with_columns(kind=alike))
    columns = {"user": USER, "place": PLACE, "kind": "kind"}
    return pl.concat(
        table.select(
            "time",
            day=pl.col("day").dt.epoch("d").cast(pl.Int64),
            **{name: pl.col(column).cast(pl.Int64) for name, column in columns.items()},
        )
        for table in rows
    )
