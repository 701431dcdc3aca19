"""A page to play with a scene: what ranks where, what moved against a pinned scene, and why."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import msgspec
import polars as pl

from larr.errors import InputError
from larr.html import environment
from larr.serve.features import POSITION
from larr.serve.live import Live
from larr.serve.request import EXPLAINED, RankAnswer, RankedPlace, RankRequest
from larr.serve.store import VERSIONS, read_golden
from larr.serve.version import ServedVersion

SHOWN = 20
MOST_OPTIONS = 200
MOST_USERS = 12
WITHIN_KM = 30.0
LEAST_TOLD = 0.5
"""A worth of less, in %, would be told as 0."""
Given = Mapping[str, str]


@dataclass(frozen=True)
class Field:
    """A column of the scene as the form shows it."""

    name: str
    options: list[str]
    """Empty for a number."""
    value: str

    @property
    def label(self) -> str:
        """For people."""
        return self.name.replace("_", " ")


class Worth(NamedTuple):
    """What a text does to the score of a place."""

    keyword: str
    text: str
    percent: float
    """Of the score that there would be without it."""


@dataclass(frozen=True)
class Shown:
    """A place of the ranking, beside where it was in the pinned one."""

    rank: int
    place: RankedPlace
    name: str
    about: str
    moved: int | None
    """Ranks up (or down, below 0) since the pinned scene; None if it was not shown there."""
    texts: list[Worth]
    """What is known of user, scene and place, from what counts most for it to most against it."""
    why: Worth | None
    """Of the user's and the scene's texts that which counts most, or beside a pinned scene the text
    whose worth changed most, and by how much; None where that is nothing."""


class Playground:
    """The forms and rankings of one version."""

    def __init__(self, version: ServedVersion, examples: list[dict[str, Any]]) -> None:
        self.version, self.examples = version, [one["request"] for one in examples]
        self.places = version.known_places

    @cached_property
    def follows(self) -> dict[str, dict[str, str]]:
        """Columns of the scene that the city decides, such as its region: city -> value."""
        found = {}
        for name in self.version.accepted[0]:
            if name == "city" or not {"poi_city", f"poi_{name}"} <= set(self.places.columns):
                continue
            pairs = self.places.select("poi_city", f"poi_{name}").drop_nulls().unique()
            if pairs["poi_city"].is_unique().all():
                found[name] = dict(pairs.iter_rows())
        return found

    @cached_property
    def centres(self) -> dict[str, tuple[float, float]]:
        """The middle of the places of each city."""
        if not {"poi_city", "poi_lat", "poi_lon"} <= set(self.places.columns):
            return {}
        found = self.places.drop_nulls(["poi_city", "poi_lat", "poi_lon"]).group_by("poi_city")
        middle = found.agg(pl.col("poi_lat", "poi_lon").median()).sort("poi_city")
        return {city: (lat, lon) for city, lat, lon in middle.iter_rows()}

    def first(self) -> dict[str, str]:
        """What the form starts with: a request of the log."""
        example = next((one for one in self.examples if "T12" in one["time"]), self.examples[0])
        scene = {f"scene.{name}": _told(value) for name, value in example["scene"].items()}
        return {"user_id": example["user_id"], "time": example["time"][:16], **scene}

    def fields(self, given: Given) -> list[Field]:
        """The scene's columns, but those that follow from the city."""
        told = []
        for name in self.version.accepted[0]:
            if name in self.follows:
                continue
            vocabulary = self.version.ranker.reader.vocabularies.get(name, {})
            seen = {_told(one["scene"].get(name)) for one in self.examples}
            options = list(vocabulary) if 0 < len(vocabulary) <= MOST_OPTIONS else []
            if not options and not self._is_number(name):
                options = sorted(seen - {""})
            told.append(Field(name, sorted(options), given.get(f"scene.{name}", "")))
        return told

    def users(self) -> list[str]:
        """Some users to choose from."""
        return list(dict.fromkeys(one["user_id"] for one in self.examples))[:MOST_USERS]

    def request(self, given: Given) -> RankRequest:
        """The request that the form asks for; InputError says what is wrong with it."""
        scene = {
            name: self._value(name, given[f"scene.{name}"])
            for name in self.version.accepted[0]
            if given.get(f"scene.{name}")
        }
        city = scene.get("city")
        scene |= {name: of.get(str(city)) for name, of in self.follows.items()}
        user_id = given.get("user_id", "")
        content: dict[str, Any] = {"user_id": user_id, "scene": scene, "k": SHOWN}
        content["time"] = _time(given.get("time", ""))
        if city in self.centres:
            lat, lon = self.centres[str(city)]
            content["near"] = {"lat": lat, "lon": lon, "within_km": WITHIN_KM}
        else:
            content["candidates"] = self._candidates(user_id)
        content["explain"] = self.version.ranker.reads_texts
        try:
            return msgspec.convert(content, RankRequest)
        except msgspec.ValidationError as error:
            raise InputError(f"the scene cannot be read: {error}") from error

    def _candidates(self, user_id: str) -> list[dict[str, Any]]:
        own = [one for one in self.examples if one["user_id"] == user_id] or self.examples
        return [
            {name: value for name, value in candidate.items() if name != POSITION}
            for candidate in own[0]["candidates"]
        ]

    def _is_number(self, name: str) -> bool:
        return str not in self.version.accepted[0][name]

    def _value(self, name: str, given: str) -> Any:
        if given in ("true", "false"):
            return given == "true"
        if not self._is_number(name):
            return given
        try:
            return float(given)
        except ValueError:
            raise InputError(f"{name}: expected a number, got {given!r:.80}") from None

    @cached_property
    def asked(self) -> set[str]:
        """The keywords of the user and the scene."""
        keywords = self.version.ranker.reader.keywords.values()
        return {one.name for one in keywords if one.owner != "poi"}

    def about(self, poi_id: str) -> tuple[str, str]:
        """A place's name, and where and what it is."""
        row = self.version.added.get(poi_id, {})
        if poi_id in self.version.trained:
            number = self.version.ranker.reader.place_rows[poi_id] - 1
            known = self.places.row(number, named=True)
            row = {name.removeprefix("poi_"): value for name, value in known.items()}
        parts = [row.get(name) for name in ("category", "area", "city")]
        return str(row.get("name") or poi_id), " · ".join(str(part) for part in parts if part)


