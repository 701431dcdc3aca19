"""Stage 3: folders, retraining, variants, workers, predictions."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from larr import artifacts, rankers
from larr.config import ClusterConfig, Config
from larr.config.rankers import CONTROLS, VariantConfig
from larr.data.features import read_features, undo_sampling
from larr.errors import ConfigError, StaleError
from larr.rankers import align as stage
from larr.rankers.align import align
from larr.rankers.predict import load_ranker, predict, require_ranker
from tests.ranking_log import Sizes, rows_of, small_align, write_log

SIZES = Sizes(rows=200, test_rows=50)


def digests(config: Config) -> dict[str, str]:
    folder = artifacts.folder(config, "align")
    paths = {name: folder / name / "model.safetensors" for name in config.align.models}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}


def trained_at(config: Config, name: str) -> int:
    return (artifacts.folder(config, "align") / name / "train.json").stat().st_mtime_ns


def test_align_trains_every_ranker_and_predict_reads_it(tmp_path: Path) -> None:
    settings = small_align(models=[*rankers.RANKERS, *CONTROLS], epochs=1)
    config = write_log(tmp_path, SIZES, settings)
    align(config)
    assert torch.get_float32_matmul_precision() == "highest"  # for equal scores in any process
    assert artifacts.stage(config, "align").is_current()
    folder = artifacts.folder(config, "align")
    batch = rows_of(config, "test")
    for name in settings.models:
        files = {path.name for path in (folder / name).iterdir()}
        assert files >= {"model.json", "model.safetensors", "train.json"}
        probabilities = predict(config, name)
        assert probabilities.dtype == np.float32
        expected = load_ranker(config, name).score(batch).sigmoid()
        assert np.array_equal(probabilities, expected)
        training = artifacts.read_json(folder / name / "train.json")
        assert training["samples"] == training["curve"][-1]["samples"] == SIZES.rows
    description = artifacts.read_json(folder / "larr_tfidf" / "model.json")
    assert description["architecture"] == "Larr"
    assert description["vectors"] == ["tfidf"]
    manifest = artifacts.manifest(artifacts.folder(config, "align"))
    assert manifest["measured"]["count"] == SIZES.rows * len(settings.models)


def test_lightgbm_leaves_hidden_categories_out(tmp_path: Path) -> None:
    hidden = ["user_id", "poi_id"]
    config = write_log(tmp_path, SIZES, small_align(models=["lightgbm"], hidden=hidden))
    align(config)
    ranker, _ = load_ranker(config, "lightgbm").members["lightgbm"]
    features = read_features(artifacts.folder(config, "prepare"))
    columns = len(features.categories) - len(hidden) + len(features.numbers)
    assert [forest.num_feature() for forest in ranker.forests] == [columns] * 2


def test_an_interrupted_run_resumes_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_align(models=["ple", "larr", "deepfm"], negatives=1)
    config = write_log(tmp_path / "one", SIZES, settings)
    align(config)
    other = write_log(tmp_path / "two", SIZES, settings)
    train, names = stage._train, list[str]()

    def interrupted(config: Config, name: str, folder: Path) -> None:
        names.append(name)
        if names == ["larr", "ple"]:
            (folder / "model.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt
        train(config, name, folder)

    monkeypatch.setattr(stage, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        align(other)
    assert not artifacts.stage(other, "align").is_current()
    align(other)
    assert names == ["larr", "ple", "ple", "deepfm"]
    assert digests(other) == digests(config)


def test_another_seed_gives_another_ranker(tmp_path: Path) -> None:
    trained = []
    for seed in (1, 2):
        config = write_log(tmp_path / str(seed), SIZES, small_align(models=["ple"]), seed)
        align(config)
        trained.append(digests(config)["ple"])
    assert trained[0] != trained[1]


@pytest.mark.slow
def test_workers_train_the_same_rankers_as_one_process(tmp_path: Path) -> None:
    models = small_align(models=["ple", "larr"])
    alone, together = (write_log(tmp_path / name, SIZES, models) for name in ("one", "two"))
    together = together.model_copy(update={"cluster": ClusterConfig(workers=2)})
    align(alone)
    align(together)
    for name in ("ple", "larr"):
        np.testing.assert_allclose(predict(together, name), predict(alone, name), atol=1e-4)


def test_unchanged_rankers_are_not_trained_again(tmp_path: Path) -> None:
    config = write_log(tmp_path, SIZES, small_align(models=["ple", "deepfm"]))
    align(config)
    before = trained_at(config, "ple")
    other = config.model_copy(update={"align": small_align(models=["ple", "din"])})
    with pytest.raises(StaleError, match="larr embed"):
        align(other)
    with artifacts.building(other, "embed"):
        pass
    align(other)
    assert artifacts.stage(other, "align").is_current()
    assert trained_at(other, "ple") == before
    (artifacts.folder(other, "align") / "din" / "model.safetensors").unlink()
    align(other)
    assert artifacts.stage(other, "align").is_current()
    changed = config.model_copy(update={"align": small_align(models=["ple", "din"], dropout=0.1)})
    with pytest.raises(StaleError, match=r"align\.models"):
        require_ranker(changed, "ple")
    align(changed)
    assert trained_at(changed, "ple") > before
    require_ranker(changed, "ple")


def test_a_ranker_with_other_text_settings_is_refused(tmp_path: Path) -> None:
    figures = VariantConfig(of="ple", settings={"figures": ["untuned"]})
    models = ["larr", "ple", "ple_figures"]
    align_config = small_align(models=models, epochs=1, variants={"ple_figures": figures})
    config = write_log(tmp_path, SIZES, align_config)
    align(config)
    for name in models:
        require_ranker(config, name)
    other = config.contrast.model_copy(update={"pooling": "end"})
    changed = config.model_copy(update={"contrast": other})
    with pytest.raises(StaleError, match=r"contrast: .* other settings \(contrast\.pooling\)"):
        require_ranker(changed, "larr")
    with pytest.raises(StaleError, match=r"untuned: .* other settings \(contrast\.pooling\)"):
        require_ranker(changed, "ple_figures")
    require_ranker(changed, "ple")


def test_a_variant_has_its_settings_vectors_and_name(tmp_path: Path) -> None:
    settings = small_align(
        models=["larr", "mean"],
        variants={
            "mean": {"of": "larr", "settings": {"scene.pooling": "mean"}},
            "untuned": {"of": "larr", "vectors": "untuned"},
        },
        tuned={"larr": {"learning_rate": 0.02}},
    )
    config = write_log(tmp_path, SIZES, settings)
    assert settings.of("mean").scene.pooling == "mean"
    assert settings.of("mean").learning_rate == 0.02
    assert rankers.text_vectors(config, "untuned") == ["untuned", "tfidf"]
    align(config)
    assert not np.allclose(predict(config, "mean"), predict(config, "larr"))


def test_a_ranker_that_cannot_be_built_is_refused(tmp_path: Path) -> None:
    config = write_log(tmp_path, Sizes(rows=10, test_rows=10, keywords=0))

    def with_variant(name: str, **variant: str) -> Config:
        variants = {name: VariantConfig(**variant)}
        align = config.align.model_copy(update={"models": ["ple", name], "variants": variants})
        return config.model_copy(update={"align": align})

    with pytest.raises(ConfigError, match=r"unknown model 'lar'; expected wide_deep.*, mine"):
        rankers.find(with_variant("mine", of="ple"), "lar")
    for name in ("ple", "ceiling", "larr_over_ple"):
        with pytest.raises(ConfigError, match=f"'{name}' is reserved"):
            rankers.find(with_variant(name, of="larr"), name)
    with pytest.raises(ConfigError, match=r"mine.of: unknown model .* ple, larr(,|$)"):
        rankers.find(with_variant("mine", of="larr_tfidf"), "mine")
    with pytest.raises(ConfigError, match=r"align.variants.mine.vectors: ple reads no text"):
        rankers.find(with_variant("mine", of="ple", vectors="tfidf"), "mine")
    with pytest.raises(ConfigError, match="reads scene texts, but there are none"):
        rankers.build(config, "larr")
    with pytest.raises(ConfigError, match="unknown model 'larr_tfidf'"):
        align(with_variant("mine", of="larr_tfidf"))
    assert not artifacts.folder(config, "align").exists(), "refused before anything is trained"


def test_undoing_the_sampling_by_hand() -> None:
    probabilities = np.array([[0.5, 0.2], [1.0, 0.6], [0.0, 0.0]])
    # the 50 unclicked of 100 rows represent 500 rows, so 50 of 550 rows are clicks, 20 orders
    expected = np.array([[50 / 550, 20 / 550], [1.0, 0.6], [0.0, 0.0]])
    np.testing.assert_allclose(undo_sampling(probabilities, 0.1), expected)
    assert (undo_sampling(probabilities, 1.0) == probabilities).all()
