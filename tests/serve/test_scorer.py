"""Served scores are those that `larr evaluate` gives to the same rows of the log."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from safetensors.torch import save_file

from larr import rankers
from larr.config import Config
from larr.data import batches
from larr.errors import ConfigError
from larr.rankers.predict import load_ranker, predict, probabilities
from larr.serve.features import Reader
from larr.serve.scorer import Scorer, scores
from tests.serving import SENT, log


def load(config: Config, name: str) -> Scorer:
    return Scorer.load(config, name, Reader(config, config.output / "prepare"))


def test_served_scores_are_those_of_the_evaluation(served: Config) -> None:
    name = served.align.models[0]
    expected_NT = predict(served, name)
    scorer, rows = load(served, name), log(served)
    told = []
    for _, group in rows.group_by("request_id", maintain_order=True):
        scene = group.drop(*SENT, "request_id", "click", "order").row(0, named=True)
        told.append(scorer.score(scene, group.select(SENT).to_dict(as_series=False)).probabilities)
    assert expected_NT.std() > 1e-4
    assert np.abs(np.concatenate(told) - expected_NT).max() < 1e-5


def test_what_a_text_adds_is_the_score_less_that_without_it(served: Config) -> None:
    name = served.align.models[0]
    if name == "ple":
        pytest.skip("it reads no texts")
    scorer, group = load(served, name), log(served).head(10)
    assert group["request_id"].n_unique() == 1
    scene = group.drop(*SENT, "request_id", "click", "order").row(0, named=True)
    scored = scorer.score(scene, group.select(SENT).to_dict(as_series=False))
    chosen = [7, 2]
    effects = scorer.explain(scored, chosen)
    ranker = load_ranker(served, name)
    batch = next(batches.in_order(served.output / "prepare" / "test", group.height))
    keywords = [one.name for one in served.scene_keywords]
    whole = scores(probabilities(ranker, batch))
    texts = pl.read_parquet(served.output / "prepare" / "texts.parquet")["text"]
    for number, told in zip(chosen, effects, strict=True):
        assert len(told) == int((batch.texts[number] >= 0).sum()) > 5
        assert 0.2 < sum(one.attention for one in told) < 1
        for one in told:
            slot = keywords.index(one.keyword)
            left = batch._replace(texts=batch.texts.clone())
            assert one.text == texts[int(left.texts[number, slot])]
            left.texts[:, slot] = -1
            without = scores(probabilities(ranker, left))
            assert one.adds == pytest.approx(whole[number] - without[number], abs=1e-6)
        assert max(abs(one.adds) for one in told) > 1e-4


def test_only_what_can_be_folded_is_served(served: Config) -> None:
    ranker = rankers.build(served, "deepfm")
    (served.output / "align" / "deepfm").mkdir(exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in ranker.state_dict().items()}
    save_file(weights, served.output / "align" / "deepfm" / "model.safetensors")
    with pytest.raises(ConfigError, match="deepfm cannot be served"):
        load(served, "deepfm")
