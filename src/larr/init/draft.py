"""`larr init`: writes a commented configuration for the tables of a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import time as clock
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from larr.data.contract import TABLES
from larr.data.names import LOOKED_UP
from larr.data.sql import identifier, literal
from larr.data.statistics import NEVER_SEEN
from larr.data.transforms import TIME_COLUMNS
from larr.data.values import LABELS
from larr.html import environment
from larr.init.guess import Entity, Guess, guess
from larr.init.kinds import EPOCHS, MIXED, STARTED, Column, has_words, is_kind, percent, share
from larr.init.left_out import why_not
from larr.init.reader import Reader, Table
from larr.init.reshape import MAX_DUPLICATES, are_among, is_named_as, of_key
from larr.init.roles import MAX_MISSING
from larr.init.words import has_role, is_name, is_role, words_of
from larr.progress import console

MAX_PROFILES = 3
MANY_FLAGS = 5
"""A table with at least this many flags (yes-or-no columns) gets a list of words instead."""
ADDED = {*TIME_COLUMNS, *NEVER_SEEN, "ctr", "cvr", "recent", "impressions", "order_price_yuan"}
"""Names, without prefix, of columns that larr adds."""
NUMBERS = {"lat", "lon", "price_yuan", "rating", "temperature_c"}
"""Numeric columns of the contract that larr does not use otherwise."""
MIN_TESTED, MAX_TESTED = 0.1, 0.4
"""Minimum and maximum share of the rows in the test days."""
HIGH = 0.8
"""A rating of at least this share of the largest is a click."""
MIN_STARS = 5
"""Zeros on a scale up to at least this number may be missing ratings."""
MIN_NAMES, MANY_NAMES = 0.3, 0.9
"""Minimum number of distinct names per place, and of texts that recur in the log."""
PREFIXES = {"users": "user_", "places": "poi_", "impressions": "", "orders": ""}
KEYS = {"users": "user_id", "places": "poi_id"}
NAMES = {"user": "user_id", "place": "poi_id", "request": "request_id", "rating": "click"}
"""Role -> column of the contract, if their names differ."""
OFFSET = r"\d{2}:\d{2}.*(Z|UTC|[+-]\d{2}:?\d{2})$"


@dataclass
class Query:
    """The SQL query of a table of the contract, and the kinds of its columns."""

    table: str
    source: str
    """The SQL after FROM."""
    lines: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Column of the contract -> its SQL and a note."""
    checks: list[str] = field(default_factory=list)
    """Guesses that the user should check."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Column -> the reason why it is not read."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Column, as named in keywords and features -> its kind."""
    liked: list[str] = field(default_factory=list)
    """Columns with values that users may prefer, for profiles."""

    def add(self, sql: str, name: str, example: str, kind: str = "") -> None:
        """Adds a column with a comment."""
        quoted = identifier(name)
        note = f"{kind}, such as {example}" if kind else f"such as {example}"
        self.lines[name] = (sql if sql == quoted else f"{sql} AS {quoted}", note)

    def add_own(self, column: Column, form: str = "{}") -> None:
        """Adds a column that is not in the contract; a time becomes its year."""
        sql, kind, name = form.format(column.read), column.kind, self._free_name(column)
        example = column.example
        is_liked = not column.values.cast(pl.Float64, strict=False).count()
        if kind in ("time", "date"):
            is_liked = False
            sql, kind, name = form.format(f"year({column.timestamp})"), "category", f"{name}_year"
            example = repr(str(column.times.drop_nulls().dt.year().first()))
        if kind == "list":
            replaced = f"replace({sql}, {literal(column.form)}, ', ')"
            replaced = replaced if column.form else f"array_to_string({sql}, ', ')"
            sql = replaced if column.form != ", " else sql
        self._add_read(sql, name, kind, example, is_liked=is_liked)

    def add_flags(self, flags: list[Column]) -> None:
        """Adds flags as one list of the names of those that are set."""
        words = ",".join(
            f"\n        CASE {flag.sql} WHEN {literal(flag.yes)} "
            f"THEN {literal(' '.join(flag.words))} END"
            for flag in flags
        )
        self._add_read(f"concat_ws(', ',{words})", "kinds", "list", repr(" ".join(flags[0].words)))

    def _add_read(
        self, sql: str, name: str, kind: str, example: str, *, is_liked: bool = True
    ) -> None:
        prefix = PREFIXES[self.table]
        read = name if name.startswith(prefix) else prefix + name
        self.add(sql, name, example, kind)
        self.kinds[read] = kind
        self.liked += [read] if is_liked and kind in ("category", "list") else []

    def _free_name(self, column: Column) -> str:
        """Returns the name of a column, changed if larr uses it for another purpose."""
        name, table = "_".join(column.words), TABLES[self.table]
        is_text = name in table.optional and table.optional[name].dtype == pl.String
        is_read_so = name in NUMBERS if column.kind == "number" else is_text
        is_other = name in table.columns and not is_read_so
        is_other |= self.table == "impressions" and name.startswith(LOOKED_UP)
        if not name[:1].isalpha() or name in ADDED or is_other:
            name = f"own_{name}"
        return f"{name}_2" if name in self.lines else name


