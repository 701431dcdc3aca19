"""The examples of stage 2, texts of a user and of the place ordered from, and their batches.

Paper: section 3.2, Eq. (17)-(18) and the pairs of Eq. (12)-(20). Shapes: B triples, S places shown
beside an order (`contrast.shown`), T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from larr import artifacts
from larr.config import Config
from larr.config.data import KeywordConfig
from larr.config.text import ContrastConfig
from larr.data.holdout import folds
from larr.errors import DataError
from larr.text.backbone import KeywordTokenizer, Parts
from larr.text.corpus import descriptions_table, row_texts
from larr.text.encoder import as_input, from_input, similar_lengths

VIEWS = ("profile", "action", "business", "basic", "user", "place")
"""The text columns of an example: U_p, U_a, P_d, P_b, U = [U_p, U_a] and P = [P_d, P_b]."""
EMPTY = ""
"""The value of a view without text."""
KEYS = 3
"""The number of keys of an example: user, place, chain."""
MAX_SHOWN = 20
"""Other places of an order's request that are kept in memory."""
NEAR_GROUP = 8
"""Consecutive orders with the same value of `contrast.near`. With complete batches of one city the
vectors lost the differences between cities, and the users' tastes."""
GROUP = 32
"""Texts of similar length that the model reads together, for less padding."""
GROUP_TOKENS, SPREAD = 2_048, 1.4
"""Limits for a group of a large model: its tokens, and its longest text relative to its shortest.
With SmolLM2 a group has the overhead of about 140 tokens."""


def view_keywords(config: Config, view: str) -> list[KeywordConfig]:
    """Returns the keywords of a view, in the configuration's order. Paper: Eq. (17)-(18)."""
    halves = {"user": ("profile", "action"), "place": ("business", "basic")}
    return [keyword for keyword in config.keywords if keyword.view in halves.get(view, (view,))]


@dataclass(frozen=True)
class HeldOut:
    """Users, places and rows excluded from training, for the evaluation of the model."""

    users: pl.Series
    """Values of `user_id`."""
    places: pl.Series
    """Values of `poi_id`."""
    rows: pl.Series
    """Indices of the training rows that `larr.data.holdout` leaves out, at most half of them."""

    @property
    def is_user(self) -> pl.Expr:
        """Whether `user_id` is held out."""
        return pl.col("user_id").is_in(self.users.implode())

    @property
    def is_place(self) -> pl.Expr:
        """Whether `poi_id` is held out."""
        return pl.col("poi_id").is_in(self.places.implode())

    @property
    def is_row(self) -> pl.Expr:
        """Whether `log_row` is held back; false for orders from before the log."""
        return pl.col("log_row").is_in(self.rows.implode()).fill_null(False)

    @property
    def is_trained(self) -> pl.Expr:
        """Whether training reads an order with these three columns."""
        return ~(self.is_user | self.is_place | self.is_row)


def held_out(config: Config) -> HeldOut:
    """Returns a random share of the users and of the places, and the held-back rows.

    The branches of a chain have nearly the same texts and are held out together. `larr choose`
    evaluates rankers on the same rows, so the vectors must not be trained on them.
    """
    random = np.random.default_rng(config.seed)

    def share(values: pl.Series) -> pl.Series:
        count = round(config.contrast.held_out * len(values))
        return values.gather(np.sort(random.permutation(len(values))[:count]))

    orders = pl.scan_parquet(artifacts.folder(config, "prepare") / "orders.parquet")
    users = orders.select(pl.col("user_id").unique().sort()).collect()["user_id"]
    places = descriptions_table(config).select(
        "poi_id", brand=pl.coalesce(pl.col("chain"), pl.col("poi_id").cast(pl.String))
    )
    brands = share(places["brand"].unique().sort())
    chosen = places.filter(pl.col("brand").is_in(brands.implode()))["poi_id"]
    rows_N = _held_back(config) if config.contrast.held_out else []
    return HeldOut(share(users), chosen, pl.Series(rows_N, dtype=pl.UInt32))


def _held_back(config: Config) -> list[int]:
    """Returns the indices of the rows that `larr choose` holds back, at most half."""
    try:
        parts = folds(config)
    except DataError:  # a log with one user or place cannot be divided
        return []
    half = (len(parts[0].train) + len(parts[0].left_out_N)) / 2
    rows: set[int] = set()
    for part in parts:
        more = rows.union(part.left_out_N.tolist())
        if rows and len(more) > half:
            break
        rows = more
    return sorted(rows)


