"""Tables of the user are read completely, or refused with what is wrong."""

from pathlib import Path

import pytest

from larr.config import Config
from larr.data.datasets import dataset, own_tables, scan
from larr.errors import ConfigError, DataError
from tests.own_tables import own_config, write_own


def test_a_folder_of_files_is_one_table_and_other_files_are_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "1.CSV").write_text("id,x\n1,2\n")
    (tmp_path / "2.csv").write_text("id,x\n2,3\n")
    (tmp_path / "_SUCCESS").touch()
    assert scan(tmp_path).collect().rows() == [(1, 2), (2, 3)]
    (tmp_path / "2.txt").touch()
    with pytest.raises(DataError, match=r"got 2\.txt"):
        scan(tmp_path)


def test_codes_keep_their_zeros_in_all_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,code,x\n1,0012,1\n")
    (tmp_path / "b.csv").write_text("id,code,x\n2,12,one\n")
    assert scan(tmp_path).collect().rows() == [(1, "0012", "1"), (2, "12", "one")]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "twice.csv").write_text("click,click\n1,0\n")
    with pytest.raises(DataError, match="two columns are called click"):
        scan(tmp_path / "twice.csv")


@pytest.mark.parametrize("content", ["id;x\n1;2\n", "id,x\n1,2,3\n", "id,x\n1,\xff\n", ""])
def test_a_file_that_is_not_csv_is_refused_with_the_format(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.csv").write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match="UTF-8, separated by commas") as raised:
        scan(tmp_path / "a.csv")
    assert "truncate_ragged_lines" not in str(raised.value), "advice for programmers of polars"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        scan(tmp_path / "users.csv")


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ("{poi_id='shop', name='title'}", "no column shop, which dataset.tables.rename.places"),
        ("{poi_id='id', title='id'}", "gives the name title, which another column has"),
    ],
)
def test_a_column_is_renamed_only_if_that_is_possible(
    tmp_path: Path, rename: str, message: str
) -> None:
    settings = [*write_own(tmp_path), f"dataset.tables.rename.places={rename}"]
    with pytest.raises(DataError, match=message):
        own_tables(own_config(tmp_path, settings), tmp_path)


def test_a_table_that_is_not_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.tables\.places is not set"):
        own_tables(Config(), tmp_path)


def test_an_unknown_data_set_is_refused_with_those_that_exist() -> None:
    config = Config.model_validate({"dataset": {"kind": "town"}})
    with pytest.raises(ConfigError, match=r"dataset\.kind: no data set 'town'.* tables, .*city"):
        dataset(config)
