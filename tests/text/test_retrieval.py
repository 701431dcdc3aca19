"""recall@10 by hand, ties, and the tasks of retrieval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from larr.config import Config
from larr.text.backbone import LanguageModel
from larr.text.encoder import as_encoder
from larr.text.pairs import held_out
from larr.text.retrieval import Task, hits, nearby, recalls, similarities, tasks
from tests.fake_data import make_data


def test_hits_by_hand() -> None:
    scores_QC = np.tile(np.arange(20.0), (4, 1))
    # ranks 0, 9, 10, 19
    assert hits(scores_QC, np.array([19, 10, 9, 0])) == 0.5


def test_equal_scores_count_half() -> None:
    assert hits(np.zeros((1, 20)), np.array([3])) == 1.0
    assert hits(np.zeros((1, 21)), np.array([3])) == 0.0


def test_tasks_retrieve_the_other_side(tmp_path: Path) -> None:
    config = make_data(tmp_path, orders=400)
    user_to_place, halves, *single = tasks(config, held_out(config))
    assert user_to_place.name == "user_to_place"
    assert user_to_place.queries[0][0][0] == "user_base"
    for query, answer in zip(user_to_place.queries, user_to_place.answers, strict=True):
        city = query[0][1].removeprefix("lives in ")
        assert city in user_to_place.candidates[answer][0][1], "users order in their own city"
    assert {part[0] for part in halves.queries[0]} == {"poi_name", "poi_menu"}
    assert {part[0] for part in halves.candidates[0]} == {"poi_tags"}
    assert [task.name for task in single] == [
        "user_base to place",
        "user_taste to place",
        "scene_time to place",
        "poi_name to basic texts",
        "poi_menu to basic texts",
        "poi_tags to business texts",
    ]
    assert all(len(query) == 1 for task in single for query in task.queries)


def test_equal_candidates_count_once(prepared: Config) -> None:
    halves = tasks(prepared, held_out(prepared))[1]
    texts = [tuple(candidate) for candidate in halves.candidates]
    assert len(set(texts)) == len(texts)


def test_a_text_retrieves_itself(lm: LanguageModel) -> None:
    encoder = as_encoder(lm, None)
    texts = [(("poi_menu", f"dish {number}"),) for number in range(40)]
    same = Task("same", texts, texts, list(range(40)))
    empty = Task("none", [], texts, [])
    scores, nothing = similarities(encoder, [same, empty], batch_tokens=100)
    assert hits(scores, np.array(same.answers)) == 1.0
    assert nothing.shape == (0, 40)


def test_nearby_by_hand() -> None:
    scores_QC = np.array([[0.5, 0.2, 0.9, 0.5], [0.1, 0.2, 0.3, 0.4], [0.1, 0.9, 0.0, 0.0]])
    task = Task("t", [[]] * 3, [[]] * 4, answers=[0, 3, 1], near=[7, 8, 7, 7])
    # the first loses to one candidate and ties with one, the second beats both; the third is alone
    assert nearby(task, scores_QC) == {"chance_nearby": 1.0, "beats_nearby": 0.625}
    many = Task("t", [[]], [[]] * 40, answers=[0], near=[1] * 40)
    assert nearby(many, np.zeros((1, 40))) == {"chance_nearby": 0.25, "beats_nearby": 0.5}
    assert nearby(Task("t", [], [[]], [], near=[1]), np.zeros((0, 1))) == {}
    assert nearby(Task("t", [[]], [[]], [0], near=[1]), np.zeros((1, 1))) == {}


def test_candidates_are_grouped_by_city(prepared: Config) -> None:
    contrast = prepared.contrast.model_copy(update={"near": "poi_city"})
    config = prepared.model_copy(update={"contrast": contrast})
    task = tasks(config, held_out(config))[0]
    cities = [candidate[0][1].split()[-1] for candidate in task.candidates]
    assert len(task.near) == len(task.candidates)
    assert len(set(zip(task.near, cities, strict=True))) == len(set(task.near)) > 1


def test_figures_include_the_chance_level(prepared: Config, lm: LanguageModel) -> None:
    found = recalls(prepared, held_out(prepared), as_encoder(lm, None))
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
