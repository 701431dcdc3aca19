"""The tables after the contract's checks: sound rows go on, the others are kept with a reason."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import time
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PolarsError
from rich.markup import escape
from rich.table import Table

from larr import artifacts
from larr.config import Config
from larr.data.contract import (
    EXPECTED,
    TABLES,
    check_columns,
    check_rows,
    summarise,
)
from larr.data.tables import CSV, Tables
from larr.data.time_columns import with_time_columns
from larr.data.values import latest_now
from larr.errors import DataError
from larr.progress import console, track

SPLITS = ("train", "test")
LABELS = {
    "click": "rows with and without a click are needed",
    "order": "leave the column out if there are no orders; then CTR alone is trained",
}
MOST_REJECTED = 0.5
"""If a larger share of a table breaks the contract, larr stops whatever `dataset.bad_rows` is."""
MOST_LOST = 0.01
"""The same for a column of `EXPECTED`: such rows are not left out at random."""
MOST_AT_MIDNIGHT = 0.1
"""If a larger share of the times is midnight, they may be dates alone."""


@dataclass(frozen=True)
class Log:
    """Checked tables; columns of places begin with `poi_`, columns of users with `user_`."""

    places: pl.DataFrame
    users: pl.DataFrame
    history: pl.DataFrame
    impressions: list[Path]
    tasks: list[str]
    rejected: list[dict[str, Any]]

    def scan(self) -> pl.LazyFrame:
        """All impressions, with time columns and `split`, lazily."""
        return pl.scan_parquet(self.impressions)

    def chunks(self, split: str) -> Iterator[pl.DataFrame]:
        """The impressions of a split, chunk by chunk."""
        for path in self.impressions:
            yield pl.read_parquet(path).filter(pl.col("split") == split)


def check_tables(config: Config, tables: Tables, folder: Path) -> Log:
    """Checks every table; writes `folder/checked/` (impressions) and `folder/rejected/`."""
    checker = _Checker(config, folder / "rejected")
    places = checker.check("places", _collect(tables.places, "places"))
    users = checker.check("users", _collect(tables.users, "users"))
    checker.known = {"poi_id": places["poi_id"], "user_id": users["user_id"]}
    history = _history(checker, tables)
    files, has_order = _impressions(config, checker, tables, folder / "checked")
    checker.finish()
    history = _unlogged(history, files)
    _split(config, files)
    _check_labels(config, files, has_order)
    return Log(
        places=_prefixed(places, "poi_"),
        users=_prefixed(users, "user_"),
        history=history,
        impressions=files,
        tasks=["click", "order"] if has_order else ["click"],
        rejected=checker.summary,
    )


class _Checker:
    def __init__(self, config: Config, folder: Path) -> None:
        self.stop = config.dataset.bad_rows == "stop"
        self.folder = folder
        self.kept = artifacts.folder(config, "prepare") / folder.name
        self.known: dict[str, pl.Series] = {}
        self.summary: list[dict[str, Any]] = []
        self.given: Counter[str] = Counter()
        self.now, self.zone = latest_now(), config.dataset.tables.time_zone

    def check(self, table: str, frame: pl.DataFrame, chunk: int = 0) -> pl.DataFrame:
        check_columns(table, frame.columns)
        self.given[table] += frame.height
        checked = check_rows(table, frame, self.known, self.now, self.zone)
        if checked.rejected.height:
            self._keep(table, checked.rejected, f"{chunk:05}")
        return checked.good

    def reject_repeated(self, table: str, chunks: list[Path]) -> None:
        """Takes the rows out of the chunks whose key an earlier chunk has."""
        key = list(TABLES[table].key)
        counts = pl.scan_parquet(chunks).group_by(key).len()
        again = counts.filter(pl.col("len") > 1).collect(engine="streaming")
        seen = again.clear()
        for path in chunks if again.height else ():
            frame = pl.read_parquet(path)
            repeated = frame.join(seen, on=key, how="semi", maintain_order="left")
            if repeated.height:
                reason = pl.lit("duplicate key " + " + ".join(key)).alias("reason")
                self._keep(table, repeated.select(reason, pl.all()), f"{path.stem}-repeated")
                frame.join(seen, on=key, how="anti", maintain_order="left").write_parquet(path)
            seen = pl.concat([seen, again.join(frame, on=key, how="semi")])

    def _keep(self, table: str, rejected: pl.DataFrame, name: str) -> None:
        self.folder.mkdir(exist_ok=True)
        rejected.write_parquet(self.folder / f"{table}-{name}.parquet")
        self.summary += summarise(table, rejected)

    def finish(self) -> None:
        self.summary = _merged(self.summary)
        if not self.summary:
            return
        table = Table("table", "rows", "reason", "examples", title="Rows that break the contract")
        for row in self.summary:
            examples = escape("; ".join(str(example) for example in row["examples"]))
            table.add_row(row["table"], f"{row['rows']:,}", row["reason"], examples)
        console.print(table)
        self._check_expected()
        rejected: Counter[str] = Counter()
        for row in self.summary:
            rejected[row["table"]] += row["rows"]
        for name, count in rejected.items():
            if count > MOST_REJECTED * self.given[name]:
                raise DataError(
                    f"table {name}: {count:,} of {self.given[name]:,} rows break the data contract "
                    f"(table above, rows in {self.folder}), which is no log to learn from"
                )
        console.print(f"  kept in {self.kept}")
        if self.stop:
            total = rejected.total()
            raise DataError(
                f"{total:,} rows break the data contract (table above, rows in {self.folder}); "
                'mend them, or set dataset.bad_rows = "reject" to go on without them'
            )

    def _check_expected(self) -> None:
        """Refuses a log of which too many rows are lost for a column of `EXPECTED`."""
        for row in self.summary:
            for reason in row["reason"].split("; "):
                column = reason.partition(" ")[0]
                if column in EXPECTED and row["rows"] > MOST_LOST * self.given[row["table"]]:
                    raise DataError(
                        f"table {row['table']}: {reason} in {row['rows']:,} of "
                        f"{self.given[row['table']]:,} rows, such as {row['examples'][0]}; "
                        f"expected {EXPECTED[column]}. Without these rows the log would tell "
                        "something else"
                    )


def _merged(summary: list[dict[str, Any]]) -> list[dict[str, Any]]:
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for row in summary:
        kept = merged.setdefault((row["table"], row["reason"]), row | {"rows": 0, "examples": []})
        kept["rows"] += row["rows"]
        kept["examples"] = (kept["examples"] + row["examples"])[:3]
    return list(merged.values())


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except (PolarsError, OSError) as error:
        said = str(error).partition("\n")[0]
        raise DataError(f"table {name}: cannot be read: {said}. {CSV}") from error


def _collect(table: pl.LazyFrame, name: str) -> pl.DataFrame:
    with _reading(name):
        return table.collect(engine="streaming")


def _batches(table: pl.LazyFrame, name: str, rows: int) -> Iterator[pl.DataFrame]:
    with _reading(name):
        yield from table.collect_batches(chunk_size=rows, maintain_order=True)


def _history(checker: _Checker, tables: Tables) -> pl.DataFrame:
    if tables.orders is None:
        kinds: dict[str, Any] = {
            "user_id": pl.String,
            "poi_id": pl.String,
            "time": pl.Datetime("us"),
        }
        return with_time_columns(pl.DataFrame(schema=kinds))
    return with_time_columns(checker.check("orders", _collect(tables.orders, "orders")))


def _unlogged(history: pl.DataFrame, files: list[Path]) -> pl.DataFrame:
    """The orders that are not in the log, too, and not later than it: each is to count once."""
    log = pl.scan_parquet(files) if files else pl.LazyFrame({"day": []})
    last = log.select(pl.col("day").max()).collect(engine="streaming").item()
    if not history.height or last is None:
        return history
    key = ["user_id", "poi_id", "day"]
    logged = log.filter(pl.col("order")).select(key).unique().collect(engine="streaming")
    kept = history.filter(pl.col("day") <= last).join(
        logged, on=key, how="anti", maintain_order="left"
    )
    if dropped := history.height - kept.height:
        console.print(f"  orders: {dropped:,} are in the log, too, or later; they count once")
    return kept


def _impressions(
    config: Config, checker: _Checker, tables: Tables, folder: Path
) -> tuple[list[Path], bool]:
    folder.mkdir()
    with _reading("impressions"):
        columns = tables.impressions.collect_schema().names()
    check_columns("impressions", columns)
    has_order = "order" in columns
    total = int(_collect(tables.impressions.select(pl.len()), "impressions").item())
    files: list[Path] = []
    with track("checking impressions", total, "rows") as advance:
        batches = _batches(tables.impressions, "impressions", config.dataset.chunk_rows)
        for number, batch in enumerate(batches):
            good = with_time_columns(checker.check("impressions", batch, number))
            if not has_order:
                good = good.with_columns(order=pl.col("click"))
            files.append(folder / f"{number:05}.parquet")
            good.write_parquet(files[-1])
            advance(batch.height)
    if len(files) > 1:
        checker.reject_repeated("impressions", files)
    return files, has_order


def _split(config: Config, files: list[Path]) -> None:
    """Gives every impression its split: the column of that name, or the last days."""
    log = pl.scan_parquet(files) if files else pl.LazyFrame({"day": []})
    last = log.select(pl.col("day").max()).collect(engine="streaming").item()
    if last is None:
        raise DataError("table impressions: no sound row is left; see the reasons above")
    late = (pl.lit(last) - pl.col("day")).dt.total_days() < config.dataset.test_days
    by_time = pl.when(late).then(pl.lit("test")).otherwise(pl.lit("train"))
    counts = dict.fromkeys(SPLITS, 0)
    for path in files:
        frame = pl.read_parquet(path)
        given = pl.col("split").cast(pl.String) if "split" in frame.columns else by_time
        frame = frame.with_columns(split=given)
        for split in SPLITS:
            counts[split] += frame.filter(pl.col("split") == split).height
        frame.write_parquet(path)
    days = pl.scan_parquet(files).group_by("split")
    found = days.agg(first=pl.col("day").min(), last=pl.col("day").max())
    for split, first, last in found.collect(engine="streaming").sort("first").iter_rows():
        console.print(f"  {counts.get(split, 0):,} rows of {first} to {last}: {split}")
    _say_dates_alone(files)
    if not all(counts.values()):
        raise DataError(
            f"table impressions: {counts['train']:,} rows to train and {counts['test']:,} to test; "
            "both are needed: give a longer log, another dataset.test_days, or a column `split`"
        )


def _say_dates_alone(files: list[Path]) -> None:
    """Warns of a log whose times may be dates without a time."""
    at_midnight = pl.col("time").dt.time() == time(0)
    share = pl.scan_parquet(files).select(at_midnight.mean()).collect(engine="streaming").item()
    if share > MOST_AT_MIDNIGHT:
        console.print(
            f"  {share:.0%} of the times are midnight to the second: if they are dates without a "
            "time, leave hours and meals out of keywords and features"
        )


def _check_labels(config: Config, files: list[Path], has_order: bool) -> None:
    """Refuses a log of which nothing can be learned, or whose test days are down-sampled."""
    train = pl.scan_parquet(files).filter(pl.col("split") == "train")
    told = train.select(pl.col("click", "order").mean()).collect(engine="streaming").row(0)
    for name, share in zip(("click", "order")[: 1 + has_order], told, strict=False):
        if share in (0, 1):
            raise DataError(
                f"table impressions: {name} is {'true' if share else 'false'} in every sound row "
                f"to train; {LABELS[name]}"
            )
    _check_sampling(config.dataset.sampling_rate, files)


def _check_sampling(rate: float, files: list[Path]) -> None:
    """The test days have all impressions, whatever part of the training days' was kept."""
    if rate == 1:
        return
    log = pl.scan_parquet(files).group_by("split").agg(pl.col("click").mean())
    shares = dict(log.collect(engine="streaming").rows())
    kept, found = shares["train"], shares["test"]
    whole = kept * rate / (1 - kept + kept * rate)
    if found > math.sqrt(kept * whole):
        raise DataError(
            f"dataset.sampling_rate is {rate:g}, but {found:.1%} of the test rows are clicks, as "
            f"in a sampled log ({kept:.1%} of the training rows, so {whole:.1%} of all). "
            "Keep all impressions of the test days, or leave sampling_rate out: then "
            "probabilities are those of the sampled log"
        )


def _prefixed(frame: pl.DataFrame, prefix: str) -> pl.DataFrame:
    names = [name if name.startswith(prefix) else prefix + name for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"columns {', '.join(twice)} would be there twice: a table has them with the prefix "
            f"{prefix} and without; rename one of each"
        )
    return frame.rename(dict(zip(frame.columns, names, strict=True)))
