"""Templates, buckets and the numbering of texts."""

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from larr.config import Config
from larr.config.data import BucketConfig, KeywordConfig
from larr.data.keywords import TextNumbers, bucket_edges, check_keywords, render, with_levels
from larr.errors import ConfigError


def keyword(template: str, owner: str = "poi") -> KeywordConfig:
    view = "basic" if owner == "poi" else "action"
    return KeywordConfig(name="k", owner=owner, view=view, template=template)


def test_a_part_in_brackets_is_left_out_where_a_column_is_missing() -> None:
    rows = pl.DataFrame({"poi_name": ["A", None, "C"], "poi_menu": ["x, y", "z", None]})
    assert render(rows, keyword("{poi_name}[: {poi_menu}]")).to_list() == ["A: x, y", None, "C"]
    assert render(rows, keyword("[{poi_name}][; {poi_menu}]")).to_list() == ["A; x, y", "z", "C"]


def test_a_text_without_anything_in_it_is_missing() -> None:
    rows = pl.DataFrame({"poi_menu": [None, "  "]}, schema={"poi_menu": pl.String})
    assert render(rows, keyword("[{poi_menu}]")).to_list() == [None, None]


@pytest.mark.parametrize(
    ("template", "owner", "said"),
    [
        ("{poi_nam}", "poi", "poi_nam"),
        ("plain", "poi", "no column"),
        ("{weather}", "poi", "owner is poi"),
        ("{click}", "scene", "says what happened"),
        ("{probability_click}", "scene", "says what happened"),
        ("likes {poi_name}", "user", "tells of the candidate"),
    ],
)
def test_a_template_with_a_wrong_column_is_refused(template: str, owner: str, said: str) -> None:
    config = Config(keywords=[keyword(template, owner)])
    with pytest.raises(ConfigError, match=said):
        check_keywords(config, ["poi_name", "weather", "click", "probability_click"])


def test_quantile_buckets_hold_equal_shares_and_missing_stays_missing() -> None:
    bucket = BucketConfig(column="x", words=["low", "middle", "high"])
    values = pl.Series("x", [*np.arange(300.0), None, np.nan])
    edges = {"x": bucket_edges(bucket, values)}
    levels = with_levels(values.to_frame(), [bucket], edges)["x_level"]
    counts = dict(levels.value_counts().iter_rows())
    assert abs(counts["low"] - 100) <= 1
    assert abs(counts["high"] - 100) <= 1
    assert levels[-2:].to_list() == [None, None]


def test_given_edges_are_taken_and_must_fit_the_words() -> None:
    bucket = BucketConfig(column="t", words=["cold", "warm"], edges=[10])
    rows = pl.DataFrame({"t": [10, 11]})
    assert with_levels(rows, [bucket], {"t": [10.0]})["t_level"].to_list() == ["cold", "warm"]
    with pytest.raises(ValidationError, match="need 2 edges"):
        BucketConfig(column="t", words=["a", "b", "c"], edges=[1])


def test_equal_texts_of_a_keyword_share_a_number() -> None:
    numbers = TextNumbers()
    first = numbers.number(pl.Series("a", ["x", None, "y", "x"]))
    second = numbers.number(pl.Series("b", ["x"]))
    third = numbers.number(pl.Series("a", ["y", "z"]))
    assert (first.tolist(), second.tolist(), third.tolist()) == ([0, -1, 1, 0], [2], [1, 3])
    assert numbers.table().rows() == [(0, "a", "x"), (1, "a", "y"), (2, "b", "x"), (3, "a", "z")]
