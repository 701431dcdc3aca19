"""Divides the training rows into validation folds, for logs that are not split by time.

The statistics, histories and texts of training rows count one another, so held-back rows of such a
log would not resemble test rows. `larr prepare` therefore recomputes them for each fold from the
fold's own training rows, and writes the arrays to a folder in `held_back/`. Rows are held back so
that users, places, texts and values are new in them as often as in the test rows; test labels are
never read. `larr.data.holdout`, which reads the folds, is a separate module because it loads torch.

Shapes: N rows of the log, X columns of an array.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from larr.data.log import SPLITS

HELD_BACK, LEFT_OUT = "held_back", "left_out.npy"
"""The folder of the folds, and the file with the numbers of the rows that are not trained on."""
ENOUGH_ROWS = 20_000
"""Folds are added until there are this many validation rows."""
FOLDS = 5
"""Each fold holds back a fifth."""
MAX_NEW = 0.5
"""If a larger share of the test rows has a new value, rows are held back by value."""
SCATTER = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio: its multiples modulo 2^64 are spread evenly."""


def has_last_days(data: Path) -> bool:
    """Returns whether the last training days can be held back.

    This needs at least two training days, all before the test days. `data` is the folder that
    `larr prepare` writes.
    """
    day_N, test_N = _both(data, "days")
    is_before = not len(test_N) or day_N.max() < test_N.min()
    return bool(is_before and day_N.min() < day_N.max())


def splits(data: Path) -> list[npt.NDArray[np.str_]]:
    """Returns the split of each training row in each fold: train, test or an empty text, [N].

    A fold holds back a fifth of the users if most users of the test rows are new, a fifth of the
    places, texts or other values if most of these are new, and else a fifth of the requests. If the
    test rows have more new users or places than the fold, some are dropped from its training rows.
    There is no fold if everything would be held back.
    """
    group_N = _groups(data)
    fold_N = (scattered(group_N) * FOLDS).astype(np.int64)
    enough = min(FOLDS, -(-ENOUGH_ROWS * FOLDS // len(group_N)))
    found = []
    for fold in np.unique(fold_N)[:enough]:
        is_held_N = fold_N == fold
        # Each fold has another offset, so that it drops other users and places.
        is_left_N = _left_out(data, is_held_N, (fold / FOLDS + 0.5) % 1)
        found.append(np.select([is_held_N, is_left_N], ["test", ""], "train"))
    return [split_N for split_N in found if (split_N == "train").any()]


def _groups(data: Path) -> npt.NDArray[np.int64]:
    """Returns the group of each row, [N]; rows of a group are held back together."""
    for name in ("keys", "texts", "categories"):
        value_NX, test_NX = _both(data, name)
        for value_N, test_N in zip(value_NX.T, test_NX.T, strict=True):
            if _share_new(test_N, value_N) > MAX_NEW:
                found: npt.NDArray[np.int64] = value_N.astype(np.int64) + 1
                return found
    return _both(data, "requests")[0][:, 0]


def _left_out(data: Path, is_held_N: npt.NDArray[np.bool_], start: float) -> npt.NDArray[np.bool_]:
    """Returns a mask of rows to drop, so that users and places are as often new as in the test.

    If most users (or places) of the test rows are new, they are held back and none is dropped.
    Otherwise dropped ones are spaced equally by number of rows, offset by `start` (0 to 1): in a
    random choice a single popular one would determine the difficulty. Requests in which a dropped
    one was clicked are dropped completely, as their remaining rows would lower the user's CTR and
    reveal the click.
    """
    is_left_N = np.zeros(len(is_held_N), bool)
    for id_N, test_N in zip(*(keys.T for keys in _both(data, "keys")), strict=True):
        share = _share_new(test_N, id_N)
        missing = share - _share_new(id_N[is_held_N], id_N[~is_held_N])
        if missing > 0 and share <= MAX_NEW:
            ids, rows = np.unique(id_N, return_counts=True)
            steps = np.floor(np.arange(len(ids) + 1) * missing + start)
            by_rows = ids[np.argsort(-rows, kind="stable")]
            is_left_N |= np.isin(id_N, by_rows[np.diff(steps) > 0])
    click_N, request_N = (_both(data, name)[0][:, 0] for name in ("labels", "requests"))
    return is_left_N | np.isin(request_N, request_N[is_left_N & (click_N > 0)])


def _share_new(value_N: npt.NDArray[Any], known_N: npt.NDArray[Any]) -> float:
    return float((~np.isin(value_N, known_N)).mean()) if len(value_N) else 0.0


def _both(data: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the arrays of training and test rows, memory-mapped."""
    train, test = (np.load(data / split / f"{name}.npy", mmap_mode="r") for split in SPLITS)
    return train, test


def scattered(value_N: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Returns a hash from 0 to 1 of each value."""
    return ((value_N.astype(np.uint64) * SCATTER) >> np.uint64(32)) / 2**32
