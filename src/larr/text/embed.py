"""A vector for each distinct keyword text, from the text embedding model and from the controls.

Paper: Eq. (22). A new source is a function and a line in SOURCES, or an entry point of the group
`larr.vectors` in another package.

Shapes: N texts, B texts of a shard, K keywords, H hidden units, D the stored length
(`embed.dimension`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sentence_transformers import SentenceTransformer

from larr import artifacts
from larr.artifacts import Artifact
from larr.config import Config
from larr.errors import ConfigError, StaleError
from larr.plugins import with_plugins
from larr.progress import track
from larr.text.backbone import load_base, load_language_model
from larr.text.encoder import (
    as_encoder,
    compute,
    compute_bare,
    load_encoder,
    load_sentence_encoder,
    normalised,
)
from larr.text.figures import FIGURES, write_figures
from larr.text.fitted import FITTED, Counts, Reduction

VECTORS = "vectors.npy"
SHARDS = "shards"
"""The folder of an unfinished source's vectors, deleted with the end of the job."""
SHARD = 8_192
"""Texts in a file there; an interrupted run continues after its last shard."""
WORDS = r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+"
"""What TF-IDF counts: words, and each Chinese character by itself."""
COUNTED: dict[str, dict[str, Any]] = {
    "tfidf": {"token_pattern": WORDS, "ngram_range": (1, 2)},
    "letters": {"analyzer": "char_wb", "ngram_range": (2, 4)},
}
"""The terms that sources count, as options of scikit-learn's `TfidfVectorizer`."""
Text = tuple[str, str]
"""A keyword and its text."""
Embed = Callable[[list[Text]], np.ndarray]


@dataclass(frozen=True)
class Job:
    """The texts that a source has to embed, and where."""

    config: Config
    texts: pl.DataFrame
    """Columns keyword and text, distinct, in the order of their text_id."""
    folder: Path


@dataclass(frozen=True)
class VectorSource:
    """How to compute a vector for every text, and from what: an entry of SOURCES.

    Vectors are computed again when the texts, the seed, `embed.dimension` or something that is
    declared here has changed.
    """

    compute: Callable[[Job, np.ndarray], None]
    """Writes the vectors into an array of zeros on the disk (float32 [N, D])."""
    settings: tuple[str, ...] = ()
    """Dotted paths of the settings that it depends on."""
    files: Callable[[Config], Sequence[Path | str | None]] = lambda _: ()
    """Files, or folders of files, that it reads from outside `output`."""
    stages: tuple[str, ...] = ()
    """The stages whose folders it reads."""
    sources: tuple[str, ...] = ()
    """The sources whose vectors it reads."""
    later: Callable[[Config, Path], Embed] | None = None
    """Returns what embeds texts of new places, from the folder of the source; None if nothing does.
    For serving, where the stages before have no folders but those of `larr.stages.MODELS`."""


def encoder(job: Job, vectors_ND: np.ndarray, verb: str = "contrast") -> None:
    """Writes e_i of Eq. (22): each text between its markers, through the model of stage 2.

    With the verb `distill` it is the smaller model that this stage writes.
    """
    model = load_encoder(artifacts.folder(job.config, verb))
    for rows, vectors_BD in _shards(job, model):
        vectors_ND[rows] = vectors_BD


def untuned(job: Job, vectors_ND: np.ndarray) -> None:
    """Writes the base model's pooled states, reduced."""
    model = as_encoder(load_base(job.config), None, job.config.contrast.pooling)
    _write_reduced(job, model, vectors_ND)


def pretrained(job: Job, vectors_ND: np.ndarray) -> None:
    """Writes the pooled states of the model after stage 1, without stage 2, reduced."""
    lm = load_language_model(artifacts.folder(job.config, "pretrain"), job.config)
    model = as_encoder(lm, None, job.config.contrast.pooling)
    _write_reduced(job, model, vectors_ND)


def sentence_encoder(job: Job, vectors_ND: np.ndarray) -> None:
    """Writes the vectors of a ready-made sentence encoder, which reads the text alone, reduced."""
    model = load_sentence_encoder(job.config.sentence_encoder)
    _write_reduced(job, model, vectors_ND, with_markers=False).save(job.folder / FITTED)


def counts(job: Job, vectors_ND: np.ndarray) -> None:
    """Writes the main axes of TF-IDF counts of words, or of runs of letters: for any language."""
    options = COUNTED[job.folder.name]
    with track(f"TF-IDF ({job.folder.name})", len(job.texts), "texts") as advance:
        fitted = Counts.fit(job.texts["text"], vectors_ND.shape[1], job.config.seed, options)
        fitted.save(job.folder / FITTED)
        reduced_ND = fitted.vectors(job.texts["text"])
        advance(len(job.texts))
    vectors_ND[:, : reduced_ND.shape[1]] = normalised(reduced_ND)


def later_encoder(config: Config, _: Path, verb: str = "contrast") -> Embed:
    """Returns the model of stage 2, or of `distill`."""
    model = load_encoder(artifacts.folder(config, verb))
    return lambda texts: compute(model, [[text] for text in texts], config.embed.batch_tokens)