def init(folder: Path, to: Path, *, without: str = "") -> None:
    """Writes a configuration for the tables of a folder; raises DataError without a log.

    `without` names columns to ignore, with commas between, as in the tables or in a configuration.
    """
    ignored = {name.strip() for name in without.split(",")}
    ignored |= {re.sub("^(poi|user)_(?!id$)", "", name) for name in ignored}
    with TemporaryDirectory() as scratch:
        text = draft(Reader(folder, Path(scratch), to.parent, ignored), folder, to)
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(text, encoding="utf-8")
    checks = text.count("\n# CHECK")
    guesses = "1 guess" if checks == 1 else f"{checks} guesses"
    console.print(f"{to}: {guesses} to check; then run `larr check {to}`", soft_wrap=True)


def draft(reader: Reader, folder: Path, path: Path) -> str:
    """Returns the configuration as TOML."""
    found = guess(reader)
    log = _rows("impressions", found)
    orders = [_rows("orders", found.orders)] if found.orders else []
    users, places = _entity("users", found, found.user), _entity("places", found, found.place)
    needed = [found.log, found.user.table, found.place.table, found.orders and found.orders.log]
    read = _with_needs([table for table in needed if table])
    templates = environment().overlay(autoescape=False, keep_trailing_newline=True)
    templates.filters |= {"toml": toml, "words": _words}
    time = next(iter(found.of("time")), None)
    known = [*found.roles.values(), *found.user.columns, *found.place.columns]
    return templates.get_template("mine.toml.j2").render(
        folder=folder,
        path=path,
        files=[table for table in reader.tables if table in read],
        flags=[c.name for c in found.log.columns if c.kind == "flag" and c not in known],
        counts=[c.name for c in found.log.columns if is_role(c.name, "time") and c.is_integer],
        time=time,
        test_days=_test_days(time),
        zone=_zone(time),
        found=found,
        queries=[query for query in (log, places, users, *orders) if query.lines],
        others=reader.others
        | {t.name: _why_unread(t, found) for t in reader.tables if t not in read and not t.needs},
        **_read_of(found, log, places, users),
    )


def _with_needs(tables: Sequence[Table]) -> list[Table]:
    """Returns the tables and, recursively, the tables that their queries read."""
    return [*tables, *(one for table in tables for one in _with_needs(table.needs))]


def _why_unread(table: Table, found: Guess) -> str:
    """Returns the reason why a table is not read."""
    keys = [
        key
        for column in found.log.columns
        for key in table.columns
        if is_named_as(column, key, table)
        if are_among(column, key) or (column.name == key.name and are_among(column, key, 0.01))
    ]
    key = min(keys, key=lambda key: key.repeated, default=None)
    if key is None:
        return "no column of the log matches its key"
    if key.repeated > MAX_DUPLICATES:
        return f"{key.name} is missing or repeated in {percent(key.repeated)} of its rows"
    return f"another table with the key {key.name} is read"


def _words(name: str) -> str:
    """Returns the words of a column's name, without prefix."""
    return " ".join(words_of(re.sub("^((poi|user)_)?(own_)?", "", name)))


