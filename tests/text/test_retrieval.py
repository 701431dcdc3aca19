"""recall@10 by hand, and that a perfect and a blind encoder get what they deserve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from larr.text.backbone import load_base
from larr.text.encoder import as_encoder
from larr.text.pairs import held_out
from larr.text.retrieval import Task, hits, nearby, recalls, similarities, tasks
from tests.fake_data import make_data
from tests.tiny_models import make_model


def test_hits_by_hand() -> None:
    scores_QC = np.tile(np.arange(20.0), (4, 1))
    # ranks 0, 9, 10, 19
    assert hits(scores_QC, np.array([19, 10, 9, 0])) == 0.5


def test_equal_scores_count_half() -> None:
    assert hits(np.zeros((1, 20)), np.array([3])) == 1.0
    assert hits(np.zeros((1, 21)), np.array([3])) == 0.0


def test_tasks_ask_what_they_say(tmp_path: Path) -> None:
    config = make_data(tmp_path, orders=400)
    whole, halves, *single = tasks(config, held_out(config))
    assert whole.name == "user_to_place"
    assert whole.queries[0][0][0] == "user_base"
    for query, answer in zip(whole.queries, whole.answers, strict=True):
        city = query[0][1].removeprefix("lives in ")
        assert city in whole.candidates[answer][0][1], "who lives in a city orders there"
    assert {part[0] for part in halves.queries[0]} == {"poi_name", "poi_menu"}
    assert {part[0] for part in halves.candidates[0]} == {"poi_tags"}
    assert [task.name for task in single] == [
        "user_base to place",
        "user_taste to place",
        "scene_time to place",
        "poi_name to P_b",
        "poi_menu to P_b",
        "poi_tags to P_d",
    ]
    assert all(len(query) == 1 for task in single for query in task.queries)


def test_equal_candidates_are_one(tmp_path: Path) -> None:
    config = make_data(tmp_path)
    halves = tasks(config, held_out(config))[1]
    texts = [tuple(candidate) for candidate in halves.candidates]
    assert len(set(texts)) == len(texts)


def test_text_finds_itself(tmp_path: Path) -> None:
    config = make_data(tmp_path, backbone={"model": str(make_model(tmp_path / "m", "qwen2"))})
    encoder = as_encoder(load_base(config), None)
    texts = [[("poi_menu", f"dish {number}")] for number in range(40)]
    same = Task("same", texts, texts, list(range(40)))
    empty = Task("none", [], texts, [])
    found, nothing = similarities(encoder, [same, empty], batch_tokens=100)
    assert hits(found, np.array(same.answers)) == 1.0
    assert nothing.shape == (0, 40)


def test_nearby_by_hand() -> None:
    scores_QC = np.array([[0.5, 0.2, 0.9, 0.5], [0.1, 0.2, 0.3, 0.4], [0.1, 0.9, 0.0, 0.0]])
    asked = Task("t", [[]] * 3, [[]] * 4, answers=[0, 3, 1], near=[7, 8, 7, 7])
    # the first beats half of two (one better, one equal), the second both; the third is alone
    found = nearby(asked, scores_QC)
    assert found == {"chance_nearby": 1.0, "beats_nearby": 0.625}
    many = Task("t", [[]], [[]] * 40, answers=[0], near=[1] * 40)
    assert nearby(many, np.zeros((1, 40))) == {"chance_nearby": 0.25, "beats_nearby": 0.5}
    assert nearby(Task("t", [], [[]], [], near=[1]), np.zeros((0, 1))) == {}
    assert nearby(Task("t", [[]], [[]], [0], near=[1]), np.zeros((1, 1))) == {}


def test_who_knows_the_city_is_measured_by_its_places(tmp_path: Path) -> None:
    near = {"near": "poi_city", "triples": 32, "batch_size": 8, "held_out": 0.3}
    config = make_data(tmp_path, contrast=near)
    whole = tasks(config, held_out(config))[0]
    cities = [candidate[0][1].split()[-1] for candidate in whole.candidates]
    assert len(whole.near) == len(whole.candidates)
    assert len(set(zip(whole.near, cities, strict=True))) == len(set(whole.near)) > 1


def test_figures_have_the_chance_beside_them(tmp_path: Path) -> None:
    config = make_data(tmp_path, backbone={"model": str(make_model(tmp_path / "m", "gpt2"))})
    found = recalls(config, held_out(config), as_encoder(load_base(config), None))
    assert set(found) == {
        "user_to_place",
        "place_halves",
        "single_keyword",
        "single_place_keyword",
        "single_keywords",
        "chance",
    }
    assert 0 < found["chance"] <= 1
    by_users = [v for k, v in found["single_keywords"].items() if k.endswith(" to place")]
    assert found["single_keyword"] == pytest.approx(np.mean(by_users), abs=1e-4)
