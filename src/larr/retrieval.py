"""recall@k of a text embedding model on users and places that it was not tuned on.

Shapes: Q queries, C candidates, D the vector's length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from sentence_transformers import SentenceTransformer

from larr.backbone import KeywordText
from larr.config import Config, KeywordConfig
from larr.corpus import descriptions_table, texts_of
from larr.pairs import HeldOut, keywords_of, orders_of
from larr.vectors import compute, normalised

FOUND_WITHIN = 10
QUERIES_AT_MOST = 1_000


@dataclass(frozen=True)
class Task:
    """Queries, each with one right answer among the distinct candidates."""

    name: str
    queries: list[list[KeywordText]]
    candidates: list[list[KeywordText]]
    answers: list[int]
    """For each query the number of its right candidate."""


def recalls(
    config: Config, apart: HeldOut, encoder: SentenceTransformer, centred: bool
) -> dict[str, Any]:
    """recall@10 of every task; None where the held-out users and places give no query.

    `user_to_place`: U of an order to P of the place among all held-out places. `place_halves`:
    P_d to P_b of the same place. `single_keyword`: the mean over `single_keywords`, each one
    keyword alone to one keyword alone or to P (decision 5). `chance` is that of `user_to_place`.
    `centred` takes the mean vector out first, without which untuned vectors all look alike.
    """
    whole, halves, *single = tasks(config, apart)
    budget = config.embed.batch_tokens
    found = {task.name: recall(encoder, task, centred, budget) for task in (whole, halves, *single)}
    alone = {task.name: found[task.name] for task in single}
    measured = [value for value in alone.values() if value is not None]
    return {
        "user_to_place": found[whole.name],
        "place_halves": found[halves.name],
        "single_keyword": round(float(np.mean(measured)), 4) if measured else None,
        "single_keywords": alone,
        "chance": round(min(1.0, FOUND_WITHIN / max(1, len(whole.candidates))), 4),
    }


def tasks(config: Config, apart: HeldOut) -> list[Task]:
    """User to place, place half to place half, and one task for each keyword alone."""
    places = descriptions_table(config).filter(pl.col("poi_id").is_in(apart.places.implode()))
    orders = orders_of(config, apart, QUERIES_AT_MOST)
    asked = orders.join(places.select("poi_id"), on="poi_id", how="semi")
    users, whole = keywords_of(config, "user"), keywords_of(config, "place")
    business, basic = keywords_of(config, "business"), keywords_of(config, "basic")
    menu = _menu(config)
    return [
        _task("user_to_place", (asked, users), (places, whole)),
        _task("place_halves", (places, business), (places, basic)),
        *(
            _task(f"{keyword.name} to {menu.name}", (asked, [keyword]), (places, [menu]))
            for keyword in users
            if keyword.view == "action"
        ),
        _task(f"{menu.name} to place", (places, [menu]), (places, whole)),
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


def _menu(config: Config) -> KeywordConfig:
    """The keyword that tells what a place sells: the first of P_d that stage 1 has to predict."""
    places = keywords_of(config, "place")
    told = [keyword for keyword in places if not keyword.prompt]
    return next((keyword for keyword in told if keyword.view == "business"), (told or places)[0])


def recall(
    encoder: SentenceTransformer, task: Task, centred: bool, batch_tokens: int
) -> float | None:
    """The share of queries whose right candidate is among the ten nearest; None without queries."""
    if not task.queries:
        return None
    queries_QD = compute(encoder, task.queries, batch_tokens)
    candidates_CD = compute(encoder, task.candidates, batch_tokens)
    if centred:
        queries_QD = queries_QD - queries_QD.mean(axis=0)
        candidates_CD = candidates_CD - candidates_CD.mean(axis=0)
    return hits(normalised(queries_QD) @ normalised(candidates_CD).T, np.array(task.answers))


def hits(scores_QC: np.ndarray, answers_Q: np.ndarray) -> float:
    """recall@10; a candidate with the right one's score counts against it by half a place."""
    right_Q1 = scores_QC[np.arange(len(scores_QC)), answers_Q][:, None]
    better_Q = (scores_QC > right_Q1).sum(axis=1)
    equal_Q = (scores_QC == right_Q1).sum(axis=1) - 1
    return round(float((better_Q + equal_Q / 2 < FOUND_WITHIN).mean()), 4)
