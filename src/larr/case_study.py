"""Visitors to a region they have never been to, and what the vectors find for them there.

Paper: section 4.5 (case study), generalised: every region, many users, several encoders.

Shapes: Q queries, C candidate places, D the vector's length, K places found for a query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from sklearn.feature_extraction.text import TfidfVectorizer

from larr import artifacts
from larr.backbone import KeywordText, load_base
from larr.config import Config
from larr.corpus import descriptions_table, texts_of
from larr.datasets.city import knowledge
from larr.embed import WORDS
from larr.encoder import as_encoder, load_encoder
from larr.errors import ConfigError
from larr.pairs import keywords_of
from larr.progress import track
from larr.vectors import compute, normalised

HOME, REGION = "user_home_region", "poi_region"
FOUND = 10
VISITORS = 60
"""Queries of a region, at most."""
Json = dict[str, Any]
Texts = list[list[KeywordText]]
Finder = Callable[[Texts, Texts], np.ndarray]
"""Queries and candidates -> their similarities [Q, C]."""


@dataclass(frozen=True)
class Visits:
    """Queries "this user, visiting that region", and what there is to be found."""

    queries: Texts
    regions: list[str]
    """The region of each query."""
    candidates: Texts
    places: pl.DataFrame
    """One row for each candidate: region and the dishes on the menu."""


def case_study(config: Config) -> Json:
    """For each encoder: where the ten nearest places of visitors lie, and what they cook."""
    artifacts.require(config, "prepare", "pretrain", "contrast")
    visits = _visits(config)
    finders = dict(_finders(config))
    told: Json = {"regions": sorted(set(visits.regions)), "queries": len(visits.queries)}
    told["models"] = {}
    with track("case study", len(finders) + 1, "models") as advance:
        for name, find in finders.items():
            scores_QC = find(visits.queries, visits.candidates)
            told["models"][name] = _judged(visits, np.argsort(-scores_QC, axis=1)[:, :FOUND])
            advance(1)
        random = np.random.default_rng(config.seed)
        drawn_QK = random.integers(len(visits.candidates), size=(len(visits.queries), FOUND))
        told["models"]["chance"] = _judged(visits, drawn_QK)
        advance(1)
    return told


def _visits(config: Config) -> Visits:
    """Each visitor's own texts in the scene of another user who was away from home there.

    The users have never ordered in the region; the scenes are of real orders.
    """
    data = artifacts.folder(config, "prepare")
    places, users = (
        pl.read_parquet(data / "places.parquet"),
        pl.read_parquet(data / "users.parquet"),
    )
    if HOME not in users.columns or REGION not in places.columns:
        raise ConfigError(
            f"the case study needs users with {HOME[5:]} and places with {REGION[4:]}, got "
            f"{', '.join(users.columns)} and {', '.join(places.columns)}"
        )
    orders = (
        pl.read_parquet(data / "orders.parquet")
        .join(places.select("poi_id", REGION), on="poi_id", maintain_order="left")
        .join(users.select("user_id", HOME), on="user_id", maintain_order="left")
    )
    latest = orders.unique("user_id", keep="last", maintain_order=True)
    been = orders.select("user_id", REGION).unique()
    of_user = [one for one in keywords_of(config, "user") if one.owner == "user"]
    of_scene = [one for one in keywords_of(config, "user") if one.owner == "scene"]
    random = np.random.default_rng(config.seed)
    queries: Texts = []
    regions: list[str] = []
    for (region,), there in orders.group_by(REGION, maintain_order=True):
        scenes = there.filter(pl.col(HOME) != region)
        strangers = latest.join(
            been.filter(pl.col(REGION) == region), on="user_id", how="anti", maintain_order="left"
        )
        count = min(VISITORS, scenes.height, strangers.height)
        scene_rows = scenes[random.permutation(scenes.height)[:count]].to_dicts()
        user_rows = strangers[random.permutation(strangers.height)[:count]].to_dicts()
        for user, scene in zip(user_rows, scene_rows, strict=True):
            queries.append([*texts_of(user, of_user), *texts_of(scene, of_scene)])
            regions.append(str(region))
    menus = places.select(
        "poi_id",
        region=REGION,
        menu="poi_menu" if "poi_menu" in places.columns else pl.lit(None, pl.String),
    )
    described = descriptions_table(config).join(menus, on="poi_id", maintain_order="left")
    of_place = keywords_of(config, "place")
    texts = [texts_of(row, of_place) for row in described.to_dicts()]
    whole = [number for number, parts in enumerate(texts) if parts]
    return Visits(queries, regions, [texts[number] for number in whole], described[whole])


def _finders(config: Config) -> Iterator[tuple[str, Finder]]:
    """The whole encoder, those of `config.encoders` that are made, the untuned LM, TF-IDF."""
    budget = config.embed.batch_tokens

    def nearest(encoder: Any) -> Finder:
        def find(queries: Texts, candidates: Texts) -> np.ndarray:
            sides = [compute(encoder, texts, budget) for texts in (queries, candidates)]
            query_QD, candidate_CD = (normalised(side - side.mean(axis=0)) for side in sides)
            similarities: np.ndarray = query_QD @ candidate_CD.T
            return similarities

        return find

    yield "larr", nearest(load_encoder(artifacts.folder(config, "contrast")))
    for name in config.encoders:
        own = config.for_encoder(name)
        if artifacts.is_current(own, "contrast"):
            yield name, nearest(load_encoder(artifacts.folder(own, "contrast")))
    yield "untuned", nearest(as_encoder(load_base(config), None, config.contrast.pooling))
    yield "tfidf", _by_words


def _by_words(queries: Texts, candidates: Texts) -> np.ndarray:
    counter = TfidfVectorizer(token_pattern=WORDS, sublinear_tf=True, dtype=np.float32)
    words_C = counter.fit_transform([_joined(parts) for parts in candidates])
    words_Q = counter.transform([_joined(parts) for parts in queries])
    similarities: np.ndarray = (words_Q @ words_C.T).toarray()
    return similarities


def _joined(parts: list[KeywordText]) -> str:
    return " ".join(text for _, text in parts)


def _judged(visits: Visits, found_QK: np.ndarray) -> Json:
    """Means over the regions, and each region's figures."""
    home = _homes_of_dishes()
    region_C = visits.places["region"].to_numpy()
    menu_C = [_dishes(menu) for menu in visits.places["menu"]]
    by_region: dict[str, list[tuple[float, float, float]]] = {}
    for region, found_K in zip(visits.regions, found_QK, strict=True):
        dishes = [dish for place in found_K for dish in menu_C[place]]
        known = [home[dish] for dish in dishes if dish in home]
        figures = (
            float(np.mean(region_C[found_K] == region)),
            float(len(set(dishes))),
            float(np.mean([one == region for one in known])) if known else 0.0,
        )
        by_region.setdefault(region, []).append(figures)
    names = ("share_in_region", "distinct_dishes", "share_of_specialties")
    means = {
        region: dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))
        for region, rows in by_region.items()
    }
    overall = {name: float(np.mean([row[name] for row in means.values()])) for name in names}
    return {"mean": overall, "by_region": means}


def _homes_of_dishes() -> dict[str, str]:
    """A dish's names in small letters -> the region that it comes from."""
    return {
        name.lower(): row["region"]
        for row in knowledge.dishes().to_dicts()
        for name in (row["dish"], *row["also"].split("|"))
        if name
    }


def _dishes(menu: str | None) -> list[str]:
    return [dish.lower() for dish in re.split(r",\s*", menu or "") if dish]
