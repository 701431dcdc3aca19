"""Each distinct keyword text once through the text embedding model, and the controls beside it.

Paper: Eq. (22). Shapes: N texts, H hidden units, D the stored length (`config.embed.dimension`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sentence_transformers import SentenceTransformer
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from larr import artifacts
from larr.artifacts import Artifact
from larr.config import Config
from larr.errors import ConfigError
from larr.progress import Advance, track
from larr.text.backbone import KeywordText, LanguageModel, load_base, load_language_model
from larr.text.encoder import as_encoder, load_encoder, load_sentence_encoder
from larr.text.vectors import (
    VECTORS,
    VectorStore,
    compute,
    model_identity,
    normalised,
    open_store,
    save_store,
)

SHARDS = "shards"
SHARD = 8_192
"""Texts in a file of an unfinished source; an interrupted run goes on after its last whole file."""
WORDS = r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+"
"""What TF-IDF counts: words, and each Chinese character by itself."""
VOCABULARY = 100_000
Embedder = Callable[[list[KeywordText], Advance], np.ndarray]
"""Texts -> their vectors [B, D]; told how many are done."""


@dataclass(frozen=True)
class Job:
    """One source to make: which texts, where to."""

    config: Config
    texts: pl.DataFrame
    folder: Path
    earlier: VectorStore | None
    """The encoder's vectors of an earlier run, if they are still valid for equal texts."""

    @property
    def shape(self) -> tuple[int, int]:
        """N, D."""
        return len(self.texts), self.config.embed.dimension


def embed(config: Config, wanted: Iterable[str]) -> None:
    """Writes a vector of every text for each source in `wanted`, and those that it is made from."""
    names = sources(config, wanted)
    with artifacts.making(config, "embed") as work:
        texts = pl.read_parquet(artifacts.folder(config, "prepare") / "texts.parquet")
        aside, made = work.folder / "earlier", 0
        for name in names:
            own = config.for_encoder(name) if name in config.encoders else config
            source = _artifact(own, name, work.folder / name)
            if source.is_current():
                continue
            earlier = _set_aside(config, source.folder, aside) if name == "encoder" else None
            source.start(resume=True)
            SOURCES.get(name, _encoder)(Job(own, texts, source.folder, earlier))
            shutil.rmtree(source.folder / SHARDS, ignore_errors=True)
            source.finish()
            made += len(texts)
        shutil.rmtree(aside, ignore_errors=True)
        work.measured(made, "texts")
        work.figures |= {"texts": len(texts), "sources": names}


def sources(config: Config, wanted: Iterable[str]) -> list[str]:
    """Returns `wanted` and the sources that these are made from, in the order of their making.

    Raises ConfigError for a name that is neither an entry of SOURCES nor one of `encoders`.
    """
    wanted = set(wanted)
    if "shuffled" in wanted:
        wanted.add("encoder")
    known = [*SOURCES, *config.encoders]
    if unknown := wanted.difference(known):
        raise ConfigError(
            f"align.variants: no vectors {', '.join(map(repr, sorted(unknown)))}; there are "
            f"{', '.join(known)}, and [encoders] can declare more"
        )
    return [name for name in known if name in wanted]


def _artifact(config: Config, source: str, folder: Path) -> Artifact:
    """Returns the artifact of a source's vectors: what they depend on."""
    settings: dict[str, Any] = {"seed": config.seed, "dimension": config.embed.dimension}
    inputs: dict[str, str | None] = {
        "texts": artifacts.key(artifacts.folder(config, "prepare"), "texts.parquet")
    }
    files: tuple[Path, ...] = ()
    if source == "untuned":
        settings["backbone"] = config.backbone.model_dump(mode="json")
        settings["pooling"] = config.contrast.pooling
        files = artifacts.files_of(config.backbone.model)
    elif source == "pretrained":
        settings["pooling"] = config.contrast.pooling
        inputs["pretrain"] = artifacts.key(artifacts.folder(config, "pretrain"))
    elif source == "sentence_encoder":
        settings["model"] = config.sentence_encoder
        files = artifacts.files_of(config.sentence_encoder)
    elif source not in ("tfidf", "random"):
        artifacts.require(config, "contrast")
        inputs["encoder"] = _identity(config)
    return Artifact(folder, settings, inputs, files)


