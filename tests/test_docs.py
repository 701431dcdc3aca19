"""The examples of the documents work, and the settings and symbols that they name exist."""

import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer

from larr.cli import command_line
from larr.config import Config
from larr.data.prepare import prepare
from larr.settings import load_config
from larr_lab import knowledge
from larr_lab.studies.experiments import chosen

from .conftest import ROOT

DOCS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]


def blocks(path: Path, language: str, after: str = "") -> list[str]:
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text[text.index(after) :], re.DOTALL)


def test_each_example_of_own_tables_is_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").touch()
    for number, text in enumerate(blocks(ROOT / "docs" / "your_data.md", "toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(text)
        load_config(path)


def test_the_configuration_for_own_tables_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = blocks(ROOT / "docs" / "your_data.md", "toml", "## A configuration")
    text = "\n".join(block for block in found if "extends" not in block)
    (tmp_path / "mine.toml").write_text(text)
    pl.DataFrame({"shop": [1, 2], "title": ["A", "B"], "kitchen": ["Sichuan", None]}).write_csv(
        tmp_path / "shops.csv"
    )
    pl.DataFrame({"user_id": ["u", "v"], "gender": ["f", "m"]}).write_csv(tmp_path / "members.csv")
    rows = [
        {
            "request_id": day,
            "user_id": "u",
            "poi_id": 1 + day % 2,
            "time": f"2024-04-0{day} 12:00:00",
            "click": day % 2,
            "temperature_c": 9 * day,
            "weather": "sunny",
        }
        for day in range(1, 5)
    ]
    pl.DataFrame(rows).write_csv(tmp_path / "log.csv")
    monkeypatch.chdir(tmp_path)
    prepare(load_config(Path("mine.toml")))
    texts = set(pl.read_parquet("runs/mine/prepare/texts.parquet")["text"])
    assert {"lunch, cold, sunny", "lunch, hot, sunny", "Sichuan kitchen", "A", "f"} <= texts


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.stem)
def test_settings_in_documents_exist(path: Path) -> None:
    tree = Config().model_dump()
    named = re.findall(r"`([a-z]+(?:\.[a-z_0-9]+)+)", path.read_text(encoding="utf-8"))
    for dotted in named:
        section, *rest = dotted.split(".")
        if section not in tree or not isinstance(tree[section], dict):
            continue
        value = tree[section]
        for part in rest:
            assert isinstance(value, dict) and part in value, dotted  # noqa: PT018
            value = value[part]


def test_the_paper_map_names_every_equation_and_real_symbols() -> None:
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|.*\| (`larr[^|]*) \|", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 27))
    for _, cell in rows:
        for symbol in re.findall(r"`(larr[\w.]*)`", cell):
            module, _, name = symbol.rpartition(".")
            owner = importlib.import_module(module)
            assert hasattr(owner, name), symbol


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.stem)
def test_linked_files_exist(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link


def test_requests_in_documents_suit_the_city() -> None:
    text = "\n".join(blocks(ROOT / "docs" / "serving.md", "sh"))
    places = knowledge.cities().select("city", "lat", "lon").rows_by_key("city")
    (city,) = set(re.findall(r'"city": "(\w+)"', text))
    asked = re.findall(r'"lat": ([\d.]+), "lon": ([\d.]+)', text)
    assert asked
    for point in asked:
        assert np.abs(np.array(point, float) - places[city][0]).max() < 0.02


def commands(path: Path) -> list[str]:
    """Returns the calls of larr in shell blocks, and inline calls with a configuration."""
    shell = "\n".join(blocks(path, "sh")).splitlines()
    inline = re.findall(r"`(larr [^`|]*\.toml[^`|]*)`", path.read_text(encoding="utf-8"))
    return [line for line in [*shell, *inline] if line.startswith("larr ")]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.stem)
def test_commands_in_documents_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command = typer.main.get_command(command_line())
    for line in commands(path):
        verb, *arguments = shlex.split(line, comments=True)[1:]
        parameters = command.commands[verb].make_context(verb, arguments).params
        config = parameters.get("config")
        if config is None or config.parent == Path():  # a reader's own
            continue
        loaded = load_config(config, parameters.get("override") or [])
        if "study" in parameters:
            assert chosen(loaded, parameters["study"]), line
