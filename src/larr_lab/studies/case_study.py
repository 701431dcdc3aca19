"""Which places encoders retrieve for a scene: first visits to a region, hot days, breakfasts.

Paper: the case study of section 4.5, extended to all regions, many users, several encoders.

Shapes: Q queries, C candidate places, D the vector's length, K places found for a query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from sklearn.feature_extraction.text import TfidfVectorizer

from larr import artifacts
from larr.config import Config
from larr.data.transforms import Template
from larr.errors import ConfigError
from larr.evaluation.findings import Json
from larr.progress import track
from larr.text.backbone import Parts, load_base, load_language_model
from larr.text.corpus import descriptions_table, row_texts
from larr.text.embed import WORDS
from larr.text.encoder import as_encoder, compute, load_encoder
from larr.text.fitted import normalised
from larr.text.pairs import view_keywords
from larr_lab import knowledge

HOME, REGION = "user_home_region", "poi_region"
NEAREST = 10
"""Places to retrieve for each query."""
VISITORS = 60
"""Maximum number of visitors to a region, and of scenes of a moment."""
Texts = list[Parts]
Retriever = Callable[[Texts], np.ndarray]
"""Queries -> similarities to the candidates, [Q, C]."""

BASELINES = ("pretrained", "untuned", "tfidf", "chance")
"""The retrievers that the tuned encoders are compared with."""
QUERIES = {
    "scene": "the scene alone",
    "user_without_home": "scene and user, without the text about the user's home",
    "user": "scene and user",
}
"""A kind of query for a visitor -> the texts in it."""


class Moment(NamedTuple):
    """Scenes whose texts contain these words, and the rows of suitable dishes in dishes.csv."""

    words: tuple[str, ...]
    suits: pl.Expr
    dishes: str


MOMENTS = {
    "hot days": Moment(("hot",), pl.col("temperature") == "cold", "cold dishes"),
    "rainy nights": Moment(("rain", "late night"), pl.col("late_night") == 1, "late night dishes"),
    "breakfasts": Moment(("breakfast",), pl.col("breakfast") == 1, "breakfast dishes"),
}


class Places(NamedTuple):
    """The candidates: texts, city and region, dishes on the menus."""

    texts: Texts
    table: pl.DataFrame
    menus: list[list[str]]


def case_study(config: Config) -> Json:
    """Returns, for each encoder, regions and dishes of the ten places nearest to visitors.

    For moments such as rainy nights, returns the share of suitable dishes at the nearest places.
    Raises ConfigError if the tables have no regions.
    """
    artifacts.require(config, "prepare", "pretrain", "contrast")
    orders, places = _orders(config), _places(config)
    queries_by_kind, regions = _visits(config, orders)
    scenes = {name: _scenes(config, orders, moment) for name, moment in MOMENTS.items()}
    visitors: Json = {kind: {} for kind in QUERIES}
    moments: Json = {
        name: {"dishes": MOMENTS[name].dishes, "orders": count, "models": {}}
        for name, (texts, count) in scenes.items()
        if texts
    }
    encoders = {"larr": config, **current_encoders(config)}
    with track("case study", len(encoders) + len(BASELINES), "models") as advance:
        for name, retrieve in _retrievers(config, encoders, places.texts):
            for kind, queries in queries_by_kind.items():
                found_QK = nearest(retrieve, queries)
                visitors[kind][name] = _figures(regions, places, found_QK)
                if kind == "user_without_home":
                    areas = places.table.select("poi_city", REGION).rows()
                    visitors[kind][name]["example"] = {
                        "query": [text for _, text in queries[0]],
                        "found": [
                            f"{', '.join(areas[place])}: {', '.join(places.menus[place])}"
                            for place in found_QK[0]
                        ],
                    }
            for moment, result in moments.items():
                found_QK = nearest(retrieve, scenes[moment][0])
                result["models"][name] = _suitable(places, found_QK, MOMENTS[moment])
            advance(1)
    return {
        "regions": sorted(set(regions)),
        "visits": len(regions),
        "asked": QUERIES,
        "visitors": visitors,
        "moments": moments,
    }


def current_encoders(config: Config) -> dict[str, Config]:
    """Returns the configurations of the encoders in `config.encoders` that are up to date."""
    configs = {name: config.for_encoder(name) for name in config.encoders}
    is_current = {name: artifacts.stage(configs[name], "contrast").is_current() for name in configs}
    return {name: encoder for name, encoder in configs.items() if is_current[name]}


def nearest(retrieve: Retriever, queries: Texts) -> np.ndarray:
    """Returns the indices of the candidates nearest to each query, nearest first, [Q, K]."""
    found_QK: np.ndarray = np.argsort(-retrieve(queries), axis=1)[:, :NEAREST]
    return found_QK


def _orders(config: Config) -> pl.DataFrame:
    """Returns the orders with texts, the region of the place, and the user's home region."""
    data = artifacts.folder(config, "prepare")
    places = pl.read_parquet(data / "places.parquet")
    users = pl.read_parquet(data / "users.parquet")
    if HOME not in users.columns or REGION not in places.columns:
        raise ConfigError(
            f"case-study requires {HOME} and {REGION}; the columns of users are "
            f"{', '.join(users.columns)}, those of places {', '.join(places.columns)}"
        )
    return (
        pl.read_parquet(data / "orders.parquet")
        .join(places.select("poi_id", REGION), on="poi_id", maintain_order="left")
        .join(users.select("user_id", HOME), on="user_id", maintain_order="left")
    )


