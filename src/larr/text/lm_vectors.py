"""Sources whose vectors come from a language model, tuned or not.

Shapes: N texts, B texts of a shard, K keywords, H hidden units, D the stored length.
"""

from __future__ import annotations

import numpy as np
from sentence_transformers import SentenceTransformer

from larr import artifacts
from larr.progress import Advance
from larr.text.backbone import KeywordText, load_base, load_language_model
from larr.text.encoder import as_encoder, load_encoder, load_sentence_encoder
from larr.text.vector_source import Embedder, Job, read_shards, write_shards
from larr.text.vectors import compute, normalised


def encoder(job: Job, vectors_ND: np.ndarray) -> None:
    """Writes e_i of Eq. (22): each text between its markers, through the model of stage 2."""
    model = load_encoder(artifacts.folder(job.config, "contrast"))
    write_shards(job, _by_keywords(job, model))
    for rows, vectors_BD in read_shards(job):
        vectors_ND[rows] = vectors_BD


def untuned(job: Job, vectors_ND: np.ndarray) -> None:
    """Writes the base model's pooled states, reduced."""
    model = as_encoder(load_base(job.config), None, job.config.contrast.pooling)
    _write_reduced(job, _by_keywords(job, model), vectors_ND)


def pretrained(job: Job, vectors_ND: np.ndarray) -> None:
    """Writes the pooled states of the model after stage 1, without stage 2, reduced."""
    lm = load_language_model(artifacts.folder(job.config, "pretrain"), job.config)
    model = as_encoder(lm, None, job.config.contrast.pooling)
    _write_reduced(job, _by_keywords(job, model), vectors_ND)


def sentence_encoder(job: Job, vectors_ND: np.ndarray) -> None:
    """Writes the vectors of a ready-made sentence encoder, which reads the text alone, reduced."""
    model = load_sentence_encoder(job.config.sentence_encoder)

    def embedder(texts: list[KeywordText], advance: Advance) -> np.ndarray:
        vectors_BH: np.ndarray = model.encode([text for _, text in texts])
        advance(len(texts))
        return vectors_BH

    _write_reduced(job, embedder, vectors_ND)


def _by_keywords(job: Job, model: SentenceTransformer) -> Embedder:
    def embedder(texts: list[KeywordText], advance: Advance) -> np.ndarray:
        return compute(model, [[text] for text in texts], job.config.embed.batch_tokens, advance)

    return embedder


def _write_reduced(job: Job, embedder: Embedder, vectors_ND: np.ndarray) -> None:
    """Writes the vectors of a model that was not tuned for these texts, so that they compare well.

    Its vectors all point nearly the same way, those of one keyword still more. So each keyword's
    mean is subtracted, and of the rest the D main axes are kept if there are more than D.
    """
    write_shards(job, embedder)
    keywords = job.texts["keyword"].rank("dense").to_numpy().astype(np.int64) - 1
    means_KH, axes_HD = _means_and_axes(job, keywords, vectors_ND.shape[1])
    for rows, raw_BH in read_shards(job):
        reduced_BD = (raw_BH - means_KH[keywords[rows]]) @ axes_HD
        vectors_ND[rows, : reduced_BD.shape[1]] = normalised(reduced_BD)


def _means_and_axes(
    job: Job, keywords: np.ndarray, dimension: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns each keyword's mean (float64 [K, H]) and the axes to keep (float64 [H, D or H]).

    One pass over the shards: memory holds sums only, and never all states.
    """
    sums_KH: np.ndarray | float = 0.0
    squares_HH: np.ndarray | float = 0.0
    counts_K1 = np.bincount(keywords)[:, None]
    for rows, raw_BH in read_shards(job):
        one_hot_KB = np.eye(len(counts_K1))[:, keywords[rows]]
        sums_KH = sums_KH + one_hot_KB @ raw_BH
        squares_HH = squares_HH + raw_BH.T.astype(np.float64) @ raw_BH
    means_KH = np.asarray(sums_KH) / counts_K1
    width = means_KH.shape[1]
    if width <= dimension:
        return means_KH, np.eye(width)
    covariance_HH = squares_HH - (means_KH * counts_K1).T @ means_KH
    return means_KH, np.linalg.eigh(covariance_HH)[1][:, ::-1][:, :dimension]
