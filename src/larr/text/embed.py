"""Embeds each distinct keyword text with the text embedding model and the control sources.

Paper: Eq. (22). To add a source, write a function and an entry in SOURCES, or an entry point of the
group `larr.vectors` in another package.

Shapes: N texts, B texts of a shard, K keywords, H hidden units, D `embed.dimension`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from larr.sections import picked
from larr.text import shards
from larr.text.backbone import KeywordText, load_base, load_language_model
from larr.text.encoder import as_encoder, compute, load_encoder, load_sentence_encoder
from larr.text.figures import FIGURES, write_figures
from larr.text.fitted import FITTED, Reduction, TfIdf, normalised
from larr.text.instruct import load_predictor, read_answers
from larr.text.shards import SHARD, Load
from larr.text.summaries import summarised

VECTORS, TEXTS = "vectors.npy", "texts.parquet"
SHARDS = "shards"
"""The folder of the vectors of an unfinished source."""
WORDS = r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+"
"""The terms of TF-IDF: words, and single Chinese characters."""
TFIDF_OPTIONS: dict[str, dict[str, Any]] = {
    "tfidf": {"token_pattern": WORDS, "ngram_range": (1, 2)},
    "letters": {"analyzer": "char_wb", "ngram_range": (2, 4)},
}
"""Options of scikit-learn's `TfidfVectorizer`, by source."""
Embed = Callable[[list[KeywordText]], np.ndarray]


@dataclass(frozen=True)
class Job:
    """The texts to embed with a source, and its folder."""

    config: Config
    texts: pl.DataFrame
    """Distinct rows of keyword and text, sorted by text_id."""
    folder: Path


@dataclass(frozen=True)
class VectorSource:
    """The computation of a vector for each text, and its inputs: an entry of SOURCES.

    Vectors are recomputed when the texts, the seed, `embed.dimension` or an input declared here
    changes.
    """

    compute: Callable[[Job, np.ndarray], None]
    """Writes the vectors into a zero-filled array on disk (float32 [N, D])."""
    settings: tuple[str, ...] = ()
    """Dotted paths of the settings that affect the vectors."""
    files: Callable[[Config], Sequence[Path | str | None]] = lambda _: ()
    """Files or folders outside `output` that it reads."""
    stages: tuple[str, ...] = ()
    """Stages whose folders it reads."""
    compares_places: bool = True
    """Whether figures compare a place's texts with those of the user's earlier places."""
    sources: tuple[str, ...] = ()
    """Sources whose vectors it reads."""
    later: Callable[[Config, Path], Embed] | None = None
    """Returns a function that embeds texts of new places, given the source's folder; None if the
    source cannot embed them. Serving calls it, and has only the stages in `larr.stages.MODELS`."""


def encoder(job: Job, vectors_ND: np.ndarray, verb: str = "contrast") -> None:
    """Writes e_i of Eq. (22): each text between its markers, embedded by the model of stage 2.

    The verb `distill` selects the smaller model of that stage.
    """
    for rows, vectors_BD in _shards(job, partial(load_encoder, artifacts.folder(job.config, verb))):
        vectors_ND[rows] = vectors_BD


def pooled(job: Job, vectors_ND: np.ndarray, verb: str = "") -> None:
    """Writes the reduced pooled states of the base model, or of the model that a verb trained."""
    _write_reduced(job, partial(_load_pooled, job.config, verb), vectors_ND)


def instructed(job: Job, vectors_ND: np.ndarray) -> None:
    """Writes the reduced pooled states of the model of `instruct`, which reads summaries."""
    pooled(_summarised(job), vectors_ND, "instruct")


def _load_pooled(config: Config, verb: str) -> SentenceTransformer:
    lm = load_language_model(artifacts.folder(config, verb), config) if verb else load_base(config)
    return as_encoder(lm, None, config.contrast.pooling)


