"""Explains why columns are not read, for `larr init`.

Labels are compared with other columns only to find columns that are present in clicked rows alone,
and only before the test days.
"""

from __future__ import annotations

import polars as pl

from larr.init.kinds import Column, percent, share
from larr.init.roles import MAX_WITHOUT_TIME
from larr.init.words import has_role, is_role

TRAINING_SHARE, MIN_EXPECTED = 0.8, 10.0
"""Share of the rows that is searched for leaks. A column is a leak if no unclicked row has a value,
although more than this number would by chance."""
RISING = 0.99
TIMES = ("time", "date", "clock")
ALONE = {
    "missing": "it has no values",
    "nested": "it holds nested values",
    "constant": "it is {} in all rows",
    "link": "it holds web addresses",
    "code": "it holds codes, such as {}",
}
"""Kind of column -> the reason why it is not read, with a value."""


def why_not_in_log(column: Column, roles: dict[str, Column], *, has_label: bool) -> str:
    """Returns the reason why a column of the log is not read, empty if it is read."""
    missing = share(column.values.is_null())
    reasons = (
        (
            has_role(column.name, "outcome"),
            "its name suggests that it is known only after the impression",
        ),
        (
            column.kind == "flag" and any(has_role(column.name, r) for r in ("click", "order")),
            "its name suggests that it is another label",
        ),
        (column.kind in TIMES and missing <= MAX_WITHOUT_TIME, "another time is used"),
        (column.kind in TIMES, f"a time that is missing in {percent(missing)} of the rows"),
        (
            column.kind == "text" and "rating" in roles,
            "it may be a review, written after the rating",
        ),
        (
            is_role(column.name, "rating") and ("rating" in roles or not has_label),
            "its name suggests that it is another rating",
        ),
        (
            not has_label and is_role(column.name, "count"),
            "it may count events of this place",
        ),
        (
            not has_label and "time" not in roles and column.kind == "number",
            "without times, it may count events of this user and place",
        ),
        (
            not has_label and has_role(column.name, "event"),
            f"its codes, such as {column.example}, may be events",
        ),
    )
    known_later = next((why for is_so, why in reasons if is_so), "")
    return known_later or leak(column, roles) or why_not(column)


def leak(column: Column, roles: dict[str, Column]) -> str:
    """Returns how a column reveals the time or a label, empty if it does not."""
    values = column.values.set(column.values == column.sentinel, None)
    rows = pl.DataFrame({"value": values, "number": values.cast(pl.Float64, strict=False)})
    labels = {role: roles[role] for role in ("click", "order") if role in roles}
    if column.kind == "flag":
        rows = rows.with_columns(value=values.set(values != column.yes, None))
    elif len(column.number_values):
        rows = rows.with_columns(value=values.set((rows["number"] == 0).fill_null(False), None))
    for role, label in labels.items():
        rows = rows.with_columns((label.values == label.yes).fill_null(False).alias(role))
    if "time" in roles:
        rows = rows.with_columns(roles["time"].times.alias("time")).sort("time")
        rows = rows.with_columns(day=pl.col("time").dt.date().cast(pl.Int32))
        rising = rows.select(pl.corr("day", "number", method="spearman")).item()
        if len(column.number_values) and abs(rising or 0) > RISING:
            return "it increases with time, so the values of the test days are new"
    rows = rows.head(int(TRAINING_SHARE * len(rows)))
    zero = ", unless it is 0" if 0 in column.number_values else ""
    for role in labels:
        if only_clicked(rows["value"], rows[role]):
            return f"only rows with a {role} have it{zero}"
        if only_clicked(rows["value"], ~rows[role]):
            return f"no row with a {role} has it{zero}"
    return ""


def only_clicked(values: pl.Series, is_clicked: pl.Series) -> bool:
    """Returns whether only clicked rows have a value, although others would by chance."""
    left = values.filter(~is_clicked)
    return not left.count() and share(values.is_not_null()) * len(left) > MIN_EXPECTED


def why_not(column: Column) -> str:
    """Returns the reason why columns of this kind or name are not read, empty if they are."""
    future = "its name suggests that it is held out" * has_role(column.name, "future")
    return future or ALONE.get(column.kind, "").format(column.example)
