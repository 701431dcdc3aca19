"""Infers which table is the log, its users and places, and the roles of its columns.

Guesses use names and values; see `left_out` for what they read of the labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import log10

import polars as pl

from larr.errors import DataError
from larr.init import reshape
from larr.init.kinds import Column, share
from larr.init.left_out import (
    ALONE,
    TIMES,
    is_given,
    is_matrix,
    is_outcome,
    leak,
    no_log,
    why_not_in_log,
)
from larr.init.reader import Reader, Table, base, with_needs
from larr.init.relations import (
    MAX_DUPLICATES,
    MIN_REPEATED,
    depends,
    differing,
    is_attribute,
    is_foreign_key,
    is_named_like,
    overlaps,
)
from larr.init.roles import (
    KINDS_OF_IDS,
    has_levels,
    is_axis,
    is_code,
    is_complete,
    is_prose,
    labels,
    request,
    times,
)
from larr.init.words import has_role, is_name, is_role

REFERENCES = {"id", "code", "nr", "no", "ref"}
"""Words of columns that refer to something, unlike `zip` or `title`."""
ROLES = ("user", "place")
GENDERS = {"m", "f", "male", "female"}
MIN_KNOWN = 0.5
"""Minimum share of the users of earlier orders that are also in the log."""
MAX_SESSION = 100
"""Maximum mean number of rows of a session that takes the role of a user."""
FIRST = 3
"""Number of columns without names that may be IDs of users, places and requests."""
SEVERAL = 10
"""A log with fewer places is chosen only without others: two branches of a shop are no choice."""
LABELS = ("click", "order", "rating")


@dataclass(eq=False)
class Entity:
    """Users or places."""

    key: Column
    """The key in the log."""
    own_key: Column
    """The key in the table, or `key` without a table."""
    score: float
    """How likely the key is that of users or places."""
    table: Table | None = None
    """The table of users or places, if it exists."""
    columns: Sequence[Column] = ()
    """The other columns of this table, or the columns of the log with one value per key."""


@dataclass(eq=False)
class Guess:
    """The result of `larr init`."""

    log: Table
    user: Entity
    place: Entity
    roles: dict[str, Column]
    """Role -> column of the log. Roles are user, place, request, time, clock, click, order, rating,
    position, split, lat, lon, probability_click and probability_order."""
    unsure: set[str]
    """Roles that the user should check."""
    orders: Guess | None = None
    """A table of earlier orders, with user, place, time, and columns that the log also has."""
    scene: Sequence[Column] = ()
    """Columns of the log to read, except those of users and places."""
    differing: Sequence[Column] = ()
    """The columns of `scene` that differ between the candidates of a request."""
    others: Sequence[Table] = ()
    """Tables that could be the log, too."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Column of the log -> the reason why it is not read."""

    @property
    def has_label(self) -> bool:
        """Whether the log has labels; if not, every row is a click."""
        return "click" in self.roles or "rating" in self.roles

    @property
    def clicks_per_request(self) -> int:
        """The mean number of places of a request, which are many in a log of baskets."""
        keys = self.of("request") or (self.of("user", "time") if "time" in self.roles else [])
        if not keys:
            return 1
        return max(1, round(_distinct([*keys, self.place.key]) / _distinct(keys)))

    def of(self, *roles: str) -> list[Column]:
        """Returns the columns of the log with some roles."""
        return [self.roles[role] for role in roles if role in self.roles]


