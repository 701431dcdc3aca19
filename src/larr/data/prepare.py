"""`larr prepare`: tables -> `prepare/`, checked, split by time, with statistics as of their time.

Paper: section 4.1. The log is walked in chunks, so that memory does not grow with it: checked and
written once, enriched once, turned into arrays once.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.markup import escape

from larr import artifacts
from larr.config import Config
from larr.config.data import KeywordConfig
from larr.data import features
from larr.data.candidates import candidate_features, check_candidate_columns
from larr.data.datasets import dataset
from larr.data.enrich import KNOWN, Enricher, Known, past_orders
from larr.data.keywords import MISSING, TextNumbers, check_keywords, columns_of, render
from larr.data.log import SPLITS, Log, check_tables
from larr.errors import ConfigError
from larr.progress import console, track

IMPRESSIONS = ("user_impressions", "poi_impressions")
KEPT_FOR_EVALUATION = (
    "request_id",
    "user_id",
    "poi_id",
    "time",
    *IMPRESSIONS,
)
TRUTH = ("probability_click", "probability_order")
REQUESTS = "requests.parquet"
TOLD_ROWS = 1_000_000
MOST_UNKNOWN = 0.5
"""A feature that is unknown in a larger share of the rows is named."""
EXAMPLES = 40
"""Requests of the log that are kept whole, to check with them what is served."""


def prepare(config: Config) -> None:
    """Makes `prepare/` from the configured data set."""
    with artifacts.making(config, "prepare", resume=False) as work:
        tables = dataset(config).tables(config, work.folder / "raw")
        log = check_tables(config, tables, work.folder)
        near = config.contrast.near
        if near and near not in log.places.columns:
            raise ConfigError(
                f"contrast.near: places have no column {near}; they have "
                f"{', '.join(log.places.columns)}"
            )
        check_candidate_columns(config, log)
        enricher = Enricher(config, log)
        writer = _Writer(config, work.folder)
        files = writer.enrich(log, enricher)
        counts = writer.arrays(log, files)
        writer.descriptions(log, enricher)
        writer.orders(log, enricher)
        writer.entities(log)
        writer.tell()
        for scratch in ("checked", "enriched"):
            shutil.rmtree(work.folder / scratch)
        work.measured(sum(counts.values()), "impressions")
        work.figures |= counts | {"distinct_texts": writer.texts.count, "rejected": log.rejected}


@dataclass
class _Writer:
    """Writes the files of `prepare/`; every text gets its number here."""

    config: Config
    folder: Path
    texts: TextNumbers = field(default_factory=TextNumbers)

    def enrich(self, log: Log, enricher: Enricher) -> dict[str, list[Path]]:
        """Writes the columns that the arrays are made of, chunk by chunk."""
        scratch = self.folder / "enriched"
        scratch.mkdir()
        files: dict[str, list[Path]] = {split: [] for split in SPLITS}
        seen = _impressions_in_training(log)
        total = int(log.scan().select(pl.len()).collect(engine="streaming").item())
        with track("statistics and texts", total, "rows") as advance:
            for split in SPLITS:
                for chunk in log.chunks(split):
                    if chunk.height == 0:
                        continue
                    if split == "test" and not files[split]:
                        self._examples(chunk)
                    rows = enricher.enrich(chunk)
                    check_keywords(self.config, rows.columns)
                    features.check_features(self.config, rows.schema)
                    for key, counts in seen.items():
                        rows = rows.join(counts, on=key, how="left", maintain_order="left")
                    rows = rows.with_columns(pl.col(IMPRESSIONS).fill_null(0))
                    files[split].append(scratch / f"{split}-{len(files[split]):05}.parquet")
                    self._columns(rows).write_parquet(files[split][-1])
                    advance(chunk.height)
        return files

    def _examples(self, chunk: pl.DataFrame) -> None:
        """Keeps requests of the first test day as they were given."""
        first = chunk.filter(pl.col("day") == pl.col("day").min())
        requests = first["request_id"].unique(maintain_order=True)
        chosen = requests.gather_every(max(1, len(requests) // EXAMPLES)).head(EXAMPLES)
        told = first.filter(pl.col("request_id").is_in(chosen.implode()))
        told.drop("split", "day").write_parquet(self.folder / REQUESTS)

    def _columns(self, rows: pl.DataFrame) -> pl.DataFrame:
        texts = [
            pl.Series(f"text {keyword.name}", self.texts.number(render(rows, keyword)))
            for keyword in self.config.scene_keywords
        ]
        names = [*KEPT_FOR_EVALUATION, *self._evaluated(rows.columns), "click", "order", "recent"]
        names += self.config.features.numbers
        return rows.select(list(dict.fromkeys(names))).with_columns(texts)

    def _evaluated(self, columns: list[str]) -> list[str]:
        truth = [name for name in TRUTH if name in columns]
        return [*self.config.features.categories, *truth]

    def arrays(self, log: Log, files: dict[str, list[Path]]) -> dict[str, int]:
        """Fits the encoder on the training files and writes train/, test/ and features.json."""
        encoder = features.fit(self.config, pl.scan_parquet(files["train"]))
        features.save(encoder, self.folder / "vocabularies")
        counts = {}
        for split in SPLITS:
            lengths = [pl.scan_parquet(f).select(pl.len()).collect().item() for f in files[split]]
            counts[f"{split}_rows"] = sum(lengths)
            with track(f"arrays of {split}", sum(lengths), "rows") as advance:
                arrays = _Arrays(self.folder / split, sum(lengths))
                for path in files[split]:
                    rows = pl.read_parquet(path)
                    arrays.append(self._encode(rows, encoder, log))
                    advance(rows.height)
        self._say_features_that_tell_little(encoder)
        test = pl.scan_parquet(files["test"])
        kept = [*KEPT_FOR_EVALUATION, *self._evaluated(test.collect_schema().names())]
        test.select(list(dict.fromkeys(kept))).sink_parquet(self.folder / "test" / "rows.parquet")
        artifacts.write_json(self.folder / "features.json", self._description(log, encoder, counts))
        return counts

    def _say_features_that_tell_little(self, encoder: features.FeatureEncoder) -> None:
        """Names the features that are the same for most rows because nothing is known there."""
        for split, new in (("train", ""), ("test", " or new")):
            for kind, names, why in (
                ("categories", encoder.vocabularies, f"missing{new}"),
                ("numbers", encoder.scales, "missing or at its mean"),
            ):
                array_NF = np.load(self.folder / split / f"{kind}.npy", mmap_mode="r")
                share_F = (array_NF == 0).mean(axis=0)
                for name, share in zip(names, share_F, strict=True):
                    if share > MOST_UNKNOWN:
                        console.print(f"  {name}: {why} in {share:.0%} of the {split} rows")

    def _encode(
        self, rows: pl.DataFrame, encoder: features.FeatureEncoder, log: Log
    ) -> dict[str, np.ndarray]:
        texts = rows.select(f"text {keyword.name}" for keyword in self.config.scene_keywords)
        users, places = log.users["user_id"], log.places["poi_id"]
        return {
            "categories": encoder.categories(rows),
            "numbers": encoder.numbers(rows),
            "recent": encoder.recent_places(rows),
            "texts": texts.to_numpy().astype(np.int32).reshape(rows.height, -1),
            "days": rows.select(pl.col("time").dt.epoch("d")).to_numpy().astype(np.int32),
            "labels": rows.select(log.tasks).to_numpy().astype(np.uint8),
            "keys": np.stack(
                [features.index(rows["user_id"], users), features.index(rows["poi_id"], places)], 1
            ),
        }

    def _description(
        self, log: Log, encoder: features.FeatureEncoder, counts: dict[str, int]
    ) -> dict[str, Any]:
        categories = [
            {"name": name, "size": len(values) + 1, "side": _side(name)}
            for name, values in encoder.vocabularies.items()
        ]
        return counts | {
            "dataset": self.config.dataset.kind,
            "tasks": log.tasks,
            "categories": categories,
            "numbers": list(encoder.scales),
            "recent": encoder.recent,
            "scene_keywords": [keyword.name for keyword in self.config.scene_keywords],
            "sampling_rate": self.config.dataset.sampling_rate,
            "candidate_features": candidate_features(
                self.config, [*encoder.vocabularies, *encoder.scales]
            ),
        }

    def descriptions(self, log: Log, enricher: Enricher) -> None:
        """Writes what is known at the end of training, with the texts of all places and users."""
        train = log.scan().filter(pl.col("split") == "train")
        end = train.select(pl.col("day").max().dt.offset_by("1d")).collect(engine="streaming")
        known = enricher.known(end.item())
        known.save(self.folder / KNOWN)
        rendered = self._rendered(known.described_places(), {"poi"}, ["poi_id"])
        for keyword in self.config.scene_keywords:
            if keyword.owner == "poi":
                self.texts.number(rendered[keyword.name])
            elif keyword.owner == "user":
                self._number_of_all_users(known, keyword)
        rendered.write_parquet(self.folder / "descriptions.parquet")
        self._recent_texts(rendered)

    def _number_of_all_users(self, known: Known, keyword: KeywordConfig) -> None:
        """Numbers a keyword's texts of users, unless it reads what only a request tells."""
        columns = columns_of(keyword)
        users = known.described_users(name for name in columns if name in known.situations)
        if set(columns) <= set(users.columns):
            self.texts.number(render(users, keyword))

    def _recent_texts(self, rendered: pl.DataFrame) -> None:
        """Writes the number of the text that stands for each place of the poi_id vocabulary."""
        keyword = self.config.features.recent_keyword
        if keyword:
            vocabulary = pl.read_parquet(self.folder / "vocabularies" / "poi_id.parquet")
            texts = vocabulary.join(
                rendered, left_on="value", right_on="poi_id", how="left", maintain_order="left"
            )
            numbers = self.texts.number(texts[keyword])
            np.save(self.folder / "recent_texts.npy", np.insert(numbers, 0, MISSING))

    def orders(self, log: Log, enricher: Enricher) -> None:
        """Writes the texts of every past order as of the start of its day, for stage 2."""
        rows = enricher.enrich(past_orders(log, ("train",)))
        self._rendered(rows, {"poi", "user", "scene"}, ["user_id", "poi_id", "time"]).write_parquet(
            self.folder / "orders.parquet"
        )

    def _rendered(self, rows: pl.DataFrame, owners: set[str], kept: list[str]) -> pl.DataFrame:
        chain = rows["poi_chain"] if "poi_chain" in rows.columns else pl.lit(None, pl.String)
        keywords = [keyword for keyword in self.config.keywords if keyword.owner in owners]
        rendered = [render(rows, keyword) for keyword in keywords]
        return rows.select(*kept, chain.alias("chain")).with_columns(rendered)

    def entities(self, log: Log) -> None:
        """Writes the checked entity tables and the table of all texts."""
        log.places.write_parquet(self.folder / "places.parquet")
        log.users.write_parquet(self.folder / "users.parquet")
        self.texts.table().write_parquet(self.folder / "texts.parquet")

    def tell(self) -> None:
        """Prints of how many training rows each scene keyword has a text, and one of them."""
        texts_NR = np.load(self.folder / "train" / "texts.npy", mmap_mode="r")[:TOLD_ROWS]
        table = self.texts.table()
        for slot, keyword in enumerate(self.config.scene_keywords):
            filled = float((texts_NR[:, slot] != MISSING).mean())
            told = table.filter(keyword=keyword.name)["text"]
            example = f", such as “{told[0]:.60}”" if len(told) else ""
            line = f"  {keyword.name}: in {filled:.0%} of the rows, {len(told):,} texts{example}"
            console.print(escape(line), soft_wrap=True)


class _Arrays:
    """Memory-mapped .npy files filled from the front."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder, self.rows, self.filled = folder, rows, 0
        self.maps: dict[str, np.memmap] = {}
        folder.mkdir()

    def append(self, chunk: dict[str, np.ndarray]) -> None:
        """Writes the next rows of every array."""
        for name, values in chunk.items():
            if name not in self.maps:
                path, shape = self.folder / f"{name}.npy", (self.rows, values.shape[1])
                self.maps[name] = artifacts.new_array(path, values.dtype, shape)
            self.maps[name][self.filled : self.filled + len(values)] = values
        self.filled += len(values)


def _impressions_in_training(log: Log) -> dict[str, pl.DataFrame]:
    train = log.scan().filter(pl.col("split") == "train")
    return {
        f"{prefix}_id": train.group_by(f"{prefix}_id")
        .agg(pl.len().alias(f"{prefix}_impressions"))
        .collect(engine="streaming")
        for prefix in ("user", "poi")
    }


def _side(column: str) -> str:
    prefix = column.split("_", maxsplit=1)[0]
    return prefix if prefix in ("user", "poi") else "scene"
