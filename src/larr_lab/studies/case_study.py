"""What the vectors find near a scene: visitors to a region, hot days, rainy nights, breakfasts.

Paper: section 4.5 (case study), generalised: every region, many users, several encoders.

Shapes: Q queries, C candidate places, D the vector's length, K places found for a query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from sklearn.feature_extraction.text import TfidfVectorizer

from larr import artifacts
from larr.config import Config
from larr.config.data import KeywordConfig
from larr.data.keywords import columns_of
from larr.errors import ConfigError
from larr.progress import track
from larr.text.backbone import KeywordText, load_base, load_language_model
from larr.text.control_vectors import WORDS
from larr.text.corpus import descriptions_table, texts_of
from larr.text.encoder import as_encoder, load_encoder
from larr.text.pairs import keywords_of
from larr.text.vectors import compute, normalised
from larr_lab import knowledge

HOME, REGION = "user_home_region", "poi_region"
LIVES = "user_home"
"""How the columns begin that say where a user lives."""
FOUND = 10
VISITORS = 60
"""Visitors of a region, and scenes of a moment, at most."""
ALWAYS = 5  # models besides those of [encoders]
Json = dict[str, Any]
Texts = list[list[KeywordText]]
Finder = Callable[[Texts], np.ndarray]
"""Queries -> their similarities to the candidates, [Q, C]."""

ASKED = {
    "scene": "the scene alone",
    "user_without_home": "scene and user, but for the text that says where the user lives",
    "user": "scene and user",
}
"""What of a visitor a query tells."""


@dataclass(frozen=True)
class Moment:
    """Scenes whose texts hold these words, and the dishes (a column of dishes.csv) that suit."""

    words: tuple[str, ...]
    suits: pl.Expr
    dishes: str


MOMENTS = {
    "hot days": Moment(("hot",), pl.col("temperature") == "cold", "cold dishes"),
    "rainy nights": Moment(("rain", "late night"), pl.col("late_night") == 1, "late night dishes"),
    "breakfasts": Moment(("breakfast",), pl.col("breakfast") == 1, "breakfast dishes"),
}


@dataclass(frozen=True)
class Visits:
    """Users who visit a region that they have never ordered in, in scenes of real visitors."""

    users: Texts
    without_home: Texts
    scenes: Texts
    regions: list[str]
    """The region of each visit."""

    def queries(self, asked: str) -> Texts:
        """The texts of one of ASKED."""
        if asked == "scene":
            return self.scenes
        users = self.users if asked == "user" else self.without_home
        return [[*user, *scene] for user, scene in zip(users, self.scenes, strict=True)]


@dataclass(frozen=True)
class Places:
    """The places to be found: their texts; city, region and menu, a row for each."""

    texts: Texts
    table: pl.DataFrame
    menus: list[list[str]]


def case_study(config: Config) -> Json:
    """For each encoder: where the ten nearest places of visitors lie and what they cook.

    And, for moments such as rainy nights, how many of the dishes of the nearest places suit.
    """
    artifacts.require(config, "prepare", "pretrain", "contrast")
    orders, places = _orders(config), _places(config)
    visits = _visits(config, orders)
    scenes = {name: _scenes(config, orders, moment) for name, moment in MOMENTS.items()}
    told: Json = {
        "regions": sorted(set(visits.regions)),
        "visits": len(visits.regions),
        "asked": ASKED,
        "visitors": {asked: {} for asked in ASKED},
        "moments": {
            name: {"dishes": MOMENTS[name].dishes, "orders": count, "models": {}}
            for name, (texts, count) in scenes.items()
            if texts
        },
    }
    count = len(current_encoders(config)) + ALWAYS
    with track("case study", count, "models") as advance:
        for name, find in _finders(config, places.texts):  # each loads its model when it is asked
            for asked, models in told["visitors"].items():
                found_QK = nearest(find, visits.queries(asked))
                models[name] = _judged(visits, places, found_QK)
                if asked == "user_without_home":
                    models[name]["example"] = _example(visits, places, found_QK)
            for moment, one in told["moments"].items():
                found_QK = nearest(find, scenes[moment][0])
                one["models"][name] = _suiting(places, found_QK, MOMENTS[moment])
            advance(1)
    return told


def current_encoders(config: Config) -> dict[str, Config]:
    """The configurations of those of `config.encoders` that are up to date."""
    found = {name: config.for_encoder(name) for name in config.encoders}
    return {name: own for name, own in found.items() if artifacts.is_current(own, "contrast")}


def nearest(find: Finder, queries: Texts) -> np.ndarray:
    """The numbers of the ten nearest candidates of each query, the nearest first: [Q, K]."""
    found_QK: np.ndarray = np.argsort(-find(queries), axis=1)[:, :FOUND]
    return found_QK


def _orders(config: Config) -> pl.DataFrame:
    """The orders with their texts, the region of the place and of the user's home."""
    data = artifacts.folder(config, "prepare")
    places = pl.read_parquet(data / "places.parquet")
    users = pl.read_parquet(data / "users.parquet")
    if HOME not in users.columns or REGION not in places.columns:
        raise ConfigError(
            f"the case study needs users with {HOME[5:]} and places with {REGION[4:]}, got "
            f"{', '.join(users.columns)} and {', '.join(places.columns)}"
        )
    return (
        pl.read_parquet(data / "orders.parquet")
        .join(places.select("poi_id", REGION), on="poi_id", maintain_order="left")
        .join(users.select("user_id", HOME), on="user_id", maintain_order="left")
    )