def later_counts(config: Config, folder: Path) -> Embed:
    """Returns what counts the same terms."""
    fitted = Counts.load(folder / FITTED, COUNTED[folder.name])
    return lambda texts: _padded(config, fitted.vectors([text for _, text in texts]))


def later_sentence_encoder(config: Config, folder: Path) -> Embed:
    """Returns the ready-made sentence encoder, reduced as before."""
    model = load_sentence_encoder(config.sentence_encoder)
    reduction = Reduction.load(folder / FITTED)

    def embed_later(texts: list[Text]) -> np.ndarray:
        raw_NH = compute_bare(model, [text for _, text in texts])
        keywords = pl.Series([keyword for keyword, _ in texts])
        return _padded(config, reduction.vectors(keywords, raw_NH))

    return embed_later


def _padded(config: Config, reduced_ND: np.ndarray) -> np.ndarray:
    """Returns vectors of the stored length."""
    vectors_ND = np.zeros((len(reduced_ND), config.embed.dimension), np.float32)
    vectors_ND[:, : reduced_ND.shape[1]] = normalised(reduced_ND)
    return vectors_ND


def random(job: Job, vectors_ND: np.ndarray) -> None:
    """Writes a random direction for each text: what a ranker gains from an ID for each text."""
    generator = np.random.default_rng(job.config.seed)
    for start in range(0, len(vectors_ND), SHARD):
        part_BD = vectors_ND[start : start + SHARD]
        part_BD[:] = normalised(generator.standard_normal(part_BD.shape))


def shuffled(job: Job, vectors_ND: np.ndarray) -> None:
    """Writes the encoder's vectors, each given to another text of the same keyword at random.

    The same numbers without their meaning: a gain that remains does not come from the texts.
    """
    generator = np.random.default_rng(job.config.seed)
    encoder_ND = np.load(job.folder.parent / "encoder" / VECTORS, mmap_mode="r")
    for _, rows in job.texts.with_row_index("row").group_by("keyword", maintain_order=True):
        numbers = rows["row"].to_numpy()
        vectors_ND[numbers] = encoder_ND[generator.permutation(numbers)]


SOURCES = {
    "encoder": VectorSource(encoder, stages=("contrast",), later=later_encoder),
    "distilled": VectorSource(
        partial(encoder, verb="distill"),
        stages=("distill",),
        later=partial(later_encoder, verb="distill"),
    ),
    "untuned": VectorSource(
        untuned,
        settings=("backbone", "contrast.pooling"),
        files=lambda config: (config.backbone.model,),
    ),
    "pretrained": VectorSource(pretrained, settings=("contrast.pooling",), stages=("pretrain",)),
    "sentence_encoder": VectorSource(
        sentence_encoder,
        settings=("sentence_encoder",),
        files=lambda config: (config.sentence_encoder,),
        later=later_sentence_encoder,
    ),
    "tfidf": VectorSource(counts, later=later_counts),
    "letters": VectorSource(counts, later=later_counts),
    "random": VectorSource(random),
    "shuffled": VectorSource(shuffled, sources=("encoder",)),
}
"""What a variant can name as its `vectors`, in addition to the configuration's `encoders`.

A source comes after those that it reads. Each entry of `encoders` is the source "encoder" with
its own configuration.
"""


def embed(config: Config, wanted: Iterable[str], figures: Collection[str] = ()) -> None:
    """Writes a vector of every text for each source in `wanted`, and for those that they read.

    Each source is an artifact, `embed/NAME`, which stays while nothing changes for it; so are the
    text figures of sources in `figures`, in `embed/NAME/figures`.
    """
    names = sources(config, [*wanted, *figures])
    with artifacts.building(config, "embed") as work:
        texts = pl.read_parquet(artifacts.folder(config, "prepare") / "texts.parquet")
        embedded = 0
        for name in names:
            artifact = vectors_artifact(config, name)
            if not artifact.is_current():
                artifact.start(resume=True)
                source_config, source = _source(config, name)
                _write_vectors(Job(source_config, texts, artifact.folder), source)
                artifact.finish()
                embedded += len(texts)
            if name in figures:
                part = figures_artifact(config, artifact)
                if not part.is_current():
                    part.start(resume=False)
                    write_figures(config, artifact.folder / VECTORS, part.folder)
                    part.finish()
        work.measured(embedded, "texts")
        work.figures |= {"texts": len(texts), "sources": names}


def require(config: Config, wanted: Iterable[str], figures: Collection[str]) -> None:
    """Raises StaleError if what `embed` writes for these sources is missing or out of date."""
    for name in sources(config, [*wanted, *figures]):
        part = vectors_artifact(config, name)
        reason = part.why_stale()
        if name in figures and not reason:
            part = figures_artifact(config, part)
            reason = part.why_stale()
        if reason:
            raise StaleError(f"{part.folder}: {reason}; run `larr run` with the same configuration")


