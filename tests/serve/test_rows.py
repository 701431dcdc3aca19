"""Added rows are found by their numbers, beside the stored ones."""

from __future__ import annotations

import threading

import torch

from larr.serve.rows import SPARE_ROWS, Rows


def test_added_rows_come_behind_the_stored_ones() -> None:
    numbers, letters = torch.arange(5.0), torch.arange(10).reshape(5, 2)
    rows, expected = Rows([numbers, letters]), [numbers, letters]
    for count in (1, 3, SPARE_ROWS, 2 * SPARE_ROWS, 1):
        more = [torch.rand(count), torch.randint(100, (count, 2))]
        rows.write(range(len(rows), len(rows) + count), more)
        expected = [torch.cat(pair) for pair in zip(expected, more, strict=True)]
        index = torch.randint(len(expected[0]), (4, 7), dtype=torch.int32)
        for told, whole in zip(rows.take(index), expected, strict=True):
            assert torch.equal(told, whole[index.long()])
    assert len(rows) == len(expected[0])


def test_stored_rows_stay_as_they_are() -> None:
    stored = torch.zeros(3)
    rows = Rows([stored])
    rows.write([3, 4], [torch.ones(2)])
    assert rows.take(torch.tensor([0, 4, 2]))[0].tolist() == [0, 1, 0]
    assert stored.tolist() == [0, 0, 0]


def test_a_row_is_written_again_in_its_place() -> None:
    rows = Rows([torch.zeros(3)])
    rows.write([3, 4], [torch.tensor([1.0, 2.0])])
    rows.write([4, 5], [torch.tensor([7.0, 8.0])])
    assert rows.take(torch.tensor([3, 4, 5]))[0].tolist() == [1, 7, 8]
    assert len(rows) == 6


def test_a_row_is_never_read_while_it_is_half_written() -> None:
    rows, wide = Rows([torch.zeros(1, 20_000), torch.zeros(1, 20_000)]), torch.ones(1, 20_000)
    rows.write([1], [wide, wide])
    mixed = []

    def read() -> None:
        while not done.is_set():
            one, other = rows.take(torch.tensor([1]))
            mixed.append(bool((one != other[0, 0]).any() or (other != one[0, 0]).any()))

    done, reader = threading.Event(), threading.Thread(target=read)
    reader.start()
    for value in range(300):
        rows.write([1], [value * wide, value * wide])
    done.set()
    reader.join()
    assert mixed
    assert not any(mixed)