def _places(config: Config) -> Places:
    """Returns the places that have a text."""
    places = pl.read_parquet(artifacts.folder(config, "prepare") / "places.parquet")
    keywords, descriptions = view_keywords(config, "place"), descriptions_table(config)
    texts = [row_texts(row, keywords) for row in descriptions.to_dicts()]
    ids = descriptions.select("poi_id").filter(pl.Series(map(bool, texts)))
    table = ids.join(places, on="poi_id", how="left", maintain_order="left")
    menus = table["poi_menu"] if "poi_menu" in table.columns else [None] * len(table)
    dishes = [re.split(r",\s*", menu.lower()) if menu else [] for menu in menus]
    return Places(list(filter(None, texts)), table, dishes)


def _visits(config: Config, orders: pl.DataFrame) -> tuple[dict[str, Texts], list[str]]:
    """Returns the texts of visits for each of QUERIES, and the regions visited.

    A visit combines a user who has never ordered in a region with the scene of a real visitor
    there.
    """
    latest = orders.unique("user_id", keep="last", maintain_order=True)
    visited = orders.select("user_id", REGION).unique()
    keywords = view_keywords(config, "user")
    of_scene = [keyword for keyword in keywords if keyword.owner == "scene"]
    of_user = [keyword for keyword in keywords if keyword.owner == "user"]
    without_home = [
        keyword
        for keyword in of_user
        if not any(column.startswith("user_home") for column in Template(keyword).columns)
    ]
    random = np.random.default_rng(config.seed)
    queries: dict[str, Texts] = {kind: [] for kind in QUERIES}
    regions = []
    for (region,), there in orders.group_by(REGION, maintain_order=True):
        scenes = there.filter(pl.col(HOME) != region)
        visitors = visited.filter(pl.col(REGION) == region)
        strangers = latest.join(visitors, on="user_id", how="anti", maintain_order="left")
        count = min(VISITORS, scenes.height, strangers.height)
        scene_rows = scenes[random.permutation(scenes.height)[:count]].to_dicts()
        user_rows = strangers[random.permutation(strangers.height)[:count]].to_dicts()
        for scene, user in zip(scene_rows, user_rows, strict=True):
            scene_texts = row_texts(scene, of_scene)
            queries["scene"].append(scene_texts)
            queries["user_without_home"].append(row_texts(user, without_home) + scene_texts)
            queries["user"].append(row_texts(user, of_user) + scene_texts)
            regions.append(str(region))
    return queries, regions


