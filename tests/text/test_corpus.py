"""Descriptions of places, and the sources of general text."""

from __future__ import annotations

from pathlib import Path

import pytest

from larr.config import Config
from larr.errors import ConfigError
from larr.text.corpus import descriptions, general_text, row_texts
from tests.fake_data import KEYWORDS


def test_a_description_is_a_prompt_and_a_target(prepared: Config) -> None:
    branch, first = descriptions(prepared)[:2]
    assert [keyword for keyword, _ in first.prompt] == ["poi_name"]
    assert [keyword for keyword, _ in first.target] == ["poi_menu", "poi_tags"]
    assert first.prompt[0][1] == "Shop 1 in Guangzhou"
    assert first.chain is None
    assert branch.chain == "Sichuan House"


def test_missing_texts_are_omitted() -> None:
    keywords = Config.model_validate({"keywords": KEYWORDS}).keywords[3:]
    row = {"poi_name": "A", "poi_menu": None, "poi_tags": ""}
    assert row_texts(row, keywords) == (("poi_name", "A"),)


def test_all_texts_are_predicted_if_every_keyword_is_a_prompt(prepared: Config) -> None:
    prompts = [keyword.model_copy(update={"prompt": True}) for keyword in prepared.keywords]
    first = descriptions(prepared.model_copy(update={"keywords": prompts}))[1]
    assert not first.prompt
    places = [keyword.name for keyword in prompts if keyword.owner == "poi"]
    assert [keyword for keyword, _ in first.target] == places


def test_general_text_is_read_from_a_file_in_order(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("one document\n\nanother \n", encoding="utf-8")
    config = Config.model_validate({"pretrain": {"general_text": path}})
    assert list(general_text(config)) == ["one document", "another"]


def test_the_builtin_model_reads_the_builtin_text_in_the_order_of_the_seed() -> None:
    documents = list(general_text(Config(seed=1)))
    other_seed = list(general_text(Config(seed=2)))
    assert len(documents) > 50_000
    assert documents != other_seed
    assert sorted(documents) == sorted(other_seed)


def test_other_models_read_the_builtin_text_only_if_configured() -> None:
    other = {"backbone": {"model": "another"}}
    assert not list(general_text(Config.model_validate(other)))
    asked = Config.model_validate(other | {"pretrain": {"general_text": "builtin"}})
    assert next(general_text(asked)) == next(general_text(Config()))


def test_the_error_for_unreadable_general_text_names_the_setting() -> None:
    config = Config.model_validate({"pretrain": {"general_text": "nothing.txt"}})
    with pytest.raises(ConfigError, match=r"pretrain\.general_text"):
        list(general_text(config))
