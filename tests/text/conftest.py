"""Tiny models and short runs for the tests of texts; tests that write to a run copy it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from larr.config import Config
from larr.text.backbone import LanguageModel, load_base
from larr.text.contrast import contrast
from larr.text.pretrain import pretrain
from tests.fake_data import make_data
from tests.tiny_models import KINDS, make_model


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each kind of tiny model."""
    folder = tmp_path_factory.mktemp("models")
    return {kind: make_model(folder / kind, kind) for kind in KINDS}


@pytest.fixture(scope="session")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of general text."""
    path = tmp_path_factory.mktemp("general") / "text.txt"
    path.write_text("\n".join(f"plain text of dish {number}" for number in range(3000)))
    return path


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Config:
    """A run up to prepared data, with a tiny model."""
    output = tmp_path_factory.mktemp("prepared") / "run"
    return make_data(output, backbone={"model": str(models["qwen2"])})


@pytest.fixture(scope="session")
def tuned(prepared: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run up to stage 2."""
    output = tmp_path_factory.mktemp("tuned") / "run"
    shutil.copytree(prepared.output, output)
    config = prepared.model_copy(update={"output": output})
    pretrain(config)
    contrast(config)
    return config


@pytest.fixture(scope="session")
def lm(prepared: Config) -> LanguageModel:
    """A tiny model with the markers of the keywords, as at the start of stage 1."""
    return load_base(prepared)


@pytest.fixture
def copy(tmp_path: Path) -> Callable[..., Config]:
    """Copies a run to another folder, with changed settings in some sections."""

    def copied(config: Config, **sections: dict[str, object]) -> Config:
        shutil.copytree(config.output, tmp_path / "copy")
        update = {
            name: getattr(config, name).model_copy(update=changes)
            for name, changes in sections.items()
        }
        return config.model_copy(update={"output": tmp_path / "copy"} | update)

    return copied