def guess(reader: Reader) -> Guess:
    """Returns the roles of tables and columns; raises DataError if no table can be the log."""
    tables = reshape.reshaped(reader)
    found, *others = _logs(tables, reader.others)
    if twice := _read_twice(found):
        reader.tables.remove(found.log)
        rest = [table for table in tables if table not in (found.log, *twice)]
        tables[tables.index(found.log)] = reshape.joined(reader, found.log.needs[0], rest)
        found, *others = _logs(tables, reader.others)
    event = reshape.event_column(found.log)
    if event and "click" not in found.roles:
        keys = [found.user.key, found.place.key, *found.of("request")]
        log = reshape.pivoted_events(reader, found.log, event, keys, found.roles.get("time"))
        found = _with_log(found, log)
        computed = {column.name: column for column in log.columns if column.name in LABELS}
        found.roles = {k: v for k, v in found.roles.items() if k not in LABELS} | computed
        found.unsure.difference_update(LABELS)
    keys = [found.user.key, found.place.key, *(found.of("request") or found.of("time", "clock"))]
    repeated = 1 - _distinct(keys) / found.log.rows
    if not found.has_label and len(keys) > 2 and repeated > MAX_DUPLICATES:
        found = _with_log(found, reshape.once(reader, found.log, keys))
    _sort_columns(reader, found)
    found.orders = next(_earlier(found, others), None)
    found.others = [base(other.log) for other in others]
    return found


def _with_log(found: Guess, log: Table) -> Guess:
    """Returns the roles in a query over the log, with the same users and places."""
    user, place = (
        replace(e, key=log[e.key.name], own_key=e.own_key if e.table else log[e.key.name])
        for e in (found.user, found.place)
    )
    return _with_roles(log, user, place)


def _distinct(keys: list[Column]) -> int:
    """Returns the number of distinct combinations of values in columns of a table."""
    return pl.DataFrame([key.values.alias(str(n)) for n, key in enumerate(keys)]).n_unique()


def _logs(tables: list[Table], unread: dict[str, str]) -> list[Guess]:
    """Returns the tables that can be the log, best first; raises DataError if none can."""
    possible = [table for table in tables if table.is_named or not is_matrix(table)]
    fits = {table: [_candidates(role, table, tables) for role in ROLES] for table in possible}
    logs = [found for table in possible if (found := _log(table, *fits[table]))]
    if not logs:
        lacking = {
            table.name: [role for role, some in zip(ROLES, fits[table], strict=True) if not some]
            for table in possible
        }
        raise DataError(no_log(tables, lacking, unread))
    of_others = [entity.table for found in logs for entity in (found.user, found.place)]

    def preference(found: Guess) -> tuple[bool, bool, bool, bool, int]:
        is_sure = found.unsure.isdisjoint(ROLES) or not found.log.is_named
        has_label = found.has_label or reshape.event_column(found.log) is not None
        has_places = len(found.place.key.distinct) >= SEVERAL
        return found.log not in of_others, is_sure, has_label, has_places, found.log.rows

    return sorted(logs, key=preference, reverse=True)


def _read_twice(found: Guess) -> list[Table]:
    """Returns the tables of users and places that the log was also joined with."""
    own = {column.name for table in found.log.needs[:1] for column in table.columns}
    tables = [entity.table for entity in (found.user, found.place) if entity.key.name in own]
    return [table for table in tables if table and table in found.log.needs]


def _log(table: Table, users: list[Entity], places: list[Entity]) -> Guess | None:
    """Returns a table as a log with roles, or None if it has no users or places."""
    codes = [] if table.is_named else [user.key for user in users if user.score > 0][:FIRST]
    pairs = sorted(product(users, places), key=lambda pair: -pair[0].score - pair[1].score)
    for user, place in pairs:
        # A column with one value per user is not the place, and vice versa. If the columns have no
        # names, a code with one user per value identifies requests; IDs are the first columns.
        others = [column for column in codes if column is not user.key] or [place.key]
        if user.key is place.key or (user.table is not None and user.table is place.table):
            continue
        if any(is_attribute(column, user.key) for column in others):
            continue
        if not is_attribute(user.key, place.key):
            return _with_roles(table, user, place)
    return None


def _candidates(role: str, table: Table, tables: list[Table]) -> list[Entity]:
    """Returns what can be the users or places of a log."""
    event = reshape.event_column(table)
    possible = [
        column
        for column in table.columns
        if column.kind in KINDS_OF_IDS and not column.is_key and column is not event
        if is_complete(column) and not has_role(column.name, "time", "lat", "lon")
        # `number` can be a count or an ID: number_of_orders, store_number.
        if not (has_role(column.name, "count") and column.is_numeric)
        or is_role(column.name, *ROLES)
        if column.is_integer or not column.is_numeric
        if column.kind != "text" or not is_prose(column)
    ]
    return [one for column in possible for one in _readings(role, column, table, tables)]


