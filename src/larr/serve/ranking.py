"""`POST /v1/rank` without HTTP: a request, its answer, and what is refused.

Shapes: K candidates, T tasks, P places.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Collection, Mapping
from datetime import datetime
from itertools import chain
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
from msgspec import Meta, Struct
from rich.markup import escape
from scipy.spatial import KDTree

from larr.errors import InputError
from larr.progress import console
from larr.serve.features import FIRST, POSITION, Kinds
from larr.serve.places import as_known
from larr.serve.scorer import Embed, Scorer, scores

EARTH_KM = 6371.0
EXPLAINED = 50
LARGEST = 1e15
BLANK = (None, "")
"""What says nothing, as in the tables of the contract."""
Scalar = str | int | float | bool | None
Columns = dict[str, Scalar]
Identifier = Annotated[str, Meta(min_length=1, max_length=200)] | int
WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


class Near(Struct, forbid_unknown_fields=True):
    """Candidates by distance instead of by name."""

    lat: Annotated[float, Meta(ge=-90, le=90)]
    lon: Annotated[float, Meta(ge=-180, le=180)]
    within_km: Annotated[float, Meta(gt=0, le=100)] = 5.0
    at_most: Annotated[int, Meta(gt=0, le=1000)] = 300


class RankRequest(Struct, forbid_unknown_fields=True):
    """Who asks, in which scene, about which places."""

    user_id: Identifier
    """A text; a number stands for the text of its digits."""
    candidates: Annotated[list[Columns], Meta(max_length=2000)] | None = None
    """Each with `poi_id` and the columns that differ between candidates."""
    near: Near | None = None
    """Instead of `candidates`: the places around."""
    scene: Columns = {}
    """The columns of the scene: city, weather, ..."""
    time: Annotated[datetime, Meta(tz=False)] | None = None
    """When, on the clock of the place, so without a zone; the server's clock if absent."""
    k: Annotated[int, Meta(ge=1, le=1000)] = 20
    """How many places to give back."""
    explain: bool = False
    """Whether to say what each text is worth to each place given back; at most 50 of them."""


class TextEffect(Struct):
    """What the text of a keyword is worth to a place."""

    keyword: str
    text: str
    attention: float
    """The encoder's attention to it: where it looked, not what came of it."""
    adds: float
    """The score less that without this text, all else the same."""


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
    """The ranking, and what it was made with."""

    rank_id: str
    version: str
    arm: str
    """Of a test of two versions; A if there is none."""
    degraded: list[str]
    """What was not known: `unknown_user`, `missing:COLUMN` and `unknown_value:COLUMN` of the scene
    or of candidates, `missing_text:KEYWORD`, `nothing_near`."""
    items: list[RankedPlace]


class Problem(Struct):
    """Why there is no answer."""

    error: str


