"""`larr instruct`: predictions are those of the LM, its baselines, the sources that read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from larr.config import Config
from larr.config.rankers import AlignConfig
from larr.errors import ConfigError
from larr.run import embed
from larr.stages import stage_inputs
from larr.text import summaries
from larr.text.backbone import KeywordText, LanguageModel, load_base, load_language_model
from larr.text.encoder import compute
from larr.text.instruct import as_predictor, instruct, known_orders, read_answers, usual
from larr.text.pretrain import pretrain
from tests.fake_data import KEYWORDS, make_data

SETTINGS = {"knowledge": "user_taste", "answers": ["poi_menu", "poi_name"]}
ANSWERS = [("poi_name", "Tea"), ("poi_menu", "mapo tofu, rice"), ("poi_menu", "tea")]
TEXTS = ["likes spicy food", "likes sweet food and milk tea in the afternoon", ""]


def naive(lm: LanguageModel, prompt: KeywordText, answer: KeywordText) -> float:
    """Returns the log-probability of an answer after its start marker, from a pass of its own."""
    x, both = (lm.tokens.encode(parts) for parts in ([prompt], [prompt, answer]))
    start, stop = len(x) - len(lm.tokens.suffix) + 1, len(both) - len(lm.tokens.suffix)
    with torch.no_grad():
        logs = lm.model(torch.tensor([both])).logits.log_softmax(dim=2)[0]
    return sum(float(logs[at - 1, both[at]]) for at in range(start, stop))


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2", "gemma3"])
def test_predictions_are_those_of_the_language_model(kind: str, models: dict[str, Path]) -> None:
    backbone = {"model": str(models[kind]), "max_length": 64}
    lm = load_base(Config.model_validate({"keywords": KEYWORDS, "backbone": backbone}))
    lm.model.eval()
    lm.model.config.sliding_window = 128  # Gemma's: longer than the texts, as in real models
    table = pl.DataFrame(ANSWERS, schema=["keyword", "text"], orient="row")
    prompts = [("user_taste", text) for text in TEXTS]
    found = compute(as_predictor(lm, table), [[prompt] for prompt in prompts], 1_000)
    logs = np.array([[naive(lm, prompt, answer) for answer in ANSWERS] for prompt in prompts])
    logs[:, 0] = 0  # the only answer of its keyword
    logs[:, 1:] -= np.logaddexp(*logs[:, 1:].T)[:, None]
    np.testing.assert_allclose(found, logs, atol=1e-4)


def test_the_stage_learns_what_users_order(tmp_path: Path, models: dict[str, Path]) -> None:
    settings = SETTINGS | {
        "answers": ["poi_tags"],
        "epochs": 10,
        "batch_size": 8,
        "learning_rate": 1e-2,
    }
    backbone = {"model": str(models["qwen2"])}
    config = make_data(tmp_path / "run", backbone=backbone, instruct=settings)
    pretrain(config)
    instruct(config)
    figures = json.loads((config.output / "instruct" / "manifest.json").read_text())["figures"]
    held_out = figures["held_out"]["poi_tags"]
    assert figures["answers"] == 4
    assert held_out["model"] > 0.95
    assert held_out["popular"] < 0.5
    assert held_out["loss"] < 0.3
    assert held_out["popular_loss"] > 1.2


def test_the_usual_answer_is_that_of_earlier_days(tmp_path: Path) -> None:
    answers = ["tea", "rice", "rice", None, "tea", "rice"]
    days = [1, 1, 2, 2, 3, 3]
    table = pl.DataFrame(
        {
            "user_id": [*"uuuuu", "v"],
            "time": [datetime(2024, 4, day, 12) for day in days],
            "poi_menu": answers,
        }
    )
    config = Config(output=tmp_path)
    (tmp_path / "prepare").mkdir()
    table.write_parquet(tmp_path / "prepare" / "orders.parquet")
    found = usual(config, "poi_menu", table).to_list()
    assert found == [None, None, "rice", "rice", "rice", None]  # a tie: by alphabet


def test_sources_hold_the_predictions_and_the_states(
    tuned: Config, copy: Callable[..., Config], models: dict[str, Path], monkeypatch
) -> None:
    monkeypatch.setattr(summaries, "summarise", lambda _, __, texts: [t.upper() for t in texts])
    settings = SETTINGS | {"epochs": 0.5, "summariser": str(models["qwen2"])}
    config = copy(tuned, instruct=settings)
    knowledge = known_orders(config, pl.lit(value=True))["user_taste"]
    assert knowledge.equals(knowledge.str.to_uppercase())
    sources = {name: {"of": "larr", "vectors": name} for name in ("instructed", "predictions")}
    align = AlignConfig.model_validate({"models": [*sources], "variants": sources})
    config = config.model_copy(update={"align": align})
    assert "instruct" in stage_inputs(config, "embed")
    assert "instruct" not in stage_inputs(tuned, "embed")
    instruct(config)
    embed(config)
    instructed_ND, predicted_ND = (
        np.load(config.output / "embed" / name / "vectors.npy") for name in sources
    )
    np.testing.assert_allclose(np.linalg.norm(instructed_ND, axis=1), 1, rtol=1e-4)
    answers = read_answers(config).select("keyword", "text")
    lm = load_language_model(config.output / "instruct", config)
    predictor = as_predictor(lm, answers)
    row_of = {answer: row for row, answer in enumerate(answers.rows())}
    texts = pl.read_parquet(config.output / "prepare" / "texts.parquet")
    for text, vector_D in zip(texts.select("keyword", "text").rows(), predicted_ND, strict=True):
        expected_D = np.zeros_like(vector_D)
        if text in row_of:
            expected_D[row_of[text]] = 1
        if text[0] == "user_taste":
            expected_D[: len(answers)] = compute(
                predictor, [[("user_taste", text[1].upper())]], 100
            )[0]
        np.testing.assert_allclose(vector_D, expected_D, atol=1e-4)
    assert len({*answers["text"]} & {*texts["text"]}) > 10


def test_an_unsuitable_model_or_too_many_answers_are_refused(
    tuned: Config, copy: Callable[..., Config], models: dict[str, Path], tmp_path: Path
) -> None:
    config = copy(tuned, instruct=SETTINGS, embed={"dimension": 8})
    with pytest.raises(ConfigError, match="poi_menu, poi_name have"):
        instruct(config)
    config = make_data(tmp_path / "run", backbone={"model": str(models["bert"])}, instruct=SETTINGS)
    pretrain(config)
    with pytest.raises(ConfigError, match="does not predict next tokens"):
        instruct(config)
