"""Places that came after the training days: kept on disk once accepted, and read as the contract.

A journal holds one JSON object a line: a place, or the ID of one that is withdrawn. What a client
was told is accepted is on the disk by then.
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

from larr.data.checks import check_rows
from larr.data.contract import TABLES
from larr.data.known import NEVER_SEEN
from larr.data.values import OFFSET
from larr.errors import InputError
from larr.progress import console

JOURNAL = "places.jsonl"
ID, PREFIX, WITHDRAWN = "poi_id", "poi_", "withdrawn"
STATISTICS = {PREFIX + name for name in (*NEVER_SEEN, "ctr", "cvr")}
Row = dict[str, Any]


@dataclass
class Journal:
    """The accepted places of a store, in the order in which they came and were withdrawn."""

    path: Path
    read_to: int = 0

    def append(self, row: Row) -> None:
        """Returns when the row is on the disk; half a line of a killed process is cut off."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with FileLock(self.path.with_suffix(".lock")), self.path.open("ab+") as file:
            whole = _whole(file.seek(0, os.SEEK_END), self.path)
            file.truncate(whole)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def news(self) -> list[Row]:
        """The rows that came since it was last asked."""
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size < self.read_to:  # somebody has shortened it
            self.read_to = 0
        if not size:
            return []
        with self.path.open("rb") as file:
            file.seek(self.read_to)
            told = file.read()
        told = told[: told.rfind(b"\n") + 1]
        self.read_to += len(told)
        return [row for line in told.splitlines() if (row := self._read(line)) is not None]

    def _read(self, line: bytes) -> Row | None:
        """The place of a line; None, and said, if somebody has written something else there."""
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and (isinstance(row.get(ID), str) or withdrawn(row) is not None):
            return row
        console.print(escape(f"{self.path}: {line!r:.80} is no place and is passed over"))
        return None


def withdrawn(row: Row) -> str | None:
    """The ID of the place that a row of the journal withdraws; None if it is a place."""
    poi_id = row.get(WITHDRAWN)
    return poi_id if len(row) == 1 and isinstance(poi_id, str) else None


def _whole(size: int, path: Path) -> int:
    """The length up to the end of the last whole line."""
    with path.open("rb") as file:
        at = size
        while at > 0:
            start = max(0, at - 65_536)
            file.seek(start)
            found = file.read(at - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            at = start
    return 0


def as_known(row: Row, known: pl.DataFrame) -> pl.DataFrame:
    """A place of the data contract as a row of `Known.places`; InputError if it is none."""
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
        given = pl.DataFrame({name: [value] for name, value in row.items()}, strict=False)
        checked = check_rows("places", given, {}, datetime.now())
        if checked.rejected.height:
            raise InputError(f"the place is refused: {checked.rejected['reason'].item()}")
        return checked.good.select(
            _cast(checked.good[name], kinds[name]).alias(name if name == ID else PREFIX + name)
            for name in row
        )
    except (TypeError, OverflowError, pl.exceptions.PolarsError) as error:
        raise InputError(f"the place cannot be read: {error!s:.200}") from error


def _cast(series: pl.Series, kind: pl.DataType) -> pl.Series:
    if series.dtype == pl.String and kind == pl.Datetime:
        series = series.str.replace(OFFSET, "$1").str.to_datetime(time_unit="us")
    return series.cast(kind)
