"""Checks tables against the data contract: good rows go on, the others are kept with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs
from rich.markup import escape
from rich.table import Table as TerminalTable

from larr.data.contract import NUMBER, TABLES, Rule, broken_rules, sentence
from larr.data.transforms import text_column
from larr.errors import DataError
from larr.progress import console

MOST_REJECTED = 0.5
"""If a larger share of a table is rejected, larr stops even with `dataset.bad_rows = "reject"`."""
MOST_LOST = 0.01
"""The same for rows that break a rule of a column with `expected`: labels, times, splits and
positions are not wrong at random, and the rest of the log would be biased."""
EXAMPLES = 3
"""Rows of each reason that are shown."""
EARLIEST_ZONE = timedelta(hours=14)
"""The offset from UTC of the zone that reaches a date first."""
YEAR_FIRST = r"^\d{4}\D"
"""A date with another order is not read: 04/05/2024 may be in April or in May."""
OFFSET = r"(\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?)\s*(?:Z|UTC|[+-]\d{2}(?::?\d{2})?)$"
"""A time of day (group 1) and its offset from UTC at the end of a text."""
SIGNED_OFFSET = r":\d{2}(?:\.\d+)?\s*([+-])(\d{2}):?(\d{2})?$"
"""Sign, hours and minutes of an offset; Z and UTC have none."""
TRUTH = dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True)
TRUTH |= dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False)
WHY = ("reason", "broken_rules")
"""Columns in front of rejected rows; columns of the user with these names get a suffix."""


def check_columns(table: str, columns: list[str]) -> None:
    """Raises DataError if a required column is missing."""
    missing = [name for name in TABLES[table].required if name not in columns]
    if missing:
        raise DataError(
            f"table {table}: no column {', '.join(missing)}; it has {', '.join(columns)}. "
            f"Rename yours with [dataset.tables.rename.{table}], for example "
            f'{missing[0]} = "your column"'
        )


def check_rows(
    table: str,
    frame: pl.DataFrame,
    known: Mapping[str, pl.Series],
    now: datetime,
    zone: str = "",
    numbers: Collection[str] = (),
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Returns the good rows, in the types of the contract, and the rejected rows as given.

    Rejected rows begin with `reason` (sentences joined by "; ") and `broken_rules` (a list of
    structs with the fields of `Rule`). `known` holds the IDs that a row may refer to, `zone` is
    `dataset.tables.time_zone`, and `numbers` are columns beyond the contract that hold numbers.
    """
    # Only texts, as CSV files have them, have to be read as numbers.
    own = {name for name in numbers if frame.schema.get(name) == pl.String}
    own -= TABLES[table].columns.keys()
    optional = TABLES[table].optional | dict.fromkeys(sorted(own), NUMBER)
    contract = replace(TABLES[table], optional=optional)
    # Null for blank texts, and for NaN and infinity beyond the contract. Texts of required columns
    # stay as they are, so that the reason can be that they are empty.
    texts = cs.string() - cs.by_name(*contract.required, require_all=False)
    floats = cs.float() - cs.by_name(*contract.columns, require_all=False)
    numerals = cs.by_name(*own)
    is_number = numerals.cast(pl.Float64, strict=False).is_finite().fill_null(value=True)
    given = frame.with_columns(
        pl.when(texts.str.strip_chars() != "").then(texts),
        pl.when(floats.is_finite()).then(floats),
    ).with_columns(pl.when(is_number).then(numerals))
    typed = given.select(
        _as_type(name, given.schema[name], column.dtype, zone)
        for name, column in contract.columns.items()
        if name in given.columns
    )
    broken = broken_rules(contract, given, typed, known, now)
    good = typed.with_columns(given.drop(typed.columns))
    return good.filter(~pl.any_horizontal(*broken.values())), _rejected(given, broken)


