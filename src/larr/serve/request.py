"""Requests and responses of the service: types, JSON and validation."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated, Any, TypeVar
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta, Struct

from larr.data.contract import OLDEST
from larr.data.values import EPOCHS, joined
from larr.errors import InputError, suggestion
from larr.serve.features import FIRST, POSITION, Kinds

EXPLAINED = 50
LARGEST = sys.float_info.max
DATE_AND_TIME, EXAMPLE = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}"), "2024-04-08T12:10:00"
Scalar = str | int | float | bool | None
Values = list[str | int | bool | None]
Value = Annotated[
    Any,  # `check_values` names a column of a wrong type, which msgspec does not
    Meta(extra_json_schema=msgspec.json.schema(Scalar | Values)),
]
Columns = dict[str, Value]
Identifier = Annotated[str, Meta(min_length=1, max_length=200)] | int
WORDS = {str: "a text", int: "a number", float: "a number", bool: "true or false"}


class Near(Struct, forbid_unknown_fields=True):
    """Candidates by distance instead of by ID."""

    lat: Annotated[float, Meta(ge=-90, le=90)]
    lon: Annotated[float, Meta(ge=-180, le=180)]
    within_km: Annotated[float, Meta(gt=0, le=100)] = 5.0
    at_most: Annotated[int, Meta(gt=0, le=1000)] = 300


class RankRequest(Struct, forbid_unknown_fields=True):
    """A user in a scene, and the places to rank."""

    user_id: Identifier
    """A text; a number is converted to text."""
    candidates: Annotated[list[Columns], Meta(max_length=2000)] | None = None
    """Each with `poi_id` and the columns that differ between candidates."""
    near: Near | None = None
    """Instead of `candidates`: the places near a point."""
    scene: Columns = {}
    """The columns of the scene: city, weather, ..."""
    time: str | int | float | None = None
    """The local time of the place, such as 2024-04-08T12:10; now if absent. A time with an offset,
    or seconds since 1970, needs a version that knows its time zone."""
    k: Annotated[int, Meta(ge=1, le=1000)] = 20
    """The number of places to return."""
    explain: bool = False
    """Whether to return the effect of each text on each returned place; at most 50 places."""


class TextEffect(Struct):
    """The effect of a keyword's text on a place."""

    keyword: str
    text: str
    attention: float | None
    """The encoder's attention to the text, not its effect. None without an encoder."""
    adds: float
    """The score minus the score without this text, all else equal."""


class RankedPlace(Struct, omit_defaults=True):
    """A place of the response; the best comes first."""

    poi_id: str
    score: float
    """The product of the probabilities, which sorts the places."""
    probabilities: dict[str, float]
    degraded: list[str] = []
    """`new_place` for an unknown place."""
    texts: list[TextEffect] = []
    """The effects of its texts, with `explain`."""


class RankAnswer(Struct):
    """The ranking, and the version that computed it."""

    rank_id: str
    version: str
    arm: str
    """The arm of an A/B test; A without a test."""
    degraded: list[str]
    """What was not known: `unknown_user`, `missing:time`, `missing:COLUMN` and
    `unknown_value:COLUMN` of the scene or of candidates, `missing_text:KEYWORD`, `nothing_near`."""
    items: list[RankedPlace]


class PlaceStatus(Struct):
    """A place is `accepted`, `embedded`, `trained` or `withdrawn`."""

    poi_id: str
    status: str


class Arm(Struct, frozen=True):
    """A version and its share of the users."""

    name: str
    version: str
    share: float


class Readiness(Struct):
    """The arms that are served, and why the store's current versions are not, if they are not."""

    status: str
    arms: list[Arm]
    time_zones: dict[str, str]
    """The time zone of each version's tables, empty if unknown."""
    refused: str | None = None


class Problem(Struct):
    """Why a request was refused."""

    error: str


Body = TypeVar("Body")


