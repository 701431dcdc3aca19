"""Dropping unclicked rows biases the probabilities, and the correction removes the bias."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from larr_lab.studies import down_sampling as module
from larr_lab.studies.down_sampling import down_sampling, sampled
from tests.ranking_log import Sizes, log_of, small_align, write_log


def test_all_clicks_and_a_share_of_other_rows_are_kept(tmp_path: Path) -> None:
    config = write_log(tmp_path, Sizes(rows=3_000), small_align())
    log = log_of(config)
    rows = sampled(log, 0.2, config.seed).numbers_N
    clicks = log.array("labels")[:, 0] > 0
    kept = np.zeros(len(clicks), dtype=bool)
    kept[rows] = True
    assert kept[clicks].all()
    assert kept[~clicks].mean() == pytest.approx(0.2, abs=0.03)
    assert (np.diff(rows) > 0).all()


def test_the_correction_restores_the_probabilities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.artifacts, "require", lambda *_: None)
    align = small_align(models=["ple", "larr"], epochs=2, learning_rate=0.02)
    config = write_log(tmp_path, Sizes(rows=3_000), align)
    by_share = down_sampling(config)["kept"]
    assert list(by_share) == ["0.3", "0.1"]
    assert by_share["0.1"]["rows"] < by_share["0.3"]["rows"]
    for figures in by_share["0.1"]["models"].values():
        before, after = figures["ctr_as_trained"], figures["ctr_corrected"]
        assert before["observed_over_expected"] < 0.75
        assert after["observed_over_expected"] == pytest.approx(1, abs=0.3)
        assert after["log_loss"] < before["log_loss"]
        assert figures["ctr_auc"] > 0.5
