"""Places that came after the training days: a journal on the disk, and their checks.

The journal has one JSON object a line: a place, or the ID of one that is withdrawn. A place is on
the disk before a client learns that it is accepted.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock
from rich.markup import escape

from larr.data.checks import OFFSET, check_rows
from larr.data.contract import TABLES
from larr.data.statistics import NEVER_SEEN
from larr.errors import InputError
from larr.progress import console

JOURNAL = "places.jsonl"
ID, PREFIX, WITHDRAWN = "poi_id", "poi_", "withdrawn"
STATISTICS = {PREFIX + name for name in (*NEVER_SEEN, "ctr", "cvr")}
LONGEST_LINE = 2**22
"""Bytes; the body of a request, and so a place, is shorter."""
Row = dict[str, Any]


@dataclass
class Journal:
    """The accepted places of a store, in the order in which they came and were withdrawn."""

    path: Path
    read_to: int = 0

    def append(self, row: Row) -> None:
        """Writes a row, and returns when it is on the disk.

        Half a line, left by a process that was killed, is removed first.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with FileLock(self.path.with_suffix(".lock")), self.path.open("ab+") as file:
            tail_start = max(0, file.seek(0, os.SEEK_END) - LONGEST_LINE)
            file.seek(tail_start)
            file.truncate(tail_start + file.read().rfind(b"\n") + 1)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def news(self) -> list[Row]:
        """Returns the rows that were appended since the last call."""
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size < self.read_to:  # the file was shortened or replaced by hand
            self.read_to = 0
        if not size:
            return []
        with self.path.open("rb") as file:
            file.seek(self.read_to)
            content = file.read()
        lines = content[: content.rfind(b"\n") + 1]
        self.read_to += len(lines)
        return [row for line in lines.splitlines() if (row := self._read(line)) is not None]

    def _read(self, line: bytes) -> Row | None:
        """Returns the row of a line; None, with a message, for a line that is no row."""
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and (isinstance(row.get(ID), str) or withdrawn(row) is not None):
            return row
        console.print(escape(f"{self.path}: {line!r:.80} is no place and is passed over"))
        return None


def withdrawn(row: Row) -> str | None:
    """Returns the ID of the place that a row withdraws; None if the row is a place."""
    poi_id = row.get(WITHDRAWN)
    return poi_id if len(row) == 1 and isinstance(poi_id, str) else None


def as_known(row: Row, known: pl.DataFrame) -> pl.DataFrame:
    """Returns a place of the data contract as a row of `Known.places`.

    Raises InputError if a column is missing, unknown, or has a value that the contract refuses.
    """
    kinds = {
        name: kind
        for full, kind in known.schema.items()
        if full not in STATISTICS and (name := full if full == ID else full.removeprefix(PREFIX))
    }
    if unknown := sorted(set(row) - set(kinds)):
        raise InputError(
            f"a place has no column {unknown[0]!r:.80} here; there are {', '.join(kinds)}"
        )
    if not isinstance(row.get(ID, ""), str):
        raise InputError(f"{ID} must be a text or a whole number, got {row[ID]!r:.80}")
    if missing := [name for name in TABLES["places"].required if name not in row]:
        raise InputError(f"a place needs {', '.join(missing)}")
    try:
        table = pl.DataFrame({name: [value] for name, value in row.items()}, strict=False)
        good, rejected = check_rows("places", table, {}, datetime.now())
        if rejected.height:
            raise InputError(f"the place is refused: {rejected['reason'].item()}")
        return good.select(
            _cast(good[name], kinds[name]).alias(name if name == ID else PREFIX + name)
            for name in row
        )
    except (TypeError, OverflowError, pl.exceptions.PolarsError) as error:
        raise InputError(f"the place cannot be read: {error!s:.200}") from error


def _cast(series: pl.Series, kind: pl.DataType) -> pl.Series:
    """Casts a column; of a time, the clock of the place counts and the zone is dropped."""
    if series.dtype == pl.String and kind == pl.Datetime:
        series = series.str.replace(OFFSET, "$1").str.to_datetime(time_unit="us")
    return series.cast(kind)
