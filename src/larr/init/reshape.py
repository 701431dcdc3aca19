"""Generates queries that bring tables into the shape that larr reads: unions, joins, groups.

A log may be divided among files, name its users by the key of another table, or have one row per
event; places may have several rows. Each case becomes a query in `[dataset.files]`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby, permutations, product
from typing import NamedTuple

import polars as pl

from larr.data.sql import identifier, literal
from larr.init.cells import dated, without_zeros
from larr.init.kinds import Column, share
from larr.init.reader import Reader, Table
from larr.init.relations import (
    MAX_DUPLICATES,
    is_attribute,
    is_contained,
    is_foreign_key,
    is_named_like,
)
from larr.init.roles import is_code
from larr.init.unnested import unnested
from larr.init.words import EVENTS, WORDS, has_role, is_name, is_role, words_of

MAX_REPEATED = 0.01
"""Tables are versions, not parts, of one table if they share a larger part of their rows."""
MIN_EVENTS, MAX_EVENTS = 0.7, 30
"""Minimum share of a column's values that name events, and the maximum number of values."""
NEGATIONS = {"no", "not", "non", "without"}
"""Words of events such as `not clicked`."""
UNDONE = "undone"
"""Role of events that undo an earlier one, such as `remove_from_cart`: neither clicks nor views."""
SPLITS = dict.fromkeys(("train", "training", "valid", "validation", "val", "dev"), "train")
SPLITS |= dict.fromkeys(("test", "testing"), "test")
OF_LOGS = ("user", "place", "request", "time", "click", "order", "rating", "position")
"""Roles of columns that only logs have, apart from the key of users or places."""
MAX_PROPERTIES = 30
"""Maximum number of properties in a table with a row for each property and value."""
PART = r"\d+|part|prior|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
"""Other words by which the file names of parts differ."""


def reshaped(reader: Reader) -> list[Table]:
    """Returns the tables after unnesting, union and joins."""
    tables = _united(reader, [unnested(reader, table) for table in [*reader.tables]])
    tables = [dated(reader, table) for table in tables]
    tables = [without_zeros(reader, table, tables) for table in tables]
    tables.sort(key=lambda table: table.rows)  # tables with keys before those that refer to them
    for number, table in enumerate(tables):
        tables[number] = joined(reader, table, tables)
    return tables


def _united(reader: Reader, tables: list[Table]) -> list[Table]:
    """Returns the tables with parts of the same table united, such as months, or train and test."""

    def shape(table: Table) -> tuple[str, list[str]]:
        words = [re.sub(PART, "", word) for word in words_of(table.name) if word not in SPLITS]
        return "_".join(filter(None, words)), [column.name for column in table.columns]

    united = []
    for (name, _), group in groupby(sorted(tables, key=shape), shape):
        parts = list(group)
        if len(parts) == 1 or _share_repeated(reader, parts) > MAX_REPEATED:
            united.append(max(parts, key=lambda part: part.rows))  # of versions, the largest
            continue
        splits = [next((SPLITS[w] for w in words_of(p.name) if w in SPLITS), "") for p in parts]
        is_split = {*splits} == {"train", "test"}
        sql = "\nUNION ALL BY NAME ".join(
            f"SELECT *{f', {literal(split)} AS split' * is_split} FROM {part.name}"
            for part, split in zip(parts, splits, strict=True)
        )
        note = "files with the same columns are parts of one table"
        united.append(reader.query(f"{name or 'table'}_all", sql, note, *parts))
    return united


def _share_repeated(reader: Reader, parts: list[Table]) -> float:
    """Returns the share of the first part's rows that are also in other parts."""
    others = " UNION ALL ".join(f"FROM {part.name}" for part in parts[1:])
    sql = f"SELECT count(*) FROM (FROM {parts[0].name} INTERSECT ({others}))"
    ((count,),) = reader.files.database.execute(sql).fetchall()
    return float(count / parts[0].rows)


class Join(NamedTuple):
    """A table that another one is joined with."""

    other: Table
    rows: str
    """SQL for the rows."""
    columns: list[str]
    """SQL for the columns to add."""
    left: Column
    right: Column
    """The keys that must be equal."""


