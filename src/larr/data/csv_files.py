"""Reads CSV files: detects the dialect and keeps malformed lines apart.

Parsing is strict, and every cell is read as text: its type depends on its use, and `1.10` or `007`
would lose digits as a number. Separator, quotes, encoding and decimal mark are detected from the
content unless `[dataset.files]` sets them. Malformed lines are counted and kept apart.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count, groupby
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
from charset_normalizer import from_bytes

from larr.config.data import FileConfig
from larr.data.sql import COMPRESSED, identifier, literal, paths, with_file_name
from larr.errors import DataError
from larr.progress import console

BLOCK = 2**20
"""Bytes decoded at a time; the first block beyond ASCII is used to detect the encoding."""
SAMPLE = 10_000
"""Rows searched for decimal commas before the complete file is checked."""
MAX_UNREADABLE = 0.01
"""A larger share of malformed lines means that the dialect is wrong."""
EXAMPLES = 3
UNREADABLE = pl.Schema(
    {"file": pl.String(), "line": pl.Int64(), "reason": pl.String(), "text": pl.String()}
)
"""The schema of a table of malformed lines."""
SEPARATORS = ",;\t|"
"""Possible separators; the most frequent one outside quotes in the header is used, or `::`, or a
space if each line has the same number of them and none of these."""
QUOTES = re.compile(r"\"[^\"]*\"|'[^']*'")
SINGLE = re.compile(r"'[^']*'")
LONGEST = 10_000
"""DuckDB truncates the text of a malformed line to this many bytes."""
LINES = 20
"""Lines searched for single quotes."""
ENCODINGS = ["gb18030", "shift_jis", "euc_kr", "big5", "cp1251", "cp1252"]
"""Encodings other than Unicode that are still in use."""
QUOTED = (('"', '"'), ('"', "\\"), ("", ""))
"""Pairs of quote and escape character, tried in this order."""
OPTIONS = "name the file in [dataset.files] and set its separator, quote, escape or encoding"


@dataclass(frozen=True)
class NumberFormat:
    """A number format whose cells are rewritten, such as decimal commas."""

    name: str
    cell: str
    """A regular expression that every cell matches."""
    old: str
    """The text to replace; at least one cell contains it."""
    new: str

    def test(self, column: str) -> str:
        """Returns an SQL expression that is true if a column has this format."""
        name = identifier(column)
        return (
            f"coalesce(bool_and(regexp_full_match(trim({name}), {literal(self.cell)})) "
            f"AND bool_or(contains({name}, {literal(self.old)})), false)"
        )

    def replaced(self, columns: Iterable[str]) -> str:
        """Returns the SQL expressions of the rewritten columns."""
        old, new = literal(self.old), literal(self.new)
        return ", ".join(f"replace({n}, {old}, {new}) AS {n}" for n in map(identifier, columns))


DECIMAL_COMMA = NumberFormat("decimal commas", r"[+-]?\d*(,\d+)?", ",", ".")
INTEGER_FLOAT = NumberFormat("integers written as floats", r"-?\d{1,15}\.0", ".0", "")
"""pandas writes integers like this if a value is missing. Longer ones may have been rounded."""


@dataclass(frozen=True)
class Dialect:
    """The syntax of a CSV file, and its columns."""

    separator: str
    quote: str
    escape: str
    columns: tuple[str, ...]
    has_header: bool
    skip: int

    @property
    def options(self) -> str:
        """The arguments that follow the files in DuckDB's `read_csv`."""
        columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in self.columns)
        return (
            f"auto_detect=false, header={self.has_header}, skip={self.skip}, "
            f"delim={literal(self.separator)}, quote={literal(self.quote)}, "
            f"escape={literal(self.escape)}, columns={{{columns}}}, "
            "hive_types_autocast=false, strict_mode=true, null_padding=false, store_rejects=true"
        )


@dataclass(frozen=True)
class Scan:
    """The result of reading files with a dialect."""

    dialect: Dialect
    rows: int
    unreadable: pl.DataFrame
    suspect_cell: str | None
    """A quoted cell that seems to contain rows, or None."""

    @property
    def unreadable_lines(self) -> int:
        """The number of malformed lines; one unclosed quote can span many lines."""
        return int((self.unreadable["text"].str.count_matches("\n") + 1).sum())

    @property
    def lost(self) -> int:
        """The number of malformed lines, or of all lines if a cell seems to contain rows."""
        return self.unreadable_lines + (self.rows if self.suspect_cell else 0)


