"""Statistics are those of the start of the day, as a naive twin computes them; nothing leaks."""

from datetime import date, datetime

import numpy as np
import polars as pl
import pytest

from larr.config.data import ProfileConfig
from larr.data.statistics import (
    as_of,
    daily_counts,
    daily_spending,
    daily_values,
    favourites,
    recent_places,
    with_statistics,
)

HALF_LIFE_DAYS = 3.0
DAYS = [date(2024, 4, day) for day in (1, 2, 3)]
ORDERS = pl.DataFrame(
    {
        "user_id": ["u", "u", "u", "v"],
        "poi_id": ["a", "b", "a", "b"],
        "day": [DAYS[0], DAYS[0], DAYS[1], DAYS[1]],
        "meal_slot": ["lunch", "dinner", "lunch", "lunch"],
    }
)
USERS = pl.DataFrame({"user_id": ["u", "v"]})
PLACES = pl.DataFrame(
    {"poi_id": ["a", "b"], "poi_tags": ["spicy, cheap,", "cheap"], "poi_price_yuan": [10.0, None]}
)


def naive(daily: pl.DataFrame, key: str, day: date) -> float:
    """The sum of one key before one day, row by row."""
    rows = daily.filter((pl.col("key") == key) & (pl.col("day") < day)).to_dicts()
    return sum(r["count"] * 0.5 ** (((day - r["day"]).days - 1) / HALF_LIFE_DAYS) for r in rows)


def test_as_of_equals_a_naive_sum_of_earlier_days() -> None:
    rng = np.random.default_rng(0)
    days = [date(2024, 4, d) for d in range(1, 9)]
    daily = (
        pl.DataFrame(
            {
                "key": rng.choice(["a", "b", "c"], 60),
                "day": [days[i] for i in rng.integers(0, 8, 60)],
                "count": rng.random(60),
            }
        )
        .group_by("key", "day")
        .agg(pl.col("count").sum())
    )
    wanted = pl.DataFrame({"key": ["a", "b", "z"]})
    for day in (days[3], days[7]):
        sums = dict(as_of(daily, day, ["key"], HALF_LIFE_DAYS, wanted).iter_rows())
        assert sums == {key: pytest.approx(naive(daily, key, day)) for key in ("a", "b")}
    assert as_of(daily, days[0], ["key"], HALF_LIFE_DAYS).is_empty(), "no day is before the first"


def test_the_day_itself_and_later_days_change_nothing() -> None:
    day = date(2024, 4, 5)
    daily = pl.DataFrame({"key": ["a", "a"], "day": [date(2024, 4, 4), day], "count": [1.0, 5.0]})
    later = pl.DataFrame({"key": ["a"], "day": [date(2024, 4, 9)], "count": [99.0]})
    before = as_of(daily.head(1), day, ["key"], HALF_LIFE_DAYS)
    assert as_of(pl.concat([daily, later]), day, ["key"], HALF_LIFE_DAYS).equals(before)


def test_rates_are_smoothed_towards_the_rate_of_the_day() -> None:
    day = date(2024, 4, 3)
    daily = pl.DataFrame(
        {
            "poi_id": ["a", "b", "b", "b"],
            "day": [date(2024, 4, 1), date(2024, 4, 1), date(2024, 4, 2), day],
            "impressions": [60.0, 20.0, 20.0, 1000.0],
            "clicks": [6.0, 2.0, 2.0, 1000.0],
            "logged_orders": [2.0, 0.0, 0.0, 1000.0],
            "orders": [5.0, 0.0, 0.0, 1000.0],
        }
    )
    places = pl.DataFrame({"poi_id": ["a", "new"]})
    row, new = with_statistics(places, "poi", daily, day, 1e9).to_dicts()
    assert row["poi_ctr"] == pytest.approx((6 + 20 * 0.1) / 80)
    assert row["poi_cvr"] == pytest.approx((2 + 20 * 0.02) / 80)
    assert row["poi_log_orders"] == pytest.approx(np.log1p(5))
    assert row["poi_log_impressions_per_day"] == pytest.approx(np.log1p(30))
    assert [new[name] for name in ("poi_log_orders", "poi_ctr")] == [0.0, None]


def test_a_sampled_day_has_the_counts_of_the_complete_one() -> None:
    """Half of the impressions without a click are kept on the training day, all on the next."""
    log = pl.DataFrame(
        {
            "poi_id": ["a"] * 6,
            "day": [date(2024, 4, 1)] * 3 + [date(2024, 4, 2)] * 3,
            "split": ["train"] * 3 + ["test"] * 3,
            "click": [True, False, False] * 2,
            "order": [False] * 6,
        }
    )
    counts = daily_counts(log.lazy(), log.clear().lazy(), ["poi_id"], sampling_rate=0.5)
    assert counts["impressions"].to_list() == [5.0, 3.0]
    assert counts["clicks"].to_list() == [1.0, 1.0]


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
    daily = daily_values(ORDERS, PLACES, profile)
    rows = favourites(daily, DAYS[2], USERS.head(1), profile, half_life_days=1.0).rows()
    assert {tuple(situation): text for _, *situation, text in rows} == expected
    assert favourites(daily, DAYS[1], USERS.tail(1), profile, half_life_days=1.0).is_empty()


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
    assert recent_places(events, DAYS[1], USERS, length=2).rows() == [("u", ["c", "a"])]
    assert recent_places(events, DAYS[0], USERS, length=2).is_empty()
