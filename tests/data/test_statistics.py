"""Statistics as of the start of the day equal those of a naive twin."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from larr.config.data import ProfileConfig
from larr.data.counts import daily_counts, log_counts
from larr.data.names import PLACE, USER
from larr.data.statistics import (
    ProfileTexts,
    RecentPlaces,
    Statistics,
    Sums,
    daily_spending,
)

HALF_LIFE_DAYS = 3.0
DAYS = [date(2024, 4, day) for day in (1, 2, 3)]
ORDERS = pl.DataFrame(
    {
        USER: [1, 1, 1, 2],
        "poi_id": ["a", "b", "a", "b"],
        "day": [DAYS[0], DAYS[0], DAYS[1], DAYS[1]],
        "meal_slot": ["lunch", "dinner", "lunch", "lunch"],
    }
)
PLACES = pl.DataFrame(
    {"poi_id": ["a", "b"], "poi_tags": ["spicy, cheap,", "cheap"], "poi_price_yuan": [10.0, None]}
)


def days_of(*days: date) -> np.ndarray:
    """Returns days as counted from 1970."""
    return pl.Series(days).to_physical().to_numpy()


def naive(daily: pl.DataFrame, key: int, day: date) -> float | None:
    """Returns the sum of one key before one day, row by row; None without a row."""
    rows = daily.filter((pl.col("key") == key) & (pl.col("day") < day)).to_dicts()
    weights = [0.5 ** (((day - row["day"]).days - 1) / HALF_LIFE_DAYS) for row in rows]
    return sum(row["count"] * w for row, w in zip(rows, weights, strict=True)) if rows else None


def test_sums_equal_naive_sums_of_earlier_days() -> None:
    rng = np.random.default_rng(0)
    days = [date(2024, 4, 1) + timedelta(days=n) for n in range(40)]
    daily = pl.DataFrame(
        {
            "key": rng.choice([1, 3, 4], 90),
            "day": [days[n] for n in rng.integers(5, 35, 90)],
            "count": rng.random(90),
        }
    )
    daily = daily.group_by("key", "day").agg(pl.col("count").sum())
    asked = [(key, day) for key in range(6) for day in days]
    keys = np.array([key for key, _ in asked])
    sums = Sums(daily, HALF_LIFE_DAYS).as_of(keys, days_of(*(day for _, day in asked)))
    for (key, day), found in zip(asked, sums["count"], strict=True):
        assert found == pytest.approx(naive(daily, key, day)), (key, day)
    nothing = Sums(daily.clear(), HALF_LIFE_DAYS).as_of(keys[:2], days_of(*days[:2]))
    assert nothing["count"].to_list() == [None, None]


def test_the_day_itself_and_later_days_do_not_count() -> None:
    day = date(2024, 4, 5)
    daily = pl.DataFrame({"key": [1, 1], "day": [date(2024, 4, 4), day], "count": [1.0, 5.0]})
    later = pl.DataFrame({"key": [1], "day": [date(2024, 4, 9)], "count": [99.0]})
    before, after = (
        Sums(rows, HALF_LIFE_DAYS).as_of(np.array([1]), days_of(day))
        for rows in (daily.head(1), pl.concat([daily, later]))
    )
    assert after.equals(before)


def test_rates_are_smoothed_towards_the_rate_of_the_day() -> None:
    day = date(2024, 4, 3)
    daily = pl.DataFrame(
        {
            "key": [1, 2, 2, 2],
            "day": [date(2024, 4, 1), date(2024, 4, 1), date(2024, 4, 2), day],
            "impressions": [60.0, 20.0, 20.0, 1000.0],
            "clicks": [6.0, 2.0, 2.0, 1000.0],
            "logged_orders": [2.0, 0.0, 0.0, 1000.0],
            "orders": [5.0, 0.0, 0.0, 1000.0],
        }
    )
    places = Statistics("poi", daily, 1e9).as_of(np.array([1, 3]), days_of(day, day))
    row, new = places.to_dicts()
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
    counts = daily_counts(log.lazy(), log_counts(sampling_rate=0.5), [pl.col("poi_id")]).sort("day")
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
def test_profiles_hold_the_most_frequent_values_of_earlier_days(
    within: str | None, top: int, expected: dict[tuple[str, ...], str]
) -> None:
    profile = ProfileConfig(name="taste", column="tags", within=within, top=top)
    texts = ProfileTexts(ORDERS, PLACES, profile, half_life_days=1.0)
    number, ids = pl.Series([DAYS[2]]).to_physical().item(), pl.Series("user_id", ["u", "v"])
    if within:
        rows = texts.snapshot(number, ids).filter(user_id="u").rows()
        assert {tuple(situation): text for _, *situation, text in rows} == expected
    asked = pl.DataFrame({USER: [1] * 2 + [2], "day": [DAYS[2]] * 2 + [DAYS[1]]})
    asked = asked.with_columns(meal_slot=pl.Series(["lunch", "dinner", "lunch"]))
    lunch, dinner = (expected.get((slot,), expected.get(())) for slot in ("lunch", "dinner"))
    assert texts.as_of(asked).to_list() == [lunch, dinner, None]


def test_a_persona_has_the_values_that_others_order_less() -> None:
    profile = ProfileConfig(name="taste", column="tags", ranked_by="tfidf")
    texts = ProfileTexts(ORDERS, PLACES, profile, half_life_days=1.0)
    asked = pl.DataFrame({USER: [1, 1], "day": [DAYS[1], DAYS[2]]})
    # day 1: spicy 1 * log(3 / 1), cheap 2 * log(3 / 2); day 2: spicy 1.5 * log(4.5 / 1.5), cheap
    # 2 * log(4.5 / 3)
    assert texts.as_of(asked).to_list() == ["spicy, cheap", "spicy, cheap"]
    alone = ProfileTexts(ORDERS.filter(pl.col(USER) == 1), PLACES, profile, half_life_days=1.0)
    # day 2: spicy 1.5 * log(3.5 / 1.5) = 1.27, cheap 2 * log(3.5 / 2) = 1.12
    assert alone.as_of(asked)[1] == "spicy, cheap"


def test_spending_counts_priced_orders() -> None:
    rows = daily_spending(ORDERS, PLACES).sort("day").rows()
    assert rows == [(1, DAYS[0], 10.0, 1.0), (1, DAYS[1], 10.0, 1.0)]


def test_recent_places_are_distinct_newest_first_and_before_the_day() -> None:
    days = [DAYS[1]] + [DAYS[0]] * 4
    events = pl.DataFrame({USER: [1] * 5, PLACE: [4, 3, 1, 2, 1], "day": days})
    recent = RecentPlaces(events, users=2, length=2)
    found = recent.as_of(np.array([1, 1, 1, 2]), days_of(DAYS[1], DAYS[0], DAYS[2], DAYS[2]))
    assert found.tolist() == [[3, 1], [0, 0], [4, 3], [0, 0]]
