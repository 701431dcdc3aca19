"""What the tables of a folder are: the log, its users and places, and the roles of columns.

Names and data decide together, and each decision says how sure it is. No label is related to
anything but in `only_with_clicks`, which reads rows from before the test days alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import polars as pl

from larr.data.columns import MOST_DIFFERING
from larr.data.look import Column, Table, example, share
from larr.errors import DataError

WORDS = {
    "user": "user member customer client card person people guest visitor respondent account buyer "
    "uid reader listener player worker subscriber diner patron rater reviewer",
    "place": "poi place shop store restaurant merchant item product dish meal movie film song "
    "track music app article news sku goods book venue hotel vendor business offer coupon ad "
    "document recipe game video listing",
    "request": "request session visit impression query search slate pageview",
    "click": "click clicked clicks label target y response accept accepted bought taken liked "
    "conversion converted purchase purchased order ordered install installed interested",
    "order": "order ordered orders purchase purchased bought buy conversion converted paid",
    "rating": "rating ratings stars score grade",
    "time": "time timestamp date datetime ts created at clock when",
    "position": "position pos rank slot",
    "latitude": "lat latitude",
    "longitude": "lon lng longitude",
    "birth": "birth birthday birthdate dob born release released opened founded",
    "personal": "gender sex age birth occupation income education marital nickname",
    "count": "count counts cnt num total",
    "name": "name title",
    "earlier": "order orders purchase purchases transaction transactions history",
    "outcome": "duration dwell refund refunded delivered paid payment review reviewed "
    "comment watched playtime cancelled returned revenue",
}
KNOWN = {role: {*words.split()} for role, words in WORDS.items()}
"""Words of names that reveal what a column or table is."""
GENDERS = {"m", "f", "male", "female"}
CONTAINED = 0.9
"""Share of the values of a column that the key of a table must have for the two to belong
together."""
LEAST_KNOWN = 0.5
"""Share of the users of earlier orders that the log has, too."""
MOST_WITHOUT_TIME = 0.01
"""Of more rows without a time larr does without times, since it would have to reject them."""
LEAST_REPEATED, NEARLY_ALL = 0.3, 0.99
"""A column is one of users if this share of its rows is of users with several, and this share of
these users has one value of it; the same for places."""
TRAINING_SHARE = 0.8
LEAST_BY_CHANCE = 10.0
"""Rows without a click that have a value, as one would expect by chance, from which on it shows
something that there are none."""
RISING = 0.99
SURE, LIKELY, GUESS = "sure", "likely", "a guess: please check"


@dataclass(frozen=True, eq=False)
class Entity:
    """Users or places."""

    key: Column
    """Of the log."""
    table: Table | None
    """Their own table, if there is one."""
    own_key: Column | None
    """Its key."""
    sure: str
    columns: Sequence[Column] = ()
    """All others: those of their table, or else those of the log that have one value for each."""


@dataclass(frozen=True, eq=False)
class Guess:
    """What `larr init` found."""

    log: Table
    user: Entity
    place: Entity
    orders: tuple[Table, Column, Column, Column] | None
    """Earlier orders: the table, its user, place and time."""
    roles: dict[str, tuple[Column, str]]
    """Role (request, time, clock, click, order, rating, position, split, lat, lon, the contract's
    probabilities) -> the column of the log, and how sure that is."""
    scene: Sequence[Column]
    """Other columns of the log that are read."""
    differing: Sequence[Column]
    """Those of them that differ between the candidates of a request."""
    left_out: dict[str, str]
    """Column of the log -> why it is not read."""

    @property
    def has_label(self) -> bool:
        """Whether rows say what was clicked; otherwise each is taken for a click."""
        return "click" in self.roles or "rating" in self.roles

    def role(self, name: str) -> Column | None:
        """Returns the column of the log that has a role."""
        return self.roles[name][0] if name in self.roles else None


def guess(tables: list[Table]) -> Guess:
    """Returns what the tables are; raises DataError if none of them can be the log."""
    logs = [(table, *keys) for table in tables if (keys := _keys(table, tables))]
    if not logs:
        seen = "; ".join(f"{t.name}: {', '.join(c.name for c in t.columns)}" for t in tables)
        raise DataError(
            "no table looks like a log of users and places, with a row for each place that was "
            f"shown or taken; write the configuration by hand (docs/your_data.md). Found {seen}"
        )
    log, user, place = max(
        logs, key=lambda one: (any(_is(c, "click") for c in one[0].columns), one[0].rows)
    )
    roles = _roles(log, user, place)
    taken = [user.key, place.key, *(column for column, _ in roles.values())]
    others = [column for column in log.columns if column not in taken]
    left_out = {column.name: why for column in others if (why := _why_not(column, roles))}
    scene = [column for column in others if column.name not in left_out]
    user = _with_columns(user, scene)
    place = _with_columns(place, [column for column in scene if column not in user.columns])
    scene = [column for column in scene if column not in (*user.columns, *place.columns)]
    request = _of(roles, "request") or [user.key, *_of(roles, "time")]
    differing = _differing(request, scene) if len(request) > 1 or "request" in roles else []
    found = Guess(log, user, place, _earlier(log, user, logs), roles, scene, differing, left_out)
    if differing and not found.has_label:
        reason = "it differs within requests, and is not known of places that are sampled"
        left_out |= {column.name: reason for column in differing}
        scene = [column for column in scene if column not in differing]
        return replace(found, scene=scene, differing=())
    return found


def _is(named: Column | Table, role: str) -> bool:
    """Returns whether a name has a word of a role."""
    return not KNOWN[role].isdisjoint(named.words)


def _of(roles: dict[str, tuple[Column, str]], role: str) -> list[Column]:
    return [roles[role][0]] if role in roles else []


def _keys(table: Table, tables: list[Table]) -> tuple[Entity, Entity] | None:
    """Returns the users and places that a table refers to; None if it is no log."""
    possible = [
        column
        for column in table.columns
        if column.kind in ("number", "code", "category", "text") and not column.is_key
        if share(column.values.is_null()) <= 0.1
        if not (_is(column, "time") or _is(column, "count"))
    ]
    fits = [
        [(*fit, column) for column in possible for fit in _owners(role, column, table, tables)]
        for role in ("user", "place")
    ]
    best, chosen = 0.0, None
    for pair in product(*fits):
        (score, users, _, user), (other_score, places, _, place) = pair
        differ = user is not place and (users is None or users is not places)
        is_better = differ and score and other_score and score + other_score > best
        if is_better and not _owned(user, [place]):  # which would be a column of the users
            best, chosen = score + other_score, pair
    if chosen is None:
        return None
    of_users, of_places = (
        Entity(column, own, key, (GUESS, LIKELY, SURE)[_is(column, role) + (own is not None)])
        for role, (_, own, key, column) in zip(("user", "place"), chosen, strict=True)
    )
    return of_users, of_places


def _owners(
    role: str, column: Column, table: Table, tables: list[Table]
) -> Iterator[tuple[float, Table | None, Column | None]]:
    """Yields how well a column fits a role: alone, and as the key of each table."""
    by_name = 3.0 * _is(column, role) + ("id" in column.words)
    yield by_name or float(column.kind in ("number", "code")), None, None
    for other in tables:
        for key in other.columns if other is not table else ():
            if key.is_key and key.kind not in ("time", "date", "link"):
                common = int(column.distinct.is_in(key.distinct.implode()).sum())
                if common >= CONTAINED * len(column.distinct):
                    is_like = _is(other, role) or _is(key, role) or _looks_like(other, role)
                    yield by_name + 1 + 2 * common / len(key.distinct) + 2 * is_like, other, key


def _looks_like(table: Table, role: str) -> bool:
    """Returns whether the columns of a table describe people, or places."""
    if role == "place":
        return any(_is(column, "name") or column.kind == "text" for column in table.columns)
    return any(
        _is(column, "personal")
        or (column.kind == "category" and {*column.distinct.str.to_lowercase()} <= GENDERS)
        for column in table.columns
    )


def _owned(key: Column, columns: Sequence[Column]) -> list[Column]:
    """Returns those columns that have one value for each value of a key."""
    owned = []
    for column in columns:
        rows = pl.DataFrame({"key": key.values, "value": column.values}).drop_nulls()
        groups = rows.group_by("key").agg(pl.len(), values=pl.col("value").n_unique())
        repeated = groups.filter(pl.col("len") > 1)
        is_repeated = repeated["len"].sum() >= LEAST_REPEATED * len(rows)
        if is_repeated and share(repeated["values"] == 1) >= NEARLY_ALL:
            owned.append(column)
    return owned


def _earlier(
    log: Table, user: Entity, logs: list[tuple[Table, Entity, Entity]]
) -> tuple[Table, Column, Column, Column] | None:
    """Returns a table of the same users, with times, whose name says orders."""
    for table, its_user, its_place in logs:
        times = [column for column in table.columns if column.kind in ("time", "date")]
        known = share(its_user.key.distinct.is_in(user.key.distinct.implode()))
        if table is not log and times and _is(table, "earlier") and known >= LEAST_KNOWN:
            return table, its_user.key, its_place.key, times[0]
    return None


def _roles(log: Table, user: Entity, place: Entity) -> dict[str, tuple[Column, str]]:
    """Returns the columns of the log that larr reads in a way of its own, and how sure that is."""
    rest = [column for column in log.columns if column not in (user.key, place.key)]
    roles = _labels(log, rest) | _times(rest)
    for column in rest:
        one_user = column.is_key or bool(_owned(column, [user.key]))
        is_number = column.kind in ("number", "category") and not column.numbers.null_count()
        for role, sure, fits in (
            ("request", SURE, _is(column, "request") and one_user),
            ("request", GUESS, _is(column, "request") and "id" in column.words),
            ("split", SURE, {*column.distinct.str.to_lowercase()} == {"train", "test"}),
            ("position", LIKELY, _is(column, "position") and is_number),
            ("lat", LIKELY, _is(column, "latitude") and is_number),
            ("lon", LIKELY, _is(column, "longitude") and is_number),
            *(
                (name, SURE, column.name == name)
                for name in ("probability_click", "probability_order")
            ),
        ):
            if fits and role not in roles and column not in [c for c, _ in roles.values()]:
                roles[role] = column, sure
    return roles


def _labels(log: Table, columns: list[Column]) -> dict[str, tuple[Column, str]]:
    """Returns click and order, or else a rating."""
    flags = [column for column in columns if column.kind == "flag"]
    orders = [column for column in flags if _is(column, "order")]
    clicks = [column for column in flags if _is(column, "click") and column not in orders]
    clicks = clicks or [c for c in flags if any(_has_all(c, order) for order in orders)] or orders
    if clicks:
        roles = {"click": (clicks[0], SURE if len(clicks) == 1 else GUESS)}
        if orders := [column for column in orders if column is not clicks[0]]:
            roles["order"] = orders[0], LIKELY
        return roles
    scales = [column for column in columns if column.kind in ("number", "category")]
    scales = [column for column in scales if column.is_scale]
    if named := [column for column in scales if _is(column, "rating")]:
        return {"rating": (named[0], LIKELY)}
    # Names that larr chose itself show nothing.
    return {"rating": (scales[0], GUESS)} if scales and log.file.columns else {}


def _has_all(click: Column, order: Column) -> bool:
    """Returns whether each row with an order has a flag, and others have it, too."""
    clicked, ordered = (flag.values == flag.distinct.max() for flag in (click, order))
    return bool(clicked.filter(ordered).all() and clicked.sum() > ordered.sum())


def _times(columns: list[Column]) -> dict[str, tuple[Column, str]]:
    """Returns the time of a row; a date may have its clock in another column."""
    usable = [c for c in columns if share(c.values.is_null()) <= MOST_WITHOUT_TIME]
    times = [c for c in usable if c.kind in ("time", "date") and not _is(c, "birth")]
    if not times:
        return {}
    time = min(times, key=lambda column: (column.kind == "date", not _is(column, "time")))
    roles = {"time": (time, SURE if _is(time, "time") else LIKELY)}
    clocks = [column for column in usable if column.kind == "clock"]
    if time.kind == "date" and clocks:
        roles["clock"] = clocks[0], LIKELY
    return roles


def _why_not(column: Column, roles: dict[str, tuple[Column, str]]) -> str:
    """Returns why a column of the log is not read; empty if it is."""
    missing = share(column.values.is_null())
    if _is(column, "outcome"):
        return "its name says that it is known only after the impression"
    if column.kind in ("time", "date", "clock"):
        return f"a time that {missing:.0%} of the rows do not have" if missing else "a further time"
    for time in _of(roles, "time"):
        rows = pl.DataFrame({"t": time.times, "y": column.values, "n": column.numbers}).sort("t")
        is_number = column.kind in ("number", "category") and not column.numbers.null_count()
        day = pl.col("t").dt.date().cast(pl.Int32)
        rising = rows.select(pl.corr(day, "n", method="spearman")).item() if is_number else 0
        if abs(rising or 0) > RISING:
            return "it rises with the time, so that the test days have values of their own"
        for click in _of(roles, "click"):
            rows = pl.DataFrame({"t": time.times, "y": click.values, "c": column.values}).sort("t")
            rows = rows.head(int(TRAINING_SHARE * len(rows)))
            left = rows["y"] != click.distinct.max()
            present = rows["c"].is_not_null()
            by_chance = share(present) * int(left.sum())
            if not present.filter(left).any() and by_chance > LEAST_BY_CHANCE:
                return "only rows with a click have it"
    return why_not(column)


def why_not(column: Column) -> str:
    """Returns why a column is not read, by itself; empty if it is."""
    reasons = {
        "missing": "it has no values",
        "constant": f"it is {example(column)} in all rows",
        "link": "it holds addresses of web pages",
        "code": "nearly every row has another value",
    }
    return reasons.get(column.kind, "")


def _with_columns(one: Entity, scene: list[Column]) -> Entity:
    """Returns users or places with their columns."""
    if one.table:
        return replace(one, columns=[c for c in one.table.columns if c is not one.own_key])
    return replace(one, columns=_owned(one.key, [c for c in scene if not _is(c, "time")]))


def _differing(keys: list[Column], columns: Sequence[Column]) -> list[Column]:
    """Returns the columns that differ within requests, which have one value of each key."""
    names = [f"key {number}" for number in range(len(keys))]
    frame = pl.DataFrame(dict(zip(names, (key.values for key in keys), strict=True)))
    differing = []
    for column in columns:
        requests = frame.with_columns(column.values.alias("value")).group_by(names)
        differs = requests.agg(pl.col("value").drop_nulls().n_unique() > 1)["value"]
        if share(differs) > MOST_DIFFERING:
            differing.append(column)
    return differing
