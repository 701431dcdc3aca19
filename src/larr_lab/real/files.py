"""Tables in files that users bring, and draws that are the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import polars as pl

from larr.data.datasets import reading
from larr.errors import DataError


def found(path: Path, source: str) -> Path:
    """Returns the path of a file; raises DataError with where it can be had if it is not there."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; it can be had from {source}")
    return path


def table(
    file: Path | bytes, columns: Collection[str], name: str, source: str, separator: str = ","
) -> pl.LazyFrame:
    """Returns these columns of a CSV file as texts; a file with tabs has no quotes.

    `file` is its path or its content. In RecBole's files a column has its type behind its name,
    `user_id:token`, which is left out. Raises DataError without the file or a column.
    """
    if isinstance(file, Path):
        found(file, source)
    quote = None if separator == "\t" else '"'
    with reading(name):
        rows = pl.read_csv(file, separator=separator, quote_char=quote, infer_schema=False)
    names = {column.partition(":")[0]: column for column in rows.columns}
    if missing := [column for column in columns if column not in names]:
        raise DataError(f"{name}: no column {', '.join(missing)}; expected the file from {source}")
    return rows.lazy().select(pl.col(names[column]).alias(column) for column in columns)


def draw(key: str) -> int:
    """Returns a whole number that looks random and depends on the key alone."""
    return int(hashlib.sha256(key.encode()).hexdigest(), 16)
