"""Served scores are those that `larr evaluate` gives to the same rows of the log."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.torch import save_file

from larr import models
from larr.config import Config
from larr.errors import ConfigError
from larr.predict import predict
from larr.serve.features import Reader
from larr.serve.scorer import Scorer
from tests.serve.conftest import SENT, log


def load(config: Config, name: str) -> Scorer:
    return Scorer.load(config, name, Reader(config, config.output / "data"))


def test_served_scores_are_those_of_the_evaluation(served: Config) -> None:
    name = served.align.models[0]
    expected_NT = predict(served, name)
    scorer, rows = load(served, name), log(served)
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
        load(served, "deepfm")
