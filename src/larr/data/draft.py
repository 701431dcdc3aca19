"""`larr init`: a commented configuration for the tables of a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined

from larr.config.data import KeywordConfig, ProfileConfig
from larr.data.contract import TABLES
from larr.data.guess import GUESS, LIKELY, Entity, Guess, guess, why_not
from larr.data.look import DIGITS, EPOCHS, Column, Table, example, look, share, words_of
from larr.data.names import LOOKED_UP
from larr.data.sql import identifier, literal
from larr.data.statistics import NEVER_SEEN
from larr.data.transforms import TIME_COLUMNS
from larr.progress import console

COLUMNS_OF_A_TEXT = 4
"""Columns that share a keyword."""
MOST_PROFILES = 3
KIND = {"kind", "kinds", "category", "genre", "genres", "tags", "type", "class", "cuisine"}
"""Words of names of what users like best in places."""
MANY_FLAGS = 5
"""Yes-or-no columns of one table that become a list of words."""
ADDED = {*TIME_COLUMNS, *NEVER_SEEN, "ctr", "cvr", "recent", "impressions", "order_price_yuan"}
"""Names, without prefix, of columns that larr adds."""
NUMBERS = {"lat", "lon", "price_yuan", "rating", "temperature_c"}
"""Names of numbers in the contract that are no more than numbers."""
LEAST_TESTED, MOST_TESTED = 0.1, 0.4
"""Share of the rows in the days that are tested."""
HIGH = 0.8
"""Ratings of at least this share of the largest count as a click."""
PREFIXES = {"users": "user_", "places": "poi_", "impressions": "", "orders": ""}
OFFSET = r"\d{2}:\d{2}.*(Z|UTC|[+-]\d{2}:?\d{2})$"


@dataclass
class Query:
    """A table of the contract as SQL, and what is read of its columns."""

    table: str
    source: str
    """What follows FROM."""
    lines: list[dict[str, str]] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    """What the user is asked to check."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Column -> why it is left out."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Column, as keywords and features name it -> what it looks like."""
    liked: list[str] = field(default_factory=list)
    """Those of them of which users may prefer some values."""

    def add(self, sql: str, name: str, note: str) -> None:
        """Adds a column of the contract."""
        renamed = sql if sql == quoted(name) else f"{sql} AS {quoted(name)}"
        self.lines.append({"sql": renamed, "name": name, "note": note})

    def add_own(self, column: Column, sql: str) -> None:
        """Adds a column that is not in the contract."""
        name, prefix = self._free_name(column), PREFIXES[self.table]
        if column.kind == "list" and column.form:
            sql = f"replace({sql}, {literal(column.form)}, ', ')"
        elif column.kind == "list":
            sql = f"array_to_string({sql}, ', ')"
        self.add(sql, name, f"{column.kind}, such as {example(column)}")
        name = name if name.startswith(prefix) else prefix + name
        self.kinds[name] = column.kind
        if column.kind in ("category", "list") and column.numbers.null_count() == len(
            column.values
        ):
            self.liked.append(name)

    def add_year(self, column: Column, sql: str) -> None:
        """Adds the year of a time of users or places."""
        years = pl.Series(column.name, column.times.dt.year().cast(pl.String))
        self.add_own(
            Column(f"{column.name}_year", "category", years), f"year({as_time(column, sql)})"
        )

    def add_flags(self, flags: list[Column]) -> None:
        """Adds yes-or-no columns as a list of their names."""
        words = ",".join(
            f"\n        CASE {as_sql(flag)} WHEN {literal(flag.distinct.max())} "
            f"THEN {literal(' '.join(flag.words))} END"
            for flag in flags
        )
        self.add(f"concat_ws(', ',{words})", "kinds", "yes-or-no columns as words")
        self.kinds[f"{PREFIXES[self.table]}kinds"] = "list"
        self.liked.append(f"{PREFIXES[self.table]}kinds")

    def _free_name(self, column: Column) -> str:
        """Returns the words of a column's name, changed where larr uses it for something else."""
        name = "_".join(column.words)
        table = TABLES[self.table]
        known = table.columns.get(name)
        is_text = known is not None and known.dtype == pl.String and name in table.optional
        is_read_so = name in NUMBERS if column.kind == "number" else is_text
        is_other = known is not None and not is_read_so
        looked_up = () if PREFIXES[self.table] else LOOKED_UP
        if not name[:1].isalpha() or name in ADDED or is_other or name.startswith(looked_up):
            name = f"own_{name}"
        return f"{name}_2" if name in {line["name"] for line in self.lines} else name