def predictions(job: Job, vectors_ND: np.ndarray) -> None:
    """Writes the log-probabilities of the answers, given each text of `instruct.knowledge`.

    An answer's text has a unit vector, so its product with a knowledge text is its log-probability.
    """
    answers, texts = read_answers(job.config), _summarised(job).texts
    found = texts.with_row_index().join(answers.with_row_index("answer"), on=["keyword", "text"])
    vectors_ND[found["index"], found["answer"]] = 1.0
    known_N = (texts["keyword"] == job.config.instruct.knowledge).arg_true().to_numpy()
    known = replace(job, texts=texts[known_N])
    for rows, log_BA in _shards(known, partial(load_predictor, job.config)):
        vectors_ND[known_N[rows], : len(answers)] = log_BA


def _summarised(job: Job) -> Job:
    """Returns a job with the summaries of the knowledge texts in their place."""
    known = (job.texts["keyword"] == job.config.instruct.knowledge).arg_true()
    texts = job.texts["text"].clone()
    texts.scatter(known, summarised(job.config, texts[known]))
    return replace(job, texts=job.texts.with_columns(texts))


def sentence_encoder(job: Job, vectors_ND: np.ndarray) -> None:
    """Writes the reduced vectors of a pretrained sentence encoder, which reads no markers."""
    load = partial(load_sentence_encoder, job.config.sentence_encoder)
    _write_reduced(job, load, vectors_ND).save(job.folder / FITTED)


def tfidf(job: Job, vectors_ND: np.ndarray) -> None:
    """Writes TF-IDF counts of words, or of letter n-grams for any language, on their main axes."""
    options = TFIDF_OPTIONS[job.folder.name]
    with track(f"TF-IDF ({job.folder.name})", len(job.texts), "texts") as advance:
        fitted = TfIdf.fit(job.texts["text"], vectors_ND.shape[1], job.config.seed, options)
        fitted.save(job.folder / FITTED)
        vectors_ND[:] = _padded(fitted.vectors(job.texts["text"]), vectors_ND.shape[1])
        advance(len(job.texts))


def later_encoder(config: Config, _: Path, verb: str = "contrast") -> Embed:
    """Returns `VectorSource.later` for the model of stage 2 or of `distill`."""
    model = load_encoder(artifacts.folder(config, verb))
    return lambda texts: compute(model, [[text] for text in texts], config.embed.batch_tokens)


def later_tfidf(config: Config, folder: Path) -> Embed:
    """Returns `VectorSource.later` for TF-IDF vectors."""
    fitted = TfIdf.load(folder / FITTED, TFIDF_OPTIONS[folder.name])
    dimension = config.embed.dimension
    return lambda texts: _padded(fitted.vectors([text for _, text in texts]), dimension)


def later_sentence_encoder(config: Config, folder: Path) -> Embed:
    """Returns `VectorSource.later` for the pretrained sentence encoder."""
    model = load_sentence_encoder(config.sentence_encoder)
    reduction = Reduction.load(folder / FITTED)

    def embed_later(texts: list[KeywordText]) -> np.ndarray:
        raw_NH = compute(model, [[text] for text in texts], config.embed.batch_tokens)
        keywords = pl.Series([keyword for keyword, _ in texts])
        return _padded(reduction.vectors(keywords, raw_NH), config.embed.dimension)

    return embed_later


def _padded(reduced_ND: np.ndarray, dimension: int) -> np.ndarray:
    """Returns normalised vectors, padded with zeros to a dimension."""
    vectors_ND = np.zeros((len(reduced_ND), dimension), np.float32)
    vectors_ND[:, : reduced_ND.shape[1]] = normalised(reduced_ND)
    return vectors_ND


def random(job: Job, vectors_ND: np.ndarray) -> None:
    """Writes a random direction for each text, to measure what an ID per text is worth."""
    generator = np.random.default_rng(job.config.seed)
    for start in range(0, len(vectors_ND), SHARD):
        part_BD = vectors_ND[start : start + SHARD]
        part_BD[:] = normalised(generator.standard_normal(part_BD.shape))


