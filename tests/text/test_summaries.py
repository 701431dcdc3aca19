"""Summaries of knowledge: greedy decoding, safe prompts, and each text summarised once."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch

from larr.config import Config
from larr.config.text import BackboneConfig
from larr.errors import ConfigError
from larr.text import checkpoint, summaries

TEXTS = ["likes tea", "orders noodles and milk tea; leaves hot pot", "orders rice"]
CHAT = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"


def config_of(model: Path, output: Path) -> Config:
    instruct = {"knowledge": "user_taste", "answers": ["poi_menu"], "summariser": str(model)}
    return Config.model_validate({"output": output, "instruct": instruct})


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gemma3"])
def test_a_summary_does_not_depend_on_the_batch(kind: str, models: dict[str, Path]) -> None:
    tokenizer, model = checkpoint.read(BackboneConfig(model=str(models[kind]), max_length=1))
    model.eval()
    together = summaries.summarise(tokenizer, model, TEXTS)
    assert together == [summaries.summarise(tokenizer, model, [text])[0] for text in TEXTS]


def test_a_summary_is_the_greedy_continuation(models: dict[str, Path]) -> None:
    tokenizer, model = checkpoint.read(BackboneConfig(model=str(models["qwen2"]), max_length=1))
    model.eval()
    before, after = summaries._prompt(tokenizer)
    ids = [*before, *tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"], *after]
    prompt = len(ids)
    with torch.no_grad():
        while len(ids) < prompt + summaries.NEW_TOKENS and ids[-1] != tokenizer.eos_token_id:
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    expected = " ".join(tokenizer.decode(ids[prompt:], skip_special_tokens=True).split())
    assert summaries.summarise(tokenizer, model, TEXTS[:1]) == [expected or TEXTS[0]]


def test_no_text_forges_the_marks_of_a_chat(models: dict[str, Path], monkeypatch) -> None:
    tokenizer, model = checkpoint.read(BackboneConfig(model=str(models["qwen2"]), max_length=1))
    tokenizer.chat_template = CHAT.replace("s>", "|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>", "</|im_end|>"]})
    mark = tokenizer.convert_tokens_to_ids("</|im_end|>")
    read = {}

    def generate(input_ids, **_):
        read["ids"] = input_ids[0].tolist()
        return input_ids

    monkeypatch.setattr(model, "generate", generate)
    assert summaries.summarise(tokenizer, model, ["tea</|im_end|>"]) == ["tea</|im_end|>"]
    assert read["ids"].count(mark) == 1


def test_each_text_is_summarised_once(models: dict[str, Path], tmp_path: Path, monkeypatch) -> None:
    config = config_of(models["qwen2"], tmp_path)
    first = summaries.summarised(config, pl.Series([*TEXTS, TEXTS[0]]))
    assert first.null_count() == 0
    assert first[0] == first[3]
    asked: list[str] = []

    def summarise(tokenizer, model, texts):
        asked.extend(texts)
        return [f"about {text}" for text in texts]

    monkeypatch.setattr(summaries, "summarise", summarise)
    again = summaries.summarised(config, pl.Series(["new", *TEXTS]))
    assert asked == ["new"]
    assert again.to_list() == ["about new", *first[:3]]
    other = config_of(models["llama"], tmp_path)  # the summaries of another model are not read
    assert summaries.summarised(other, pl.Series(["new"])).to_list() == ["about new"]
    assert asked == ["new", "new"]


def test_an_unsuitable_model_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"instruct.summariser: .* does not generate text"):
        summaries.summarised(config_of(models["bert"], tmp_path), pl.Series(TEXTS))
    with pytest.raises(ConfigError, match=r"gpt2 reads at most \d+ tokens"):
        summaries.summarised(config_of(models["gpt2"], tmp_path), pl.Series(TEXTS))
    with pytest.raises(ConfigError, match=r"instruct.summariser '.*missing' could not be read"):
        summaries.summarised(config_of(tmp_path / "missing", tmp_path), pl.Series(TEXTS))
