"""FuxiCTR and ONNX Runtime read the export, with the scores of the ranker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from larr import artifacts
from larr.config import Config
from larr.config.rankers import BEST
from larr.data.batches import LogRows
from larr.errors import ConfigError
from larr.rankers.align import align
from larr.rankers.best import Blend
from larr.rankers.predict import load_ranker, predict
from larr.serve import export as module
from larr.serve.export import FEATURE_MAP, ONNX, VECTOR, export
from larr.serve.forms import Graph
from tests.ranking_log import Sizes, small_align, write_log


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Config:
    output = tmp_path_factory.mktemp("exported")
    sizes = Sizes(rows=600, sampling_rate=0.2)
    config = write_log(output, sizes, small_align(models=["larr", "ple"], epochs=1))
    align(config)
    return config


@pytest.fixture
def exported(trained: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "write_graph", lambda *_: None)
    export(trained, "larr", tmp_path)
    return tmp_path


def test_a_row_has_its_columns_and_its_scene_vector(trained: Config, exported: Path) -> None:
    rows = pl.read_parquet(exported / "test.parquet")
    ranker, _ = load_ranker(trained, "larr").members["larr"]
    batch = next(LogRows(trained.output / "prepare" / "test").in_order(500))
    assert len(rows) == batch.rows
    assert (rows["poi_id"].to_numpy() == batch.categories[:, 1].numpy()).all()
    assert (rows["click"].to_numpy() == batch.labels[:, 0].numpy()).all()
    _, e_s, _ = ranker.outputs(batch)
    vectors = np.stack(rows[VECTOR].to_list())
    assert np.allclose(vectors, e_s.detach().numpy(), atol=1e-6)
    assert not list(exported.glob("*.partial"))


def test_a_ranker_without_scenes_has_none(
    trained: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="has no scene vectors"):
        export(trained, "ple", tmp_path)
    blend = Blend({"best_1": load_ranker(trained, "larr").members["larr"]})
    monkeypatch.setattr(module, "require_ranker", lambda *_: None)
    monkeypatch.setattr(module, "load_ranker", lambda *_: blend)
    with pytest.raises(ConfigError, match="best: it has no scene vectors"):
        export(trained, BEST, tmp_path)


def test_the_onnx_ranker_gives_the_probabilities_of_evaluate(
    trained: Config, tmp_path: Path
) -> None:
    export(trained, "larr", tmp_path)
    batch = next(LogRows(trained.output / "prepare" / "test").in_order(77))
    inputs = {name: tensor.numpy() for name, tensor in batch._asdict().items()}
    actual = Graph(tmp_path / ONNX)(inputs)["probabilities"]
    assert np.allclose(actual, predict(trained, "larr")[:77], atol=1e-5)


def test_fuxictr_reads_the_export(exported: Path) -> None:
    features: Any = pytest.importorskip("fuxictr.features", reason="needs fuxictr")
    layers = pytest.importorskip("fuxictr.pytorch.layers.embeddings.feature_embedding")
    loaders = pytest.importorskip("fuxictr.pytorch.dataloaders.parquet_dataloader")
    content = artifacts.read_json(exported / FEATURE_MAP)
    known = features.FeatureMap(content["dataset_id"], str(exported))
    known.load(str(exported / FEATURE_MAP), {"embedding_dim": 8})
    loader = loaders.ParquetDataLoader(known, str(exported / "test.parquet"), "test", batch_size=64)
    batch = next(iter(loader))
    inputs = {name: batch[name] for name in known.features}
    embedded = layers.FeatureEmbedding(known, 8)(inputs)
    assert embedded.shape[0] == 64
    assert embedded.isfinite().all()