def examples(config: Config, holdout: HeldOut) -> dict[str, list[Any]]:
    """Returns `contrast.triples` examples with the columns VIEWS, `not_taken` and `keys`.

    `not_taken` contains the texts P of at most `contrast.shown` places shown in the same request
    but not clicked. `keys` are the indices of user, place and chain (-1 without a chain), which
    identify false negatives. The rows form complete batches, in reading order. If there are fewer
    orders than triples, repeats orders with other keywords dropped. All texts are from strictly
    before the order (decision 11). Raises DataError for fewer than two orders.
    """
    orders = sample_orders(config, holdout.is_trained, config.contrast.triples)
    for view in ("user", "place"):
        names = [keyword.name for keyword in view_keywords(config, view)]
        orders = orders.filter(pl.any_horizontal(pl.col(names).is_not_null()))
    if len(orders) < 2:
        raise DataError(
            f"stage 2 needs orders of at least two pairs of user and place, found {len(orders)}; "
            "provide `orders` from before the log or a longer log, or lower contrast.held_out"
        )
    random = np.random.default_rng(config.seed)
    keys = orders.select(
        pl.col(name).rank("dense").cast(pl.Int64).fill_null(-1)
        for name in ("user_id", "poi_id", "chain")
    ).rows()
    rows = orders.to_dicts()
    others_of = not_taken(config, orders, holdout)
    keywords = {view: view_keywords(config, view) for view in VIEWS}
    if not config.contrast.lambda_user_user:
        keywords |= {"profile": [], "action": []}  # these texts would only take time
    if not config.contrast.lambda_place_place:
        keywords |= {"business": [], "basic": []}
    columns: dict[str, list[Any]] = {name: [] for name in (*VIEWS, "not_taken", "keys")}

    def text(row: dict[str, Any], view: str) -> str:
        parts = row_texts(row, keywords[view])
        return as_input(augmented(parts, config.contrast, random)) if parts else EMPTY

    for index in _batched(config, orders, random):
        row = rows[index]
        for view in VIEWS:
            columns[view].append(text(row, view))
        others = [
            other
            for other in others_of.get(row["beside"], [])
            if other["chain"] is None or other["chain"] != row["chain"]
        ]
        chosen = random.permutation(len(others))[: config.contrast.shown]
        columns["not_taken"].append([text(others[other], "place") for other in chosen])
        columns["keys"].append(list(keys[index]))
    return columns


