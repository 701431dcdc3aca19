"""Errors on the command line: one message and an exit status, never a traceback."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from larr import artifacts, cli
from larr.config import Config

TINY = str(Path(__file__).parents[1] / "configs" / "city_tiny.toml")


def status(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["larr", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return exit_.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.toml"], "nowhere.toml"),
        (["run", TINY, "--set", "align.epoch=2"], "no such setting; did you mean align.epochs?"),
        (
            ["run", TINY, "--set", "align.epochs=two"],
            "align.epochs: Input should be",
        ),
        (["run", TINY, "--seeds", "1,x"], "expected distinct integers from 0 to 2^32 - 1"),
        (["init", "nowhere"], "nowhere: no such folder"),
        (["init", ".", "--to", TINY], "exists; give another name with --to"),
        (["check", TINY, "--set", "dataset.kind=tables"], "dataset.tables"),
        (["align", TINY], "run `larr prepare` with the same configuration"),
        (["prepare", TINY, "--set", "dataset.kind=tables"], "dataset.tables"),
    ],
)
def test_invalid_input_is_status_2_with_advice(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status(monkeypatch, *arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed.replace("\n", " ")
    assert "Traceback" not in printed


def test_an_unexpected_error_is_status_1_with_a_traceback_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(_: Config) -> None:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr("larr.data.prepare.prepare", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert status(monkeypatch, "prepare", TINY) == 1
    printed = capsys.readouterr().err
    assert "ZeroDivisionError: unforeseen; please report it with" in printed
    assert "Traceback" not in printed
    (log,) = tmp_path.glob("larr-*.log")
    assert "Traceback" in log.read_text()


def test_a_missing_extra_is_status_2_and_names_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "larr.data.prepare", None)
    monkeypatch.chdir(tmp_path)
    assert status(monkeypatch, "prepare", TINY) == 2
    assert "run `pip install 'larr[train]'`" in capsys.readouterr().err


def test_ctrl_c_explains_how_to_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(_: Config) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("larr.data.prepare.prepare", interrupted)
    monkeypatch.chdir(tmp_path)
    assert status(monkeypatch, "prepare", TINY) == 130
    assert "stopped; run the same command again to continue" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device"),
    ],
)
def test_a_full_disk_leaves_the_stage_unfinished(error: Exception, tmp_path: Path) -> None:
    config = Config(output=tmp_path)
    with (
        pytest.raises(Exception, match=r"could not be written: .*No space left.*; free disk space"),
        artifacts.building(config, "prepare"),
    ):
        raise error
    assert artifacts.stage(config, "prepare").why_stale() == "it is missing or unfinished"


def test_an_error_other_than_a_full_disk_is_raised_unchanged(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match=r"gone\.npy"),
        artifacts.building(Config(output=tmp_path), "prepare"),
    ):
        (tmp_path / "gone.npy").read_bytes()


def test_settings_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(monkeypatch, "settings") == 0
    printed = capsys.readouterr().out.splitlines()
    assert "seed = 1" in printed
    assert "keywords[].name" in printed  # a required setting has no default
    assert status(monkeypatch, "settings", "align.scene") == 0
    printed = capsys.readouterr().out
    assert "align.scene.heads = 4" in printed
    assert "contrast" not in printed


def test_an_unwritable_file_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(_: Config) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system", "/mnt/store")

    monkeypatch.setattr("larr.data.prepare.prepare", fail)
    assert status(monkeypatch, "prepare", TINY, "--set", f"output={tmp_path}") == 1
    assert "/mnt/store: Read-only file system" in capsys.readouterr().err