def _scenes(config: Config, orders: pl.DataFrame, moment: Moment) -> tuple[Texts, int]:
    """Returns the matching texts of a moment's scenes, and the number of orders."""
    words = [re.compile(rf"\b{word}\b") for word in moment.words]
    keywords = [keyword for keyword in view_keywords(config, "user") if keyword.owner == "scene"]
    names = [keyword.name for keyword in keywords]
    counts: dict[Parts, int] = {}
    for row in orders.group_by(names, maintain_order=True).len("orders").to_dicts():
        parts = tuple(
            part for part in row_texts(row, keywords) if any(w.search(part[1]) for w in words)
        )
        if len(parts) == len(words):
            counts[parts] = counts.get(parts, 0) + row["orders"]
    return list(counts)[:VISITORS], sum(counts.values())


def _retrievers(
    config: Config, encoders: dict[str, Config], candidates: Texts
) -> Iterator[tuple[str, Retriever]]:
    """Yields the retrievers of these encoders, then BASELINES; loads one model at a time."""
    for name, tuned in encoders.items():
        yield name, _dense(config, load_encoder(artifacts.folder(tuned, "contrast")), candidates)
    pooling = config.contrast.pooling
    lm = load_language_model(artifacts.folder(config, "pretrain"), config)
    yield "pretrained", _dense(config, as_encoder(lm, None, pooling), candidates)
    lm = load_base(config)
    yield "untuned", _dense(config, as_encoder(lm, None, pooling), candidates)
    yield "tfidf", _tfidf(candidates)
    random = np.random.default_rng(config.seed)
    yield "chance", lambda queries: random.random((len(queries), len(candidates)))


def _dense(config: Config, encoder: Any, candidates: Texts) -> Retriever:
    """Returns a retriever by the cosine of vectors, centred on the candidates' mean.

    Without centring, the vectors of an untuned LM point in almost the same direction.
    """
    candidate_CD = compute(encoder, candidates, config.embed.batch_tokens)
    mean_D = candidate_CD.mean(axis=0)
    candidate_CD = normalised(candidate_CD - mean_D)

    def retrieve(queries: Texts) -> np.ndarray:
        query_QD = compute(encoder, queries, config.embed.batch_tokens)
        similarity_QC: np.ndarray = normalised(query_QD - mean_D) @ candidate_CD.T
        return similarity_QC

    return retrieve


def _tfidf(candidates: Texts) -> Retriever:
    vectorizer = TfidfVectorizer(
        preprocessor=lambda parts: " ".join(text for _, text in parts).lower(),
        token_pattern=WORDS,
        sublinear_tf=True,
        dtype=np.float32,
    )
    words_C = vectorizer.fit_transform(candidates)
    return lambda queries: (vectorizer.transform(queries) @ words_C.T).toarray()


def _figures(regions: list[str], places: Places, found_QK: np.ndarray) -> Json:
    """Returns the figures of each region and their means over regions."""
    origins = _origins(knowledge.dishes())
    region_C = places.table[REGION].to_numpy()
    by_region: dict[str, list[tuple[Any, ...]]] = {}
    for region, found_K in zip(regions, found_QK, strict=True):
        dishes = [dish for place in found_K for dish in places.menus[place]]
        specialties = [origins[dish] == region for dish in dishes if dish in origins]
        share_in_region = np.mean(region_C[found_K] == region)
        share_of_specialties = np.mean(specialties or [False])
        figures = (share_in_region, len(set(dishes)), share_of_specialties)
        by_region.setdefault(region, []).append(figures)
    names = ("share_in_region", "distinct_dishes", "share_of_specialties")
    means = {
        region: dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))
        for region, rows in by_region.items()
    }
    overall = {name: float(np.mean([row[name] for row in means.values()])) for name in names}
    return {"mean": overall, "by_region": means}


def _suitable(places: Places, found_QK: np.ndarray, moment: Moment) -> float:
    """Returns the share of dishes at the places found that suit the moment."""
    known = _origins(knowledge.dishes())
    suitable = _origins(knowledge.dishes().filter(moment.suits))
    dishes = [dish for place in found_QK.ravel() for dish in places.menus[place] if dish in known]
    return float(np.mean([dish in suitable for dish in dishes] or [False]))


def _origins(dishes: pl.DataFrame) -> dict[str, str]:
    """Returns the region of each dish by its names in lower case."""
    return {
        name.lower(): row["region"]
        for row in dishes.to_dicts()
        for name in (row["dish"], *row["also"].split("|"))
        if name
    }
