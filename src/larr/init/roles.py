"""Infers the roles of the columns of a log whose users and places are known."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import polars as pl

from larr.init.kinds import RELATIVE, Column, share
from larr.init.reader import Table
from larr.init.relations import NEARLY_ALL, is_attribute
from larr.init.words import has_role, is_role

KINDS_OF_IDS = ("number", "code", "category", "text")
CODE = r"^\S*\d\S*$"
MAX_MISSING, MAX_WITHOUT_TIME, MAX_LEFT_OUT = 0.1, 0.01, 0.5
"""Maximum shares of rows without user, place or request, without a time, and without a rating or
an ID with a usual name, as these rows are left out. A column with more missing values is not used.
"""
MAX_DURATION = timedelta(hours=1)
"""Maximum time between the rows of a request."""
LONGEST_NAME = 100
"""Maximum number of letters of at least half of the names."""
MAX_LEVELS = 101
"""Maximum number of values of a rating, unless it is named as one: 7.85 points."""


def is_code(column: Column) -> bool:
    """Returns whether all values are integers, or codes such as `v12`."""
    is_text = column.kind in KINDS_OF_IDS and not column.is_numeric
    return column.is_integer or (is_text and column.all_match(CODE))


def is_axis(column: Column, axis: str, place: Column) -> bool:
    """Returns whether a column holds latitudes or longitudes, unless they are those of places."""
    return has_role(column.name, axis) and column.is_numeric and not is_attribute(column, place)


def is_complete(column: Column) -> bool:
    """Returns whether few rows lack an ID, or at most half if it is named as one."""
    is_named = column.words == ["id"] or is_role(column.name, "user", "place")
    return column.missing <= (MAX_LEFT_OUT if is_named else MAX_MISSING)


def is_prose(column: Column) -> bool:
    """Returns whether texts are too long for names, such as reviews."""
    return share(column.distinct.str.len_chars() > LONGEST_NAME) > 0.5


def request(columns: Sequence[Column], roles: dict[str, Column]) -> Column | None:
    """Returns the column that identifies requests, by its name and by the rows of its values.

    Of several columns, one with several rows per value is preferred, close in time and with
    different positions, then one with a known name, then the one with the most values.
    """
    ranks = {}
    for column in columns:
        is_named, is_id = is_role(column.name, "request"), "id" in column.words
        if column.kind not in KINDS_OF_IDS or not (is_named or is_id or is_code(column)):
            continue
        is_possible = column.missing <= MAX_MISSING and not column.is_key
        repeats = is_possible and is_attribute(roles["user"], column)
        checks = _shown_together(column, roles) if repeats else [False]
        is_shown = checks[0] if checks else is_named or is_id
        if is_shown or (is_named and (repeats or column.is_key)):
            ranks[column] = repeats, is_shown, all(checks), is_named, len(column.distinct)
    return max(ranks, key=ranks.__getitem__, default=None)


def _shown_together(column: Column, roles: dict[str, Column]) -> list[bool]:
    """Returns whether the rows of a value are close in time, and have different positions.

    Without times or positions in the log, the list is shorter.
    """
    rows, checks = pl.DataFrame({"value": column.values, "place": roles["place"].values}), []
    if "time" in roles:
        timed = rows.with_columns(time=roles["time"].times).drop_nulls("value").group_by("value")
        spans = timed.agg(pl.col("time").max() - pl.col("time").min())["time"]
        checks.append(share(spans <= MAX_DURATION) >= NEARLY_ALL)
    if "position" in roles:
        placed = rows.with_columns(position=roles["position"].values).drop_nulls("value")
        places = placed.group_by("value", "position").agg(pl.col("place").n_unique())["place"]
        checks.append(share(places == 1) >= NEARLY_ALL)
    return checks


def labels(log: Table, columns: list[Column]) -> tuple[dict[str, Column], set[str]]:
    """Returns click and order, or a rating, and which of them is unsure."""
    flags = [column for column in columns if column.kind == "flag"]
    orders = [flag for flag in flags if has_role(flag.name, "order")]
    clicks = (
        [flag for flag in flags if has_role(flag.name, "click") and flag not in orders]
        or [flag for flag in flags if any(_has_all(flag, order) for order in orders)]
        or orders
    )
    if clicks:
        ordered = [("order", order) for order in orders if _has_all(clicks[0], order)]
        return {"click": clicks[0], **dict(ordered[:1])}, {"click"} if len(clicks) > 1 else set()
    # Logs with positions show several places, so they have a column for clicks.
    if len(flags) == 1 and any(is_role(c.name, "position") and c.is_integer for c in columns):
        return {"click": flags[0]}, {"click"}
    scales = [column for column in columns if _is_scale(column)]
    if named := [column for column in scales if is_role(column.name, "rating")]:
        # The rating of a place may be its mean.
        rating = min(
            named, key=lambda c: (has_role(c.name, "place"), not has_levels(c), len(c.words))
        )
        return {"rating": rating}, set()
    # Without names, a scale of whole or half numbers may be a rating.
    for column in filter(has_levels, scales) if not log.is_named else ():
        has_halves = (column.number_values * 2 % 1 == 0).all()
        if has_halves and column.number_values.max() >= 3:
            return {"rating": column}, {"rating"}
    return {}, set()


def _has_all(click: Column, order: Column) -> bool:
    """Returns whether all rows with an order, and some others, have a click."""
    clicked, ordered = (flag.values == flag.true_value for flag in (click, order))
    return bool(clicked.filter(ordered).all() and clicked.sum() > ordered.sum())


def has_levels(column: Column) -> bool:
    """Returns whether a column has as few values as ratings usually have."""
    return len(column.number_values) <= MAX_LEVELS


def _is_scale(column: Column) -> bool:
    """Returns whether a column can hold ratings; -1 is a place that was not rated."""
    numbers = column.number_values
    return (
        column.missing <= MAX_LEFT_OUT
        and column.kind in ("number", "category")
        and column.is_numeric
        and (has_levels(column) or is_role(column.name, "rating"))
        and 2 <= numbers.max() <= 100
        and bool((numbers[numbers < 0] == -1).all())
    )


def times(keys: Sequence[Column], columns: list[Column]) -> dict[str, Column]:
    """Returns the earliest time of a row; the time of day may be in a column of its own.

    Times of users or places, which are identified by `keys`, are not used if there are others, and
    so are times that count from a start.
    """
    usable = [column for column in columns if column.missing <= MAX_WITHOUT_TIME]
    times = [c for c in usable if c.kind in ("time", "date") and not has_role(c.name, "birth")]
    times = [c for c in times if not any(is_attribute(c, key) for key in keys)] or times
    times = [column for column in times if column.form not in RELATIVE] or times
    if not times:
        return {}
    time = min(
        times, key=lambda c: (c.kind == "date", not is_role(c.name, "time"), c.times.median())
    )
    clocks = [column for column in usable if column.kind == "clock"]
    return {"time": time} | ({"clock": clocks[0]} if time.kind == "date" and clocks else {})
