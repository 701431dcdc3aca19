"""Transformations fitted on the stored texts and saved, so that new texts are embedded alike.

Shapes: N texts, B texts of a shard, K keywords, V terms, H hidden units, D main axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

FITTED = "fitted"
"""The name of their folder within that of a source's vectors."""
TERMS, MEANS, AXES = "terms.parquet", "means.parquet", "axes.npy"
VOCABULARY = 100_000


def normalised(vectors_ND: np.ndarray) -> np.ndarray:
    """Returns vectors of length 1 (float32 [N, D]); zero vectors remain zero."""
    lengths_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return np.asarray(vectors_ND / np.maximum(lengths_N1, 1e-9), dtype=np.float32)


def centred(vectors_ND: np.ndarray) -> np.ndarray:
    """Returns the differences from the mean vector, of length 1 (float32 [N, D]).

    Cosines of vectors as they are would all be similar, above all those of an untuned model.
    """
    return normalised(vectors_ND - vectors_ND.mean(axis=0)) if len(vectors_ND) else vectors_ND


@dataclass(frozen=True)
class TfIdf:
    """TF-IDF vectors on their main axes; `options` are those of scikit-learn's vectorizer."""

    vectorizer: Any
    axes_DV: np.ndarray

    @classmethod
    def fit(cls, texts: Iterable[str], axes: int, seed: int, options: Mapping[str, Any]) -> Self:
        """Fits the vectorizer and at most `axes` main axes on these texts."""
        from sklearn.decomposition import TruncatedSVD  # noqa: PLC0415 - serving imports this file
        from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415

        vectorizer = TfidfVectorizer(max_features=VOCABULARY, dtype=np.float32, **options)
        counts_NV = vectorizer.fit_transform(texts)
        axes = max(1, min(axes, *(size - 1 for size in counts_NV.shape)))
        svd = TruncatedSVD(axes, n_iter=4, random_state=seed).fit(counts_NV)
        return cls(vectorizer, svd.components_)

    def vectors(self, texts: Iterable[str]) -> np.ndarray:
        """Returns the vectors of texts, [N, D]."""
        vectors_ND: np.ndarray = self.vectorizer.transform(texts) @ self.axes_DV.T
        return vectors_ND

    def save(self, folder: Path) -> None:
        """Writes the terms and the axes."""
        folder.mkdir(exist_ok=True)
        terms = {"term": self.vectorizer.get_feature_names_out(), "idf": self.vectorizer.idf_}
        pl.DataFrame(terms, schema={"term": pl.String, "idf": pl.Float32}).write_parquet(
            folder / TERMS
        )
        np.save(folder / AXES, self.axes_DV)

    @classmethod
    def load(cls, folder: Path, options: Mapping[str, Any]) -> Self:
        """Returns what `save` wrote."""
        from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415

        terms = pl.read_parquet(folder / TERMS)
        vocabulary = terms["term"].to_list()
        vectorizer = TfidfVectorizer(vocabulary=vocabulary, dtype=np.float32, **options)
        vectorizer.idf_ = terms["idf"].to_numpy()
        return cls(vectorizer, np.load(folder / AXES, mmap_mode="r"))


@dataclass(frozen=True)
class Reduction:
    """Subtracts the mean of a text's keyword and projects the result onto the main axes.

    The vectors of an untuned model have nearly the same direction, especially within a keyword.
    """

    keywords: Sequence[str]
    means_KH: np.ndarray
    axes_HD: np.ndarray

    @classmethod
    def fit(
        cls, keyword_N: pl.Series, shards_BH: Sequence[tuple[slice, np.ndarray]], axes: int
    ) -> Self:
        """Fits the means, and at most `axes` main axes, on the vectors of shards and their rows."""
        number_N = keyword_N.rank("dense").to_numpy().astype(np.int64) - 1
        counts_K1 = np.bincount(number_N)[:, None]
        width = shards_BH[0][1].shape[1]
        sums_KH, squares_HH = np.zeros((len(counts_K1), width)), np.zeros((width, width))
        for rows, raw_BH in shards_BH:  # only sums are kept in memory
            sums_KH += np.eye(len(counts_K1))[:, number_N[rows]] @ raw_BH
            squares_HH += raw_BH.T.astype(np.float64) @ raw_BH
        means_KH, axes_HD = sums_KH / counts_K1, np.eye(width)
        if width > axes:
            covariance_HH = squares_HH - (means_KH * counts_K1).T @ means_KH
            axes_HD = np.linalg.eigh(covariance_HH)[1][:, ::-1][:, :axes]
        return cls(keyword_N.unique().sort().to_list(), means_KH, axes_HD)

    def vectors(self, keywords: pl.Series, raw_NH: np.ndarray) -> np.ndarray:
        """Returns reduced vectors, [N, D]; a new keyword has mean 0."""
        means_KH = np.vstack([self.means_KH, np.zeros(raw_NH.shape[1])])
        row_of = {keyword: row for row, keyword in enumerate(self.keywords)}
        row_N = [row_of.get(keyword, len(row_of)) for keyword in keywords]
        vectors_ND: np.ndarray = (raw_NH - means_KH[row_N]) @ self.axes_HD
        return vectors_ND

    def save(self, folder: Path) -> None:
        """Writes the means and the axes."""
        folder.mkdir(exist_ok=True)
        means = {"keyword": self.keywords, "mean": self.means_KH}
        pl.DataFrame(means).write_parquet(folder / MEANS)
        np.save(folder / AXES, self.axes_HD)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Returns what `save` wrote."""
        means = pl.read_parquet(folder / MEANS)
        return cls(means["keyword"].to_list(), means["mean"].to_numpy(), np.load(folder / AXES))
