"""What is known of a user's earlier orders, with values worked out by hand."""

from datetime import date, datetime

import polars as pl
import pytest

from larr.config.data import ProfileConfig
from larr.data.profiles import daily_spending, daily_values, favourites, recent_places

DAYS = [date(2024, 4, day) for day in (1, 2, 3)]
ORDERS = pl.DataFrame(
    {
        "user_id": ["u", "u", "u", "v"],
        "poi_id": ["a", "b", "a", "b"],
        "day": [DAYS[0], DAYS[0], DAYS[1], DAYS[1]],
        "meal_slot": ["lunch", "dinner", "lunch", "lunch"],
    }
)
PLACES = pl.DataFrame(
    {"poi_id": ["a", "b"], "poi_tags": ["spicy, cheap,", "cheap"], "poi_price_yuan": [10.0, None]}
)


@pytest.mark.parametrize(
    ("within", "top", "expected"),
    [
        (None, 3, {(): "cheap, spicy"}),  # cheap 1 + 2 * 0.5, spicy 1 + 0.5
        (None, 1, {(): "cheap"}),
        ("meal_slot", 3, {("lunch",): "cheap, spicy", ("dinner",): "cheap"}),  # a tie: by alphabet
    ],
)
def test_favourites_are_the_most_frequent_values_of_earlier_days(
    within: str | None, top: int, expected: dict[tuple[str, ...], str]
) -> None:
    profile = ProfileConfig(name="taste", column="tags", within=within, top=top)
    wanted = pl.DataFrame({"user_id": ["u", "v"], "day": [DAYS[2], DAYS[1]]})
    daily = daily_values(ORDERS, PLACES, profile)
    rows = favourites(daily, wanted, profile, half_life_days=1.0).rows()
    found = {tuple(situation): text for user, *situation, _, text in rows if user == "u"}
    assert found == expected
    assert len(rows) == len(expected), "v has no order before the second day"


def test_spending_counts_the_orders_that_have_a_price() -> None:
    rows = daily_spending(ORDERS, PLACES).rows()
    assert rows == [("u", DAYS[0], 10.0, 1.0), ("u", DAYS[1], 10.0, 1.0)]


def test_recent_places_are_distinct_newest_first_and_before_the_day() -> None:
    events = pl.DataFrame(
        {
            "user_id": ["u"] * 5,
            "poi_id": ["a", "b", "a", "c", "d"],
            "time": [datetime(2024, 4, 1, hour) for hour in (8, 9, 10, 11)]
            + [datetime(2024, 4, 2, 8)],
        }
    ).with_columns(day=pl.col("time").dt.date())
    wanted = pl.DataFrame({"user_id": ["u", "u", "v"], "day": [DAYS[1], DAYS[0], DAYS[1]]})
    assert recent_places(events, wanted, length=2).rows() == [("u", ["c", "a"], DAYS[1])]