def _read_of(found: Guess, log: Query, places: Query, users: Query) -> dict[str, Any]:
    """Returns the columns for keywords, profiles and features."""
    names = dict(zip(found.scene, log.kinds, strict=True))
    differing = [names[column] for column in found.differing]
    scene = {name: kind for name, kind in log.kinds.items() if name not in differing}
    texts = [name for name, kind in places.kinds.items() if kind == "text"]
    written = [
        ("poi", "basic", [name for name in places.kinds if name not in texts]),
        ("user", "profile", [*users.kinds]),
        ("scene", "action", [*scene]),
    ]
    kinds = log.kinds | places.kinds | users.kinds
    dated = [time for time in found.of("time") if time.form not in STARTED]
    has_clock = any(_has_clock(time) for time in dated) or "clock" in found.roles
    of_time = ["hour_band"] * has_clock + ["day_kind"] * len(dated)
    liked = sorted(places.liked, key=lambda name: not has_role(name, "kind")) or ["poi_name"]
    # Profiles count the past, so they need times.
    profiles = liked[:MAX_PROFILES] if "time" in found.roles else []
    likes = {f"user_likes_{n}": name.removeprefix("poi_") for n, name in enumerate(profiles, 1)}
    categories = [name for name, kind in kinds.items() if kind in ("category", "flag", "list")]
    return {
        "texts": texts,
        "written": written,
        "of_time": of_time,
        "profiles": likes,
        "buckets": [name for *_, some in written for name in some if kinds[name] == "number"],
        "categories": ["user_id", "poi_id", *categories, *likes, *of_time],
        "numbers": [name for name, kind in kinds.items() if kind == "number"],
        "differing": differing + ["position"] * ("position" in found.roles),
    }


def _rows(table: str, found: Guess) -> Query:
    """Returns the query of impressions or orders."""
    query = Query(table, found.log.name, left_out=found.left_out)
    needed = []
    for role, column in found.roles.items():
        # IDs are compared with those of other tables, which are not cleaned either.
        is_id = role in ("user", "place", "request")
        sql = column.sql if is_id else column.clean or column.sql
        missing = share(column.values.is_null())
        if role in ("user", "place") and missing > MAX_MISSING:
            needed.append(f"{sql} IS NOT NULL")
            query.checks.append(
                f"{column.name} is missing in {percent(missing)} of the rows, which are left out"
                f"{'; to keep them, give each session or all guests an ID' * (role == 'user')}."
            )
        if role == "time":
            sql = column.as_time(*found.of("clock"))
            query.checks += _doubts(column)
        elif role == "position":
            sql = f"TRY_CAST({sql} AS INTEGER){'' if column.number_values.min() else ' + 1'}"
        elif role == "rating":
            largest = float(column.number_values.max())
            number = sql if sql.startswith("TRY_CAST") else f"TRY_CAST({sql} AS DOUBLE)"
            high = f"{HIGH * largest:g}"
            sql, least = f"{number} >= {high}", float(column.number_values.min())
            has_zero = least == 0 and largest >= MIN_STARS
            needed += [f"{number} >= 0"] * (least < 0 or missing > 0 or has_zero)
            notes = {
                "": True,
                "rows with -1 are left out": least < 0,
                f"rows without it, {percent(missing)}, are left out": missing > 0,
                "if 0 means that nothing was rated, write > 0 in WHERE": has_zero,
            }
            query.checks.append(
                f"{column.name} has values up to {largest:g}; a value from {high} on is a click"
                f"{'; '.join(note for note, is_so in notes.items() if is_so)}."
            )
        elif column.kind == "flag" and column.yes.lower() not in {*LABELS, "1", "1.0"}:
            sql += f" = {literal(column.yes)}"
        if role in found.unsure:
            query.checks.append(f"is {column.name} the {role}{' ID' * is_id}?")
        if role != "clock":
            query.add(sql, NAMES.get(role, role), column.example)
    for column in found.scene:
        query.add_own(column)
    for column in found.log.columns if not found.has_label else ():
        if is_role(column.name, "count") and column.number_values.min(initial=0) < 0:
            needed.append(f"TRY_CAST({column.read} AS DOUBLE) > 0")
            query.checks.append(f"returns, rows with {column.name} not above 0, are left out.")
    query.source += "\nWHERE " * bool(needed) + " AND ".join(needed)
    return query


def _doubts(time: Column) -> Iterator[str]:
    """Yields what the user should check about a time."""
    if time.form in STARTED:
        yield (
            f"{time.name} seems to count {time.form}, which is unknown, so no text or feature "
            "reads hours and days of the week."
        )
    if time.form.startswith(("%d/%m", "%m/%d", MIXED)):
        yield f"{time.name}, such as {time.example}: {time.form}?"


