"""Vectors of new places' texts, from the text embedding model of a version."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.markup import escape

from larr import artifacts
from larr.config import Config
from larr.errors import UnavailableError
from larr.progress import console

Text = tuple[str, str]
"""A keyword and its text."""
Vectors = npt.NDArray[np.float32]
SCHEMA = """
    CREATE TABLE IF NOT EXISTS vectors (
        model TEXT, keyword TEXT, text TEXT, vector BLOB, PRIMARY KEY (model, keyword, text)
    ) WITHOUT ROWID
"""
WAIT_SECONDS = 10.0
"""For the lock of another process that writes."""


class Embedder:
    """Embeds keyword texts; a file keeps the vectors, so a restart embeds none again.

    Decision 28. A file that cannot be read or written costs the embedding and nothing else.
    """

    def __init__(self, config: Config, model: str, path: Path | str = ":memory:") -> None:
        """`model` identifies the text embedding model in the file `path`."""
        self.config, self.model, self.path = config, model, path
        self._encoder: Any = None

    def __call__(self, texts: list[Text]) -> Vectors:
        """Returns the vectors of texts in their order, [N, D]."""
        vectors: dict[Text, Vectors] = {}

        def read(file: sqlite3.Connection) -> None:
            query = "SELECT vector FROM vectors WHERE model = ? AND keyword = ? AND text = ?"
            for text in texts:
                if row := file.execute(query, (self.model, *text)).fetchone():
                    vectors[text] = np.frombuffer(row[0], np.float32)

        self._with_file(read)
        if new := [text for text in dict.fromkeys(texts) if text not in vectors]:
            computed = dict(zip(new, self.compute(new), strict=True))
            rows = [(self.model, *text, vector.tobytes()) for text, vector in computed.items()]
            insert = "INSERT OR IGNORE INTO vectors VALUES (?, ?, ?, ?)"
            self._with_file(lambda file: file.executemany(insert, rows))
            vectors |= computed
        return np.stack([vectors[text] for text in texts])

    def _with_file(self, function: Callable[[sqlite3.Connection], object]) -> None:
        """Calls a function with the file, in a transaction; prints what is wrong with the file."""
        try:
            with closing(sqlite3.connect(self.path, timeout=WAIT_SECONDS)) as file, file:
                file.execute(SCHEMA)
                function(file)
        except sqlite3.Error as error:
            console.print(escape(f"{self.path}: vectors are not kept: {error}"))

    def require_packages(self) -> None:
        """Raises UnavailableError where the packages of the text embedding model are missing."""
        if missing := [
            name for name in ("torch", "sentence_transformers") if find_spec(name) is None
        ]:
            raise UnavailableError(
                f"the texts of a new place cannot be embedded without {' and '.join(missing)}; "
                "install them where this service runs: pip install 'larr[train]'"
            )

    def compute(self, texts: list[Text]) -> Vectors:
        """Returns the text embedding model's vectors; the model is loaded with the first texts."""
        self.require_packages()
        # Most services are never sent a new place, and these need torch and transformers.
        from larr.text.encoder import compute, load_encoder  # noqa: PLC0415

        if self._encoder is None:
            self._encoder = load_encoder(artifacts.folder(self.config, "contrast"))
        vectors: Vectors = compute(
            self._encoder, [[text] for text in texts], self.config.embed.batch_tokens
        )
        return vectors
