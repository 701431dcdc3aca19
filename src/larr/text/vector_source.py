"""What a source of text vectors is, and what those that run a language model share.

Shapes: N texts, B texts of a shard, H hidden units, D the stored length (`embed.dimension`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from larr import artifacts
from larr.config import Config
from larr.progress import Advance, track
from larr.text.backbone import KeywordText

VECTORS = "vectors.npy"
SHARD = 8_192
"""Texts in a file of an unfinished source; an interrupted run continues after its last shard."""

Embedder = Callable[[list[KeywordText], Advance], np.ndarray]
"""Returns the vectors of some texts (float32 [B, any]), and reports how many are done."""


@dataclass(frozen=True)
class Job:
    """The texts that a source has to embed, and where."""

    config: Config
    texts: pl.DataFrame
    """Columns keyword and text, distinct, in the order of their text_id."""
    folder: Path

    @property
    def shards(self) -> Path:
        """The folder of the finished shards; deleted with the end of the job."""
        return self.folder / "shards"


@dataclass(frozen=True)
class VectorSource:
    """How to compute a vector for every text, and from what: an entry of `embed.SOURCES`.

    Vectors are computed again when the texts, the seed, `embed.dimension` or something that is
    declared here has changed.
    """

    compute: Callable[[Job, np.ndarray], None]
    """Writes the vectors into an array of zeros on the disk (float32 [N, D])."""
    settings: Callable[[Config], dict[str, Any]] = lambda _: {}
    """The settings that it depends on, as JSON values."""
    files: Callable[[Config], Sequence[Path | str | None]] = lambda _: ()
    """Files, or folders of files, that it reads from outside `output`."""
    stages: tuple[str, ...] = ()
    """The stages whose folders it reads."""
    sources: tuple[str, ...] = ()
    """The sources whose vectors it reads."""


def slices(job: Job) -> Iterator[slice]:
    """Yields the rows of each shard."""
    for start in range(0, len(job.texts), SHARD):
        yield slice(start, min(start + SHARD, len(job.texts)))


def write_shards(job: Job, embedder: Embedder) -> None:
    """Embeds all texts, and writes each shard to a file, unless an interrupted run has done so."""
    job.shards.mkdir(exist_ok=True)
    with track(f"embedding ({job.folder.name})", len(job.texts), "texts") as advance:
        for rows in slices(job):
            path = _shard(job, rows)
            if path.is_file():
                advance(rows.stop - rows.start)
                continue
            vectors_BH = embedder(job.texts[rows].select("keyword", "text").rows(), advance)
            with artifacts.atomic(path) as partial, partial.open("wb") as file:
                np.save(file, vectors_BH)


def read_shards(job: Job) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields the rows and the vectors of each shard."""
    for rows in slices(job):
        yield rows, np.load(_shard(job, rows))


def _shard(job: Job, rows: slice) -> Path:
    return job.shards / f"{rows.start:012d}.npy"
