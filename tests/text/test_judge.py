"""What held-out users took, against what was shown beside it: by hand, and for a known answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import TrainerControl, TrainerState, TrainingArguments

from larr.config import Config
from larr.text import judge
from larr.text.backbone import LanguageModel
from larr.text.encoder import as_encoder
from larr.text.judge import Checks, Judge
from larr.text.pairs import held_out


def test_auc_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.array([[1, 0], [-1, 0], [1, 1], [-1, 1], [0, -2]], dtype=np.float32)
    monkeypatch.setattr(judge, "compute", lambda *_: vectors)
    # for query 0 candidate 0 is above 2 above 1, for query 1 the other way round
    known = np.array([[0, 0, 0, 1], [0, 0, 0, 2], [1, 1, 2, 1], [1, 1, 0, 1]])
    new = np.array([[0, 0, 2, 0], [2, 1, 2, 2]])
    texts = [(("keyword", str(number)),) for number in range(3)]
    judged = Judge(texts[:2], texts, [known, new])
    # the first order wins both pairs and the second none; of the new ones one loses, one is equal
    assert judged.auc(SentenceTransformer(modules=[torch.nn.Identity()]), 100) == 0.375


def test_the_judged_orders_are_of_held_out_users(prepared: Config) -> None:
    apart = held_out(prepared)
    judged = Judge.of(prepared, apart)
    assert judged is not None
    orders = pl.read_parquet(prepared.output / "prepare" / "orders.parquet")
    of_users = orders.filter(pl.col("user_id").is_in(apart.users.implode()))
    shown = pl.read_parquet(prepared.output / "prepare" / "not_taken.parquet")
    names = shown.join(of_users, on="beside", how="semi")["poi_name"]
    assert {dict(text)["poi_name"] for text in judged.candidates} <= {*names, *of_users["poi_name"]}
    places = pl.read_parquet(prepared.output / "prepare" / "descriptions.parquet")
    unseen = set(places.filter(pl.col("poi_id").is_in(apart.places.implode()))["poi_name"])
    with_unseen, without = (
        {dict(judged.candidates[number])["poi_name"] for number in part[:, 2:].ravel()}
        for part in judged.parts
    )
    assert with_unseen & unseen
    assert not without & unseen


def test_orders_without_other_places_are_compared_with_held_out_places(
    prepared: Config, copy: Callable[..., Config]
) -> None:
    config = copy(prepared)
    path = config.output / "prepare" / "not_taken.parquet"
    pl.read_parquet(path).clear().write_parquet(path)
    apart = held_out(config)
    judged = Judge.of(config, apart)
    assert judged is not None
    [part] = judged.parts
    places = pl.read_parquet(config.output / "prepare" / "descriptions.parquet")
    unseen = set(places.filter(pl.col("poi_id").is_in(apart.places.implode()))["poi_name"])
    assert {dict(judged.candidates[number])["poi_name"] for number in part[:, 3]} <= unseen


def test_the_best_weights_are_kept_and_a_training_without_gain_ends(
    prepared: Config, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = as_encoder(lm, 8)
    weight = encoder[2].linear.weight
    found = iter([0.5, 0.6, 0.55, 0.6, 0.58, 0.5, 0.4])
    monkeypatch.setattr(Judge, "auc", lambda *_: next(found))
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
    assert checks.kept_step == weight.max() == weight.min() == 30, "the later one of equal checks"
    found = iter([0.6, 0.5, 0.5, 0.5])
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