def _left_joined(
    reader: Reader, suffix: str, note: str, table: Table, joins: list[Join], dropped: str = ""
) -> Table:
    """Returns a table with columns of others, and without its own column `dropped`."""
    if not joins:
        return table
    columns = [f"{table.name}.* EXCLUDE ({dropped})" if dropped else f"{table.name}.*"]
    columns += [column for join in joins for column in join.columns]
    sql = "SELECT " + ",\n    ".join(columns) + f"\nFROM {table.name}"
    for other, rows, _, left, right in joins:
        text = "::VARCHAR" * (left.dtype != right.dtype)
        same = f"{table.name}.{left.sql}{text} = {other.name}.{right.sql}{text}"
        sql += f"\nLEFT JOIN {rows} ON {same}"
    others = [join.other for join in joins]
    note = note.replace("{}", ", ".join(other.name for other in others))
    return reader.query(f"{table.name}_{suffix}", sql, note, table, *others)


def joined(reader: Reader, table: Table, tables: list[Table]) -> Table:
    """Returns a table joined with the tables whose keys it has.

    Users and places are not joined, as larr does so itself, unless their table has another user ID,
    for example that of an account with several customer numbers.
    """
    joins: dict[Table, Join] = {}
    dropped = []
    taken = {column.name.lower() for column in table.columns}
    named = [other for other in tables if other.is_named and table.is_named and other is not table]
    for column, other in product(table.columns, named):
        keys = (key for key in other.columns if is_named_like(column, key, other))
        keys = (key for key in keys if is_foreign_key(column, key))
        key = None if other in joins else next(keys, None)
        if key is None:
            continue
        users = [c for c in other.columns if is_role(c.name, "user") and "id" in c.words]
        has_user = key in users and len(users) > 1
        is_entity = any(is_role(c.name, "user", "place") for c in (column, key))
        if not has_user and (is_entity or column.repeated <= MAX_DUPLICATES):
            continue
        dropped += [column.sql] if has_user else []
        columns = []
        for one in other.columns:
            is_short = one.name.lower() in taken or {*one.words} <= WORDS["name"]
            name = f"{other.name}_{one.name}" if is_short else one.name
            taken.add(name.lower())
            if one is not key:
                columns.append(f"{other.name}.{one.sql}" + f" AS {identifier(name)}" * is_short)
        joins[other] = Join(other, _one_row_each(other, key), columns, column, key)
    note = "joined with {} by key"
    return _left_joined(reader, "joined", note, table, [*joins.values()], ", ".join(dropped))


def aggregate(column: Column, key: Column) -> str:
    """Returns SQL for the value of a user or place in a log: the usual one if values vary."""
    pairs = pl.DataFrame({"key": key.values, "value": column.values}).drop_nulls().unique()
    varies = pairs["key"].n_unique() < len(pairs)
    return "mode({0} ORDER BY {0})" if varies else "any_value({})"


def with_log_columns(
    reader: Reader, table: Table, log: Table, keys: tuple[Column, Column], columns: Sequence[Column]
) -> Table:
    """Returns a table of users or places with columns of the log that have one value per key.

    `keys` are the keys in the table and in the log.
    """
    values = {column.sql: aggregate(column, keys[1]).format(column.sql) for column in columns}
    join = _grouped(log, *keys, values)
    note = f"with the columns of the log that have one value per {keys[1].name}"
    return _left_joined(reader, "described", note, table, [join])