class Page:
    """What the page's routes answer."""

    def __init__(self, live: Live, secured: bool) -> None:
        self.live, self.secured = live, secured
        self.templates = environment("larr_lab.page")
        self._loaded = lru_cache(maxsize=2)(live.store.load)
        self._playground = lru_cache(maxsize=4)(self._made)

    def playground(self, version: str) -> Playground:
        """The playground of a version; one that is not served has today's new places, too."""
        served = [one.version for one in self.live.opened if one.arm.version == version]
        opened = served[0] if served else self._loaded(version)
        if not served:
            opened.follow(dict(self.live.accepted))
        return self._playground(opened)

    def _made(self, version: ServedVersion) -> Playground:
        folder = self.live.store.folder / VERSIONS / version.id
        return Playground(version, read_golden(folder))

    def home(self) -> str:
        """The whole page."""
        version = self.live.opened[0].arm.version
        playground = self.playground(version)
        first = playground.first()
        return self.templates.get_template("page.html.j2").render(
            fields=playground.fields(first),
            first=first,
            users=playground.users(),
            version=version,
            versions=self.live.store.versions(),
        )

    def ranking(self, given: Given, base: str) -> str:
        """The ranking of the form's scene, beside the pinned one."""
        playground, asked, answer, milliseconds = self._ranked(given)
        pinned = _pinned(given.get("pinned") or "{}")
        before = self._ranked(pinned)[2] if pinned else None
        told = {name: value for name, value in given.items() if name != "pinned" and value}
        body = msgspec.to_builtins(asked) | {"explain": False}
        return self.templates.get_template("ranking.html.j2").render(
            shown=list(_shown(playground, answer, before)),
            answer=answer,
            milliseconds=milliseconds,
            pinned=_differences(pinned, told) if pinned else None,
            pin=json.dumps(told, ensure_ascii=False),
            curl=self._curl(
                base, {name: value for name, value in body.items() if value is not None}
            ),
        )

    def _curl(self, base: str, body: dict[str, Any]) -> str:
        told = json.dumps(body, ensure_ascii=False)
        token = '-H "Authorization: Bearer $LARR_TOKEN" ' if self.secured else ""
        return f"curl -s {base}v1/rank {token}-d {shlex.quote(told)}"

    def _ranked(self, given: Given) -> tuple[Playground, RankRequest, RankAnswer, float]:
        playground = self.playground(given.get("version") or self.live.opened[0].arm.version)
        asked = playground.request(given)
        plain = msgspec.structs.replace(asked, explain=False)
        started = time.perf_counter()
        playground.version.rank(plain)
        milliseconds = 1000 * (time.perf_counter() - started)
        explained = msgspec.structs.replace(asked, k=min(EXPLAINED, 2 * SHOWN))
        return playground, plain, playground.version.rank(explained), milliseconds


def _shown(
    playground: Playground, answer: RankAnswer, before: RankAnswer | None
) -> Iterator[Shown]:
    pinned = {
        item.poi_id: (rank, item) for rank, item in enumerate(before.items if before else [], 1)
    }
    for rank, item in enumerate(answer.items[:SHOWN], 1):
        old_rank, old = pinned.get(item.poi_id, (None, None))
        texts = worths(item)
        if old is not None:
            was = {one.keyword: one.percent for one in worths(old)}
            reasons = [
                one._replace(percent=one.percent - was.get(one.keyword, 0.0)) for one in texts
            ]
        elif before is None:
            reasons = [one for one in texts if one.keyword in playground.asked]
        else:
            reasons = texts
        why = max(reasons, key=lambda one: abs(one.percent), default=None)
        yield Shown(
            rank,
            item,
            *playground.about(item.poi_id),
            None if old_rank is None else old_rank - rank,
            texts,
            why if why and abs(why.percent) >= LEAST_TOLD else None,
        )


def worths(item: RankedPlace) -> list[Worth]:
    """The texts of a place with what each is worth, from most to least."""
    without = [item.score - one.adds for one in item.texts]
    told = [
        Worth(one.keyword, one.text, 100 * one.adds / (score or 1.0))
        for one, score in zip(item.texts, without, strict=True)
    ]
    return sorted(told, key=lambda one: -one.percent)


def _differences(pinned: Given, told: Given) -> list[str]:
    names = dict.fromkeys([*pinned, *told])
    return [
        f"{name.removeprefix('scene.').replace('_', ' ')}: {pinned.get(name, '–')} → "
        f"{told.get(name, '–')}"
        for name in names
        if pinned.get(name) != told.get(name)
    ]


def _pinned(given: str) -> Given:
    try:
        return msgspec.json.decode(given.encode(), type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise InputError(f"the pinned scene cannot be read: {error}") from None


def _time(given: str) -> datetime:
    try:
        return datetime.fromisoformat(given) if given else datetime.now()
    except ValueError:
        raise InputError(f"time: expected a date and a time, got {given!r:.80}") from None


def _told(value: Any) -> str:
    """A value as the form holds it."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
