"""Evaluation of stage 2 on held-out orders, and the choice of the best weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import TrainerControl, TrainerState, TrainingArguments

from larr.config import Config
from larr.text import ranking_evaluator
from larr.text.backbone import LanguageModel
from larr.text.encoder import as_encoder
from larr.text.pairs import held_out
from larr.text.ranking_evaluator import Checks, RankingEvaluator
from tests.fake_data import make_data


def test_auc_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.array([[1, 0], [-1, 0], [1, 1], [-1, 1], [0, -2]], dtype=np.float32)
    monkeypatch.setattr(ranking_evaluator, "compute", lambda *_, **__: vectors)
    # query 0 ranks the candidates 0, 2, 1; query 1 ranks them 1, 2, 0
    known = np.array([[0, 0, 0, 1], [0, 0, 0, 2], [1, 1, 2, 1], [1, 1, 0, 1]])
    new = np.array([[0, 0, 2, 0], [2, 1, 2, 2]])
    texts = [(("keyword", str(number)),) for number in range(3)]
    evaluator = RankingEvaluator(texts[:2], texts, [known, new])
    # known: the first order wins both pairs, the second none; new: one pair loses, one is a tie
    assert evaluator.auc(SentenceTransformer(modules=[torch.nn.Identity()]), 100) == 0.375


def test_the_noise_falls_with_the_number_of_orders() -> None:
    part = np.array([[order, 0, 0, 1] for order in range(100)] * 2)
    assert RankingEvaluator([], [], [part[:100], part]).noise == pytest.approx(2 * 0.5 / 10)


def names_of(evaluator: RankingEvaluator, numbers: np.ndarray) -> set[str]:
    return {dict(evaluator.candidates[number])["poi_name"] for number in numbers.ravel()}


def test_orders_are_held_back_and_new_places_evaluated_separately(tmp_path: Path) -> None:
    config = make_data(tmp_path, orders=1_200)
    holdout = held_out(config)
    evaluator = RankingEvaluator.of(config, holdout)
    orders = pl.read_parquet(config.output / "prepare" / "orders.parquet")
    last = orders.filter(pl.col("log_row") >= 600)
    assert sorted(holdout.rows) == list(range(600, 1_200)), "the last three of six days"
    shown = pl.read_parquet(config.output / "prepare" / "not_taken.parquet")
    beside = shown.join(last, on="beside", how="semi")
    with_new, without = evaluator.parts
    assert names_of(evaluator, with_new[:, 2]) <= set(last["poi_name"])
    assert names_of(evaluator, without[:, 3]) <= set(beside["poi_name"])
    trained = orders.filter(holdout.is_trained)["poi_name"]
    assert names_of(evaluator, with_new[:, 2:]) - set(trained)
    assert names_of(evaluator, without[:, 2:]) <= set(trained)


def test_orders_without_other_places_are_compared_with_held_out_places(
    prepared: Config, copy: Callable[..., Config]
) -> None:
    config = copy(prepared)
    path = config.output / "prepare" / "not_taken.parquet"
    pl.read_parquet(path).clear().write_parquet(path)
    holdout = held_out(config)
    evaluator = RankingEvaluator.of(config, holdout)
    [part] = evaluator.parts
    places = pl.read_parquet(config.output / "prepare" / "descriptions.parquet")
    unseen = set(places.filter(pl.col("poi_id").is_in(holdout.places.implode()))["poi_name"])
    assert {dict(evaluator.candidates[number])["poi_name"] for number in part[:, 3]} <= unseen


def test_the_best_weights_are_kept_and_training_without_gain_stops(
    prepared: Config, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = as_encoder(lm, 8)
    weight = encoder[2].linear.weight
    found = iter([0.5, 0.6, 0.55, 0.6, 0.58, 0.5, 0.4])
    monkeypatch.setattr(RankingEvaluator, "auc", lambda *_: next(found))
    monkeypatch.setattr(RankingEvaluator, "noise", 0.03)
    checks = Checks(prepared, held_out(prepared), encoder)
    control, state = TrainerControl(), TrainerState(max_steps=50)
    values = []
    for state.global_step in range(1, 51):
        with torch.no_grad():
            weight.fill_(state.global_step)
        checks.on_step_end(TrainingArguments(), state, control)
        values.append(control.should_training_stop)
    assert checks.auc == [0.5, 0.6, 0.55, 0.6, 0.58, 0.5]
    assert not any(values)
    checks.restore()
    assert checks.kept_step == weight.max() == weight.min() == 40, "the last of equal checks"
    found = iter([0.5, 0.51, 0.5, 0.505])  # not better than chance
    checks = Checks(prepared, held_out(prepared), encoder)
    for state.global_step in range(1, 31):
        checks.on_step_end(TrainingArguments(), state, control)
    assert control.should_training_stop
    assert checks.kept_step == 0


def test_without_held_out_users_the_last_step_is_kept(prepared: Config, lm: LanguageModel) -> None:
    contrast = prepared.contrast.model_copy(update={"held_out": 0.0})
    config = prepared.model_copy(update={"contrast": contrast})
    encoder = as_encoder(lm, 8)
    checks = Checks(config, held_out(config), encoder)
    with torch.no_grad():
        encoder[2].linear.weight.fill_(7)
    checks.restore()
    assert checks.auc == []
    assert encoder[2].linear.weight.min() == 7
