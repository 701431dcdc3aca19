"""Tables of the user are read completely, or refused with an explanation."""

from pathlib import Path

import pytest

from larr.config import Config
from larr.data.datasets import dataset, own_tables
from larr.errors import ConfigError, DataError
from tests.own_tables import own_config, write_own


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ("{poi_id='shop', name='title'}", "no column shop, which dataset.tables.rename.places"),
        ("{poi_id='id', title='id'}", "gives a column the name title, but"),
    ],
)
def test_an_invalid_renaming_is_refused(tmp_path: Path, rename: str, message: str) -> None:
    settings = [*write_own(tmp_path), f"dataset.tables.rename.places={rename}"]
    with pytest.raises(DataError, match=message):
        own_tables(own_config(tmp_path, settings), tmp_path)


def test_impressions_are_required(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.tables\.impressions is not set"):
        own_tables(Config(), tmp_path)


def test_queries_read_named_files(tmp_path: Path) -> None:
    """One wide file is the source of all tables; queries can read the impressions."""
    rows = "1,Tea,7,5\n1,Soup,8,2\n2,Tea,9,4\n"
    (tmp_path / "u.data").write_text(rows)
    settings = [
        f"dataset.folder={tmp_path}",
        "dataset.files.ratings={path='u.data', columns=['user','item','seconds','stars']}",
        "dataset.tables.impressions=SELECT user AS user_id, item AS poi_id, seconds AS time, "
        "stars::INT >= 4 AS click, 'a' || seconds AS request_id FROM ratings",
        "dataset.tables.places=SELECT DISTINCT poi_id, poi_id AS name FROM impressions ORDER BY 1",
    ]
    tables = own_tables(own_config(tmp_path, settings), tmp_path)
    assert tables.impressions.collect()["click"].to_list() == [True, False, True]
    assert tables.places.collect()["name"].to_list() == ["Soup", "Tea"]
    assert tables.users.collect()["user_id"].to_list() == ["1", "2"]


def test_an_invalid_query_is_refused(tmp_path: Path) -> None:
    settings = [*write_own(tmp_path), "dataset.tables.users=SELECT member FROM impressions"]
    message = (
        r"dataset\.tables\.users: cannot be read: .*member.* Candidate bindings: .*\"user_id\""
    )
    with pytest.raises(DataError, match=message) as caught:
        own_tables(own_config(tmp_path, settings), tmp_path)
    assert "LINE 1" not in str(caught.value)


def test_the_error_for_an_unknown_data_set_lists_all() -> None:
    config = Config.model_validate({"dataset": {"kind": "town"}})
    with pytest.raises(ConfigError, match=r"dataset\.kind: no data set 'town'.* tables, .*city"):
        dataset(config)
