"""`larr init` writes configurations that `larr prepare` can read without edits."""

import re
import sqlite3
from pathlib import Path

import duckdb
import polars as pl
import pytest

from larr.config import Config
from larr.data.draft import init
from larr.data.prepare import prepare
from larr.data.reader import Reader
from larr.data.roles import words_of
from larr.errors import DataError
from larr.settings import load_config

DISHES = ["Potato soup", "Beef stew with noodles", "Apple pie", "Green tea", "Rice bowl"]
KINDS = ["savoury", "savoury", "sweet", "drink", "savoury"]


def wide(visits: int = 120) -> pl.DataFrame:
    """One row for each of three dishes offered at a visit; the middle one is bought."""
    rows = [
        {
            "visit": f"v{visit}",
            "card": f"c{visit % 17}",
            "group": "staff" if visit % 17 < 5 else "student",
            "date": f"2024-04-{1 + visit // 12:02}",
            "clock": f"{11 + visit % 3}:30",
            "weather": ["sun", "rain"][visit // 12 % 2],
            "guests": 10 + visit * 7 % 83,
            "dish": DISHES[(visit + offer) % 5],
            "kind": KINDS[(visit + offer) % 5],
            "price": 3 + offer + visit % 40 / 10,
            "receipt": f"r{visit}" if offer == 1 else None,
            "canteen": "main",
            "bought": int(offer == 1),
        }
        for visit in range(visits)
        for offer in range(3)
    ]
    return pl.DataFrame(rows)


def drafted(folder: Path) -> tuple[str, Config]:
    """Returns the configuration that `larr init` writes, as text and loaded."""
    path = folder.parent / "mine.toml"
    init(folder, path)
    return path.read_text(), load_config(path, [f"output={folder.parent}/out"])


def texts(config: Config) -> set[str]:
    prepare(config)
    return set(pl.read_parquet(config.output / "prepare" / "texts.parquet")["text"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tables").mkdir()
    return tmp_path / "tables"


def test_a_wide_table_has_users_places_and_a_scene(folder: Path) -> None:
    wide().write_csv(folder / "sales.csv")
    (folder / "README.md").write_text("no table")
    text, config = drafted(folder)
    assert "visit AS request_id,  -- such as 'v0'" in text
    assert "receipt: only rows with a click have it" in text
    assert "canteen: it is 'main' in all rows" in text
    assert config.features.candidate_columns == ["price"]
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
    pl.DataFrame({"a": [1, 2], "b": [3, 4]}).write_csv(folder / "numbers.csv")
    with pytest.raises(DataError, match=r"no table looks like a log .* numbers: a, b"):
        drafted(folder)


def test_names_are_split_into_words() -> None:
    assert words_of("userId:token") == ["user", "id"]
    assert words_of("RestaurantLessThan20") == ["restaurant", "less", "than20"]


def test_kinds_of_columns_are_detected(tmp_path: Path) -> None:
    forms = {
        "seconds": ("time", "seconds", ["881250949", "891717742", "880606923"]),
        "milliseconds": ("time", "milliseconds", ["1712577600000", "1712577700000"]),
        "iso": ("time", "", ["2024-04-08T12:10:00", "2024-04-09 12:10:00"]),
        "digits": ("date", "%Y%m%d", ["20240408", "20240513"]),
        "day_first": ("time", "%d/%m/%Y %H:%M:%S", ["31/01/2012 16:10:01", "02/02/2012 11:59:48"]),
        "month_first": (
            "time",
            "%m/%d/%Y %I:%M:%S %p",
            ["11/14/2019 9:05:58 AM", "11/15/2019 1:00:00 PM"],
        ),
        "clock": ("clock", "", ["9:05", "12:30"]),
        "bars": ("list", "|", ["a|b", "b|c", "a|c", "c|b", "b|a"]),
        "yes": ("flag", "", ["yes", "no"]),
        "user_id": ("category", "", [str(n * 7) for n in range(20)]),
        "amount": ("number", "", [str(n * 7) for n in range(20)]),
        "zip_code": ("code", "", [str(10_000 + 37 * n) for n in range(60)]),
        "stars": ("category", "", ["1", "2", "3", "4", "5"]),
        "kind": ("category", "", ["meat or fish", "no meat"]),
        "i_category": ("category", "", [str(n * 7) for n in range(20)]),
        "title": ("text", "", [f"The film of {n}" for n in range(60)]),
        "chinese": ("text", "", [f"{n}号牛肉面馆" for n in range(60)]),
        "page": ("link", "", ["https://example.org/a", "https://example.org/b"]),
        "empty": ("missing", "", ["NULL", "N/A"]),
        "same": ("constant", "", ["x"]),
    }
    columns = {name: (values * 60)[:60] for name, (_, _, values) in forms.items()}
    pl.DataFrame(columns).write_csv(tmp_path / "log.csv")
    (table,) = Reader(tmp_path, tmp_path / "scratch", tmp_path).tables
    assert {column.name: (column.kind, column.form) for column in table.columns} == {
        name: (kind, form) for name, (kind, form, _) in forms.items()
    }


def huts(**columns: pl.Expr) -> dict[str, pl.DataFrame]:
    """Tables whose users, places and requests have unusual names; one of 20 huts is repeated."""
    log = pl.DataFrame(
        [
            {
                "bundle": f"t-{visit:03}",
                "hiker": 700 + visit * 7 % 30,
                "hut_id": f"h{(visit * 3 + slot * slot) % 20}",
                "slot": slot,
                "ms": 1_740_000_000_000 + 3_000_000 * visit + 7 * slot,
                "tapped": (visit * 5 + slot * 3) % 7 < 2,
                "guest_lat": 47 + visit * 0.0137,
                "guest_lng": 11 + visit * 0.0071,
                "minutes": (visit * 7 + slot * 11) % 50,
            }
            for visit in range(150)
            for slot in range(1, 5)
        ]
    )
    places = pl.DataFrame(
        {
            "hut_id": [f"h{n}" for n in range(20)],
            "title": [f"{w} {c}-Hut" for c in "ABCDE" for w in ("Red", "Old", "Big", "New")],
            "opened": [f"{1990 + n}-05-01" for n in range(20)],
        }
    )
    hikers = pl.DataFrame({"hiker": range(700, 730), "age_band": ["18-30", "31-50", "51-70"] * 10})
    return {
        "log": log.with_columns(**columns),
        "huts": pl.concat([places, places.head(1)]),
        "hikers": hikers,
    }


def written(folder: Path, tables: dict[str, pl.DataFrame]) -> tuple[str, Config]:
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    return drafted(folder)


def test_ids_and_requests_are_found_by_their_values(folder: Path) -> None:
    """A latitude is no user, and rows of one request have near times and different positions."""
    text, config = written(folder, huts(session_id=pl.format("s{}", pl.col("hiker"))))
    assert "hiker AS user_id" in text
    assert "guest_lat AS lat" in text
    assert "# CHECK: is bundle the request ID?" in text
    assert config.features.candidate_columns == ["minutes", "position"]
    prepare(config)


def test_a_column_with_a_value_per_row_is_no_request(folder: Path) -> None:
    tables = huts(request_id=pl.format("{}-{}", "bundle", "slot"))
    text, _ = written(folder, tables)
    assert "bundle AS request_id" in text
    tables["log"] = tables["log"].drop("bundle")
    assert "    request_id,  -- such as" in written(folder, tables)[0]


def test_tables_with_some_repeated_keys_are_read(folder: Path) -> None:
    """The users are not also joined with the log, although no word of their names is known."""
    tables = huts()
    text, config = written(folder, tables)
    assert "# CHECK: hut_id is missing or repeated in 4.8% of the rows" in text
    assert "coalesce(title, hut_id) AS name" in text, "a title is not a list of words"
    assert "year(opened::TIMESTAMP) AS opened_year  -- category, such as '1990'" in text
    assert "FROM hikers" in text
    assert "joined" not in text
    assert {"Old A-Hut", "age band 31-50"} <= texts(config)
    tables["huts"] = pl.concat([tables["huts"], tables["huts"].head(10)])
    tables["forecasts"] = pl.DataFrame({"valley": ["a", "b", "c"], "snow": [10, 20, 30]})
    text, _ = written(folder, tables)
    assert "#   huts: hut_id is missing or repeated in 35.5% of its rows" in text
    assert "#   forecasts: no column of the log matches its key" in text


def test_a_table_with_repeated_keys_is_joined_once(folder: Path) -> None:
    tables = huts()
    tables["huts"] = tables["huts"].with_columns(valley_id=pl.int_range(21) % 12)
    valleys = pl.DataFrame({"valley_id": [*range(12), 3], "bank": [*"lr" * 6, "x"]})
    text, config = written(folder, tables | {"valleys": valleys})
    assert "(SELECT DISTINCT ON (valley_id) * FROM valleys ORDER BY ALL) AS valleys" in text
    assert "opened year 1993, valley id 3, bank r" in texts(config)


def test_names_in_the_log_are_names_of_places(folder: Path) -> None:
    tables = huts()
    tables["log"] = tables["log"].join(tables.pop("huts").head(20), on="hut_id")
    tables["log"] = tables["log"].rename({"hut_id": "shop_number"})
    text, _ = written(folder, tables)
    assert "shop_number AS poi_id" in text, "a number is not always a count"
    assert "coalesce(any_value(title), shop_number) AS name" in text


def test_a_flag_beside_positions_is_the_click(folder: Path) -> None:
    """Without it, positions are left out, as those of sampled places are unknown."""
    tables = huts()
    tables["log"] = tables["log"].rename({"tapped": "hit"})
    text, _ = written(folder, tables)
    assert "# CHECK: is hit the click?" in text
    tables["log"] = tables["log"].filter("hit").drop("hit").with_columns(alone=pl.col("slot") > 1)
    tables["log"] = tables["log"].with_columns(pair=pl.col("slot") < 3)
    text, config = written(folder, tables)
    assert "slot: it depends on the place" in text
    assert "Or is one of these the click: alone, pair?" in text
    prepare(config)


def test_integer_ids_match_the_table_of_their_role(folder: Path) -> None:
    """`customer_no` refers to `id` of users; the numbers of huts are among those of users, too."""
    tables = huts(hut_id=pl.col("hut_id").str.tail(1).cast(pl.Int64) + 700)
    tables["log"] = tables["log"].rename({"hiker": "customer_no", "hut_id": "item_id"})
    places = tables.pop("huts").with_columns(hut_id=700 + pl.int_range(pl.len()))
    tables["products"] = places.rename({"hut_id": "id"})
    tables["users"] = tables.pop("hikers").rename({"hiker": "id"})
    text, _ = written(folder, tables)
    assert "customer_no AS user_id" in text
    assert "item_id AS poi_id" in text
    assert "FROM tables_users" in text
    assert "FROM products" in text


def test_a_table_of_some_users_is_read_if_its_key_has_the_same_name(folder: Path) -> None:
    tables = huts()
    tables["hikers"] = tables["hikers"].head(18)
    text, _ = written(folder, tables)
    assert "40.0% of the users of the log are not in this table; they are added" in text


def test_all_users_of_a_table_may_be_a_part_of_the_log(folder: Path) -> None:
    tables = huts()
    tables["hikers"] = tables["hikers"].head(9)
    text, _ = written(folder, tables)
    assert "70.0% of the users of the log are not in this table; they are added" in text


def test_row_numbers_without_a_name_are_no_key(folder: Path) -> None:
    """As pandas and R write them; without this, every column of small numbers refers to them."""
    tables = huts(club_id=pl.col("hiker") % 5, fee_code=pl.col("hiker") % 20)
    for name, table in tables.items():
        table.with_row_index("").write_csv(folder / f"{name}.csv")
    text, config = drafted(folder)
    assert "joined" not in text
    assert "column_1" not in text
    assert "user_club_id" in config.features.categories
    assert "#   fee_code: it holds codes" in text, "nearly one for each user"


def test_a_rating_of_few_values_is_the_label_and_other_ratings_are_left_out(folder: Path) -> None:
    tables = huts(taste_rating=pl.col("minutes") % 3, rating=pl.col("minutes") * 7 % 3)
    tables["log"] = tables["log"].drop("ms", "slot", "tapped", "bundle")
    text, config = written(folder, tables)
    assert "# CHECK: rating has values up to 2; a value from 1.6 on is a click." in text
    assert "#   taste_rating: its name suggests that it is another rating" in text
    prepare(config)
    unrated = pl.when(pl.col("rating") == 0).then(-1).otherwise("rating")
    text, config = written(folder, tables | {"log": tables["log"].with_columns(rating=unrated)})
    assert "a value from 1.6 on is a click, and rows with -1 are left out." in text
    prepare(config)


def test_columns_of_the_log_with_one_value_per_place_join_its_table(folder: Path) -> None:
    tables = huts(valley=pl.concat_str(pl.lit("v"), pl.col("hut_id").str.tail(1)))
    text, config = written(folder, tables)
    assert "FROM huts_described" in text
    assert "any_value(valley) AS valley" in text
    assert "valley" in config.profiles[0].column
    assert any("valley v3" in one for one in texts(config))


def test_ratings_of_places_and_bad_coordinates(folder: Path) -> None:
    """As scraped reviews: mean ratings come first, and spreadsheets have broken the numbers."""
    tables = huts(
        place_rating=pl.col("hut_id").str.tail(1).cast(pl.Int64) % 5,
        user_rating=pl.col("minutes") * 7 % 6,
        address=pl.format("Gipfelweg {}, Alm, Tirol", pl.col("hut_id").str.tail(1)),
        lat=pl.format("47.109.{}", pl.col("hut_id").str.tail(2)),
    )
    del tables["huts"]
    tables["log"] = tables["log"].drop("slot", "tapped", "guest_lat", "guest_lng")
    text, config = written(folder, tables)
    assert "TRY_CAST(user_rating AS DOUBLE) >= 4 AS click" in text
    assert "any_value(address) AS address" in text, "a sentence is not a list"
    assert "AS lat" not in text
    prepare(config)


def test_numbers_of_pairs_without_times_are_left_out(folder: Path) -> None:
    """As the plays of an artist by a listener: they are unknown for sampled places."""
    tables = huts(amount=pl.col("ms") % 977)
    tables["log"] = tables["log"].select("hiker", "hut_id", "amount")
    text, _ = written(folder, tables)
    assert "#   amount: without times, it may count events of this user and place" in text


def test_user_ids_are_texts_only_if_nothing_else_describes_a_request(folder: Path) -> None:
    """In a log without times all test users are new, so a text of their ID would be noise."""
    columns = {"user_id": "hiker", "item_id": "hut_id", "click": "tapped", "mood": "minutes"}
    log = huts()["log"].select(**columns)
    text, _ = written(folder, {"log": log})
    assert "{user_id}" not in text
    text, _ = written(folder, {"log": log.drop("mood")})
    assert 'template = "user {user_id}"' in text


def test_minus_one_is_missing_if_nothing_else_is_negative(folder: Path) -> None:
    """A contract's rating must not be negative, and only clicked rows know their duration."""
    tables = huts(
        seconds=pl.when("tapped").then(pl.col("ms") % 977).otherwise(-1),
        degrees=pl.col("minutes") - 2,
        crowd=pl.col("minutes") % 3 - 1,
    )
    ratings = pl.Series([-1.0, 8.2, 7.7, 6.1, 9.0, 4.4, 8.3] * 3)
    tables["huts"] = tables["huts"].drop("title").with_columns(rating=ratings)
    text, config = written(folder, tables)
    assert "any_value(nullif(rating, '-1')) AS rating  -- number, such as '8.2'" in text
    assert "#   seconds: only rows with a click have it" in text
    assert "    degrees" in text, "other values are negative, too"
    assert "crowd" in config.features.categories, "a code"
    prepare(config)


def test_kinds_of_places_are_names_and_categories_if_ids_say_nothing(folder: Path) -> None:
    tables = huts()
    kinds = [f"{kind} hut" for kind in ("old", "new", "small")] * 7
    classes = pl.Series(["a b"] * 7 + ["a c"] * 14)
    tables["huts"] = (
        tables["huts"].drop("title").with_columns(**{"class": classes, "type": pl.Series(kinds)})
    )
    text, config = written(folder, tables)
    assert "coalesce(any_value(type), hut_id) AS name" in text, "it says more than the class"
    assert "poi_type" in config.features.categories


def test_flags_of_users_or_places_are_no_labels(folder: Path) -> None:
    flags = {"completed": pl.col("hiker") % 2, "open": (pl.col("hut_id") < "h3").cast(pl.Int8)}
    log = huts(**flags)["log"].rename({"tapped": "hit", "hiker": "user"}).drop("slot")
    text, _ = written(folder, {"log": log})
    assert "Or is one of these the click: hit?" in text
    text, _ = written(folder, {"log": log.rename({"hit": "offer_completed"})})
    assert "offer_completed AS click" in text


def test_numbers_instead_of_times_and_midnights(folder: Path) -> None:
    tables = huts(time=pl.col("ms") % 24)
    text, _ = written(folder, tables | {"log": tables["log"].drop("ms")})
    assert "# CHECK: does time count from a start?" in text
    _, config = written(folder, huts(ms=pl.col("ms") // 86_400_000 * 86_400_000))
    assert "day_kind" in config.features.categories
    assert "hour_band" not in config.features.categories


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
