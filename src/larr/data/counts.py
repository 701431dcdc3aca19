"""Daily counts of events, file by file of the log.

Rows of the same key and day in several files are added up by `larr.data.statistics.Sums`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from larr.data.chunks import Mapped
from larr.data.log import Log
from larr.progress import track

COUNTS = ("impressions", "clicks", "logged_orders", "orders")
"""Daily counts of `Statistics`; `orders` include the history, `logged_orders` do not."""
TAKEN = "taken"
"""The count of clicks, and of orders of the history."""


def log_counts(sampling_rate: float = 1.0) -> dict[str, pl.Expr]:
    """Returns the counts of a row of the impressions. Decision 27."""
    # If training impressions without a click were down-sampled, each of them represents
    # 1 / sampling_rate impressions, so rates are those of the complete log.
    sampled = (pl.col("split") == "train") & ~pl.col("click")
    clicks, orders = (pl.col(label).cast(pl.Float64) for label in ("click", "order"))
    impressions = pl.when(sampled).then(1.0 / sampling_rate).otherwise(1.0)
    return dict(zip((*COUNTS, TAKEN), (impressions, clicks, orders, orders, clicks), strict=True))


def history_counts() -> dict[str, pl.Expr]:
    """Returns the counts of an order of the history, which is no impression."""
    is_counted = {name: name in ("orders", TAKEN) for name in (*COUNTS, TAKEN)}
    return {name: pl.lit(float(counted)) for name, counted in is_counted.items()}


def daily_counts(
    rows: pl.LazyFrame, key: Sequence[pl.Expr], counts: Mapping[str, pl.Expr]
) -> pl.DataFrame:
    """Returns the sums of the counts of each key on each day."""
    counted = rows.select(*key, "day", **counts)
    return counted.group_by(pl.exclude(*counts)).agg(pl.all().sum()).collect()


@dataclass(frozen=True)
class Counts(ABC):
    """Counts keys in files of the log, and in the orders before it."""

    log: Log
    sampling_rate: float

    @abstractmethod
    def of_rows(self, rows: pl.LazyFrame, counts: Mapping[str, pl.Expr]) -> pl.DataFrame:
        """Returns the `daily_counts` of some rows; `counts` are those of each row."""

    def of_file(self, path: Path) -> pl.DataFrame:
        """Returns those of a file of the log."""
        return self.of_rows(self.log.counted(path), log_counts(self.sampling_rate))

    def of_all(self, mapped: Mapped) -> pl.DataFrame:
        """Returns those of each file and of the history, which are not added up."""
        files = self.log.impressions
        parts = [self.of_rows(self.log.history.lazy(), history_counts())]
        with track("daily counts", len(files), "files") as advance:
            for part in mapped(type(self).of_file, self, files):
                parts.append(part)
                advance(1)
        return pl.concat(parts, how="diagonal")


@dataclass(frozen=True)
class OwnerCounts(Counts):
    """Counts a key of users and places."""

    key: pl.Expr
    counts: Mapping[str, str]
    """Name -> the entry of `log_counts`."""
    clicked: bool = False
    """Whether to count only clicks, and orders of the history."""

    def of_rows(self, rows: pl.LazyFrame, counts: Mapping[str, pl.Expr]) -> pl.DataFrame:
        """Returns the columns `key`, `day`, and the counts."""
        rows = rows.filter(counts[TAKEN] > 0) if self.clicked else rows
        wanted = {name: counts[count] for name, count in self.counts.items()}
        return daily_counts(rows, [self.key.alias("key")], wanted)