class Checker:
    """Checks the tables of a run, one after the other, and keeps the rejected rows in `folder`."""

    def __init__(self, folder: Path, zone: str, numbers: Mapping[str, Collection[str]]) -> None:
        """`numbers` are the columns of each table beyond the contract that hold numbers."""
        self.folder, self.zone, self.numbers = folder, zone, numbers
        # Times of the contract are local, so "now" is the latest that any clock shows.
        self.now = datetime.now(UTC).replace(tzinfo=None) + EARLIEST_ZONE
        self.known: dict[str, pl.Series] = {}
        """IDs that the next tables may refer to."""
        self.rows: Counter[str] = Counter()
        self.rows_rejected: Counter[str] = Counter()
        self.summary: dict[tuple[str, str], dict[str, Any]] = {}
        """By table and reason: `broken_rules`, the number of `rows` and some `examples`."""

    def good_rows(self, table: str, frame: pl.DataFrame, chunk: int = 0) -> pl.DataFrame:
        """Returns the good rows of a table, or of one of its chunks."""
        check_columns(table, frame.columns)
        self.rows[table] += frame.height
        good, rejected = check_rows(
            table, frame, self.known, self.now, self.zone, self.numbers.get(table, ())
        )
        self._keep(table, rejected, f"{chunk:05}")
        return good

    def keep_lines(self, lines: pl.DataFrame) -> None:
        """Keeps lines of files that are no rows of a table, see `Files.unreadable`."""
        for (file, reason), rows in lines.group_by("file", "reason", maintain_order=True):
            self.rows_rejected[str(file)] += rows.height
            self.summary[str(file), str(reason)] = {
                "table": str(file),
                "reason": str(reason),
                "rows": rows.height,
                "broken_rules": [],
                "examples": rows.head(EXAMPLES).select("line", "text").to_dicts(),
            }
        if lines.height:
            self.folder.mkdir(exist_ok=True)
            lines.write_parquet(self.folder / "lines.parquet")

    def reject_repeated(self, table: str, chunks: list[Path]) -> None:
        """Takes rows out of the chunks (Parquet files) whose key an earlier chunk contains."""
        key = list(TABLES[table].key)
        rule = Rule(" + ".join(key), "duplicate")
        counts = pl.scan_parquet(chunks).group_by(key).len()
        repeated = counts.filter(pl.col("len") > 1).collect(engine="streaming")
        seen = repeated.clear()  # only keys that occur twice are held in memory
        for path in chunks if repeated.height else ():
            rows = pl.read_parquet(path)
            again = rows.join(seen, on=key, how="semi", maintain_order="left")
            if again.height:
                everywhere = pl.repeat(True, again.height, eager=True)
                self._keep(table, _rejected(again, {rule: everywhere}), f"{path.stem}-repeated")
                rows.join(seen, on=key, how="anti", maintain_order="left").write_parquet(path)
            seen = pl.concat([seen, repeated.join(rows, on=key, how="semi")])

    def _keep(self, table: str, rejected: pl.DataFrame, name: str) -> None:
        """Writes rejected rows to a file and adds them to the summary."""
        if not rejected.height:
            return
        self.folder.mkdir(exist_ok=True)
        rejected.write_parquet(self.folder / f"{table}-{name}.parquet")
        self.rows_rejected[table] += rejected.height
        for (reason,), rows in rejected.group_by("reason", maintain_order=True):
            rules = rows["broken_rules"][0].to_list()
            new = {"table": table, "reason": reason, "rows": 0, "broken_rules": rules}
            group = self.summary.setdefault((table, str(reason)), new | {"examples": []})
            group["rows"] += rows.height
            columns = dict.fromkeys([*TABLES[table].required, *(rule["column"] for rule in rules)])
            examples = rows.select(name for name in columns if name in rows.columns)
            examples = examples.head(EXAMPLES - len(group["examples"])).cast(pl.String)
            group["examples"] += examples.to_dicts()

    def finish(self, kept_in: Path, *, stop: bool) -> None:
        """Prints what was rejected; raises DataError if it is too much, or anything and `stop`.

        `kept_in` is where `folder` will be once the stage is complete.
        """
        if not self.summary:
            return
        title = "Rows that break the data contract"
        printed = TerminalTable("table", "rows", "reason", "examples", title=title)
        for group in self.summary.values():
            examples = escape("; ".join(map(str, group["examples"])))
            printed.add_row(group["table"], f"{group['rows']:,}", group["reason"], examples)
        console.print(printed)
        for group in self.summary.values():
            table, rows = group["table"], self.rows[group["table"]]
            for rule in group["broken_rules"]:
                column = TABLES[table].columns.get(rule["column"])
                if column and column.expected and group["rows"] > MOST_LOST * rows:
                    raise DataError(
                        f"table {table}: {sentence(Rule(**rule))} in {group['rows']:,} of "
                        f"{rows:,} rows, for example {group['examples'][0]}; expected "
                        f"{column.expected}. Without these rows the log would be biased"
                    )
        for table, rejected in self.rows_rejected.items():
            if table in TABLES and rejected > MOST_REJECTED * self.rows[table]:
                raise DataError(
                    f"table {table}: {rejected:,} of {self.rows[table]:,} rows break the data "
                    f"contract (table above, rows in {self.folder}), too many to learn from the "
                    "others; correct them"
                )
        console.print(f"  kept in {kept_in}")
        if stop:
            raise DataError(
                f"{self.rows_rejected.total():,} rows break the data contract (table above, rows "
                f'in {self.folder}); correct them, or set dataset.bad_rows = "reject" to go on '
                "without them"
            )