class Ranking:
    """Ranks requests with one version of the model."""

    def __init__(self, scorer: Scorer, version: str, embed: Embed | None = None) -> None:
        self.scorer, self.version, self.embed = scorer, version, embed
        self.tasks = [*scorer.reader.features.tasks]
        self.accepted = scorer.reader.sent()
        """The columns that may be sent of the scene, and those of a candidate."""
        places = scorer.reader.known.places
        self.trained = frozenset(places["poi_id"])
        self.added: dict[str, Columns] = {}
        """The places that came later, by their IDs."""
        self.left_out: dict[str, Columns] = {}
        """Those of them that this version cannot read."""
        self.where = _where(places)
        self._following = threading.Lock()

    def check_place(self, row: Columns) -> None:
        """InputError for a place that cannot be added."""
        as_known(row, self.scorer.reader.known.places)
        if self.scorer.ranker.tables and self.embed is None:
            raise InputError("this version has no text embedding model, so places cannot be added")

    def follow(self, accepted: Mapping[str, Columns]) -> None:
        """Has the places that came later, by their IDs, as they are now.

        Those that were known in training stay as they are. A place that cannot be added is left out
        and keeps no other one back; what the machine lacks is raised, to be tried again.
        """
        with self._following:
            if gone := self.added.keys() - accepted.keys():
                self._forget(gone)
            self._take_in(accepted)

    def _forget(self, gone: Collection[str]) -> None:
        self.where = _where(self.scorer.reader.known.places.head(0), self.where, gone)
        self.scorer.forget_places(gone)
        self.added = {poi_id: row for poi_id, row in self.added.items() if poi_id not in gone}

    def _take_in(self, accepted: Mapping[str, Columns]) -> None:
        wanted = {
            poi_id: row
            for poi_id, row in accepted.items()
            if poi_id not in self.trained
            and row not in (self.added.get(poi_id), self.left_out.get(poi_id))
        }
        try:
            self._add(wanted)
        except (OSError, MemoryError):
            raise
        except Exception:  # of one of them, as a rule
            for poi_id, row in wanted.items():
                try:
                    self._add({poi_id: row})
                except (OSError, MemoryError):
                    raise
                except Exception as error:
                    self._leave_out(poi_id, row, error)

    def _leave_out(self, poi_id: str, row: Columns, error: Exception) -> None:
        self.left_out[poi_id] = row
        console.print(escape(f"version {self.version}: {poi_id} is left out: {error}"))

    def _add(self, wanted: dict[str, Columns]) -> None:
        known, frames = self.scorer.reader.known.places, {}
        for poi_id, row in wanted.items():
            try:
                frames[poi_id] = as_known(row, known)
            except InputError as error:  # another version has accepted it
                self._leave_out(poi_id, row, error)
        if not frames:
            return
        frame = pl.concat(frames.values(), how="diagonal")
        self.scorer.add_places(frame, self.embed)
        self.where = _where(pl.concat([known.head(0), frame], how="diagonal"), self.where)
        self.added |= {poi_id: wanted[poi_id] for poi_id in frames}

    def rank(self, asked: RankRequest) -> RankAnswer:
        """The best `k` of the candidates."""
        candidates = self._candidates(asked)
        for name, value in asked.scene.items():
            _check(name, [value], self.accepted[0], "scene")
        if asked.explain and asked.k > EXPLAINED:
            raise InputError(
                f"explain: at most {EXPLAINED} places can be explained, k is {asked.k}"
            )
        if asked.explain and not self.scorer.ranker.tables:
            raise InputError("explain: the ranker of this version reads no texts")
        scene = {name: value for name, value in asked.scene.items() if value not in BLANK}
        user_id = str(asked.user_id)
        row = {**scene, "user_id": user_id, "time": asked.time or datetime.now()}
        places = candidates["poi_id"]
        scored = self.scorer.score(row, candidates) if places else None
        answer = RankAnswer(uuid.uuid4().hex, self.version, "A", [], [])
        if scored is None:
            answer.degraded += ["nothing_near"] if asked.near else []
            return answer
        answer.degraded += [] if scored.request.known else ["unknown_user"]
        absent = [name for name in self.accepted[0] if name not in scene]
        absent += [
            name
            for name in self.accepted[1]
            if name != POSITION and None in candidates.get(name, [None])
        ]
        unknown = scored.request.unknown + scored.candidates.unknown
        answer.degraded += [f"missing:{name}" for name in absent]
        answer.degraded += [f"unknown_value:{name}" for name in unknown]
        answer.degraded += [f"missing_text:{name}" for name in scored.request.missing]
        score_K = scores(scored.probabilities)
        best = np.argsort(-score_K, kind="stable")[: asked.k].tolist()
        for number in best:
            told = dict(zip(self.tasks, scored.probabilities[number].tolist(), strict=True))
            new = ["new_place"] if scored.candidates.places[number] == 0 else []
            answer.items.append(RankedPlace(str(places[number]), float(score_K[number]), told, new))
        if asked.explain:
            effects = self.scorer.explain(scored, best)
            for item, texts in zip(answer.items, effects, strict=True):
                item.texts = [TextEffect(*one) for one in texts]
        return answer

    def _candidates(self, asked: RankRequest) -> dict[str, list[Scalar]]:
        """The columns of the candidates."""
        if (asked.candidates is None) == (asked.near is None):
            raise InputError("give either `candidates` or `near`, and not both")
        if asked.near is not None:
            return self._around(asked.near)
        rows = asked.candidates or []
        names = dict.fromkeys(["poi_id", *chain.from_iterable(rows)])
        columns = {name: [row.get(name) for row in rows] for name in names}
        columns["poi_id"] = [_as_id(poi_id) for poi_id in columns["poi_id"]]
        seen: set[Scalar] = set()
        for number, poi_id in enumerate(columns["poi_id"]):
            if not isinstance(poi_id, str) or not poi_id:
                raise InputError(f"candidates[{number}]: poi_id must be a text, got {poi_id!r:.80}")
            if poi_id in seen:
                raise InputError(f"candidates[{number}]: {poi_id!r:.80} is there twice")
            seen.add(poi_id)
        for name, values in columns.items():
            _check(name, values, self.accepted[1], "candidates[{}]")
        for number, value in enumerate(columns.get(POSITION, [])):
            if isinstance(value, int | float) and value < FIRST:
                raise InputError(f"candidates[{number}].{POSITION}: the first one is {FIRST}")
        return columns

    def _around(self, near: Near) -> dict[str, list[Scalar]]:
        """The nearest places within the distance, with `distance_km` as the crow flies."""
        if self.where is None:
            raise InputError("`near` needs places with lat and lon; give `candidates` instead")
        found = self.where.around(near.lat, near.lon, near.within_km, near.at_most)
        return {"poi_id": [*found], "distance_km": [*found.values()]}


