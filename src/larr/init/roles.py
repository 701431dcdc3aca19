"""Infers the roles of the columns of a log whose users and places are known."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import polars as pl

from larr.data.columns import MAX_DIFFERING
from larr.init.kinds import STARTED, Column, has_words, share
from larr.init.reader import Table
from larr.init.words import has_role, is_role

KINDS_OF_IDS = ("number", "code", "category", "text")
CODE = r"^\S*\d\S*$"
MAX_MISSING, MAX_WITHOUT_TIME, MAX_LEFT_OUT = 0.1, 0.01, 0.5
"""Maximum shares of rows without user, place or request, without a time, and without a rating or
an ID with a usual name, as these rows are left out. A column with more missing values is not used.
"""
MIN_REPEATED, NEARLY_ALL = 0.3, 0.99
"""A column belongs to users if at least the first share of its rows is of users with two or more
rows, and the second share of these users has a single value; likewise for places."""
USUAL, DISTINCT = 0.95, 0.5
"""Names may be misspelt or corrected: the usual one of each user or place has at least the first
share of the rows, and there are at least so many different ones for each."""
OFTEN, DEPENDENT = 10, 0.5
"""A column depends on the place if, for places with this many rows, one value has this share."""
MAX_DURATION = timedelta(hours=1)
"""Maximum time between the rows of a request."""


def owned(key: Column, columns: Sequence[Column], least: float = MIN_REPEATED) -> list[Column]:
    """Returns the columns with a single value, or with names, for each value of a key.

    At least the share `least` of the rows must have a key with several rows.
    """
    found = []
    for column in columns:
        rows = pl.DataFrame({"key": key.values, "value": column.values}).drop_nulls()
        counts = rows.group_by("key", "value").len().sort("len", "value")
        groups = counts.group_by("key").agg(
            pl.col("len").sum(),
            usual=pl.col("len").last(),
            name=pl.col("value").last(),
            values=pl.len(),
        )
        repeated = groups.filter(pl.col("len") > 1)
        is_repeated = len(rows) > 0 and repeated["len"].sum() >= least * len(rows)
        is_single = share(repeated["values"] > 1) <= 1 - NEARLY_ALL
        if not is_single and has_words(column):
            is_usual = repeated.select(pl.col("usual").sum() >= USUAL * pl.col("len").sum()).item()
            is_single = is_usual and groups["name"].n_unique() >= DISTINCT * len(groups)
        if is_repeated and is_single:
            found.append(column)
    return found


def is_code(column: Column) -> bool:
    """Returns whether all values are integers, or codes such as `v12`."""
    is_text = column.kind in KINDS_OF_IDS and not len(column.number_values)
    return column.is_integer or (is_text and column.all_match(CODE))


def is_axis(column: Column, axis: str, place: Column) -> bool:
    """Returns whether a column holds latitudes or longitudes, unless they are those of places."""
    is_named = has_role(column.name, axis) and len(column.number_values) > 0
    return is_named and not owned(place, [column])


def is_complete(column: Column) -> bool:
    """Returns whether few rows lack an ID, or at most half if it is named as one."""
    is_named = column.words == ["id"] or any(is_role(column.name, r) for r in ("user", "place"))
    return share(column.values.is_null()) <= (MAX_LEFT_OUT if is_named else MAX_MISSING)


def request(columns: Sequence[Column], roles: dict[str, Column]) -> Column | None:
    """Returns the column that identifies requests, by its name and by the rows of its values.

    Of several columns, one with several rows per value is preferred, close in time and with
    different positions, then one with a known name, then the one with the most values.
    """
    found = []
    for column in columns:
        is_named, is_id = is_role(column.name, "request"), "id" in column.words
        if column.kind not in KINDS_OF_IDS or not (is_named or is_id or is_code(column)):
            continue
        few_missing = share(column.values.is_null()) <= MAX_MISSING and not column.is_key
        repeats = few_missing and bool(owned(column, [roles["user"]]))
        checks = _shown_together(column, roles) if repeats else [False]
        is_shown = checks[0] if checks else is_named or is_id
        if is_shown or (is_named and (repeats or column.is_key)):
            rank = (repeats, is_shown, all(checks), is_named, len(column.distinct))
            found.append((rank, column))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _shown_together(column: Column, roles: dict[str, Column]) -> list[bool]:
    """Returns whether the rows of a value are close in time, and have different positions.

    Without times or positions in the log, the list is shorter.
    """
    known = {"value": column.values, "place": roles["place"].values}
    known |= {"time": roles["time"].times} if "time" in roles else {}
    known |= {"position": roles["position"].values} if "position" in roles else {}
    rows, checks = pl.DataFrame(known).drop_nulls("value"), []
    if "time" in roles:
        span = pl.col("time").max() - pl.col("time").min()
        spans = rows.group_by("value").agg(is_short=span <= MAX_DURATION)
        checks.append(share(spans["is_short"]) >= NEARLY_ALL)
    if "position" in roles:
        places = rows.group_by("value", "position").agg(pl.col("place").n_unique())["place"]
        checks.append(share(places == 1) >= NEARLY_ALL)
    return checks


def labels(log: Table, columns: list[Column]) -> tuple[dict[str, Column], set[str]]:
    """Returns click and order, or a rating, and which of them is unsure."""
    flags = [column for column in columns if column.kind == "flag"]
    orders = [column for column in flags if has_role(column.name, "order")]
    clicks = [c for c in flags if has_role(c.name, "click") and c not in orders]
    clicks = clicks or [c for c in flags if any(_has_all(c, order) for order in orders)] or orders
    if clicks:
        ordered = [("order", column) for column in orders if _has_all(clicks[0], column)]
        return {"click": clicks[0], **dict(ordered[:1])}, {"click"} if len(clicks) > 1 else set()
    # Logs with positions show several places, so they have a column for clicks.
    if len(flags) == 1 and any(is_role(c.name, "position") and c.is_integer for c in columns):
        return {"click": flags[0]}, {"click"}
    scales = [c for c in columns if share(c.values.is_null()) <= MAX_LEFT_OUT]
    scales = [
        c for c in scales if c.kind in ("number", "category") and 0 < len(c.number_values) <= 101
    ]
    scales = [c for c in scales if 2 <= c.number_values.max() <= 100]
    # -1 is a place that the user knows, but has not rated.
    scales = [c for c in scales if (c.number_values[c.number_values < 0] == -1).all()]
    if named := [column for column in scales if is_role(column.name, "rating")]:
        # The rating of a place may be its mean.
        return {
            "rating": min(named, key=lambda c: (has_role(c.name, "place"), len(c.words)))
        }, set()
    # Without names, a scale of whole or half numbers may be a rating.
    scales = [c for c in scales if not log.is_named and c.number_values.max() >= 3]
    scales = [c for c in scales if (c.number_values * 2 % 1 == 0).all()]
    return ({"rating": scales[0]}, {"rating"}) if scales else ({}, set())


def _has_all(click: Column, order: Column) -> bool:
    """Returns whether all rows with an order, and some others, have a click."""
    clicked, ordered = (flag.values == flag.yes for flag in (click, order))
    return bool(clicked.filter(ordered).all() and clicked.sum() > ordered.sum())


def times(keys: Sequence[Column], columns: list[Column]) -> dict[str, Column]:
    """Returns the earliest time of a row; the time of day may be in a column of its own.

    Times of users or places, which are identified by `keys`, are not used if there are others, and
    so are times that count from a start.
    """
    usable = [c for c in columns if share(c.values.is_null()) <= MAX_WITHOUT_TIME]
    times = [c for c in usable if c.kind in ("time", "date") and not has_role(c.name, "birth")]
    times = [c for c in times if not any(owned(key, [c]) for key in keys)] or times
    times = [column for column in times if column.form not in STARTED] or times
    if not times:
        return {}
    key = lambda c: (c.kind == "date", not is_role(c.name, "time"), c.times.median())  # noqa: E731
    time = min(times, key=key)
    clocks = [column for column in usable if column.kind == "clock"]
    return {"time": time} | ({"clock": clocks[0]} if time.kind == "date" and clocks else {})


def depends(column: Column, place: Column) -> bool:
    """Returns whether most rows of a place have the same value of a column."""
    rows = pl.DataFrame({"place": place.values, "value": column.values}).drop_nulls()
    counts = rows.group_by("place", "value").len("rows")
    most = pl.col("rows").max().alias("most"), pl.col("rows").sum()
    often = counts.group_by("place").agg(most).filter(pl.col("rows") >= OFTEN).sum()
    of_all = counts.group_by("value").agg(pl.col("rows").sum()).select(most)
    dependent, usual = (
        float(table.select(pl.col("most") / pl.col("rows")).item() or 0)
        for table in (often, of_all)
    )
    return dependent > DEPENDENT and dependent > 2 * usual


def differing(keys: list[Column], columns: Sequence[Column]) -> list[Column]:
    """Returns the columns that differ within requests, which are identified by `keys`."""
    names = [f"key {number}" for number in range(len(keys))]
    frame = pl.DataFrame(dict(zip(names, (key.values for key in keys), strict=True)))
    found = []
    for column in columns:
        requests = frame.with_columns(column.values.alias("value")).group_by(names)
        differs = requests.agg(pl.col("value").drop_nulls().n_unique() > 1)["value"]
        if share(differs) > MAX_DIFFERING:
            found.append(column)
    return found