class CsvReader:
    """Reads CSV files with DuckDB."""

    def __init__(self, database: duckdb.DuckDBPyConnection, folder: Path) -> None:
        """`folder` receives UTF-8 copies of files in other encodings."""
        self.database, self.folder, self.copies = database, folder, count()
        self.unreadable = pl.DataFrame(schema=UNREADABLE)
        """The malformed lines of all files."""

    def scan(self, path: Path, files: list[Path], file: FileConfig) -> str:
        """Returns the SQL that reads CSV files; columns are matched by name."""
        encoding = file.encoding or detected_encoding(files[0])
        if encoding != "utf-8":
            files = self._copied(path, files, encoding)
        try:
            return self._in_groups(path, files, file)
        except duckdb.InvalidInputException:
            # Retry on copies with uniform line endings, which DuckDB requires.
            files = self._copied(path, files, "utf-8")
        try:
            return self._in_groups(path, files, file)
        except duckdb.InvalidInputException as error:
            reason = str(error).partition("\n")[0]
            raise DataError(f"{path}: cannot be read as CSV: {reason}; {OPTIONS}") from error

    def _in_groups(self, path: Path, files: list[Path], file: FileConfig) -> str:
        """Returns the SQL that reads UTF-8 files, grouped by dialect and columns."""
        dialects = {one: detected_dialect(one, file) for one in files}
        for one, dialect in dialects.items():
            if twice := sorted(Counter(dialect.columns) - Counter({*dialect.columns})):
                raise DataError(f"{one}: duplicate columns {', '.join(twice)}; rename one of each")
        groups = [(dialect, [*group]) for dialect, group in groupby(files, dialects.__getitem__)]
        first = groups[0][0]
        notes = []
        if (first.separator, first.quote, first.escape) != (",", '"', '"'):
            notes.append(f"separator {first.separator!r}, quote {first.quote!r}")
        scans = []
        for detected, group in groups:
            if differing := set(detected.columns) ^ set(first.columns):
                notes.append(f"{', '.join(sorted(differing))} not in every file ({group[0].name})")
            dialect = self._best_quotes(path, group, detected, file)
            scan = f"read_csv({paths(group)}, {dialect.options})"
            if file.file_column:
                scan = with_file_name(scan, file.file_column)
            has_commas = file.decimal == "," or (not file.decimal and dialect.separator != ",")
            for number in (DECIMAL_COMMA, INTEGER_FLOAT) if has_commas else (INTEGER_FLOAT,):
                if columns := self._columns_in(number, scan, dialect.columns):
                    notes.append(f"{number.name} in {', '.join(columns)}")
                    scan = f"(SELECT * REPLACE ({number.replaced(columns)}) FROM {scan})"
            # Spreadsheets write empty rows as separators alone.
            cells = ", ".join(map(identifier, dialect.columns))
            scans.append(f"SELECT * FROM {scan} WHERE coalesce({cells}) IS NOT NULL")
        if notes:
            console.print(f"  {path}: {'; '.join(notes)}", soft_wrap=True)
        return f"({' UNION ALL BY NAME '.join(scans)})"

    def _best_quotes(
        self, path: Path, files: list[Path], dialect: Dialect, file: FileConfig
    ) -> Dialect:
        """Returns the dialect with the quote and escape that lose the fewest lines.

        The first lines do not show how quotes are escaped if the first quote comes much later.
        """
        is_given = file.quote is not None or file.escape is not None
        scans: list[Scan] = []
        for quote, escaped in dict.fromkeys([(dialect.quote, dialect.escape), *QUOTED]):
            scans.append(self._scanned(files, replace(dialect, quote=quote, escape=escaped)))
            if is_given or not scans[-1].lost:
                break
        best = min(scans, key=lambda scan: scan.lost)
        if best.suspect_cell and not is_given:
            raise DataError(
                f"{path}: a quoted cell seems to contain rows: {best.suspect_cell[:200]!r}; "
                f"{OPTIONS}"
            )
        lost, lines = best.unreadable_lines, best.rows + best.unreadable_lines
        if lost > MAX_UNREADABLE * lines:
            examples = best.unreadable.head(EXAMPLES).select("line", "reason", "text").rows()
            raise DataError(
                f"{path}: {lost:,} of {lines:,} lines cannot be parsed into "
                f"{len(dialect.columns)} columns, for example (line, reason, text) "
                f"{str(examples)[:500]}; correct them, or {OPTIONS}"
            )
        self.unreadable = pl.concat([self.unreadable, best.unreadable])
        return best.dialect

    def _scanned(self, files: list[Path], dialect: Dialect) -> Scan:
        """Reads files with a dialect; returns the number of rows and the malformed lines."""
        for table in ("reject_errors", "reject_scans"):
            self.database.execute(f"DROP TABLE IF EXISTS {table}")
        between, separator = len(dialect.columns) - 1, re.escape(dialect.separator)
        # Some line of prose has as many commas as a row, but not each, and spaces follow them.
        other = rf"[^\n{separator}]*"
        row = rf"\n{other}({separator}([^\s{separator}]{other})?){{{between}}}"
        swallowed = rf"^[^\n]*({row})+(\n[^\n]*)?$"
        if between == 1:  # a line of prose may contain a comma; a row begins with a code
            swallowed = rf"\n[^\s{separator}]*\d[^\s{separator}]*{separator}"
        cells = ", ".join(
            f"any_value({cell}) FILTER (contains({cell}, chr(10)) "
            f"AND regexp_matches({cell}, {literal(swallowed)}))"
            for cell in map(identifier, dialect.columns)
        )
        ((rows, *suspect_cells),) = self.database.sql(
            f"SELECT count(*), {cells} FROM read_csv({paths(files)}, {dialect.options})"
        ).fetchall()
        rejected = self.database.sql(
            "SELECT file_path AS file, line, lower(error_type::VARCHAR) AS reason, "
            "csv_line AS text, line_byte_position - 1 AS start "
            "FROM reject_errors JOIN reject_scans USING (scan_id, file_id) ORDER BY file, start"
        ).pl()
        # A line can have more than one error.
        rejected = rejected.unique(["file", "start"], maintain_order=True)
        lines = rejected.with_columns(end=pl.col("start").shift(-1).over("file"))
        texts = [
            record_at(Path(file), start, end, dialect) if len(text.encode()) >= LONGEST else text
            for file, text, start, end in lines.select("file", "text", "start", "end").iter_rows()
        ]
        unreadable = lines.with_columns(text=pl.Series(texts, dtype=pl.String))
        unreadable = unreadable.select(*UNREADABLE).cast(UNREADABLE)
        return Scan(dialect, rows, unreadable, next(filter(None, suspect_cells), None))

    def _columns_in(self, number: NumberFormat, scan: str, columns: Iterable[str]) -> list[str]:
        """Returns the columns that have a number format in all cells."""
        columns = list(columns)
        for source in (f"(SELECT * FROM {scan} LIMIT {SAMPLE})", scan):
            if columns:
                tests = ", ".join(map(number.test, columns))
                (row,) = self.database.sql(f"SELECT {tests} FROM {source}").fetchall()
                columns = [name for name, matches in zip(columns, row, strict=True) if matches]
        return columns

    def _copied(self, path: Path, files: Sequence[Path], encoding: str) -> list[Path]:
        """Writes UTF-8 copies with uniform line endings; raises DataError for another encoding.

        The copies keep their relative paths, which can hold values such as `city=Bonn`.
        """
        folder = self.folder / f"copy-{next(self.copies)}"
        copies = []
        for file in files:
            below = file.relative_to(path) if file != path else file.name
            copies.append(folder / re.sub(COMPRESSED, "", str(below), flags=re.I))
            copies[-1].parent.mkdir(parents=True, exist_ok=True)
            try:
                with copies[-1].open("w", encoding="utf-8", newline="\n") as copy:
                    copy.writelines(decoded(file, encoding))
            except (UnicodeError, LookupError) as error:
                raise DataError(
                    f"{file}: cannot be read in the encoding {encoding}: {error}; {OPTIONS}"
                ) from error
        return copies


