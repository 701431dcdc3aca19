"""Which columns keywords may read, and the numbering of texts."""

import polars as pl
import pytest

from larr.config import Config
from larr.config.data import KeywordConfig
from larr.data.keywords import TextNumbers, check_keywords
from larr.errors import ConfigError


@pytest.mark.parametrize(
    ("template", "owner", "message"),
    [
        ("{poi_nam}", "poi", "poi_nam"),
        ("plain", "poi", "no column"),
        ("{poi_name", "poi", "without its other half"),
        ("{poi_name} [x", "poi", "without its other half"),
        ("{weather}", "poi", "owner is poi"),
        ("{click}", "scene", "known only after the impression"),
        ("{probability_click}", "scene", "known only after the impression"),
        ("likes {poi_name}", "user", "describes the candidate"),
        ("{weather}", "scene", "none has the owner poi"),
    ],
)
def test_a_template_with_a_wrong_column_is_refused(template: str, owner: str, message: str) -> None:
    view = "basic" if owner == "poi" else "action"
    keyword = KeywordConfig(name="k", owner=owner, view=view, template=template)
    with pytest.raises(ConfigError, match=message):
        check_keywords(
            Config(keywords=[keyword]), ["poi_name", "weather", "click", "probability_click"]
        )


def test_equal_texts_of_a_keyword_share_a_number() -> None:
    numbers = TextNumbers()
    first = numbers.add(pl.Series("a", ["x", None, "y", "x"]))
    second = numbers.add(pl.Series("b", ["x"]))
    third = numbers.add(pl.Series("a", ["y", "z"]))
    assert (first.tolist(), second.tolist(), third.tolist()) == ([0, -1, 1, 0], [2], [1, 3])
    assert numbers.table().rows() == [(0, "a", "x"), (1, "a", "y"), (2, "b", "x"), (3, "a", "z")]


def test_numbers_are_found_again_for_a_column_and_for_one_value() -> None:
    written = TextNumbers()
    written.add(pl.Series("a", ["x", "y"]))
    numbers = TextNumbers(written.table())
    texts = pl.Series("a", ["y", None, "new", "x"])
    assert numbers.column(texts).tolist() == [1, -1, -1, 0]
    assert [numbers.value("a", text) for text in texts] == [1, -1, -1, 0]
    assert numbers.value("b", "x") == -1
    assert numbers.add_value("b", "x") == len(numbers) - 1 == 2
    assert numbers.text(2) == "x"
