"""`larr init` detects the kinds of columns by their values and names."""

from pathlib import Path

import polars as pl
import pytest

from larr.data.prepare import prepare
from larr.init.reader import Reader
from larr.init.words import has_role, is_name, is_role, words_of
from tests.init.drafts import drafted, huts, texts, written


def test_names_are_split_into_words() -> None:
    assert words_of("userId:token") == ["user", "id"]
    assert words_of("RestaurantLessThan20") == ["restaurant", "less", "than20"]
    assert has_role("dishes", "place")
    assert is_role("是否下单", "order")
    assert is_role("商户编号", "place")
    assert is_name("门店名称")
    assert not is_role("下单时间", "order"), "the time of an order"


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
        "spoken": (
            "time",
            "%I:%M %p, %B %d %Y",
            ["11:38 PM, September 10 2024", "1:02 AM, May 3 2024"],
        ),
        "comma": ("time", "%d %b %Y, %H:%M", ["01 Mar 2024, 09:31", "12 Apr 2024, 12:02"]),
        "hours": ("time", "%Y%m%d%H", ["2014102100", "2014102123"]),
        "hour": ("time", "%y%m%d%H", ["14102100", "14102123"]),
        "compact": ("time", "%Y%m%d%H%M%S", ["20141021093000", "20141022120501"]),
        "clock": ("clock", "", ["9:05", "12:30"]),
        "distance": ("number", "", [f"{n / 10}km" for n in range(60)]),
        "fee": ("number", "", [f"€ {n},50" for n in range(60)]),
        "literals": ("list", ", ", [f"['a{n % 5}', \"b{n % 7}'s\"]" for n in range(60)]),
        "customer": ("category", "", [str(100 + n * 7) for n in range(60)]),
        "phrase": ("text", "", [f"The soup of the cook {n % 40}" for n in range(60)]),
        "embedding": ("code", "", [f"[{n / 7}, {n / 3}]" for n in range(60)]),
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


def test_numbers_instead_of_times_and_midnights(folder: Path) -> None:
    tables = huts(time=pl.col("ms") % 24)
    text, _ = written(folder, tables | {"log": tables["log"].drop("ms")})
    assert "# CHECK: does time count from a start?" in text
    for name, size in (("day", 864_000), ("timestamp", 1_000), ("ts", 1)):
        counted = (pl.col("ms") - 1_740_000_000_000) // size
        log = tables["log"].with_columns(counted.alias(name)).drop("ms", "time")
        text, config = written(folder, tables | {"log": log})
        unit = {"day": "days", "timestamp": "seconds", "ts": "milliseconds"}[name]
        assert f"TIMESTAMP '2000-01-01' + to_{unit}({name}::" in text
        assert f"# CHECK: {name} seems to count {unit} from a start, which is unknown" in text
        assert "day_kind" not in config.features.categories
        prepare(config)
    of_zone = pl.when(pl.col("guest_lat") < 48).then(3_600_000).otherwise(7_200_000)
    for midnight in (pl.lit(0), of_zone):
        ms = pl.col("ms") // 86_400_000 * 86_400_000 - midnight
        _, config = written(folder, huts(ms=ms))
        assert "day_kind" in config.features.categories
        assert "hour_band" not in config.features.categories


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


def test_units_and_brackets_are_removed(folder: Path) -> None:
    fees = {"fee": pl.format("{} €", "minutes"), "toll": pl.format("S${}.50", "minutes")}
    tables = huts(**fees, is_open=pl.col("slot") > 2)
    tags = [f"['{tag}', \"cook's\"]" for tag in ("warm", "cold", "dry")] * 7
    tables["huts"] = tables["huts"].with_columns(tags=pl.Series(tags))
    _, config = written(folder, tables)
    assert {*fees} <= {*config.features.candidate_columns}
    assert {*fees} <= {*config.features.numbers}
    assert any("tags dry, cook's" in one for one in texts(config))


def test_units_are_kept_in_ids_and_removed_elsewhere(folder: Path) -> None:
    """IDs of several tables must match; degrees and quantities are numbers."""
    tables = huts(
        hiker=pl.format("{}号", "hiker"),
        quantity=pl.format("{} kg", pl.when(pl.col("ms") % 31 == 0).then(-1).otherwise("minutes")),
    )
    tables["log"] = tables["log"].drop("tapped", "slot")
    tables["hikers"] = tables["hikers"].with_columns(pl.format("{}号", "hiker"))
    tables["huts"] = tables["huts"].with_columns(lat=pl.Series([f"47.{n}°" for n in range(21)]))
    text, config = written(folder, tables)
    assert "hiker AS user_id" in text
    assert "returns, rows with quantity not above 0" in text
    assert ", '') AS lat" in text
    prepare(config)


