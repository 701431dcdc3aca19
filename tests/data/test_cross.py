"""Cross statistics equal those of a naive twin, which counts earlier days row by row."""

import math
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from larr.config import Config
from larr.data.counts import count_log
from larr.data.cross import PRIOR, DailyCross, Values, count_names, pair_counts
from larr.data.default_pairs import with_pairs
from larr.data.log import Log
from larr.data.names import PLACE, USER
from larr.data.statistics import SMOOTHING_IMPRESSIONS

HALF_LIFE_DAYS = 3.0
FIGURES = ["log_clicks", "share", "ctr", "cvr"]
FIRST = date(2024, 4, 1)
Row = dict[str, object]
USERS = pl.DataFrame({"user_id": ["u", "v", "w", "new"]}).with_row_index(USER, offset=1)
LOG = Log(pl.DataFrame({"poi_id": []}), USERS, pl.DataFrame(), [], ["click"], [])


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    """Five days of users and places with many, one or no tags."""
    random, count = np.random.default_rng(0), 300
    tags = ["spicy", "spicy, cheap", " cheap ,sweet", "", None]
    click = random.random(count) < 0.4
    return pl.DataFrame(
        {
            "user_id": random.choice([*USERS["user_id"]], count),
            "poi_tags": [tags[number] for number in random.integers(0, 5, count)],
            "day": [FIRST + timedelta(days=int(day)) for day in random.integers(0, 5, count)],
            "split": "train",
            "click": click,
            "order": click & (random.random(count) < 0.5),
        }
    ).join(USERS, on="user_id", maintain_order="left")


def listed(tags: object) -> list[str]:
    """The values of a text of tags."""
    return [tag.strip() for tag in str(tags or "").split(",") if tag.strip()]


def naive(rows: list[Row], history: list[Row], user: str, tags: object, day: date) -> list[float]:
    """Returns the figures of a user and some tags on a day."""

    def count(rows: list[Row], of: str | None, tag: str | None, what: str | None = None) -> float:
        total = 0.0
        for row in rows:
            age = (day - row["day"]).days
            if age > 0 and of in (None, row["user_id"]) and (what is None or row[what]):
                fitting = [t for t in listed(row["poi_tags"]) if tag in (None, t)]
                total += len(fitting) * 0.5 ** ((age - 1) / HALF_LIFE_DAYS)
        return total

    def taken(of: str | None, tag: str | None) -> float:
        return count(rows, of, tag, "click") + count(history, of, tag)

    def rate(of: str | None, tag: str | None, event: str, overall: float) -> float:
        seen = count(rows, of, tag) + SMOOTHING_IMPRESSIONS
        return (count(rows, of, tag, event) + SMOOTHING_IMPRESSIONS * overall) / seen

    def ratio(event: str) -> float:
        all_rows = count(rows, None, None)
        overall = count(rows, None, None, event) / all_rows if all_rows else 0.0
        expected = 0.0
        for t in values:
            of_user, of_tag = (rate(*of, event, overall) for of in ((user, None), (None, t)))
            expected += count(rows, user, t) * min(1.0, of_user * of_tag / (overall or 1.0))
        counted = sum(count(rows, user, t, event) for t in values)
        return math.log((counted + PRIOR) / (expected + PRIOR))

    values = listed(tags)
    chosen = sum(taken(user, t) for t in values)
    expected = sum(taken(user, None) * taken(None, t) for t in values)
    expected /= max(taken(None, None), 1.0)
    share = math.log((chosen + PRIOR) / (expected + PRIOR))
    return [math.log1p(chosen), share, ratio("click"), ratio("order")]


def daily_cross(
    config: Config, rows: pl.DataFrame, history: pl.DataFrame, folder: Path
) -> DailyCross:
    """Counts the first pair in a log of several files and in a history."""
    files = [folder / f"{number}.parquet" for number in range(3)]
    for number, path in enumerate(files):
        rows.gather_every(3, number).write_parquet(path)
    log = replace(LOG, impressions=files, history=history)
    [pair] = config.statistics or []
    owned = {"user_id": Values.of(USERS.drop(USER), "user_id")}
    of_rows = partial(pair_counts, config=config, pair=pair, owned=owned, levels=[])
    daily = count_log(log, 1.0, map, lambda _: None, count_names(pair), of_rows)
    return DailyCross(config, pair, owned, daily)