def _readings(role: str, column: Column, table: Table, tables: list[Table]) -> Iterator[Entity]:
    """Yields a column as user or place: on its own, and as a reference to the key of each table."""
    is_named = is_role(column.name, role)
    is_other = is_role(column.name, *{*ROLES, "request"} - {role})
    is_id = not (REFERENCES.isdisjoint(column.words) or is_other)
    score = 3.0 * is_named + 0.5 * has_role(column.name, role) + 0.5 * is_id
    rows = len(column.values) / len(column.distinct)
    if role == "user" and not is_named and is_role(column.name, "request") and rows <= MAX_SESSION:
        score = 1.5  # without users, sessions take their role
    if role == "user" and is_role(column.name, "writer"):
        score = 1.0  # the author of a review, unlike that of a book in a log with users
    if not (is_named or table.is_named):  # columns without names: codes, in order
        score = 0.5 * is_code(column)
    if score or not (table.is_named or column.is_numeric):
        score += 0.1 * log10(len(column.distinct)) * table.is_named
        yield Entity(column, column, score)
    others = ((other, key) for other in tables if other is not table for key in other.columns)
    for other, key in others:
        has_names = table.is_named and other.is_named
        is_alike = has_names and is_named_like(column, key, other)
        names_role = has_role(other.name, role) or is_role(key.name, role)
        has_entities = names_role or _looks_like(other, role)
        # Numeric keys of one table can be among those of another by chance.
        by_chance = column.is_numeric and has_names and not (is_alike or (is_named and names_role))
        is_same = has_names and column.name == key.name
        is_known = is_foreign_key(column, key) or (is_same and overlaps(column, key))
        if (is_named or has_entities) and not by_chance and is_known:
            covered = min(1, len(column.distinct) / len(key.distinct))
            has_title = any(is_name(one.name) for one in other.columns if one is not key)
            bonus = 1 + covered + 2 * has_entities + is_alike + 0.5 * has_title
            yield Entity(column, key, score + bonus, other)


def _looks_like(table: Table, role: str) -> bool:
    """Returns whether a table describes users or places, by its columns."""
    if role == "place":
        return any(has_role(c.name, "name") or c.kind == "text" for c in table.columns)
    return any(
        has_role(column.name, "personal")
        or {*column.distinct.head(3).str.to_lowercase()} <= GENDERS
        for column in table.columns
        if column.kind not in ("missing", "nested")
    )


def _with_roles(log: Table, user: Entity, place: Entity) -> Guess:
    """Returns a log with the roles of its columns."""
    keys = (user.key, place.key)
    rest = [column for column in log.columns if column not in keys]
    # A label differs between the rows of a user, and of a place; a rating of these may be a mean.
    means = [c for c in rest if is_role(c.name, "rating") and not has_levels(c)]
    possible = means + [c for c in rest if c.kind == "flag"]
    fixed = [c for c in possible if any(is_attribute(c, key) for key in keys)]
    outcomes, unsure = labels(log, [column for column in rest if column not in fixed])
    roles = {"user": user.key, "place": place.key} | outcomes | times(keys, rest)
    rules = (
        ("split", lambda c: {*c.distinct.head(3).str.to_lowercase()} == {"train", "test"}),
        ("position", lambda c: is_role(c.name, "position") and c.is_integer),
        ("lat", lambda c: is_axis(c, "lat", place.key)),
        ("lon", lambda c: is_axis(c, "lon", place.key)),
        ("probability_click", lambda c: c.name == "probability_click"),
        ("probability_order", lambda c: c.name == "probability_order"),
    )
    for role, fits in rules:
        if column := next((c for c in rest if c not in roles.values() and fits(c)), None):
            roles[role] = column
    if of_request := request([c for c in rest if c not in roles.values()], roles):
        roles["request"] = of_request
    doubtful = {"user": not user.table, "place": not place.table, "request": "request" in roles}
    unsure |= {r for r, is_so in doubtful.items() if is_so and not is_role(roles[r].name, r)}
    return Guess(log, user, place, roles, unsure)


