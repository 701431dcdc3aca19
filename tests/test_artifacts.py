"""A manifest marks complete artifacts; stale or incomplete ones are refused or rebuilt."""

import json
import multiprocessing
import os
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import pytest

from larr import artifacts
from larr.artifacts import Artifact
from larr.config import Config
from larr.config.data import KeywordConfig
from larr.errors import LarrError, StaleError


def make(config: Config, verb: str, text: str = "x") -> None:
    with artifacts.building(config, verb) as work:
        (work.folder / "file.txt").write_text(text)
        work.measured(10, "rows")


def interrupted(config: Config) -> None:
    with artifacts.building(config, "prepare") as work:
        (work.folder / "piece").write_text("done")
        raise KeyboardInterrupt


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(output=tmp_path)


def test_a_stage_is_current_until_its_settings_change(config: Config) -> None:
    assert artifacts.stage(config, "prepare").why_stale() == "it is missing or unfinished"
    make(config, "prepare")
    assert artifacts.stage(config, "prepare").is_current()
    other = config.model_copy(update={"seed": 2})
    assert "seed" in (artifacts.stage(other, "prepare").why_stale() or "")
    slower = config.model_copy(
        update={"align": config.align.model_copy(update={"learning_rate": 1.0})}
    )
    assert artifacts.stage(slower, "prepare").is_current()


def test_settings_of_time_and_memory_do_not_make_stages_stale(config: Config) -> None:
    for verb in ("prepare", "pretrain", "contrast", "embed"):
        make(config, verb)
    tree = config.model_dump(mode="json")
    tree["dataset"]["chunk_rows"], tree["embed"]["batch_tokens"] = 7, 7
    assert artifacts.stage(Config.model_validate(tree), "embed").is_current()
    tree["embed"]["dimension"] = 8
    contrast = artifacts.stage(Config.model_validate(tree), "contrast")
    assert "embed.dimension" in (contrast.why_stale() or "")


def test_a_stage_is_stale_after_its_input_is_rebuilt(config: Config) -> None:
    make(config, "prepare", "one")
    make(config, "pretrain")
    make(config, "prepare", "one")
    assert artifacts.stage(config, "pretrain").is_current()
    make(config, "prepare", "two")
    assert artifacts.stage(config, "pretrain").why_stale() == "it was built from another prepare/"
    with pytest.raises(StaleError, match="larr pretrain"):
        make(config, "contrast")


def test_trained_models_are_kept_when_only_the_tables_change(config: Config) -> None:
    for verb in ("prepare", "pretrain", "contrast", "embed", "choose", "align"):
        make(config, verb)
    kept = config.model_copy(update={"keep_trained": True})
    make(kept, "prepare", "new tables")
    for verb in ("pretrain", "contrast"):
        assert artifacts.stage(kept, verb).is_current()
        assert not artifacts.stage(config, verb).is_current()
    assert artifacts.stage(kept, "embed").why_stale() == "it was built from another prepare/"
    make(kept, "embed", "new vectors")
    best_alone = kept.align.model_copy(update={"models": ["best"]})
    for one in (kept, kept.model_copy(update={"align": best_alone})):
        assert artifacts.stage(one, "choose").is_current()
    assert not artifacts.stage(kept, "align").is_current()


def test_kept_models_follow_their_settings(config: Config) -> None:
    kept = config.model_copy(update={"keep_trained": True})
    for verb in ("prepare", "pretrain", "contrast"):
        make(kept, verb)
    menu = KeywordConfig(name="menu", owner="poi", view="business", template="{poi_menu}")
    with_menu = kept.model_copy(update={"keywords": [menu]})
    assert "keywords" in (artifacts.stage(with_menu, "pretrain").why_stale() or "")
    make(kept, "pretrain", "trained again")
    assert artifacts.stage(kept, "contrast").why_stale() == "it was built from another pretrain/"


def test_a_missing_or_shortened_file_makes_a_stage_stale(config: Config) -> None:
    make(config, "prepare")
    (config.output / "prepare" / "file.txt").write_text("")
    assert "file.txt" in (artifacts.stage(config, "prepare").why_stale() or "")


def test_a_failed_stage_leaves_no_manifest_and_resumes_from_its_files(config: Config) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(config)
    assert artifacts.manifest(artifacts.folder(config, "prepare")) is None
    with artifacts.building(config, "prepare") as work:
        assert (work.folder / "piece").read_text() == "done"
    with artifacts.building(config, "prepare", resume=False) as work:
        assert not (work.folder / "piece").exists()


def test_files_started_with_other_settings_are_removed(config: Config) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(config)
    with artifacts.building(config.model_copy(update={"seed": 9}), "prepare") as work:
        assert not (work.folder / "piece").exists()