def detected_dialect(path: Path, file: FileConfig, encoding: str = "utf-8") -> Dialect:
    """Returns the dialect of a file, detected from its first lines.

    A column without a name becomes `column_<number>`.
    """
    lines = next(decoded(path, encoding)).removeprefix("\ufeff").split("\n")[file.skip :]
    blank = next((n for n, line in enumerate(lines) if line.strip()), 0)
    outside = QUOTES.sub("", lines[blank])
    frequent = "::" if outside.count("::") > 1 else max(SEPARATORS, key=outside.count)
    spaces = {line.strip().count(" ") for line in lines[blank : blank + LINES] if line.strip()}
    if frequent not in outside and len(spaces) == 1 and min(spaces) and len(lines) > LINES:
        frequent = " "
    separator = file.separator or frequent
    cells = [cell for line in lines[blank : blank + LINES] for cell in line.split(separator)]
    single = any(SINGLE.fullmatch(cell) for cell in cells)
    quote = "'" if single and not any(cell.startswith('"') for cell in cells) else '"'
    quote = quote if file.quote is None else file.quote
    if file.columns:
        names = file.columns
    elif len(separator) == 1:
        header = csv.reader(lines[blank:], delimiter=separator, quotechar=quote or None)
        names = [name.strip() for name in next(header)]
    else:
        names = [name.strip() for name in lines[blank].split(separator)]
    columns = tuple(name or f"column_{number}" for number, name in enumerate(names, 1))
    return Dialect(
        separator, quote, file.escape or '"', columns, not file.columns, file.skip + blank
    )


