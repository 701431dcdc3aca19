"""Keywords: which columns they may read, and the numbers of their texts.

Paper: Eq. (2)-(4), (8); the registry is `config.keywords`. `transforms.Template` renders the texts.
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from larr.config import Config
from larr.data.contract import NEVER_FEATURES
from larr.data.transforms import Array, Template
from larr.errors import ConfigError

MISSING = -1
"""The number of a text that a row does not have."""


def check_keywords(config: Config, columns: Iterable[str]) -> None:
    """Raises ConfigError for a keyword with an unknown, a forbidden, or another owner's column."""
    known = set(columns) - {"recent"}
    for keyword in config.keywords:
        template = Template(keyword)
        names = template.columns
        if not template.is_balanced:
            raise ConfigError(
                f"keyword {keyword.name}: template {keyword.template!r} has a bracket or brace "
                "without its other half; write columns in {braces}, optional parts in [brackets]"
            )
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise ConfigError(
                f"keyword {keyword.name}: template {keyword.template!r} names "
                f"{', '.join(unknown) or 'no column'}; known columns: {', '.join(sorted(known))}"
            )
        if forbidden := [name for name in names if name in NEVER_FEATURES]:
            raise ConfigError(
                f"keyword {keyword.name}: {', '.join(forbidden)} is known only after the "
                "impression and may not be read; take it out of the template"
            )
        foreign = [name for name in names if not name.startswith("poi_")]
        if keyword.owner == "poi" and foreign:
            raise ConfigError(
                f"keyword {keyword.name}: owner is poi, but {', '.join(foreign)} is no column of "
                "places; use poi_... columns or another owner"
            )
        target = [name for name in names if name.startswith(("poi_", "pair_"))]
        if keyword.owner != "poi" and target:
            raise ConfigError(
                f"keyword {keyword.name}: owner is {keyword.owner}, but {', '.join(target)} "
                "describes the candidate, and this text is rendered once for a request; use other "
                'columns or owner = "poi"'
            )
    if not any(keyword.owner == "poi" for keyword in config.keywords):
        raise ConfigError("keywords: none has the owner poi; places need at least one text")


class TextNumbers:
    """Numbers every distinct (keyword, text) in the order in which they are added.

    The stored vectors have the same order, so a text's number is the row of its vector.
    """

    def __init__(self, table: pl.DataFrame | None = None) -> None:
        """Starts empty, or with the texts that `table` returned earlier."""
        self._keywords: list[str] = []
        self._texts: list[str] = []
        self._numbers: dict[str, dict[str, int]] = {}
        if table is not None:
            for keyword, text in table.sort("text_id").select("keyword", "text").iter_rows():
                self.add_value(keyword, text)

    def add(self, texts: pl.Series) -> Array:
        """Returns the numbers of a keyword's texts as `column` does; new texts get new numbers."""
        for text in texts.drop_nulls().unique(maintain_order=True):
            self.add_value(texts.name, text)
        return self.column(texts)

    def add_value(self, keyword: str, text: str) -> int:
        """Returns the number of one text, a new one if it has none."""
        numbers = self._numbers.setdefault(keyword, {})
        if text not in numbers:
            self._keywords.append(keyword)
            self._texts.append(text)
            numbers[text] = len(self._texts) - 1  # last: other threads of a server look it up
        return numbers[text]

    def column(self, texts: pl.Series) -> Array:
        """Returns the number of each text, int32 [N]; the series has the name of its keyword.

        A null and a text without a number are MISSING.
        """
        distinct = texts.drop_nulls().unique(maintain_order=True).to_list()
        numbers = [self.value(texts.name, text) for text in distinct]
        found = texts.replace_strict(distinct, numbers, default=MISSING, return_dtype=pl.Int32)
        return found.fill_null(MISSING).to_numpy()

    def value(self, keyword: str, text: str | None) -> int:
        """Returns the number of one text, MISSING if it has none."""
        return MISSING if text is None else self._numbers.get(keyword, {}).get(text, MISSING)

    def text(self, number: int) -> str:
        """Returns the text of a number."""
        return self._texts[number]

    def __len__(self) -> int:
        return len(self._texts)

    def table(self) -> pl.DataFrame:
        """Returns text_id (int32, the row number), keyword, text."""
        columns = {"keyword": self._keywords, "text": self._texts}
        frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
        return frame.with_row_index("text_id").with_columns(pl.col("text_id").cast(pl.Int32))
