"""Places added after the training days: their validation, and a journal on disk.

Each line of the journal is a JSON object: a place, or the ID of a withdrawn place. A place is on
disk before the client learns that it is accepted.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock

from larr.config import Config
from larr.data.checks import Checks
from larr.data.contract import TABLES
from larr.data.statistics import NEVER_SEEN, RATES
from larr.data.transforms import NAME_WORDS, text_column
from larr.data.values import joined, plain
from larr.errors import DataError, InputError, suggestion
from larr.progress import console

JOURNAL = "places.jsonl"
ID, PREFIX, WITHDRAWN = "poi_id", "poi_", "withdrawn"
COMPUTED = {NAME_WORDS, *(PREFIX + name for name in (*NEVER_SEEN, *RATES))}
"""Columns of known places that larr computes."""
LONGEST_LINE = 2**22
"""In bytes; the limit of a request's body is smaller."""
AS_SENT = Config.model_validate({"dataset": {"missing": []}})
"""Treats no word as missing: JSON has null."""
Row = dict[str, Any]


@dataclass
class Journal:
    """The places that were accepted and withdrawn, in their order."""

    path: Path
    read_to: int = 0

    def append(self, row: Row) -> None:
        """Writes a row, and returns when it is on disk.

        First removes an incomplete line that a killed process may have left.
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

    def read_new(self) -> list[Row]:
        """Returns the rows that were appended since the last call."""
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size < self.read_to:  # the file was shortened or replaced by hand
            self.read_to = 0
        if not size:
            return []
        with self.path.open("rb") as file:
            file.seek(self.read_to)
            content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        self.read_to += len(complete)
        rows = []
        for line in complete.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict) and isinstance(row.get(ID, row.get(WITHDRAWN)), str):
                rows.append(row)
            else:
                console.print(f"{self.path}: skipping {line!r:.80}, which is not a place")
        return rows


def to_known_row(row: Row, known: pl.DataFrame) -> pl.DataFrame:
    """Returns a place of the data contract as a row of `Snapshot.places`.

    Raises InputError for a missing or unknown column, and for a value that the contract rejects.
    """
    kinds = {
        name: kind
        for full, kind in known.schema.items()
        if full not in COMPUTED and (name := full if full == ID else full.removeprefix(PREFIX))
    }
    if unknown := sorted(set(row) - set(kinds)):
        raise InputError(
            f"unknown column {unknown[0]!r:.80} of a place{suggestion(unknown[0][:80], kinds)}; "
            f"expected {', '.join(kinds)}"
        )
    if not isinstance(row.get(ID, ""), str):
        raise InputError(f"{ID} must be a text or a whole number, got {row[ID]!r:.80}")
    if missing := [name for name in TABLES["places"].required if name not in row]:
        raise InputError(f"a place needs these columns: {', '.join(missing)}")
    values = {name: joined(value) for name, value in row.items()}
    for name, value in values.items():
        if isinstance(value, list | dict):
            raise InputError(
                f"column {name} of a place: expected a single value, or a list of texts or whole "
                f"numbers, got {value!r:.80}"
            )
    numbers = [full for full, kind in known.schema.items() if kind.is_numeric()]
    features = AS_SENT.features.model_copy(update={"numbers": numbers})
    checks = Checks(AS_SENT.model_copy(update={"features": features}))
    try:
        table = pl.DataFrame({name: [value] for name, value in values.items()}, strict=False)
        checked = checks.check("places", plain(table.lazy(), "places").collect())
        # with the value, such as "rating 'good' is not a number"
        reasons = checked.rejected["reason"].to_list() + [
            cell["reason"].replace(name := cell["column"], f"{name} {row[name]!r:.80}", 1)
            for cell in checked.blanked.to_dicts()
        ]
        if reasons:
            raise InputError(f"the place is rejected: {reasons[0]}")
        types = checked.good.schema
        return checked.good.select(
            (text_column(name, types[name]) if kinds[name] == pl.String else pl.col(name))
            .cast(kinds[name])
            .alias(name if name == ID else PREFIX + name)
            for name in row
        )
    except (DataError, TypeError, OverflowError, pl.exceptions.PolarsError) as error:
        raise InputError(f"the place cannot be read: {error!s:.200}") from error
