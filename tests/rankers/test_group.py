"""Rankers trained in several processes, which share each batch and the table, or one in each."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from larr import artifacts, rankers
from larr.config import ClusterConfig, Config
from larr.group import Group
from larr.rankers import align
from larr.rankers.predict import predict_log
from tests.ranking_log import Sizes, log_of, small_align, write_log

VALUES = (40, 30, 200_000)
"""Values of each category: the table is drawn and collected in two blocks."""
EXACT = {"dropout": 0.0, "id_dropout": 0.0, "scene.dropout": 0.0, "negatives": 2}
"""Settings without random draws, which differ between processes."""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The last batch has one row, fewer than processes."""
    settings = small_align(batch_size=75, models=["ple", "dcn"])
    return write_log(tmp_path, Sizes(rows=601, categories=VALUES, test_rows=200), settings)


@pytest.mark.parametrize("size", [2, 3])
def test_each_process_has_its_rows_of_the_table_of_one(size: int, config: Config) -> None:
    whole = rankers.build(config, "wide_deep").encoder.table.rows
    for rank in range(size):
        group = Group(rank, size)
        own = rankers.build(config, "wide_deep", group=group).encoder.table.rows
        assert torch.equal(own, whole[rank::size])


@pytest.mark.parametrize(
    ("name", "processes", "engine"),
    [
        ("wide_deep", 3, "local"),
        ("larr", 2, "local"),
        pytest.param("larr", 2, "ray", marks=pytest.mark.slow),
    ],
)
def test_processes_train_as_one(
    name: str,
    processes: int,
    engine: Literal["local", "ray"],
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(align, "MIN_SAMPLES", 1)
    settings = config.align.of(name).with_settings(EXACT)
    found = []
    for workers in (1, processes):
        cluster = ClusterConfig(engine=engine, workers=workers, divide_rankers=workers > 1)
        run = config.model_copy(update={"cluster": cluster})
        ranker, curve = align.train(run, name, settings, log_of(run))
        points = np.array([[*point.values()] for point in curve])
        table = ranker.encoder.table.rows.detach()
        found.append((points, predict_log(ranker, log_of(run, "test")), table))
    (curve, scores, table), (curve_2, scores_2, table_2) = found
    np.testing.assert_allclose(curve_2, curve, rtol=1e-2)
    np.testing.assert_allclose(scores_2, scores, atol=5e-3)
    assert np.abs(scores_2 - scores).mean() < 1e-3
    torch.testing.assert_close(table_2, table, atol=2e-2, rtol=0)


@pytest.mark.slow
def test_rankers_trained_as_ray_tasks_are_the_same(config: Config) -> None:
    written = []
    for cluster in (ClusterConfig(), ClusterConfig(engine="ray", workers=2)):
        run = config.model_copy(update={"cluster": cluster})
        shutil.rmtree(artifacts.folder(run, "align"), ignore_errors=True)
        align.align(run)
        folders = [artifacts.folder(run, "align") / name for name in run.align.models]
        written.append([(folder / "model.safetensors").read_bytes() for folder in folders])
    assert written[0] == written[1]
