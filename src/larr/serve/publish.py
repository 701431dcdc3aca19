"""`larr publish`: turns a trained ranker into a version that is served without torch.

Shapes: V stored texts, D dimension of their vectors, T tasks.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import torch

from larr import artifacts, rankers
from larr.config import Config
from larr.data.batches import Batch
from larr.data.features import undo_sampling
from larr.data.names import INTERNAL
from larr.data.prepare import REQUESTS
from larr.data.transforms import TIME_COLUMNS, with_time_columns
from larr.rankers import best
from larr.rankers.best import Blend
from larr.rankers.graph import write_graph
from larr.rankers.ple import Ple
from larr.rankers.predict import load_ranker, probabilities, require_ranker
from larr.rankers.ranker import Ranker
from larr.serve.features import PlaceInputs, Reader
from larr.serve.fold import PlaceRows, Scoring, TextRows, as_larr
from larr.serve.forms import (
    EMBEDDINGS,
    GRAPH,
    PLACE_ROWS,
    RECENT_TEXTS,
    SETTINGS,
    TEXT_ROWS,
    VECTORS,
    Folded,
)
from larr.serve.ranker import FIGURES, MEMBERS, PLACES
from larr.serve.store import (
    GOLDEN,
    MANIFEST,
    RANKER,
    READY,
    SERVING,
    VERSIONS,
    Store,
    VersionError,
    fingerprint,
    hashes,
    open_checked,
    open_version,
    sync,
)
from larr.serve.tables import Columns, Table, write_table
from larr.serve.version import ServedVersion
from larr.stages import MODELS
from larr.text.figures import copy_figures
from larr.text.fitted import FITTED

DATA = ("features.json", "texts.parquet", "vocabularies", "known")
"""Files of `larr prepare` that serving reads."""
NUMBER = f"{INTERNAL}number"
PART_ROWS = 16_384
"""Rows of a table to compute at a time, which bounds memory."""


def publish(store: Store, config: Config, model: str) -> str:
    """Writes a version of a trained ranker and returns its ID.

    Returns the existing version of an unchanged run. Raises StaleError for a ranker that is not up
    to date, and VersionError if the probabilities of the served and the trained ranker differ.
    """
    require_ranker(config, model)
    config = best.with_members(config)
    data = artifacts.folder(config, "prepare")
    if not (data / REQUESTS).is_file():
        raise VersionError(
            f"{data / REQUESTS} is missing: an older version of larr wrote this folder; run `larr "
            "prepare --force` and `larr run` with the same configuration"
        )
    versions = store.folder / VERSIONS
    versions.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=versions, prefix=".") as scratch:
        folder, trained = Path(scratch) / "version", load_ranker(config, model)
        members = trained.members
        if (known := store.published_from(_copy_run(config, model, members, folder))) is not None:
            return known
        reader, rows = Reader(config, data), pl.read_parquet(data / REQUESTS)
        example = Batch.without_labels(reader.table(rows.head(2)))
        write_ranker(members, reader, example, folder / RANKER)
        golden = list(_golden(trained, rows, open_version(folder)))
        if not golden:
            raise VersionError(
                f"{data / REQUESTS}: the columns of the scene differ between the rows of each of "
                "these requests, so none can be replayed; give all rows of a request the same scene"
            )
        artifacts.write_json(folder / GOLDEN, golden)
        files = hashes(folder)
        version = fingerprint(files)
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


def _copy_run(
    config: Config, model: str, members: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Copies the files that serving reads unchanged; returns a description of the run."""
    data, embedded = (artifacts.folder(config, stage) for stage in ("prepare", "embed"))
    copied = [data / name for name in DATA]
    read = [artifacts.folder(config, "align") / name for name in members]
    sources = {source for name in members for source in rankers.vector_sources(config, name)}
    read += [embedded / source for source in sorted(sources)]
    # these embed the texts of new places
    copied += [path / FITTED for path in read if (path / FITTED).is_dir()]
    copied += [artifacts.folder(config, MODELS[source]) for source in sorted(sources & set(MODELS))]
    for path in copied:
        target = folder / path.relative_to(config.output)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if path.is_dir() else shutil.copy2
        copy(path, target)
    inputs = hashes(folder)
    for path in read:
        name = path.relative_to(config.output).as_posix()
        inputs |= {f"{name}/{file}": sha256 for file, sha256 in hashes(path).items()}
    run = {
        "model": model,
        "members": {name: weight for name, (_, weight) in members.items()},
        "config": config.model_dump(mode="json") | {"output": "."},
        "larr": metadata.version("larr"),
        "sources": inputs,
    }
    artifacts.write_json(folder / SERVING, run)
    return run


