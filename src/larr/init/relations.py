"""How columns relate: references to keys, attributes of users, places and requests."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from larr.data.columns import MAX_DIFFERING
from larr.init.kinds import Column, share
from larr.init.reader import Table
from larr.init.words import WORDS, words_of

CONTAINED, CONTAINED_NAMED, FEW = 0.9, 0.5, 20
"""Minimum shares of a column's values among those of a key, or vice versa for a key with the
column's name in the table of users or places, and the number of values that are tried first."""
MAX_DUPLICATES = 0.1
"""A column with more duplicates is not a key; the first row of each key is read."""
MIN_REPEATED, NEARLY_ALL = 0.3, 0.99
"""A column is an attribute of users if at least the first share of its rows is of users with two or
more rows, and the second share of these users has a single value; likewise for places."""
USUAL, DISTINCT = 0.95, 0.5
"""Names may be misspelt or corrected: the usual one of each user or place has at least the first
share of the rows, and there are at least so many different ones for each."""
OFTEN, DEPENDENT = 10, 0.5
"""A column depends on the place if, for places with this many rows, one value has this share."""
MIN_BEFORE, MIN_NEW, MAX_AT_FIRST = 0.95, 0.5, 0.1
"""A time of places is their start if it precedes at least the first share of their rows, if at
least the second share of the places start after the log does, and if at most the third start
exactly at their first row: that would be computed from the rows."""


def is_named_like(column: Column, key: Column, other: Table) -> bool:
    """Returns whether a column's name resembles that of another table's key."""
    names = {word[:5] for word in column.words if word not in WORDS["code"]}
    of_other = {word[:5] for word in [*words_of(other.name), *key.words]}
    return key.name == column.name or not names.isdisjoint(of_other)


def is_foreign_key(column: Column, key: Column) -> bool:
    """Returns whether nearly all of a column's values are in a key."""
    return key.repeated <= MAX_DUPLICATES and is_contained(column, key)


def overlaps(column: Column, key: Column) -> bool:
    """Returns whether many of a column's values are in a key of the same name, or vice versa."""
    pairs = ((column, key), (key, column))
    return key.repeated <= MAX_DUPLICATES and any(is_contained(*p, CONTAINED_NAMED) for p in pairs)


def is_contained(column: Column, key: Column, least: float = CONTAINED) -> bool:
    """Returns whether at least this share of a column's values is in another column."""
    if key.kind in ("time", "date", "link", "list"):
        return False
    known, values = key.distinct.implode(), column.distinct
    is_likely = share(values.head(FEW).is_in(known)) > least / 2
    return is_likely and share(values.is_in(known)) >= least


def is_attribute(column: Column, key: Column, least: float = MIN_REPEATED) -> bool:
    """Returns whether a column has a single value, or is a name, for each value of a key.

    At least the share `least` of the rows must have a key with several rows.
    """
    rows = pl.DataFrame({"key": key.values, "value": column.values}).drop_nulls()
    counts = rows.group_by("key", "value").len().sort("len", "value")
    groups = counts.group_by("key").agg(
        pl.col("len").sum(), pl.col("value").last(), usual=pl.col("len").last(), values=pl.len()
    )
    repeated = groups.filter(pl.col("len") > 1)
    if rows.is_empty() or int(repeated["len"].sum()) < least * len(rows):
        return False
    if share(repeated["values"] > 1) <= 1 - NEARLY_ALL:
        return True
    is_usual = repeated.select(pl.col("usual").sum() >= USUAL * pl.col("len").sum()).item()
    return column.has_words and is_usual and groups["value"].n_unique() >= DISTINCT * len(groups)


def depends(column: Column, place: Column) -> bool:
    """Returns whether most rows of a place have the same value of a column."""
    rows = pl.DataFrame({"place": place.values, "value": column.values}).drop_nulls()
    counts = rows.group_by("place", "value").len()
    places = counts.group_by("place").agg(pl.col("len").sum(), most=pl.col("len").max())
    often = places.filter(pl.col("len") >= OFTEN)
    dependent = often.select(pl.col("most").sum() / pl.col("len").sum()).item()
    usual = rows.group_by("value").len().select(pl.col("len").max() / pl.col("len").sum()).item()
    return len(often) > 0 and dependent > max(DEPENDENT, 2 * usual)


def is_start(times: Column, key: Column, place: Column, time: Column) -> bool:
    """Returns whether the times of places are those from which a log can contain them.

    `key` has the places of `times`, `place` those of the log, and `time` the times of its rows.
    """
    starts = pl.DataFrame({"place": key.values, "start": times.times}).drop_nulls()
    rows = pl.DataFrame({"place": place.values, "time": time.times}).drop_nulls()
    rows = rows.join(starts.unique("place"), on="place")
    first = rows.group_by("place").agg(pl.col("start").first(), pl.col("time").min())
    return (
        share(rows["start"] <= rows["time"]) >= MIN_BEFORE
        and share(first["start"] > rows["time"].min()) >= MIN_NEW
        and share(first["start"] == first["time"]) <= MAX_AT_FIRST
    )


def differing(keys: list[Column], columns: Sequence[Column]) -> list[Column]:
    """Returns the columns that differ within requests, which are identified by `keys`."""
    names = [f"key {number}" for number in range(len(keys))]
    rows = pl.DataFrame([key.values.alias(name) for key, name in zip(keys, names, strict=True)])
    rows = rows.with_columns(c.values.alias(str(number)) for number, c in enumerate(columns))
    differs = rows.group_by(names).agg(pl.exclude(names).drop_nulls().n_unique() > 1)
    return [c for n, c in enumerate(columns) if share(differs[str(n)]) > MAX_DIFFERING]
