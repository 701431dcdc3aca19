"""`larr init` finds users, places, requests and labels by values and names."""

import re
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from larr.data.prepare import prepare
from tests.init.drafts import drafted, huts, texts, written


def test_ids_and_requests_are_found_by_their_values(folder: Path) -> None:
    """A latitude is no user, and rows of one request have near times and different positions."""
    text, config = written(folder, huts(session_id=pl.format("s{}", pl.col("hiker"))))
    assert "hiker AS user_id" in text
    assert "guest_lat AS lat" in text
    assert "# CHECK: is bundle the request ID?" in text
    assert config.features.candidate_columns == ["minutes", "position"]
    prepare(config)


def test_a_time_of_the_place_or_from_a_start_is_not_that_of_the_row(folder: Path) -> None:
    hours = pl.col("ms") // 3_600_000
    tables = huts(
        hour=(hours * 5 + pl.col("slot")) % 168,
        date=pl.format("2019-01-{}", pl.col("hut_id").str.slice(1).cast(pl.Int64) + 10),
        visited=pl.from_epoch(hours // 24, "d").cast(pl.String),
    )
    text, _ = written(folder, tables | {"log": tables["log"].drop("ms")})
    assert "visited AS time" in text


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


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (pl.col("asked"), "asked AS since"),
        (pl.col("asked").dt.date(), "asked AS since"),
        (pl.col("asked").dt.offset_by("-5y"), "asked: a time, whose year is '2014' in all rows"),
        (pl.col("asked").dt.offset_by("5y"), "asked: a time, whose year is '2024' in all rows"),
        (pl.col("first"), "asked: a time, whose year is '2019' in all rows"),  # of the log
    ],
)
def test_the_start_of_places_precedes_their_rows(
    folder: Path, start: pl.Expr, expected: str
) -> None:
    day, hour, number = timedelta(days=1), timedelta(hours=1), pl.int_range(pl.len())
    answers = pl.DataFrame({"question_id": [n // 4 for n in range(400)]}).with_columns(
        user_id=number * 7 % 31,
        answered=datetime(2019, 1, 1) + (pl.col("question_id") + number % 4) * day + 3 * hour,
    )
    questions = answers.group_by("question_id", maintain_order=True).agg(
        title=pl.format("How is question {} answered?", pl.col("question_id").first()),
        first=pl.col("answered").min(),
        asked=pl.col("answered").min() - 2 * hour,
    )
    questions = questions.with_columns(asked=start, log_age=pl.int_range(pl.len()) / 7).drop(
        "first"
    )
    text, config = written(folder, {"answers": answers, "questions": questions})
    assert expected in text
    assert "log_age AS own_log_age" in text
    assert ("poi_log_age" in config.features.numbers) == ("since" in expected)
    prepare(config)


def test_a_table_with_repeated_keys_is_joined_once(folder: Path) -> None:
    tables = huts()
    tables["huts"] = tables["huts"].with_columns(valley_id=pl.int_range(21) % 12)
    valleys = pl.DataFrame({"valley_id": [*range(12), 3], "bank": [*"lr" * 6, "x"]})
    text, config = written(folder, tables | {"valleys": valleys})
    assert "(SELECT DISTINCT ON (valley_id) * FROM valleys ORDER BY ALL) AS valleys" in text
    assert "opened year 1993, valley id 3, bank r" in texts(config)


def test_an_account_with_several_customer_numbers_is_one_user(folder: Path) -> None:
    tables = huts(customer_id=pl.col("hiker") * 2 + pl.col("slot") % 2)
    tables["log"] = tables["log"].drop("hiker")
    numbers = pl.int_range(1400, 1460, eager=True)
    tables["accounts"] = pl.DataFrame({"customer_id": numbers, "user_id": numbers // 2})
    tables["hikers"] = tables["hikers"].rename({"hiker": "user_id"})
    text, config = written(folder, tables)
    assert "SELECT log.* EXCLUDE (customer_id)" in text
    assert "# joined with accounts by key" in text
    assert any("age band 31-50" in one for one in texts(config))


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
    assert "a value from 1.6 on is a click; rows with -1 are left out." in text
    prepare(config)


def test_columns_of_the_log_with_one_value_per_place_join_its_table(folder: Path) -> None:
    tables = huts(valley=pl.concat_str(pl.lit("v"), pl.col("hut_id").str.tail(1)))
    text, config = written(folder, tables)
    assert "FROM huts_described" in text
    assert "any_value(valley) AS valley" in text
    assert "valley" in config.profiles[0].column
    assert any("valley v3" in one for one in texts(config))


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


def test_flags_of_users_or_places_are_no_labels(folder: Path) -> None:
    flags = {"completed": pl.col("hiker") % 2, "open": (pl.col("hut_id") < "h3").cast(pl.Int8)}
    log = huts(**flags)["log"].rename({"tapped": "hit", "hiker": "user"}).drop("slot")
    text, _ = written(folder, {"log": log})
    assert "Or is one of these the click: hit?" in text
    text, _ = written(folder, {"log": log.rename({"hit": "offer_completed"})})
    assert "offer_completed AS click" in text


def test_feedback_beside_the_click_is_left_out(folder: Path) -> None:
    """Flags and numbers that only clicked rows have, and the opposite of the click."""
    seconds = pl.when("tapped").then(pl.col("ms") % 977 + 1).otherwise(0)
    second_tap = pl.col("tapped") & (pl.col("minutes") > 9)
    tables = huts(seconds=seconds, twice=second_tap.cast(pl.Int8), nontap=~pl.col("tapped"))
    tables["log"] = tables["log"].with_columns(heldout_hut=pl.col("hiker") % 7)
    text, _ = written(folder, tables)
    assert "#   heldout_hut: its name suggests that it is held out" in text
    assert "#   seconds: only rows with a click have it, unless it is 0" in text
    assert "#   twice: only rows with a click have it" in text
    assert "#   nontap: no row with a click has it" in text


def test_what_follows_a_choice_is_left_out(folder: Path) -> None:
    """Ratings and reviews beside the label, unlike the mean rating of a place, and bills."""
    tables = huts(
        taste_rating=pl.col("minutes") % 5,
        hut_rating=pl.col("hut_id").str.len_chars() + 0.5,
        remark=pl.format("A warm hut on day {}", "ms"),
        order_value=pl.col("minutes") * 3,
        guest_value=pl.col("minutes") * 7 % 31,
    )
    text, config = written(folder, {"log": tables["log"], "hikers": tables["hikers"]})
    assert "#   taste_rating: its name suggests a rating, given afterwards" in text
    assert "#   remark: it may be a review, written after the rating" in text
    assert "#   order_value: its name suggests that it is known only after" in text
    assert {"poi_hut_rating", "guest_value"} <= {
        *config.features.numbers,
        *(config.features.categories),
    }


def test_the_author_of_a_review_is_the_user(folder: Path) -> None:
    """The text of the review is no place, and nearly all rows are recommendations."""
    log = huts()["log"].rename({"hut_id": "lounge_name", "tapped": "recommended"})
    log = log.with_columns(
        author=pl.format("Anna {}", "hiker"),
        content=pl.format("A warm hut, {} cosy beds, tea, soup, {}", "minutes", "ms")
        .repeat_by(3)
        .list.join(". "),
        recommended=pl.col("minutes") > 3,
    )
    text, _ = written(folder, {"log": log.drop("hiker", "bundle", "slot")})
    assert "# CHECK: is author the user ID?" in text
    assert "lounge_name AS poi_id" in text
    assert "# CHECK: recommended is true in 92.0% of the rows; if each row was chosen" in text


def test_rows_without_a_user_or_rating_are_left_out(folder: Path) -> None:
    """As in shops with guests; a rating that most rows lack is no label."""
    rating = pl.when(pl.col("minutes") % 3 > 0).then((pl.col("minutes") + pl.col("slot")) % 6)
    user = pl.when(pl.col("ms") % 4 > 0).then("hiker")
    tables = huts(user_id=user, stars=rating, club=pl.format("c{}", pl.col("hiker") % 3))
    tables["log"] = tables["log"].drop("tapped", "slot", "hiker")
    del tables["hikers"]
    text, config = written(folder, tables)
    assert "# CHECK: user_id is missing in 25.0% of the rows, which are left out; to keep" in text
    assert re.search(r"on is a click; rows without it, 3\d\.\d%, are left out; if 0 means", text)
    assert "WHERE user_id IS NOT NULL AND TRY_CAST(stars AS DOUBLE) >= 0" in text
    assert "any_value(club) AS club  -- category, such as 'c1'\nFROM log\nWHERE user_id" in text
    prepare(config)
    few = pl.when(pl.col("minutes") % 3 > 1).then("stars")
    text, _ = written(folder, tables | {"log": tables["log"].with_columns(stars=few)})
    assert "[dataset.negatives]" in text


def test_returns_are_no_purchases_and_codes_are_places(folder: Path) -> None:
    """As UCI's Online Retail: an invoice, a stock code, its description, and a quantity.

    The usual description is the name, and there are four unclicked places for each of a basket.
    """
    titles = huts()["huts"].select(pl.col("hut_id", "title")).head(20)
    log = huts()["log"].join(titles, on="hut_id", maintain_order="left")
    log = log.with_row_index().select(
        InvoiceNo=pl.format("C{}", "bundle"),
        StockCode="hut_id",
        Description=pl.when(pl.col("index") % 25 > 0).then("title").otherwise(pl.lit("? lost")),
        Quantity=pl.col("minutes") - 2,
        CustomerID="hiker",
        InvoiceDate=pl.from_epoch("ms", "ms").dt.to_string("%m/%d/%Y %H:%M"),
    )
    text, config = written(folder, {"retail": log})
    assert "StockCode AS poi_id" in text
    assert "# CHECK: returns, rows with Quantity not above 0, are left out." in text
    assert "coalesce(mode(Description ORDER BY Description), StockCode) AS name" in text
    assert config.dataset.negatives is not None
    assert config.dataset.negatives.per_request == 16
    assert not any("lost" in one for one in texts(config))


def test_a_table_of_places_is_no_log_although_it_has_ratings(folder: Path) -> None:
    tables = huts()
    tables["log"] = tables["log"].drop("tapped", "slot", "minutes")
    tables["huts"] = tables["huts"].with_columns(
        owner=pl.Series([f"o{n % 5}" for n in range(21)]),
        station=pl.Series([f"s{n % 7}" for n in range(21)]),
        rating=pl.Series([n % 5 + 1 for n in range(21)]),
    )
    text, _ = written(folder, tables)
    assert "hiker AS user_id" in text


def test_a_uuid_is_the_user_and_a_display_the_request(folder: Path) -> None:
    """As Outbrain's events, with times that count from a start."""
    tables = huts(timestamp=(pl.col("ms") - 1_740_000_000_000) // 10_000_000)
    log = tables["log"].rename({"hiker": "uuid", "bundle": "display_id", "hut_id": "ad_id"})
    events = log.select("display_id", "uuid", "timestamp").unique("display_id")
    log = log.select("display_id", "ad_id", clicked="tapped")
    text, _ = written(folder, {"clicks_train": log, "events": events})
    assert "uuid AS user_id" in text
    assert "display_id AS request_id" in text
    assert "# CHECK: does timestamp count from a start?" in text


def test_an_outcome_in_words_is_a_click(folder: Path) -> None:
    """Rows whose outcome says that the place was ignored, or not clicked, are impressions."""
    for ignored in ("ignored", "not clicked"):
        words = pl.when("tapped").then(pl.lit("clicked")).otherwise(pl.lit(ignored))
        tables = huts(
            result=pl.when(pl.col("minutes") < 4).then(pl.lit("ordered")).otherwise(words)
        )
        smoking = pl.when(pl.col("bundle") < "t-07").then(pl.lit("none")).otherwise(pl.lit("no"))
        tables["log"] = tables["log"].drop("tapped").with_columns(smoking=smoking)
        text, config = written(folder, tables)
        assert "# CHECK: by result, clicked, ordered is a click, ordered an order" in text
        assert "smoking" in config.features.categories, "no event, as nothing was clicked"
        assert "[dataset.negatives]" not in text
        prepare(config)


def test_coordinates_of_places_in_the_log_are_those_of_places(folder: Path) -> None:
    number = pl.col("hut_id").str.tail(-1).cast(pl.Float64) / 100
    tables = huts(hut_lat=number, hut_lon=number + 1)
    tables["log"] = tables["log"].drop("guest_lat", "guest_lng")
    del tables["huts"]
    text, config = written(folder, tables)
    assert "any_value(hut_lat) AS lat" in text
    prepare(config)


def test_a_column_id_beside_the_ids_of_users_is_renamed(folder: Path) -> None:
    tables = huts()
    tables["hikers"] = (
        tables["hikers"].rename({"hiker": "user_id"}).with_columns(id=pl.int_range(30) % 7)
    )
    tables["log"] = tables["log"].rename({"hiker": "user_id"})
    text, config = written(folder, tables)
    assert "id AS id_2  -- category, such as '0'" in text
    prepare(config)


def test_a_column_with_many_rows_for_each_value_is_no_session(folder: Path) -> None:
    log = huts()["log"].rename({"hiker": "who_id", "slot": "order"})
    log = log.with_columns(order=pl.col("order") + pl.col("minutes") % 2)
    text, _ = written(folder, {"log": log.drop("bundle", "ms")})
    assert "who_id AS user_id" in text


def test_rows_with_times_in_another_table_may_be_later(folder: Path) -> None:
    rows = pl.DataFrame({"hiker": [*range(700, 730)] * 2, "job": ["cook", "clerk", "smith"] * 20})
    jobs = rows.with_columns(since=pl.format("2025-03-0{}T10:00", pl.int_range(60) % 9 + 1))
    text, _ = written(folder, huts() | {"jobs": jobs})
    assert "#   jobs: hiker is missing or repeated in 50.0% of its rows, whose times may be" in text
    visits = huts()["log"].select("hiker", "hut_id", "ms", stay=pl.col("minutes")).head(200)
    text, _ = written(folder, huts() | {"visits": visits})
    assert (
        "#   visits: it could be the log, too; to use it, move the files of log elsewhere" in text
    )


def test_a_log_of_two_branches_yields_to_one_with_more_places(folder: Path) -> None:
    """The passwords of a branch are not read; the payments have more rows than the visits."""
    tables = huts()
    log = tables["log"].drop("tapped", "slot", "bundle")
    payments = pl.DataFrame(
        {
            "hiker": log["hiker"].append(log["hiker"].head(9)),
            "shop_id": [f"s{n % 2}" for n in range(len(log) + 9)],
            "paid_at": pl.from_epoch(log["ms"], "ms").append(
                pl.from_epoch(log["ms"].head(9), "ms")
            ),
        }
    )
    password = pl.format("{}-{}", pl.lit("x"), pl.int_range(21) % 3)
    tables["huts"] = tables["huts"].with_columns(password=password)
    text, _ = written(folder, tables | {"log": log, "payments": payments})
    assert "hut_id AS poi_id" in text
    assert "#   payments: it could be the log, too" in text
    assert "#   password: its name suggests a secret" in text


def test_the_name_of_a_place_has_the_words_of_its_key(folder: Path) -> None:
    tables = huts()
    owner = pl.format("The {} family", pl.int_range(21))
    tables["huts"] = tables["huts"].rename({"title": "hut_name"}).with_columns(owner_name=owner)
    text, _ = written(folder, tables)
    assert "coalesce(hut_name, hut_id) AS name" in text


def test_a_year_that_is_the_same_for_all_is_left_out(folder: Path) -> None:
    tables = huts()
    joined = pl.format("2024-0{}-07", pl.int_range(30) % 9 + 1)
    tables["hikers"] = tables["hikers"].with_columns(joined=joined)
    text, _ = written(folder, tables)
    assert "#   joined: a time, whose year is '2024' in all rows" in text
