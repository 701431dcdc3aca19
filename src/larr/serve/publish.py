"""`larr publish`: a trained ranker becomes a version that is served without torch.

Shapes: V stored texts, D dimension of their vectors.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from larr import artifacts, rankers
from larr.config import Config
from larr.data.batches import Batch
from larr.data.prepare import REQUESTS
from larr.data.transforms import TIME_COLUMNS, with_time_columns
from larr.errors import ConfigError
from larr.rankers.larr import Larr
from larr.rankers.ple import Ple
from larr.rankers.predict import load_ranker, probabilities, require_ranker, undo_sampling
from larr.serve import ranker as served
from larr.serve.export import write_graph
from larr.serve.features import Reader
from larr.serve.fold import PlaceRows, Scoring, TextRows, check_foldable
from larr.serve.ranker import ServedRanker
from larr.serve.store import (
    FOLDED,
    GOLDEN,
    MANIFEST,
    READY,
    SERVING,
    VERSIONS,
    Store,
    VersionError,
    hashes,
    identity,
    open_checked,
    open_version,
    sync,
)
from larr.serve.tables import Columns, write_table
from larr.serve.version import ServedVersion

DATA = ("features.json", "texts.parquet", "vocabularies", "known")
"""Files of `larr prepare` that serving reads."""
PART_ROWS = 16_384
"""Rows of a table that are computed at a time: memory is bounded by them."""


def publish(store: Store, config: Config, model: str) -> str:
    """Writes a version of a trained ranker and returns its ID.

    The same run gives the same ID and is not written again. Raises StaleError for a ranker that is
    not up to date, ConfigError for one that cannot be folded, and VersionError if the folded
    ranker does not give the probabilities of the trained one.
    """
    require_ranker(config, model)
    data = artifacts.folder(config, "prepare")
    if not (data / REQUESTS).is_file():
        raise VersionError(
            f"{data / REQUESTS} is missing: an older larr wrote this folder; run `larr prepare "
            "--force` and `larr run` with the same configuration"
        )
    versions = store.folder / VERSIONS
    versions.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=versions, prefix=".") as scratch:
        folder = Path(scratch) / "version"
        if (known := store.published_from(_copy_run(config, model, folder))) is not None:
            return known
        trained: Any = load_ranker(config, model)
        if not trained.foldable:
            raise ConfigError(f"{model} cannot be served: only PLE and LARR can be folded")
        write_ranker(trained, Reader(config, data), folder / FOLDED)
        golden = list(_golden(trained, pl.read_parquet(data / REQUESTS), open_version(folder)))
        if not golden:
            raise VersionError(
                f"{data / REQUESTS}: in each of these requests of the log the scene's columns "
                "differ from row to row, so none can be asked again; give each row of a request "
                "the same scene"
            )
        artifacts.write_json(folder / GOLDEN, golden)
        files = hashes(folder)
        version = identity(files)
        manifest = {"version": version, "model": model, "files": files}
        manifest["made"] = datetime.now(UTC).isoformat(timespec="seconds")
        artifacts.write_json(folder / MANIFEST, manifest)
        (folder / READY).touch()
        sync(folder)
        open_checked(folder)
        shutil.rmtree(versions / version, ignore_errors=True)
        folder.rename(versions / version)
        sync(versions)
    return version


def _copy_run(config: Config, model: str, folder: Path) -> dict[str, Any]:
    """Copies the files of a run that are served as they are; writes and returns its description."""
    data = artifacts.folder(config, "prepare")
    copied = [data / name for name in DATA]
    folded = [artifacts.folder(config, "align") / model]
    source = rankers.text_vectors(config, model)
    if source:
        folded.append(artifacts.folder(config, "embed") / source)
    if source == "encoder":  # it embeds the texts of new places
        copied.append(artifacts.folder(config, "contrast"))
    for path in copied:
        target = folder / path.relative_to(config.output)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if path.is_dir() else shutil.copy2
        copy(path, target)
    sources = hashes(folder)
    for path in folded:
        name = path.relative_to(config.output).as_posix()
        sources |= {f"{name}/{file}": sha256 for file, sha256 in hashes(path).items()}
    run = {
        "model": model,
        "config": config.model_dump(mode="json") | {"output": "."},
        "larr": metadata.version("larr"),
        "sources": sources,
    }
    artifacts.write_json(folder / SERVING, run)
    return run


@torch.inference_mode()
def write_ranker(model: Ple, reader: Reader, folder: Path) -> None:
    """Writes the tables and graphs that `ServedRanker` opens.

    Raises ConfigError for a scene encoder that cannot be folded.
    """
    larr = model if isinstance(model, Larr) else None
    if larr:
        check_foldable(model.settings.scene)
    folder.mkdir()
    encoder, columns = model.eval().encoder, (reader.categories, reader.numbers)
    keywords = reader.features.scene_keywords if larr else ()
    scoring = Scoring(model, *columns, reader.features.sampling_rate)
    matching = larr.matching if larr else None
    settings: dict[str, Any] = {
        "shifts": encoder.shifts[: len(encoder.seen)].tolist(),
        "seen": encoder.seen.tolist(),
        "place_column": reader.names.index("poi_id"),
        "agg_logits": scoring.agg.largest[0].tolist() if larr else [],
        "reads_vectors": matching is not None,
        "recent_slot": matching.recent_slot if matching else None,
    }
    artifacts.write_json(folder / served.SETTINGS, settings)
    np.save(folder / served.EMBEDDINGS, encoder.table.rows[:, : encoder.embedding].numpy())
    recent_texts = matching.recent_texts.numpy() if matching else np.zeros(0, np.int32)
    np.save(folder / served.RECENT_TEXTS, recent_texts)
    if larr:
        keyword_V, text_rows = reader.texts.table()["keyword"], TextRows(larr)
        slots = {name: slot for slot, name in enumerate(keywords)}
        slot_V = keyword_V.replace_strict(slots, default=0, return_dtype=pl.Int64).to_numpy().copy()
        example = {"raw": larr.vectors[:2].numpy(), "slots": slot_V[:2]}
        write_graph(text_rows, example, folder / "texts.onnx")
        parts = _text_parts(text_rows, torch.from_numpy(slot_V))
        write_table(folder / served.TEXTS, parts, len(keywords) + len(slot_V))
    # The look-ups of the service give the examples for its graphs, so names and shapes agree.
    ranker, inputs = ServedRanker(folder, reader), reader.place_inputs()
    two = [column[:2] for column in inputs]
    write_graph(PlaceRows(model, *columns), ranker.place_inputs(*two), folder / "places.onnx")
    request = ranker.look_up(reader.request({"user_id": "", "time": datetime.now()}))
    example = request | ranker.place_rows(*two)
    example = {name: array for name, array in example.items() if name not in served.PLACE_INPUTS}
    example["candidate_categories"] = np.zeros((2, len(reader.categories.candidate)), np.int32)
    example["candidate_numbers"] = np.zeros((2, len(reader.numbers.candidate)), np.float32)
    write_graph(scoring, example, folder / "scoring.onnx", of_request=request)
    rows = len(inputs[0])
    starts = range(0, rows, PART_ROWS)
    # Part by part, so that only one part's products are in memory.
    parts = (ranker.place_rows(*(c[start : start + PART_ROWS] for c in inputs)) for start in starts)
    write_table(folder / served.PLACES, parts, rows)


def _text_parts(text_rows: TextRows, slot_V: torch.Tensor) -> Iterator[Columns]:
    """Yields the rows of the missing texts, one for each keyword, then those of the texts."""
    yield {name: rows.numpy() for name, rows in text_rows.missing().items()}
    vectors_VD = text_rows.model.vectors
    for raw, slots in zip(vectors_VD.split(PART_ROWS), slot_V.split(PART_ROWS), strict=True):
        rows = text_rows({"raw": raw, "slots": slots})
        yield {name: column.numpy() for name, column in rows.items()}


def _golden(model: Ple, rows: pl.DataFrame, version: ServedVersion) -> Iterator[dict[str, Any]]:
    """Yields requests of the log with the probabilities of the ranker as it was trained.

    They are asked on the day after the training days, whatever their day in the log was.
    """
    reader = version.ranker.reader
    raw_NT = probabilities(model, Batch.without_labels(reader.table(rows)))
    expected_NT = undo_sampling(raw_NT, reader.features.sampling_rate)
    scene, candidate = version.accepted
    rows = with_time_columns(rows.with_row_index("number"))
    of_scene = [name for name in (*scene, *TIME_COLUMNS) if name in rows.columns]
    for _, group in rows.group_by("request_id", maintain_order=True):
        if group["poi_id"].is_duplicated().any() or group.select(of_scene).n_unique() > 1:
            continue
        first = group.row(0, named=True)
        request = {
            "user_id": first["user_id"],
            "time": first["time"].isoformat(),
            "scene": {name: first[name] for name in scene if name in first},
            "candidates": group.select(n for n in candidate if n in first).to_dicts(),
            "k": group.height,
        }
        expected = zip(group["poi_id"], expected_NT[group["number"]].tolist(), strict=True)
        yield {"request": request, "probabilities": dict(expected)}
