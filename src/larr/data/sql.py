"""Parts of SQL, and errors of what reads files, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

from polars.exceptions import PolarsError

from larr.errors import DataError

ENDING = r"\.(csv|tsv|txt|tab|dat|data|parquet|pq)(\.(gz|zst))?$"


def literal(value: object) -> str:
    """Returns a value as a text of SQL."""
    return "'" + str(value).replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Returns the name of a table or column as SQL writes it, in quotes where it needs them."""
    is_plain = name.isidentifier() and name.isascii() and name.lower() not in _reserved()
    return name if is_plain else '"' + name.replace('"', '""') + '"'


@cache
def _reserved() -> set[str]:
    """Returns the words that SQL does not take for names."""
    import duckdb  # noqa: PLC0415 - serving, which imports this module, does without it

    keywords = "FROM duckdb_keywords() WHERE keyword_category = 'reserved'"
    return {name for name, _ in duckdb.connect().execute(keywords).fetchall()}


def paths(files: Iterable[object]) -> str:
    """Returns paths as a list of SQL."""
    return f"[{', '.join(map(literal, files))}]"


def with_file_name(source: str, column: str) -> str:
    """Returns the SQL of files with a column of their names, without endings like `.csv.gz`."""
    name = f"regexp_replace(parse_filename(filename), {literal(ENDING)}, '', 'i')"
    return f"(SELECT *, {name} AS {identifier(column)} FROM {source})"


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Raises DataError for what cannot be read."""
    import duckdb  # noqa: PLC0415 - serving, which imports this module, does without it

    try:
        yield
    except (duckdb.Error, PolarsError, OSError, RuntimeError) as error:
        # The further lines advise programmers.
        raise DataError(f"{what}: cannot be read: {str(error).partition(chr(10))[0]}") from error