def _places(config: Config) -> Places:
    """The places of which a text is known."""
    data = artifacts.folder(config, "prepare")
    told = ("poi_city", REGION, "poi_menu")
    table = pl.read_parquet(data / "places.parquet")
    table = table.select("poi_id", *(column for column in told if column in table.columns))
    described = descriptions_table(config).join(
        table, on="poi_id", maintain_order="left", suffix="_told"
    )
    of_place = keywords_of(config, "place")
    texts = [texts_of(row, of_place) for row in described.to_dicts()]
    whole = [number for number, parts in enumerate(texts) if parts]
    ids = described[whole]["poi_id"]
    table = pl.DataFrame({"poi_id": ids}).join(table, on="poi_id", maintain_order="left")
    menus = table["poi_menu"] if "poi_menu" in table.columns else [None] * len(table)
    return Places([texts[number] for number in whole], table, [_dishes(menu) for menu in menus])


def _visits(config: Config, orders: pl.DataFrame) -> Visits:
    """Each visitor's own texts beside the scene of another user who was away from home there."""
    latest = orders.unique("user_id", keep="last", maintain_order=True)
    been = orders.select("user_id", REGION).unique()
    of_user = _keywords(config, "user")
    elsewhere = [
        one for one in of_user if not any(name.startswith(LIVES) for name in columns_of(one))
    ]
    random = np.random.default_rng(config.seed)
    visits = Visits([], [], [], [])
    for (region,), there in orders.group_by(REGION, maintain_order=True):
        scenes = there.filter(pl.col(HOME) != region)
        strangers = latest.join(
            been.filter(pl.col(REGION) == region), on="user_id", how="anti", maintain_order="left"
        )
        count = min(VISITORS, scenes.height, strangers.height)
        for row in scenes[random.permutation(scenes.height)[:count]].to_dicts():
            visits.scenes.append(texts_of(row, _keywords(config, "scene")))
            visits.regions.append(str(region))
        for row in strangers[random.permutation(strangers.height)[:count]].to_dicts():
            visits.users.append(texts_of(row, of_user))
            visits.without_home.append(texts_of(row, elsewhere))
    return visits


def _scenes(config: Config, orders: pl.DataFrame, moment: Moment) -> tuple[Texts, int]:
    """Scenes of a moment, told by those of their texts alone that hold its words; their orders."""
    words = [re.compile(rf"\b{word}\b") for word in moment.words]
    of_scene = _keywords(config, "scene")
    names = [keyword.name for keyword in of_scene]
    distinct = orders.group_by(names, maintain_order=True).len("orders")
    found: dict[tuple[KeywordText, ...], int] = {}
    for row in distinct.to_dicts():
        parts = [part for part in texts_of(row, of_scene) if any(w.search(part[1]) for w in words)]
        if len(parts) == len(words):
            found[tuple(parts)] = found.get(tuple(parts), 0) + row["orders"]
    return [list(parts) for parts in list(found)[:VISITORS]], sum(found.values())


def _keywords(config: Config, owner: str) -> list[KeywordConfig]:
    return [keyword for keyword in keywords_of(config, "user") if keyword.owner == owner]


