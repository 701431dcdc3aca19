"""Served scores are those that `larr evaluate` gives to the same rows of the log."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.torch import save_file

from larr import models
from larr.config import Config
from larr.errors import ConfigError
from larr.predict import predict
from larr.serve.scorer import Scorer
from tests.test_serve_features import SENT, log


@pytest.fixture(scope="module", params=["ple", "larr"])
def served(request: Any, city: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run whose vectors and weights are random."""
    random = np.random.default_rng(0)
    output = tmp_path_factory.mktemp("served")
    (output / "data").symlink_to(city.output / "data")
    align = city.align.model_copy(update={"models": [request.param]})
    config = city.model_copy(update={"output": output, "align": align})
    texts = pl.read_parquet(output / "data" / "texts.parquet").height
    (output / "vectors" / "encoder").mkdir(parents=True)
    vectors = random.normal(size=(texts, 128)).astype(np.float32)
    np.save(output / "vectors" / "encoder" / "vectors.npy", vectors)
    ranker = models.build(config, request.param)
    (output / "ranker" / request.param).mkdir(parents=True)
    weights = {name: tensor.contiguous() for name, tensor in ranker.state_dict().items()}
    save_file(weights, output / "ranker" / request.param / "model.safetensors")
    return config


def test_served_scores_are_those_of_the_evaluation(served: Config) -> None:
    name = served.align.models[0]
    expected_NT = predict(served, name)
    scorer, rows = Scorer.load(served, name), log(served)
    told = []
    for _, group in rows.group_by("request_id", maintain_order=True):
        scene = group.drop(*SENT, "request_id", "click", "order").row(0, named=True)
        told.append(scorer.score(scene, group.select(SENT).to_dicts()).probabilities)
    assert expected_NT.std() > 1e-4
    assert np.abs(np.concatenate(told) - expected_NT).max() < 1e-5


def test_only_what_can_be_folded_is_served(served: Config) -> None:
    ranker = models.build(served, "deepfm")
    (served.output / "ranker" / "deepfm").mkdir(exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in ranker.state_dict().items()}
    save_file(weights, served.output / "ranker" / "deepfm" / "model.safetensors")
    with pytest.raises(ConfigError, match="deepfm cannot be served"):
        Scorer.load(served, "deepfm")
