"""The package of docs/extend.md, with a plugin of each kind."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from larr import artifacts, cli
from larr.config import Config
from larr.data.batches import LogRows
from larr.data.prepare import prepare
from larr.errors import ConfigError
from larr.plugins import plugins, with_plugins
from larr.rankers import build
from larr.rankers.graph import graph_inputs
from larr.run import run_stage
from larr.serve.forms import Graph
from tests.conftest import ROOT, SMALL

DOCUMENT = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yields the package `extras`, on the import path and with its entry points."""
    site = tmp_path_factory.mktemp("site")
    (site / "extras").mkdir()
    for name, code in re.findall(r"```python\n# (extras/\w+\.py)\n(.*?)```", DOCUMENT, re.DOTALL):
        (site / name).write_text(code)
    (declared,) = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    groups = tomllib.loads(declared)["project"]["entry-points"]
    lines = [
        line
        for group, points in groups.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    information = site / "extras-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: extras\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("\n".join(lines))
    sys.path.insert(0, str(site))
    plugins.cache_clear()
    yield site
    sys.path.remove(str(site))
    plugins.cache_clear()


def test_plugins_reach_the_report(package: Path, tiny_run: Config, tmp_path: Path) -> None:
    for verb in ("prepare", "pretrain", "contrast"):
        (tmp_path / verb).symlink_to(tiny_run.output / verb)
    variant = {"larr_characters": {"of": "larr", "vectors": "characters"}}
    align = {"models": ["popularity", "larr_characters"], "variants": variant, "batch_size": 1000}
    changes = {"output": tmp_path, "align": align, "encoders": {}}
    evaluate = {"bootstrap": 10, "gains": [("larr_characters", "popularity")]}
    config = Config.model_validate(tiny_run.model_dump() | changes | {"evaluate": evaluate})
    for verb in ("embed", "align", "evaluate"):
        run_stage(config, verb)
    vectors_ND = np.load(tmp_path / "embed" / "characters" / "vectors.npy")
    np.testing.assert_allclose(np.linalg.norm(vectors_ND, axis=1), 1, rtol=1e-5)
    report = artifacts.read_json(tmp_path / "evaluate" / "report.json")
    metrics = report["models"]["popularity"]
    assert 0 < metrics["ctr_brier"]["mean"] < 0.25
    assert metrics["ctr_auc"]["mean"] > 0.5
    assert "larr_characters_over_popularity" in report["gains"]


def test_a_ranker_of_a_plugin_is_exported(package: Path, tiny_run: Config, tmp_path: Path) -> None:
    ranker = build(tiny_run, "popularity")
    log = LogRows(artifacts.folder(tiny_run, "prepare") / "train")
    ranker.fit(log, seed=0)
    batch = next(log.in_order(50))
    ranker.write_graph(tmp_path / "ranker.onnx", batch.select(torch.arange(2)))
    actual = Graph(tmp_path / "ranker.onnx")(graph_inputs(batch))["logits"]
    np.testing.assert_allclose(actual, ranker.score(batch).numpy(), rtol=1e-6)


def test_a_data_set_of_a_plugin_is_prepared(package: Path, tmp_path: Path) -> None:
    name = {"name": "name", "owner": "poi", "view": "business", "template": "{poi_name}"}
    when = {"name": "when", "owner": "scene", "view": "action", "template": "{meal_slot}"}
    settings = {"dataset": {"kind": "market"}, "keywords": [name, when]}
    settings |= {"features": {"categories": ["poi_id"]}}
    config = Config.model_validate(settings | {"output": tmp_path})
    prepare(config)
    assert artifacts.stage(config, "prepare").is_current()
    assert artifacts.read_json(tmp_path / "prepare" / "features.json")["train_rows"] == 6


def test_a_command_of_a_plugin_is_called(
    package: Path, city: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"--set={setting}" for setting in (f"output={city.output}", *SMALL)]
    arguments = ["larr", "rows", str(ROOT / "configs" / "city_tiny.toml"), *settings]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert not exit_.value.code
    assert 5_000 < int(capsys.readouterr().out) < 8_000


def test_names_of_larr_are_reserved(package: Path) -> None:
    message = r"declares 'characters' in larr\.vectors, but larr already"
    with pytest.raises(ConfigError, match=message):
        with_plugins({"characters": object()}, "vectors")
