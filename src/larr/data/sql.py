"""Parts of SQL, and errors of what reads files, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from polars.exceptions import PolarsError

from larr.errors import DataError


def literal(value: object) -> str:
    """Returns a value as a text of SQL."""
    return "'" + str(value).replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Returns the name of a table or column as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def paths(files: Iterable[object]) -> str:
    """Returns paths as a list of SQL."""
    return f"[{', '.join(map(literal, files))}]"


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Raises DataError for what cannot be read."""
    import duckdb  # noqa: PLC0415 - serving, which imports this module, does without it

    try:
        yield
    except (duckdb.Error, PolarsError, OSError, RuntimeError) as error:
        # The further lines advise programmers.
        raise DataError(f"{what}: cannot be read: {str(error).partition(chr(10))[0]}") from error
