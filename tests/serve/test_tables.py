"""Added rows are found by their numbers, after the published ones."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from larr.serve.tables import Columns, Table, write_table


def columns_of(rows: int, random: np.random.Generator) -> Columns:
    return {"number": random.random(rows), "pair": random.integers(100, size=(rows, 2))}


def test_added_rows_follow_the_published_ones() -> None:
    random = np.random.default_rng(0)
    expected = columns_of(5, random)
    table = Table(expected)
    for count in (1, 3, 1):
        more = columns_of(count, random)
        table.write(range(len(table), len(table) + count), more)
        expected = {name: np.concatenate([expected[name], more[name]]) for name in more}
        row = random.integers(len(table), size=(4, 7))
        for name, taken in table.take(row).items():
            assert (taken == expected[name][row]).all()
    assert len(table) == len(expected["pair"])


def test_a_row_is_overwritten_and_published_rows_stay() -> None:
    published = np.zeros(3)
    table = Table({"number": published})
    table.write([3, 4], {"number": np.array([1.0, 2.0])})
    table.write([4, 5], {"number": np.array([7.0, 8.0])})
    assert table.take(np.array([2, 3, 4, 5]))["number"].tolist() == [0, 1, 7, 8]
    assert len(table) == 6
    assert published.tolist() == [0, 0, 0]


def test_a_table_is_written_in_parts(tmp_path: Path) -> None:
    columns = columns_of(10, np.random.default_rng(1)) | {"empty": np.zeros((10, 0))}
    parts = [
        {name: column[start : start + 4] for name, column in columns.items()} for start in (0, 4, 8)
    ]
    write_table(tmp_path / "table", parts, 10)
    table = Table.open(tmp_path / "table")
    for name, column in table.take(np.arange(10)).items():
        assert (column == columns[name]).all()
        assert column.dtype == columns[name].dtype
    assert len(Table.open(tmp_path / "nothing")) == 0


def test_a_row_is_never_read_while_it_is_half_written() -> None:
    wide = np.ones((1, 20_000))
    table = Table({"one": np.zeros((1, 20_000)), "other": np.zeros((1, 20_000))})
    table.write([1], {"one": wide, "other": wide})
    mixed = []

    def read() -> None:
        while not done.is_set():
            one, other = table.take(np.array([1])).values()
            mixed.append(bool((one != other[0, 0]).any() or (other != one[0, 0]).any()))

    done, reader = threading.Event(), threading.Thread(target=read)
    reader.start()
    for value in range(300):
        table.write([1], {"one": value * wide, "other": value * wide})
    done.set()
    reader.join()
    assert mixed
    assert not any(mixed)
