"""Ranking requests: responses, unknown values, invalid values."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from msgspec.json import encode

from larr.data.values import joined, plain
from larr.errors import InputError
from larr.serve.request import RankRequest, candidate_columns, decode, local_time
from larr.serve.version import ServedVersion


def rank(version: ServedVersion, body: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        encode(version.rank(decode(json.dumps(body).encode(), RankRequest)))
    )
    return answer


def test_candidates_are_ranked_by_score(version: ServedVersion, asked: dict[str, Any]) -> None:
    answer = rank(version, asked | {"k": 3})
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 3
    assert answer["version"] == version.id
    first = answer["items"][0]
    assert first["score"] == pytest.approx(np.prod(list(first["probabilities"].values())), rel=1e-6)
    assert "degraded" not in first


def test_unknown_users_and_places_are_ranked_and_reported(
    version: ServedVersion, asked: dict[str, Any]
) -> None:
    candidates = [*asked["candidates"], {"poi_id": "brand new"}]
    answer = rank(version, asked | {"user_id": "unknown", "candidates": candidates, "k": 100})
    assert "unknown_user" in answer["degraded"]
    new = [item for item in answer["items"] if item["poi_id"] == "brand new"]
    assert new[0]["degraded"] == ["new_place"]


def test_a_text_without_a_vector_is_reported(version: ServedVersion, asked: dict[str, Any]) -> None:
    scene = asked["scene"] | {"weather": "raining frogs"}
    assert "missing_text:scene_weather" in rank(version, asked | {"scene": scene})["degraded"]


def test_missing_columns_of_a_scene_are_reported(
    version: ServedVersion, asked: dict[str, Any]
) -> None:
    assert rank(version, asked)["degraded"] == []
    scene = {name: value for name, value in asked["scene"].items() if name != "weather"}
    assert "missing:weather" in rank(version, asked | {"scene": scene})["degraded"]
    scene["weather"] = "raining frogs"
    assert "unknown_value:weather" in rank(version, asked | {"scene": scene})["degraded"]


def test_candidates_are_scored_without_a_position(
    version: ServedVersion, asked: dict[str, Any]
) -> None:
    without = [{"poi_id": row["poi_id"]} for row in asked["candidates"]]
    answer = rank(version, asked | {"candidates": without})
    assert "missing:delivery_minutes" in answer["degraded"]
    assert "missing:position" not in answer["degraded"]
    for first in (1, 1.0):
        same = [row | {"position": first} for row in without]
        assert rank(version, asked | {"candidates": same})["items"] == answer["items"], first
    strange = [row | {"position": "top"} for row in without]
    degraded = rank(version, asked | {"candidates": strange})["degraded"]
    assert "unknown_value:position" in degraded


def test_ids_can_be_numbers(version: ServedVersion, asked: dict[str, Any]) -> None:
    candidates = [{"poi_id": 7}, {"poi_id": 12}]
    answer = rank(version, asked | {"user_id": 3, "candidates": candidates})
    assert sorted(item["poi_id"] for item in answer["items"]) == ["12", "7"]
    texts = [{"poi_id": "7"}, {"poi_id": "12"}]
    assert answer["items"] == rank(version, asked | {"user_id": "3", "candidates": texts})["items"]


@pytest.mark.parametrize("values", [["a, b", "c"], [1, 20, None], [True, False], ["a"]])
def test_lists_are_read_as_in_tables(values: list[Any]) -> None:
    table = plain(pl.LazyFrame({"tags": [values]}), "places").collect()
    assert joined(values) == table["tags"].item()


def test_columns_can_be_lists(version: ServedVersion, asked: dict[str, Any]) -> None:
    expected = rank(version, asked)
    scene = {
        name: [value] if type(value) is str else value for name, value in asked["scene"].items()
    }
    candidates = [row | {"position": [row["position"]]} for row in asked["candidates"]]
    answer = rank(version, asked | {"scene": scene, "candidates": candidates})
    assert (answer["items"], answer["degraded"]) == (expected["items"], [])


def test_positions_are_accepted_where_no_ranker_reads_them() -> None:
    rows = [{"poi_id": "a", "position": 2}, {"poi_id": "b", "position": 1}]
    assert candidate_columns(rows, {"poi_id": (str,)})["position"] == [2, 1]
    with pytest.raises(InputError, match="positions start at 1"):
        candidate_columns([{"poi_id": "a", "position": 0}], {"poi_id": (str,)})


def test_missing_columns_of_a_candidate_are_reported(
    version: ServedVersion, asked: dict[str, Any]
) -> None:
    first, *others = asked["candidates"]
    less = {name: value for name, value in first.items() if name != "delivery_minutes"}
    answer = rank(version, asked | {"candidates": [less, *others]})
    assert answer["degraded"] == ["missing:delivery_minutes"]


def test_places_nearby_are_ranked(version: ServedVersion, asked: dict[str, Any]) -> None:
    row = version.known_places.row(5, named=True)
    near = {"lat": row["poi_lat"], "lon": row["poi_lon"], "within_km": 30, "at_most": 7}
    body = {name: value for name, value in asked.items() if name != "candidates"}
    answer = rank(version, body | {"near": near})
    assert row["poi_id"] in [item["poi_id"] for item in answer["items"]]
    assert len(answer["items"]) <= 7
    nowhere = near | {"lat": -80.0}
    answer = rank(version, body | {"near": nowhere})
    assert (answer["items"], answer["degraded"]) == ([], ["nothing_near"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_id": 5.5}, "user_id"),
        ({"user_id": ""}, "length"),
        ({"k": 0}, "k"),
        ({"surprise": 1}, "surprise"),
        ({"candidates": None}, "send `candidates`, or `near` .* got none"),
        ({"near": {"lat": 1, "lon": 1}}, "either `candidates` or `near`, not both"),
        ({"candidates": [{"poi_id": "a"}, {"poi_id": "a"}]}, "twice"),
        ({"candidates": [{"poi": "a"}]}, "poi_id must be a text"),
        ({"candidates": [{"poi_id": "a", "distance_km": "far"}]}, "expected a number, got"),
        ({"candidates": [{"poi_id": "a", "distance_km": True}]}, "got True"),
        ({"candidates": [{"poi_id": "a", "weather": "sunny"}]}, "unknown column 'weather'"),
        ({"scene": {"temperature_c": "warm"}}, "scene.temperature_c: expected"),
        ({"scene": {"mood": "good"}}, "unknown column 'mood'"),
        ({"scene": {"wether": "rain"}}, "unknown column 'wether'; did you mean weather"),
        ({"scene": {"weather": {"sky": "grey"}}}, "scene.weather: expected a text .* got {'sky'"),
        ({"scene": {"weather": [1.5]}}, r"scene.weather: expected a text .* got \[1.5\]"),
        ({"candidates": [{"poi_id": ["a"]}]}, "poi_id must be a text"),
        ({"candidates": [{"poi_id": "a", "distance_km": [1]}]}, r"candidates\[0\].distance_km"),
        ({"candidates": [{"poi_id": "a", "position": 0}]}, "positions start at 1"),
        ({"time": "yesterday"}, "such as 2024-04-08T12:10:00"),
        ({"time": "2024-04-08T04:10:00Z"}, "does not know the time zone"),
        ({"time": True}, "time"),
    ],
)
def test_invalid_values_are_named(
    version: ServedVersion, asked: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        rank(version, asked | change)


SHANGHAI = "Asia/Shanghai"
SECONDS = 1_712_549_400
"""Of 2024-04-08, 12:10 in Shanghai."""


@pytest.mark.parametrize("zone", ["", SHANGHAI])
@pytest.mark.parametrize("separator", "T ")
@pytest.mark.parametrize("seconds", ["", ":00", ":00.000"])
def test_a_time_without_seconds_is_valid(zone: str, separator: str, seconds: str) -> None:
    time = f"2024-04-08{separator}12:10{seconds}"
    assert local_time(time, zone) == datetime(2024, 4, 8, 12, 10)


@pytest.mark.parametrize(
    "instant",
    [
        *("2024-04-08T04:10Z", "2024-04-08 04:10:00+00:00", "2024-04-08T01:10:00-0300"),
        *(SECONDS, float(SECONDS), SECONDS * 1_000, SECONDS * 10**6, SECONDS * 10**9),
    ],
)
def test_an_instant_is_converted_if_the_zone_is_known(instant: str | float) -> None:
    assert local_time(instant, SHANGHAI) == datetime(2024, 4, 8, 12, 10)
    with pytest.raises(InputError, match=r"does not know the time zone .*dataset\.tables"):
        local_time(instant, "")


@pytest.mark.parametrize("zone", ["", SHANGHAI])
@pytest.mark.parametrize(
    "time",
    [
        *("2024-04-08", "12:10", "20240408", "1712549400", "1711123100000", "2024-13-08T12:10"),
        *("08/04/2024 12:10", "2024-04-08T25:10", "0001-01-01T00:00Z", "0202-04-08T12:10", ""),
        *("2024-04-08T12:10:00 Shanghai", 0, 1210, -SECONDS, 1e300, float("inf"), 10**400),
    ],
)
def test_an_ambiguous_or_invalid_time_is_refused(zone: str, time: str | float) -> None:
    with pytest.raises(InputError, match=r"got .* expected .* such as 2024-04-08T12:10:00") as why:
        local_time(time, zone)
    assert repr(time)[:80] in str(why.value)


def test_the_default_time_is_the_local_time_of_the_places(
    version: ServedVersion, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for hours, zone in ((8, SHANGHAI), (-10, "Pacific/Honolulu")):
        passed = local_time(None, zone) - datetime.now(UTC).replace(tzinfo=None)
        assert abs(passed - timedelta(hours=hours)) < timedelta(minutes=1)
    without = {name: value for name, value in asked.items() if name != "time"}
    assert rank(version, without)["degraded"][0] == "missing:time"
    monkeypatch.setattr(version, "time_zone", SHANGHAI)
    monkeypatch.setattr(version, "needs_time", False)
    now = local_time(None, SHANGHAI).isoformat()
    answer = rank(version, without)
    assert "missing:time" not in answer["degraded"]
    assert answer["items"] == rank(version, asked | {"time": now})["items"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"user_id": NaN}', b"\xff", b'{"user_id": "\\ud800"}', b"[" * 100_000],
)
def test_bodies_that_are_not_json_are_refused(body: bytes) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        decode(body, RankRequest)


def test_the_places_of_the_answer_are_explained(
    version: ServedVersion, asked: dict[str, Any]
) -> None:
    if not version.ranker.reads_texts:
        with pytest.raises(InputError, match="reads no texts"):
            rank(version, asked | {"explain": True})
        return
    answer = rank(version, asked | {"explain": True, "k": 2})
    for item in answer["items"]:
        names = [one["keyword"] for one in item["texts"]]
        assert {"scene_weather", "poi_menu"} <= set(names)
        assert len(names) == len(set(names))
    with pytest.raises(InputError, match="at most 50 places"):
        rank(version, asked | {"explain": True, "k": 51})
    assert "texts" not in rank(version, asked)["items"][0]


@pytest.mark.parametrize("number", ["1" * 400, "-" + "9" * 400])
def test_huge_numbers_are_refused(
    version: ServedVersion, asked: dict[str, Any], number: str
) -> None:
    body = json.dumps(asked | {"scene": asked["scene"] | {"temperature_c": "NUMBER"}})
    with pytest.raises(InputError, match="out of range"):
        version.rank(decode(body.replace('"NUMBER"', number).encode(), RankRequest))
