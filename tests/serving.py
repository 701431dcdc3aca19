"""A run that can be served, its version in a store, and a request out of its log."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import uvicorn
from safetensors.torch import load_file, save_file

from larr import rankers
from larr.config import Config
from larr.serve import store as module
from larr.serve.app import Service
from larr.serve.features import Reader
from larr.serve.http import PatientProtocol
from larr.serve.ranking import Ranking
from larr.serve.scorer import Scorer
from larr.serve.store import VERSIONS, Store

SENT = ("poi_id", "position", "distance_km", "delivery_minutes", "delivery_fee_yuan")
"""The columns of a candidate."""


def log(city: Config) -> pl.DataFrame:
    rows = pl.read_parquet(city.output / "prepare" / "raw" / "impressions")
    return rows.filter(pl.col("time").dt.date() == rows["time"].dt.date().max())


@dataclass(frozen=True)
class Published:
    """A run, and a store with its version, which is current, and a second one."""

    run: Config
    store: Store
    second: str


@pytest.fixture(scope="session")
def publish(city: Config, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Published]:
    """A run of a ranker, whose vectors and weights are random, published once."""

    @cache
    def made(name: str) -> Published:
        config = run_of(city, name, tmp_path_factory.mktemp("run"))
        other = tmp_path_factory.mktemp("other") / "run"
        shutil.copytree(config.output, other, symlinks=True)
        weights = load_file(other / "align" / name / "model.safetensors")
        changed = {key: value * 1.1 for key, value in weights.items() if key.startswith("towers")}
        save_file(weights | changed, other / "align" / name / "model.safetensors")
        store = Store(tmp_path_factory.mktemp("published") / "store")
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(module, "require_ranker", lambda *_: None)
            store.activate(store.publish(config, name))
            second = store.publish(config.model_copy(update={"output": other}), name)
        return Published(config, store, second)

    return made


def run_of(city: Config, name: str, output: Path) -> Config:
    """A run on prepared data with a ranker whose vectors and weights are random."""
    random = np.random.default_rng(0)
    (output / "prepare").symlink_to(city.output / "prepare")
    align = city.align.model_copy(update={"models": [name]})
    config = city.model_copy(update={"output": output, "align": align})
    texts = pl.read_parquet(output / "prepare" / "texts.parquet").height
    (output / "embed" / "encoder").mkdir(parents=True)
    vectors = random.normal(size=(texts, 128)).astype(np.float32)
    np.save(output / "embed" / "encoder" / "vectors.npy", vectors)
    (output / "contrast").mkdir()
    ranker = rankers.build(config, name)
    (output / "align" / name).mkdir(parents=True)
    weights = {key: tensor.contiguous() for key, tensor in ranker.state_dict().items()}
    save_file(weights, output / "align" / name / "model.safetensors")
    return config


@pytest.fixture(scope="module", params=["ple", "larr"])
def published(request: Any, publish: Callable[[str], Published]) -> Published:
    return publish(request.param)


@pytest.fixture(scope="module")
def served(published: Published) -> Config:
    return published.run


@pytest.fixture(scope="module")
def ranking(served: Config) -> Ranking:
    reader = Reader(served, served.output / "prepare")
    return Ranking(Scorer.load(served, served.align.models[0], reader), "v1")


@pytest.fixture(scope="module")
def asked(served: Config, ranking: Ranking) -> dict[str, Any]:
    group = next(iter(log(served).group_by("request_id", maintain_order=True)))[1]
    row = group.row(0, named=True)
    return {
        "user_id": row["user_id"],
        "time": row["time"].isoformat(),
        "scene": {name: row[name] for name in ranking.accepted[0]},
        "candidates": group.select(SENT).to_dicts(),
    }


@pytest.fixture
def store(published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store with one version, which is current."""
    monkeypatch.setattr(module, "require_ranker", lambda *_: None)
    left_out = shutil.ignore_patterns(published.second)
    return Store(shutil.copytree(published.store.folder, tmp_path / "store", ignore=left_out))


@contextmanager
def running(service: Service) -> Iterator[str]:
    """A service on a port of its own; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(
        service.app(), port=port, log_level="warning", http=PatientProtocol, lifespan="on"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join()


@pytest.fixture
def second(store: Store, published: Published) -> str:
    """Another version in the store, with other weights."""
    version = Path(VERSIONS, published.second)
    shutil.copytree(published.store.folder / version, store.folder / version)
    return published.second
