"""The examples of stage 2: texts of a user and of the place that this user paid for.

Paper: section 3.2, Eq. (17)-(18) and the pairs of Eq. (12)-(20).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from larr import artifacts
from larr.config import Config
from larr.config.data import KeywordConfig
from larr.config.text import ContrastConfig
from larr.errors import ConfigError, DataError
from larr.text.backbone import KeywordText
from larr.text.corpus import descriptions_table, in_random_order, texts_of
from larr.text.encoder import as_input

VIEWS = ("profile", "action", "business", "basic", "user", "place")
"""The text columns of an example: U_p, U_a, P_d, P_b, U = [U_p, U_a] and P = [P_d, P_b]."""
EMPTY = ""
"""A view of which an order has no text."""


def keywords_of(config: Config, view: str) -> list[KeywordConfig]:
    """The keywords of one of VIEWS, in the order of the configuration. Paper: Eq. (17)-(18)."""
    whole = {"user": ("profile", "action"), "place": ("business", "basic")}
    return [keyword for keyword in config.keywords if keyword.view in whole.get(view, (view,))]


def check_pairs(config: Config) -> None:
    """ConfigError if stage 2 would have no texts of users or of places, or nothing that is near."""
    for side, owners in (("user", "user or scene"), ("place", "poi")):
        if not keywords_of(config, side):
            raise ConfigError(f"keywords: stage 2 needs one of owner {owners} at least")
    near, known = config.contrast.near, pl.read_parquet_schema(_places(config))
    if near and near not in known:
        raise ConfigError(f"contrast.near is {near!r}, but places have {', '.join(known)}")


@dataclass(frozen=True)
class HeldOut:
    """Users and places that no training pair has; the retrieval metrics are measured on them."""

    users: pl.Series
    places: pl.Series


def held_out(config: Config) -> HeldOut:
    """A random share of the users and of the places; a chain's branches stay together."""
    random = np.random.default_rng(config.seed)
    users = _orders(config).select(pl.col("user_id").unique().sort()).collect()["user_id"]
    places = descriptions_table(config).select(
        "poi_id", brand=pl.coalesce(pl.col("chain"), pl.col("poi_id").cast(pl.String))
    )
    brands = _share(places["brand"].unique().sort(), config.contrast.held_out, random)
    chosen = places.filter(pl.col("brand").is_in(brands.implode()))["poi_id"]
    return HeldOut(_share(users, config.contrast.held_out, random), chosen)


def examples(config: Config, apart: HeldOut) -> dict[str, list[Any]]:
    """`config.contrast.triples` examples: a column of inputs for each of VIEWS, and `keys`.

    `keys` are the numbers of user, place and chain (-1 without a chain), by which false negatives
    are known. The rows are whole batches in the order in which they are to be read. Where there
    are fewer orders than triples, orders come again with other keywords left out. Texts are those
    from strictly before the order (decision 11).
    """
    random = np.random.default_rng(config.seed)
    orders = _training_orders(config, apart)
    columns: dict[str, list[Any]] = {name: [] for name in (*VIEWS, "keys")}
    numbers = orders.select(_number("user_id"), _number("poi_id"), _number("chain")).rows()
    rows = orders.to_dicts()
    for row in _batched(config, orders, random):
        for view in VIEWS:
            parts = texts_of(rows[row], keywords_of(config, view))
            chosen = augmented(parts, config.contrast, random)
            columns[view].append(as_input(chosen) if chosen else EMPTY)
        columns["keys"].append(list(numbers[row]))
    return columns


