"""The demo page: the ranking of a scene, and its changes against a pinned scene with reasons."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping
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
MAX_OPTIONS = 200
MAX_USERS = 12
WITHIN_KM = 30.0
MIN_PERCENT = 0.5
"""Smaller influences would be displayed as 0 %."""
FormValues = Mapping[str, str]
"""The query of the browser: user_id, time, version, pinned, and scene.NAME for scene columns."""


class Influence(NamedTuple):
    """How much a text changes the score of a place."""

    keyword: str
    text: str
    percent: float
    """In % of the score without the text."""


class Row(NamedTuple):
    """A place of the ranking, compared with its rank for the pinned scene."""

    rank: int
    place: RankedPlace
    name: str
    description: str
    moved: int | None
    """Ranks gained against the pinned scene (negative if lost); None if not shown there."""
    influences: list[Influence]
    """The texts of user, scene and place, the largest increase of the score first."""
    reason: Influence | None
    """The text of user or scene with the largest influence; with a pinned scene, the text with the
    largest change of influence, and that change. None below `MIN_PERCENT`."""


class Field(NamedTuple):
    """A scene column in the form."""

    name: str
    options: list[str]
    """Empty for a number."""
    value: str


class Page:
    """Renders the page and its ranking."""

    def __init__(self, live: Live, secured: bool) -> None:
        self.live, self.secured = live, secured
        self.templates = environment("larr_lab.page")
        self._load = lru_cache(maxsize=2)(live.store.load)
        folder = live.store.folder / VERSIONS
        self._form_of = lru_cache(maxsize=4)(
            lambda version: SceneForm(version, read_golden(folder / version.id))
        )

    def home(self) -> str:
        """Returns the page with a form; the browser then requests the ranking."""
        version = self.live.opened[0].arm.version
        form = self.form(version)
        start = form.start_values()
        return self.templates.get_template("page.html.j2").render(
            fields=form.fields(start),
            start=start,
            users=form.users(),
            version=version,
            versions=self.live.store.versions(),
        )

    def ranking(self, values: FormValues, base_url: str) -> str:
        """Returns the ranking of the form's scene, compared with the pinned one."""
        form = self.form(values.get("version"))
        request = form.request(values)
        started = time.perf_counter()
        form.version.rank(request)  # timed without the explanation, which is not part of serving
        milliseconds = 1000 * (time.perf_counter() - started)
        answer = form.explained(request)
        current = {name: text for name, text in values.items() if name != "pinned" and text}
        try:
            text = (values.get("pinned") or "{}").encode()
            pinned = msgspec.json.decode(text, type=dict[str, str])
        except (msgspec.MsgspecError, UnicodeEncodeError) as error:
            raise InputError(f"invalid pinned scene: {error}") from None
        differences = pinned_answer = None
        if pinned:
            pinned_form = self.form(pinned.get("version"))
            pinned_answer = pinned_form.explained(pinned_form.request(pinned))
            differences = [
                f"{name.removeprefix('scene.').replace('_', ' ')}: {pinned.get(name, '–')} → "
                f"{current.get(name, '–')}"
                for name in dict.fromkeys([*pinned, *current])
                if pinned.get(name) != current.get(name)
            ]
        return self.templates.get_template("ranking.html.j2").render(
            rows=ranked_rows(form, answer, pinned_answer),
            answer=answer,
            milliseconds=milliseconds,
            differences=differences,
            pin=json.dumps(current, ensure_ascii=False),
            curl=self._curl(base_url, request),
        )

    def form(self, version: str | None) -> SceneForm:
        """Returns the form of a version, by default the first one served.

        A version that is not served gets the new places, too.
        """
        for opened in self.live.opened:
            if opened.arm.version == version or not version:
                return self._form_of(opened.version)
        loaded = self._load(version)
        loaded.sync_places(self.live.accepted)
        return self._form_of(loaded)

    def _curl(self, base_url: str, request: RankRequest) -> str:
        """Returns the request as a curl command."""
        content = msgspec.to_builtins(request)
        body = {name: value for name, value in content.items() if value is not None}
        token = '-H "Authorization: Bearer $LARR_TOKEN" ' if self.secured else ""
        text = shlex.quote(json.dumps(body, ensure_ascii=False))
        return f"curl -s {base_url}v1/rank {token}-d {text}"


