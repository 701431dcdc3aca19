"""Writes the SQL that reads the tables of the contract from the tables of a guess."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from larr.data.contract import TABLES
from larr.data.names import LOOKED_UP, PREFIXES
from larr.data.sql import identifier, literal
from larr.data.statistics import NEVER_SEEN
from larr.data.transforms import AGE, TIME_COLUMNS
from larr.data.values import LABELS
from larr.init.guess import Entity, Guess
from larr.init.kinds import MIXED, RELATIVE, Column, percent, share
from larr.init.left_out import why_not
from larr.init.relations import is_start
from larr.init.reshape import aggregate
from larr.init.roles import MAX_MISSING
from larr.init.words import WORDS, has_role, is_kind, is_name, is_role

MANY_FLAGS = 5
"""A table with at least this many flags (yes-or-no columns) gets a list of words instead."""
ADDED = {*TIME_COLUMNS, *NEVER_SEEN, AGE.removeprefix("poi_")}
ADDED |= {"ctr", "cvr", "recent", "impressions", "order_price_yuan"}
"""Names, without prefix, of columns that larr adds."""
HIGH = 0.8
"""A rating of at least this share of the largest is a click."""
MANY_CLICKS = 0.9
"""A label that is set in a larger share of the rows may not be the click."""
MIN_STARS = 5
"""Zeros on a scale up to at least this number may be missing ratings."""
MAX_EVENTS = 6
"""Events that a comment names."""
MIN_NAMES, MANY_NAMES = 0.3, 0.9
"""Minimum number of distinct names per place, and of texts that recur in the log."""
NAMES = {"user": "user_id", "place": "poi_id", "request": "request_id", "rating": "click"}
"""Role -> column of the contract, if their names differ."""


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

    def add(
        self, sql: str, name: str, example: str, kind: str = "", *, is_liked: bool = False
    ) -> None:
        """Adds a column of the contract or, with its kind, another one, with a comment."""
        quoted, prefix = identifier(name), PREFIXES[self.table]
        note = f"{kind}, such as {example}" if kind else f"such as {example}"
        self.lines[name] = (sql if sql == quoted else f"{sql} AS {quoted}", note)
        if kind:
            read = name if name.startswith(prefix) else prefix + name
            self.kinds[read] = kind
            if is_liked:
                self.liked.append(read)

    def add_own(self, column: Column, form: str = "{}") -> None:
        """Adds a column that is not in the contract; a time becomes its year."""
        name, kind, sql = self._free_name(column), column.kind, form.format(column.value_sql)
        if kind in ("time", "date"):
            years = column.times.drop_nulls().dt.year().cast(pl.String)
            year_sql, example = form.format(f"year({column.timestamp})"), repr(years.first())
            if years.n_unique() > 1:
                self.add(year_sql, f"{name}_year", example, "category")
            else:
                self.left_out[column.name] = f"a time, whose year is {example} in all rows"
            return
        if kind == "list" and not column.form:
            sql = f"array_to_string({sql}, ', ')"
        elif kind == "list" and column.form != ", ":
            sql = f"replace({sql}, {literal(column.form)}, ', ')"
        has_numbers = column.values.cast(pl.Float64, strict=False).count() > 0
        is_liked = kind in ("category", "list") and not has_numbers
        self.add(sql, name, column.example, kind, is_liked=is_liked)

    def add_flags(self, flags: list[Column]) -> None:
        """Adds flags as one list of the names of those that are set."""
        names = [" ".join(flag.words) for flag in flags]
        words = ",".join(
            f"\n        CASE {flag.sql} WHEN {literal(flag.true_value)} THEN {literal(name)} END"
            for flag, name in zip(flags, names, strict=True)
        )
        self.add(f"concat_ws(', ',{words})", "kinds", repr(names[0]), "list", is_liked=True)

    def _free_name(self, column: Column) -> str:
        """Returns the name of a column, changed if larr uses it for another purpose."""
        name = "_".join(column.words)
        dtype = pl.Float64 if column.kind == "number" else pl.String
        same = TABLES[self.table].columns.get(name)
        is_other = same is not None and (same.dtype != dtype or not same.nullable)
        is_other |= self.table == "impressions" and name.startswith(LOOKED_UP)
        if not name[:1].isalpha() or name in ADDED or is_other:
            name = f"own_{name}"
        # Without the prefix, the columns `id` and `user_id` of users would be the same.
        prefix = PREFIXES[self.table]
        taken = {line.removeprefix(prefix) for line in self.lines}
        return f"{name}_2" if name.removeprefix(prefix) in taken else name


def log_query(table: str, found: Guess) -> Query:
    """Returns the query of impressions or orders."""
    query = Query(table, found.log.name, left_out=found.left_out)
    where = []
    for role, column in found.roles.items():
        # IDs are compared with those of other tables, which are not cleaned either.
        is_id = role in ("user", "place", "request")
        sql = column.sql if is_id else column.clean or column.sql
        if role in ("user", "place") and column.missing > MAX_MISSING:
            where.append(f"{sql} IS NOT NULL")
            query.checks.append(
                f"{column.name} is missing in {percent(column.missing)} of the rows, which are left"
                f" out{'; to keep them, give each session or all guests an ID' * (role == 'user')}."
            )
        if role == "time":
            sql = column.as_time(*found.of("clock"))
            query.checks += _doubts(column)
        elif role == "position":
            sql = f"TRY_CAST({sql} AS INTEGER){'' if column.number_values.min() else ' + 1'}"
        elif role == "rating":
            number = sql if sql.startswith("TRY_CAST") else f"TRY_CAST({sql} AS DOUBLE)"
            largest, unrated = column.number_values.max(), [*_unrated(column)]
            high = f"{HIGH * largest:g}"
            sql = f"{number} >= {high}"
            where += [f"{number} >= 0"] if unrated else []
            note = f"{column.name} has values up to {largest:g}; a value from {high} on is a click"
            query.checks.append("; ".join([note, *unrated]) + ".")
        elif column.kind == "flag" and column.true_value.lower() not in {*LABELS, "1", "1.0"}:
            sql += f" = {literal(column.true_value)}"
        query.checks += _doubts_of_label(role, column)
        if role in found.unsure:
            query.checks.append(f"is {column.name} the {role}{' ID' * is_id}?")
        if role != "clock":
            query.add(sql, NAMES.get(role, role), column.example)
    for column in found.scene:
        query.add_own(column)
    for column in found.log.columns if not found.has_label else ():
        query.checks += _doubts_of_clicks(column)
        if _has_returns(column):
            where.append(f"TRY_CAST({column.value_sql} AS DOUBLE) > 0")
    if where:
        query.source += f"\nWHERE {' AND '.join(where)}"
    return query


def _doubts_of_label(role: str, column: Column) -> Iterator[str]:
    """Yields what the user should check about a label that nearly all rows have."""
    is_flag = role == "click" and column.kind == "flag"
    if is_flag and (clicked := share(column.values == column.true_value)) > MANY_CLICKS:
        yield (
            f"{column.name} is {column.true_value} in {percent(clicked)} of the rows; if each row "
            "was chosen, as an order is, and this is what became of it, leave it out and write "
            "[dataset.negatives]."
        )


def _has_returns(column: Column) -> bool:
    """Returns whether a column has quantities, of which some are negative."""
    return is_role(column.name, "count") and column.number_values.min(initial=0) < 0


def _doubts_of_clicks(column: Column) -> Iterator[str]:
    """Yields what the user should check about a column of a log whose rows all are clicks."""
    if _has_returns(column):
        yield f"returns, rows with {column.name} not above 0, are left out."
    if has_role(column.name, "event") and column.kind == "category":
        some = ", ".join(column.distinct.head(MAX_EVENTS))
        yield (
            f"each row is a click, whatever its {column.name}: {some}; for clicks only, write "
            f"WHERE {column.sql} IN (...) after FROM."
        )


def _unrated(rating: Column) -> Iterator[str]:
    """Yields notes on rows without a rating."""
    least, largest = rating.number_values.min(), rating.number_values.max()
    if least < 0:
        yield "rows with -1 are left out"
    if rating.missing:
        yield f"rows without it, {percent(rating.missing)}, are left out"
    if least == 0 and largest >= MIN_STARS:
        yield "if 0 means that nothing was rated, write > 0 in WHERE"


def _doubts(time: Column) -> Iterator[str]:
    """Yields what the user should check about a time."""
    if time.form in RELATIVE:
        yield (
            f"{time.name} seems to count {time.form}, which is unknown, so no text or feature "
            "reads hours and days of the week."
        )
    if time.form.startswith(("%d/%m", "%m/%d", MIXED)):
        yield f"{time.name}, such as {time.example}: {time.form}?"


def entity_query(table: str, found: Guess, entity: Entity) -> Query:
    """Returns the query of users or places, without lines if they have no columns but the key."""
    own, (key, *_) = entity.own_key, TABLES[table].key
    query = Query(table, (entity.table or found.log).name)
    if not entity.columns:
        return query
    forms = {c: "{}" if entity.table else aggregate(c, own) for c in entity.columns}
    query.add(own.sql, key, own.example)
    title = _title(entity.columns, own) if table == "places" else None
    if title:
        text = "::VARCHAR" * (title.dtype != own.dtype)
        sql = f"coalesce({forms[title].format(title.value_sql)}{text}, {own.sql}{text})"
        query.add(sql, "name", title.example)
    elif table == "places":
        query.add(own.sql, "name", own.example)
    start = _start(found) if table == "places" else None
    flags = [column for column in entity.columns if column.kind == "flag"]
    flags = flags if len(flags) >= MANY_FLAGS and entity.table else []
    if flags:
        query.add_flags(flags)
    for column in entity.columns:
        axes = [a for a in ("lat", "lon") if table == "places" and is_role(column.name, a)]
        if reason := why_not(column):
            query.left_out[column.name] = reason
        elif axes and column.is_numeric and axes[0] not in query.lines:
            query.add(forms[column].format(column.value_sql), axes[0], column.example)
        elif column is start:
            query.add(column.as_time(), "since", column.example)
            query.checks.append(
                f"{column.name} precedes the rows of its {found.place.key.name}, so it is taken for"
                " the start of a place, before which it is not sampled; its age is a feature."
            )
        elif (column is not title or is_kind(column.name)) and column not in flags:
            query.add_own(column, forms[column])
    given = f"\nWHERE {own.sql} IS NOT NULL" if own.missing else ""
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


def _start(found: Guess) -> Column | None:
    """Returns the column of places with the time from which the log can contain them, or None."""
    place, time = found.place, found.roles.get("time")
    if place.table is None or time is None or time.form in RELATIVE:
        return None
    times = [c for c in place.columns if c.kind in ("time", "date") and c.form not in RELATIVE]
    starts = (c for c in times if is_start(c, place.own_key, place.key, time))
    return next(starts, None)


def _of_key(column: Column, key: Column) -> tuple[bool, int]:
    """Returns whether a name is that of a key, as `wine_name` of `wine_id`, and its values."""
    words = {*column.words} - WORDS["name"]
    return words <= {*key.words}, len(column.distinct)


def _title(columns: Sequence[Column], key: Column) -> Column | None:
    """Returns the column with the names of places, the first text, their kinds, or None.

    A key such as `restaurant_name` is the name.
    """
    if has_role(key.words[-1], "name") and key.has_words:
        return None
    places, categories = len(key.distinct), [c for c in columns if c.kind == "category"]
    named = [
        column
        for column in columns
        if is_name(column.name) and column.kind in ("text", "category", "code", "list")
        if column.kind != "list" or column.form  # not a list of Parquet or JSON
        if len(column.distinct) >= MIN_NAMES * min(places, column.values.count())
    ]
    if named:
        return max(named, key=lambda c: (has_role(c.words[-1], "name"), *_of_key(c, key)))
    # In a log, texts of places recur.
    recurring = [c for c in categories if len(c.distinct) >= MANY_NAMES * places and c.has_words]
    texts = [column for column in columns if column.kind == "text"]
    texts += [column for column in recurring if not is_kind(column.name)]
    if texts or key.has_words:
        return next(iter(texts), None)
    kinds = [column for column in categories if is_kind(column.name) and not column.is_integer]
    return max(kinds, key=lambda column: len(column.distinct), default=None)