def _batched(config: Config, orders: pl.DataFrame, random: np.random.Generator) -> np.ndarray:
    """The orders of all batches, one after the other; near ones are put together if that is set."""
    contrast = config.contrast
    size = min(contrast.batch_size, contrast.triples)
    shuffled = [random.permutation(len(orders)) for _ in range(-(-contrast.triples // len(orders)))]
    rows = np.concatenate(shuffled)[: contrast.triples // size * size]
    if contrast.near:
        near = rows[np.argsort(near_numbers(config, orders["poi_id"])[rows], kind="stable")]
        together = np.array_split(near, max(1, len(near) // contrast.near_together))
        rows = np.concatenate([together[group] for group in random.permutation(len(together))])
    return rows


def near_numbers(config: Config, poi_ids: pl.Series) -> np.ndarray:
    """For each place the number of its value in the column `contrast.near`; 0 = none."""
    near = pl.col(config.contrast.near).cast(pl.String)
    value = pl.read_parquet(_places(config)).select("poi_id", near=near.rank("dense"))
    found = poi_ids.to_frame("poi_id").join(value, on="poi_id", how="left", maintain_order="left")
    return found["near"].fill_null(0).to_numpy()


def augmented(
    parts: list[KeywordText], contrast: ContrastConfig, random: np.random.Generator
) -> list[KeywordText]:
    """The keywords shuffled, some left out, sometimes only one kept (decision 5)."""
    if contrast.shuffle_keywords:
        parts = in_random_order(parts, random)
    if len(parts) < 2:
        return parts
    if random.random() < contrast.single_keyword:
        return [parts[random.integers(len(parts))]]
    drawn = random.random(len(parts)) >= contrast.drop_keyword
    return [part for part, keep in zip(parts, drawn, strict=True) if keep] or parts[:1]


def orders_of(config: Config, apart: HeldOut, most: int) -> pl.DataFrame:
    """At most so many orders of held-out users at held-out places."""
    both = pl.col("user_id").is_in(apart.users.implode())
    both &= pl.col("poi_id").is_in(apart.places.implode())
    return _spread(config, both, most)


def _training_orders(config: Config, apart: HeldOut) -> pl.DataFrame:
    check_pairs(config)
    neither = ~pl.col("user_id").is_in(apart.users.implode())
    neither &= ~pl.col("poi_id").is_in(apart.places.implode())
    orders = _spread(config, neither, config.contrast.triples)
    for view in ("user", "place"):
        names = [keyword.name for keyword in keywords_of(config, view)]
        orders = orders.filter(pl.any_horizontal(pl.col(names).is_not_null()))
    if len(orders) < 2:
        raise DataError(
            f"stage 2 needs orders of at least two pairs of user and place, found {len(orders)}; "
            "give `orders` from before the log, a longer log, or a smaller contrast.held_out"
        )
    return orders


def _places(config: Config) -> Path:
    return artifacts.folder(config, "prepare") / "places.parquet"


def _orders(config: Config) -> pl.LazyFrame:
    return pl.scan_parquet(artifacts.folder(config, "prepare") / "orders.parquet")


def _spread(config: Config, chosen: pl.Expr, most: int) -> pl.DataFrame:
    """Orders that are the first of their user and place, drawn at random, then the second, ..."""
    ids = _orders(config).select("user_id", "poi_id").with_row_index("row").filter(chosen).collect()
    drawn = ids.sample(fraction=1.0, shuffle=True, seed=config.seed).with_columns(
        of_user=pl.int_range(pl.len()).over("user_id"),
        of_place=pl.int_range(pl.len()).over("poi_id"),
    )
    turn = pl.max_horizontal("of_user", "of_place")
    rows = drawn.sort(turn, maintain_order=True).head(most).select("row")
    taken = _orders(config).with_row_index("row").join(rows.lazy(), on="row", how="semi").collect()
    return rows.join(taken, on="row", how="left", maintain_order="left").drop("row")


def _share(values: pl.Series, share: float, random: np.random.Generator) -> pl.Series:
    wanted = round(share * len(values))
    return values.gather(np.sort(random.permutation(len(values))[:wanted]))


def _number(column: str) -> pl.Expr:
    rank = pl.col(column).rank("dense").cast(pl.Int64)
    return rank.fill_null(-1).alias(column)
