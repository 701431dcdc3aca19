"""The checked log: places, users and orders in memory, impressions in Parquet files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from larr import artifacts
from larr.config import Config
from larr.config.data import DatasetConfig
from larr.data.checks import Checked, Checks
from larr.data.chunks import ParallelMap
from larr.data.contract import TABLES
from larr.data.names import ROWS
from larr.data.negatives import add_negatives
from larr.data.rejected import Rejections, check_required
from larr.data.sql import reading
from larr.data.transforms import TIME_COLUMNS, with_time_columns
from larr.data.values import plain
from larr.errors import DataError
from larr.progress import console, track

if TYPE_CHECKING:  # serving imports this module and must not need duckdb
    from larr.data.datasets import Tables

SPLITS = ("train", "test")
SEED = 1
"""Seed of random splits, the same for all seeds of a run."""
DEFAULT_SHARE = 0.2
"""Default share of users, places or requests in the test split of a random split."""
RANDOM_DAYS = 6
"""Training days of a log without times."""
SAMPLE_ROWS = 2_000_000
"""Rows of the sample from which shares of requests are estimated."""
MAX_SINGLE = 0.9
"""If a larger share of the requests has one row, `request_id` or `time` may be wrong."""
MAX_AT_MIDNIGHT = 0.1
"""If a larger share of the times is midnight, they may be dates without a time of day."""


@dataclass(frozen=True)
class Split:
    """The split of each row and, in a log without times, its randomly assigned day."""

    name: pl.Expr
    """`train` or `test`."""
    draw: pl.Expr | None = None
    """A random number from 0 to 1 that assigns days; None if the log has times."""

    def of(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Adds the column `split` and, in a log without times, the assigned days."""
        rows = rows.with_columns(split=self.name)
        if self.draw is None:
            return rows
        # The leading digits of `draw` decide the split, so the day comes from later ones.
        day = (self.draw * RANDOM_DAYS * 1000 % RANDOM_DAYS).cast(pl.Int64)
        day = pl.when(pl.col("split") == "test").then(RANDOM_DAYS).otherwise(day)
        return with_time_columns(rows.with_columns(time=pl.col("time") + pl.duration(days=day)))


@dataclass(frozen=True)
class Log:
    """Checked tables; columns of places begin with `poi_`, columns of users with `user_`."""

    places: pl.DataFrame
    users: pl.DataFrame
    history: pl.DataFrame
    """Orders that are not in the impressions, with time columns."""
    impressions: list[Path]
    """Parquet files in the order of the log, with time columns and `order`."""
    tasks: list[str]
    rejected: list[dict[str, Any]]
    """Rejected rows by table and reason, see `Rejections`."""
    is_split_by_time: bool = True
    """Whether all test days come after the training days."""
    is_dated: bool = True
    """Whether the rows have times; if not, their days are random and their times meaningless."""
    sampled_share: float | None = None
    """The share of the candidate places that `[dataset.negatives]` sampled."""
    blanked: Sequence[dict[str, Any]] = ()
    """Invalid values that were replaced by null, see `Rejections`."""
    split: Split = Split(pl.col("split"))
    """The split, if the files have no column for it."""

    def scan(self, *files: Path) -> pl.LazyFrame:
        """Returns all impressions, or those of some files, with `ROWS` and `split`, lazily."""
        return self.split.of(pl.scan_parquet([*files] or self.impressions))

    def schema(self) -> pl.Schema:
        """Returns the columns of the impressions that a configuration can use."""
        return self.scan().drop(ROWS.values(), strict=False).collect_schema()

    def counted(self, *files: Path) -> pl.LazyFrame:
        """Returns the impressions that statistics count, or those of some files, lazily.

        These include test rows if the split is by time: as in production, a test day counts the
        days before it. Otherwise they are the training rows alone, since a test row could precede
        a training row and leak into it.
        """
        rows = self.scan(*files)
        return rows if self.is_split_by_time else rows.filter(pl.col("split") == "train")

    def training(self) -> pl.LazyFrame:
        """Returns the training rows, lazily."""
        return self.scan().filter(pl.col("split") == "train")

    def counts(self, split: str) -> Iterator[tuple[Path, int]]:
        """Yields each file with rows of a split, and their number."""
        for path in self.impressions:
            if rows := self.scan(path).select((pl.col("split") == split).sum()).collect().item():
                yield path, rows

    def rows(self, path: Path, split: str) -> pl.DataFrame:
        """Returns the impressions of a split in one of the files."""
        return self.scan(path).filter(pl.col("split") == split).collect()

    def chunks(self, split: str) -> Iterator[pl.DataFrame]:
        """Yields the impressions of a split, file by file."""
        return (self.rows(path, split) for path, _ in self.counts(split))


