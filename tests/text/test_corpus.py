"""Descriptions are [x_i, y_i], and the general text comes from where the configuration says."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from larr.config import Config
from larr.errors import ConfigError
from larr.text.corpus import descriptions, general_text, texts_of
from larr_lab.city import encyclopedia
from tests.fake_data import KEYWORDS, make_data


def test_description_is_prompt_then_the_rest(tmp_path: Path) -> None:
    made = descriptions(make_data(tmp_path))
    first = made[1]
    assert [keyword for keyword, _ in first.given] == ["poi_name"]
    assert [keyword for keyword, _ in first.told] == ["poi_menu", "poi_tags"]
    assert first.given[0][1] == "Shop 1 in Guangzhou"
    assert first.chain is None
    assert made[0].chain == "Sichuan House"


def test_missing_texts_are_left_out() -> None:
    keywords = Config.model_validate({"keywords": KEYWORDS}).keywords[3:]
    row = {"poi_name": "A", "poi_menu": None, "poi_tags": ""}
    assert texts_of(row, keywords) == [("poi_name", "A")]


def test_nothing_to_tell_is_an_error(tmp_path: Path) -> None:
    config = make_data(tmp_path)
    prompts = [keyword.model_copy(update={"prompt": True}) for keyword in config.keywords]
    with pytest.raises(ConfigError, match="prompt = false"):
        descriptions(config.model_copy(update={"keywords": prompts}))


def test_general_text_is_the_encyclopedia_or_a_file(tmp_path: Path) -> None:
    config = make_data(tmp_path)
    articles = list(islice(encyclopedia.articles(config.seed), 3))
    assert list(islice(general_text(config), 3)) == articles
    (tmp_path / "text.txt").write_text("one document\n\nanother \n", encoding="utf-8")
    own = config.pretrain.model_copy(update={"general_text": tmp_path / "text.txt"})
    config = config.model_copy(update={"pretrain": own})
    assert list(general_text(config)) == ["one document", "another"]


def test_unreadable_general_text_names_the_setting(tmp_path: Path) -> None:
    config = make_data(tmp_path, pretrain={"general_text": tmp_path / "nothing.txt"})
    with pytest.raises(ConfigError, match=r"pretrain\.general_text"):
        list(general_text(config))
