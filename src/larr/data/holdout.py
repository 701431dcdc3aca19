"""Validation rows: training rows that are held back to compare models and settings.

`larr choose` and `larr tune` train rankers on the other rows. Stage 2 trains a text embedding model
on them as well, so that the vectors do not contain the held-back labels. Test labels are never
read.

Shapes: N rows of a log.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from larr import artifacts
from larr.config import Config
from larr.data.batches import LogRows
from larr.data.folds import ENOUGH_ROWS, HELD_BACK, LEFT_OUT, has_last_days, scattered
from larr.data.log import SPLITS
from larr.errors import DataError

MIN_SHARE = 0.1
"""Days with a smaller share of the rows are held back together with preceding days."""


class Fold(NamedTuple):
    """A split of the training rows into rows to train on and rows to validate on."""

    train: LogRows
    validation: LogRows
    left_out_N: npt.NDArray[np.int64]
    """The numbers of the log's rows that are not in `train`: those of `validation`, and others."""

    def shortened(self, rows: int) -> Fold:
        """Returns the fold with at most `rows` training rows.

        These are the latest if all validation rows are later, and else a sample of all days.
        """
        if self.train.array("days").max() < self.validation.array("days").min():
            return self._replace(train=self.train.latest(rows))
        is_kept_N = scattered(np.arange(len(self.train))) < rows / len(self.train)
        return self._replace(train=self.train.select(np.flatnonzero(is_kept_N)))


def folds(config: Config) -> list[Fold]:
    """Returns the folds of the training rows.

    If the test days come after the training days, the last training days are held back and the days
    before them are trained on. Otherwise the folds are those that `larr prepare` has written, see
    `larr.data.folds`. Raises DataError if nothing can be held back.
    """
    data = artifacts.folder(config, "prepare")
    if has_last_days(data):
        return list(_last_days(LogRows(data / "train")))
    found = []
    for folder in sorted((data / HELD_BACK).glob("*")):
        part = folder.relative_to(data).as_posix()
        train, validation = (LogRows(folder / split, part=part) for split in SPLITS)
        found.append(Fold(train, validation, np.load(folder / LEFT_OUT)))
    if not found:
        raise DataError(
            f"{data}: too few users, places or requests to hold back a part of them; give a longer "
            "log"
        )
    return found


def _last_days(log: LogRows) -> Iterator[Fold]:
    """Yields folds that hold back a block of the last days and train on the days before it."""
    day_N = log.array("days")[:, 0]
    day_D, rows_D = np.unique(day_N, return_counts=True)
    least = min(ENOUGH_ROWS, MIN_SHARE * len(log))
    stop, block, held_back = int(day_D[-1]) + 1, 0, 0
    # From the last day back to the second; the first day is always trained on.
    for day, rows in zip(day_D[:0:-1].tolist(), rows_D[:0:-1].tolist(), strict=True):
        block += rows
        if block < least and day > day_D[1]:
            continue
        earlier = np.flatnonzero(day_N < day)
        if held_back and len(earlier) < len(log) / 2:
            return  # too few rows to represent training on all days
        validation = np.flatnonzero((day_N >= day) & (day_N < stop))
        yield Fold(log.select(earlier), log.select(validation), np.flatnonzero(day_N >= day))
        stop, block, held_back = day, 0, held_back + block
        if held_back >= ENOUGH_ROWS:
            return
