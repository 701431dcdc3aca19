"""The rows of the training days that are held back, to judge models and settings by them.

`larr choose` and `larr tune` train rankers on the others, and so does stage 2 the text embedding
model, so that the vectors by which they judge do not know who took what there.
The labels of the test days are never read; which users, places, texts and values are new there
decides what is held back, so that the rows that judge are new in the same way as those of the test.

Shapes: N rows of a log.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from larr import artifacts
from larr.config import Config
from larr.data.batches import LogRows
from larr.errors import DataError

ENOUGH_ROWS = 20_000
"""With fewer rows to judge by, more parts of the log are held back in turn."""
LEAST_SHARE = 0.1
"""Days with fewer of the rows are held back together with the days before them."""
PARTS = 5
"""Without days, a fifth is held back at a time."""
MOSTLY = 0.5
"""If a larger share of the test rows has a new value, other values are held back than trained."""
SCATTER = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio: multiples of it are spread evenly."""


class Fold(NamedTuple):
    """Rows of the training days."""

    train: LogRows
    judge: LogRows


def folds(config: Config) -> list[Fold]:
    """Returns the parts of the training days that are held back in turn, each with the rest.

    Where the test days come after the training days, the last training days are held back, with
    the days before them to train on. Otherwise it is a fifth of the users if most users of the test
    rows are new there; of the places, texts or other values if most of these are; else of the
    requests. If some users or places of the test rows are new, the rows to train on lack as large
    a share of them. Raises DataError if there is only one day, user, ... to train on.
    """
    data = artifacts.folder(config, "prepare")
    log, test = LogRows(data / "train"), LogRows(data / "test")
    day_N = log.array("days")[:, 0]
    if day_N.max() < test.array("days").min() and day_N.min() < day_N.max():
        return list(_last_days(log, day_N))
    name, group_N = _groups(log, test)
    part_N, is_new_N = (_scattered(group_N) * PARTS).astype(np.int64), _new(log, test)
    wanted = min(PARTS, -(-ENOUGH_ROWS * PARTS // len(log)))
    parts = [
        Fold(*(log.select(np.flatnonzero(rows)) for rows in (~is_new_N & ~is_held_N, is_held_N)))
        for is_held_N in (part_N == part for part in range(wanted))
    ]
    if not all(len(part.train) and len(part.judge) for part in parts):
        raise DataError(
            f"{log.folder}: too few different {name} to hold back a part of them; give a longer log"
        )
    return parts


def _last_days(log: LogRows, day_N: npt.NDArray[np.int32]) -> Iterator[Fold]:
    """Yields blocks of the last days in turn, each with the days before it to train on."""
    day_D, rows_D = np.unique(day_N, return_counts=True)
    least = min(ENOUGH_ROWS, LEAST_SHARE * len(log))
    stop, block, judged = int(day_D[-1]) + 1, 0, 0
    for day, rows in zip(day_D[:0:-1].tolist(), rows_D[:0:-1].tolist(), strict=True):
        block += rows
        if block < least and day > day_D[1]:
            continue
        earlier = np.flatnonzero(day_N < day)
        if judged and len(earlier) < len(log) / 2:
            return  # too little is left to say how a training on all days would do
        judge = np.flatnonzero((day_N >= day) & (day_N < stop))
        yield Fold(log.select(earlier), log.select(judge))
        stop, block, judged = day, 0, judged + block
        if judged >= ENOUGH_ROWS:
            return


def _groups(log: LogRows, test: LogRows) -> tuple[str, npt.NDArray[np.int64]]:
    """Returns the kind of values that are held back together, and the value of each row, [N]."""
    for array, names in (("keys", ("users", "places")), ("texts", ()), ("categories", ())):
        value_NX, test_NX = log.array(array), test.array(array)
        for column in range(value_NX.shape[1]):
            new = ~np.isin(test_NX[:, column], value_NX[:, column])
            if new.mean() > MOSTLY:
                name = names[column] if names else f"values of {array}"
                return name, value_NX[:, column].astype(np.int64) + 1
    return "requests", log.array("requests")[:, 0]


def _new(log: LogRows, test: LogRows) -> npt.NDArray[np.bool_]:
    """Returns rows of users and places that training is to lack, as many as are new in the test.

    Users or places of which most are new there are held back themselves.
    """
    is_new_N = np.zeros(len(log), bool)
    for id_N, test_N in zip(log.array("keys").T, test.array("keys").T, strict=True):
        share = float((~np.isin(test_N, id_N)).mean())
        if share <= MOSTLY:
            is_new_N |= _scattered(id_N) < share
    return is_new_N


def _scattered(value_N: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Returns a number from 0 to 1 for each value, the same for equal ones."""
    product_N = (value_N.astype(np.uint64) * SCATTER) >> np.uint64(32)
    return np.asarray(product_N / 2**32)
