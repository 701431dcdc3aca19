"""Folders that many tests read; each is written once per session, for all test processes."""

import gc
import os
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import settings

from larr import artifacts, machine
from larr.config import Config
from larr.data.prepare import prepare
from larr.run import run
from larr.settings import load_config
from tests.tiny_models import make_model

os.environ["HF_HUB_OFFLINE"] = "1"  # before the library is imported: no test calls the network
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

machine.keep_freed_memory()
torch.set_num_threads(1)  # the models are tiny; threads would wait for each other
# No deadline: how long an example takes depends on what else the machine does.
settings.register_profile("larr", deadline=None, max_examples=50)
settings.load_profile("larr")
ROOT = Path(__file__).parents[1]
SMALL = [
    "dataset.city.places=300",
    "dataset.city.users=300",
    "dataset.city.impressions=8000",
    "dataset.city.history_days=21",
    "dataset.chunk_rows=3000",
    "features.situation=['meal_slot', 'place_kind']",
    "features.situation_attributes=['poi_category', 'poi_price_yuan_level']",
]
TINY = [
    "pretrain={max_steps=2, batch_size=8, general_ratio=0.0}",
    "contrast={triples=32, batch_size=8}",
    "encoders.ordered={'contrast.shuffle_keywords'=false}",
    "align={models=['ple', 'larr', 'in_order', 'best'], batch_size=1000}",
    "choose={kinds=['ple', 'lightgbm'], sources=[], trials=2}",
    "align.variants.in_order={of='larr', vectors='ordered'}",
    "evaluate={bootstrap=20, gains=[['larr', 'ple']]}",
]


def pytest_collection_finish() -> None:
    """Excludes the objects of torch and polars from garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every run of a test draws the same weights."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder that all test processes of a session share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def city(shared: Path) -> Config:
    """A prepared city of some thousand impressions, read-only."""
    config = load_config(ROOT / "configs" / "city_tiny.toml", [f"output={shared / 'city'}", *SMALL])
    with FileLock(shared / "city.lock"):
        if not artifacts.stage(config, "prepare").is_current():
            prepare(config)
    return config


@pytest.fixture(scope="session")
def tiny_run(shared: Path, city: Config) -> Config:
    """A finished `larr run` on this city with three briefly trained rankers, read-only."""
    output = shared / "tiny_run"
    model = shared / "tiny_model"
    overrides = [f"output={output}", f"backbone.model={model}", *SMALL, *TINY]
    config = load_config(ROOT / "configs" / "city_tiny.toml", overrides)
    with FileLock(shared / "tiny_run.lock"):
        if not model.exists():
            make_model(model, "llama")
        if not output.exists():
            output.mkdir()
            (output / "prepare").symlink_to(city.output / "prepare")
        run(config)
    return config
