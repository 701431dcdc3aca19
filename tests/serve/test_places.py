"""Places added after training: stored, embedded, ranked, available after a restart."""

from __future__ import annotations

import json
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from starlette.testclient import TestClient

from larr import artifacts
from larr.config import Config
from larr.config.rankers import BEST
from larr.errors import InputError
from larr.serve.app import Service
from larr.serve.embedder import Embedder
from larr.serve.live import Live
from larr.serve.places import COMPUTED, Journal, to_known_row
from larr.serve.ranker import ServedRanker
from larr.serve.request import RankRequest, decode
from larr.serve.store import VECTORS, Store
from larr_lab.page.page import Page
from tests.serving import Published

PLACE = {
    "poi_id": "brand new",
    "name": "New Moon Hotpot",
    "city": "Chengdu",
    "lat": 30.66,
    "lon": 104.06,
    "category": "hotpot",
    "menu": "Beef tripe hotpot, Sour plum drink",
    "price_yuan": 60,
    "opened": "2024-04-08T09:00:00",
}


def embed(_: object, texts: list[tuple[str, str]]) -> np.ndarray:
    """Returns a vector that depends only on the text."""
    seeds = [zlib.crc32(f"{keyword} {text}".encode()) for keyword, text in texts]
    rows = [np.random.default_rng(seed).normal(size=128) for seed in seeds]
    return np.array(rows, dtype=np.float32)


@pytest.fixture
def live(store: Store, monkeypatch: pytest.MonkeyPatch) -> Live:
    monkeypatch.setattr(Embedder, "compute", embed)
    return Live(store)


def add(live: Live, **changes: Any) -> None:
    live.accept(PLACE | changes)
    live.refresh()


def ranked(live: Live, asked: dict[str, Any], **changes: Any) -> dict[str, Any]:
    candidates = [*asked["candidates"], {"poi_id": PLACE["poi_id"]}]
    body = json.dumps(asked | {"candidates": candidates, "k": 50} | changes)
    answer = live.rank(decode(body.encode(), RankRequest))
    return {item.poi_id: item for item in answer.items}


def test_a_place_is_ranked_with_its_texts_once_embedded(live: Live, asked: dict[str, Any]) -> None:
    before = ranked(live, asked)
    assert before[PLACE["poi_id"]].degraded == ["new_place"]
    add(live)
    after = ranked(live, asked)
    assert after[PLACE["poi_id"]].degraded == []
    assert after[PLACE["poi_id"]].score != before[PLACE["poi_id"]].score
    for poi_id in set(after) - {PLACE["poi_id"]}:
        assert after[poi_id].score == pytest.approx(before[poi_id].score, rel=1e-6)
    if live.opened[0].version.ranker.reads_texts:
        texts = ranked(live, asked, explain=True)[PLACE["poi_id"]].texts
        assert "New Moon Hotpot" in [effect.text for effect in texts]


def test_places_with_equal_texts_share_vectors(live: Live, served: Config) -> None:
    ranker = live.opened[0].version.ranker
    if not ranker.reads_texts:
        pytest.skip("it reads no texts")
    number = {text: n for n, text in enumerate(ranker.reader.texts.table()["text"])}
    raw_VD = np.load(artifacts.folder(served, "embed") / "encoder" / "vectors.npy")
    known = ranker.reader.snapshot.places
    row = known.drop(COMPUTED, strict=False).row(5, named=True)
    copy = {name.removeprefix("poi_"): value for name, value in row.items() if name != "poi_id"}
    added = to_known_row(copy | {"poi_id": "copy"}, known)
    embedders = {"encoder": lambda texts: raw_VD[[number.get(text, 0) for _, text in texts]]}
    ranker.add_places(added, embedders)
    place = np.array([ranker.reader.place_rows[poi_id] for poi_id in ("copy", row["poi_id"])])
    same = [
        column
        for column, slot in enumerate(ranker.reader.place_slots)
        if ranker.reader.features.scene_keywords[slot] in ("poi_name", "poi_menu")
    ]
    assert same
    folded = ranker.members[0].served
    columns = folded.place_table.take(place)
    assert np.allclose(*columns["place_vectors"][:, same])
    assert np.isfinite(columns["place_products"]).all()