def _source(config: Config, name: str) -> tuple[Config, VectorSource]:
    """Returns a source and the configuration with which it is computed."""
    if name in config.encoders:
        return config.for_encoder(name), SOURCES["encoder"]
    return config, with_plugins(SOURCES, "vectors")[name]


def _write_vectors(job: Job, source: VectorSource) -> None:
    """Writes the vectors of a source; deletes the shards that an interrupted run goes on from."""
    with artifacts.atomic(job.folder / VECTORS) as partial:
        shape = (len(job.texts), job.config.embed.dimension)
        vectors_ND = artifacts.new_array(partial, np.float32, shape)
        source.compute(job, vectors_ND)
        vectors_ND.flush()
    shutil.rmtree(job.folder / SHARDS, ignore_errors=True)


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
            f"align: no text vectors {', '.join(map(repr, sorted(unknown)))}; there are "
            f"{', '.join(known)}, and [encoders] can declare more"
        )
    return [name for name in known if name in needed]


def vectors_artifact(config: Config, name: str) -> Artifact:
    """Returns the artifact of a source's vectors; raises StaleError if an input is out of date."""
    folder = artifacts.folder(config, "embed") / name
    config, source = _source(config, name)
    artifacts.require(config, *source.stages)
    prepared = artifacts.folder(config, "prepare")
    inputs: dict[str, str | None] = {"texts": artifacts.key(prepared, "texts.parquet")}
    inputs |= {stage: artifacts.key(artifacts.folder(config, stage)) for stage in source.stages}
    inputs |= {other: artifacts.key(folder.parent / other) for other in source.sources}
    tree = config.model_dump(mode="json")
    paths = ("seed", "embed.dimension", *source.settings)
    settings = {path: reduce(getitem, path.split("."), tree) for path in paths}
    return Artifact(folder, settings, inputs, source.files(config))


def figures_artifact(config: Config, vectors: Artifact) -> Artifact:
    """Returns the artifact of the text figures of a source with these vectors."""
    inputs: dict[str, str | None] = {
        "prepare/": artifacts.key(artifacts.folder(config, "prepare")),
        "vectors": artifacts.key(vectors.folder),
    }
    return Artifact(vectors.folder / FIGURES, {}, inputs)


def _shards(
    job: Job, model: SentenceTransformer, *, with_markers: bool = True
) -> list[tuple[slice, np.ndarray]]:
    """Returns the rows and the vectors (on the disk, float32 [B, H or D]) of each shard.

    It embeds those texts that an interrupted run has not embedded.
    """
    (job.folder / SHARDS).mkdir(exist_ok=True)
    shards = []
    with track(f"embedding ({job.folder.name})", len(job.texts), "texts") as advance:
        for start in range(0, len(job.texts), SHARD):
            texts = job.texts[start : start + SHARD].select("keyword", "text").rows()
            path = job.folder / SHARDS / f"{start:012d}.npy"
            if path.is_file():
                advance(len(texts))
            else:
                if with_markers:
                    parts = [[text] for text in texts]
                    vectors_BH = compute(model, parts, job.config.embed.batch_tokens, advance)
                else:
                    vectors_BH = compute_bare(model, [text for _, text in texts], advance)
                with artifacts.atomic(path) as partial, partial.open("wb") as file:
                    np.save(file, vectors_BH)
            shards.append((slice(start, start + len(texts)), np.load(path, mmap_mode="r")))
    return shards


def _write_reduced(
    job: Job, model: SentenceTransformer, vectors_ND: np.ndarray, *, with_markers: bool = True
) -> Reduction:
    """Writes the vectors of a model that was not tuned for these texts, so that they compare well.

    Its vectors all point nearly the same way, those of one keyword still more. So each keyword's
    mean is subtracted, and of the rest the D main axes are kept if there are more than D.
    """
    shards = _shards(job, model, with_markers=with_markers)
    keywords = job.texts["keyword"].unique().sort().to_list()
    keywords_N = job.texts["keyword"].rank("dense").to_numpy().astype(np.int64) - 1
    counts_K1 = np.bincount(keywords_N)[:, None]
    width, dimension = shards[0][1].shape[1], vectors_ND.shape[1]
    sums_KH, squares_HH = np.zeros((len(counts_K1), width)), np.zeros((width, width))
    for rows, raw_BH in shards:  # memory holds sums only, and never all states
        sums_KH += np.eye(len(counts_K1))[:, keywords_N[rows]] @ raw_BH
        squares_HH += raw_BH.T.astype(np.float64) @ raw_BH
    means_KH, axes_HD = sums_KH / counts_K1, np.eye(width)
    if width > dimension:
        covariance_HH = squares_HH - (means_KH * counts_K1).T @ means_KH
        axes_HD = np.linalg.eigh(covariance_HH)[1][:, ::-1][:, :dimension]
    reduction = Reduction(keywords, means_KH, axes_HD)
    for rows, raw_BH in shards:
        reduced_BD = reduction.vectors(job.texts["keyword"][rows], raw_BH)
        vectors_ND[rows, : reduced_BD.shape[1]] = normalised(reduced_BD)
    return reduction