def _as_id(value: Scalar) -> Scalar:
    """A number stands for the text of its digits, as in the tables of the contract."""
    return str(value) if type(value) is int else value


def _check(name: str, values: list[Scalar], accepted: dict[str, Kinds], where: str) -> None:
    """Refuses a column that is not read, and values that it cannot have."""
    if name not in accepted:
        whose, told = where.partition("[")[0], ", ".join(sorted(accepted))
        raise InputError(f"{whose}: no column {name!r:.80} is read there; there are {told}")
    kinds = {type(None), *accepted[name]}
    if not kinds.issuperset(map(type, values)):
        number = next(n for n, value in enumerate(values) if type(value) not in kinds)
        told = " or ".join(WORDS[kind] for kind in accepted[name])
        raise InputError(
            f"{where.format(number)}.{name}: expected {told}, got {values[number]!r:.80}"
        )
    numbers = enumerate(values) if float in kinds or int in kinds else ()
    for number, value in numbers:
        if isinstance(value, int | float) and not -LARGEST <= value <= LARGEST:  # NaN, too
            raise InputError(
                f"{where.format(number)}.{name}: {value!r:.80} is beyond any number of a scene"
            )


class Where:
    """The places that lie somewhere, to be found by distance."""

    def __init__(self, ids: list[str], degrees_P2: npt.NDArray[np.float64]) -> None:
        self.ids, self.degrees_P2 = ids, degrees_P2
        self.tree = KDTree(_on_sphere(degrees_P2))

    def around(self, lat: float, lon: float, km: float, at_most: int) -> dict[str, float]:
        """The nearest places within a distance, and their distances in km, as the crow flies."""
        point = _on_sphere(np.array([[lat, lon]]))[0]
        chord = 2 * np.sin(km / EARTH_KM / 2)
        count = min(at_most, len(self.ids))
        chords, numbers = self.tree.query(point, range(1, count + 1), distance_upper_bound=chord)
        km_K = 2 * EARTH_KM * np.arcsin(np.minimum(chords[np.isfinite(chords)] / 2, 1))
        found = zip(numbers.tolist(), km_K.round(3).tolist(), strict=False)
        return {self.ids[at]: far for at, far in found}


def _on_sphere(degrees_P2: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Points of the unit sphere, [P, 3]."""
    lat, lon = np.radians(degrees_P2).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def _where(
    places: pl.DataFrame, before: Where | None = None, gone: Collection[str] = ()
) -> Where | None:
    """Where places lie, and others before them that are neither among them nor gone."""
    if not {"poi_lat", "poi_lon"} <= set(places.columns):
        return None
    lying = places.drop_nulls(["poi_lat", "poi_lon"])
    ids, degrees_P2 = lying["poi_id"].to_list(), lying.select("poi_lat", "poi_lon").to_numpy()
    if before is not None:
        left = {*places["poi_id"], *gone}
        kept = [number for number, poi_id in enumerate(before.ids) if poi_id not in left]
        ids = [*(before.ids[number] for number in kept), *ids]
        degrees_P2 = np.concatenate([before.degrees_P2[kept], degrees_P2])
    return Where(ids, degrees_P2.astype(np.float64)) if ids else None


Body = TypeVar("Body")


def decode(body: bytes, kind: type[Body]) -> Body:
    """The content of a body, or InputError."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"the body cannot be read: {error}") from error


def encode(answer: Any) -> bytes:
    """The answer as JSON."""
    return msgspec.json.encode(answer)
