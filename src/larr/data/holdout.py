"""The rows of the training days that are held back, to judge models and settings by them.

`larr choose` and `larr tune` train rankers on the others, and so does stage 2 the text embedding
model, so that the vectors by which they judge do not know who took what there.
The labels of the test days are never read.

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
from larr.data.log import SPLITS
from larr.data.parts import ENOUGH_ROWS, HELD_BACK, LEFT_OUT, has_last_days, scattered
from larr.errors import DataError

LEAST_SHARE = 0.1
"""Days with fewer of the rows are held back together with the days before them."""


class Fold(NamedTuple):
    """Rows of the training days."""

    train: LogRows
    judge: LogRows
    left_out_N: npt.NDArray[np.int64]
    """Numbers of the rows of the log that are not trained on: those that judge, and others."""

    def shortened(self, rows: int) -> Fold:
        """Returns the fold with at most `rows` rows to train on: the latest, if later ones judge.

        Otherwise they are scattered over all days, as the rows that judge are.
        """
        if self.train.array("days").max() < self.judge.array("days").min():
            return self._replace(train=self.train.latest(rows))
        is_kept_N = scattered(np.arange(len(self.train))) < rows / len(self.train)
        return self._replace(train=self.train.select(np.flatnonzero(is_kept_N)))


def folds(config: Config) -> list[Fold]:
    """Returns the parts of the training days that are held back in turn, each with the rest.

    Where the test days come after the training days, the last training days are held back, with
    the days before them to train on. Otherwise they are the parts that `larr prepare` has written;
    see `larr.data.parts`. Raises DataError if there is only one day, user, ... to train on.
    """
    data = artifacts.folder(config, "prepare")
    if has_last_days(data):
        return list(_last_days(LogRows(data / "train")))
    found = []
    for folder in sorted((data / HELD_BACK).glob("*")):
        part = folder.relative_to(data).as_posix()
        train, judge = (LogRows(folder / split, part=part) for split in SPLITS)
        found.append(Fold(train, judge, np.load(folder / LEFT_OUT)))
    if not found:
        raise DataError(
            f"{data}: too few different users, places or requests to hold back a part of them; "
            "give a longer log"
        )
    return found


def _last_days(log: LogRows) -> Iterator[Fold]:
    """Yields blocks of the last days in turn, each with the days before it to train on."""
    day_N = log.array("days")[:, 0]
    day_D, rows_D = np.unique(day_N, return_counts=True)
    least = min(ENOUGH_ROWS, LEAST_SHARE * len(log))
    stop, block, judged = int(day_D[-1]) + 1, 0, 0
    # from the last day back to the second: the first one is always trained on
    for day, rows in zip(day_D[:0:-1].tolist(), rows_D[:0:-1].tolist(), strict=True):
        block += rows
        if block < least and day > day_D[1]:
            continue
        earlier = np.flatnonzero(day_N < day)
        if judged and len(earlier) < len(log) / 2:
            return  # too little is left to say how a training on all days would do
        judge = np.flatnonzero((day_N >= day) & (day_N < stop))
        yield Fold(log.select(earlier), log.select(judge), np.flatnonzero(day_N >= day))
        stop, block, judged = day, 0, judged + block
        if judged >= ENOUGH_ROWS:
            return
