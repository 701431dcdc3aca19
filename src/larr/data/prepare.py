"""`larr prepare`: checks the tables, splits the log by time, and writes statistics and arrays.

Paper: section 4.1. The log is processed in chunks, so memory does not grow with its length. There
are three passes: check, enrich, encode. Encoding is a pass of its own because vocabularies and
scales must first be fitted on the enriched rows.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl

from larr import artifacts
from larr.config import Config
from larr.data.arrays import write_arrays
from larr.data.chunks import ParallelMap, parallel_map
from larr.data.columns import KEPT_FOR_EVALUATION, check_columns, used_columns
from larr.data.datasets import dataset
from larr.data.default_pairs import with_pairs
from larr.data.enriched import LOG_ROW, rendered, scan, write_enriched
from larr.data.enricher import Enricher, past_orders
from larr.data.features import Category, FeatureEncoder, Features, fit
from larr.data.folds import HELD_BACK, LEFT_OUT, has_last_days, splits
from larr.data.histories import PLACE_TEXTS, write_histories
from larr.data.log import SPLITS, Log, Split, check_tables, sample_requests, single_row_warning
from larr.data.names import ROWS, candidate_features, is_crossed, raw_column
from larr.data.situations import Situations, fit_situations
from larr.data.snapshot import KNOWN
from larr.data.transforms import (
    MISSING,
    NAME_WORDS,
    Array,
    Template,
    TextIds,
    Vocabulary,
    with_name_words,
)
from larr.progress import console

TRUTH = ("probability_click", "probability_order")
REQUESTS = "requests.parquet"
EXAMPLES = 40
"""Complete requests that are kept, to check serving against them."""
REPORTED_ROWS = 1_000_000
MAX_UNKNOWN = 0.5
"""A feature that is unknown in a larger share of the rows is reported."""


def prepare(config: Config) -> None:
    """Writes `prepare/` from the configured data set."""
    source = dataset(config)  # raises for an unknown kind before a folder is created
    with artifacts.building(config, "prepare", resume=False) as work:
        folder = work.folder.absolute()  # workers may have another working directory
        with parallel_map(config.cluster, folder / "shared") as pmap:
            tables = source.tables(config, folder / "raw")
            log = check_tables(config, tables, folder, pmap=pmap)
            config = with_pairs(config, log)
            check_columns(config, log)
            if NAME_WORDS in used_columns(config):
                log = replace(log, places=with_name_words(log.places))
            if warning := single_row_warning(log):
                console.print(f"  warning: {warning}", soft_wrap=True)
            _write_requests(log, folder)
            enricher, texts, beside = Enricher(config, log, pmap), TextIds(), _beside(log)
            encoder, rows = _write_splits(pmap, enricher, texts, beside, folder)
            if not has_last_days(folder):
                for number, split_N in enumerate(splits(folder)):
                    fold = folder / HELD_BACK / str(number)
                    _write_fold(pmap, config, log, encoder, texts, split_N, fold)
        # The workers have ended and freed their memory, which histories may need.
        counts = {f"{split}_rows": rows[split] for split in SPLITS}
        _write_features(config, log, encoder, counts, folder)
        end = _write_known(enricher, texts, encoder.places, folder)
        write_histories(log, folder, _situations(enricher, encoder), end)
        _write_orders(enricher, beside, folder)
        log.places.write_parquet(folder / "places.parquet")
        log.users.write_parquet(folder / "users.parquet")
        texts.table().write_parquet(folder / "texts.parquet")
        _report_texts(config, folder)
        for scratch in ("checked", "enriched"):
            shutil.rmtree(folder / scratch)
        work.measured(sum(counts.values()), "impressions")
        work.figures |= counts | {"distinct_texts": len(texts)}
        work.figures |= {"rejected": log.rejected, "blanked": log.blanked}


def _write_splits(
    pmap: ParallelMap, enricher: Enricher, texts: TextIds, beside: str, folder: Path
) -> tuple[FeatureEncoder, dict[str, int]]:
    """Writes the arrays of each split, and the columns of the test rows that `evaluate` reads.

    Returns the encoder and the number of rows of each split.
    """
    config, log = enricher.config, enricher.log
    truth = [name for name in TRUTH if name in log.scan().collect_schema()]
    evaluated = list(dict.fromkeys([*KEPT_FOR_EVALUATION, *config.features.categories, *truth]))
    parts = write_enriched(pmap, enricher, texts, evaluated, folder, beside)
    encoder = fit(config, scan(parts, "train"))
    encoder.save(folder / "vocabularies")
    rows = write_arrays(pmap, enricher, encoder, parts, folder)
    scan(parts, "test").select(evaluated).sink_parquet(folder / "test" / "rows.parquet")
    for split in filter(rows.get, SPLITS):
        _report_unknown(encoder, rows[split], folder / split)
    return encoder, rows


def _write_orders(enricher: Enricher, beside: str, folder: Path) -> None:
    """Writes the texts of each past order, as of the start of its day, for stage 2."""
    config, log = enricher.config, enricher.log
    train = log.training().with_row_index(LOG_ROW)
    keys = {name: name for name in ("user_id", "poi_id", "time")}
    keys |= {"beside": beside, "log_row": LOG_ROW}
    crossed = any(is_crossed(config, n) for k in config.keywords for n in Template(k).columns)
    chunks = past_orders(log, train).iter_slices(config.dataset.chunk_rows)
    for number, chunk in enumerate(chunks):
        orders = enricher.enrich(chunk, crossed=crossed)
        orders = rendered(config.keywords, orders, keys, enricher.owned)
        orders.write_parquet(folder / "enriched" / f"orders-{number:05}.parquet")
    for name in ("orders", "not_taken"):
        files = sorted((folder / "enriched").glob(f"{name}-*"))
        pl.scan_parquet(files).sink_parquet(folder / f"{name}.parquet")


def _write_fold(
    pmap: ParallelMap,
    config: Config,
    log: Log,
    encoder: FeatureEncoder,
    texts: TextIds,
    split_N: Array,
    folder: Path,
) -> None:
    """Writes the arrays and histories of a validation fold, see `larr.data.folds`.

    `split_N` replaces the split of the training rows; the test rows are dropped.
    """
    (folder / "checked").mkdir(parents=True)
    np.save(folder / LEFT_OUT, np.flatnonzero(split_N != "train"))
    files, start = [], 0
    for number, chunk in enumerate(log.chunks("train")):
        files.append(folder / "checked" / f"{number:05}.parquet")
        column = pl.Series("split", split_N[start : start + chunk.height])
        chunk.with_columns(column).write_parquet(files[-1])
        start += chunk.height
    console.print(f"  {(split_N == 'test').sum():,} training rows held back for validation:")
    log = replace(log, impressions=files, split=Split(pl.col("split")), is_split_by_time=False)
    columns = [*KEPT_FOR_EVALUATION, *config.features.categories]
    enricher = Enricher(config, log, pmap)
    parts = write_enriched(pmap, enricher, texts, columns, folder)
    scales = fit(config, scan(parts, "train")).scales
    write_arrays(pmap, enricher, replace(encoder, scales=scales), parts, folder)
    write_histories(log, folder, _situations(enricher, encoder))
    # The indices are those of the complete log: values not in the fold's training rows become 0.
    trained_NF = np.load(folder / "train" / "categories.npy")
    places_N = dict(zip(encoder.vocabularies, trained_NF.T, strict=True)).get("poi_id", [])
    for split in SPLITS:
        names = ("categories", "recent")
        index_NF, recent_NL = (np.load(folder / split / f"{n}.npy", mmap_mode="r+") for n in names)
        for index_N, trained_N in zip(index_NF.T, trained_NF.T, strict=True):
            index_N[~np.isin(index_N, trained_N)] = 0
        recent_NL[~np.isin(recent_NL, places_N)] = 0
    for scratch in ("checked", "enriched"):
        shutil.rmtree(folder / scratch)


def _situations(enricher: Enricher, encoder: FeatureEncoder) -> Situations | None:
    """Returns the situations of the contexts, or None if the configuration names no columns."""
    config, log = enricher.config, enricher.log
    if not config.features.situation:
        return None
    orders = past_orders(log, log.counted())
    return fit_situations(config, orders, log.places, encoder, enricher.levels)


def _beside(log: Log) -> str:
    """Returns the column that joins an order with the unclicked places shown beside it.

    It is `request_id`, or `user_id` if at most half of the requests with an order have such places.
    """
    rows = sample_requests(log.training()).group_by("request_id")
    requests = rows.agg(pl.col("order").any(), has_unclicked=(~pl.col("click")).any())
    share = requests.filter("order").select(pl.col("has_unclicked").mean())
    return "request_id" if share.collect(engine="streaming").item() > 0.5 else "user_id"


def _write_requests(log: Log, folder: Path) -> None:
    """Writes some requests of the first test day, with the columns of the log.

    Without test days they are those of the first training day.
    """
    chunk = next(chain(log.chunks("test"), log.chunks("train")))
    first = chunk.filter(pl.col("day") == pl.col("day").min())
    requests = first["request_id"].unique(maintain_order=True)
    chosen = requests.gather_every(max(1, len(requests) // EXAMPLES)).head(EXAMPLES)
    rows = first.filter(pl.col("request_id").is_in(chosen.implode()))
    rows.drop("split", "day", *ROWS.values()).write_parquet(folder / REQUESTS)


def _report_unknown(encoder: FeatureEncoder, rows: int, folder: Path) -> None:
    """Prints the features that are unknown in most rows of a split."""
    new = " or new" if folder.name == "test" else ""
    for array, names, reason in (
        ("categories", encoder.vocabularies, f"missing{new}"),
        ("numbers", encoder.scales.names, "missing or at its mean"),
    ):
        blocks = artifacts.array_blocks(folder / f"{array}.npy")
        unknown_X = sum((block == 0).sum(axis=0) for block in blocks)
        for name, unknown in zip(names, unknown_X, strict=True):
            share = unknown / rows
            if share > MAX_UNKNOWN:
                console.print(f"  {name}: {reason} in {share:.0%} of the {folder.name} rows")


def _write_features(
    config: Config, log: Log, encoder: FeatureEncoder, counts: dict[str, int], folder: Path
) -> None:
    """Writes features.json, which describes the arrays."""
    categories = []
    for name, vocabulary in encoder.vocabularies.items():
        prefix = name.split("_", maxsplit=1)[0]
        owned = prefix in ("user", "poi") and not is_crossed(config, name)
        side = prefix if owned else "scene"
        categories.append(Category(name=name, size=len(vocabulary.texts) + 1, side=side))
    names = [*encoder.vocabularies, *encoder.scales.names]
    description = Features(
        dataset=config.dataset.kind,
        tasks=tuple(log.tasks),
        categories=tuple(categories),
        numbers=encoder.scales.names,
        recent=encoder.recent,
        statistics=tuple(config.statistics or ()),
        scene_keywords=tuple(keyword.name for keyword in config.scene_keywords),
        sampling_rate=config.dataset.sampling_rate,
        sampled_share=log.sampled_share,
        candidate_features=tuple(candidate_features(config, names)),
        **counts,
    )
    artifacts.write_json(folder / "features.json", description.model_dump(mode="json"))


def _write_known(
    enricher: Enricher, texts: TextIds, recent_places: Vocabulary, folder: Path
) -> int:
    """Writes the statistics at the end of training, and the texts of all places and users.

    Returns the day after the training days, since 1970. Places and users without a row in the log
    are included, so that `larr embed` computes the vectors of every text that a server can need.
    """
    config = enricher.config
    last = enricher.log.training().select(pl.col("day").max().dt.epoch("d"))
    end: int = last.collect(engine="streaming").item() + 1
    snapshot = enricher.snapshot(end)
    snapshot.save(folder / KNOWN)
    enricher.save_crosses(end, folder / KNOWN)
    place_keywords = [keyword for keyword in config.keywords if keyword.owner == "poi"]
    described = snapshot.describe_places(snapshot.places)
    places = rendered(place_keywords, described, {"poi_id": "poi_id"}, {})
    places.write_parquet(folder / "descriptions.parquet")
    place_texts = {}
    for keyword in config.scene_keywords:
        if keyword.owner == "poi":
            numbers = texts.add(places[keyword.name])
            columns = {raw_column(config, name) for name in Template(keyword).columns}
            if columns <= set(enricher.log.places.columns):
                place_texts[keyword.name] = np.insert(numbers, 0, MISSING)
        elif keyword.owner == "user":
            template = Template(keyword)
            profiles = [name for name in template.columns if name in snapshot.scene_profiles]
            users = snapshot.describe_users(profiles)
            if set(template.columns) <= set(users.columns):  # reads no column of the request
                texts.add(template.column(users))
    pl.DataFrame(place_texts).write_parquet(folder / PLACE_TEXTS)
    if config.features.recent_keyword:
        recent = recent_places.texts.alias("poi_id").to_frame()
        recent = recent.join(places, on="poi_id", how="left", maintain_order="left")
        numbers = texts.add(recent[config.features.recent_keyword])
        np.save(folder / "recent_texts.npy", np.insert(numbers, 0, MISSING))
    return end


def _report_texts(config: Config, folder: Path) -> None:
    """Prints the share of training rows with a text for each scene keyword, and an example."""
    text_NR = np.load(folder / "train" / "texts.npy", mmap_mode="r")[:REPORTED_ROWS]
    table = pl.read_parquet(folder / "texts.parquet")
    for slot, keyword in enumerate(config.scene_keywords):
        share = float((text_NR[:, slot] != MISSING).mean())
        texts = table.filter(keyword=keyword.name)["text"]
        example = f", such as “{texts[0]:.60}”" if len(texts) else ""
        line = f"  {keyword.name}: in {share:.0%} of the rows, {len(texts):,} texts{example}"
        console.print(line, soft_wrap=True)