def test_a_time_of_day_in_digits_does_not_replace_the_date(folder: Path) -> None:
    clock = (pl.col("ms") // 3600 % 24 * 100 + pl.col("slot") * 14) * 100 + pl.col("ms") // 7 % 60
    tables = huts(time=clock, day=pl.from_epoch(pl.col("ms"), "ms").dt.date())
    text, _ = written(folder, tables | {"log": tables["log"].drop("ms")})
    assert "day AS time" in text


def test_names_above_numbers_are_a_header(folder: Path) -> None:
    """Although most names are numbers; and a column may be named like a word of SQL."""
    log = huts()["log"].rename({"minutes": "101", "slot": "109_14", "tapped": "like"})
    log = log.rename({"hiker": "user_id"})
    log.drop("guest_lat", "guest_lng").write_csv(folder / "log.csv")
    text, _ = drafted(folder)
    assert "\ncolumns = [" not in text
    assert '"101" AS own_101' in text


@pytest.mark.parametrize("first", ["4b1f00d5c0ffee1234", "31/12/2024 8:05", "https://a.org/1"])
def test_a_first_cell_of_data_is_no_header(folder: Path, first: str) -> None:
    """DuckDB takes a line of texts above texts for a header."""
    (folder / "log.csv").write_text(f"{first},ann,soup\n" * 3 + "x,bob,tea\n")
    reader = Reader(folder, folder.parent / "scratch", folder.parent)
    assert [column.name for column in reader.tables[0].columns] == [
        "column_1",
        "column_2",
        "column_3",
    ]


def test_rows_of_separators_are_skipped(folder: Path) -> None:
    for name, table in huts().items():
        empty = "," * (table.width - 1) + "\n"
        (folder / f"{name}.csv").write_text(table.write_csv() + empty * 2 * table.height)
    text, config = drafted(folder)
    assert "hiker AS user_id" in text
    prepare(config)


def test_a_few_ratings_that_are_no_numbers_are_missing(folder: Path) -> None:
    """As `NEW` or `Like` among the stars of review sites; they may be called feedback."""
    odd = pl.when(pl.col("ms") == pl.col("ms").min()).then(pl.lit("NEW"))
    stars = (pl.col("minutes") % 5 + 1).cast(pl.String)
    tables = huts(Feedback=odd.otherwise(stars))
    tables["log"] = tables["log"].drop("tapped", "slot", "minutes")
    text, config = written(folder, tables)
    assert "TRY_CAST(Feedback AS DOUBLE) >= 4 AS click" in text
    assert "Feedback has values up to 5; a value from 4 on is a click" in text
    prepare(config)


def test_a_key_that_is_a_name_is_the_name(folder: Path) -> None:
    """A text of restaurants, beside a key called `name`, is another text."""
    tables = huts()
    titles = tables["huts"].head(20).select("hut_id", restaurant="title")
    tables["log"] = tables["log"].join(titles, on="hut_id").drop("hut_id")
    motto = pl.when(pl.col("opened") > "1993").then(pl.format("Warm and {}", "title"))
    motto = motto.otherwise(pl.lit("Warm and cosy"))
    tables["huts"] = tables["huts"].select(motto=motto, name="title").head(20)
    text, config = written(folder, tables)
    assert "    restaurant AS poi_id" in text
    assert "    name,  -- such as 'Red A-Hut'" in text
    assert {"Old A-Hut", "Warm and cosy"} <= texts(config)


def test_tags_in_angle_brackets_are_a_list(folder: Path) -> None:
    """As those of a question at Stack Exchange."""
    tables = huts()
    tags = pl.format("<{}>", pl.col("title").str.to_lowercase().str.replace("-| ", "><"))
    tables["huts"] = tables["huts"].with_columns(tags=tags)
    text, config = written(folder, tables)
    assert "trim(replace(tags, '><', ', '), '<>') AS tags  -- list" in text
    assert any("tags old, a-hut" in one for one in texts(config))


def test_dates_that_excel_changed_in_part_are_times(folder: Path) -> None:
    """A day above 12 kept `1/25/2019`; other dates became `10-01-2019`."""
    time = pl.from_epoch(pl.col("ms") - 10 * 86_400_000, "ms")
    day = pl.when(time.dt.day() > 12).then(time.dt.to_string("%-m/%-d/%Y %H:%M"))
    tables = huts(Time=day.otherwise(time.dt.to_string("%m-%d-%Y %H:%M")))
    tables["log"] = tables["log"].drop("ms")
    text, config = written(folder, tables)
    assert "strptime(replace(Time, '-', '/'), '%m/%d/%Y %H:%M') AS time" in text
    assert "%m/%d/%Y %H:%M?" in text
    prepare(config)


def test_objects_of_json_in_a_cell_are_no_texts_and_lists_may_have_one_value(
    folder: Path,
) -> None:
    """As in exports of a data frame with nested cells."""
    tables = huts()
    offers = [f'[{{"type": "tea", "from": {n}}}, {{"type": "cake"}}]' for n in range(20)]
    tables["huts"] = tables["huts"].with_columns(
        offers=pl.Series([*offers, "[]"]), kinds=pl.Series(['["warm"]', '["cold"]', "[]"] * 7)
    )
    text, config = written(folder, tables)
    assert "#   offers: it holds nested values" in text
    assert any("kinds warm" in one for one in texts(config))