class SceneForm:
    """The form of one version: its fields and the requests built from them."""

    def __init__(self, version: ServedVersion, golden: list[dict[str, Any]]) -> None:
        self.version, self.examples = version, [example["request"] for example in golden]
        self.places = version.known_places
        self.columns = version.accepted.scene
        """The scene columns and the types that each accepts."""

    @cached_property
    def columns_by_city(self) -> dict[str, dict[str, str]]:
        """Scene columns that depend only on the city, such as its region, with city -> value."""
        columns = {}
        for name in self.columns:
            if name == "city" or not {"poi_city", f"poi_{name}"} <= set(self.places.columns):
                continue
            pairs = self.places.select("poi_city", f"poi_{name}").drop_nulls().unique()
            if pairs["poi_city"].is_unique().all():
                columns[name] = dict(pairs.iter_rows())
        return columns

    @cached_property
    def centres(self) -> dict[str, tuple[float, float]]:
        """The median latitude and longitude of the places in each city."""
        needed = ["poi_city", "poi_lat", "poi_lon"]
        if not set(needed) <= set(self.places.columns):
            return {}
        cities = self.places.drop_nulls(needed).group_by("poi_city")
        medians = cities.agg(pl.col("poi_lat", "poi_lon").median()).sort("poi_city")
        return {city: (lat, lon) for city, lat, lon in medians.iter_rows()}

    def start_values(self) -> dict[str, str]:
        """Returns the initial values of the form: a request of the log, if possible at noon."""
        noon = (example for example in self.examples if "T12" in example["time"])
        example = next(noon, self.examples[0])
        scene = {f"scene.{name}": _form_value(value) for name, value in example["scene"].items()}
        return {"user_id": example["user_id"], "time": example["time"][:16], **scene}

    def fields(self, values: FormValues) -> list[Field]:
        """Returns the scene columns, except those that depend only on the city."""
        fields = []
        for name, kinds in self.columns.items():
            if name in self.columns_by_city:
                continue
            vocabulary = self.version.ranker.reader.encoder.vocabularies.get(name)
            options = vocabulary.texts.to_list() if vocabulary else []
            options = options if len(options) <= MAX_OPTIONS else []
            if not options and str in kinds:
                options = [_form_value(example["scene"].get(name)) for example in self.examples]
            options = sorted(set(options) - {""})
            fields.append(Field(name, options, values.get(f"scene.{name}", "")))
        return fields

    def users(self) -> list[str]:
        """Returns users to suggest."""
        return list(dict.fromkeys(example["user_id"] for example in self.examples))[:MAX_USERS]

    def request(self, values: FormValues) -> RankRequest:
        """Returns the request built from the form's values; raises InputError if one is invalid.

        The candidates are the places near the centre of the city. If places have no coordinates,
        they come from a request in the log, if possible of the same user.
        """
        scene: dict[str, Any] = {}
        for name, kinds in self.columns.items():
            if not (text := values.get(f"scene.{name}")):
                continue
            if text in ("true", "false"):
                scene[name] = text == "true"
            elif str in kinds:
                scene[name] = text
            else:
                try:
                    scene[name] = float(text)
                except ValueError:
                    raise InputError(f"{name}: expected a number, got {text!r:.80}") from None
        city = str(scene.get("city"))
        scene |= {name: by_city.get(city) for name, by_city in self.columns_by_city.items()}
        user_id = values.get("user_id", "")
        content: dict[str, Any] = {"user_id": user_id, "scene": scene, "k": SHOWN}
        content["time"] = values.get("time") or None
        if city in self.centres:
            lat, lon = self.centres[city]
            content["near"] = {"lat": lat, "lon": lon, "within_km": WITHIN_KM}
        else:
            same_user = (each for each in self.examples if each["user_id"] == user_id)
            candidates = next(same_user, self.examples[0])["candidates"]
            content["candidates"] = [
                {name: value for name, value in candidate.items() if name != POSITION}
                for candidate in candidates
            ]
        try:
            return msgspec.convert(content, RankRequest)
        except msgspec.ValidationError as error:
            raise InputError(f"invalid scene: {error}") from error

    def explained(self, request: RankRequest) -> RankAnswer:
        """Returns the answer to a request, with the influence of each text if the ranker reads any.

        It has more places than the page shows, so that the pinned ranks of most places are known.
        """
        explain = self.version.ranker.reads_texts
        more = msgspec.structs.replace(request, explain=explain, k=min(EXPLAINED, 2 * SHOWN))
        return self.version.rank(more)

    def describe(self, poi_id: str) -> tuple[str, str]:
        """Returns the name of a place, and its category, area and city."""
        row = self.version.added.get(poi_id, {})
        if poi_id in self.version.trained:
            number = self.version.ranker.reader.place_rows[poi_id] - 1
            known = self.places.row(number, named=True)
            row = {name.removeprefix("poi_"): value for name, value in known.items()}
        parts = [row.get(name) for name in ("category", "area", "city")]
        return str(row.get("name") or poi_id), " · ".join(str(part) for part in parts if part)


def ranked_rows(form: SceneForm, answer: RankAnswer, pinned: RankAnswer | None) -> list[Row]:
    """Returns the places of an answer, compared with the answer for the pinned scene."""
    pinned_items = enumerate(pinned.items if pinned else [], 1)
    pinned_places = {place.poi_id: (rank, place) for rank, place in pinned_items}
    keywords = form.version.ranker.reader.config.scene_keywords
    place_keywords = {keyword.name for keyword in keywords if keyword.owner == "poi"}
    rows = []
    for rank, place in enumerate(answer.items[:SHOWN], 1):
        reasons = influences = text_influences(place)
        moved = None
        if place.poi_id in pinned_places:
            pinned_rank, pinned_place = pinned_places[place.poi_id]
            moved = pinned_rank - rank
            before = {each.keyword: each.percent for each in text_influences(pinned_place)}
            reasons = [
                each._replace(percent=each.percent - before.get(each.keyword, 0.0))
                for each in influences
            ]
        elif pinned is None:
            reasons = [each for each in influences if each.keyword not in place_keywords]
        reason = max(reasons, key=lambda each: abs(each.percent), default=None)
        if reason and abs(reason.percent) < MIN_PERCENT:
            reason = None
        rows.append(Row(rank, place, *form.describe(place.poi_id), moved, influences, reason))
    return rows


def text_influences(place: RankedPlace) -> list[Influence]:
    """Returns the influence of each text on the score of a place, the largest increase first."""
    influences = [
        Influence(text.keyword, text.text, 100 * text.adds / ((place.score - text.adds) or 1.0))
        for text in place.texts
    ]
    return sorted(influences, key=lambda each: -each.percent)


def _form_value(value: Any) -> str:
    """Returns a value of the log as text for the form."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
