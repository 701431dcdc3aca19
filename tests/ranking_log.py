"""A simulated log with known truth, in the folders of `larr prepare` and `larr embed`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from larr import artifacts
from larr.config import Config
from larr.config.data import KeywordConfig
from larr.config.rankers import AlignConfig, ChooseConfig, PleConfig, SceneConfig, TreesConfig
from larr.data.batches import Batch, LogRows
from larr.data.features import Category, Features
from larr.text.embed import figures_artifact, vectors_artifact
from larr.text.figures import SETTINGS

SOURCES = ("encoder", "untuned", "tfidf", "random", "shuffled")
OWNERS = ("user", "user", "scene", "poi")
VIEWS = ("profile", "profile", "action", "basic")


@dataclass(frozen=True)
class Sizes:
    """The size of the log, and its `dataset.sampling_rate`."""

    rows: int = 3_000
    categories: tuple[int, ...] = (40, 30, 6)
    numbers: int = 2
    recent: int = 3
    texts: int = 50
    keywords: int = 4
    dimension: int = 16
    tasks: tuple[str, ...] = ("click", "order")
    test_rows: int = 500
    sampling_rate: float = 1.0


def small_align(**changes: object) -> AlignConfig:
    """Settings small enough for a test."""
    ple = PleConfig(expert_units=[16, 8], tower_units=[8])
    scene = SceneConfig(heads=2, feedforward=16)
    trees = TreesConfig(rounds=60, learning_rate=0.2, leaf_rows=20)
    settings = {
        "trees": trees,
        "batch_size": 100,
        "embedding": 4,
        "ple": ple,
        "scene": scene,
        "epochs": 2,
        "models": ["wide_deep", "deepfm", "ple", "larr"],
    }
    return AlignConfig.model_validate(settings | {"learning_rate": 1e-2} | changes)


def write_log(
    output: Path,
    sizes: Sizes = Sizes(),
    align: AlignConfig | None = None,
    seed: int = 1,
    choose: ChooseConfig | None = None,
) -> Config:
    """Writes the folders of all stages before `align`; a click follows from place, text and number.

    The last keyword describes the place; its vector's first component is part of the truth. It is
    the first of two text figures.
    """
    keywords = [
        KeywordConfig(name=f"k{i}", owner=OWNERS[i % 4], view=VIEWS[i % 4], template="{name}")
        for i in range(sizes.keywords)
    ]
    align = align or small_align()
    config = Config(seed=seed, output=output, keywords=keywords, align=align)
    config = config.model_copy(update={"choose": choose or ChooseConfig()})
    random = np.random.default_rng(0)
    vectors = random.normal(size=(sizes.texts, sizes.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    places = random.normal(size=sizes.categories[1])
    with artifacts.building(config, "prepare") as work:
        artifacts.write_json(work.folder / "features.json", _features(sizes).model_dump())
        keyword = [f"k{i % sizes.keywords}" if sizes.keywords else "" for i in range(sizes.texts)]
        pl.DataFrame({"keyword": keyword}).write_parquet(work.folder / "texts.parquet")
        _write_rows(work.folder / "train", sizes, sizes.rows, (random, places, vectors))
        _write_rows(work.folder / "test", sizes, sizes.test_rows, (random, places, vectors))
        days = np.load(work.folder / "test" / "days.npy")
        np.save(work.folder / "test" / "days.npy", days + 4)
    for verb in ("pretrain", "contrast"):
        with artifacts.building(config, verb):
            pass
    with artifacts.building(config, "embed"):
        for source in SOURCES:
            part = vectors_artifact(config, source)
            part.start(resume=False)
            np.save(part.folder / "vectors.npy", vectors)
            part.finish()
            _write_figures(output, figures_artifact(config, part), vectors)
    return config


def _write_figures(output: Path, part: artifacts.Artifact, vectors: np.ndarray) -> None:
    part.start(resume=False)
    for split in ("train", "test"):
        texts = np.load(output / "prepare" / split / "texts.npy")
        figures = np.zeros((len(texts), 2), np.float32)
        if texts.shape[1]:
            figures[:, 0] = 4 * np.where(texts[:, -1] >= 0, vectors[texts[:, -1], 0], 0)
        figures[:, 1] = np.random.default_rng(2).normal(size=len(texts))
        np.save(part.folder / f"{split}.npy", figures)
    artifacts.write_json(part.folder / SETTINGS, {"names": ["text", "noise"]})
    part.finish()


def log_of(config: Config, split: str = "train") -> LogRows:
    """Returns the log written by `write_log`."""
    return LogRows(artifacts.folder(config, "prepare") / split)


def rows_of(config: Config, split: str, rows: int = 1_000_000) -> Batch:
    """Returns the first rows of a log as one batch."""
    return next(log_of(config, split).in_order(rows))


def _features(sizes: Sizes) -> Features:
    names = ["user_id", "poi_id"] + [f"scene_{i}" for i in range(len(sizes.categories) - 2)]
    sides = ["user", "poi"] + ["scene"] * (len(sizes.categories) - 2)
    return Features(
        dataset="test",
        tasks=sizes.tasks,
        categories=tuple(
            Category(name=name, size=size, side=side)
            for name, size, side in zip(names, sizes.categories, sides, strict=True)
        ),
        numbers=tuple(f"n{i}" for i in range(sizes.numbers)),
        recent=sizes.recent,
        scene_keywords=tuple(f"k{i}" for i in range(sizes.keywords)),
        train_rows=sizes.rows,
        test_rows=sizes.test_rows,
        sampling_rate=sizes.sampling_rate,
    )


def _write_rows(
    log: Path, sizes: Sizes, rows: int, truth: tuple[np.random.Generator, np.ndarray, np.ndarray]
) -> None:
    random, places, vectors = truth
    columns = [np.minimum(random.zipf(1.2, rows), size) - 1 for size in sizes.categories]
    categories = np.stack(columns, axis=1)
    categories[:, 1] = random.integers(0, sizes.categories[1], rows)
    numbers = random.normal(size=(rows, sizes.numbers))
    texts = random.integers(-1, sizes.texts, (rows, sizes.keywords))
    if sizes.keywords:  # the text before or at this one that belongs to the column's keyword
        texts -= (texts - np.arange(sizes.keywords)) % sizes.keywords
        texts = np.maximum(texts, -1)
    score = 3 * places[categories[:, 1]]
    if sizes.numbers:
        score += 3 * numbers[:, 0]
    if sizes.keywords:
        score += 4 * np.where(texts[:, -1] >= 0, vectors[texts[:, -1], 0], 0)
    click = random.random(rows) < 1 / (1 + np.exp(-2 * score))
    order = click & (random.random(rows) < 0.6)
    recent = random.integers(0, sizes.categories[1], (rows, sizes.recent))
    arrays = {
        "categories": categories.astype(np.int32),
        "numbers": numbers.astype(np.float32),
        "recent": recent.astype(np.int32),
        "texts": texts.astype(np.int32),
        "days": np.repeat(np.arange(4, dtype=np.int32), -(-rows // 4))[:rows, None],
        "labels": np.stack([click, order], axis=1)[:, : len(sizes.tasks)].astype(np.uint8),
        "keys": categories[:, :2].astype(np.int32),
        "requests": np.arange(rows)[:, None] // 5,
    }
    log.mkdir()
    for name, array in arrays.items():
        np.save(log / f"{name}.npy", array)