def _earlier(found: Guess, logs: list[Guess]) -> Iterator[Guess]:
    """Yields tables that are named as orders and have the same users, with times."""
    users, names = found.user.key.distinct.implode(), {column.name for column in found.scene}
    for other in logs:
        is_other = other.log not in (found.log, *found.log.needs)
        is_history = is_other and has_role(other.log.name, "history") and other.of("time")
        if is_history and share(other.user.key.distinct.is_in(users)) >= MIN_KNOWN:
            roles = {role: other.roles[role] for role in ("user", "place", "time")}
            rest = [column for column in other.log.columns if column not in roles.values()]
            scene = [column for column in rest if column.name in names]
            yield Guess(other.log, other.user, other.place, roles, set(), scene=scene)


def _sort_columns(reader: Reader, found: Guess) -> None:
    """Assigns the other columns of the log to users, places or the scene, or excludes them."""
    rest = [column for column in found.log.columns if column not in found.roles.values()]
    for role, entity in (("user", found.user), ("place", found.place)):
        entity.columns = [c for c in rest if _describes(c, role, entity, found.roles)]
        rest = [column for column in rest if column not in entity.columns]
        if entity.table:
            _complete(reader, role, entity, entity.table, found)
    roles, has_label = found.roles, found.has_label
    is_review = "rating" in roles or any(is_given(column, found.place.key) for column in rest)
    reasons = {
        c.name: why_not_in_log(c, roles, has_label=has_label, has_reviews=is_review) for c in rest
    }
    found.left_out = {name: reason for name, reason in reasons.items() if reason}
    rest = [column for column in rest if column.name not in found.left_out]
    request = found.of("request") or [found.user.key, *found.of("time")]
    has_request = len(request) > 1 or "request" in found.roles
    found.differing = differing(request, rest) if has_request else []
    if not found.has_label:
        unknown = [c for c in rest if c in found.differing or depends(c, found.place.key)]
        rest = [column for column in rest if column not in unknown]
        unknown += found.of("position")
        reason = "it depends on the place, so it is unknown for sampled places"
        found.left_out |= {column.name: reason for column in unknown}
        found.differing = []
        found.roles.pop("position", None)
    found.scene = rest


def _describes(column: Column, role: str, entity: Entity, roles: dict[str, Column]) -> bool:
    """Returns whether a column of the log describes its users or places, and is to be read."""
    known = {c.name.lower() for c in entity.table.columns} if entity.table else set()
    is_read = column.kind not in (*TIMES, *ALONE) and len(column.distinct) > 1
    if not is_read or column.name.lower() in known or leak(column, roles):
        return False
    is_named = has_role(column.name, role) and not is_outcome(column.name)
    return is_attribute(column, entity.key, 0 if is_named else MIN_REPEATED)


def _complete(reader: Reader, role: str, entity: Entity, table: Table, found: Guess) -> None:
    """Adds the columns of the log and of other tables to a table of users or places."""
    keys = (entity.own_key, entity.key)
    if entity.columns:
        table = reshape.with_log_columns(reader, table, found.log, keys, entity.columns)
    read = {*with_needs([table, found.log, found.user.table, found.place.table])}
    # Neither joins of these tables with others, nor parts of a union.
    others = [t for t in reader.tables if read.isdisjoint(with_needs([t]))]
    others = [t for t in others if not any(t in other.needs for other in others)]
    of_others = {*ROLES} - {role}
    others = [t for t in others if has_role(t.name, role) or not has_role(t.name, *of_others)]
    entity.table = reshape.with_others(reader, table, keys, others, role=role)
    entity.own_key = entity.table[keys[0].name]
    entity.columns = [c for c in entity.table.columns if c is not entity.own_key]
