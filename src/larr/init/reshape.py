"""Generates queries that reshape tables for `larr init`.

A log may be divided among files, name its users by the key of another table, or have one row per
event; places may have several rows. Each case becomes a query in `[dataset.files]`.
"""

from __future__ import annotations

import re
from itertools import groupby

import polars as pl

from larr.data.sql import identifier, literal
from larr.init.kinds import Column, has_words, share
from larr.init.reader import Reader, Table
from larr.init.unnested import unnested
from larr.init.words import EVENTS, WORDS, has_role, is_name, is_role, words_of

CONTAINED, CONTAINED_NAMED, FEW = 0.9, 0.5, 20
"""Minimum shares of a column's values among those of a key, or vice versa for a key with the
column's name in the table of users or places, and the number of values that are tried first."""
MAX_REPEATED, MAX_DUPLICATES = 0.01, 0.1
"""Tables are versions, not parts, of one table if they share a larger part of their rows. A column
with more duplicates is not a key; the first row of each key is read."""
MIN_EVENTS, MAX_EVENTS = 0.7, 30
"""Minimum share of a column's values that name events, and the maximum number of values."""
NEGATIONS = {"no", "not", "non", "without"}
"""Words of events such as `not clicked`."""
SPLITS = dict.fromkeys(("train", "training", "valid", "validation", "val", "dev"), "train")
SPLITS |= dict.fromkeys(("test", "testing"), "test")
OF_LOGS = ("user", "place", "request", "time", "click", "order", "rating", "position")
"""Roles of columns that only logs have, apart from the key of users or places."""
PART = r"\d+|part|prior|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
"""Other words by which the file names of parts differ."""


