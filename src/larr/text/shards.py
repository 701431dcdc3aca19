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
from larr.config import ClusterConfig
from larr.progress import Advance, track
from larr.text.encoder import compute, compute_bare, is_large
from larr.workers import POLL_SECONDS, pool

SHARD = 2_048
"""Texts per file."""
MIN_SHARDS = 30
"""Fewer shards are embedded by one process if the model is small, as another takes about ten
seconds to start."""

Load = Callable[[], SentenceTransformer]
"""Loads a model; other processes call it too, so it must be a `partial` of a function."""


def embed_shards(
    texts: pl.DataFrame,
    folder: Path,
    load: Load,
    batch_tokens: int,
    cluster: ClusterConfig,
) -> list[tuple[slice, np.ndarray]]:
    """Returns the rows and the vectors (on disk, float32 [B, D]) of each shard of the texts.

    `texts` has the columns `keyword` and `text`. Embeds only the shards that are not yet in
    `folder`. `batch_tokens` is that of `compute`, or 0 for a pretrained sentence encoder.
    """
    folder.mkdir(exist_ok=True)
    found = {path.name for path in folder.iterdir()}
    shards, missing = [], {}
    for start in range(0, len(texts), SHARD):
        part, path = texts[start : start + SHARD], folder / f"{start:012d}.npy"
        shards.append((slice(start, start + len(part)), path))
        if path.name not in found:
            missing[path] = part.select("keyword", "text")
    with track(f"embedding ({folder.parent.name})", len(texts), "texts") as advance:
        advance(len(texts) - sum(map(len, missing.values())))
        if missing:
            _write(missing, load, batch_tokens, cluster, advance)
    return [(rows, np.load(path, mmap_mode="r")) for rows, path in shards]


def _write(
    missing: dict[Path, pl.DataFrame],
    load: Load,
    batch_tokens: int,
    cluster: ClusterConfig,
    advance: Advance,
) -> None:
    """Writes the missing shards in one or several processes."""
    model = load()
    count = process_count(cluster, len(missing), is_large=is_large(model))
    if count == 1:
        _embed(missing, model, batch_tokens, advance)
        return
    del model  # each worker has its own
    paths = [*missing]
    with pool(cluster, count) as workers:
        running = set()
        for turn in range(count):
            own = {path: missing[path] for path in paths[turn::count]}
            running.add(workers.submit(_load_and_embed, own, load, batch_tokens))
        while running:
            ended, running = wait(running, POLL_SECONDS, FIRST_COMPLETED)
            for process in ended:
                process.result()
            written = {path.name for path in paths[0].parent.iterdir()}
            advance(sum(len(missing[path]) for path in paths if path.name in written))
            paths = [path for path in paths if path.name not in written]


def process_count(cluster: ClusterConfig, missing: int, *, is_large: bool) -> int:
    """Returns the number of processes for missing shards; on a GPU there is one."""
    is_short = missing < MIN_SHARDS and not is_large
    return 1 if is_short or machine.device() == "cuda" else min(cluster.workers, missing)


def _load_and_embed(missing: dict[Path, pl.DataFrame], load: Load, batch_tokens: int) -> None:
    """Embeds shards in another process."""
    _embed(missing, load(), batch_tokens)


def _embed(
    missing: dict[Path, pl.DataFrame],
    model: SentenceTransformer,
    batch_tokens: int,
    advance: Advance = lambda _: None,
) -> None:
    """Embeds shards, and writes them to their paths."""
    for path, texts in missing.items():
        if batch_tokens:
            parts = [[text] for text in texts.rows()]
            vectors_BD = compute(model, parts, batch_tokens, advance)
        else:
            vectors_BD = compute_bare(model, texts["text"].to_list(), advance)
        with artifacts.atomic(path) as partial, partial.open("wb") as file:
            np.save(file, vectors_BD)
