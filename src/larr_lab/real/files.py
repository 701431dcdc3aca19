"""Tables in files that users bring."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import polars as pl

from larr.data.datasets import reading
from larr.errors import DataError


def table(
    path: Path, columns: Collection[str], source: str, *, content: bytes | None = None
) -> pl.DataFrame:
    """Returns these columns of a CSV file or, by its suffix, of a tab-separated one, as texts.

    `content` is what is read instead of the file, such as a member of an archive. Raises DataError
    without the file or a column; `source` is where the file can be had.
    """
    has_tabs = path.suffix not in (".csv", ".gz")
    if content is None and not path.is_file():
        raise DataError(f"{path}: no such file; it can be had from {source}")
    with reading(str(path)):
        rows = pl.read_csv(
            path if content is None else content,
            separator="\t" if has_tabs else ",",
            quote_char=None if has_tabs else '"',
            infer_schema=False,
        )
    if missing := [name for name in columns if name not in rows.columns]:
        raise DataError(f"{path}: no column {', '.join(missing)}; expected the file from {source}")
    return rows.select(columns)