def decode(body: bytes, kind: type[Body]) -> Body:
    """Parses a body; raises InputError if it is not JSON of this type."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"the body cannot be read: {error}") from error


def local_time(time: str | float | None, zone: str) -> datetime:
    """Returns the local time of the place at `time`, or now, as a naive datetime.

    `zone` is that of the version's tables, "" if unknown. Raises InputError for an invalid time,
    and for an instant (seconds to nanoseconds since 1970, or an offset) without a zone.
    """
    here = ZoneInfo(zone) if zone else None
    if time is None:
        return datetime.now(here).replace(tzinfo=None)
    try:
        if isinstance(time, str):
            # Python would accept a date as midnight, and most numbers as dates
            read = datetime.fromisoformat(time if DATE_AND_TIME.match(time) else "")
        else:
            units = next((units for limit, units in EPOCHS if time < limit), 10**9)
            read = datetime.fromtimestamp(time / units, UTC)
        if read.tzinfo and here:
            read = read.astimezone(here).replace(tzinfo=None)
    except (ValueError, OverflowError):
        read = datetime.min
    if read.replace(tzinfo=None) < OLDEST:
        raise InputError(
            f"time: got {time!r:.80}, expected the local time of the place, such as {EXAMPLE}; a "
            f"time with an offset, such as {EXAMPLE}+08:00; or seconds since 1970"
        )
    if read.tzinfo:
        raise InputError(
            f"time: cannot convert {time!r:.80}, because this version does not know the time zone "
            f"of its tables; send the local time of the place, such as {EXAMPLE}, or set "
            "dataset.tables.time_zone, run `larr run` and `larr publish`"
        )
    return read


def candidate_columns(
    rows: list[Columns], accepted: Mapping[str, Kinds]
) -> dict[str, list[Scalar]]:
    """Returns the columns of a request's candidates; raises InputError for invalid ones."""
    names = dict.fromkeys(["poi_id", *chain.from_iterable(rows)])
    columns = {name: [row.get(name) for row in rows] for name in names}
    # to replay a log; ignored if no ranker reads it
    accepted = {POSITION: (int, float), **accepted}
    for name, values in columns.items():
        if name != "poi_id" and list in map(type, values):
            columns[name] = [joined(value) for value in values]
    # as in the tables of the data contract, a number is converted to text
    columns["poi_id"] = [str(i) if type(i) is int else i for i in columns["poi_id"]]
    seen: set[Scalar] = set()
    for number, poi_id in enumerate(columns["poi_id"]):
        if not isinstance(poi_id, str) or not poi_id:
            raise InputError(f"candidates[{number}]: poi_id must be a text, got {poi_id!r:.80}")
        if poi_id in seen:
            raise InputError(f"candidates[{number}]: {poi_id!r:.80} occurs twice")
        seen.add(poi_id)
    for name, values in columns.items():
        check_values(name, values, accepted, "candidates[{}]")
    for number, value in enumerate(columns.get(POSITION, [])):
        if isinstance(value, int | float) and value < FIRST:
            raise InputError(f"candidates[{number}].{POSITION}: positions start at {FIRST}")
    return columns


def check_values(
    name: str, values: list[Scalar], accepted: Mapping[str, Kinds], where: str
) -> None:
    """Raises InputError for a column that nothing reads, and for values of a wrong type.

    `where` names the values in a message; `{}` in it becomes the index of the value.
    """
    if name not in accepted:
        problem = f"{where.partition('[')[0]}: unknown column {name!r:.80}"
        columns = ", ".join(sorted(accepted))
        raise InputError(f"{problem}{suggestion(name[:80], accepted)}; expected {columns}")
    kinds = {type(None), *accepted[name]}
    if not kinds.issuperset(map(type, values)):  # one pass in C, since most requests are valid
        number = next(n for n, value in enumerate(values) if type(value) not in kinds)
        expected = " or ".join(dict.fromkeys(WORDS[kind] for kind in accepted[name]))
        raise InputError(
            f"{where.format(number)}.{name}: expected {expected}, got {values[number]!r:.80}"
        )
    if str in kinds or not {int, float} & kinds:  # texts of numbers may be longer
        return
    for number, value in enumerate(values):
        if isinstance(value, int | float) and not -LARGEST <= value <= LARGEST:  # includes NaN
            raise InputError(f"{where.format(number)}.{name}: {value!r:.80} is out of range")
