"""recall@k of a text embedding model on users and places that it was not tuned on.

Shapes: Q queries, C candidates, D the vector's length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from sentence_transformers import SentenceTransformer

from larr.config import Config
from larr.config.data import KeywordConfig
from larr.text.backbone import KeywordText
from larr.text.corpus import descriptions_table, texts_of
from larr.text.pairs import HeldOut, keywords_of, near_numbers, orders_of
from larr.text.vectors import compute, normalised

FOUND_WITHIN = 10
QUERIES_AT_MOST = 1_000
PLACES_AT_MOST = 10_000
"""Among so many a place is to be found, so that a large platform's figures do not cost hours."""


@dataclass(frozen=True, eq=False)
class Task:
    """Queries, each with one right answer among the distinct candidates."""

    name: str
    queries: list[list[KeywordText]]
    candidates: list[list[KeywordText]]
    answers: list[int]
    """For each query the number of its right candidate."""
    near: list[int] = field(default_factory=list)
    """For each candidate the number of its value of `contrast.near`; empty if that is not set."""


def recalls(config: Config, apart: HeldOut, encoder: SentenceTransformer) -> dict[str, Any]:
    """recall@10 of every task; None where the held-out users and places give no query.

    `user_to_place`: U of an order to P of the place among all held-out places. `place_halves`:
    P_d to P_b of the same place. `single_keywords`: each keyword alone (decision 5), of U to P of
    the ordered place, of one half of a place to its other half; `single_keyword` and
    `single_place_keyword` are the means of the former and of the latter. `chance` is that of
    `user_to_place`.

    With `contrast.near` (such as the city) a part of `user_to_place` is to know where the user is:
    `chance_nearby` is the recall of who knows that and guesses among the places there, and
    `beats_nearby` the share of the other places there that the ordered one is above (chance .5).
    """
    whole, halves, *single = all_tasks = tasks(config, apart)
    scores = similarities(encoder, all_tasks, config.embed.batch_tokens)
    found: dict[Task, float | None] = {}
    near: dict[str, float] = {}
    for task, scores_QC in zip(all_tasks, scores, strict=True):
        found[task] = hits(scores_QC, np.array(task.answers)) if task.queries else None
        if task is whole:
            near = nearby(task, scores_QC)
    chance = FOUND_WITHIN / len(whole.candidates) if whole.queries else None
    users = len(keywords_of(config, "user"))
    return {
        "user_to_place": found[whole],
        "place_halves": found[halves],
        "single_keyword": _mean(found[task] for task in single[:users]),
        "single_place_keyword": _mean(found[task] for task in single[users:]),
        "single_keywords": {task.name: found[task] for task in single},
        "chance": chance and round(min(1.0, chance), 4),
        **near,
    }


def _mean(recalls: Iterable[float | None]) -> float | None:
    measured = [value for value in recalls if value is not None]
    return round(float(np.mean(measured)), 4) if measured else None


def tasks(config: Config, apart: HeldOut) -> list[Task]:
    """User to place, place half to place half, and one task for each keyword alone.

    The places' texts are those at the end of the training days: their statistics have seen the
    orders that are asked for, so recall is no forecast.
    """
    places = descriptions_table(config).filter(pl.col("poi_id").is_in(apart.places.implode()))
    if places.height > PLACES_AT_MOST:
        places = places.sample(PLACES_AT_MOST, seed=config.seed)
    if config.contrast.near:
        places = places.with_columns(near=near_numbers(config, places["poi_id"]))
    asked = orders_of(config, HeldOut(apart.users, places["poi_id"]), QUERIES_AT_MOST)
    users, whole = keywords_of(config, "user"), keywords_of(config, "place")
    business, basic = keywords_of(config, "business"), keywords_of(config, "basic")
    return [
        _task("user_to_place", (asked, users), (places, whole)),
        _task("place_halves", (places, business), (places, basic)),
        *(_task(f"{one.name} to place", (asked, [one]), (places, whole)) for one in users),
        *(_task(f"{one.name} to P_b", (places, [one]), (places, basic)) for one in business),
        *(_task(f"{one.name} to P_d", (places, [one]), (places, business)) for one in basic),
    ]


Side = tuple[pl.DataFrame, list[KeywordConfig]]


def _task(name: str, query: Side, candidate: Side) -> Task:
    """A task whose right answer is the candidate with the query's poi_id."""
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
    asked = [
        (texts_of(row, query[1]), answer[row["poi_id"]])
        for row in query[0].head(QUERIES_AT_MOST).iter_rows(named=True)
        if row["poi_id"] in answer
    ]
    asked = [(parts, right) for parts, right in asked if parts]
    return Task(
        name,
        queries=[parts for parts, _ in asked],
        candidates=[list(parts) for parts in distinct],
        answers=[right for _, right in asked],
        near=near,
    )


def similarities(
    encoder: SentenceTransformer, asked: list[Task], batch_tokens: int
) -> Iterator[np.ndarray]:
    """For each task in turn the cosines of its queries and candidates, [Q, C].

    The mean vector of the queries and that of the candidates are taken out first, as the rankers
    do; without that untuned vectors all look alike.
    """
    parts = [tuple(text) for task in asked for text in (*task.queries, *task.candidates)]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(parts))}
    vectors_ND = compute(encoder, [list(text) for text in numbers], batch_tokens)

    def centred(texts: list[list[KeywordText]]) -> np.ndarray:
        vectors_TD = vectors_ND[[numbers[tuple(text)] for text in texts]]
        return normalised(vectors_TD - vectors_TD.mean(axis=0)) if texts else vectors_TD

    for task in asked:
        yield centred(task.queries) @ centred(task.candidates).T


def nearby(task: Task, scores_QC: np.ndarray) -> dict[str, float]:
    """`chance_nearby` and `beats_nearby`; nothing if no query has another candidate nearby."""
    if not (task.near and task.queries):
        return {}
    near_C, right_Q, each_Q = np.array(task.near), np.array(task.answers), np.arange(len(scores_QC))
    nearby_QC = near_C == near_C[right_Q][:, None]
    guessed_Q = np.minimum(1.0, FOUND_WITHIN / nearby_QC.sum(axis=1))
    nearby_QC[each_Q, right_Q] = False
    others_Q = nearby_QC.sum(axis=1)
    if not others_Q.any():
        return {}
    right_Q1 = scores_QC[each_Q, right_Q][:, None]
    beaten_QC = (scores_QC < right_Q1) + (scores_QC == right_Q1) / 2
    beats_Q = (beaten_QC * nearby_QC).sum(axis=1)[others_Q > 0] / others_Q[others_Q > 0]
    return {
        "chance_nearby": round(float(guessed_Q.mean()), 4),
        "beats_nearby": round(float(beats_Q.mean()), 4),
    }


def hits(scores_QC: np.ndarray, answers_Q: np.ndarray) -> float:
    """recall@10; a candidate with the right one's score counts against it by half a place."""
    right_Q1 = scores_QC[np.arange(len(scores_QC)), answers_Q][:, None]
    better_Q = (scores_QC > right_Q1).sum(axis=1)
    equal_Q = (scores_QC == right_Q1).sum(axis=1) - 1
    found_Q = (better_Q + equal_Q / 2 < FOUND_WITHIN) & np.isfinite(right_Q1[:, 0])
    return round(float(found_Q.mean()), 4)
