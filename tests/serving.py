"""A run to serve, its version in a store, and a request from its log."""

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
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
import torch
import uvicorn
from safetensors.torch import load_file, save_file
from torch import nn

from larr import artifacts, rankers
from larr.config import Config
from larr.config.rankers import BEST, TreesConfig
from larr.data.batches import LogRows
from larr.data.features import read_features
from larr.rankers import best
from larr.rankers.lightgbm import LightGbm
from larr.serve import publish as module
from larr.serve.app import Service
from larr.serve.http import PatientProtocol
from larr.serve.store import RANKER, VERSIONS, Store
from larr.serve.version import ServedVersion
from larr.text.embed import SOURCES, Job
from larr.text.figures import write_figures

SENT = ("poi_id", "position", "distance_km", "delivery_minutes", "delivery_fee_yuan")
"""The columns of a candidate."""
MEMBERS = {
    f"best_{number}": {
        "of": of,
        "vectors": None,
        "settings": {"figures": sources, "ple.cross_layers": 1},
        "weight": 0.5 if of == "larr" else 0.25,
    }
    for number, (of, sources) in enumerate(
        {"larr": ["encoder"], "din": [], "lightgbm": ["encoder", "letters"]}.items(), 1
    )
}
"""Of `best`: one of each kind that is served in its own way; two of them read text figures."""


def log(city: Config) -> pl.DataFrame:
    rows = pl.read_parquet(city.output / "prepare" / "raw" / "impressions")
    return rows.filter(pl.col("time").dt.date() == rows["time"].dt.date().max())


def request_of(group: pl.DataFrame) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The row of a request of the log, and the columns of its candidates."""
    row = group.drop(*SENT, "request_id", "click", "order").row(0, named=True)
    return row, group.select(SENT).to_dict(as_series=False)


@dataclass(frozen=True)
class Published:
    """A run, and a store with its version, which is current, and a second version."""

    run: Config
    store: Store
    second: str


@pytest.fixture(scope="session")
def publish(city: Config, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Published]:
    """A run of a ranker with random vectors and weights, published once."""

    @cache
    def publish_once(name: str) -> Published:
        config = run_of(city, name, tmp_path_factory.mktemp("run"))
        other = tmp_path_factory.mktemp("other") / "run"
        shutil.copytree(config.output, other, symlinks=True)
        users = read_features(artifacts.folder(config, "prepare")).categories[0]
        assert users.name == "user_id"
        for path in other.glob("align/*/model.safetensors"):
            weights = load_file(path)
            if "encoder.table.rows" in weights:
                weights["encoder.table.rows"][: users.size] *= 3
                save_file(weights, path)
        store = Store(tmp_path_factory.mktemp("published") / "store")
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(module, "require_ranker", lambda *_: None)
            store.activate(module.publish(store, config, name))
            copy_graphs(patched, store.folder / VERSIONS / store.arms()[0].version)
            second = module.publish(store, config.model_copy(update={"output": other}), name)
        return Published(config, store, second)

    return publish_once


def copy_graphs(monkeypatch: pytest.MonkeyPatch, version: Path) -> None:
    """Lets `publish` copy the graphs of a version instead of writing them, which takes seconds.

    Graphs are equal if versions differ only in embeddings, except those of candidates.
    """

    def copy(_: nn.Module, __: Any, path: Path, **___: Any) -> None:
        shutil.copy(version / RANKER / path.parent.name / path.name, path)

    monkeypatch.setattr(module, "write_graph", copy)


def run_of(city: Config, name: str, output: Path) -> Config:
    """A run on prepared data with a ranker with random vectors and weights."""
    random = np.random.default_rng(0)
    (output / "prepare").symlink_to(city.output / "prepare")
    trees = TreesConfig(rounds=10)
    align = city.align.model_copy(update={"models": [name], "trees": trees})
    config = city.model_copy(update={"output": output, "align": align})
    texts = pl.read_parquet(output / "prepare" / "texts.parquet")
    for source in ("encoder", "tfidf", "letters") if name == BEST else ("encoder", "tfidf"):
        folder = output / "embed" / source
        folder.mkdir(parents=True)
        vectors = random.normal(size=(texts.height, 128)).astype(np.float32)
        if source != "encoder":
            vectors[:] = 0
            SOURCES[source].compute(Job(config, texts, folder), vectors)
        np.save(folder / "vectors.npy", vectors)
        if name == BEST:
            (folder / "figures").mkdir()
            write_figures(config, folder / "vectors.npy", folder / "figures")
    (output / "contrast").mkdir()
    if name == BEST:
        (output / "choose").mkdir()
        artifacts.write_json(output / "choose" / best.CHOICE, {"members": MEMBERS})
    with_members = best.with_members(config)
    for member in best.names_to_train(config):
        ranker = rankers.build(with_members, member)
        if isinstance(ranker, LightGbm):
            log = LogRows(output / "prepare" / "train")
            ranker.fit(log.with_figures(ranker.figures), seed=0)
        (output / "align" / member).mkdir(parents=True)
        ranker.save(output / "align" / member / "model.safetensors")
    return config


@pytest.fixture(scope="module", params=["ple", "larr", BEST])
def published(request: Any, publish: Callable[[str], Published]) -> Published:
    return publish(request.param)


@pytest.fixture(scope="module")
def served(published: Published) -> Config:
    return published.run


@pytest.fixture(scope="module")
def version(published: Published) -> ServedVersion:
    """The current version, open."""
    return published.store.load(published.store.arms()[0].version)


@pytest.fixture(scope="module")
def asked(served: Config, version: ServedVersion) -> dict[str, Any]:
    group = next(iter(log(served).group_by("request_id", maintain_order=True)))[1]
    row = group.row(0, named=True)
    return {
        "user_id": row["user_id"],
        "time": row["time"].isoformat(),
        "scene": {name: row[name] for name in version.accepted.scene},
        "candidates": group.select(SENT).to_dicts(),
    }


@pytest.fixture
def store(published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store with one version, which is current."""
    monkeypatch.setattr(module, "require_ranker", lambda *_: None)
    left_out = shutil.ignore_patterns(published.second)
    return Store(shutil.copytree(published.store.folder, tmp_path / "store", ignore=left_out))


def free_port() -> int:
    """Returns a port that no process uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def running(service: Service) -> Iterator[str]:
    """Runs a service on a free port; yields its address."""
    port = free_port()
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


class TorchGraph:
    """Replaces `Graph`: runs the module instead of its graph."""

    written: ClassVar[list[tuple[nn.Module, list[str]]]] = []

    def __init__(self, path: Path) -> None:
        self.module, self.inputs = self.written[int(path.read_text())]

    @classmethod
    def write(cls, module: nn.Module, inputs: Any, path: Path, **_: Any) -> None:
        path.write_text(str(len(cls.written)))
        cls.written.append((module, list(inputs)))

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = self.module({name: torch.tensor(inputs[name]) for name in self.inputs})
        return {name: tensor.numpy() for name, tensor in outputs.items()}


@pytest.fixture
def in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs graphs with torch: torch.export takes seconds, and the published runs test it."""
    monkeypatch.setattr(module, "write_graph", TorchGraph.write)
    monkeypatch.setattr("larr.rankers.neural.write_graph", TorchGraph.write)
    monkeypatch.setattr("larr.serve.forms.Graph", TorchGraph)
