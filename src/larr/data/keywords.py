"""The numbers of the keywords' texts, which `transforms.Template` renders."""

from __future__ import annotations

import polars as pl

from larr.data.transforms import Array

MISSING = -1
"""The number of a text that a row does not have."""


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
        number_N = texts.replace_strict(distinct, numbers, default=MISSING, return_dtype=pl.Int32)
        return number_N.fill_null(MISSING).to_numpy()

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
