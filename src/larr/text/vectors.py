"""Vectors of texts: how they are computed in batches, and the store that is keyed by content.

Shapes: N texts, D the vector's length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from sentence_transformers import SentenceTransformer

from larr import artifacts
from larr.text.backbone import MARKER_SCHEME, KeywordText, KeywordTokenizer

VECTORS = "vectors.npy"
KEYS = "keys.npy"
IDENTITY = "identity.json"
KEY_BYTES = 32


def compute(
    encoder: SentenceTransformer,
    descriptions: Sequence[Sequence[KeywordText]],
    batch_tokens: int,
    advance: Callable[[int], None] = lambda _: None,
) -> np.ndarray:
    """A vector for each description (float32 [N, D]), in batches of texts of like length.

    Paper: Eq. (10), (22). `advance` is told how many texts are done.
    """
    tokens: KeywordTokenizer = encoder[0].tokens
    rows = tokens.encode_batch(descriptions)
    order = np.argsort([len(row) for row in rows], kind="stable")
    encoder.eval()
    vectors_ND = np.empty((len(rows), 0), dtype=np.float32)
    for batch in _batches([len(row) for row in rows], order, batch_tokens):
        padded = tokens.pad([rows[number] for number in batch])
        with torch.inference_mode():
            made_BD = encoder({key: value.to(encoder.device) for key, value in padded.items()})
        vectors_BD = made_BD["sentence_embedding"].float().cpu().numpy()
        if vectors_ND.shape[1] == 0:
            vectors_ND = np.empty((len(rows), vectors_BD.shape[1]), dtype=np.float32)
        vectors_ND[batch] = vectors_BD
        advance(len(batch))
    return vectors_ND


def _batches(lengths: list[int], order: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and lengths[order[stop]] * (stop + 1 - start) <= batch_tokens:
            stop += 1
        yield order[start:stop]
        start = stop


def normalised(vectors_ND: np.ndarray) -> np.ndarray:
    """Each row divided by its length; a row of zeros stays as it is."""
    lengths_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return (vectors_ND / np.where(lengths_N1 > 0, lengths_N1, 1)).astype(np.float32)


def model_identity(files: dict[str, dict[str, Any]]) -> str:
    """What a vector depends on besides its text: the model's files and how texts are tokenised.

    `files` is the part of a stage's manifest that holds the sha256 of each file (decision 28).
    """
    digest = hashlib.sha256(MARKER_SCHEME.encode())
    for name in sorted(files):
        digest.update(f"\0{name}\0{files[name]['sha256']}".encode())
    return digest.hexdigest()


def key_of(identity: str, keyword: str, text: str) -> bytes:
    """The content address of a vector: sha256 of model, tokenizer, template and text."""
    return hashlib.sha256(f"{identity}\0{keyword}\0{text}".encode()).digest()


def keys_of(identity: str, texts: pl.DataFrame) -> np.ndarray:
    """The keys of all texts (uint8 [N, KEY_BYTES]), in the order of their text_id."""
    rows = texts.select("keyword", "text").iter_rows()
    joined = b"".join(key_of(identity, keyword, text) for keyword, text in rows)
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, KEY_BYTES)


@dataclass(frozen=True)
class VectorStore:
    """The vectors of one source in `embed/SOURCE`, looked up by content."""

    identity: str
    vectors: np.ndarray
    """float32 [N, D], memory-mapped; the row is the text_id."""
    rows: dict[bytes, int]
    """Key -> row."""

    def row(self, keyword: str, text: str) -> int | None:
        """Where the vector of a text lies; None for a text that was never embedded."""
        return self.rows.get(key_of(self.identity, keyword, text))


def save_store(folder: Path, identity: str, texts: pl.DataFrame) -> None:
    """Writes keys and identity beside a source's vectors."""
    np.save(folder / KEYS, keys_of(identity, texts))
    artifacts.write_json(folder / IDENTITY, {"identity": identity})


def open_store(folder: Path) -> VectorStore | None:
    """The store of one source, or None where none is whole; a later duplicate of a key wins."""
    if not all((folder / name).is_file() for name in (VECTORS, KEYS, IDENTITY)):
        return None
    keys = np.load(folder / KEYS)
    return VectorStore(
        identity=artifacts.read_json(folder / IDENTITY)["identity"],
        vectors=np.load(folder / VECTORS, mmap_mode="r"),
        rows={key.tobytes(): row for row, key in enumerate(keys)},
    )