@pytest.mark.parametrize("columns", [("user_id", "poi_tags"), ("poi_tags", "user_id")])
@pytest.mark.parametrize("age", [0, 1, 4])
def test_figures_equal_a_naive_twin(
    rows: pl.DataFrame, columns: tuple[str, str], age: int, tmp_path: Path
) -> None:
    tree = {"features": {"half_life_days": HALF_LIFE_DAYS}}
    tree |= {"statistics": [{"columns": columns, "figures": FIGURES}]}
    config = Config.model_validate(tree)
    history = rows.head(9).with_columns(day=FIRST - timedelta(days=2))
    day = FIRST + timedelta(days=age)
    cross = daily_cross(config, rows, history, tmp_path)
    tags = pl.DataFrame({"poi_tags": ["spicy", "cheap, sweet", "new", None]})
    asked = USERS.join(tags, how="cross").with_columns(day=day)
    served = cross.snapshot((day - date(1970, 1, 1)).days)
    logs = rows.to_dicts(), history.to_dicts()
    expected = [
        naive(*logs, row["user_id"], row["poi_tags"], day) for row in asked.iter_rows(named=True)
    ]
    for way in (cross, served):
        assert np.allclose(way.enrich(asked).select(served.pair.figure_names).to_numpy(), expected)


def test_figures_of_unobserved_pairs_are_0(rows: pl.DataFrame, tmp_path: Path) -> None:
    config = Config.model_validate({"statistics": [{"columns": ["user_id", "poi_tags"]}]})
    cross = daily_cross(config, rows, rows.clear(), tmp_path)
    first_day = rows.filter(day=FIRST)
    figures = cross.enrich(first_day)[:, len(rows.columns) :]
    assert (figures.to_numpy() == 0).all(), "the first day has no past"


@pytest.mark.parametrize("is_menu", [True, False])
def test_default_pairs_have_recurring_values(tmp_path: Path, is_menu: bool) -> None:
    """Users and kinds recur, and kinds differ within requests; on a menu each dish has one day."""
    days = pl.DataFrame({"day": [FIRST + timedelta(days=n) for n in range(4)]})
    rows = days.join(pl.DataFrame({"user_id": ["u", "v"], "weather": ["dry", "wet"]}), how="cross")
    rows = rows.with_columns(poi_id=pl.col("day").cast(pl.String), split=pl.lit("train"))
    of_day = pl.col("poi_id") if is_menu else pl.lit("")
    rows = rows.with_columns(request_id="day", poi_id=of_day + pl.col("user_id"))
    kind = pl.when(user_id="u").then(pl.lit("soup, hot")).otherwise(pl.lit("salad"))
    name = pl.format("{} {}", kind, "poi_id").alias("poi_name")
    places = rows.select("poi_id", name, poi_kind=kind, poi_city=pl.lit("Munich")).unique()
    users, files = rows.select("user_id").unique(), [tmp_path / "log.parquet"]
    for table, row in ((users, USER), (places, PLACE)):
        numbered = table.select(pl.first()).with_row_index(row, offset=1)
        rows = rows.join(numbered, on=table.columns[0])
    rows.write_parquet(files[0])
    log = Log(places, users, pl.DataFrame(), files, ["click"], [])
    config = Config.model_validate(
        {"features": {"categories": ["poi_id", "poi_kind", "poi_city", "weather", "poi_ctr_level"]}}
    )
    chosen = with_pairs(config, log).statistics or []
    of_places = [("user_id", "poi_kind"), ("user_id", "poi_name_words")][: 1 + is_menu]
    of_scene = [("poi_id", "weather")] * (not is_menu) + [("user_id", "weather")]
    assert [pair.columns for pair in chosen] == of_places + of_scene
    figures = ["log_clicks", "share", "ctr"][: 3 if is_menu else 1]
    assert [pair.figures for pair in chosen[: len(of_places)]] == [figures] * len(of_places)
    off = Config.model_validate({"statistics": []})
    assert with_pairs(off, log) is off
