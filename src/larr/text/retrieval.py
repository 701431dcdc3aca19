"""recall@10 of a text embedding model on users and places that it was not tuned on.

Shapes: Q queries, C candidates, N distinct texts, D the vector's length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from sentence_transformers import SentenceTransformer

from larr.config import Config
from larr.config.data import KeywordConfig
from larr.text.backbone import KeywordText
from larr.text.corpus import descriptions_table, texts_of
from larr.text.encoder import compute, normalised
from larr.text.pairs import HeldOut, keywords_of, near_numbers, orders_of

CUTOFF = 10
"""k of recall@k."""
MAX_QUERIES = 500
MAX_PLACES = 10_000
"""Candidates of a task, so that the figures of a large platform do not take hours."""


@dataclass(frozen=True)
class Task:
    """Queries, each with one right answer among the distinct candidates."""

    name: str
    queries: list[list[KeywordText]]
    candidates: list[list[KeywordText]]
    answers: list[int]
    """The number of each query's right candidate."""
    near: list[int] = field(default_factory=list)
    """The number of each candidate's value of `contrast.near`; empty if that is not set."""


def recalls(config: Config, apart: HeldOut, encoder: SentenceTransformer) -> dict[str, Any]:
    """Returns recall@10 of every task; None if the held-out users and places give no query.

    `user_to_place`: U of an order to P of the place among all held-out places. `place_halves`:
    P_d to P_b of the same place. `single_keywords`: each keyword alone (decision 5), of U to P of
    the ordered place, of one half of a place to its other half; `single_keyword` and
    `single_place_keyword` are the means of the former and of the latter. `chance` is that of
    `user_to_place`.

    With `contrast.near` (such as the city) a part of `user_to_place` is to know where the user is:
    `chance_nearby` is the recall of a random guess among the places there, and `beats_nearby` the
    share of the other places there that score below the ordered one (chance .5).
    """
    all_tasks = tasks(config, apart)
    scores = similarities(encoder, all_tasks, config.embed.batch_tokens)
    recall: dict[str, float | None] = {}
    near: dict[str, float] = {}
    for task, scores_QC in zip(all_tasks, scores, strict=True):
        if task.name == "user_to_place":
            near = nearby(task, scores_QC)
        recall[task.name] = hits(scores_QC, np.array(task.answers)) if task.queries else None
    user_to_place, place_halves = recall.pop("user_to_place"), recall.pop("place_halves")
    single, users = list(recall.values()), len(keywords_of(config, "user"))
    chance = round(min(1.0, CUTOFF / max(1, len(all_tasks[0].candidates))), 4)
    return {
        "user_to_place": user_to_place,
        "place_halves": place_halves,
        "single_keyword": _mean(single[:users]),
        "single_place_keyword": _mean(single[users:]),
        "single_keywords": recall,
        "chance": None if user_to_place is None else chance,
        **near,
    }


def _mean(recalls: list[float | None]) -> float | None:
    measured = [value for value in recalls if value is not None]
    return round(float(np.mean(measured)), 4) if measured else None


def tasks(config: Config, apart: HeldOut) -> list[Task]:
    """Returns user to place, place half to place half, and one task for each keyword alone.

    The places' texts are those at the end of the training days: their statistics already contain
    the orders of the queries, so recall is no forecast.
    """
    places = descriptions_table(config).filter(pl.col("poi_id").is_in(apart.places.implode()))
    if places.height > MAX_PLACES:
        places = places.sample(MAX_PLACES, seed=config.seed)
    if config.contrast.near:
        places = places.with_columns(near=near_numbers(config, places["poi_id"]))
    is_place = pl.col("poi_id").is_in(places["poi_id"].implode())
    orders = orders_of(config, apart.is_user & is_place, MAX_QUERIES)
    user, place = keywords_of(config, "user"), keywords_of(config, "place")
    business, basic = keywords_of(config, "business"), keywords_of(config, "basic")
    return [
        _task("user_to_place", (orders, user), (places, place)),
        _task("place_halves", (places, business), (places, basic)),
        *(_task(f"{key.name} to place", (orders, [key]), (places, place)) for key in user),
        *(_task(f"{key.name} to P_b", (places, [key]), (places, basic)) for key in business),
        *(_task(f"{key.name} to P_d", (places, [key]), (places, business)) for key in basic),
    ]