def not_taken(
    config: Config, orders: pl.DataFrame, holdout: HeldOut | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Returns the places shown in the same request as an order but not clicked, by `beside`.

    Selects at most MAX_SHOWN rows with poi_id, chain and texts at random; with `holdout`, omits
    those held out.
    """
    folder = artifacts.folder(config, "prepare")
    key = ["beside", "poi_id"]
    rows = pl.scan_parquet(folder / "not_taken.parquet")
    if holdout is not None:
        rows = rows.filter(~(holdout.is_place | holdout.is_row))
    rows = rows.join(orders.select("beside").lazy(), on="beside", how="semi")
    # A user who skipped a place on one day may have taken it on another.
    taken = pl.scan_parquet(folder / "orders.parquet").select(key)
    others = rows.join(taken, on=key, how="anti").unique(key).sort(key).collect()
    others = others.sample(fraction=1.0, shuffle=True, seed=config.seed)
    others = others.filter(pl.int_range(pl.len()).over("beside") < MAX_SHOWN)
    return {str(beside): part.to_dicts() for (beside,), part in others.group_by("beside")}


def _batched(config: Config, orders: pl.DataFrame, random: np.random.Generator) -> np.ndarray:
    """Returns the row indices of all batches, concatenated (int64 [triples]).

    With `contrast.near`, orders at places with the same value form groups of NEAR_GROUP: negatives
    from the same city teach taste, the others location.
    """
    contrast = config.contrast
    size = min(contrast.batch_size, contrast.triples)
    shuffled = [random.permutation(len(orders)) for _ in range(-(-contrast.triples // len(orders)))]
    rows = np.concatenate(shuffled)[: contrast.triples // size * size]
    if contrast.near:
        near = rows[np.argsort(near_numbers(config, orders["poi_id"])[rows], kind="stable")]
        groups = np.array_split(near, max(1, len(near) // NEAR_GROUP))
        rows = np.concatenate([groups[index] for index in random.permutation(len(groups))])
    return rows


def near_numbers(config: Config, poi_ids: pl.Series) -> np.ndarray:
    """Returns the index of each place's value in the column `contrast.near`; 0 without a value."""
    near = pl.col(config.contrast.near).cast(pl.String)
    places = pl.read_parquet(artifacts.folder(config, "prepare") / "places.parquet")
    places = places.select("poi_id", near=near.rank("dense"))
    joined = poi_ids.to_frame("poi_id").join(places, on="poi_id", how="left", maintain_order="left")
    return joined["near"].fill_null(0).to_numpy()


def augmented(parts: Parts, contrast: ContrastConfig, random: np.random.Generator) -> Parts:
    """Shuffles the parts and drops some of them, sometimes all but one.

    Stage 3 embeds each keyword alone; if stage 2 trained only on complete texts, single keywords
    would be out of distribution (decision 5).
    """
    if contrast.shuffle_keywords:
        parts = tuple(parts[index] for index in random.permutation(len(parts)))
    if len(parts) < 2:
        return parts
    if random.random() < contrast.single_keyword:
        return (parts[random.integers(len(parts))],)
    is_kept = random.random(len(parts)) >= contrast.drop_keyword
    return tuple(part for part, keep in zip(parts, is_kept, strict=True) if keep) or parts[:1]


def sample_orders(config: Config, chosen: pl.Expr, limit: int) -> pl.DataFrame:
    """Returns at most `limit` random orders that match `chosen` (on user_id, poi_id and log_row).

    Takes one order of each user and place first, then a second one, and so on, so that a user with
    a hundred orders does not dominate. Reads the texts of these rows only.
    """
    path = artifacts.folder(config, "prepare") / "orders.parquet"
    numbered = pl.scan_parquet(path).with_row_index("row")
    ids = numbered.select("row", "user_id", "poi_id", "log_row").filter(chosen).collect()
    shuffled = ids.sample(fraction=1.0, shuffle=True, seed=config.seed).with_columns(
        of_user=pl.int_range(pl.len()).over("user_id"),
        of_place=pl.int_range(pl.len()).over("poi_id"),
    )
    turn = pl.max_horizontal("of_user", "of_place")
    rows = shuffled.sort(turn, maintain_order=True).head(limit).select("row")
    orders = numbered.join(rows.lazy(), on="row", how="semi").collect()
    return rows.join(orders, on="row", how="left", maintain_order="left").drop("row")


@dataclass
class TripleCollator:
    """Builds a batch that contains each distinct text of a step once.

    Sorts the texts by length and splits them into groups of about GROUP; for a `large` model, whose
    cost is proportional to tokens, by `similar_lengths`. The number of groups is a multiple of
    `processes`, for which the last group may be repeated; no label refers to its second vectors.
    The batch contains `input_ids` and `attention_mask` of each group, and in `label` (int64
    [B, 9 + S]) for each triple the positions of its texts in sorted order, its keys, and the
    positions of places shown but not taken (or -1).
    """

    tokens: KeywordTokenizer
    shown: int
    large: bool = False
    processes: int = 1
    valid_label_columns: ClassVar = ("label",)
    """Required by the trainer."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Returns the batch of rows of `examples`."""
        shown = {text for row in features for text in row["not_taken"]}
        texts = sorted({row[view] for row in features for view in VIEWS} - {EMPTY} | shown)
        encoded = self.tokens.encode_batch([from_input(text) for text in texts])
        order = sorted(range(len(texts)), key=lambda index: len(encoded[index]))
        order += [order[-1]] * (self.processes - len(order))
        batch: dict[str, Tensor] = {}
        groups = np.array_split(np.array(order), max(self.processes, len(order) // GROUP))
        if self.large:
            lengths = [len(encoded[index]) for index in order]
            parts = similar_lengths(lengths, GROUP_TOKENS, SPREAD)
            if len(parts) >= self.processes:
                groups = [np.array(order)[part] for part in parts]
        groups += groups[-1:] * (-len(groups) % self.processes)
        for group, indices in enumerate(groups):
            padded = self.tokens.pad([encoded[index] for index in indices])
            batch |= {f"{group}_{key}": tensor for key, tensor in padded.items()}
        positions = {texts[index]: position for position, index in enumerate(order)}
        positions[EMPTY] = -1
        labels = []
        for row in features:
            views = [positions[row[view]] for view in VIEWS]
            shown_S = [positions[text] for text in row["not_taken"]]
            padding = [-1] * (self.shown - len(shown_S))
            labels.append(views + row["keys"] + shown_S + padding)
        batch["label"] = torch.tensor(labels)
        return batch
