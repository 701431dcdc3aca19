"""Added rows are found by their numbers, beside the stored ones."""

from __future__ import annotations

import torch

from larr.serve.rows import SPARE_ROWS, Rows


def test_added_rows_come_behind_the_stored_ones() -> None:
    numbers, letters = torch.arange(5.0), torch.arange(10).reshape(5, 2)
    rows, expected = Rows([numbers, letters]), [numbers, letters]
    for count in (1, 3, SPARE_ROWS, 2 * SPARE_ROWS, 1):
        more = [torch.rand(count), torch.randint(100, (count, 2))]
        assert rows.add(more) == len(expected[0])
        expected = [torch.cat(pair) for pair in zip(expected, more, strict=True)]
        index = torch.randint(len(expected[0]), (4, 7), dtype=torch.int32)
        for told, whole in zip(rows.take(index), expected, strict=True):
            assert torch.equal(told, whole[index.long()])
    assert len(rows) == len(expected[0])


def test_stored_rows_stay_as_they_are() -> None:
    stored = torch.zeros(3)
    rows = Rows([stored])
    rows.add([torch.ones(2)])
    assert rows.take(torch.tensor([0, 4, 2]))[0].tolist() == [0, 1, 0]
    assert stored.tolist() == [0, 0, 0]