def _entity(table: str, found: Guess, entity: Entity) -> Query:
    """Returns the query of users or places, without lines if they have no columns but the key."""
    own, key = entity.own_key or entity.key, KEYS[table]
    query = Query(table, (entity.table or found.log).name)
    if not entity.columns:
        return query

    def form(column: Column) -> str:
        return "{}" if entity.table else of_key(column, own)

    query.add(own.sql, key, own.example)
    title = _title(entity.columns, own) if table == "places" else None
    if table == "places":
        text = "::VARCHAR" * (title is not None and title.dtype != own.dtype)
        name = own.sql
        if title:
            name = f"coalesce({form(title).format(title.read)}{text}, {own.sql}{text})"
        query.add(name, "name", (title or own).example)
    flags = [column for column in entity.columns if column.kind == "flag"]
    flags = flags if len(flags) >= MANY_FLAGS and entity.table else []
    if flags:
        query.add_flags(flags)
    for column in entity.columns:
        axes = [a for a in ("lat", "lon") if table == "places" and is_role(column.name, a)]
        axes = axes if len(column.number_values) else []
        if reason := why_not(column):
            query.left_out[column.name] = reason
        elif axes and axes[0] not in query.lines:
            query.add(form(column).format(column.read), axes[0], column.example)
        elif (column is not title or is_kind(column)) and column not in flags:
            query.add_own(column, form(column))
    given = f"\nWHERE {own.sql} IS NOT NULL" if own.values.null_count() else ""
    if entity.table is None:
        query.source += f"{given}\nGROUP BY {own.sql} ORDER BY {own.sql}"
        query.checks.append(
            f"there is no table of {table}; these columns of the log have one value per {own.name}."
        )
    elif unknown := share(~entity.key.distinct.is_in(own.distinct.implode())):
        name = f", {key} AS name" if table == "places" else ""
        query.source += (
            f"\nUNION ALL BY NAME SELECT DISTINCT {key}{name} FROM impressions\n"
            f"WHERE {key} NOT IN (SELECT {own.sql} FROM {entity.table.name}{given}) ORDER BY ALL"
        )
        query.checks.append(
            f"{percent(unknown)} of the {table} of the log are not in this table; they are added."
        )
    if entity.table and own.repeated:
        query.checks.append(
            f"{own.name} is missing or repeated in {percent(own.repeated)} of the rows; one row of "
            "each value is read."
        )
    return query


def _title(columns: Sequence[Column], key: Column) -> Column | None:
    """Returns the column with the names of places, the first text, their kinds, or None.

    A key such as `restaurant_name` is the name.
    """
    if has_role(key.words[-1], "name") and has_words(key):
        return None
    named = [column for column in columns if is_name(column.name)]
    named = [c for c in named if c.kind in ("text", "category", "code", "list")]
    named = [c for c in named if c.kind != "list" or c.form]  # not a list of Parquet or JSON
    least = MIN_NAMES * len(key.distinct)
    named = [c for c in named if len(c.distinct) >= min(least, MIN_NAMES * c.values.count())]
    texts = [column for column in columns if column.kind == "text"]
    # In a log, texts of places recur.
    many = MANY_NAMES * len(key.distinct)
    recurring = [c for c in columns if c.kind == "category" and len(c.distinct) >= many]
    texts += [c for c in recurring if has_words(c) and not is_kind(c)]
    kinds = [column for column in columns if column.kind == "category" and is_kind(column)]
    kinds = [column for column in kinds if not column.is_integer and not has_words(key)]
    texts += [max(kinds, key=lambda column: len(column.distinct))] if kinds else []
    rank = lambda c: (has_role(c.words[-1], "name"), len(c.distinct))  # noqa: E731
    return max(named, key=rank, default=next(iter(texts), None))


def _test_days(time: Column | None) -> int:
    """Returns the number of test days, 0 if the log is too short for complete days."""
    if time is None:
        return 0
    day_N = time.times.dt.epoch("d").drop_nulls().to_numpy()
    age_N = day_N.max() - day_N
    tested = int(np.quantile(age_N, MIN_TESTED)) + 1
    return tested if (age_N < tested).mean() <= MAX_TESTED else 0


def _has_clock(time: Column) -> bool:
    """Returns whether times have a time of day: not all of them are midnight."""
    return bool((time.times.dt.time() != clock(0)).any())


def _zone(time: Column | None) -> str:
    """Returns a note on times that may need conversion, or an empty text."""
    if time is None or time.form in EPOCHS:
        return f"{time.name} holds {time.form} since 1970, read as UTC." if time else ""
    has_offset = bool(time.values.str.contains(OFFSET).any())
    return f"offsets of {time.name}, such as {time.example}, are dropped." if has_offset else ""


def toml(value: Any) -> str:
    """Returns a value as TOML."""
    if isinstance(value, list):
        text = f"[{', '.join(map(toml, value))}]"
        lines = "".join(f"    {toml(one)},\n" for one in value)
        return text if len(text) < 80 else f"[\n{lines}]"
    is_long = isinstance(value, str) and "\n" in value
    return f"'''\n{value}'''" if is_long else json.dumps(value, ensure_ascii=False)