def test_a_full_disk_leaves_no_manifest(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    def attempt() -> None:
        with artifacts.building(config, "prepare") as work:
            (work.folder / "file.txt").write_text("x")
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(LarrError, match="No space left"):
        attempt()
    assert artifacts.manifest(artifacts.folder(config, "prepare")) is None


def test_a_truncated_manifest_counts_as_missing(config: Config) -> None:
    make(config, "prepare")
    path = config.output / "prepare" / artifacts.MANIFEST
    path.write_text(path.read_text()[:-20])
    assert artifacts.stage(config, "prepare").why_stale() == "it is missing or unfinished"


def test_the_manifest_reports_rate_and_memory(config: Config) -> None:
    make(config, "prepare")
    recorded = json.loads((config.output / "prepare" / artifacts.MANIFEST).read_text())
    measured = recorded["measured"]
    assert measured["unit"] == "rows/s"
    assert (measured["count"], measured["unit"]) == (10, "rows/s")
    assert measured["rate"] > 10
    assert measured["peak_memory_mb"] > 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_memory_that_a_fork_shares_counts_once(config: Config) -> None:
    held = np.ones(50_000_000)
    context = multiprocessing.get_context("fork")
    with artifacts.building(config, "prepare"):
        child = context.Process(target=time.sleep, args=(0.5,))
        child.start()
        child.join()
    recorded = artifacts.manifest(artifacts.folder(config, "prepare"))
    alone, shared = psutil.Process().memory_info().rss / 2**20, held.nbytes / 2**20
    assert shared < recorded["measured"]["peak_memory_mb"] < alone + shared / 2


def test_a_stage_is_written_by_one_process_at_a_time(config: Config) -> None:
    first = artifacts.building(config, "prepare")
    first.__enter__()
    with pytest.raises(LarrError, match="another larr is writing it"):
        make(config, "prepare")
    with pytest.raises(LarrError, match="another larr is writing it"):
        artifacts.forget(config, "prepare")
    first.__exit__(None, None, None)
    assert artifacts.stage(config, "prepare").is_current()


def test_a_linked_stage_folder_is_refused(config: Config, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    artifacts.folder(config, "prepare").symlink_to(tmp_path / "disk")
    with pytest.raises(LarrError, match="is a symbolic link"):
        make(config, "prepare")


def test_artifacts_of_another_version_are_stale(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(config, "prepare")
    monkeypatch.setattr(artifacts, "VERSION", "9.0")
    written = version("larr")
    reason = artifacts.stage(config, "prepare").why_stale()
    assert reason == f"it was written by larr {written}, but this is larr 9.0"


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    source = tmp_path / "source.txt"
    source.write_text("one")
    return Artifact(tmp_path / "part", {"a": {"b": 1}}, {"prepare/": "key"}, (source,))


def write(artifact: Artifact, text: str = "x") -> None:
    artifact.start(resume=False)
    (artifact.folder / "file.txt").write_text(text)
    artifact.finish()


def test_a_stale_artifact_reports_the_changes(artifact: Artifact) -> None:
    assert artifact.why_stale() == "it is missing or unfinished"
    write(artifact)
    assert artifact.is_current()
    changes = {
        "it was built with other settings (a.b)": replace(artifact, settings={"a": {"b": 2}}),
        "it was built from another prepare/": replace(artifact, inputs={"prepare/": "other"}),
    }
    for reason, changed in changes.items():
        assert changed.why_stale() == reason
    artifact.files[0].write_text("longer")
    assert "source.txt" in (artifact.why_stale() or "")


def test_the_key_depends_on_settings_inputs_and_content(artifact: Artifact) -> None:
    keys = set()
    variants = [artifact, replace(artifact, settings={}), replace(artifact, inputs={})]
    for changed in variants:
        write(changed)
        keys.add(artifacts.key(artifact.folder))
    write(artifact, "other content")
    keys.add(artifacts.key(artifact.folder))
    assert len(keys) == 4
    write(artifact)
    assert artifacts.key(artifact.folder) in keys
    os.utime(artifact.files[0], (0, 0))
    assert not artifact.is_current()
    before = artifacts.key(artifact.folder)
    write(artifact)
    assert artifacts.key(artifact.folder) == before


def test_parts_are_kept_when_their_artifact_is_rebuilt(artifact: Artifact) -> None:
    above = replace(artifact, folder=artifact.folder.parent / "above", in_parts=True)
    part = replace(artifact, folder=above.folder / "part", inputs={})
    above.start(resume=False)
    write(part)
    above.finish()
    before = artifacts.key(above.folder)
    changed = replace(above, settings={})
    changed.start(resume=False)
    assert part.is_current()
    assert not above.is_current()
    changed.finish()
    assert changed.is_current()
    assert artifacts.key(above.folder) != before
    (part.folder / "file.txt").unlink()
    assert changed.why_stale() == "its file part/file.txt is missing or has another size"


def test_an_interrupted_artifact_resumes_only_with_the_same_inputs(artifact: Artifact) -> None:
    artifact.start(resume=True)
    (artifact.folder / "piece").write_text("done")
    artifact.start(resume=True)
    assert (artifact.folder / "piece").exists()
    replace(artifact, settings={}).start(resume=True)
    assert not (artifact.folder / "piece").exists()
