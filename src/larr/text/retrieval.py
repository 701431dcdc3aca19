"""recall@k of a text embedding model on users and places that it was not tuned on.

Shapes: Q queries, C candidates, D the vector's length.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from sentence_transformers import SentenceTransformer

from larr.config import Config, KeywordConfig
from larr.text.backbone import KeywordText
from larr.text.corpus import descriptions_table, texts_of
from larr.text.pairs import HeldOut, keywords_of, orders_of
from larr.text.vectors import compute, normalised

FOUND_WITHIN = 10
QUERIES_AT_MOST = 1_000


@dataclass(frozen=True, eq=False)
class Task:
    """Queries, each with one right answer among the distinct candidates."""

    name: str
    queries: list[list[KeywordText]]
    candidates: list[list[KeywordText]]
    answers: list[int]
    """For each query the number of its right candidate."""


def recalls(config: Config, apart: HeldOut, encoder: SentenceTransformer) -> dict[str, Any]:
    """recall@10 of every task; None where the held-out users and places give no query.

    `user_to_place`: U of an order to P of the place among all held-out places. `place_halves`:
    P_d to P_b of the same place. `single_keywords`: each keyword alone (decision 5), of U to P of
    the ordered place, of one half of a place to its other half; `single_keyword` and
    `single_place_keyword` are the means of the former and of the latter. `chance` is that of
    `user_to_place`.
    """
    whole, halves, *single = all_tasks = tasks(config, apart)
    found = dict(zip(all_tasks, recall(encoder, all_tasks, config.embed.batch_tokens), strict=True))
    users = len(keywords_of(config, "user"))
    return {
        "user_to_place": found[whole],
        "place_halves": found[halves],
        "single_keyword": _mean(found[task] for task in single[:users]),
        "single_place_keyword": _mean(found[task] for task in single[users:]),
        "single_keywords": {task.name: found[task] for task in single},
        "chance": round(min(1.0, FOUND_WITHIN / max(1, len(whole.candidates))), 4),
    }


def _mean(recalls: Iterable[float | None]) -> float | None:
    measured = [value for value in recalls if value is not None]
    return round(float(np.mean(measured)), 4) if measured else None


def tasks(config: Config, apart: HeldOut) -> list[Task]:
    """User to place, place half to place half, and one task for each keyword alone."""
    places = descriptions_table(config).filter(pl.col("poi_id").is_in(apart.places.implode()))
    orders = orders_of(config, apart, QUERIES_AT_MOST)
    asked = orders.join(places.select("poi_id"), on="poi_id", how="semi")
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
    for row in rows.iter_rows(named=True):
        parts = tuple(texts_of(row, keywords))
        if parts:
            answer[row["poi_id"]] = distinct.setdefault(parts, len(distinct))
    asked = [
        (texts_of(row, query[1]), answer[row["poi_id"]])
        for row in query[0].iter_rows(named=True)
        if row["poi_id"] in answer
    ]
    asked = [(parts, right) for parts, right in asked if parts]
    return Task(
        name,
        queries=[parts for parts, _ in asked],
        candidates=[list(parts) for parts in distinct],
        answers=[right for _, right in asked],
    )


def recall(
    encoder: SentenceTransformer, asked: list[Task], batch_tokens: int
) -> list[float | None]:
    """For each task the share of queries whose right candidate is among the ten nearest.

    None for a task without queries. The mean vector of the queries and that of the candidates are
    taken out first, as the rankers do; without that untuned vectors all look alike.
    """
    parts = [tuple(text) for task in asked for text in (*task.queries, *task.candidates)]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(parts))}
    vectors_ND = compute(encoder, [list(text) for text in numbers], batch_tokens)

    def centred(texts: list[list[KeywordText]]) -> np.ndarray:
        vectors_TD = vectors_ND[[numbers[tuple(text)] for text in texts]]
        return normalised(vectors_TD - vectors_TD.mean(axis=0))

    return [
        hits(centred(task.queries) @ centred(task.candidates).T, np.array(task.answers))
        if task.queries
        else None
        for task in asked
    ]


def hits(scores_QC: np.ndarray, answers_Q: np.ndarray) -> float:
    """recall@10; a candidate with the right one's score counts against it by half a place."""
    right_Q1 = scores_QC[np.arange(len(scores_QC)), answers_Q][:, None]
    better_Q = (scores_QC > right_Q1).sum(axis=1)
    equal_Q = (scores_QC == right_Q1).sum(axis=1) - 1
    return round(float((better_Q + equal_Q / 2 < FOUND_WITHIN).mean()), 4)