def shuffled(job: Job, vectors_ND: np.ndarray) -> None:
    """Writes the encoder's vectors, permuted at random among the texts of each keyword.

    The distribution is the same, so any gain that remains does not come from the texts.
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
        pooled,
        settings=("backbone", "contrast.pooling"),
        files=lambda config: (config.backbone.model,),
    ),
    "pretrained": VectorSource(
        partial(pooled, verb="pretrain"), ("contrast.pooling",), stages=("pretrain",)
    ),
    "instructed": VectorSource(instructed, ("contrast.pooling",), stages=("instruct",)),
    "predictions": VectorSource(predictions, stages=("instruct",), compares_places=False),
    "sentence_encoder": VectorSource(
        sentence_encoder,
        settings=("sentence_encoder",),
        files=lambda config: (config.sentence_encoder,),
        later=later_sentence_encoder,
    ),
    "tfidf": VectorSource(tfidf, later=later_tfidf),
    "letters": VectorSource(tfidf, later=later_tfidf),
    "random": VectorSource(random),
    "shuffled": VectorSource(shuffled, sources=("encoder",)),
}
"""The values of a variant's `vectors`, in addition to the configuration's `encoders`.

A source comes after those it reads. Each entry of `encoders` is the source "encoder" with the
configuration of that entry.
"""


def embed(config: Config, wanted: Iterable[str], figures: Collection[str] = ()) -> None:
    """Embeds every text with each source in `wanted` and with the sources that they read.

    Each source is an artifact, `embed/NAME`, computed only if it is not up to date; so are the text
    figures of the sources in `figures`, in `embed/NAME/figures`.
    """
    names = sources(config, [*wanted, *figures])
    with artifacts.building(config, "embed") as work:
        texts = pl.read_parquet(artifacts.folder(config, "prepare") / "texts.parquet")
        embedded = 0
        for name in names:
            artifact = vectors_artifact(config, name)
            source_config, source = _source(config, name)
            if not artifact.is_current():
                job = Job(source_config, texts, artifact.folder)
                kept = replace(artifact, ignored=frozenset({"texts"}))
                if config.keep_trained and source.later and kept.is_current():
                    embedded += _add_texts(job, source.later(source_config, artifact.folder))
                else:
                    artifact.start(resume=True)
                    _write_vectors(job, source)
                    embedded += len(texts)
                artifact.finish()
            if name in figures:
                part = figures_artifact(config, artifact)
                if not part.is_current():
                    part.start(resume=False)
                    vectors, places = artifact.folder / VECTORS, source.compares_places
                    write_figures(config, vectors, part.folder, places)
                    part.finish()
        work.measured(embedded, "texts")
        work.figures |= {"texts": len(texts), "sources": names}


def require(config: Config, wanted: Iterable[str], figures: Collection[str]) -> None:
    """Raises StaleError if vectors or figures of these sources are missing or out of date."""
    for name in sources(config, [*wanted, *figures]):
        part = vectors_artifact(config, name)
        reason = part.why_stale()
        if name in figures and not reason:
            part = figures_artifact(config, part)
            reason = part.why_stale()
        if reason:
            raise StaleError(f"{part.folder}: {reason}; run `larr run` with the same configuration")


def _source(config: Config, name: str) -> tuple[Config, VectorSource]:
    """Returns a source and its configuration."""
    if name in config.encoders:
        return config.for_encoder(name), SOURCES["encoder"]
    return config, with_plugins(SOURCES, "vectors")[name]


def _write_vectors(job: Job, source: VectorSource) -> None:
    """Writes the vectors of a source, then deletes its shards."""
    with artifacts.atomic(job.folder / VECTORS) as partial:
        shape = (len(job.texts), job.config.embed.dimension)
        vectors_ND = artifacts.new_array(partial, np.float32, shape)
        source.compute(job, vectors_ND)
        vectors_ND.flush()
    shutil.rmtree(job.folder / SHARDS, ignore_errors=True)
    job.texts.write_parquet(job.folder / TEXTS)


def _add_texts(job: Job, embed_later: Embed) -> int:
    """Rewrites the vectors for changed texts, and returns the number of texts to embed.

    Known texts keep their vectors, and new ones are embedded with what an earlier run has trained
    or fitted, so the rankers' inputs keep their meaning.
    """
    known = pl.read_parquet(job.folder / TEXTS).with_row_index("row")
    texts = job.texts.join(known, on=["keyword", "text"], how="left", maintain_order="left")
    new = texts.with_row_index("new").filter(pl.col("row").is_null())
    known_ND = np.load(job.folder / VECTORS, mmap_mode="r")
    (job.folder / artifacts.MANIFEST).unlink()  # if this is interrupted, all texts are embedded
    shutil.rmtree(job.folder / FIGURES, ignore_errors=True)
    with artifacts.atomic(job.folder / VECTORS) as partial:
        vectors_ND = artifacts.new_array(partial, np.float32, (len(texts), known_ND.shape[1]))
        for start in range(0, len(texts), SHARD):
            rows = texts["row"][start : start + SHARD].fill_null(0)
            vectors_ND[start : start + SHARD] = known_ND[rows]
        with track(f"embedding new texts ({job.folder.name})", len(new), "texts") as advance:
            for part in new.iter_slices(SHARD):
                vectors_ND[part["new"]] = embed_later(part.select("keyword", "text").rows())
                advance(len(part))
        vectors_ND.flush()
    job.texts.write_parquet(job.folder / TEXTS)
    return len(new)


def sources(config: Config, wanted: Iterable[str]) -> list[str]:
    """Returns `wanted` and the sources that they read, each after those it reads.

    Raises ConfigError for a name that neither SOURCES nor `encoders` contains, or both.
    """
    entries = with_plugins(SOURCES, "vectors")
    if reserved := config.encoders.keys() & {*entries, "larr"}:  # "larr" is the run's own encoder
        raise ConfigError(
            f"encoders: {', '.join(sorted(reserved))} is reserved; choose another name"
        )
    needed = set(wanted)
    for name, source in reversed(entries.items()):
        needed |= set(source.sources) if name in needed else set()
    known = [*entries, *config.encoders]
    if unknown := needed.difference(known):
        raise ConfigError(
            f"align: unknown text vectors {', '.join(map(repr, sorted(unknown)))}; expected "
            f"{', '.join(known)}, or a name declared in [encoders]"
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
    settings = picked(tree, ("seed", "embed.dimension", *source.settings))
    return Artifact(folder, settings, inputs, source.files(config))


def figures_artifact(config: Config, vectors: Artifact) -> Artifact:
    """Returns the artifact of the text figures that are computed from these vectors."""
    inputs: dict[str, str | None] = {
        "prepare/": artifacts.key(artifacts.folder(config, "prepare")),
        "vectors": artifacts.key(vectors.folder),
    }
    return Artifact(vectors.folder / FIGURES, {}, inputs)


def _shards(job: Job, load: Load) -> list[tuple[slice, np.ndarray]]:
    """Returns the rows and the vectors (on disk, float32 [B, H or D]) of each shard."""
    texts = job.texts.select("keyword", "text")
    return shards.embed_shards(texts, job.folder / SHARDS, load, job.config)


def _write_reduced(job: Job, load: Load, vectors_ND: np.ndarray) -> Reduction:
    """Writes vectors of an untuned model, reduced so that their cosines are informative."""
    keywords, shards_BH = job.texts["keyword"], _shards(job, load)
    reduction = Reduction.fit(keywords, shards_BH, vectors_ND.shape[1])
    for rows, raw_BH in shards_BH:
        reduced_BD = reduction.vectors(keywords[rows], raw_BH)
        vectors_ND[rows] = _padded(reduced_BD, vectors_ND.shape[1])
    return reduction
