"""The prompts of P5; the contract of all rankers is in tests/rankers/test_contract.py."""

from __future__ import annotations

from pathlib import Path

import torch

from larr import artifacts
from larr.data.features import read_features
from larr.rankers.ranker import RankerInputs
from larr_lab.p5 import P5, PADDING
from tests.ranking_log import Sizes, rows_of, write_log


def test_a_user_or_place_has_the_same_spelling_in_each_prompt(tmp_path: Path) -> None:
    config = write_log(tmp_path, Sizes(rows=64, categories=(300, 250, 6, 4)))
    features, settings = read_features(artifacts.folder(config, "prepare")), config.align.of("p5")
    model = P5(RankerInputs("p5", features, settings))
    batch = rows_of(config, "train", 64)
    tokens_BN = model.prompt(batch)
    assert tokens_BN.shape[1] == len(model.words)
    place_BD, recent_BLD = tokens_BN[:, 2:4], tokens_BN[:, -2 * batch.recent.shape[1] :]
    for row, place in enumerate(batch.categories[:, 1].tolist()):
        again = (batch.recent == place).nonzero()
        for other, column in again.tolist():
            pieces = recent_BLD[other, 2 * column : 2 * column + 2]
            assert torch.equal(pieces, place_BD[row])
    assert (recent_BLD[(batch.recent == 0).repeat_interleave(2, dim=1)] == PADDING).all()
    numbers = model.spelling[1:300].tolist()
    assert len({tuple(pieces) for pieces in numbers}) == 299
