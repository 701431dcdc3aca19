"""Evaluates how a text embedding model ranks the places of requests it was not tuned on.

Shapes: N pairs of a taken place and another one, Q distinct texts of users, C distinct texts of
places, D vector length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from larr import artifacts
from larr.config import Config
from larr.group import ALONE, Group
from larr.text.backbone import Parts
from larr.text.corpus import descriptions_table, row_texts
from larr.text.encoder import compute
from larr.text.fitted import centred
from larr.text.pairs import HeldOut, not_taken, sample_orders, view_keywords

REQUESTS = 400
"""Orders used for evaluation."""
SAMPLED_ORDERS = 4_000
"""Orders from which they are taken, as those from before the log have no other places shown."""
OTHERS = 5
"""Places compared with each ordered place."""
MIN_ORDERS = MIN_PAIRS = 200
"""Fewer orders, or fewer pairs of a kind, are too noisy: on UniMobile the AUC of 61 pairs with a
new app varied between .33 and .59 from check to check."""
DEVIATION = 0.5
"""Standard deviation of the difference between two models' AUCs of an order (.46 to .67 on canteen
and UniMobile)."""
CHECKS = 5
"""Checks during training, in addition to that of the initial model."""
PATIENCE = 3
"""Training ends after this many consecutive checks without a new best."""


@dataclass(frozen=True)
class RankingEvaluator:
    """Held-out orders, whose places should score above others shown in the same request."""

    queries: list[Parts]
    """Distinct texts U."""
    candidates: list[Parts]
    """Distinct texts P."""
    parts: list[np.ndarray]
    """int64 [N, 4]: indices of the order, its query, the ordered candidate and another one. There
    are two parts, pairs with a place that training lacks and all others, or one if either is small.
    """

    @classmethod
    def of(cls, config: Config, holdout: HeldOut) -> RankingEvaluator | None:
        """Returns the evaluator of a run, or None if there are no held-out pairs."""
        orders, others_of = _orders(config, holdout)
        all_orders = pl.scan_parquet(artifacts.folder(config, "prepare") / "orders.parquet")
        trained = all_orders.filter(holdout.is_trained).select(pl.col("poi_id").unique()).collect()
        known = set(trained["poi_id"])
        random = np.random.default_rng(config.seed)
        users, places = view_keywords(config, "user"), view_keywords(config, "place")
        queries: dict[Parts, int] = {}
        candidates: dict[Parts, int] = {}
        parts: tuple[list[list[int]], list[list[int]]] = ([], [])
        for number, order in enumerate(orders.iter_rows(named=True)):
            user, taken = row_texts(order, users), row_texts(order, places)
            others = others_of[order["beside"]]
            for index in random.permutation(len(others))[:OTHERS]:
                other = row_texts(others[index], places)
                if not (user and taken and other) or other == taken:
                    continue
                pair = (
                    queries.setdefault(user, len(queries)),
                    candidates.setdefault(taken, len(candidates)),
                    candidates.setdefault(other, len(candidates)),
                )
                is_known = known.issuperset((order["poi_id"], others[index]["poi_id"]))
                parts[is_known].append([number, *pair])
        pairs = [*parts[0], *parts[1]]
        if not pairs:
            return None
        kept = parts if min(map(len, parts)) >= MIN_PAIRS else (pairs,)
        return cls(list(queries), list(candidates), [np.array(part) for part in kept])

    @property
    def noise(self) -> float:
        """Two standard errors of the difference between the AUCs of two models."""
        orders = np.unique(np.concatenate([part[:, 0] for part in self.parts]))
        return float(2 * DEVIATION / np.sqrt(len(orders)))

    def auc(self, encoder: SentenceTransformer, batch_tokens: int, group: Group = ALONE) -> float:
        """Returns the mean over orders of the share of other places that score below the ordered.

        The score is the cosine of centred vectors, as in the rankers. The result is the mean of the
        parts, so that new and known places have equal weight. Each process of a group embeds a part
        of the texts.
        """
        texts = [*self.queries, *self.candidates]
        vectors_ND = compute(encoder, texts, batch_tokens, group=group)
        query_QD, place_CD = map(centred, np.split(vectors_ND, [len(self.queries)]))
        means = []
        for part in self.parts:
            order_N, query_N, taken_N, other_N = part.T
            taken_ND, other_ND = place_CD[taken_N], place_CD[other_N]
            margin_N = (query_QD[query_N] * (taken_ND - other_ND)).sum(axis=1)
            won_N = (np.sign(margin_N) + 1) / 2
            counts = np.bincount(order_N)
            shares = np.bincount(order_N, won_N)[counts > 0] / counts[counts > 0]
            means.append(shares.mean())
        return float(np.mean(means))


def _orders(
    config: Config, holdout: HeldOut
) -> tuple[pl.DataFrame, dict[str, list[dict[str, Any]]]]:
    """Returns the orders for evaluation, and by `beside` the places to compare each with.

    Prefers orders of held-out users in held-back rows; if there are too few, uses all in held-back
    rows, then those of held-out users too. Without other places shown, compares with held-out ones.
    """
    for chosen in (
        holdout.is_row & holdout.is_user,
        holdout.is_row,
        holdout.is_row | holdout.is_user,
    ):
        orders = sample_orders(config, chosen, SAMPLED_ORDERS)
        others_of = not_taken(config, orders)
        logged = orders.filter(pl.col("beside").is_in(list(others_of)))
        if len(logged) >= MIN_ORDERS:
            break
    if len(logged):
        return logged.head(REQUESTS), others_of
    places = descriptions_table(config).filter(holdout.is_place).to_dicts()
    return orders.head(REQUESTS).with_columns(beside=pl.lit("")), {"": places}


class Checks(TrainerCallback):
    """Evaluates a model before and CHECKS times during training, and keeps the best weights.

    Of checks that differ only by noise the last one counts as best: on the small city the AUC stays
    between .66 and .68 while recall rises from .5 to .8. A model whose AUC may be due to chance is
    not kept, since all its texts may have the same vector.
    """

    def __init__(
        self,
        config: Config,
        holdout: HeldOut,
        encoder: SentenceTransformer,
        group: Group = ALONE,
    ) -> None:
        self.evaluator = RankingEvaluator.of(config, holdout)
        self.encoder, self.group = encoder, group
        self.batch_tokens = config.embed.batch_tokens
        self.auc: list[float] = []
        """The AUC of the initial model and of each check; empty without held-out pairs."""
        self.best = self.kept_step = 0
        """The index and the step of the best check."""
        self.noise = self.evaluator.noise if self.evaluator else 0.0
        self.weights: dict[str, Tensor] = {}
        self._check(0)

    def on_step_end(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **__: Any
    ) -> None:
        """Checks at regular steps; stops training after PATIENCE checks without improvement."""
        step = state.global_step
        if step == max(1, round(len(self.auc) * state.max_steps / CHECKS)):
            self._check(step)
            stop = len(self.auc) - 1 - self.best >= PATIENCE
            control.should_training_stop = self.group.broadcast(stop)

    def restore(self) -> None:
        """Restores the weights of the best check; without checks the model is unchanged."""
        self.encoder.load_state_dict(self.weights, strict=False)

    def _check(self, step: int) -> None:
        if self.evaluator is None:
            self.kept_step = step
            return
        self.auc.append(round(self.evaluator.auc(self.encoder, self.batch_tokens, self.group), 4))
        above = max(max(self.auc) - self.noise, 0.5 + self.noise / 2)
        if step == 0 or self.auc[-1] >= above:
            self.best, self.kept_step = len(self.auc) - 1, step
            self.weights = {
                name: parameter.detach().cpu().clone()
                for name, parameter in self.encoder.named_parameters()
                if parameter.requires_grad
            }
