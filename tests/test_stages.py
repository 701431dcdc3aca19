"""Further encoders of a run: what they share with it, what they make anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from larr import artifacts
from larr.config import Config
from larr.errors import ConfigError, StaleError
from larr.run import run_stage, train_encoders, vector_sources
from tests.fake_data import make_data
from tests.tiny_models import make_model

VARIANTS = {
    "no_cpt": {"of": "larr", "vectors": "without_stage_1"},
    "in_order": {"of": "larr", "vectors": "ordered"},
}
ENCODERS = {
    "without_stage_1": {"pretrain.epochs": 0},
    "ordered": {"contrast.shuffle_keywords": False},
    "not_read": {"contrast.temperature": 0.2},
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_data(
        tmp_path / "run",
        backbone={"model": str(make_model(tmp_path / "m", "llama"))},
        encoders=ENCODERS,
        align={"models": ["larr", "no_cpt", "in_order"], "variants": VARIANTS},
    )


def make_vectors(config: Config) -> None:
    for verb in ("pretrain", "contrast"):
        run_stage(config, verb)
    train_encoders(config, vector_sources(config))
    run_stage(config, "embed")


def test_an_encoder_shares_what_it_does_not_change(config: Config) -> None:
    make_vectors(config)
    folder = config.output / "encoders"
    assert sorted(path.name for path in folder.iterdir()) == ["ordered", "without_stage_1"]
    assert (folder / "ordered" / "prepare").is_symlink()
    assert (folder / "ordered" / "pretrain").is_symlink()
    assert (folder / "without_stage_1" / "prepare").is_symlink()
    assert not (folder / "without_stage_1" / "pretrain").is_symlink()
    read = {
        name: np.load(config.output / "embed" / name / "vectors.npy")
        for name in vector_sources(config)
    }
    assert list(read) == ["encoder", "without_stage_1", "ordered"]
    assert not np.allclose(read["encoder"], read["ordered"])
    assert not np.allclose(read["encoder"], read["without_stage_1"])
    made = artifacts.manifest(config.for_encoder("without_stage_1"), "pretrain")
    assert made is not None
    assert made["figures"]["perplexity_y_after"] == made["figures"]["perplexity_y_before"]


def test_an_encoder_follows_its_run(config: Config) -> None:
    make_vectors(config)
    first = np.load(config.output / "embed" / "ordered" / "vectors.npy")
    changed = config.model_copy(
        update={"contrast": config.contrast.model_copy(update={"learning_rate": 1e-2})}
    )
    with pytest.raises(StaleError, match="encoder"):
        run_stage(changed, "embed")
    make_vectors(changed)
    assert not np.allclose(np.load(config.output / "embed" / "ordered" / "vectors.npy"), first)
    assert artifacts.is_current(changed, "embed")


def test_what_no_one_makes_is_refused(config: Config) -> None:
    with pytest.raises(ValidationError, match="not below backbone, pretrain or contrast"):
        Config(encoders={"other": {"features.recent": 3}})
    with pytest.raises(
        ConfigError, match="no vectors 'ordered', 'without_stage_1'; there are encoder"
    ):
        vector_sources(config.model_copy(update={"encoders": {}}))


def test_force_makes_the_parts_again(config: Config) -> None:
    make_vectors(config)
    vectors = config.output / "embed" / "encoder" / "vectors.npy"
    before = vectors.stat().st_mtime_ns
    run_stage(config, "embed")
    assert vectors.stat().st_mtime_ns == before
    run_stage(config, "embed", force=True)
    assert vectors.stat().st_mtime_ns > before


def test_an_encoder_that_shares_less_than_before_is_made(config: Config) -> None:
    make_vectors(config)
    encoders = ENCODERS | {"ordered": {"pretrain.epochs": 0}}
    other = Config.model_validate(config.model_dump() | {"encoders": encoders})
    train_encoders(other, vector_sources(other))
    assert not (config.output / "encoders" / "ordered" / "pretrain").is_symlink()