def init(folder: Path, to: Path) -> None:
    """Writes a configuration for the tables of a folder; raises DataError if it has no log."""
    with TemporaryDirectory() as scratch:
        tables, others = look(folder, Path(scratch))
    text = draft(tables, others, folder, to)
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(text, encoding="utf-8")
    checks = text.count("\n# CHECK")
    guesses = "1 guess" if checks == 1 else f"{checks} guesses"
    console.print(f"{to}: {guesses} to check; then `larr check {to}`", soft_wrap=True)


def draft(tables: list[Table], others: dict[str, str], folder: Path, path: Path) -> str:
    """Returns the configuration as TOML; `others` are files that are no tables, and why."""
    found = guess(tables)
    log, orders = _impressions(found), _orders(found)
    users, places = _entity("users", found, found.user), _entity("places", found, found.place)
    read = [found.log, found.user.table, found.place.table, found.orders and found.orders[0]]
    return _rendered(
        folder=folder,
        path=path,
        files=[table for table in tables if table in read],
        split=found.role("split"),
        time=found.role("time"),
        test_days=_test_days(found.role("time")),
        negatives=not found.has_label,
        zone=_zone(found.role("time")),
        queries=[query for query in (log, places, users, orders) if query.lines],
        others=others | {t.name: "not needed" for t in tables if t not in read},
        requests=found.role("request"),
        **_read_of(found, log, places, users),
    )