def sample_requests(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Returns a sample of complete requests, about `SAMPLE_ROWS` rows, or all of a smaller log.

    Aggregating over all requests of a large log would need too much memory.
    """
    parts = -(-rows.select(pl.len()).collect(engine="streaming").item() // SAMPLE_ROWS)
    return rows if parts <= 1 else rows.filter(pl.col("request_id").hash() % parts == 0)


def differing(rows: pl.LazyFrame, columns: Iterable[str]) -> pl.LazyFrame:
    """Returns for each request which columns differ, null for one row and for missing values."""
    # Unlike n_unique, min and max need constant memory per request. They also ignore missing
    # values, so a value that is missing in some rows does not differ.
    value = pl.col(*columns)
    differs = pl.when(pl.len() > 1).then(value.min() != value.max())
    return rows.group_by("request_id").agg(differs)


def single_row_warning(log: Log) -> str:
    """Returns a warning if nearly all requests have one row, empty otherwise."""
    if not log.is_dated:
        return ""  # rows of a log without times are requests unless it has request_id
    counts = sample_requests(log.scan()).group_by("request_id").len()
    share = counts.select((pl.col("len") == 1).mean()).collect(engine="streaming").item()
    if share <= MAX_SINGLE:
        return ""
    return (
        f"{share:.0%} of the requests have one row: if several places are shown at a time, give "
        "them the same request_id or, without request_id, the same time, such as "
        "date_trunc('minute', time) AS time"
    )


def check_tables(
    config: Config,
    tables: Tables,
    folder: Path,
    kept_in: Path | None = None,
    pmap: ParallelMap = map,
) -> Log:
    """Returns the checked log; writes `folder/checked/` (impressions) and `folder/rejected/`.

    `kept_in` is the folder of rejected rows shown to the user, by default `prepare/rejected`.
    Raises DataError if a table cannot be read or too few of its rows are valid.
    """
    rejections = Rejections(folder / "rejected", config)
    if tables.unreadable is not None:
        rejections.add_lines(tables.unreadable)
    places = rejections.check("places", _read(tables.places, "places"))
    users = rejections.check("users", _read(tables.users, "users"))
    if tables.orders is None:
        columns = TABLES["orders"].required
        history = pl.DataFrame(schema={name: column.dtype for name, column in columns.items()})
    else:
        history = rejections.check("orders", _read(tables.orders, "orders"))
    impressions = tables.impressions
    files, tasks = _check_impressions(config, rejections, impressions, folder / "checked", pmap)
    rejections.report(kept_in or artifacts.folder(config, "prepare") / "rejected")
    split, last = _split(config, files, is_dated=tables.is_dated)
    sampled = None
    if wanted := config.dataset.negatives:
        dated = tables.is_dated
        sampled = add_negatives(config, wanted, places, files, split.of, is_dated=dated)
        split = Split(pl.col("split"))
    rows = split.of(pl.scan_parquet(files))
    is_split_by_time = _check_split(rows, tasks, config.dataset)
    # An order that is in both tables counts once, as an impression.
    key = ["user_id", "poi_id", "day"]
    ordered = rows.filter(pl.col("order")).select(key).unique()
    earlier = _with_row_numbers(with_time_columns(history), rejections.checks.known)
    earlier = earlier.filter(pl.col("day") <= last)
    logged = ordered.collect(engine="streaming")
    earlier = earlier.join(logged, on=key, how="anti", maintain_order="left")
    if left_out := history.height - earlier.height:
        console.print(f"  orders: {left_out:,} ignored, as they are in the log or after its end")
    return Log(
        places=_prefixed(places, "poi_"),
        users=_prefixed(users, "user_"),
        history=earlier,
        impressions=files,
        tasks=tasks,
        rejected=list(rejections.summary.values()),
        is_split_by_time=is_split_by_time and tables.is_dated,
        is_dated=tables.is_dated,
        sampled_share=sampled,
        blanked=list(rejections.blanked.values()),
        split=split,
    )


def _read(table: pl.LazyFrame, name: str) -> pl.DataFrame:
    with reading(f"table {name}"):
        return plain(table, name).collect(engine="streaming")


def _read_chunks(table: pl.LazyFrame, name: str, rows: int) -> Iterator[pl.DataFrame]:
    with reading(f"table {name}"):
        yield from plain(table, name).collect_batches(chunk_size=rows, maintain_order=True)


def _check_impressions(
    config: Config, rejections: Rejections, table: pl.LazyFrame, folder: Path, pmap: ParallelMap
) -> tuple[list[Path], list[str]]:
    """Writes the valid impressions, one file per chunk; returns the files and the tasks."""
    folder.mkdir()
    with reading("table impressions"):
        columns = table.collect_schema().names()
    check_required("impressions", columns)
    if replaced := [name for name in TIME_COLUMNS if name in columns]:
        console.print(
            f"  impressions: {', '.join(replaced)} will be computed from the time; rename yours to "
            "use it"
        )
    total = _read(table.select(pl.len()), "impressions").item()
    write = partial(_write_checked, rejections.checks, "order" in columns, folder)
    chunks = enumerate(_read_chunks(table, "impressions", config.dataset.chunk_rows))
    with track("checking impressions", total, "rows") as advance:
        for number, (rows, checked) in enumerate(pmap(write, chunks)):
            rejections.add("impressions", rows, checked, number)
            advance(rows)
    files = sorted(folder.iterdir())
    if len(files) > 1:
        rejections.reject_repeated("impressions", files)
    return files, ["click", "order"] if "order" in columns else ["click"]


def _write_checked(
    checks: Checks, has_orders: bool, folder: Path, numbered: tuple[int, pl.DataFrame]
) -> tuple[int, Checked]:
    """Writes the valid impressions of a chunk; returns the chunk's height and the other rows."""
    number, chunk = numbered
    checked = checks.check("impressions", chunk)
    good = _with_row_numbers(with_time_columns(checked.good), checks.known)
    if not has_orders:
        # Features count orders; in a log without them, each click counts as an order.
        good = good.with_columns(order=pl.col("click"))
    good.write_parquet(folder / f"{number:05}.parquet")
    return chunk.height, checked._replace(good=good.clear())


def _with_row_numbers(frame: pl.DataFrame, known: Mapping[str, pl.Series]) -> pl.DataFrame:
    """Adds the columns `ROWS`."""
    for key, name in ROWS.items():
        table = known[key].to_frame().with_row_index(name, offset=1)
        frame = frame.join(table, on=key, how="left", maintain_order="left")
    return frame


def _split(config: Config, files: list[Path], *, is_dated: bool) -> tuple[Split, date]:
    """Returns the split, that of the log or of the configuration, and the last day.

    In a log without times each user (or other unit of the split) gets a random training day, and
    the test rows come last. Raises DataError if no row is left.
    """
    settings, key = config.dataset, config.dataset.split_by
    last = None
    if files:
        last = pl.scan_parquet(files).select(pl.col("day").max()).collect(engine="streaming").item()
    if last is None:
        raise DataError(
            "table impressions: it has no valid rows: it is empty, or all were rejected (see above)"
        )
    if not is_dated and key == "time":
        key = "user_id"
    draw = pl.col("request_id" if key == "time" else key).cast(pl.String).hash(SEED)
    draw = draw.cast(pl.Float64) / 2.0**64
    if not settings.test_days:
        is_tested = pl.lit(value=False)
    elif key != "time":
        console.print(f"  random split by {key}")
        is_tested = draw < (settings.test_share or DEFAULT_SHARE)
    elif settings.test_share:
        times = pl.scan_parquet(files).select(pl.col("time").quantile(1 - settings.test_share))
        is_tested = pl.col("time") > times.collect(engine="streaming").item()
    else:
        is_tested = (pl.lit(last) - pl.col("day")).dt.total_days() < settings.test_days
    name = pl.when(is_tested).then(pl.lit("test")).otherwise(pl.lit("train"))
    if settings.test_days and "split" in pl.scan_parquet(files).collect_schema():
        name = pl.col("split").cast(pl.String)
    if is_dated:
        return Split(name), last
    return Split(name, draw), last + timedelta(days=RANDOM_DAYS)


def _check_split(rows: pl.LazyFrame, tasks: list[str], settings: DatasetConfig) -> bool:
    """Prints the days of each split; returns whether all test days follow the training days.

    Raises DataError if a required split is empty, or all training labels of a task are equal.
    """
    splits = (
        rows.group_by("split")
        .agg(
            pl.col("click", "order").mean(),
            rows=pl.len(),
            first=pl.col("day").min(),
            last=pl.col("day").max(),
            at_midnight=(pl.col("time").dt.time() == time(0)).sum(),
        )
        .collect(engine="streaming")
        .sort("first")
    )
    for row in splits.iter_rows(named=True):
        console.print(f"  {row['rows']:,} rows of {row['first']} to {row['last']}: {row['split']}")
    at_midnight = splits.select(pl.col("at_midnight").sum() / pl.col("rows").sum()).item()
    if at_midnight > MAX_AT_MIDNIGHT:
        console.print(
            f"  {at_midnight:.0%} of the times are exactly midnight: if they are dates without a "
            "time of day, leave hours and meals out of keywords and features"
        )
    by_split = splits.rows_by_key("split", named=True, unique=True)
    counts = {split: by_split[split]["rows"] if split in by_split else 0 for split in SPLITS}
    if not counts["train"] or (not counts["test"] and settings.test_days):
        raise DataError(
            f"table impressions: {counts['train']:,} training rows and {counts['test']:,} test "
            "rows; both are needed: give a longer log, another dataset.test_days, or a column "
            "`split`"
        )
    for task in tasks:
        share = by_split["train"][task]
        if share in (0, 1):
            raise DataError(
                f"table impressions: {task} is {'true' if share else 'false'} in all training "
                "rows; both values are needed"
                + ("" if task == "click" else " (without a column order, only CTR is trained)")
            )
    if not counts["test"]:
        return True
    ctr = (by_split[split]["click"] for split in SPLITS)
    check_sampling(settings.sampling_rate, *ctr)
    is_split_by_time = bool(by_split["test"]["first"] > by_split["train"]["last"])
    if not is_split_by_time:
        console.print(
            "  training and test days overlap or are out of order: statistics, profiles and "
            "histories count only training rows"
        )
    return is_split_by_time


def check_sampling(rate: float, train_ctr: float, test_ctr: float) -> None:
    """Raises DataError if the test days seem to be down-sampled like the training days.

    `rate` is the share of training impressions without a click that were kept.
    """
    if rate == 1:
        return
    true_ctr = train_ctr * rate / (1 - train_ctr + train_ctr * rate)
    # The geometric mean of the two CTRs separates a complete day from a sampled one.
    if test_ctr > math.sqrt(train_ctr * true_ctr):
        raise DataError(
            f"dataset.sampling_rate is {rate:g}, but the test rows seem to be down-sampled too: "
            f"their CTR is {test_ctr:.1%}, that of the training rows {train_ctr:.1%} "
            f"({true_ctr:.1%} before sampling). Keep all impressions of the test days, or remove "
            "sampling_rate to predict the probabilities of the sampled log"
        )


def _prefixed(frame: pl.DataFrame, prefix: str) -> pl.DataFrame:
    names = [name if name.startswith(prefix) else prefix + name for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"duplicate columns {', '.join(twice)}: a table has them with and without the prefix "
            f"{prefix}; rename one of each"
        )
    return frame.rename(dict(zip(frame.columns, names, strict=True)))
