"""Parts of the training rows that `larr prepare` writes as it would if they were the test rows.

Where the test rows are not of later days, held-back rows as they stand in the log would not be like
them: their statistics, histories and texts count the rows that are held back with them. So each
part has all of these computed again, from its own training rows alone, in a folder of `held_back/`
with the arrays of both splits. The labels of the test rows are never read; which users, places,
texts and values are new there decides what is held back, so that the rows that judge are new in the
same way. `larr.data.holdout`, which reads the parts, is a module of its own because it loads torch.

Shapes: N rows of the log, X columns of an array.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from larr.data.log import SPLITS

HELD_BACK, LEFT_OUT = "held_back", "left_out.npy"
"""The folder of the parts; in each the numbers of the rows that its training rows lack."""
ENOUGH_ROWS = 20_000
"""With fewer rows to judge by, more parts of the log are held back in turn."""
PARTS = 5
"""Without days, a fifth is held back at a time."""
MOSTLY = 0.5
"""If a larger share of the test rows has a new value, other values are held back than trained."""
SCATTER = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio: multiples of it are spread evenly."""


def has_last_days(data: Path) -> bool:
    """Returns whether training days can be held back: several, and the test days come after them.

    `data` is the folder that `larr prepare` writes.
    """
    day_N, test_N = _both(data, "days")
    return bool(day_N.max() < test_N.min() and day_N.min() < day_N.max())


def splits(data: Path) -> list[npt.NDArray[np.str_]]:
    """Returns the split of each training row in each part: train, test, or none, [N].

    A fifth of the users judges if most users of the test rows are new there; of the places, texts
    or other values if most of these are; else of the requests. If more users or places are new in
    the test rows than in these, some of them are left out of the training rows. There is no part if
    the log has only one user, request, ...
    """
    group_N = _groups(data)
    part_N = (scattered(group_N) * PARTS).astype(np.int64)
    wanted = min(PARTS, -(-ENOUGH_ROWS * PARTS // len(group_N)))
    found = []
    for part in np.unique(part_N)[:wanted]:
        is_held_N = part_N == part
        # each part starts elsewhere, so that it lacks other users and places
        is_left_N = _left_out(data, is_held_N, (part / PARTS + 0.5) % 1)
        found.append(np.where(is_held_N, SPLITS[1], np.where(is_left_N, "", SPLITS[0])))
    return [split_N for split_N in found if (split_N == SPLITS[0]).any()]


def _groups(data: Path) -> npt.NDArray[np.int64]:
    """Returns for each row the value by which rows are held back together, [N]."""
    for name in ("keys", "texts", "categories"):
        value_NX, test_NX = _both(data, name)
        for value_N, test_N in zip(value_NX.T, test_NX.T, strict=True):
            if _share_new(test_N, value_N) > MOSTLY:
                return np.asarray(value_N, np.int64) + 1
    return np.asarray(_both(data, "requests")[0][:, 0])


def _left_out(data: Path, is_held_N: npt.NDArray[np.bool_], start: float) -> npt.NDArray[np.bool_]:
    """Returns rows of users and places without which as many are new as in the test rows.

    Users or places of which most are new there are held back themselves. The others are chosen at
    equal distances in the order of their rows, where `start` (0 to 1) moves the first one: among
    some chosen at random, one of the most popular would decide how hard they are to rank. Requests
    in which one was clicked are left out completely: with their other rows alone, a low CTR of a
    user would show who takes what is left out.
    """
    is_left_N = np.zeros(len(is_held_N), bool)
    for id_N, test_N in zip(*(keys.T for keys in _both(data, "keys")), strict=True):
        share = _share_new(test_N, id_N)
        missing = share - _share_new(id_N[is_held_N], id_N[~is_held_N])
        if missing > 0 and share <= MOSTLY:
            ids, rows = np.unique(id_N, return_counts=True)
            steps = np.floor(np.arange(len(ids) + 1) * missing + start)
            by_rows = ids[np.argsort(-rows, kind="stable")]
            is_left_N |= np.isin(id_N, by_rows[np.diff(steps) > 0])
    click_N, request_N = (_both(data, name)[0][:, 0] for name in ("labels", "requests"))
    return is_left_N | np.isin(request_N, request_N[is_left_N & (click_N > 0)])


def _share_new(value_N: npt.NDArray[Any], known_N: npt.NDArray[Any]) -> float:
    return float((~np.isin(value_N, known_N)).mean()) if len(value_N) else 0.0


def _both(data: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns an array of the training rows and that of the test rows, mapped."""
    train, test = (np.load(data / split / f"{name}.npy", mmap_mode="r") for split in SPLITS)
    return train, test


def scattered(value_N: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Returns a number from 0 to 1 for each value, the same for equal ones."""
    product_N = (value_N.astype(np.uint64) * SCATTER) >> np.uint64(32)
    return np.asarray(product_N / 2**32)
