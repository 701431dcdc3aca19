"""Embeds texts in shards, which several processes share.

Each shard is a file, so an interrupted run continues after its finished shards, and the vectors do
not depend on the number of processes.

Shapes: B texts of a shard, D or H width of their vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path

import numpy as np
import polars as pl
from sentence_transformers import SentenceTransformer

from larr import artifacts, machine
from larr.config import ClusterConfig, Config
from larr.progress import Advance, track
from larr.text.backbone import Parts
from larr.text.encoder import compute, is_large
from larr.workers import POLL_SECONDS, pool

SHARD = 2_048
"""Texts per file."""
MIN_SHARDS = 30
"""Fewer shards are embedded by one process if the model is small, as another takes about ten
seconds to start."""

Load = Callable[[], SentenceTransformer]
"""Loads a model; other processes call it too, so it must be a `partial` of a function."""
Texts = pl.DataFrame | list[Parts]
"""The texts to embed: rows of keyword and text, or descriptions."""
Shards = dict[Path, Texts]
"""The file of each shard -> its texts."""


def embed_shards(
    texts: Texts, folder: Path, load: Load, config: Config
) -> list[tuple[slice, np.ndarray]]:
    """Returns the rows and the vectors (on disk, float32 [B, D]) of each shard of the texts.

    Embeds only the shards that are not yet in `folder`.
    """
    folder.mkdir(exist_ok=True)
    rows = [slice(start, start + SHARD) for start in range(0, len(texts), SHARD)]
    paths = [folder / f"{part.start:012d}.npy" for part in rows]
    found = {*folder.iterdir()}
    missing = {
        path: texts[part] for path, part in zip(paths, rows, strict=True) if path not in found
    }
    with track(f"embedding ({folder.parent.name})", len(texts), "texts") as advance:
        advance(len(texts) - sum(map(len, missing.values())))
        if missing:
            _write(missing, load, config, advance)
    return [(part, np.load(path, mmap_mode="r")) for path, part in zip(paths, rows, strict=True)]


def _write(missing: Shards, load: Load, config: Config, advance: Advance) -> None:
    """Writes the missing shards in one or several processes."""
    model, batch_tokens = load(), config.embed.batch_tokens
    count = process_count(config.cluster, len(missing), is_large=is_large(model))
    if count == 1:
        _embed(missing, model, batch_tokens, advance)
        return
    del model  # each worker has its own
    paths = [*missing]
    with pool(config.cluster, count) as workers:
        running = set()
        for turn in range(count):
            some = {path: missing[path] for path in paths[turn::count]}
            running.add(workers.submit(_load_and_embed, some, load, batch_tokens))
        while running:
            ended, running = wait(running, POLL_SECONDS, FIRST_COMPLETED)
            for process in ended:
                process.result()
            found = {*paths[0].parent.iterdir()}
            advance(sum(len(missing[path]) for path in paths if path in found))
            paths = [path for path in paths if path not in found]


def process_count(cluster: ClusterConfig, missing: int, *, is_large: bool) -> int:
    """Returns the number of processes for missing shards; on a GPU there is one."""
    is_short = missing < MIN_SHARDS and not is_large
    return 1 if is_short or machine.device() == "cuda" else min(cluster.workers, missing)


def _load_and_embed(shards: Shards, load: Load, batch_tokens: int) -> None:
    """Embeds shards in another process."""
    _embed(shards, load(), batch_tokens)


def _embed(
    shards: Shards,
    model: SentenceTransformer,
    batch_tokens: int,
    advance: Advance = lambda _: None,
) -> None:
    """Embeds shards, and writes them to their paths."""
    for path, texts in shards.items():
        parts = [[row] for row in texts.rows()] if isinstance(texts, pl.DataFrame) else texts
        vectors_BD = compute(model, parts, batch_tokens, advance)
        with artifacts.atomic(path) as partial, partial.open("wb") as file:
            np.save(file, vectors_BD)