def _rendered(**context: Any) -> str:
    """Returns the template with its blanks filled in."""
    templates = Environment(  # noqa: S701 - the text is no HTML
        loader=PackageLoader("larr"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["toml"] = toml
    return templates.get_template("mine.toml.j2").render(context)


def _read_of(found: Guess, log: Query, places: Query, users: Query) -> dict[str, Any]:
    """Returns the keywords, profiles, buckets and features that read the tables."""
    time = found.role("time")
    has_clock = time is not None and (time.kind == "time" or found.role("clock") is not None)
    of_time = ["hour_band"] * has_clock + ["day_kind"] * (time is not None)
    profiles = _profiles(places) if time else []  # without times nothing is known of a user's past
    differing = [
        name
        for column, name in zip(found.scene, log.kinds, strict=True)
        if column in found.differing
    ]
    once = {name: kind for name, kind in log.kinds.items() if name not in differing}
    keywords = [*_of_places(places.kinds), *_of_requests(users.kinds, once, of_time, profiles)]
    in_texts = "".join(keyword.template for keyword in keywords)
    kinds = log.kinds | places.kinds | users.kinds
    numbers = [name for name, kind in kinds.items() if kind == "number"]
    categories = [name for name, kind in kinds.items() if kind in ("category", "flag", "list")]
    categories = ["user_id", "poi_id", *categories, *(one.name for one in profiles), *of_time]
    return {
        "keywords": keywords,
        "profiles": profiles,
        "buckets": [name for name in numbers if f"{{{name}_level}}" in in_texts],
        "categories": categories,
        "numbers": [*numbers, "poi_ctr", "user_ctr", "poi_log_orders", "user_log_orders"],
        "candidate_columns": differing + ["position"] * ("position" in found.roles),
    }


def _impressions(found: Guess) -> Query:
    """Returns the log under the contract's names."""
    query = Query("impressions", found.log.name, left_out=found.left_out)
    named = {
        "user": (found.user.key, found.user.sure),
        "place": (found.place.key, found.place.sure),
    }
    named |= found.roles
    contract = {"request": "request_id", "user": "user_id", "place": "poi_id"}
    for role, (column, sure) in named.items():
        if role not in ("time", "clock", "position", "rating"):  # which are computed below
            query.add(as_sql(column), contract.get(role, role), sure)
            if sure == GUESS:
                query.checks.append(f"is {column.name} the {role}?")
    if time := found.role("time"):
        query.add(as_time(time, as_sql(time), found.role("clock")), "time", found.roles["time"][1])
        if time.form.startswith(("%d/%m", "%m/%d")):
            query.checks.append(f"{time.name}, such as {example(time)}, is read as {time.form}.")
    if position := found.role("position"):
        first = "" if position.numbers.to_numpy().min() else " + 1"
        query.add(f"TRY_CAST({as_sql(position)} AS INTEGER){first}", "position", LIKELY)
    if rating := found.role("rating"):
        largest = rating.numbers.drop_nulls().to_numpy().max()
        rule = f"TRY_CAST({as_sql(rating)} AS DOUBLE) >= {HIGH * largest:g}"
        query.add(rule, "click", found.roles["rating"][1])
        query.checks.append(
            f"{rating.name} has values up to {largest:g}; {HIGH * largest:g} and more is a click."
        )
    for column in found.scene:
        query.add_own(column, as_sql(column))
    return query


def _entity(table: str, found: Guess, one: Entity) -> Query:
    """Returns the table of users or places; empty if nothing is known of them but their keys."""
    own = one.own_key or one.key
    query = Query(table, one.table.name if one.table else found.log.name)
    if not one.columns:
        return query
    if not one.table:
        query.source += f" GROUP BY {as_sql(own)} ORDER BY {as_sql(own)}"
        query.checks.append(
            f"no table of {table}; these columns of the log have one value for each {own.name}."
        )
    unknown = share(~one.key.distinct.is_in(own.distinct.implode()))
    if unknown:
        query.checks.append(
            f"{unknown:.1%} of the {table} of the log are not in this table and are left out."
        )
    query.add(as_sql(own), "user_id" if table == "users" else "poi_id", one.sure)
    title = _title(one.columns) if table == "places" else None
    if table == "places":
        name = f"coalesce({as_sql(title)}, {as_sql(own)})" if title else as_sql(own)
        query.add(name, "name", f"{LIKELY if title else GUESS}, such as {example(title or own)}")
    flags = [column for column in one.columns if column.kind == "flag"]
    flags = flags if len(flags) >= MANY_FLAGS else []
    if flags:
        query.add_flags(flags)
    for column in one.columns:
        sql = as_sql(column) if one.table else f"any_value({as_sql(column)})"
        if reason := why_not(column):
            query.left_out[column.name] = reason
        elif column.kind in ("time", "date"):
            query.add_year(column, sql)
        elif table == "places" and column.name in ("lat", "lon"):
            query.add(sql, column.name, LIKELY)
        elif column is not title and column not in flags:
            query.add_own(column, sql)
    return query


def _title(columns: Sequence[Column]) -> Column | None:
    """Returns the column that names places: by its own name, or else the first text."""
    named = [c for c in columns if {"name", "title"} & {*c.words} and c.kind != "missing"]
    return next(iter([*named, *(column for column in columns if column.kind == "text")]), None)


def _orders(found: Guess) -> Query:
    """Returns the table of earlier orders, with the columns that the log has, too."""
    query = Query("orders", "")
    if found.orders:
        table, user, place, time = found.orders
        query.source = table.name
        query.add(as_sql(user), "user_id", LIKELY)
        query.add(as_sql(place), "poi_id", LIKELY)
        query.add(as_time(time, as_sql(time)), "time", LIKELY)
        names = {column.name for column in found.scene}
        for column in table.columns:
            if column.name in names and column not in (user, place, time):
                query.add_own(column, as_sql(column))
    return query


def _profiles(places: Query) -> list[ProfileConfig]:
    """Returns profiles of some categories of places, or of their names if they have none."""
    liked = sorted(places.liked, key=lambda name: KIND.isdisjoint(words_of(name)))
    columns = [name.removeprefix("poi_") for name in liked[:MOST_PROFILES] or ["poi_name"]]
    return [ProfileConfig(name=f"user_favourite_{name}", column=name) for name in columns]


def _of_places(kinds: dict[str, str]) -> list[KeywordConfig]:
    """Returns the keywords of places: the name, texts, and the other columns a few at a time."""
    texts = [name for name, kind in kinds.items() if kind == "text"]
    others = _shared({name: kind for name, kind in kinds.items() if name not in texts})
    written = [("place_name", "business", "{poi_name}")]
    written += [(f"place_{n}", "basic", some) for n, some in enumerate(others or ["{poi_name}"], 1)]
    written += [(name.replace("poi_", "place_", 1), "business", f"{{{name}}}") for name in texts]
    return [
        KeywordConfig(name=name, owner="poi", view=view, template=text, prompt=name == "place_name")
        for name, view, text in written
    ]


def _of_requests(
    users: dict[str, str], scene: dict[str, str], of_time: list[str], profiles: list[ProfileConfig]
) -> list[KeywordConfig]:
    """Returns the keywords of users and scenes."""
    of_users, of_scenes = enumerate(_shared(users), 1), enumerate(_shared(scene), 1)
    written = [(f"user_{n}", "user", "profile", some) for n, some in of_users]
    if profiles:
        first, *others = (f"{{{profile.name}}}" for profile in profiles)
        likes = f"likes {first}" + "".join(f"[, {name}]" for name in others)
        written.append(("user_likes", "user", "action", likes))
    if of_time:
        when = ", ".join(f"{{{name}}}" for name in of_time)
        written.append(("when", "scene", "action", when))
    written += [(f"scene_{n}", "scene", "action", some) for n, some in of_scenes]
    return [
        KeywordConfig(name=name, owner=owner, view=view, template=text)
        for name, owner, view, text in written or [("user", "user", "profile", "{user_id}")]
    ]


def _shared(kinds: dict[str, str]) -> list[str]:
    """Returns templates of a few columns each, with the words of their names."""
    parts = []
    for name, kind in kinds.items():
        words = words_of(re.sub("^((poi|user)_)?(own_)?", "", name))
        parts.append(f"{' '.join(words)} {{{name}{'_level' if kind == 'number' else ''}}}")
    starts = range(0, len(parts), COLUMNS_OF_A_TEXT)
    some = [parts[start : start + COLUMNS_OF_A_TEXT] for start in starts]
    return ["".join(f"[, {part}]" for part in few).replace("[, ", "[", 1) for few in some]


def _test_days(time: Column | None) -> int:
    """Returns how many days at the end have enough rows to test; 0 if there are no such days."""
    if time is None:
        return 0
    day = time.times.dt.epoch("d").drop_nulls().to_numpy()
    if not len(day):
        return 0
    age = day.max() - day
    tested = int(np.quantile(age, LEAST_TESTED)) + 1
    return tested if (age < tested).mean() <= MOST_TESTED else 0


def _zone(time: Column | None) -> str:
    """Returns how times are read that may have to be converted."""
    if time is None:
        return ""
    if time.form in EPOCHS:
        return f"{time.name} counts {time.form} since 1970, which is read as UTC."
    has_offset = bool(time.values.str.contains(OFFSET).any())
    return f"offsets of {time.name}, such as {example(time)}, are dropped." if has_offset else ""


def as_time(column: Column, sql: str, clock: Column | None = None) -> str:
    """Returns the SQL of a time as larr reads it; a date may have its clock in another column."""
    if clock:
        sql = f"{sql} || ' ' || {as_sql(clock)}"
    if not column.form or column.form in EPOCHS:
        return sql
    seconds = clock is not None and bool(clock.values.str.contains(":.*:").any())
    form = column.form + (" %H:%M" if clock else "") + (":%S" if seconds else "")
    text = f"{sql}::VARCHAR" if form == DIGITS else sql
    return f"strptime({text}, {literal(form)})"


def as_sql(column: Column) -> str:
    """Returns a column of a file as SQL names it."""
    return quoted(column.name)


def quoted(name: str) -> str:
    """Returns a name as SQL takes it, in quotes only where it needs them."""
    is_plain = name.isidentifier() and name.isascii() and name.lower() not in _reserved()
    return name if is_plain else identifier(name)


@cache
def _reserved() -> set[str]:
    """Returns the words that SQL does not take for names."""
    keywords = "FROM duckdb_keywords() WHERE keyword_category = 'reserved'"
    return {name for name, _ in duckdb.connect().execute(keywords).fetchall()}


def toml(value: Any) -> str:
    """Returns a value as TOML."""
    if isinstance(value, list):
        text = f"[{', '.join(map(toml, value))}]"
        lines = "".join(f"    {toml(one)},\n" for one in value)
        return text if len(text) < 80 else f"[\n{lines}]"
    return json.dumps(value, ensure_ascii=False)
