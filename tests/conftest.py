"""Folders that many tests read; written once a session."""

import gc
import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from larr.config import Config
from larr.data.prepare import prepare
from larr.settings import load_config

os.environ["HF_HUB_OFFLINE"] = "1"  # before the library is imported: no test calls the network
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

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
]


def pytest_collection_finish() -> None:
    """Every stage collects garbage first, which would look at each object of torch and polars."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def city(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A prepared city of some thousand impressions."""
    output = tmp_path_factory.mktemp("city")
    config = load_config(ROOT / "configs" / "city_tiny.toml", [f"output={output}", *SMALL])
    prepare(config)
    return config
