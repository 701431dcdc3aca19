"""`larr run`: all stages run once, encoders share unchanged stages, a second call does nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from larr import artifacts
from larr.config import Config
from larr.errors import ConfigError, StaleError
from larr.progress import rounded
from larr.rankers import RANKERS
from larr.run import run_stage, train_encoders, vector_sources
from larr.stages import RUN, STAGES, UNTRAINED
from larr.text.embed import SOURCES
from tests.fake_data import make_data

VARIANTS = {
    "no_cpt": {"of": "larr", "vectors": "without_stage_1"},
    "in_order": {"of": "larr", "vectors": "ordered"},
}
ENCODERS = {
    "without_stage_1": {"pretrain.epochs": 0},
    "ordered": {"contrast.shuffle_keywords": False},
    "not_read": {"contrast.temperature": 0.2},
}


def test_a_run_completes_every_stage_and_reports_the_rankers(tiny_run: Config) -> None:
    needed = [verb for verb in RUN if STAGES[verb].is_needed(tiny_run)]
    assert needed == [verb for verb in RUN if verb not in ("distill", "instruct")]
    assert all(artifacts.stage(tiny_run, verb).is_current() for verb in needed)
    report = json.loads((tiny_run.output / "evaluate" / "report.json").read_text())
    assert {*tiny_run.align.models} <= {*report["models"]}
    assert (tiny_run.output / "evaluate" / "report.html").stat().st_size > 10_000
    vectors = {
        name: np.load(tiny_run.output / "embed" / name / "vectors.npy")
        for name in vector_sources(tiny_run)
    }
    assert list(vectors) == ["encoder", "tfidf", "ordered"]
    assert not np.allclose(vectors["encoder"], vectors["ordered"])


def test_a_stage_that_is_up_to_date_is_not_run_again(
    tiny_run: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("larr.rankers.align.align", lambda _: pytest.fail("trains again"))
    run_stage(tiny_run, "align")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A run whose stages only write their settings."""

    def write_settings(config: Config, verb: str) -> None:
        with artifacts.building(config, verb) as work:
            settings = artifacts.stage(config, verb).settings
            artifacts.write_json(work.folder / "settings.json", settings)
            work.measured(1, "runs")

    for verb in ("pretrain", "contrast"):
        monkeypatch.setattr(
            f"larr.text.{verb}.{verb}", lambda config, verb=verb: write_settings(config, verb)
        )

    def embed(config: Config) -> None:
        with artifacts.building(config, "embed") as work:
            encoder = artifacts.key(artifacts.folder(config, "contrast"))
            part = artifacts.Artifact(work.folder / "encoder", {}, {"contrast/": encoder})
            if not part.is_current():
                part.start(resume=False)
                (part.folder / "vectors.npy").touch()
                part.finish()

    monkeypatch.setattr("larr.run.embed", embed)
    align = {"models": ["larr", "no_cpt", "in_order"], "variants": VARIANTS}
    return make_data(
        tmp_path / "run", encoders=ENCODERS, align=align, features={"categories": ["poi_id"]}
    )


def run_to_vectors(config: Config) -> None:
    for verb in ("pretrain", "contrast"):
        run_stage(config, verb)
    train_encoders(config, vector_sources(config))
    run_stage(config, "embed")


def settings_of(config: Config, encoder: str, verb: str) -> dict:
    folder = artifacts.folder(config.for_encoder(encoder), verb)
    return artifacts.read_json(folder / "settings.json")[verb]


def test_an_encoder_shares_what_it_does_not_change(config: Config) -> None:
    run_to_vectors(config)
    folder = config.output / "encoders"
    assert sorted(path.name for path in folder.iterdir()) == ["ordered", "without_stage_1"]
    assert (folder / "ordered" / "prepare").is_symlink()
    assert (folder / "ordered" / "pretrain").is_symlink()
    assert (folder / "without_stage_1" / "prepare").is_symlink()
    assert not (folder / "without_stage_1" / "pretrain").is_symlink()
    assert settings_of(config, "without_stage_1", "pretrain")["epochs"] == 0
    assert settings_of(config, "ordered", "contrast")["shuffle_keywords"] is False


