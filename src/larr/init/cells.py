"""Cleans cells that hold more than their value, for `larr init`: brackets of lists, and units."""

from __future__ import annotations

import polars as pl

from larr.data.sql import literal

BRACKETED = r"^\[.*\]$"
ENDS, BETWEEN = r"^\[\s*u?['\"]?|['\"]?\s*\]$", r"['\"]\s*,\s*u?['\"]"
"""What surrounds and separates the values of `['spicy', "men's"]`."""
TAGGED = r"^(<[^<>]+>)+$"
NUMBER = r"[+-]?\d[\d.,]*"
MEASURED = (
    rf"^([€$£¥₹]|(?:USD|EUR|CNY|Rs\.?)\s)?\s?{NUMBER}"
    r"\s?(?i:(km|mi|m|h|min|mins|minutes|kg|g|lbs?|%|[^\x00-\x7f]{1,2}))?$"
)
"""Currency, number and unit: `€ 3.20`, `1.5km`."""
THOUSANDS, DECIMALS = r"^[+-]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?$", r"^[+-]?\d+(,\d{1,2})?$"
SAMPLE = 1_000


def cleaned(column: str, values: pl.Series) -> tuple[pl.Series, str]:
    """Returns texts without brackets or units, and the SQL that computes them from a column.

    Lists as Python or JSON write them, or as `<a><b>`, become values with commas between; numbers
    with the same unit in all rows become numbers. Other texts are returned unchanged.
    """
    some = values.drop_nulls().head(SAMPLE)
    if some.len() and some.str.contains(BRACKETED).all() and some.str.contains(",").any():
        sql = f"regexp_replace({column}, {literal(BETWEEN)}, ', ', 'g')"
        inside = values.str.replace_all(BETWEEN, ", ").str.replace_all(ENDS, "")
        return inside.replace("", None), f"regexp_replace({sql}, {literal(ENDS)}, '', 'g')"
    if some.len() and some.str.contains(TAGGED).all() and some.str.contains("><").any():
        tags = values.str.replace_all("><", ", ").str.strip_chars("<>")
        return tags, f"trim(replace({column}, '><', ', '), '<>')"
    if not some.len() or not some.str.contains(MEASURED).all():
        return values, column
    units = [values.drop_nulls().str.extract(MEASURED, n).unique() for n in (1, 2)]
    if any(len(unit) > 1 for unit in units) or all(unit[0] is None for unit in units):
        return values, column
    numbers = values.str.extract(f"({NUMBER})")
    same = numbers.null_count() == values.null_count()
    for form, old, new in ((THOUSANDS, ",", ""), (DECIMALS, ",", ".")):
        if same and numbers.str.contains(form).all():
            sql = f"regexp_extract({column}, {literal(NUMBER)})"
            return numbers.str.replace_all(old, new), f"replace({sql}, '{old}', '{new}')"
    return values, column
