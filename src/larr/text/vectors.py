"""Vectors of texts: how they are computed in batches, and the keys by which they are kept.

Shapes: N texts, B texts of a batch, D the vector's length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from larr.text.backbone import MARKER_SCHEME, KeywordText, KeywordTokenizer

KEY_BYTES = hashlib.sha256().digest_size


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


def model_identity(files: dict[str, dict[str, Any]]) -> str:
    """Returns a hash of what a vector depends on besides its text (decision 28).

    That is the model's files, of which `files` has the sha256 as a stage's manifest records it,
    and the way in which texts are tokenized.
    """
    digest = hashlib.sha256(MARKER_SCHEME.encode())
    for name in sorted(files):
        digest.update(f"\0{name}\0{files[name]['sha256']}".encode())
    return digest.hexdigest()


def keys_of(identity: str, texts: Iterable[KeywordText]) -> np.ndarray:
    """Returns the key of each vector, a hash of model, keyword and text (uint8 [N, KEY_BYTES])."""
    keys = [
        hashlib.sha256(f"{identity}\0{keyword}\0{text}".encode()).digest()
        for keyword, text in texts
    ]
    return np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, KEY_BYTES)
