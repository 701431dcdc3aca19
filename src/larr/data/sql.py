"""Helpers for SQL, and readable errors for files and tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

from polars.exceptions import PolarsError

from larr.errors import DataError

COMPRESSED = r"(\.(gz|zst))?$"
ENDINGS = {
    "parquet": r"\.(parquet|pq)$",
    "json": r"\.(json|jsonl|ndjson)" + COMPRESSED,
    "csv": r"\.(csv|tsv|txt|tab|dat|data)" + COMPRESSED,
}
"""File format -> the endings of file names; a single file with another name is read as CSV."""
ENDING = "|".join(ENDINGS.values())
"""A regular expression of all endings, with upper or lower case."""

SUGGESTIONS = ("Candidate bindings", "Did you mean")
"""The beginnings of lines in which DuckDB suggests names."""


def literal(value: object) -> str:
    """Returns a value as an SQL string literal."""
    return "'" + str(value).replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Returns the name of a table or column in SQL, quoted if necessary."""
    is_plain = name.isidentifier() and name.isascii() and name.lower() not in _reserved()
    return name if is_plain else '"' + name.replace('"', '""') + '"'


@cache
def _reserved() -> set[str]:
    """Returns the words of SQL that must be quoted as names, such as `from` and `like`."""
    import duckdb  # noqa: PLC0415 - serving imports this module and must not need duckdb

    keywords = "FROM duckdb_keywords() WHERE keyword_category IN ('reserved', 'type_function')"
    return {name for name, _ in duckdb.connect().execute(keywords).fetchall()}


def paths(files: Iterable[object]) -> str:
    """Returns paths as an SQL list."""
    return f"[{', '.join(map(literal, files))}]"


def with_file_name(source: str, column: str) -> str:
    """Returns SQL that adds a column with the file name, without extensions like `.csv.gz`."""
    name = f"regexp_replace(parse_filename(filename), {literal(ENDING)}, '', 'i')"
    return f"(SELECT *, {name} AS {identifier(column)} FROM {source})"


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Converts errors while reading `what` to DataError."""
    import duckdb  # noqa: PLC0415 - serving imports this module and must not need duckdb

    try:
        yield
    except (duckdb.Error, PolarsError, OSError, RuntimeError) as error:
        # Only the first line is meant for users, and the names that DuckDB suggests.
        first, *others = str(error).split("\n")
        lines = [first, *(line for line in others if line.startswith(SUGGESTIONS))]
        raise DataError(f"{what}: cannot be read: {' '.join(lines)}") from error
