"""Vectors of texts, computed in batches.

Shapes: N texts, B texts of a batch, D the vector's length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from larr.text.backbone import KeywordText, KeywordTokenizer


def compute(
    encoder: SentenceTransformer,
    descriptions: Sequence[Sequence[KeywordText]],
    batch_tokens: int,
    advance: Callable[[int], None] = lambda _: None,
) -> np.ndarray:
    """Returns a vector for each description (float32 [N, D]).

    Paper: Eq. (10), (22). Texts of like length share a batch of at most `batch_tokens` tokens,
    padding included; `advance` is called with the number of texts in each finished batch.
    """
    tokens: KeywordTokenizer = encoder[0].tokens
    rows = tokens.encode_batch(descriptions)
    encoder.eval()
    vectors_ND = np.empty((len(rows), 0), dtype=np.float32)
    for batch in _batches([len(row) for row in rows], batch_tokens):
        padded = tokens.pad([rows[number] for number in batch])
        with torch.inference_mode():
            output = encoder({key: value.to(encoder.device) for key, value in padded.items()})
        vectors_BD = output["sentence_embedding"].float().cpu().numpy()
        if vectors_ND.shape[1] == 0:  # D is known after the first batch
            vectors_ND = np.empty((len(rows), vectors_BD.shape[1]), dtype=np.float32)
        vectors_ND[batch] = vectors_BD
        advance(len(batch))
    return vectors_ND


def _batches(lengths: list[int], batch_tokens: int) -> Iterator[np.ndarray]:
    """Yields the numbers of the rows of each batch, short rows first."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and lengths[order[stop]] * (stop + 1 - start) <= batch_tokens:
            stop += 1
        yield order[start:stop]
        start = stop


def normalised(vectors_ND: np.ndarray) -> np.ndarray:
    """Returns each row divided by its length (float32); a row of zeros stays zero."""
    lengths_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return (vectors_ND / np.where(lengths_N1 > 0, lengths_N1, 1)).astype(np.float32)
