"""Explains why columns and tables are not read.

Labels are compared with other columns only to find columns that are present in clicked rows alone,
and only before the test days.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from larr.init.kinds import Column, percent, share
from larr.init.reader import Table, base
from larr.init.relations import MAX_DUPLICATES, depends, is_contained, is_named_like
from larr.init.roles import MAX_WITHOUT_TIME, has_levels
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
MIN_MATRIX, MIN_ALIKE, MAX_RATINGS = 20, 0.8, 500
"""A table is a matrix of ratings if it has at least this many columns and in this share of them
numbers from the same range, with at most so many distinct values."""
MAX_LISTED = 12
"""Columns of a table that an error names."""


def why_not(column: Column) -> str:
    """Returns the reason why columns of this kind or name are not read, empty if they are."""
    if has_role(column.name, "future"):
        return "its name suggests that it is held out"
    if has_role(column.name, "secret"):
        return "its name suggests a secret"
    return ALONE.get(column.kind, "").format(column.example)


def is_outcome(name: str) -> bool:
    """Returns whether a column is known only after the impression, by its name."""
    return has_role(name, "outcome") or (has_role(name, "bill") and has_role(name, "amount"))


def is_given(column: Column, place: Column) -> bool:
    """Returns whether a column of the log holds ratings by its users, unlike means of places."""
    is_rating = is_role(column.name, "rating") and column.is_numeric and has_levels(column)
    return is_rating and not depends(column, place)


def why_not_in_log(
    column: Column, roles: dict[str, Column], *, has_label: bool, has_reviews: bool
) -> str:
    """Returns the reason why a column of the log is not read, empty if it is read.

    `has_reviews` says whether the rows of the log are reviews.
    """
    name, kind, has_rating = column.name, column.kind, "rating" in roles
    reasons = {
        "its name suggests that it is known only after the impression": is_outcome(name),
        "its name suggests that it is another label": (
            kind == "flag" and has_role(name, "click", "order")
        ),
        "another time is used": kind in TIMES and column.missing <= MAX_WITHOUT_TIME,
        f"a time that is missing in {percent(column.missing)} of the rows": kind in TIMES,
        "it may be a review, written after the rating": kind == "text" and has_reviews,
        "its name suggests that it is another rating": (
            is_role(name, "rating") and (has_rating or not has_label)
        ),
        "its name suggests a rating, given afterwards": is_given(column, roles["place"]),
        "it may count events of this place": not has_label and is_role(name, "count"),
        "without times, it may count events of this user and place": (
            not has_label and "time" not in roles and kind == "number"
        ),
        f"its codes, such as {column.example}, may be events": (
            not has_label and has_role(name, "event")
        ),
    }
    found = (reason for reason, applies in reasons.items() if applies)
    return next(found, "") or leak(column, roles) or why_not(column)


def leak(column: Column, roles: dict[str, Column]) -> str:
    """Returns how a column reveals the time or a label, empty if it does not."""
    values = column.values.set(column.values == column.sentinel, None)
    number = values.cast(pl.Float64, strict=False)
    is_set = values.is_not_null()
    if column.kind == "flag":
        is_set = values == column.true_value
    elif column.is_numeric:
        is_set = number != 0
    labels = [role for role in ("click", "order") if role in roles]
    rows = pl.DataFrame({"number": number, "is_set": is_set})
    rows = rows.with_columns((roles[r].values == roles[r].true_value).alias(r) for r in labels)
    rows = rows.with_columns(pl.col(pl.Boolean).fill_null(False))
    if "time" in roles:
        rows = rows.with_columns(time=roles["time"].times).sort("time")
        day = pl.col("time").dt.date().cast(pl.Int32)
        rising = rows.select(pl.corr(day, "number", method="spearman")).item()
        if column.is_numeric and abs(rising or 0) > RISING:
            return "it increases with time, so the values of the test days are new"
    rows = rows.head(int(TRAINING_SHARE * len(rows)))
    zero = ", unless it is 0" if 0 in column.number_values else ""
    for role in labels:
        if only_clicked(rows["is_set"], rows[role]):
            return f"only rows with a {role} have it{zero}"
        if only_clicked(rows["is_set"], ~rows[role]):
            return f"no row with a {role} has it{zero}"
    return ""


def only_clicked(has_value: pl.Series, is_clicked: pl.Series) -> bool:
    """Returns whether only clicked rows have a value, although others would by chance."""
    others = has_value.filter(~is_clicked)
    return not others.any() and share(has_value) * len(others) > MIN_EXPECTED


def why_unread(table: Table, log: Table, logs: Sequence[Table]) -> str:
    """Returns the reason why a table is not read; `logs` are those that could be the log, too."""
    if table in logs:
        return f"it could be the log, too; to use it, move the files of {base(log).name} elsewhere"
    keys = [
        key
        for column in log.columns
        for key in table.columns
        if is_named_like(column, key, table)
        if is_contained(column, key)
        or (column.name == key.name and is_contained(column, key, 0.01))
    ]
    key = min(keys, key=lambda key: key.repeated, default=None)
    if key is None:
        return "no column of the log matches its key"
    if key.repeated > MAX_DUPLICATES:
        reason = f"{key.name} is missing or repeated in {percent(key.repeated)} of its rows"
        has_times = any(column.kind in TIMES for column in table.columns)
        return f"{reason}{', whose times may be later than those of the log' * has_times}"
    return f"another table with the key {key.name} is read"


def no_log(tables: list[Table], lacking: dict[str, list[str]], others: dict[str, str]) -> str:
    """Returns the error message if no table can be the log.

    `lacking` maps a table to the roles that no column can have, `others` a file to the reason why
    it is not a table.
    """
    reasons = [f"{name}: {reason}" for name, reason in others.items()]
    for table in tables:
        names = ", ".join(column.name for column in table.columns[:MAX_LISTED])
        names += ", ..." if len(table.columns) > MAX_LISTED else ""
        reason = f"{table.name}: {names}"
        if is_matrix(table):
            reason += (
                ": a matrix with a column for each place or user; make one row of each rating, see "
                "`UNPIVOT` in docs/your_data.md"
            )
        elif lacking[table.name]:
            roles = " and ".join(f"{role}s" for role in lacking[table.name])
            reason += f" (no column can identify {roles})"
        reasons.append(reason)
    return (
        "no table looks like a log: a log needs a user and a shown or chosen place in each row. If "
        "the columns are there, give them such names as user_id, item_id, clicked and time, or "
        f"write the configuration by hand (docs/your_data.md). Found {'; '.join(reasons)}"
    )


def is_matrix(table: Table) -> bool:
    """Returns whether nearly all columns hold numbers from the same range."""
    numbers = [column.number_values for column in table.columns if column.is_numeric]
    if len(table.columns) < MIN_MATRIX or len(numbers) < MIN_ALIKE * len(table.columns):
        return False
    ends = [round(max(abs(values.max()), abs(values.min()))) for values in numbers]
    usual = max(ends, key=ends.count)
    few = sum(len(values) <= MAX_RATINGS for values in numbers)
    return min(few, ends.count(usual)) >= MIN_ALIKE * len(table.columns)
