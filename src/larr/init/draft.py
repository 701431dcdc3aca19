"""`larr init`: writes a commented configuration for the tables of a folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from larr.data.transforms import AGE
from larr.html import environment
from larr.init.guess import Guess, guess
from larr.init.kinds import EPOCHS, RELATIVE, Column
from larr.init.left_out import why_unread
from larr.init.queries import Query, entity_query, log_query
from larr.init.reader import Reader, with_needs
from larr.init.words import has_role, is_role, words_of
from larr.progress import console

MAX_PROFILES = 3
MIN_TESTED, MAX_TESTED = 0.1, 0.4
"""Minimum and maximum share of the rows in the test days."""
OF_DATES = 2
"""Times are dates if they have no more different times of day: midnight in summer and winter."""
OFFSET = r"\d{2}:\d{2}.*(Z|UTC|[+-]\d{2}:?\d{2})$"


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
    log, time = log_query("impressions", found), found.roles.get("time")
    users = entity_query("users", found, found.user)
    places = entity_query("places", found, found.place)
    orders = [log_query("orders", found.orders)] if found.orders else []
    earlier = found.orders.log if found.orders else None
    sources = [found.log, found.user.table, found.place.table, earlier]
    read = with_needs(sources)
    unread = [table for table in reader.tables if table not in read and not table.needs]
    templates = environment().overlay(autoescape=False, keep_trailing_newline=True)
    templates.filters |= {"toml": toml, "words": _words}
    known = [*found.roles.values(), *found.user.columns, *found.place.columns]
    return templates.get_template("mine.toml.j2").render(
        folder=folder,
        path=path,
        files=[table for table in reader.tables if table in read],
        flags=[c.name for c in found.log.columns if c.kind == "flag" and c not in known],
        counts=[c.name for c in found.log.columns if is_role(c.name, "time") and c.is_integer],
        time=time,
        test_days=_test_days(time) if time else 0,
        zone=_zone(time) if time else "",
        found=found,
        queries=[query for query in (log, places, users, *orders) if query.lines],
        others=reader.others
        | {table.name: why_unread(table, found.log, found.others) for table in unread},
        **_columns_read(found, log, places, users),
    )


def _words(name: str) -> str:
    """Returns the words of a column's name, without prefix."""
    return " ".join(words_of(re.sub("^((poi|user)_)?(own_)?", "", name)))


def _columns_read(found: Guess, log: Query, places: Query, users: Query) -> dict[str, Any]:
    """Returns the columns for keywords, profiles and features."""
    names = dict(zip(found.scene, log.kinds, strict=True))
    differing = [names[column] for column in found.differing]
    texts = [name for name, kind in places.kinds.items() if kind == "text"]
    written = [
        ("poi", "basic", [name for name in places.kinds if name not in texts]),
        ("user", "profile", [*users.kinds]),
        ("scene", "action", [name for name in log.kinds if name not in differing]),
    ]
    kinds = log.kinds | places.kinds | users.kinds
    dated = [time for time in found.of("time") if time.form not in RELATIVE]
    of_day = [time.times.dt.time().drop_nulls().n_unique() for time in dated]
    has_clock = "clock" in found.roles or any(number > OF_DATES for number in of_day)
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
        "numbers": [AGE] * ("since" in places.lines)
        + [name for name, kind in kinds.items() if kind == "number"],
        "differing": differing + ["position"] * ("position" in found.roles),
    }


def _test_days(time: Column) -> int:
    """Returns the number of test days, 0 if the log is too short for complete days."""
    day_N = time.times.dt.epoch("d").drop_nulls().to_numpy()
    age_N = day_N.max() - day_N
    tested = int(np.quantile(age_N, MIN_TESTED)) + 1
    return tested if (age_N < tested).mean() <= MAX_TESTED else 0


def _zone(time: Column) -> str:
    """Returns a note on times that may need conversion, or an empty text."""
    if time.form in EPOCHS:
        return f"{time.name} holds {time.form} since 1970, read as UTC."
    has_offset = time.values.str.contains(OFFSET).any()
    return f"offsets of {time.name}, such as {time.example}, are dropped." if has_offset else ""


def toml(value: Any) -> str:
    """Returns a value as TOML."""
    if isinstance(value, list):
        text = f"[{', '.join(map(toml, value))}]"
        lines = "".join(f"    {toml(one)},\n" for one in value)
        return text if len(text) < 80 else f"[\n{lines}]"
    is_long = isinstance(value, str) and "\n" in value
    return f"'''\n{value}'''" if is_long else json.dumps(value, ensure_ascii=False)
