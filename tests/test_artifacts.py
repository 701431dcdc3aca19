"""A manifest means "whole"; a stale or half-written stage is refused or made again."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from larr import artifacts
from larr.config import Config
from larr.errors import LarrError, StaleError


def make(config: Config, verb: str, text: str = "x") -> None:
    with artifacts.making(config, verb) as work:
        (work.folder / "file.txt").write_text(text)
        work.measured(10, "rows")


def interrupted(config: Config) -> None:
    with artifacts.making(config, "prepare") as work:
        (work.folder / "piece").write_text("done")
        raise KeyboardInterrupt


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(output=tmp_path)


def test_a_stage_is_current_until_its_settings_change(config: Config) -> None:
    assert artifacts.why_stale(config, "prepare") == "it is missing or unfinished"
    make(config, "prepare")
    assert artifacts.is_current(config, "prepare")
    other = config.model_copy(update={"seed": 2})
    assert "seed" in (artifacts.why_stale(other, "prepare") or "")
    slower = config.model_copy(
        update={"align": config.align.model_copy(update={"learning_rate": 1.0})}
    )
    assert artifacts.is_current(slower, "prepare")


def test_what_only_changes_time_and_memory_makes_nothing_stale(config: Config) -> None:
    for verb in ("prepare", "pretrain", "contrast", "embed"):
        make(config, verb)
    tree = config.model_dump(mode="json")
    tree["dataset"]["chunk_rows"], tree["embed"]["batch_tokens"] = 7, 7
    assert artifacts.is_current(Config.model_validate(tree), "embed")
    tree["embed"]["dimension"] = 8
    assert "embed.dimension" in (artifacts.why_stale(Config.model_validate(tree), "contrast") or "")


def test_a_stage_is_stale_when_its_input_was_made_again(config: Config) -> None:
    make(config, "prepare", "one")
    make(config, "pretrain")
    make(config, "prepare", "one")
    assert artifacts.is_current(config, "pretrain")
    make(config, "prepare", "two")
    assert artifacts.why_stale(config, "pretrain") == "it was made from another data/"
    with pytest.raises(StaleError, match="larr pretrain"):
        make(config, "contrast")


def test_a_missing_or_shortened_file_makes_a_stage_stale(config: Config) -> None:
    make(config, "prepare")
    (config.output / "data" / "file.txt").write_text("")
    assert "file.txt" in (artifacts.why_stale(config, "prepare") or "")


def test_a_failed_stage_leaves_no_manifest_and_goes_on_from_what_is_there(config: Config) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(config)
    assert artifacts.manifest(config, "prepare") is None
    with artifacts.making(config, "prepare") as work:
        assert (work.folder / "piece").read_text() == "done"
    with artifacts.making(config, "prepare", resume=False) as work:
        assert not (work.folder / "piece").exists()


def test_pieces_begun_with_other_settings_are_thrown_away(config: Config) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(config)
    with artifacts.making(config.model_copy(update={"seed": 9}), "prepare") as work:
        assert not (work.folder / "piece").exists()


def test_a_full_disk_while_the_manifest_is_written_leaves_none(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    def attempt() -> None:
        with artifacts.making(config, "prepare") as work:
            (work.folder / "file.txt").write_text("x")
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(LarrError, match="No space left"):
        attempt()
    assert artifacts.manifest(config, "prepare") is None


def test_a_cut_off_manifest_counts_as_missing(config: Config) -> None:
    make(config, "prepare")
    path = config.output / "data" / artifacts.MANIFEST
    path.write_text(path.read_text()[:-20])
    assert artifacts.why_stale(config, "prepare") == "it is missing or unfinished"


def test_the_manifest_reports_rate_and_memory(config: Config) -> None:
    make(config, "prepare")
    made = json.loads((config.output / "data" / artifacts.MANIFEST).read_text())
    measured = made["measured"]
    assert measured["unit"] == "rows/s"
    assert (measured["count"], measured["unit"]) == (10, "rows/s")
    assert measured["rate"] > 10
    assert measured["peak_memory_mb"] > 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_memory_that_a_fork_shares_counts_once(config: Config) -> None:
    held = np.ones(50_000_000)
    context = multiprocessing.get_context("fork")
    with artifacts.making(config, "prepare"):
        child = context.Process(target=time.sleep, args=(0.5,))
        child.start()
        child.join()
    made = artifacts.manifest(config, "prepare")
    assert made is not None
    alone, shared = psutil.Process().memory_info().rss / 2**20, held.nbytes / 2**20
    assert shared < made["measured"]["peak_memory_mb"] < alone + shared / 2


def test_a_stage_is_made_by_one_process_at_a_time(config: Config) -> None:
    first = artifacts.making(config, "prepare")
    first.__enter__()
    with pytest.raises(LarrError, match="another larr is making it"):
        make(config, "prepare")
    with pytest.raises(LarrError, match="another larr is making it"):
        artifacts.forget(config, "prepare")
    first.__exit__(None, None, None)
    assert artifacts.is_current(config, "prepare")


def test_a_link_in_the_place_of_a_stage_is_said(config: Config, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    artifacts.folder(config, "prepare").symlink_to(tmp_path / "disk")
    with pytest.raises(LarrError, match="is a link"):
        make(config, "prepare")


def test_a_setting_that_an_older_larr_did_not_have_changes_nothing(config: Config) -> None:
    make(config, "prepare")
    path = artifacts.folder(config, "prepare") / "manifest.json"
    made = json.loads(path.read_text())
    del made["settings"]["dataset"]["tables"]["time_zone"]
    path.write_text(json.dumps(made))
    assert artifacts.is_current(config, "prepare")
    tables = config.dataset.tables.model_copy(update={"time_zone": "UTC"})
    other = config.dataset.model_copy(update={"tables": tables})
    reason = artifacts.why_stale(config.model_copy(update={"dataset": other}), "prepare")
    assert reason == "it was made with other settings (dataset.tables.time_zone)"
