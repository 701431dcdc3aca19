"""Tables in files that users bring, and draws that are the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import polars as pl

from larr.data.sql import reading
from larr.errors import DataError


def found(path: Path, source: str) -> Path:
    """Returns the path of a file; raises DataError with where it can be had if it is not there."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; it can be had from {source}")
    return path


def table(
    path: Path,
    columns: Collection[str],
    source: str,
    separator: str = ",",
    content: bytes | None = None,
) -> pl.LazyFrame:
    """Returns these columns of a CSV file as texts; one that is separated by tabs has no quotes.

    `content` is read instead of the file where the file is in an archive. In RecBole's files the
    name of a column has its type behind it, `user_id:token`, which is left out. Raises DataError
    without the file or a column; `source` is where the file can be had.
    """
    quote = None if separator == "\t" else '"'
    with reading(str(path)):
        rows = pl.read_csv(
            content or found(path, source),
            separator=separator,
            quote_char=quote,
            infer_schema=False,
        )
    names = {column.partition(":")[0]: column for column in rows.columns}
    if missing := [column for column in columns if column not in names]:
        raise DataError(f"{path}: no column {', '.join(missing)}; expected the file from {source}")
    return rows.lazy().select(pl.col(names[column]).alias(column) for column in columns)


def draw(key: str) -> int:
    """Returns a whole number that looks random and depends on the key alone."""
    return int(hashlib.sha256(key.encode()).hexdigest(), 16)
