"""`larr init` writes configurations that `larr prepare` can read without edits."""

import re
import sqlite3
from pathlib import Path

import duckdb
import polars as pl
import pytest

from larr.data.prepare import prepare
from larr.errors import DataError
from larr.init.draft import init
from tests.init.drafts import drafted, huts, texts, wide


def test_a_wide_table_has_users_places_and_a_scene(folder: Path) -> None:
    wide().write_csv(folder / "sales.csv")
    (folder / "README.md").write_text("no table")
    text, config = drafted(folder)
    assert "visit AS request_id,  -- such as 'v0'" in text
    assert "receipt: only rows with a click have it" in text
    assert "canteen: it is 'main' in all rows" in text
    assert config.features.candidate_columns == ["price"]
    assert config.backbone.model == "minilm"
    assert {"poi_kind", "user_group", "weather"} <= {*config.features.categories}
    assert {"Potato soup", "kind sweet", "group staff", "11 o'clock, weekday"} <= texts(config)
    init(folder, folder.parent / "again.toml")
    assert (folder.parent / "again.toml").read_text() == text.replace("mine.toml", "again.toml")


def test_files_without_headers_are_joined_by_values(folder: Path) -> None:
    """As in MovieLens 100k, IDs of users are also IDs of films."""
    ratings = [
        (user, film, 1 + (user * film) % 5, 880_000_000 + 7_000 * (user * 31 + film))
        for user in range(1, 25)
        for film in range(1, 41)
        if (user + film) % 3
    ]
    films = [
        (
            *(film, f"Film number {film} (19{50 + film})", f"01-Jan-19{50 + film}", ""),
            *(int((film + flag) % 4 == 0) for flag in range(5)),
        )
        for film in range(1, 41)
    ]
    people = [
        (user, 20 + user * 7 % 50, "MF"[user % 2], 90000 + 37 * user) for user in range(1, 25)
    ]
    for name, rows, separator in (
        ("u.data", ratings, "\t"),
        ("u.item", films, "|"),
        ("u.user", people, "|"),
    ):
        lines = (separator.join(map(str, row)) for row in rows)
        (folder / name).write_text("\n".join(lines) + "\n", encoding="latin-1")
    text, config = drafted(folder)
    assert "column_1 AS user_id" in text
    assert "TRY_CAST(column_3 AS DOUBLE) >= 4 AS click" in text
    assert "column_4: it holds codes, such as '90037'" in text
    found = texts(config)
    assert "Film number 7 (1957)" in found
    assert any(re.match(r"kinds column 5, column 9, column 3 year 1954", one) for one in found)


def test_three_tables_of_a_database_with_orders_before_the_log(folder: Path) -> None:
    log = wide()
    tables = {
        "menu": log.select("dish", title="dish", tags=pl.lit("a|b")).unique(
            "dish", maintain_order=True
        ),
        "customers": log.select("card", "group").unique("card", maintain_order=True).tail(16),
        "impressions": log.select("visit", "card", "dish", "date", clicked="bought"),
        "past_orders": log.filter(bought=1).select(
            "card", "dish", time=pl.col("date").str.replace("04", "03")
        ),
    }
    with duckdb.connect(folder / "shop.duckdb") as database:
        for name, table in tables.items():
            database.register("frame", table)
            database.execute(f"CREATE TABLE {name} AS FROM frame")
    text, config = drafted(folder)
    assert "FROM past_orders" in text
    assert "# CHECK: 5.9% of the users of the log are not in this table; they are added" in text
    assert "duckdb:///" in text
    assert config.dataset.test_days == 1
    assert "group staff" in texts(config)


def test_sales_get_negatives_and_no_leaking_columns(folder: Path) -> None:
    sales = wide().filter(bought=1).select("card", "dish", "weather", "price", timestamp="date")
    with sqlite3.connect(folder / "shop.db") as database:
        database.execute("CREATE TABLE sales (card, dish, weather, price, timestamp)")
        database.executemany("INSERT INTO sales VALUES (?, ?, ?, ?, ?)", sales.rows())
    text, config = drafted(folder)
    assert config.dataset.negatives is not None
    assert "# CHECK: there is no column for clicks" in text
    assert "weather" in config.features.categories
    prepare(config)