Side = tuple[pl.DataFrame, list[KeywordConfig]]
"""Rows with a poi_id, and the keywords whose texts are read from them."""


def _task(name: str, query: Side, candidate: Side) -> Task:
    """Returns a task whose right answer is the candidate with the query's poi_id.

    Candidates with equal texts are one, else a right answer could be counted as wrong.
    """
    rows, keywords = candidate
    distinct: dict[tuple[KeywordText, ...], int] = {}
    answer: dict[Any, int] = {}
    near: list[int] = []
    for row in rows.iter_rows(named=True):
        parts = tuple(texts_of(row, keywords))
        if parts:
            answer[row["poi_id"]] = distinct.setdefault(parts, len(distinct))
            if "near" in row and len(near) < len(distinct):
                near.append(row["near"])
    queries: list[list[KeywordText]] = []
    answers: list[int] = []
    for row in query[0].head(MAX_QUERIES).iter_rows(named=True):
        text = texts_of(row, query[1])
        if text and row["poi_id"] in answer:
            queries.append(text)
            answers.append(answer[row["poi_id"]])
    return Task(name, queries, [list(parts) for parts in distinct], answers, near)


def similarities(
    encoder: SentenceTransformer, tasks: list[Task], batch_tokens: int
) -> Iterator[np.ndarray]:
    """Yields for each task in turn the cosines of its queries and candidates, [Q, C].

    The mean vector of the queries and that of the candidates are subtracted first, as the rankers
    do; without that untuned vectors all look alike. Each distinct text is embedded once.
    """
    texts = [tuple(text) for task in tasks for text in (*task.queries, *task.candidates)]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    vectors_ND = compute(encoder, [list(text) for text in numbers], batch_tokens)

    def centred(texts: list[list[KeywordText]]) -> np.ndarray:
        vectors_TD = vectors_ND[[numbers[tuple(text)] for text in texts]]
        return normalised(vectors_TD - vectors_TD.mean(axis=0)) if texts else vectors_TD

    for task in tasks:
        yield centred(task.queries) @ centred(task.candidates).T


def nearby(task: Task, scores_QC: np.ndarray) -> dict[str, float]:
    """Returns `chance_nearby` and `beats_nearby`; {} if no query has another candidate nearby."""
    if not (task.near and task.queries):
        return {}
    near_C, right_Q, each_Q = np.array(task.near), np.array(task.answers), np.arange(len(scores_QC))
    nearby_QC = near_C == near_C[right_Q][:, None]
    chance_Q = np.minimum(1.0, CUTOFF / nearby_QC.sum(axis=1))
    nearby_QC[each_Q, right_Q] = False
    others_Q = nearby_QC.sum(axis=1)
    if not others_Q.any():
        return {}
    right_Q1 = scores_QC[each_Q, right_Q][:, None]
    beaten_QC = (scores_QC < right_Q1) + (scores_QC == right_Q1) / 2
    beats_Q = (beaten_QC * nearby_QC).sum(axis=1)[others_Q > 0] / others_Q[others_Q > 0]
    return {
        "chance_nearby": round(float(chance_Q.mean()), 4),
        "beats_nearby": round(float(beats_Q.mean()), 4),
    }


def hits(scores_QC: np.ndarray, answers_Q: np.ndarray) -> float:
    """Returns recall@10 of the answers.

    A candidate with the right one's score counts against it by half a rank: a model that gives
    all texts one vector must not score 1. A score that is not finite is no hit.
    """
    right_Q1 = scores_QC[np.arange(len(scores_QC)), answers_Q][:, None]
    better_Q = (scores_QC > right_Q1).sum(axis=1)
    equal_Q = (scores_QC == right_Q1).sum(axis=1) - 1
    is_hit_Q = (better_Q + equal_Q / 2 < CUTOFF) & np.isfinite(right_Q1[:, 0])
    return round(float(is_hit_Q.mean()), 4)
