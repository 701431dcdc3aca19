"""The vectors of new places' texts, kept on the disk: a start embeds none of them again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.markup import escape

from larr.progress import console

Text = tuple[str, str]
"""A keyword and what it says."""
Vectors = npt.NDArray[np.float32]
SCHEMA = """
    CREATE TABLE IF NOT EXISTS vectors (
        model TEXT, keyword TEXT, text TEXT, vector BLOB, PRIMARY KEY (model, keyword, text)
    ) WITHOUT ROWID
"""
WAIT_SECONDS = 10.0
"""For another process that writes."""


class KeptVectors:
    """Embeds keyword texts -> [N, D], each once for a text embedding model. Decision 28.

    What goes wrong with the file is told, and costs no more than the embedding.
    """

    def __init__(self, path: Path, model: str, embed: Callable[[list[Text]], Vectors]) -> None:
        self.path, self.model, self.embed = path, model, embed

    def __call__(self, texts: list[Text]) -> Vectors:
        """The vectors of texts, in their order."""
        found = self._read(texts)
        if new := [text for text in dict.fromkeys(texts) if text not in found]:
            made = dict(zip(new, self.embed(new), strict=True))
            self._write(made)
            found |= made
        return np.stack([found[text] for text in texts])

    def _read(self, texts: list[Text]) -> dict[Text, Vectors]:
        asked = "SELECT vector FROM vectors WHERE model = ? AND keyword = ? AND text = ?"
        found = {}
        try:
            with closing(self._open()) as file:
                for text in texts:
                    if row := file.execute(asked, (self.model, *text)).fetchone():
                        found[text] = np.frombuffer(row[0], np.float32)
        except sqlite3.Error as error:
            self._tell(error)
        return found

    def _write(self, made: dict[Text, Vectors]) -> None:
        rows = [
            (self.model, *text, np.asarray(vector, np.float32).tobytes())
            for text, vector in made.items()
        ]
        try:
            with closing(self._open()) as file, file:
                file.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            self._tell(error)

    def _open(self) -> sqlite3.Connection:
        file = sqlite3.connect(self.path, timeout=WAIT_SECONDS)
        file.execute(SCHEMA)
        return file

    def _tell(self, error: sqlite3.Error) -> None:
        console.print(escape(f"{self.path}: vectors are not kept: {error}"))