def _finders(config: Config, candidates: Texts) -> Iterator[tuple[str, Finder]]:
    """The whole encoder, others that are made, the LM after stage 1 and untuned; words; chance."""
    lm, pooling = artifacts.folder(config, "pretrain"), config.contrast.pooling
    loaders: dict[str, Callable[[], Any]] = {
        name: partial(load_encoder, artifacts.folder(own, "contrast"))
        for name, own in {"larr": config, **current_encoders(config)}.items()
    }
    loaders["pretrained"] = lambda: as_encoder(load_language_model(lm, config), None, pooling)
    loaders["untuned"] = lambda: as_encoder(load_base(config), None, pooling)
    for name, load in loaders.items():
        yield name, _by_vectors(config, load(), candidates)
    yield "tfidf", _by_words(candidates)
    random = np.random.default_rng(config.seed)
    yield "chance", lambda queries: random.random((len(queries), len(candidates)))


def _by_vectors(config: Config, encoder: Any, candidates: Texts) -> Finder:
    """Cosines of vectors less the candidates' mean: an untuned LM's all point nearly one way."""
    candidate_CD = compute(encoder, candidates, config.embed.batch_tokens)
    middle_D = candidate_CD.mean(axis=0)
    candidate_CD = normalised(candidate_CD - middle_D)

    def find(queries: Texts) -> np.ndarray:
        query_QD = compute(encoder, queries, config.embed.batch_tokens)
        similarities: np.ndarray = normalised(query_QD - middle_D) @ candidate_CD.T
        return similarities

    return find


def _by_words(candidates: Texts) -> Finder:
    counter = TfidfVectorizer(token_pattern=WORDS, sublinear_tf=True, dtype=np.float32)
    words_C = counter.fit_transform([_joined(parts) for parts in candidates])

    def find(queries: Texts) -> np.ndarray:
        words_Q = counter.transform([_joined(parts) for parts in queries])
        similarities: np.ndarray = (words_Q @ words_C.T).toarray()
        return similarities

    return find


def _joined(parts: list[KeywordText]) -> str:
    return " ".join(text for _, text in parts)


def _judged(visits: Visits, places: Places, found_QK: np.ndarray) -> Json:
    """Means over the regions, and each region's figures."""
    home = _homes(knowledge.dishes())
    region_C = places.table[REGION].to_numpy()
    by_region: dict[str, list[tuple[float, float, float]]] = {}
    for region, found_K in zip(visits.regions, found_QK, strict=True):
        dishes = [dish for place in found_K for dish in places.menus[place]]
        figures = (
            float(np.mean(region_C[found_K] == region)),
            float(len(set(dishes))),
            _share(home[dish] == region for dish in dishes if dish in home),
        )
        by_region.setdefault(region, []).append(figures)
    names = ("share_in_region", "distinct_dishes", "share_of_specialties")
    means = {
        region: dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))
        for region, rows in by_region.items()
    }
    overall = {name: float(np.mean([row[name] for row in means.values()])) for name in names}
    return {"mean": overall, "by_region": means}


def _example(visits: Visits, places: Places, found_QK: np.ndarray) -> Json:
    """The first visit, as the paper shows one: what was asked, and what was found."""
    rows = places.table.select("poi_city", REGION).rows()
    return {
        "query": [text for _, text in visits.queries("user_without_home")[0]],
        "found": [
            ", ".join(rows[place]) + ": " + ", ".join(places.menus[place]) for place in found_QK[0]
        ],
    }


def _suiting(places: Places, found_QK: np.ndarray, moment: Moment) -> float:
    """The share of the dishes of the places found that suit the moment."""
    suiting, known = _homes(knowledge.dishes().filter(moment.suits)), _homes(knowledge.dishes())
    menus = [places.menus[place] for place in found_QK.ravel()]
    return _share(dish in suiting for menu in menus for dish in menu if dish in known)


def _share(told: Iterable[bool]) -> float:
    """The share of what is true; 0 of nothing."""
    return float(np.mean(list(told) or [False]))


def _homes(dishes: pl.DataFrame) -> dict[str, str]:
    """A dish's names in small letters -> the region that it comes from."""
    return {
        name.lower(): row["region"]
        for row in dishes.to_dicts()
        for name in (row["dish"], *row["also"].split("|"))
        if name
    }


def _dishes(menu: str | None) -> list[str]:
    return [dish.lower() for dish in re.split(r",\s*", menu or "") if dish]
