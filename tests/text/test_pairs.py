"""The examples of stage 2: held-out parts, selection of orders, dropped keywords."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from larr.config import Config
from larr.config.text import ContrastConfig
from larr.errors import DataError
from larr.text import pairs
from larr.text.pairs import (
    EMPTY,
    VIEWS,
    augmented,
    examples,
    held_out,
    not_taken,
    sample_orders,
    view_keywords,
)
from tests.fake_data import make_data

PARTS = (("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"))


@pytest.fixture
def config(prepared: Config) -> Config:
    contrast = prepared.contrast.model_copy(update={"triples": 60})
    return prepared.model_copy(update={"contrast": contrast})


def test_views_are_both_sides_and_their_halves(config: Config) -> None:
    names = {view: [keyword.name for keyword in view_keywords(config, view)] for view in VIEWS}
    assert names["profile"] == ["user_base"]
    assert names["action"] == ["user_taste", "scene_time"]
    assert names["user"] == ["user_base", "user_taste", "scene_time"]
    assert names["place"] == ["poi_name", "poi_menu", "poi_tags"]


def test_held_out_users_and_places_are_not_in_training_pairs(config: Config) -> None:
    holdout = held_out(config)
    assert len(holdout.users) == round(0.3 * 40)
    columns = examples(config, holdout)
    texts = " ".join(columns["place"] + columns["business"])
    descriptions = pl.read_parquet(config.output / "prepare" / "descriptions.parquet")
    unseen = descriptions.filter(pl.col("poi_id").is_in(holdout.places.implode()))
    assert len(unseen) > 5
    for name in unseen["poi_name"].unique():
        assert f'"{name}"' not in texts
    orders = pl.read_parquet(config.output / "prepare" / "orders.parquet")
    trained = orders.filter(holdout.is_trained)
    assert trained["log_row"].max() < 150, "the last three of six days are held back"
    assert len(set(columns["user"])) <= len(trained)
    both = sample_orders(config, holdout.is_user & holdout.is_place, 1000)
    assert len(both) > 0
    assert set(both["user_id"]) <= set(holdout.users)
    assert set(both["poi_id"]) <= set(holdout.places)


def test_places_shown_beside_an_order_are_its_negatives(config: Config) -> None:
    config = config.model_copy(update={"contrast": _complete(20)})
    holdout = held_out(config)
    orders = sample_orders(config, holdout.is_trained, 100)
    columns = examples(config, holdout)
    shown = pl.read_parquet(config.output / "prepare" / "not_taken.parquet")
    for user, place, others in zip(
        columns["user"], columns["place"], columns["not_taken"], strict=True
    ):
        [menu] = [text for name, text in json.loads(place) if name == "poi_name"]
        [taste] = [text for name, text in json.loads(user) if name == "scene_time"]
        requests = orders.filter(poi_name=menu, scene_time=taste)["beside"]
        beside = shown.filter(pl.col("beside").is_in(requests.implode()))
        names = [dict(json.loads(other))["poi_name"] for other in others]
        assert menu not in names
        assert set(names) <= set(beside["poi_name"])
    assert max(len(others) for others in columns["not_taken"]) == 3


def test_a_place_ordered_elsewhere_is_not_a_negative(
    config: Config, copy: Callable[..., Config]
) -> None:
    """`beside` contains users, as it does if each request has one candidate."""
    config = copy(config)
    folder = config.output / "prepare"
    orders = pl.read_parquet(folder / "orders.parquet")
    owner = orders.select("beside", "user_id")
    shown = pl.read_parquet(folder / "not_taken.parquet").join(owner, on="beside")
    orders = orders.with_columns(beside="user_id")
    orders.write_parquet(folder / "orders.parquet")
    shown.with_columns(beside="user_id").drop("user_id").write_parquet(folder / "not_taken.parquet")
    taken = set(orders.select("user_id", "poi_id").rows())
    negatives = {
        (user, row["poi_id"]) for user, rows in not_taken(config, orders).items() for row in rows
    }
    assert negatives
    assert not negatives & taken


def test_branches_of_a_chain_are_held_out_together(config: Config) -> None:
    descriptions = pl.read_parquet(config.output / "prepare" / "descriptions.parquet")
    chains = descriptions.filter(pl.col("chain").is_not_null()).with_columns(
        apart=pl.col("poi_id").is_in(held_out(config).places.implode())
    )
    assert chains.group_by("chain").agg(pl.col("apart").n_unique())["apart"].to_list() == [1] * 4


def test_a_user_with_most_orders_does_not_dominate_the_examples(
    config: Config, copy: Callable[..., Config]
) -> None:
    config = copy(config)
    path = config.output / "prepare" / "orders.parquet"
    orders = pl.read_parquet(path)
    one = orders.with_columns(user_id=pl.lit("u1"))
    pl.concat([orders, *[one] * 5]).write_parquet(path)
    holdout = held_out(config)
    columns = examples(config.model_copy(update={"contrast": _complete(28)}), holdout)
    users = Counter(keys[0] for keys in columns["keys"])
    assert max(users.values()) < 8, "28 examples, although one user has five orders in six"


def test_nearby_orders_share_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "NEAR_GROUP", 4)
    contrast = {"triples": 160, "batch_size": 8, "near": "poi_city"}
    complete = {"drop_keyword": 0.0, "single_keyword": 0.0, "held_out": 0.0}
    config = make_data(tmp_path, orders=400, contrast=contrast | complete)
    columns = examples(config, held_out(config))
    cities = [text.split("lives in ")[1].split('"')[0] for text in columns["user"]]
    groups = [cities[start : start + 4] for start in range(0, 160, 4)]
    uniform = sum(len(set(group)) == 1 for group in groups)
    assert uniform >= 37, "40 groups, except where one city ends"
    batches = [set(cities[start : start + 8]) for start in range(0, 160, 8)]
    assert sum(len(batch) > 1 for batch in batches) >= 10, "four cities, two groups per batch"


def test_few_orders_are_repeated_with_other_keywords(tmp_path: Path) -> None:
    config = make_data(tmp_path, users=8, orders=20, contrast={"triples": 200, "held_out": 0.0})
    columns = examples(config, held_out(config))
    assert len(columns["user"]) == 200
    assert len(set(columns["user"])) > 20


def test_keys_are_minus_one_without_a_chain(config: Config) -> None:
    columns = examples(config, held_out(config))
    chain_of = {keys[1]: keys[2] for keys in columns["keys"]}
    for place, keys in zip(columns["place"], columns["keys"], strict=True):
        if "House" in place:
            assert chain_of[keys[1]] >= 0
        elif "Shop" in place:
            assert chain_of[keys[1]] == -1


def test_a_missing_half_is_empty(config: Config) -> None:
    columns = examples(config, held_out(config))
    assert EMPTY in columns["basic"], "every eleventh place has no tags"
    assert EMPTY not in columns["user"] + columns["place"]
    assert all(json.loads(text) for text in columns["basic"] if text != EMPTY)


def test_losses_without_weight_need_no_texts(config: Config) -> None:
    without = config.with_settings({"contrast.lambda_user_user": 0.0})
    rows = examples(without, held_out(without))
    assert set(rows["profile"]) == set(rows["action"]) == {EMPTY}
    assert EMPTY not in rows["user"] + rows["place"] + rows["business"]
    without = config.with_settings({"contrast.lambda_place_place": 0.0})
    rows = examples(without, held_out(without))
    assert set(rows["business"]) == set(rows["basic"]) == {EMPTY}
    assert EMPTY not in rows["user"] + rows["place"] + rows["profile"]


def test_the_same_seed_gives_the_same_examples(config: Config) -> None:
    assert examples(config, held_out(config)) == examples(config, held_out(config))


def test_the_error_for_too_few_orders_suggests_a_fix(
    config: Config, copy: Callable[..., Config]
) -> None:
    config = copy(config)
    path = config.output / "prepare" / "orders.parquet"
    pl.read_parquet(path).head(1).write_parquet(path)
    with pytest.raises(DataError, match="provide `orders`"):
        examples(config, held_out(config))


def test_augmentation_follows_the_configured_shares() -> None:
    random = np.random.default_rng(0)
    contrast = ContrastConfig(drop_keyword=0.2, single_keyword=0.25)
    sizes = Counter(len(augmented(PARTS, contrast, random)) for _ in range(8_000))
    # size 1: a single keyword (1/4), or 3 of 4 dropped (4 * .8 * .2^3), or all of them (.2^4)
    assert sizes[1] / 8_000 == pytest.approx(0.25 + 0.75 * (4 * 0.8 * 0.008 + 0.0016), abs=0.02)
    assert sizes[4] / 8_000 == pytest.approx(0.75 * 0.8**4, abs=0.02)


def test_augmentation_shuffles_only_if_configured() -> None:
    random = np.random.default_rng(0)
    fixed = ContrastConfig(shuffle_keywords=False, drop_keyword=0.0, single_keyword=0.0)
    assert augmented(PARTS, fixed, random) == PARTS
    shuffled = fixed.model_copy(update={"shuffle_keywords": True})
    firsts = Counter(augmented(PARTS, shuffled, random)[0] for _ in range(400))
    assert min(firsts[part] for part in PARTS) > 60


def _complete(triples: int) -> ContrastConfig:
    return ContrastConfig(triples=triples, held_out=0.3, drop_keyword=0.0, single_keyword=0.0)