def test_an_encoder_follows_its_run(config: Config) -> None:
    run_to_vectors(config)
    changed = config.model_copy(
        update={"contrast": config.contrast.model_copy(update={"learning_rate": 1e-2})}
    )
    with pytest.raises(StaleError, match="contrast"):
        run_stage(changed, "embed")
    run_to_vectors(changed)
    assert settings_of(changed, "ordered", "contrast")["learning_rate"] == 1e-2
    assert artifacts.stage(changed, "embed").is_current()


def test_an_encoder_that_shares_less_than_before_is_trained(config: Config) -> None:
    run_to_vectors(config)
    encoders = ENCODERS | {"ordered": {"pretrain.epochs": 0}}
    other = Config.model_validate(config.model_dump() | {"encoders": encoders})
    train_encoders(other, vector_sources(other))
    assert not (config.output / "encoders" / "ordered" / "pretrain").is_symlink()


def test_encoders_that_cannot_be_trained_are_refused(config: Config) -> None:
    with pytest.raises(ValidationError, match="not below backbone, pretrain or contrast"):
        Config(encoders={"other": {"features.recent": 3}})
    with pytest.raises(
        ConfigError, match="unknown text vectors 'ordered', 'without_stage_1'; expected encoder"
    ):
        vector_sources(config.model_copy(update={"encoders": {}}))


def test_force_builds_the_parts_again(config: Config) -> None:
    run_to_vectors(config)
    vectors = config.output / "embed" / "encoder" / "vectors.npy"
    before = vectors.stat().st_mtime_ns
    run_stage(config, "embed")
    assert vectors.stat().st_mtime_ns == before
    run_stage(config, "embed", force=True)
    assert vectors.stat().st_mtime_ns > before


def test_a_stage_refuses_stale_inputs_before_it_starts(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StaleError, match=r"larr .* with the same configuration"):
        run_stage(config, "evaluate")
    assert "evaluate ->" not in capsys.readouterr().err


def test_rates_below_one_have_a_decimal() -> None:
    assert rounded(0.42, "steps/s") == "0.4 steps/s"
    assert rounded(1234.5, "rows/s") == "1,234 rows/s"
    assert rounded(0, "texts/s") == "0 texts/s"


def test_settings_of_later_stages_are_checked_after_prepare(config: Config) -> None:
    contrast = config.contrast.model_copy(update={"near": "poi_planet"})
    with pytest.raises(ConfigError, match=r"contrast\.near: cannot read poi_planet; .* poi_city"):
        run_stage(config.model_copy(update={"contrast": contrast}), "pretrain")


def test_only_a_run_that_reads_a_trained_model_trains_one(tiny_run: Config) -> None:
    kinds = {name for name, kind in RANKERS.items() if kind.text_vectors is None}
    untrained = {name for name, source in SOURCES.items() if not (source.stages or source.sources)}
    assert kinds | untrained == UNTRAINED

    def trains(models: list[str], **settings: object) -> bool:
        found = tiny_run.with_settings({"align.models": models, **settings})
        return STAGES["pretrain"].is_needed(found) and STAGES["contrast"].is_needed(found)

    frozen = {"align.variants": {"frozen": {"of": "larr", "vectors": "sentence_encoder"}}}
    assert not trains(["ple", "larr_tfidf", "frozen"], **frozen)
    assert trains(["ple", "larr"])
    assert trains(["in_order"])
    assert trains(["ple", "best"], **{"choose.sources": ["encoder"]})
    assert trains(["frozen"], **frozen, **{"align.scene.matching_sources": ["encoder"]})


def test_sources_of_matching_need_their_stage(tiny_run: Config) -> None:
    settings = {"align.models": ["larr"], "align.scene.matching_sources": ["distilled"]}
    assert STAGES["distill"].is_needed(tiny_run.with_settings(settings))
    assert not STAGES["distill"].is_needed(tiny_run)