def test_new_texts_have_the_vectors_of_their_source(published: Published) -> None:
    if published.run.align.models != [BEST]:
        pytest.skip("it reads nothing of letters")
    store, data = published.store, artifacts.folder(published.run, "prepare")
    embedder = store.load(store.arms()[0].version).embedders["letters"]
    texts = pl.read_parquet(data / "texts.parquet").sample(20, seed=0)
    stored_VD = np.load(artifacts.folder(published.run, "embed") / "letters" / "vectors.npy")
    vectors_ND = embedder(texts.select("keyword", "text").rows())
    np.testing.assert_allclose(vectors_ND, stored_VD[texts["text_id"].to_numpy()], atol=1e-5)


def test_the_latest_columns_of_a_place_apply(live: Live, asked: dict[str, Any]) -> None:
    add(live)
    first = ranked(live, asked)[PLACE["poi_id"]].score
    rows = len(live.opened[0].version.ranker.places)
    live.accept(PLACE | {"price_yuan": 900, "category": "western"})
    assert live.status(PLACE["poi_id"]) == "accepted", "the latest columns are not embedded yet"
    live.refresh()
    assert live.status(PLACE["poi_id"]) == "embedded"
    assert len(live.opened[0].version.ranker.places) == rows, "it takes its row again"
    assert ranked(live, asked)[PLACE["poi_id"]].score != first
    add(live)
    assert ranked(live, asked)[PLACE["poi_id"]].score == first


def around(live: Live, asked: dict[str, Any]) -> list[str]:
    near = {"lat": PLACE["lat"], "lon": PLACE["lon"], "within_km": 0.1}
    body = {name: value for name, value in asked.items() if name != "candidates"} | {"near": near}
    answer = live.rank(decode(json.dumps(body).encode(), RankRequest))
    return [item.poi_id for item in answer.items]


def test_a_withdrawn_place_does_not_return(live: Live, asked: dict[str, Any]) -> None:
    other = "another"
    live.accept(PLACE)
    live.accept(PLACE | {"poi_id": other})
    live.refresh()
    score, rows = ranked(live, asked)[PLACE["poi_id"]].score, len(live.opened[0].version.nearby.ids)
    assert live.withdraw(PLACE["poi_id"])
    live.refresh()
    assert live.status(PLACE["poi_id"]) is None
    assert around(live, asked) == [other]
    assert len(live.opened[0].version.nearby.ids) == rows - 1
    assert ranked(live, asked)[PLACE["poi_id"]].degraded == ["new_place"]
    again = Live(live.store)
    again.refresh()
    assert around(again, asked) == [other]
    assert not live.withdraw(PLACE["poi_id"])
    with pytest.raises(InputError, match="known from training and cannot be withdrawn"):
        live.withdraw(next(iter(live.opened[0].version.trained)))
    add(live)
    assert ranked(live, asked)[PLACE["poi_id"]].score == score
    assert set(around(live, asked)) == {PLACE["poi_id"], other}


