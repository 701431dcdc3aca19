"""The numbering of texts."""

import polars as pl

from larr.data.keywords import TextNumbers


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