def _as_type(column: str, dtype: pl.DataType, wanted: pl.DataType, zone: str) -> pl.Expr:
    """Returns a column of type `dtype` in the type `wanted`; null for what cannot be read.

    Times are those that a clock at the place, in `zone`, shows, without a zone. A zone of "" keeps
    the reading of the clock and drops the offset.
    """
    value = pl.col(column)
    if wanted == pl.Datetime:
        return _as_time(value, dtype, zone)
    if wanted == pl.String and dtype.is_float():
        return text_column(column, dtype)
    if wanted == pl.Boolean and dtype == pl.String:
        words = value.str.to_lowercase()
        return words.replace_strict(TRUTH, default=None, return_dtype=pl.Boolean)
    if wanted == pl.Boolean and dtype.is_numeric():
        # Logs often hold how many clicks a row had; a fraction or a negative number is no count.
        return pl.when((value >= 0) & (value % 1 == 0)).then(value > 0)
    return value.cast(wanted, strict=False)


def _as_time(value: pl.Expr, dtype: pl.DataType, zone: str) -> pl.Expr:
    if dtype == pl.String:
        dated = pl.when(value.str.contains(YEAR_FIRST)).then(value.str.replace(OFFSET, "$1"))
        clock = dated.str.to_datetime(strict=False, time_unit="us")
        if not zone:
            return clock
        # Only a text with an offset is an instant that can be moved to another zone.
        sign, hours, minutes = (value.str.extract(SIGNED_OFFSET, group) for group in (1, 2, 3))
        size = hours.cast(pl.Int64) * 60 + minutes.cast(pl.Int64).fill_null(0)
        offset = pl.duration(minutes=pl.when(sign == "-").then(-size).otherwise(size).fill_null(0))
        moved = _in_zone(clock - offset, zone)
        return pl.when(value.str.contains(OFFSET)).then(moved).otherwise(clock)
    if dtype.is_numeric():
        # The sizes of seconds, milliseconds, microseconds and nanoseconds since 1970 do not
        # overlap until 5138.
        number = value.cast(pl.Int64, strict=False)
        microseconds = number // 1_000
        for limit, factor in ((1e17, 1), (1e14, 1_000), (1e11, 1_000_000)):
            microseconds = pl.when(number < limit).then(number * factor).otherwise(microseconds)
        instant = microseconds.cast(pl.Datetime("us"))
        return _in_zone(instant, zone) if zone else instant
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        value = value.dt.convert_time_zone(zone or dtype.time_zone).dt.replace_time_zone(None)
    return value.cast(pl.Datetime("us"), strict=False)


def _in_zone(utc: pl.Expr, zone: str) -> pl.Expr:
    return utc.dt.replace_time_zone("UTC").dt.convert_time_zone(zone).dt.replace_time_zone(None)


def _rejected(rows: pl.DataFrame, broken: Mapping[Rule, pl.Series]) -> pl.DataFrame:
    """Returns the rows that break a rule, with their reasons in front, as `check_rows` does."""
    by_rule = [
        pl.select(
            row=where.arg_true(),
            reason=pl.lit(sentence(rule)),
            column=pl.lit(rule.column),
            kind=pl.lit(rule.kind),
            limit=pl.lit(rule.limit, pl.Float64),
        )
        for rule, where in broken.items()
    ]
    reasons = (
        pl.concat(by_rule)
        .group_by("row")
        .agg(pl.col("reason").str.join("; "), broken_rules=pl.struct("column", "kind", "limit"))
        .sort("row")
    )
    given = rows[reasons["row"]].rename(lambda name: f"{name}_given" if name in WHY else name)
    return pl.concat([reasons.select(WHY), given], how="horizontal")
