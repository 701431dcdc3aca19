"""Generates queries that write cells as other tables do: dates, IDs without zeros."""

from __future__ import annotations

from dataclasses import replace

from larr.init.kinds import Column
from larr.init.reader import Reader, Table
from larr.init.relations import is_contained, is_named_like

DATE_PARTS = (
    ((["year"], ["yr"], ["jahr"]), (1900, 2100)),
    ((["month"], ["monat"]), (1, 12)),
    ((["day"], ["tag"], ["day", "of", "month"], ["dayofmonth"]), (1, 31)),
)
"""Words of columns that together are a date, and the range of their numbers."""


def _is_between(column: Column, least: int, most: int) -> bool:
    """Returns whether a column has integers in a range."""
    numbers = column.number_values
    return column.is_integer and bool((numbers >= least).all() and (numbers <= most).all())


def dated(reader: Reader, table: Table) -> Table:
    """Returns a table with a date instead of a year, a month and a day, if it has no other time."""
    parts = [
        next((c for c in table.columns if c.words in names and _is_between(c, *ends)), None)
        for names, ends in DATE_PARTS
    ]
    names = {column.name.lower() for column in table.columns}
    has_times = any(column.kind in ("time", "date") for column in table.columns)
    if None in parts or has_times or "date" in names:
        return table
    columns = ", ".join(part.sql for part in parts if part)
    sql = f"TRY_CAST(concat_ws('-', {columns}) AS DATE) AS date"
    sql = f"SELECT * EXCLUDE ({columns}), {sql}\nFROM {table.name}"
    return reader.query(f"{table.name}_dated", sql, "a date from year, month and day", table)


def without_zeros(reader: Reader, table: Table, tables: list[Table]) -> Table:
    """Returns a table whose IDs have no leading zeros where another table's IDs have none.

    Spreadsheets remove them: `00417` becomes `417`.
    """
    others = [(key, other) for other in tables if other is not table for key in other.columns]
    padded = {
        column.sql: f"coalesce(TRY_CAST({column.sql} AS HUGEINT)::VARCHAR, {column.sql})"
        for column in table.columns
        if column.all_match(r"^\d+$") and column.distinct.str.contains(r"^0\d").any()
        if any(is_named_like(column, k, o) and _differs_by_zeros(column, k) for k, o in others)
    }
    if not padded:
        return table
    sql = ", ".join(f"{value} AS {name}" for name, value in padded.items())
    sql = f"SELECT * REPLACE ({sql})\nFROM {table.name}"
    note = "IDs without leading zeros, as other tables have them"
    return reader.query(f"{table.name}_unpadded", sql, note, table)


def _differs_by_zeros(padded: Column, key: Column) -> bool:
    """Returns whether a column's values are those of a key only without leading zeros."""
    bare = padded.distinct.str.strip_chars_start("0")
    if key.distinct.str.contains(r"^0\d").any() or bare.n_unique() < len(bare):
        return False
    stripped = replace(padded, values=bare)
    pairs = ((stripped, key), (key, stripped))
    return any(is_contained(*pair) for pair in pairs) and not is_contained(padded, key)