def _set_aside(config: Config, folder: Path, aside: Path) -> VectorStore | None:
    """Keeps the encoder's vectors of an earlier, whole run until the new ones are whole."""
    if artifacts.read_manifest(folder) is not None:
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    store = open_store(aside)
    return store if store is not None and store.identity == _identity(config) else None


def _identity(config: Config) -> str:
    made = artifacts.manifest(config, "contrast")
    return model_identity(made["files"] if made else {})


def _encoder(job: Job) -> None:
    """e_i of Eq. (22): the keyword's text between its special tokens, the head of stage 2."""
    encoder = load_encoder(artifacts.folder(job.config, "contrast"))
    _write_shards(job, _by_keywords(job, encoder), job.earlier)
    save_store(job.folder, _identity(job.config), job.texts)
    with _new_file(job) as vectors_ND:
        for rows, made_BD in _read_shards(job):
            vectors_ND[rows] = made_BD


def _untuned(job: Job) -> None:
    """The base model's pooled states."""
    _reduced(job, _pooled(job, load_base(job.config)))


def _pretrained(job: Job) -> None:
    """The pooled states of the model after stage 1, without stage 2."""
    lm = load_language_model(artifacts.folder(job.config, "pretrain"), job.config)
    _reduced(job, _pooled(job, lm))


def _sentence_encoder(job: Job) -> None:
    """The vectors of a ready-made sentence encoder, which reads the bare text."""
    encoder = load_sentence_encoder(job.config.sentence_encoder)

    def embedded(texts: list[KeywordText], advance: Advance) -> np.ndarray:
        vectors_BD: np.ndarray = encoder.encode([text for _, text in texts])
        advance(len(texts))
        return vectors_BD

    _reduced(job, embedded)


def _by_keywords(job: Job, encoder: SentenceTransformer) -> Embedder:
    def embedded(texts: list[KeywordText], advance: Advance) -> np.ndarray:
        return compute(encoder, [[text] for text in texts], job.config.embed.batch_tokens, advance)

    return embedded


def _pooled(job: Job, lm: LanguageModel) -> Embedder:
    return _by_keywords(job, as_encoder(lm, None, job.config.contrast.pooling))


def _reduced(job: Job, embedded: Embedder) -> None:
    """Vectors not made for these texts: each keyword's mean taken out, the main axes."""
    _write_shards(job, embedded, None)
    keywords = job.texts["keyword"].rank("dense").to_numpy().astype(np.int64) - 1
    means_KH, axes_HD = _means_and_axes(job, keywords)
    with _new_file(job) as vectors_ND:
        for rows, raw_BH in _read_shards(job):
            flat_BD = (raw_BH - means_KH[keywords[rows]]) @ axes_HD
            vectors_ND[rows, : flat_BD.shape[1]] = normalised(flat_BD)


