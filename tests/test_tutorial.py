"""The example of docs/your_data.md works, from the files to an answer of the service."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from larr.cli import command_line
from larr.serve.app import Service
from larr.serve.live import Live
from larr.serve.store import Store

ROOT = Path(__file__).parents[1]
SMALLER = (
    "choose.trials=2",
    "choose.members=1",
    'choose.kinds=["lightgbm","ple"]',
    'align.models=["ple","best"]',
    "evaluate.bootstrap=20",
    "evaluate.gains=[]",
)


def test_the_example_runs_from_files_to_a_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has fewer rankers than in the document."""
    document = (ROOT / "docs" / "your_data.md").read_text(encoding="utf-8")
    section = document.split("## From files to a service")[1].split("\n## ")[0]
    commands, request = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    shutil.copytree(ROOT / "docs" / "example", tmp_path / "docs" / "example")
    monkeypatch.chdir(tmp_path)
    *lines, serve = commands.strip().splitlines()
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        if "--set" in words:
            words += [f"--set={setting}" for setting in SMALLER]
        result = CliRunner().invoke(command_line(), words)
        assert result.exit_code == 0, (line, result.output, result.exception)
    store = Path(shlex.split(serve)[2])
    body = json.loads(re.findall(r"-d '(.*)'", request, re.DOTALL)[0])
    with TestClient(Service(Live(Store(store))).app()) as client:
        while client.get("/readyz").status_code != 200:
            time.sleep(0.1)
        answer = client.post("/v1/rank", json=body)
    assert answer.status_code == 200, answer.text
    assert {item["poi_id"] for item in answer.json()["items"]} == {"p00001", "p00002"}
    assert answer.json()["degraded"] == []