def with_others(
    reader: Reader, table: Table, keys: tuple[Column, Column], others: list[Table], *, role: str
) -> Table:
    """Returns a table of users or places with the columns of other tables that have its key.

    `keys` are the keys in the table and in the log. Of tables with several rows for each user or
    place, such as cuisines, values become lists. Logs are not read, and no lists with times.
    """
    key, taken = keys[0], {column.name.lower() for column in table.columns}
    joins = []
    for other in others:
        own = next((c for c in other.columns for one in keys if c.words == one.words), None)
        if own is None:
            continue
        rest = [c for c in other.columns if c is not own and c.name.lower() not in taken]
        if own.repeated > MAX_DUPLICATES:
            names = [c for c in other.columns if {*c.words} <= WORDS["name"]]  # of dishes, too
            rest += [c for c in names if c not in [*rest, own]]
            values = _lists(rest, role) if is_contained(own, key) else {}
            for c in names:
                if c.name.lower() in taken and c.sql in values:
                    values[identifier(f"{other.name}_{c.name}")] = values.pop(c.sql)
            added = _grouped(other, key, own, values) if values else None
        else:
            added = _same_key(other, key, own, rest, role)
        if added:
            joins.append(added)
            taken |= {column.name.lower() for column in rest}
    note = "with the columns of {}, values of several rows as lists"
    return _left_joined(reader, "completed", note, table, joins)


def _same_key(other: Table, key: Column, own: Column, rest: list[Column], role: str) -> Join | None:
    """Returns a join with a table that has one row for each user or place, or None."""
    of_log = {"user", "place", "request", "click", "order"} - {role}
    is_log = any(is_role(column.name, *of_log) for column in rest)
    # An `id` may be that of something else, so it must have nearly the same values.
    is_bare = {*key.words} <= WORDS["code"]
    is_same = is_contained(key, own) or (is_contained(own, key) and not is_bare)
    if is_log or not rest or not is_same:
        return None
    columns = [f"{other.name}.{column.sql}" for column in rest]
    return Join(other, _one_row_each(other, own), columns, key, own)


def _one_row_each(table: Table, key: Column) -> str:
    """Returns SQL for a table, without rows that repeat a key."""
    if key.is_key:
        return table.name
    rows = f"SELECT DISTINCT ON ({key.sql}) * FROM {table.name} ORDER BY ALL"
    return f"({rows}) AS {table.name}"


def _lists(rest: list[Column], role: str) -> dict[str, str]:
    """Returns the columns of a table with several rows for each user or place, as SQL for lists.

    The result is empty for logs and tables with times.
    """
    values = [c for c in rest if c.kind == "category" or (c.kind == "text" and is_name(c.name))]
    # Names of dishes, and of properties, are no keys.
    named = [c for c in values if role == "place" and (c.has_words or not is_code(c))]
    # Each dish of a menu has an ID of its own, unlike the places of a log.
    own = [c for c in rest if c.is_key and is_role(c.name, "place")]
    unused = named + own + [c for c in rest if c.kind in ("nested", "missing", "constant")]
    of_logs = {*OF_LOGS} - ({"rating"} if own else set())  # a dish may have a rating
    is_log = any(is_role(c.name, *of_logs) for c in rest if c not in unused)
    if is_log or any(column.kind in ("time", "date") for column in rest):
        return {}
    lists = "string_agg(DISTINCT {0}, ', ' ORDER BY {0})"
    for column, value in permutations(rest, 2) if len(rest) == 2 else ():
        # A property and its value: each property becomes a list of its values.
        is_property = column.kind == "category" and 1 < len(column.distinct) <= MAX_PROPERTIES
        has_values = value.kind in ("category", "text")
        if is_property and has_values and is_attribute(column, value):
            return {
                identifier(
                    name
                ): f"{lists.format(value.sql)} FILTER ({column.sql} = {literal(name)})"
                for name in column.distinct
            }
    return {column.sql: lists.format(column.sql) for column in values if column not in own}


def _grouped(other: Table, left: Column, right: Column, values: dict[str, str]) -> Join:
    """Returns a join with the values of a table by key: name in SQL -> SQL that aggregates."""
    lines = ", ".join([right.sql, *(f"{sql} AS {name}" for name, sql in values.items())])
    rows = f"(SELECT {lines} FROM {other.name} GROUP BY ALL) AS {other.name}"
    return Join(other, rows, [f"{other.name}.* EXCLUDE ({right.sql})"], left, right)


def _rows_with(event: Column, values: list[str]) -> int:
    """Returns the number of rows with some events."""
    return int(event.values.is_in(values).sum())


