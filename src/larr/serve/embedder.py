"""Embeds the texts of new places with the text embedding model of a version."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from larr import artifacts
from larr.config import Config
from larr.errors import LarrError, UnavailableError
from larr.plugins import with_plugins
from larr.progress import console

Text = tuple[str, str]
"""A keyword and its text."""
Vectors = npt.NDArray[np.float32]
SCHEMA = """
    CREATE TABLE IF NOT EXISTS vectors (
        model TEXT, keyword TEXT, text TEXT, vector BLOB, PRIMARY KEY (model, keyword, text)
    ) WITHOUT ROWID
"""
SELECT = """
    SELECT keyword, text, vector FROM vectors WHERE model = ? AND keyword = ? AND text = ?
"""
INSERT = "INSERT OR IGNORE INTO vectors VALUES (?, ?, ?, ?)"
WAIT_SECONDS = 10.0
"""How long to wait for the lock of another process."""


class NotStoredError(LarrError):
    """A text has no stored vector."""


class Embedder:
    """Embeds keyword texts and caches the vectors in a file, across restarts.

    Decision 28. If the file cannot be read or written, the texts are embedded again.
    """

    def __init__(
        self, config: Config, source: str, model: str, path: Path | str = ":memory:"
    ) -> None:
        """Embeds like a source of vectors; `model` identifies its model in the file `path`."""
        self.config, self.source, self.model, self.path = config, source, model, path

    def __call__(self, texts: list[Text]) -> Vectors:
        """Returns the vectors of texts, [N, D]; computes those that are not stored."""
        vectors = self._read(texts)
        if new := [text for text in dict.fromkeys(texts) if text not in vectors]:
            computed = dict(zip(new, self.compute(new), strict=True))
            rows = [(self.model, *text, vector.tobytes()) for text, vector in computed.items()]
            self._execute(INSERT, rows)
            vectors |= computed
        return np.stack([vectors[text] for text in texts])

    def stored(self, texts: list[Text]) -> Vectors:
        """Returns the stored vectors of texts, [N, D]; raises NotStoredError if one is missing."""
        vectors = self._read(texts)
        if not vectors.keys() >= {*texts}:
            raise NotStoredError(f"{self.path}: texts without a vector")
        return np.stack([vectors[text] for text in texts])

    def _read(self, texts: list[Text]) -> dict[Text, Vectors]:
        stored = self._execute(SELECT, [(self.model, *text) for text in texts])
        return {(keyword, text): np.frombuffer(row, np.float32) for keyword, text, row in stored}

    def _execute(self, statement: str, rows: list[tuple[Any, ...]]) -> list[Any]:
        """Returns the results of all rows, in one transaction; empty if the file fails."""
        try:
            with closing(sqlite3.connect(self.path, timeout=WAIT_SECONDS)) as file, file:
                file.execute(SCHEMA)
                return [result for row in rows for result in file.execute(statement, row)]
        except sqlite3.Error as error:
            console.print(f"{self.path}: cannot cache vectors: {error}")
            return []

    def require_packages(self) -> None:
        """Raises UnavailableError if packages of the text embedding model are missing."""
        if missing := [
            name for name in ("torch", "sentence_transformers") if find_spec(name) is None
        ]:
            raise UnavailableError(
                f"embedding the texts of a new place needs {' and '.join(missing)}; install them "
                "on the machine of this service: pip install 'larr[train]'"
            )

    def compute(self, texts: list[Text]) -> Vectors:
        """Computes the vectors of texts with the model, [N, D]."""
        return self._encode(texts)

    @cached_property
    def _encode(self) -> Callable[[list[Text]], Vectors]:
        """The model, loaded at first use: it needs torch, and few services get new places."""
        self.require_packages()
        from larr.text.embed import SOURCES  # noqa: PLC0415

        load = with_plugins(SOURCES, "vectors")[self.source].later
        assert load is not None  # noqa: S101 - a version has no other embedders
        return load(self.config, artifacts.folder(self.config, "embed") / self.source)
