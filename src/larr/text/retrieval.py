"""Measures recall@10 of a text embedding model on users and places it was not tuned on.

Shapes: Q queries, C candidates, N distinct texts, D vector length.
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
from larr.text.backbone import Parts
from larr.text.corpus import descriptions_table, row_texts
from larr.text.encoder import compute
from larr.text.fitted import centred
from larr.text.pairs import HeldOut, near_numbers, sample_orders, view_keywords

CUTOFF = 10
"""k of recall@k."""
MAX_QUERIES = 500
MAX_PLACES = 10_000
"""Limit for the candidates of a task, so that a large platform does not take hours."""


@dataclass(frozen=True)
class Task:
    """Queries, each with one correct answer among the distinct candidates."""

    name: str
    queries: list[Parts]
    candidates: list[Parts]
    answers: list[int]
    """The index of the correct candidate of each query."""
    near: list[int] = field(default_factory=list)
    """The index of each candidate's value of `contrast.near`; empty if that is not set."""


def recalls(config: Config, holdout: HeldOut, encoder: SentenceTransformer) -> dict[str, Any]:
    """Returns recall@10 of every task; None without queries or with ten or fewer candidates.

    `user_to_place` retrieves P of the ordered place among all held-out places, given U;
    `place_halves` retrieves P_b of a place, given P_d. `single_keywords` uses each keyword alone
    (decision 5): a keyword of U to retrieve P, or one of a place half to retrieve the other half;
    `single_keyword` and `single_place_keyword` are the means of these. `chance` is the recall of
    random guesses in `user_to_place`.

    With `contrast.near` (such as the city), knowing the user's location solves part of
    `user_to_place`: `chance_nearby` is the recall of random guesses among the places there, and
    `beats_nearby` the share of the other places there that score below the ordered one (chance .5).
    """
    all_tasks = tasks(config, holdout)
    scores = similarities(encoder, all_tasks, config.embed.batch_tokens)
    recall: dict[str, float | None] = {}
    near: dict[str, float] = {}
    for task, scores_QC in zip(all_tasks, scores, strict=True):
        if task.name == "user_to_place":
            near = nearby(task, scores_QC)
        is_hard = task.queries and len(task.candidates) > CUTOFF
        recall[task.name] = hits(scores_QC, np.array(task.answers)) if is_hard else None
    user_to_place, place_halves = recall.pop("user_to_place"), recall.pop("place_halves")
    single, users = list(recall.values()), len(view_keywords(config, "user"))
    chance = round(CUTOFF / max(CUTOFF, len(all_tasks[0].candidates)), 4)
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


def tasks(config: Config, holdout: HeldOut) -> list[Task]:
    """Returns the tasks user to place, place half to place half, and one for each single keyword.

    The texts of places are from the end of the training days. Their statistics already contain the
    orders of the queries, so recall does not estimate a forecast.
    """
    places = descriptions_table(config).filter(pl.col("poi_id").is_in(holdout.places.implode()))
    if places.height > MAX_PLACES:
        places = places.sample(MAX_PLACES, seed=config.seed)
    if config.contrast.near:
        places = places.with_columns(near=near_numbers(config, places["poi_id"]))
    is_place = pl.col("poi_id").is_in(places["poi_id"].implode())
    orders = sample_orders(config, holdout.is_user & is_place, MAX_QUERIES)
    user, place = view_keywords(config, "user"), view_keywords(config, "place")
    business, basic = view_keywords(config, "business"), view_keywords(config, "basic")
    parts = [("user_to_place", orders, user, place), ("place_halves", places, business, basic)]
    parts += [(f"{key.name} to place", orders, [key], place) for key in user]
    parts += [(f"{key.name} to basic texts", places, [key], basic) for key in business]
    parts += [(f"{key.name} to business texts", places, [key], business) for key in basic]
    return [_task(places, *part) for part in parts]


def _task(
    places: pl.DataFrame,
    name: str,
    rows: pl.DataFrame,
    query: list[KeywordConfig],
    candidate: list[KeywordConfig],
) -> Task:
    """Returns a task: given the query's keywords of a row, find its place by the candidate's.

    Merges places with equal texts; otherwise a correct answer could be counted as wrong.
    """
    distinct: dict[Parts, int] = {}
    answer: dict[Any, int] = {}
    near: list[int] = []
    for row in places.iter_rows(named=True):
        if parts := row_texts(row, candidate):
            answer[row["poi_id"]] = distinct.setdefault(parts, len(distinct))
            if "near" in row and len(near) < len(distinct):
                near.append(row["near"])
    queries: list[Parts] = []
    answers: list[int] = []
    for row in rows.head(MAX_QUERIES).iter_rows(named=True):
        text = row_texts(row, query)
        if text and row["poi_id"] in answer:
            queries.append(text)
            answers.append(answer[row["poi_id"]])
    return Task(name, queries, list(distinct), answers, near)


def similarities(
    encoder: SentenceTransformer, tasks: list[Task], batch_tokens: int
) -> Iterator[np.ndarray]:
    """Yields the cosines of the queries and candidates of each task, [Q, C].

    Centres the vectors of queries and of candidates first, as the rankers do. Embeds each distinct
    text once.
    """
    texts = [text for task in tasks for text in (*task.queries, *task.candidates)]
    row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    vectors_ND = compute(encoder, list(row_of), batch_tokens)
    for task in tasks:
        query_Q, candidate_C = (
            [row_of[text] for text in texts] for texts in (task.queries, task.candidates)
        )
        yield centred(vectors_ND[query_Q]) @ centred(vectors_ND[candidate_C]).T


def nearby(task: Task, scores_QC: np.ndarray) -> dict[str, float]:
    """Returns `chance_nearby` and `beats_nearby`; {} if no query has another candidate nearby."""
    if not (task.near and task.queries):
        return {}
    near_C, answer_Q, row_Q = np.array(task.near), np.array(task.answers), np.arange(len(scores_QC))
    nearby_QC = near_C == near_C[answer_Q][:, None]
    chance_Q = np.minimum(1.0, CUTOFF / nearby_QC.sum(axis=1))
    nearby_QC[row_Q, answer_Q] = False
    others_Q = nearby_QC.sum(axis=1)
    if not others_Q.any():
        return {}
    correct_Q1 = scores_QC[row_Q, answer_Q][:, None]
    beaten_QC = (scores_QC < correct_Q1) + (scores_QC == correct_Q1) / 2
    beats_Q = (beaten_QC * nearby_QC).sum(axis=1)[others_Q > 0] / others_Q[others_Q > 0]
    return {
        "chance_nearby": round(float(chance_Q.mean()), 4),
        "beats_nearby": round(float(beats_Q.mean()), 4),
    }


def hits(scores_QC: np.ndarray, answers_Q: np.ndarray) -> float:
    """Returns recall@10 of the answers.

    A tie with the correct candidate costs half a rank, so that a model with the same vector for all
    texts does not score 1. A score that is not finite is a miss.
    """
    correct_Q1 = scores_QC[np.arange(len(scores_QC)), answers_Q][:, None]
    better_Q = (scores_QC > correct_Q1).sum(axis=1)
    equal_Q = (scores_QC == correct_Q1).sum(axis=1) - 1
    is_hit_Q = (better_Q + equal_Q / 2 < CUTOFF) & np.isfinite(correct_Q1[:, 0])
    return round(float(is_hit_Q.mean()), 4)
