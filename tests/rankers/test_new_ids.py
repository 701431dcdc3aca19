"""Embeddings of users and places that do not occur in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from larr import rankers
from larr.config import Config
from larr.rankers.deep import WideDeep
from tests.ranking_log import Sizes, log_of, rows_of, small_align, write_log

SIZES = Sizes(rows=400, categories=(40, 30, 6, 5), test_rows=20)


def fitted(tmp_path: Path, id_dropout: float) -> tuple[Config, WideDeep]:
    config = write_log(tmp_path, SIZES, small_align(id_dropout=id_dropout))
    categories = log_of(config).folder / "categories.npy"
    read = np.load(categories)
    read[:, 0] = 1 + read[:, 0] % 9  # users 10 to 39 and the unknown one are in no row
    np.save(categories, read)
    ranker = rankers.build(config, "wide_deep")
    ranker.fit(log_of(config), 1)
    return config, ranker


@pytest.mark.parametrize("id_dropout", [0.0, 0.5])
def test_new_users_get_the_mean_vector_or_the_one_learned_for_them(
    tmp_path: Path, id_dropout: float
) -> None:
    _, ranker = fitted(tmp_path, id_dropout)
    user_VE = ranker.encoder.table.rows[: SIZES.categories[0]].detach()
    expected_E = user_VE[0] if id_dropout else user_VE[1:10].mean(dim=0)
    torch.testing.assert_close(user_VE[10:], expected_E.expand(30, -1))
    assert torch.allclose(user_VE[0], user_VE[1:10].mean(dim=0)) is (id_dropout == 0)


def test_only_ids_are_dropped_and_only_in_training(tmp_path: Path) -> None:
    config, ranker = fitted(tmp_path, 0.5)
    batch = rows_of(config, "train")
    known_BFE = ranker.eval().encoder(batch).categories
    torch.testing.assert_close(ranker.encoder(batch).categories, known_BFE)
    read_BFE = ranker.train().encoder(batch).categories
    is_kept_BF = (read_BFE == known_BFE).all(dim=2)
    assert is_kept_BF[:, 2:].all()
    share_2 = is_kept_BF[:, :2].float().mean(dim=0)
    assert ((share_2 > 0.4) & (share_2 < 0.6)).all()