def record_at(path: Path, start: int, end: int | None, dialect: Dialect) -> str:
    """Returns the record that begins at byte `start` and ends before byte `end`."""
    taken: list[str] = []

    def lines(stream: Iterable[bytes]) -> Iterator[str]:
        position = start
        for line in stream:
            if end is not None and position >= end:
                break
            position += len(line)
            taken.append(line.decode(errors="replace"))
            yield taken[-1]

    with io.BufferedReader(opened(path)) as stream:
        left = start
        while left and (block := stream.read(min(left, BLOCK))):
            left -= len(block)
        csv.field_size_limit(sys.maxsize)
        record = csv.reader(
            lines(stream),
            delimiter=dialect.separator[0],
            quotechar=dialect.quote or None,
            quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
            doublequote=dialect.escape == dialect.quote,
            escapechar=None if dialect.escape == dialect.quote else dialect.escape or None,
        )
        with suppress(csv.Error):
            next(record)
    return "".join(taken).rstrip("\r\n")


def detected_encoding(path: Path) -> str:
    """Returns the encoding of a file, from its byte order mark or the first block beyond ASCII."""
    with opened(path) as stream:
        beginning = stream.read(BLOCK)
        while beginning.isascii() and (block := stream.read(BLOCK)):
            beginning = block
    # The mark of UTF-16 is the beginning of that of UTF-32.
    if beginning.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        # The block may end within a character, which an incremental decoder accepts.
        codecs.getincrementaldecoder("utf-8")().decode(beginning)
    except UnicodeDecodeError:
        best = from_bytes(beginning, cp_isolation=ENCODINGS).best()
        if best is None:
            raise DataError(f"{path}: is not in UTF-8; {OPTIONS}") from None
        example = re.search(r".{0,30}[^\x00-\x7f].{0,30}", str(best))
        shown = f", such as {example[0]!r}; set encoding if that is wrong" if example else ""
        console.print(f"  {path}: read as {best.encoding}{shown}", soft_wrap=True)
        return best.encoding
    return "utf-8"


def decoded(path: Path, encoding: str) -> Iterator[str]:
    """Yields the text of a file block by block, with line feeds as line endings."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(), translate=True)
    with opened(path) as stream:
        while block := stream.read(BLOCK):
            yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def opened(path: Path) -> pa.NativeFile:
    """Opens a file, decompressing it if necessary."""
    return pa.input_stream(str(path), compression="detect")