def reshaped(reader: Reader) -> list[Table]:
    """Returns the tables after unnesting, union and joins."""
    tables = _united(reader, [unnested(reader, table) for table in [*reader.tables]])
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
        if len(parts) > 1 and _share_repeated(reader, parts) > MAX_REPEATED:
            parts = [max(parts, key=lambda part: part.rows)]  # others are versions of the largest
        if len(parts) == 1:
            united += parts
            continue
        found = [[SPLITS[word] for word in words_of(p.name) if word in SPLITS] for p in parts]
        splits = [", " + literal(one[0]) + " AS split" if one else "" for one in found]
        splits = splits if len({*splits}) == 2 and all(splits) else [""] * len(parts)
        both = zip(parts, splits, strict=True)
        sql = "\nUNION ALL BY NAME ".join(
            f"SELECT *{split} FROM {part.name}" for part, split in both
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


def joined(reader: Reader, table: Table, tables: list[Table]) -> Table:
    """Returns a table joined with the tables whose keys it has.

    Users and places are not joined, as larr does so itself, unless their table has another user ID,
    for example that of an account with several customer numbers.
    """
    columns, joins, needs = [f"{table.name}.*"], [], [table]
    taken = {column.name.lower() for column in table.columns}
    named = [other for other in tables if other.is_named and table.is_named]
    for column in table.columns:
        links = ((other, _key(column, other)) for other in named if other not in needs)
        for other, key in links:
            if key is None:
                continue
            has_user = _is_user_id(key) and any(_is_user_id(c) for c in other.columns if c != key)
            is_entity = any(is_role(c.name, r) for c in (column, key) for r in ("user", "place"))
            if not has_user and (is_entity or column.repeated <= MAX_DUPLICATES):
                continue
            columns[0] += f" EXCLUDE ({column.sql})" * has_user
            for one in other.columns:
                is_short = one.name.lower() in taken or {*one.words} <= WORDS["name"]
                name = f"{other.name}_{one.name}" if is_short else one.name
                taken.add(name.lower())
                if one is not key:
                    renamed = f" AS {identifier(name)}" * is_short
                    columns.append(f"{other.name}.{one.sql}{renamed}")
            text = "::VARCHAR" * (column.dtype != key.dtype)
            same = f"{table.name}.{column.sql}{text} = {other.name}.{key.sql}{text}"
            first = f"(SELECT DISTINCT ON ({key.sql}) * FROM {other.name} ORDER BY ALL) AS "
            joins.append(f"LEFT JOIN {first * (not key.is_key)}{other.name} ON {same}")
            needs.append(other)
    if not joins:
        return table
    sql = "SELECT " + ",\n    ".join(columns) + "\n" + "\n".join([f"FROM {table.name}", *joins])
    note = f"joined with {', '.join(one.name for one in needs[1:])} by key"
    return reader.query(f"{table.name}_joined", sql, note, *needs)


def of_key(column: Column, key: Column) -> str:
    """Returns SQL for the value of a user or place in a log: the usual one if values vary."""
    pairs = pl.DataFrame({"key": key.values, "value": column.values}).drop_nulls().unique()
    varies = pairs["key"].n_unique() < len(pairs)
    return "mode({0} ORDER BY {0})" if varies else "any_value({})"


def described(
    reader: Reader, table: Table, log: Table, keys: tuple[Column, Column], columns: list[Column]
) -> Table:
    """Returns a table of users or places with columns of the log that have one value per key.

    `keys` are the keys in the table and in the log.
    """
    own, key = keys
    values = [f"{of_key(column, key).format(column.sql)} AS {column.sql}" for column in columns]
    text = "::VARCHAR" * (own.dtype != key.dtype)
    sql = (
        f"SELECT {table.name}.*, of_log.* EXCLUDE (key_of_log)\nFROM {table.name} LEFT JOIN (\n"
        f"    SELECT {', '.join([f'{key.sql} AS key_of_log', *values])}\n"
        f"    FROM {log.name} GROUP BY {key.sql}\n"
        f") AS of_log ON {table.name}.{own.sql}{text} = key_of_log{text}"
    )
    note = f"with the columns of the log that have one value per {key.name}"
    return reader.query(f"{table.name}_described", sql, note, table, log)


def with_lists(reader: Reader, table: Table, key: Column, others: list[Table]) -> Table:
    """Returns a table of users or places with the values of tables that have several rows for each.

    Cuisines of a restaurant, for example, become a list. Logs and tables with times are not read.
    """
    lines, joins, needs = [], [], [table]
    for other in others:
        own = next((c for c in other.columns if c.name == key.name), key)
        rest = [column for column in other.columns if column is not own]
        values = [c for c in rest if c.kind == "category" or (c.kind == "text" and is_name(c.name))]
        # Names of dishes are no keys.
        named = [c for c in values if has_words(c) and not is_role(key.name, "user")]
        is_log = any(is_role(c.name, role) for c in rest if c not in named for role in OF_LOGS)
        is_log |= any(column.kind in ("time", "date") for column in rest)
        if is_log or not values or own.repeated <= MAX_DUPLICATES or not are_among(own, key):
            continue
        text = "::VARCHAR" * (own.dtype != key.dtype)
        lists = [
            f"string_agg(DISTINCT {c.sql}, ', ' ORDER BY {c.sql}) AS {identifier(c.name)}"
            for c in values
        ]
        lines += [f"{other.name}.* EXCLUDE ({own.sql})"]
        joins += [
            f"LEFT JOIN (SELECT {own.sql}, {', '.join(lists)} FROM {other.name} GROUP BY ALL) "
            f"AS {other.name} ON {table.name}.{key.sql}{text} = {other.name}.{own.sql}{text}"
        ]
        needs.append(other)
    if not lines:
        return table
    sql = ",\n    ".join([f"SELECT {table.name}.*", *lines])
    sql += "\n".join([f"\nFROM {table.name}", *joins])
    note = f"with lists of the values in {', '.join(one.name for one in needs[1:])}"
    return reader.query(f"{table.name}_with_lists", sql, note, *needs)


def _is_user_id(column: Column) -> bool:
    return is_role(column.name, "user") and "id" in column.words


def _key(column: Column, other: Table) -> Column | None:
    """Returns the key of another table to which a column refers, by its values and its name."""
    named = (key for key in other.columns if key is not column and is_named_as(column, key, other))
    return next((key for key in named if refers(column, key)), None)


def is_named_as(column: Column, key: Column, other: Table) -> bool:
    """Returns whether a column's name resembles that of another table's key."""
    names = {word[:5] for word in column.words if word not in WORDS["code"]}
    of_other = {word[:5] for word in [*words_of(other.name), *key.words]}
    return key.name == column.name or not names.isdisjoint(of_other)


def refers(column: Column, key: Column) -> bool:
    """Returns whether nearly all of a column's values are in a key."""
    return key.repeated <= MAX_DUPLICATES and are_among(column, key)


def shares(column: Column, key: Column) -> bool:
    """Returns whether many of a column's values are in a key of the same name, or vice versa."""
    pairs = ((column, key), (key, column))
    return key.repeated <= MAX_DUPLICATES and any(are_among(*p, CONTAINED_NAMED) for p in pairs)


def are_among(column: Column, key: Column, least: float = CONTAINED) -> bool:
    """Returns whether at least this share of a column's values is in another column."""
    if key.kind in ("time", "date", "link", "list"):
        return False
    known, values = key.distinct.implode(), column.distinct
    is_likely = share(values.head(FEW).is_in(known)) > least / 2
    return is_likely and share(values.is_in(known)) >= least


def event_column(table: Table) -> Column | None:
    """Returns the column that names the event of each row, or None."""
    few = [c for c in table.columns if c.kind == "category" and len(c.distinct) <= MAX_EVENTS]
    return next(filter(_names_events, few), None) or next(filter(_holds_codes, few), None)


def _names_events(column: Column) -> bool:
    """Returns whether most values name events, and one of them more than an impression."""
    events = pl.Series(map(_event, column.distinct), dtype=pl.String)
    return share(events != "") >= MIN_EVENTS and not {*events} <= {"", EVENTS[0]}


def _event(value: str) -> str:
    """Returns the strongest of `EVENTS` that a value names, or an empty text."""
    if not NEGATIONS.isdisjoint(words_of(value)):
        return EVENTS[0]
    return next((event for event in reversed(EVENTS) if has_role(value, event)), "")


def _holds_codes(column: Column) -> bool:
    """Returns whether a column has numbers for events."""
    return column.is_integer and len(column.distinct) > 1 and has_role(column.name, "event")


def by_event(
    reader: Reader, log: Table, event: Column, keys: list[Column], time: Column | None
) -> Table:
    """Returns a log with one row per user, place and request (or day), with click and order.

    `keys` are the columns of users, places and, if present, requests. A view is an impression if
    the log has clicks, and else a click.
    """
    values = {name: [value for value in event.distinct if _event(value) == name] for name in EVENTS}
    if _holds_codes(event):
        codes = event.values.drop_nulls().value_counts(sort=True).to_series().to_list()
        values |= {"seen": codes[:1], "acted": codes[1:-1], "taken": codes[-1:]}
    shown, seen, orders = values["shown"], values["seen"], values["taken"]
    shown += seen if values["clicked"] else []
    clicks = [
        *(seen if not values["clicked"] else []),
        *values["clicked"],
        *values["acted"],
        *orders,
    ]
    lines = group = [key.sql for key in keys]
    if time is not None:
        lines = [*lines, f"min({time.as_time()}) AS {time.sql}"]
        group = group if len(keys) > 2 else [*group, f"{time.timestamp}::DATE"]
    for name, some, is_wanted in (("click", clicks, shown), ("order", orders, orders)):
        if is_wanted:
            among = f"{event.sql} IN ({', '.join(map(literal, some))})"
            lines = [*lines, f"bool_or({among}) AS {identifier(name)}"]
    rest = [column for column in log.columns if column not in (event, time, *keys)]
    lines = [*lines, *(f"any_value({column.sql}) AS {column.sql}" for column in rest)]
    sql = "SELECT " + ",\n    ".join(lines)
    sql += f"\nFROM {log.name}\nGROUP BY {', '.join(group)} ORDER BY ALL"
    note = f"CHECK: by {event.name}, {', '.join(clicks)} is a click"
    note += f", {', '.join(orders)} an order" if orders else ""
    note += "; guessed: views are the most frequent, orders the rarest" * _holds_codes(event)
    return reader.query(f"{log.name}_by_place", sql, note, log)
