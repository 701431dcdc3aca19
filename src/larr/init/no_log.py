"""Explains why no table can be the log, for `larr init`."""

from __future__ import annotations

from larr.init.reader import Table

MIN_MATRIX, MIN_ALIKE, MAX_RATINGS = 20, 0.8, 500
"""A table is a matrix of ratings if it has at least this many columns and in this share of them
numbers from the same range, with at most so many distinct values."""
NEEDED = "a log needs a user and a shown or chosen place in each row"


def no_log(tables: list[Table], lacking: dict[str, list[str]], others: dict[str, str]) -> str:
    """Returns the error message.

    `lacking` maps a table to the roles that no column can have, `others` a file to the reason why
    it is not a table.
    """
    reasons = "; ".join(
        [f"{name}: {reason}" for name, reason in others.items()]
        + [_reason(table, lacking[table.name]) for table in tables]
    )
    return (
        f"no table looks like a log: {NEEDED}. If the columns are there, give them such names "
        "as user_id, item_id, clicked and time, or write the configuration by hand "
        f"(docs/your_data.md). Found {reasons}"
    )


def _reason(table: Table, lacking: list[str]) -> str:
    names = ", ".join(column.name for column in table.columns[:12])
    names += ", ..." if len(table.columns) > 12 else ""
    if is_matrix(table):
        return (
            f"{table.name}: {names}: a matrix with a column for each place or user; make one row "
            "of each rating, see `UNPIVOT` in docs/your_data.md"
        )
    what = " and ".join(f"{role}s" for role in lacking)
    return f"{table.name}: {names}" + (f" (no column can identify {what})" if what else "")


def is_matrix(table: Table) -> bool:
    """Returns whether nearly all columns hold numbers from the same range."""
    numbers = [column.number_values for column in table.columns if len(column.number_values)]
    if len(table.columns) < MIN_MATRIX or len(numbers) < MIN_ALIKE * len(table.columns):
        return False
    ends = [round(max(abs(values.max()), abs(values.min()))) for values in numbers]
    usual = max(ends, key=ends.count)
    few = sum(len(values) <= MAX_RATINGS for values in numbers)
    return min(few, ends.count(usual)) >= MIN_ALIKE * len(table.columns)
