"""A vector for each distinct keyword text, from the text embedding model and from the controls.

Paper: Eq. (22). A new source is a function in a file and a line in SOURCES, or an entry point of
the group `larr.vectors` in another package.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from functools import reduce
from operator import getitem
from pathlib import Path

import numpy as np
import polars as pl

from larr import artifacts
from larr.artifacts import Artifact
from larr.config import Config
from larr.errors import ConfigError
from larr.plugins import with_plugins
from larr.text import vector_source
from larr.text.vector_source import SHARDS, VECTORS, Job, VectorSource

SOURCES = {
    "encoder": VectorSource(vector_source.encoder, stages=("contrast",)),
    "untuned": VectorSource(
        vector_source.untuned,
        settings=("backbone", "contrast.pooling"),
        files=lambda config: (config.backbone.model,),
    ),
    "pretrained": VectorSource(
        vector_source.pretrained, settings=("contrast.pooling",), stages=("pretrain",)
    ),
    "sentence_encoder": VectorSource(
        vector_source.sentence_encoder,
        settings=("sentence_encoder",),
        files=lambda config: (config.sentence_encoder,),
    ),
    "tfidf": VectorSource(vector_source.tfidf),
    "random": VectorSource(vector_source.random),
    "shuffled": VectorSource(vector_source.shuffled, sources=("encoder",)),
}
"""What a variant can name as its `vectors`, besides `encoders` of the configuration.

A source comes after those that it reads. Each entry of `encoders` is the source "encoder" with
its own configuration.
"""


def embed(config: Config, wanted: Iterable[str]) -> None:
    """Writes a vector of every text for each source in `wanted`, and for those that they read.

    Each source is an artifact, `embed/NAME`, which stays while nothing changes for it.
    """
    names = sources(config, wanted)
    entries = with_plugins(SOURCES, "vectors")
    with artifacts.making(config, "embed") as work:
        texts = pl.read_parquet(artifacts.folder(config, "prepare") / "texts.parquet")
        embedded = 0
        for name in names:
            is_further = name in config.encoders
            source_config = config.for_encoder(name) if is_further else config
            source = entries["encoder" if is_further else name]
            artifact = _artifact(source_config, source, work.folder / name)
            if artifact.is_current():
                continue
            artifact.start(resume=True)
            job = Job(source_config, texts, artifact.folder)
            with artifacts.atomic(job.folder / VECTORS) as partial:
                shape = (len(texts), config.embed.dimension)
                vectors_ND = artifacts.new_array(partial, np.float32, shape)
                source.compute(job, vectors_ND)
                vectors_ND.flush()
            shutil.rmtree(job.folder / SHARDS, ignore_errors=True)
            artifact.finish()
            embedded += len(texts)
        work.measured(embedded, "texts")
        work.figures |= {"texts": len(texts), "sources": names}


def sources(config: Config, wanted: Iterable[str]) -> list[str]:
    """Returns `wanted` and the sources that they read, each after those that it reads.

    Raises ConfigError for a name that is neither an entry of SOURCES nor one of `encoders`, and
    for one that is both.
    """
    entries = with_plugins(SOURCES, "vectors")
    if taken := config.encoders.keys() & {*entries, "larr"}:  # "larr" is the run's own encoder
        raise ConfigError(f"encoders: a name may not be {', '.join(sorted(taken))}")
    needed = set(wanted)
    for name, source in reversed(entries.items()):
        needed |= set(source.sources) if name in needed else set()
    known = [*entries, *config.encoders]
    if unknown := needed.difference(known):
        raise ConfigError(
            f"align.variants: no vectors {', '.join(map(repr, sorted(unknown)))}; there are "
            f"{', '.join(known)}, and [encoders] can declare more"
        )
    return [name for name in known if name in needed]


def _artifact(config: Config, source: VectorSource, folder: Path) -> Artifact:
    """Returns the artifact of a source's vectors; raises StaleError if an input is out of date."""
    artifacts.require(config, *source.stages)
    prepared = artifacts.folder(config, "prepare")
    inputs: dict[str, str | None] = {"texts": artifacts.key(prepared, "texts.parquet")}
    inputs |= {stage: artifacts.key(artifacts.folder(config, stage)) for stage in source.stages}
    inputs |= {name: artifacts.key(folder.parent / name) for name in source.sources}
    tree = config.model_dump(mode="json")
    paths = ("seed", "embed.dimension", *source.settings)
    settings = {path: reduce(getitem, path.split("."), tree) for path in paths}
    return Artifact(folder, settings, inputs, source.files(config))
