"""What is sent to the service and what comes back: types, JSON, and checks of the values."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated, TypeVar
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta, Struct

from larr.data.contract import OLDEST
from larr.errors import InputError
from larr.serve.features import FIRST, POSITION, Kinds

EXPLAINED = 50
LARGEST = sys.float_info.max
DATE_AND_TIME, EXAMPLE = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}"), "2024-04-08T12:10:00"
EPOCHS = ((1e11, 1), (1e14, 1e3), (1e17, 1e6))
"""Below which number a time is in seconds, milliseconds or microseconds, as in tables."""
Scalar = str | int | float | bool | None
Columns = dict[str, Scalar]
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
    """A text; a number stands for the text of its digits."""
    candidates: Annotated[list[Columns], Meta(max_length=2000)] | None = None
    """Each with `poi_id` and the columns that differ between candidates."""
    near: Near | None = None
    """Instead of `candidates`: the places around."""
    scene: Columns = {}
    """The columns of the scene: city, weather, ..."""
    time: str | int | float | None = None
    """The clock of the place, such as 2024-04-08T12:10; now if absent. A time with an offset, or
    seconds since 1970, needs a version that knows its time zone."""
    k: Annotated[int, Meta(ge=1, le=1000)] = 20
    """How many places to give back."""
    explain: bool = False
    """Whether to give the effect of each text on each place given back; at most 50 places."""


class TextEffect(Struct):
    """The effect of a keyword's text on a place."""

    keyword: str
    text: str
    attention: float | None
    """The encoder's attention to it: where it looked, not what came of it. None without one."""
    adds: float
    """The score minus the score without this text, all else the same."""


class RankedPlace(Struct, omit_defaults=True):
    """A place of the answer; the best comes first."""

    poi_id: str
    score: float
    """The product of the probabilities: by it the places are sorted."""
    probabilities: dict[str, float]
    degraded: list[str] = []
    """What was not known of it: `new_place`."""
    texts: list[TextEffect] = []
    """If explained."""


class RankAnswer(Struct):
    """The ranking, and the version that computed it."""

    rank_id: str
    version: str
    arm: str
    """Of a test of two versions; A without a test."""
    degraded: list[str]
    """What was not known: `unknown_user`, `missing:time`, `missing:COLUMN` and
    `unknown_value:COLUMN` of the scene or of candidates, `missing_text:KEYWORD`, `nothing_near`."""
    items: list[RankedPlace]


class PlaceStatus(Struct):
    """A place is `accepted`, `embedded`, `trained` or `withdrawn`."""

    poi_id: str
    status: str


class Arm(Struct, frozen=True):
    """A version, and the share of the users that it serves."""

    name: str
    version: str
    share: float


class Readiness(Struct):
    """The arms that are served, and why the store's latest choice is not, if it is not."""

    status: str
    arms: list[Arm]
    time_zones: dict[str, str]
    """Of the tables of each version, empty where it is not known."""
    refused: str | None = None


class Problem(Struct):
    """Why a request was refused."""

    error: str


Body = TypeVar("Body")


def decode(body: bytes, kind: type[Body]) -> Body:
    """Returns the content of a body; raises InputError if it is not JSON of this kind."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"the body cannot be read: {error}") from error


def local_time(time: str | float | None, zone: str) -> datetime:
    """Returns what the clock of the place shows at `time`, or now, without a zone.

    `zone` is that of the version's tables, "" where it is not known. Raises InputError for what is
    no time, and for an instant (seconds to nanoseconds since 1970, or an offset) without a zone.
    """
    here = ZoneInfo(zone) if zone else None
    if time is None:
        return datetime.now(here).replace(tzinfo=None)
    try:
        if isinstance(time, str):
            # Python reads a date alone as midnight, and most digits alone as a date.
            read = datetime.fromisoformat(time if DATE_AND_TIME.match(time) else "")
        else:
            unit = next((unit for limit, unit in EPOCHS if time < limit), 1e9)
            read = datetime.fromtimestamp(time / unit, UTC)
        if read.tzinfo and here:
            read = read.astimezone(here).replace(tzinfo=None)
    except (ValueError, OverflowError):
        read = datetime.min
    if read.replace(tzinfo=None) < OLDEST:
        raise InputError(
            f"time: got {time!r:.80}, expected the clock of the place, such as {EXAMPLE}; or a "
            f"time with an offset, such as {EXAMPLE}+08:00; or seconds since 1970"
        )
    if read.tzinfo:
        raise InputError(
            f"time: {time!r:.80} has to be converted, and this version does not know the time "
            f"zone of its tables; send the clock of the place, such as {EXAMPLE}, or set "
            "dataset.tables.time_zone, run `larr run` and `larr publish`"
        )
    return read


def candidate_columns(
    rows: list[Columns], accepted: Mapping[str, Kinds]
) -> dict[str, list[Scalar]]:
    """Returns the columns of the candidates of a request; raises InputError for wrong ones."""
    names = dict.fromkeys(["poi_id", *chain.from_iterable(rows)])
    columns = {name: [row.get(name) for row in rows] for name in names}
    # A number stands for the text of its digits, as in the tables of the data contract.
    columns["poi_id"] = [str(i) if type(i) is int else i for i in columns["poi_id"]]
    seen: set[Scalar] = set()
    for number, poi_id in enumerate(columns["poi_id"]):
        if not isinstance(poi_id, str) or not poi_id:
            raise InputError(f"candidates[{number}]: poi_id must be a text, got {poi_id!r:.80}")
        if poi_id in seen:
            raise InputError(f"candidates[{number}]: {poi_id!r:.80} is there twice")
        seen.add(poi_id)
    for name, values in columns.items():
        check_values(name, values, accepted, "candidates[{}]")
    for number, value in enumerate(columns.get(POSITION, [])):
        if isinstance(value, int | float) and value < FIRST:
            raise InputError(f"candidates[{number}].{POSITION}: the first one is {FIRST}")
    return columns


def check_values(
    name: str, values: list[Scalar], accepted: Mapping[str, Kinds], where: str
) -> None:
    """Raises InputError for a column that is not read, and for values that it cannot have.

    `where` names the values in a message; `{}` in it becomes the number of the value.
    """
    if name not in accepted:
        table, columns = where.partition("[")[0], ", ".join(sorted(accepted))
        raise InputError(f"{table}: no column {name!r:.80} is read there; there are {columns}")
    kinds = {type(None), *accepted[name]}
    if not kinds.issuperset(map(type, values)):  # one pass in C, as nearly all requests are right
        number = next(n for n, value in enumerate(values) if type(value) not in kinds)
        expected = " or ".join(dict.fromkeys(WORDS[kind] for kind in accepted[name]))
        raise InputError(
            f"{where.format(number)}.{name}: expected {expected}, got {values[number]!r:.80}"
        )
    if str in kinds or not {int, float} & kinds:  # texts of numbers may be longer
        return
    for number, value in enumerate(values):
        if isinstance(value, int | float) and not -LARGEST <= value <= LARGEST:  # NaN, too
            raise InputError(
                f"{where.format(number)}.{name}: {value!r:.80} is beyond any number of a scene"
            )
