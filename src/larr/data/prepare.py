"""`larr prepare`: tables -> `prepare/`, checked, split by time, with statistics as of their time.

Paper: section 4.1. The log is walked in chunks, so that memory does not grow with it: checked and
written once, enriched once, turned into arrays once. Arrays need two passes after the checks,
since vocabularies and scales are fitted on enriched rows before the first row is encoded.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

import numpy as np
import polars as pl
from rich.markup import escape

from larr import artifacts
from larr.config import Config
from larr.data import features
from larr.data.columns import candidate_features, check_columns
from larr.data.datasets import dataset
from larr.data.features import Category, FeatureEncoder, Features
from larr.data.known import KNOWN, Enricher, past_orders
from larr.data.log import SPLITS, Log, check_tables
from larr.data.transforms import MISSING, Array, Template, TextNumbers, Vocabulary
from larr.errors import ConfigError
from larr.progress import console, track

IMPRESSIONS = ("user_impressions", "poi_impressions")
KEPT_FOR_EVALUATION = ("request_id", "user_id", "poi_id", "time", *IMPRESSIONS)
TRUTH = ("probability_click", "probability_order")
REQUESTS = "requests.parquet"
EXAMPLES = 40
"""Requests of the log that are kept complete, to check with them what is served."""
REPORTED_ROWS = 1_000_000
MOST_UNKNOWN = 0.5
"""A feature that is unknown in a larger share of the rows is reported."""
Files = dict[str, list[Path]]


def prepare(config: Config) -> None:
    """Writes `prepare/` from the configured data set."""
    with artifacts.making(config, "prepare", resume=False) as work:
        tables = dataset(config).tables(config, work.folder / "raw")
        log = check_tables(config, tables, work.folder)
        near = config.contrast.near
        if near and near not in log.places.columns:
            raise ConfigError(
                f"contrast.near: places have no column {near}; they have "
                f"{', '.join(log.places.columns)}"
            )
        check_columns(config, log)
        writer = _Writer(config, log, work.folder)
        files = writer.enrich()
        counts = writer.arrays(files)
        writer.descriptions()
        writer.orders()
        log.places.write_parquet(work.folder / "places.parquet")
        log.users.write_parquet(work.folder / "users.parquet")
        writer.texts.table().write_parquet(work.folder / "texts.parquet")
        _report_texts(config, work.folder)
        for scratch in ("checked", "enriched"):
            shutil.rmtree(work.folder / scratch)
        work.measured(sum(counts.values()), "impressions")
        work.figures |= counts | {"distinct_texts": len(writer.texts), "rejected": log.rejected}


class _Writer:
    """Writes the files of `prepare/`, numbering every text where it first occurs."""

    def __init__(self, config: Config, log: Log, folder: Path) -> None:
        self.config, self.log, self.folder = config, log, folder
        self.enricher = Enricher(config, log)
        self.texts = TextNumbers()
        self.templates = [Template(keyword) for keyword in config.scene_keywords]

    def enrich(self) -> Files:
        """Writes the columns that the arrays are built from, a file for each chunk."""
        scratch = self.folder / "enriched"
        scratch.mkdir()
        train = self.log.scan().filter(pl.col("split") == "train")
        # How often a user or place occurs in training; evaluate reports newcomers by it.
        occurrences = {
            key: train.group_by(key).agg(pl.len().alias(name)).collect(engine="streaming")
            for key, name in zip(("user_id", "poi_id"), IMPRESSIONS, strict=True)
        }
        names = [*self._evaluated(), "click", "order", "recent", *self.config.features.numbers]
        files: Files = {split: [] for split in SPLITS}
        total = int(self.log.scan().select(pl.len()).collect(engine="streaming").item())
        with track("statistics and texts", total, "rows") as advance:
            for split in SPLITS:
                for chunk in self.log.chunks(split):
                    if not chunk.height:
                        continue
                    if split == "test" and not files[split]:
                        self._keep_requests(chunk)
                    rows = self.enricher.enrich(chunk)
                    # Joins keep the order of the log: the rows of all arrays and tables correspond.
                    for key, counts in occurrences.items():
                        rows = rows.join(counts, on=key, how="left", maintain_order="left")
                    rows = rows.with_columns(pl.col(IMPRESSIONS).fill_null(0))
                    texts = [
                        pl.Series(_text_column(template), self.texts.add(template.column(rows)))
                        for template in self.templates
                    ]
                    files[split].append(scratch / f"{split}-{len(files[split]):05}.parquet")
                    rows = rows.select(list(dict.fromkeys(names))).with_columns(texts)
                    rows.write_parquet(files[split][-1])
                    advance(chunk.height)
        return files

    def _evaluated(self) -> list[str]:
        """Returns the columns of `test/rows.parquet`."""
        truth = [name for name in TRUTH if name in self.log.scan().collect_schema()]
        names = [*KEPT_FOR_EVALUATION, *self.config.features.categories, *truth]
        return list(dict.fromkeys(names))

    def _keep_requests(self, chunk: pl.DataFrame) -> None:
        """Writes some requests of the first test day as they are in the log."""
        first = chunk.filter(pl.col("day") == pl.col("day").min())
        requests = first["request_id"].unique(maintain_order=True)
        chosen = requests.gather_every(max(1, len(requests) // EXAMPLES)).head(EXAMPLES)
        rows = first.filter(pl.col("request_id").is_in(chosen.implode()))
        rows.drop("split", "day").write_parquet(self.folder / REQUESTS)

    def arrays(self, files: Files) -> dict[str, int]:
        """Writes train/, test/, the encoder and features.json; returns the rows of each split."""
        encoder = features.fit(self.config, pl.scan_parquet(files["train"]))
        encoder.save(self.folder / "vocabularies")
        counts = {}
        for split in SPLITS:
            (self.folder / split).mkdir()
            lengths = [pl.scan_parquet(f).select(pl.len()).collect().item() for f in files[split]]
            counts[f"{split}_rows"] = sum(lengths)
            # Mapped files are filled chunk by chunk, so memory holds one chunk and not the log.
            arrays: dict[str, np.memmap] = {}
            start = 0
            with track(f"arrays of {split}", sum(lengths), "rows") as advance:
                for path, length in zip(files[split], lengths, strict=True):
                    for name, values in self._encode(pl.read_parquet(path), encoder).items():
                        if name not in arrays:
                            shape = (sum(lengths), values.shape[1])
                            target = self.folder / split / f"{name}.npy"
                            arrays[name] = artifacts.new_array(target, values.dtype, shape)
                        arrays[name][start : start + length] = values
                    start += length
                    advance(length)
            _report_unknown(self.folder / split, encoder)
        test = pl.scan_parquet(files["test"])
        test.select(self._evaluated()).sink_parquet(self.folder / "test" / "rows.parquet")
        self._describe_features(encoder, counts)
        return counts

    def _encode(self, rows: pl.DataFrame, encoder: FeatureEncoder) -> dict[str, Array]:
        texts = rows.select(_text_column(template) for template in self.templates)
        users, places = self.log.users["user_id"], self.log.places["poi_id"]
        keys = [
            Vocabulary(users).column(rows["user_id"]),
            Vocabulary(places).column(rows["poi_id"]),
        ]
        return encoder.arrays(rows) | {
            "texts": texts.to_numpy().astype(np.int32).reshape(rows.height, -1),
            "days": rows.select(pl.col("time").dt.epoch("d")).to_numpy().astype(np.int32),
            "labels": rows.select(self.log.tasks).to_numpy().astype(np.uint8),
            "keys": np.stack(keys, axis=1),
        }

    def _describe_features(self, encoder: FeatureEncoder, counts: dict[str, int]) -> None:
        categories = [
            Category(name=name, size=len(vocabulary.texts) + 1, side=_side(name))
            for name, vocabulary in encoder.vocabularies.items()
        ]
        names = [*encoder.vocabularies, *encoder.scales.names]
        description = Features(
            dataset=self.config.dataset.kind,
            tasks=tuple(self.log.tasks),
            categories=tuple(categories),
            numbers=encoder.scales.names,
            recent=encoder.recent,
            scene_keywords=tuple(keyword.name for keyword in self.config.scene_keywords),
            sampling_rate=self.config.dataset.sampling_rate,
            candidate_features=tuple(candidate_features(self.config, names)),
            **counts,
        )
        artifacts.write_json(self.folder / "features.json", description.model_dump(mode="json"))

    def descriptions(self) -> None:
        """Writes what is known at the end of training, and the texts of all places and users.

        Places and users without a row in the log get numbers for their texts, too, so that
        `larr embed` has vectors for whatever a server is asked about.
        """
        train = self.log.scan().filter(pl.col("split") == "train")
        end = train.select(pl.col("day").max().dt.offset_by("1d")).collect(engine="streaming")
        known = self.enricher.known(end.item())
        known.save(self.folder / KNOWN)
        places = self._rendered(known.describe_places(), {"poi"}, ["poi_id"])
        places.write_parquet(self.folder / "descriptions.parquet")
        for template in self.templates:
            if template.keyword.owner == "poi":
                self.texts.add(places[template.keyword.name])
            elif template.keyword.owner == "user":
                situations = [name for name in template.columns if name in known.situations]
                users = known.describe_users(situations)
                if set(template.columns) <= set(users.columns):  # reads nothing of the request
                    self.texts.add(template.column(users))
        if keyword := self.config.features.recent_keyword:
            vocabulary = pl.read_parquet(self.folder / "vocabularies" / "poi_id.parquet")
            texts = vocabulary.join(
                places, left_on="value", right_on="poi_id", how="left", maintain_order="left"
            )
            numbers = self.texts.add(texts[keyword])
            np.save(self.folder / "recent_texts.npy", np.insert(numbers, 0, MISSING))

    def orders(self) -> None:
        """Writes the texts of every past order as of the start of its day, for stage 2."""
        rows = self.enricher.enrich(past_orders(self.log, ("train",)))
        rendered = self._rendered(rows, {"poi", "user", "scene"}, ["user_id", "poi_id", "time"])
        rendered.write_parquet(self.folder / "orders.parquet")

    def _rendered(
        self, rows: pl.DataFrame, owners: Collection[str], columns: list[str]
    ) -> pl.DataFrame:
        """Returns columns of the rows, their `chain`, and the texts of all keywords of owners."""
        chain = rows["poi_chain"] if "poi_chain" in rows.columns else pl.lit(None, pl.String)
        keywords = [keyword for keyword in self.config.keywords if keyword.owner in owners]
        rendered = [Template(keyword).column(rows) for keyword in keywords]
        return rows.select(*columns, chain.alias("chain")).with_columns(rendered)


def _text_column(template: Template) -> str:
    """Returns the name of the column of text numbers; a keyword may be named as a feature is."""
    return f"text {template.keyword.name}"


def _side(column: str) -> str:
    prefix = column.split("_", maxsplit=1)[0]
    return prefix if prefix in ("user", "poi") else "scene"


def _report_unknown(folder: Path, encoder: FeatureEncoder) -> None:
    """Prints the features that are the same for most rows because nothing is known there."""
    new = " or new" if folder.name == "test" else ""
    for file, names, reason in (
        ("categories", encoder.vocabularies, f"missing{new}"),
        ("numbers", encoder.scales.names, "missing or at its mean"),
    ):
        share_X = (np.load(folder / f"{file}.npy", mmap_mode="r") == 0).mean(axis=0)
        for name, share in zip(names, share_X, strict=True):
            if share > MOST_UNKNOWN:
                console.print(f"  {name}: {reason} in {share:.0%} of the {folder.name} rows")


def _report_texts(config: Config, folder: Path) -> None:
    """Prints in how many training rows each scene keyword has a text, and one of its texts."""
    text_NR = np.load(folder / "train" / "texts.npy", mmap_mode="r")[:REPORTED_ROWS]
    table = pl.read_parquet(folder / "texts.parquet")
    for slot, keyword in enumerate(config.scene_keywords):
        share = float((text_NR[:, slot] != MISSING).mean())
        texts = table.filter(keyword=keyword.name)["text"]
        example = f", such as “{texts[0]:.60}”" if len(texts) else ""
        line = f"  {keyword.name}: in {share:.0%} of the rows, {len(texts):,} texts{example}"
        console.print(escape(line), soft_wrap=True)