def test_a_restart_embeds_nothing_again(
    live: Live, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(live)
    expected = ranked(live, asked)[PLACE["poi_id"]].score

    def failing(*_: object) -> None:
        raise AssertionError("embedded again")

    monkeypatch.setattr(Embedder, "compute", failing)
    live.accept(PLACE | {"poi_id": "unembedded", "menu": "Noodles"})
    again = Live(live.store)
    assert ranked(again, asked)[PLACE["poi_id"]].score == expected, "from its first request on"
    assert set(around(again, asked)) == {PLACE["poi_id"], "unembedded"}
    assert again.status(PLACE["poi_id"]) == "embedded"


def test_without_stored_vectors_texts_are_embedded_again(
    live: Live, asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (live.store.folder / VECTORS).write_text("no file of SQLite, and long enough to be seen as one")
    add(live)
    assert live.status(PLACE["poi_id"]) == "embedded"
    if live.opened[0].version.ranker.reads_texts:
        assert "cannot cache vectors" in " ".join(capsys.readouterr().err.split())


def test_stored_texts_are_not_embedded_again(live: Live) -> None:
    add(live)
    texts = live.opened[0].version.ranker.reader.texts
    before = texts.table()
    add(live, lat=30.5, poi_id="a branch")
    assert live.status("a branch") == "embedded"
    assert texts.table().equals(before)
    assert not before.select("keyword", "text").is_duplicated().any()


def test_a_place_is_found_nearby_and_after_a_restart(live: Live, asked: dict[str, Any]) -> None:
    other = Live(live.store)
    live.accept(PLACE)
    assert live.status(PLACE["poi_id"]) == other.status(PLACE["poi_id"]) == "accepted"
    assert around(live, asked) == [PLACE["poi_id"]], "before its texts are embedded"
    live.accept(PLACE | {"lat": 0})
    assert not around(live, asked)
    live.accept(PLACE)
    assert live.withdraw(PLACE["poi_id"])
    assert not around(live, asked)
    live.accept(PLACE)
    again = Live(live.store)
    assert around(again, asked) == [PLACE["poi_id"]]
    again.refresh()
    assert again.status(PLACE["poi_id"]) == "embedded"
    assert PLACE["poi_id"] in around(again, asked)
    assert again.status("unknown") is None


def test_a_new_version_has_the_place_from_the_start(live: Live, second: str) -> None:
    add(live)
    live.store.activate(second)
    live.refresh()
    assert live.opened[0].version.id == second
    assert live.status(PLACE["poi_id"]) == "embedded"


def test_the_page_has_it_in_an_unserved_version(live: Live, second: str) -> None:
    page = Page(live, secured=False)
    assert page.form(second).describe(PLACE["poi_id"]) == (PLACE["poi_id"], "")
    add(live)
    name = (PLACE["name"], "hotpot · Chengdu")
    for version in (second, live.opened[0].arm.version):
        assert page.form(version).describe(PLACE["poi_id"]) == name
    live.store.activate(second)
    live.refresh()
    assert page.form(second).version is live.opened[0].version


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "unknown column 'colour'"),
        ({"catgory": "hotpot"}, "unknown column 'catgory' of a place; did you mean category"),
        ({"menu": {"soup": "sour"}}, "column menu of a place: .* got {'soup': 'sour'}"),
        ({"name": None}, "rejected: name"),
        ({"lat": 91}, "lat 91 is above its range"),
        ({"price_yuan": "dear"}, "price_yuan 'dear' is not a number"),
        ({"rating": [1.5]}, r"column rating of a place: expected a single value, .* got \[1.5\]"),
        ({"opened": {"day": 1}}, "column opened of a place"),
        ({"poi_id": ""}, "poi_id is missing"),
        ({"log_orders": 7}, "unknown column 'log_orders'"),
    ],
)
def test_invalid_places_are_refused(live: Live, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        live.accept(PLACE | change)
    assert not live.journal.path.exists()


def test_a_place_without_id_or_name_or_with_a_known_id_is_refused(live: Live) -> None:
    with pytest.raises(InputError, match="a place needs these columns: name"):
        live.accept({"poi_id": "x"})
    with pytest.raises(InputError, match="poi_id must be a text"):
        live.accept(PLACE | {"poi_id": 5.5})
    trained = next(iter(live.opened[0].version.trained))
    with pytest.raises(InputError, match="known from training"):
        live.accept(PLACE | {"poi_id": trained})


def test_values_have_the_types_of_the_log() -> None:
    known = pl.DataFrame(schema=dict.fromkeys(("poi_id", "poi_name", "poi_tags"), pl.String))
    row = to_known_row({"poi_id": "x", "name": 5.0, "tags": ["a", "b, c"]}, known)
    assert row.rows() == [("x", "5", "a, b; c")]
    assert to_known_row({"poi_id": "x", "name": "X", "tags": []}, known).rows() == [
        ("x", "X", None)
    ]
    known = known.with_columns(poi_stars=pl.lit(None, pl.Float64))
    assert to_known_row({"poi_id": "x", "name": "X", "stars": "4"}, known)["poi_stars"].item() == 4
    with pytest.raises(InputError, match="stars 'very good' is not a number"):
        to_known_row({"poi_id": "x", "name": "X", "stars": "very good"}, known)
    assert to_known_row({"poi_id": "NA", "name": "NULL"}, known.drop("poi_stars")).rows() == [
        ("NA", "NULL")
    ]


def test_a_failing_place_does_not_block_others(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later places are added and versions change after a failure for any reason."""
    original = ServedRanker.add_places

    def failing(scorer: ServedRanker, places: pl.DataFrame, embed: Any) -> None:
        if "bad" in places["poi_id"]:
            raise ValueError("unforeseen")
        original(scorer, places, embed)

    monkeypatch.setattr(ServedRanker, "add_places", failing)
    for name in ("one", "bad", "two"):
        live.accept(PLACE | {"poi_id": name})
    live.refresh()
    assert live.refused is None
    assert [live.status(name) for name in ("one", "bad", "two")] == [
        "embedded",
        "accepted",
        "embedded",
    ]


def test_a_place_is_retried_after_a_machine_failure(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise OSError("too many open files")

    live.accept(PLACE)
    with monkeypatch.context() as patched:
        patched.setattr(ServedRanker, "add_places", failing)
        live.refresh()
    assert "too many open files" in str(live.refused)
    live.refresh()
    assert (live.refused, live.status(PLACE["poi_id"])) == (None, "embedded")


def test_invalid_lines_are_skipped(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "places.jsonl")
    journal.append({"poi_id": "one"})
    with journal.path.open("ab") as file:
        file.write(b'{"poi_id": "bad",},\n\n{"name": "no id"}\n{"withdrawn": 3}\n')
    journal.append({"poi_id": "two"})
    assert journal.read_new() == [{"poi_id": "one"}, {"poi_id": "two"}]
    journal.path.unlink()
    journal.append({"poi_id": "three"})
    assert journal.read_new() == [{"poi_id": "three"}], "read from its start when it is shorter"


def test_an_incomplete_line_is_removed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "places.jsonl")
    journal.append({"poi_id": "one"})
    with journal.path.open("ab") as file:
        file.write(b'{"poi_id": "ha')
    assert journal.read_new() == [{"poi_id": "one"}]
    assert journal.read_new() == []
    journal.append({"poi_id": "two"})
    assert journal.read_new() == [{"poi_id": "two"}]
    assert [json.loads(line) for line in journal.path.read_text().splitlines()] == [
        {"poi_id": "one"},
        {"poi_id": "two"},
    ]


def test_several_processes_lose_no_places(tmp_path: Path) -> None:
    path = tmp_path / "places.jsonl"

    def write(writer: int) -> None:
        for number in range(40):
            Journal(path).append({"poi_id": f"{writer}-{number}"})

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({row["poi_id"] for row in Journal(path).read_new()}) == 160


def test_places_are_added_and_withdrawn_over_http(
    live: Live, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("larr.serve.app.REFRESH_SECONDS", 0.01)
    with TestClient(Service(live).app()) as client:
        assert client.post("/v1/places", json={"poi_id": "x"}).status_code == 422
        listed = PLACE | {"menu": PLACE["menu"].split(", ")}
        assert client.post("/v1/places", json=listed).json()["status"] == "accepted"
        while client.get(f"/v1/places/{PLACE['poi_id']}").json()["status"] != "embedded":
            pass
        assert client.get("/v1/places/unknown").status_code == 404
        assert client.delete("/v1/places/unknown").status_code == 404
        candidates = [*asked["candidates"], {"poi_id": PLACE["poi_id"]}]
        answer = client.post("/v1/rank", json=asked | {"candidates": candidates, "k": 50}).json()
        assert all("degraded" not in item for item in answer["items"])
        gone = client.delete(f"/v1/places/{PLACE['poi_id']}").json()
        assert gone == {"poi_id": PLACE["poi_id"], "status": "withdrawn"}
        assert client.get(f"/v1/places/{PLACE['poi_id']}").status_code == 404


def test_the_service_continues_after_any_failure(
    live: Live, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    def broken(_: Store) -> None:
        raise ValueError("a setting from the future")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "arms", broken)
        live.refresh()
    assert "from the future" in str(live.refused)
    live.refresh()
    assert live.refused is None
    assert ranked(live, asked)


def test_a_place_that_a_version_cannot_read_is_skipped(live: Live, asked: dict[str, Any]) -> None:
    live.journal.append(PLACE | {"poi_id": "strange", "stars": 5, "lat": ["north"]})
    add(live)
    assert live.refused is None
    assert (live.status("strange"), live.status(PLACE["poi_id"])) == ("accepted", "embedded")
