"""A blend gives the weighted mean of its members' logits."""

from __future__ import annotations

from pathlib import Path

import torch

from larr import rankers
from larr.rankers.best import Blend
from tests.ranking_log import Sizes, log_of, rows_of, small_align, write_log


def test_its_logits_are_the_weighted_mean_of_its_members(tmp_path: Path) -> None:
    config = write_log(tmp_path / "run", Sizes(rows=200, test_rows=50), small_align(epochs=1))
    weights, batch = {"ple": 3.0, "lightgbm": 1.0}, rows_of(config, "test")
    blend = Blend({name: (rankers.build(config, name), weights[name]) for name in weights})
    for ranker, _ in blend.members.values():
        ranker.fit(log_of(config), seed=1)
    ple, forest = (ranker.score(batch) for ranker, _ in blend.members.values())
    torch.testing.assert_close(blend.score(batch), 0.75 * ple + 0.25 * forest)


def test_each_member_reads_the_text_figures_of_its_own_sources(tmp_path: Path) -> None:
    config = write_log(tmp_path / "run", Sizes(rows=200, test_rows=50), small_align(epochs=1))
    sources = {"ple": ["tfidf"], "lightgbm": [], "larr": ["random", "tfidf"]}
    members = {}
    for name, figures in sources.items():
        settings = config.align.of(name).with_settings({"figures": figures})
        members[name] = rankers.build(config, name, settings), 1.0
    blend = Blend(members)
    logits = []
    for ranker, _ in members.values():
        ranker.fit(log_of(config).with_figures(ranker.figures), seed=1)
        (batch,) = log_of(config, "test").with_figures(ranker.figures).in_order(50)
        logits.append(ranker.score(batch))
    (batch,) = log_of(config, "test").with_figures(blend.figures).in_order(50)
    assert batch.figures.shape == (50, 4)
    torch.testing.assert_close(blend.score(batch), torch.stack(logits).mean(dim=0))
