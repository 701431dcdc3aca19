"""A blend gives the weighted mean of its members' logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from larr import rankers
from larr.errors import ConfigError
from larr.rankers.blend import Blend
from tests.ranking_log import Sizes, log_of, rows_of, small_align, write_log


def test_its_logits_are_the_weighted_mean_of_its_members(tmp_path: Path) -> None:
    config = write_log(tmp_path / "run", Sizes(rows=200, test_rows=50), small_align(epochs=1))

    def untrained() -> Blend:
        weights = {"ple": 3.0, "lightgbm": 1.0}
        return Blend({name: (rankers.build(config, name), weights[name]) for name in weights})

    blend, batch = untrained(), rows_of(config, "test")
    blend.fit(log_of(config), seed=1)
    ple, forest = (ranker.score(batch) for ranker, _ in blend.members.values())
    expected = 0.75 * ple + 0.25 * forest
    torch.testing.assert_close(blend.score(batch), expected)
    blend.save(tmp_path / "model.safetensors")
    again = untrained()
    again.load(tmp_path / "model.safetensors")
    assert torch.equal(again.score(batch), blend.score(batch))


def test_each_member_reads_the_text_figures_of_its_own_sources(tmp_path: Path) -> None:
    config = write_log(tmp_path / "run", Sizes(rows=200, test_rows=50), small_align(epochs=1))
    sources = {"ple": ["tfidf"], "lightgbm": [], "larr": ["random", "tfidf"]}
    members = {}
    for name, figures in sources.items():
        settings = config.align.of(name).with_settings({"figures": figures})
        members[name] = rankers.build(config, name, settings), 1.0
    blend = Blend(members)
    blend.fit(log_of(config), seed=1)
    logits = []
    for ranker, _ in members.values():
        (batch,) = log_of(config, "test").with_figures(ranker.figures).in_order(50)
        logits.append(ranker.score(batch))
    (batch,) = log_of(config, "test").with_figures(blend.figures).in_order(50)
    assert batch.figures.shape == (50, 4)
    torch.testing.assert_close(blend.score(batch), torch.stack(logits).mean(dim=0))


@pytest.mark.parametrize("members", [{}, {"ple": (None, 0.0)}])
def test_members_need_weights_above_0(members: dict[str, tuple[object, float]]) -> None:
    with pytest.raises(ConfigError, match="weights above 0"):
        Blend(members)  # type: ignore[arg-type]
