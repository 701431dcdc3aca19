"""Writes the invalid rows and values of a run to files, and reports them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
from rich.table import Table as TerminalTable

from larr.config import Config
from larr.data.checks import Checked, Checks, with_reasons
from larr.data.contract import TABLES, duplicates
from larr.data.names import own_numbers
from larr.data.transforms import as_texts
from larr.errors import DataError
from larr.progress import console

MAX_REJECTED = 0.5
"""larr stops if a larger share of a table is rejected, even with `dataset.bad_rows = "reject"`."""
MAX_LOST = 0.01
"""The same limit for columns with `expected`: labels, times, splits and positions are not wrong at
random, so the remaining log would be biased."""
MAX_BLANKED = 0.05
"""If a larger share of a column is invalid, the column may have another unit or meaning."""
EXAMPLES = 3
"""Rows shown for each reason."""


def check_required(table: str, columns: list[str]) -> None:
    """Raises DataError if a required column is missing."""
    missing = [name for name in TABLES[table].required if name not in columns]
    if missing:
        raise DataError(
            f"table {table}: no column {', '.join(missing)}; it has {', '.join(columns)}. "
            f"Rename yours with [dataset.tables.rename.{table}], for example "
            f'{missing[0]} = "your column"'
        )


class Rejections:
    """The invalid rows and values of all tables; `folder` receives them."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder, self.checks = folder, Checks(config)
        self.rows: Counter[str] = Counter()
        self.rows_rejected: Counter[str] = Counter()
        self.summary: dict[tuple[str, str], dict[str, Any]] = {}
        """(table, reason) -> their `columns`, the number of `rows`, and `examples`."""
        self.values: Counter[tuple[str, str]] = Counter()
        """(table, column) -> number of values."""
        self.blanked: dict[tuple[str, str, str], dict[str, Any]] = {}
        """(table, column, reason) -> the number of invalid `cells`, and `examples`."""

    def check(self, table: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Returns the valid rows of a complete table, to whose key later tables can refer."""
        check_required(table, frame.columns)
        checked = self.checks.check(table, frame)
        self.add(table, frame.height, checked)
        for key in TABLES[table].key:
            good, ids = checked.good[key], as_texts(checked.rejected[key])
            self.checks.known[key] = good
            self.checks.rejected[key] = ids.filter(~ids.is_in(good.implode())).drop_nulls()
        return checked.good

    def add(self, table: str, rows: int, checked: Checked, chunk: int = 0) -> None:
        """Adds what was found in a table, or in one of its chunks."""
        self.rows[table] += rows
        self._add_rows(table, checked.rejected, f"{chunk:05}")
        self._add_values(table, checked, f"{chunk:05}")

    def add_lines(self, lines: pl.DataFrame) -> None:
        """Adds malformed lines of CSV files, see `larr.data.csv_files`."""
        for (file, reason), rows in lines.group_by("file", "reason", maintain_order=True):
            lost = int((rows["text"].str.count_matches("\n") + 1).sum())
            self.rows_rejected[str(file)] += lost
            self.summary[str(file), str(reason)] = {
                "table": str(file),
                "reason": str(reason),
                "rows": lost,
                "columns": [],
                "examples": rows.head(EXAMPLES).select("line", "text").to_dicts(),
            }
        self._write(lines, "lines")

    def reject_repeated(self, table: str, chunks: list[Path]) -> None:
        """Rejects the rows of chunks (Parquet files) whose key is in an earlier chunk."""
        key = list(TABLES[table].key)
        # The keys of all rows need too much memory; their hashes show which ones may repeat.
        log, hashed = pl.scan_parquet(chunks), pl.struct(key).hash()
        hash_N = log.select(hashed).collect(engine="streaming").to_series().to_numpy(writable=True)
        hash_N.sort()
        twice = pl.Series(hash_N[1:][hash_N[1:] == hash_N[:-1]]).unique()
        if twice.is_empty():
            return
        counts = log.filter(hashed.is_in(twice.implode())).group_by(key).len()
        repeated = counts.filter(pl.col("len") > 1).collect(engine="streaming")
        seen = repeated.clear()  # only repeated keys are held in memory
        for path in chunks:
            rows = pl.read_parquet(path)
            again = rows.join(seen, on=key, how="semi", maintain_order="left")
            if again.height:
                violations = duplicates(TABLES[table], pl.repeat(True, again.height, eager=True))
                self._add_rows(table, with_reasons(again, violations), f"{path.stem}-repeated")
                rows.join(seen, on=key, how="anti", maintain_order="left").write_parquet(path)
            seen = pl.concat([seen, repeated.join(rows, on=key, how="semi")])

    def _write(self, frame: pl.DataFrame, name: str) -> None:
        if frame.height:
            self.folder.mkdir(exist_ok=True)
            frame.write_parquet(self.folder / f"{name}.parquet")

    def _add_rows(self, table: str, rejected: pl.DataFrame, name: str) -> None:
        self._write(rejected, f"{table}-{name}")
        self.rows_rejected[table] += rejected.height
        for (reason,), rows in rejected.group_by("reason", maintain_order=True):
            columns = rows["columns"][0].to_list()
            new = {"table": table, "reason": reason, "rows": 0, "columns": columns}
            group = self.summary.setdefault((table, str(reason)), new | {"examples": []})
            group["rows"] += rows.height
            shown = dict.fromkeys([*TABLES[table].required, *columns])
            examples = rows.select(name for name in shown if name in rows.columns)
            examples = examples.head(EXAMPLES - len(group["examples"])).cast(pl.String)
            group["examples"] += examples.to_dicts()

    def _add_values(self, table: str, checked: Checked, name: str) -> None:
        self._write(checked.blanked, f"{table}-{name}-values")
        self.values.update({(table, column): count for column, count in checked.values.items()})
        for (column, marker), count in checked.markers.items():
            reason = f"{marker} is a word for a missing value (dataset.missing)"
            self._of_column(table, column, reason)["cells"] += count
        rules = checked.blanked.group_by("column", "reason", maintain_order=True)
        for (column, reason), cells in rules:
            group = self._of_column(table, str(column), str(reason))
            group["cells"] += cells.height
            examples = cells["value"].unique(maintain_order=True).head(EXAMPLES)
            group["examples"] = [*dict.fromkeys([*group["examples"], *examples])][:EXAMPLES]

    def _of_column(self, table: str, column: str, reason: str) -> dict[str, Any]:
        new = {"table": table, "column": column, "reason": reason, "cells": 0, "examples": []}
        return self.blanked.setdefault((table, column, reason), new)

    def report(self, kept_in: Path) -> None:
        """Prints what was rejected; raises DataError if it is too much.

        `kept_in` is the path of `folder` once the stage is complete.
        """
        bad_cells = self._report_values()
        if not (self.summary or bad_cells):
            return
        title = "Rows that break the data contract"
        printed = TerminalTable("table", "rows", "reason", "examples", title=title)
        for group in self.summary.values():
            examples = "; ".join(map(str, group["examples"]))
            printed.add_row(group["table"], f"{group['rows']:,}", group["reason"], examples)
        if self.summary:
            console.print(printed)
        for group in self.summary.values():
            table, rows = group["table"], self.rows[group["table"]]
            for name in group["columns"]:
                column = TABLES[table].columns.get(name)
                if column and column.expected and group["rows"] > MAX_LOST * rows:
                    raise DataError(
                        f"table {table}: {group['reason']} in {group['rows']:,} of "
                        f"{rows:,} rows, for example {group['examples'][0]}; expected "
                        f"{column.expected}. Dropping these rows would bias the log"
                    )
        for table, rejected in self.rows_rejected.items():
            if table in TABLES and rejected > MAX_REJECTED * self.rows[table]:
                raise DataError(
                    f"table {table}: {rejected:,} of {self.rows[table]:,} rows break the data "
                    f"contract, too many to train on the rest; correct them (see the table above "
                    f"and {self.folder})"
                )
        console.print(f"  kept in {kept_in}")
        if self.checks.config.dataset.bad_rows == "stop":
            raise DataError(
                f"{self.rows_rejected.total():,} rows and {bad_cells:,} single values break the "
                f"data contract (see the tables above and {self.folder}); correct them, or set "
                'dataset.bad_rows = "reject" to continue without them'
            )

    def _report_values(self) -> int:
        """Prints the values that are treated as missing; returns the number of invalid ones."""
        title = "Values treated as missing"
        printed = TerminalTable("table", "column", "values", "reason", "examples", title=title)
        bad: Counter[tuple[str, str]] = Counter()
        for group in self.blanked.values():
            table, column, cells = group["table"], group["column"], group["cells"]
            examples = ", ".join(map(repr, group["examples"]))
            printed.add_row(table, column, f"{cells:,}", group["reason"], examples)
            bad[table, column] += cells if group["examples"] else 0
        if self.blanked:
            console.print(printed)
        for (table, column), cells in bad.items():
            share = cells / max(self.values[table, column], 1)
            line = f"table {table}: {share:.0%} of the values of {column} are invalid (see above)"
            if share > MAX_REJECTED and column in own_numbers(self.checks.config, table):
                raise DataError(
                    f"{line}; correct them, or remove the column from features.numbers and buckets"
                )
            if share > MAX_BLANKED:
                console.print(f"  {line}: does the column have another unit or meaning?")
        return bad.total()