def _means_and_axes(job: Job, keywords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each keyword's states, and the axes to keep: all, or the D main ones."""
    dimension = job.shape[1]
    sums_KH: np.ndarray | float = 0.0
    squares_HH: np.ndarray | float = 0.0
    counts_K1 = np.bincount(keywords)[:, None]
    for rows, raw_BH in _read_shards(job):
        one_hot_KB = np.eye(len(counts_K1))[:, keywords[rows]]
        sums_KH = sums_KH + one_hot_KB @ raw_BH
        squares_HH = squares_HH + raw_BH.T.astype(np.float64) @ raw_BH
    means_KH = np.asarray(sums_KH) / counts_K1
    width = means_KH.shape[1]
    if width <= dimension:
        return means_KH, np.eye(width)
    covariance_HH = squares_HH - (means_KH * counts_K1).T @ means_KH
    return means_KH, np.linalg.eigh(covariance_HH)[1][:, ::-1][:, :dimension]


def _tfidf(job: Job) -> None:
    """TF-IDF of words and pairs of words, then the main axes of all texts."""
    counter = TfidfVectorizer(
        ngram_range=(1, 2), token_pattern=WORDS, max_features=VOCABULARY, dtype=np.float32
    )
    with track("TF-IDF", len(job.texts), "texts") as advance:
        counts_NW = counter.fit_transform(job.texts["text"])
        axes = min(job.shape[1], min(counts_NW.shape) - 1)
        svd = TruncatedSVD(max(1, axes), n_iter=4, random_state=job.config.seed)
        reduced_ND = svd.fit_transform(counts_NW)
        advance(len(job.texts))
    with _new_file(job) as vectors_ND:
        vectors_ND[:, : reduced_ND.shape[1]] = normalised(reduced_ND)


def _random(job: Job) -> None:
    """A random direction for each text."""
    random = np.random.default_rng(job.config.seed)
    with _new_file(job) as vectors_ND:
        for rows in _ranges(job):
            size = (rows.stop - rows.start, job.shape[1])
            vectors_ND[rows] = normalised(random.standard_normal(size))


def _shuffled(job: Job) -> None:
    """The encoder's vectors, each given to another text of the same keyword at random."""
    random = np.random.default_rng(job.config.seed)
    made_ND = np.load(job.folder.parent / "encoder" / VECTORS, mmap_mode="r")
    with _new_file(job) as vectors_ND:
        for _, rows in job.texts.with_row_index("row").group_by("keyword", maintain_order=True):
            numbers = rows["row"].to_numpy()
            vectors_ND[numbers] = made_ND[random.permutation(numbers)]


def _ranges(job: Job) -> Iterator[slice]:
    for start in range(0, len(job.texts), SHARD):
        yield slice(start, min(start + SHARD, len(job.texts)))


def _shard(job: Job, rows: slice) -> Path:
    return job.folder / SHARDS / f"{rows.start:012d}.npy"


def _write_shards(job: Job, embedded: Embedder, earlier: VectorStore | None) -> None:
    (job.folder / SHARDS).mkdir(exist_ok=True)
    with track(f"embedding ({job.folder.name})", len(job.texts), "texts") as advance:
        for rows in _ranges(job):
            path = _shard(job, rows)
            if path.is_file():
                advance(rows.stop - rows.start)
                continue
            with artifacts.atomic(path) as partial, partial.open("wb") as file:
                np.save(file, _vectors(job, embedded, earlier, rows, advance))


def _read_shards(job: Job) -> Iterator[tuple[slice, np.ndarray]]:
    for rows in _ranges(job):
        yield rows, np.load(_shard(job, rows))


def _vectors(
    job: Job,
    embedded: Embedder,
    earlier: VectorStore | None,
    rows: slice,
    advance: Advance,
) -> np.ndarray:
    """The vectors of some texts; those that this model made in an earlier run are taken over."""
    texts = job.texts[rows].select("keyword", "text").rows()
    known = [earlier.row(*text) if earlier else None for text in texts]
    new = [number for number, row in enumerate(known) if row is None]
    advance(len(texts) - len(new))
    made = embedded([texts[number] for number in new], advance)
    if earlier is None:
        return made
    vectors_BD = np.array(earlier.vectors[[row or 0 for row in known]])
    if new:
        vectors_BD[new] = made
    return vectors_BD


@contextmanager
def _new_file(job: Job) -> Iterator[np.ndarray]:
    """Yields zeros [N, D] on disk, which become the source's vectors when all went well."""
    with artifacts.atomic(job.folder / VECTORS) as partial:
        vectors_ND = artifacts.new_array(partial, np.float32, job.shape)
        yield vectors_ND
        vectors_ND.flush()


SOURCES: dict[str, Callable[[Job], None]] = {
    "encoder": _encoder,
    "untuned": _untuned,
    "pretrained": _pretrained,
    "sentence_encoder": _sentence_encoder,
    "tfidf": _tfidf,
    "random": _random,
    "shuffled": _shuffled,
}
"""Where the vectors of a model can come from, the controls included (decision 24)."""