def write_ranker(
    members: Mapping[str, tuple[Ranker, float]], reader: Reader, example: Batch, folder: Path
) -> None:
    """Writes the files of `ServedRanker`, each member in its served form.

    Graphs are exported with `example`, a batch of two rows.
    """
    folder.mkdir()
    inputs = reader.place_inputs()
    write_table(folder / PLACES, [inputs._asdict()], len(inputs.categories))
    described, total = {}, sum(weight for _, weight in members.values())
    for name, (ranker, weight) in members.items():
        (folder / name).mkdir()
        sources = rankers.text_vectors(reader.config, name)
        form = "folded" if ranker.foldable else "plain"
        if form == "folded":
            write_folded(cast(Ple, ranker), reader, inputs, folder / name)
        else:
            if sources:
                embedded = artifacts.folder(reader.config, "embed")
                arrays = [np.load(embedded / each / VECTORS, mmap_mode="r") for each in sources]
                np.save(folder / name / VECTORS, np.hstack(arrays))
            figures = torch.zeros((example.rows, sum(ranker.figures.values())))
            ranker.write_graph(folder / name / GRAPH, example._replace(figures=figures))
        for path in ranker.figures:
            if not (target := folder / FIGURES / path.parent.name).is_dir():
                copy_figures(path, target)
        described[name] = {
            "form": form,
            "weight": weight / total,
            "sources": sources,
            "figures": [path.parent.name for path in ranker.figures],
        }
    artifacts.write_json(folder / MEMBERS, described)


@torch.inference_mode()
def write_folded(model: Ple, reader: Reader, places: PlaceInputs, folder: Path) -> None:
    """Writes the tables and graphs of `Folded`."""
    larr = as_larr(model)
    encoder, columns = model.eval().encoder, (reader.categories, reader.numbers)
    keywords = reader.features.scene_keywords if larr else ()
    scoring = Scoring(model, *columns)
    matching = larr.matching if larr else None
    settings: dict[str, Any] = {
        "shifts": encoder.shifts[: len(encoder.seen)].tolist(),
        "seen": encoder.seen.tolist(),
        "place_column": reader.names.index("poi_id"),
        "agg_logits": scoring.agg.largest[0].tolist() if larr else [],
        "reads_vectors": matching is not None,
        "recent_slot": matching.recent_slot if matching else None,
    }
    artifacts.write_json(folder / SETTINGS, settings)
    np.save(folder / EMBEDDINGS, encoder.table.rows[:, : encoder.embedding].numpy())
    recent_texts = larr.recent_texts.numpy() if larr and matching else np.zeros(0, np.int32)
    np.save(folder / RECENT_TEXTS, recent_texts)
    if larr:
        keyword_V, text_rows = reader.texts.table()["keyword"], TextRows(larr)
        slots = {name: slot for slot, name in enumerate(keywords)}
        slot_V = keyword_V.replace_strict(slots, default=0, return_dtype=pl.Int64).to_numpy().copy()
        example = {"raw": larr.vectors[:2].numpy(), "slots": slot_V[:2]}
        write_graph(text_rows, example, folder / "texts.onnx")
        parts = _text_parts(text_rows, torch.from_numpy(slot_V))
        write_table(folder / TEXT_ROWS, parts, len(keywords) + len(slot_V))
    # the service's lookups provide the examples for its graphs, so that names and shapes agree
    ranker, two = Folded(folder, reader, Table({})), places.select(slice(2))
    write_graph(PlaceRows(model, *columns), ranker.place_inputs(two), folder / "places.onnx")
    request = ranker.request_inputs(reader.request({"user_id": "", "time": datetime.now()}))
    example = request | ranker.place_rows(two)
    example["candidate_categories"] = np.zeros((2, len(reader.categories.candidate)), np.int32)
    candidate_numbers = len(reader.numbers.candidate) + sum(model.figures.values())
    example["candidate_numbers"] = np.zeros((2, candidate_numbers), np.float32)
    write_graph(scoring, example, folder / "scoring.onnx", of_request=request)
    rows = len(places.categories)
    starts = range(0, rows, PART_ROWS)
    # part by part, to keep only one part's products in memory
    parts = (ranker.place_rows(places.select(slice(n, n + PART_ROWS))) for n in starts)
    write_table(folder / PLACE_ROWS, parts, rows)


def _text_parts(text_rows: TextRows, slot_V: torch.Tensor) -> Iterator[Columns]:
    """Yields a row for the missing text of each keyword, then the rows of the texts."""
    yield {name: rows.numpy() for name, rows in text_rows.missing().items()}
    vectors_VD = text_rows.model.vectors
    for raw, slots in zip(vectors_VD.split(PART_ROWS), slot_V.split(PART_ROWS), strict=True):
        rows = text_rows({"raw": raw, "slots": slots})
        yield {name: column.numpy() for name, column in rows.items()}


def _golden(trained: Blend, rows: pl.DataFrame, version: ServedVersion) -> Iterator[dict[str, Any]]:
    """Yields requests of the log with the probabilities of the trained ranker.

    Both use the statistics of the day after training, whatever the day of the request.
    """
    reader = version.ranker.reader
    raw_NT = probabilities(trained, Batch.without_labels(reader.table(rows, trained.figures)))
    expected_NT = undo_sampling(raw_NT, reader.features.sampling_rate)
    scene, candidate = version.accepted
    rows = with_time_columns(rows.with_row_index(NUMBER))
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
        expected = zip(group["poi_id"], expected_NT[group[NUMBER]].tolist(), strict=True)
        yield {"request": request, "probabilities": dict(expected)}