def test_a_view_that_cannot_be_read_hides_no_table_of_a_database(folder: Path) -> None:
    """As views with functions of another database; the log has pictures, too."""
    log = huts()["log"].rename({"hiker": "user", "hut_id": "shop"})
    log = log.select("user", "shop", "ms", "tapped", photo=pl.lit(b"\xff\xd8"))
    with sqlite3.connect(folder / "huts.db") as database:
        database.execute("CREATE TABLE log (user, shop, ms, tapped, photo)")
        database.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?)", log.rows())
        database.execute("CREATE VIEW best AS SELECT group_concat(DISTINCT shop, '; ') FROM log")
    text, config = drafted(folder)
    assert re.search(r"#   huts\.db, best: .* cannot be read: DISTINCT aggregates must", text)
    assert "#   photo: it holds nested values" in text
    prepare(config)


def test_a_log_without_times_is_split_by_users(folder: Path) -> None:
    wide().drop("date", "clock", "visit").write_csv(folder / "log.csv", separator=";")
    _, config = drafted(folder)
    assert config.dataset.split_by == "user_id"
    assert "group staff" in texts(config)


def test_the_error_for_a_missing_table_lists_the_files(folder: Path) -> None:
    (folder / "notes.txt").write_text("one\ntwo\n")
    (folder / "shops.XLSX").write_bytes(b"PK")
    (folder / "log.csv").write_text("\n<!DOCTYPE html>\n<html>a,b</html>\n")
    (folder / "users.csv").write_text("version https://git-lfs.github.com/spec/v1\noid 1,2\n")
    expected = r"no table found.*log\.csv: a web page.*users\.csv: a pointer of Git LFS"
    with pytest.raises(DataError, match=expected):
        drafted(folder)
    expected = r"no table found.*notes\.txt: 1 columns.*shops\.XLSX: an Excel workbook; save each"
    with pytest.raises(DataError, match=expected):
        drafted(folder)
    (folder / "train.libsvm").write_text("1 3:1 17:.5\n0 4:1 9:.25\n")
    (folder / "reviews.json").write_text("{u'user': 'a', 'item': 3}\n")
    expected = r"reviews\.json: Python literals.*ast\.literal_eval.*train\.libsvm: a LIBSVM file"
    with pytest.raises(DataError, match=expected):
        drafted(folder)


def test_the_error_without_a_log_says_what_is_missing(folder: Path) -> None:
    pl.DataFrame({"a": [1, 2, 3], "user_id": [3, 3, 4]}).write_csv(folder / "numbers.csv")
    stars = {f"hut {hut}": [(user + hut) % 6 for user in range(30)] for hut in range(25)}
    pl.DataFrame({"hiker": [f"h{n}" for n in range(30)]} | stars).write_csv(folder / "stars.csv")
    expected = r"stars: hiker, hut 0, .*: a matrix .*UNPIVOT.*"
    with pytest.raises(DataError, match=expected) as error:
        drafted(folder)
    assert "numbers: a, user_id (no column can identify places)" in str(error.value)
    lines = [" ".join(map(str, row)) for row in zip(*stars.values(), strict=True)]
    (folder / "numbers.csv").unlink()
    (folder / "stars.csv").write_text("\n".join(lines) + "\n")
    (folder / "log.csv").write_text("<html>a,b</html>\n")
    with pytest.raises(DataError, match=r"log\.csv: a web page.*stars: column_1, .*: a matrix"):
        drafted(folder)


def test_columns_can_be_left_out(folder: Path) -> None:
    """They are named as in the tables or, as `larr check` names them, with a prefix."""
    for name, table in huts(seatCount=pl.col("hut_id").str.len_chars()).items():
        table.write_csv(folder / f"{name}.csv")
    path = folder.parent / "mine.toml"
    init(folder, path, without="poi_seat_count, minutes,user_id")
    text = path.read_text()
    assert "seatCount" not in text
    assert "minutes" not in text
    assert "hiker AS user_id" in text
