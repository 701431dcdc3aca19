"""Sources without a language model: the controls of decision 24.

Shapes: N texts, D the stored length.
"""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from larr.progress import track
from larr.text.vector_source import VECTORS, Job, slices
from larr.text.vectors import normalised

WORDS = r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+"
"""What TF-IDF counts: words, and each Chinese character by itself."""
VOCABULARY = 100_000


def tfidf(job: Job, vectors_ND: np.ndarray) -> None:
    """Writes the main axes of TF-IDF counts of words and pairs of words."""
    counter = TfidfVectorizer(
        ngram_range=(1, 2), token_pattern=WORDS, max_features=VOCABULARY, dtype=np.float32
    )
    with track("TF-IDF", len(job.texts), "texts") as advance:
        counts_NW = counter.fit_transform(job.texts["text"])
        axes = min(vectors_ND.shape[1], min(counts_NW.shape) - 1)
        svd = TruncatedSVD(max(1, axes), n_iter=4, random_state=job.config.seed)
        reduced_ND = svd.fit_transform(counts_NW)
        advance(len(job.texts))
    vectors_ND[:, : reduced_ND.shape[1]] = normalised(reduced_ND)


def random(job: Job, vectors_ND: np.ndarray) -> None:
    """Writes a random direction for each text: what a ranker gains from an ID for each text."""
    generator = np.random.default_rng(job.config.seed)
    for rows in slices(job):
        size = (rows.stop - rows.start, vectors_ND.shape[1])
        vectors_ND[rows] = normalised(generator.standard_normal(size))


def shuffled(job: Job, vectors_ND: np.ndarray) -> None:
    """Writes the encoder's vectors, each given to another text of the same keyword at random.

    The same numbers without their meaning: a gain that remains does not come from the texts.
    """
    generator = np.random.default_rng(job.config.seed)
    encoder_ND = np.load(job.folder.parent / "encoder" / VECTORS, mmap_mode="r")
    for _, rows in job.texts.with_row_index("row").group_by("keyword", maintain_order=True):
        numbers = rows["row"].to_numpy()
        vectors_ND[numbers] = encoder_ND[generator.permutation(numbers)]