def event_column(table: Table) -> Column | None:
    """Returns the column that names the event of each row, or None."""
    few = [c for c in table.columns if c.kind == "category" and len(c.distinct) <= MAX_EVENTS]
    return next((c for test in (_names_events, _holds_codes) for c in few if test(c)), None)


def _names_events(column: Column) -> bool:
    """Returns whether most values name events, and one of them more than an impression."""
    events = pl.Series(map(_event, column.distinct), dtype=pl.String)
    return share(events != "") >= MIN_EVENTS and not {*events} <= {"", UNDONE, EVENTS[0]}


def _event(value: str) -> str:
    """Returns the strongest of `EVENTS` that a value names, `UNDONE`, or an empty text."""
    if has_role(value, UNDONE):
        return UNDONE
    if not NEGATIONS.isdisjoint(words_of(value)):
        return EVENTS[0]
    return next((event for event in reversed(EVENTS) if has_role(value, event)), "")


def _holds_codes(column: Column) -> bool:
    """Returns whether a column has numbers for events."""
    return column.is_integer and len(column.distinct) > 1 and has_role(column.name, "event")


def pivoted_events(
    reader: Reader, log: Table, event: Column, keys: list[Column], time: Column | None
) -> Table:
    """Returns a log with one row per user, place and request (or day), with click and order.

    `keys` are the columns of users, places and, if present, requests. A view is an impression if
    the log has clicks, and else a click.
    """
    shown, seen, clicked, acted, orders = (
        [value for value in event.distinct if _event(value) == name] for name in EVENTS
    )
    if _holds_codes(event):
        codes = event.values.drop_nulls().value_counts(sort=True).to_series().to_list()
        seen, acted, orders = codes[:1], codes[1:-1], codes[-1:]
    if _rows_with(event, seen) < _rows_with(event, clicked):
        seen, clicked = [], [*seen, *clicked]  # a page is viewed before a click
    clicks = [*(seen if not clicked else []), *clicked, *acted, *orders]
    lines = group = [key.sql for key in keys]
    if time is not None:
        lines = [*lines, f"min({time.as_time()}) AS {time.sql}"]
        group = group if len(keys) > 2 else [*group, f"{time.timestamp}::DATE"]
    has_impressions = shown or (seen and clicked)
    others = [value for value in event.distinct if value not in clicks]
    left_out = [v for v in others if not has_impressions or _event(v) == UNDONE]
    for name, values in (("click", clicks if has_impressions else []), ("order", orders)):
        if values:
            among = f"{event.sql} IN ({', '.join(map(literal, values))})"
            lines = [*lines, f"bool_or({among}) AS {identifier(name)}"]
    rest = [column for column in log.columns if column not in (event, time, *keys)]
    lines = [*lines, *(f"any_value({column.sql}) AS {column.sql}" for column in rest)]
    sql = "SELECT " + ",\n    ".join(lines)
    sql += f"\nFROM {log.name}\n"
    if left_out:
        sql += f"WHERE {event.sql} NOT IN ({', '.join(map(literal, left_out))})\n"
    sql += f"GROUP BY {', '.join(group)} ORDER BY ALL"
    not_clicked = [value for value in others if value not in left_out]
    note = f"CHECK: by {event.name}, {', '.join(clicks)} is a click"
    note += f", {', '.join(orders)} an order" if orders else ""
    note += f", {', '.join(not_clicked)} no click" if not_clicked else ""
    note += f"; rows with {', '.join(left_out)} are left out" if left_out else ""
    note += "; guessed: views are the most frequent, orders the rarest" * _holds_codes(event)
    return reader.query(f"{log.name}_by_place", sql, note, log)


def once(reader: Reader, log: Table, keys: list[Column]) -> Table:
    """Returns a log without further rows of a place in a request, such as one for each tag."""
    names = ", ".join(key.sql for key in keys)
    sql = f"SELECT DISTINCT ON ({names}) * FROM {log.name} ORDER BY ALL"
    return reader.query(f"{log.name}_once", sql, f"one row for each {names}", log)
