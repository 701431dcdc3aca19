"""Finds the tables of a folder, in files, archives and databases, for `larr init`."""

from __future__ import annotations

import gzip
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import duckdb

from larr.config.data import FileConfig
from larr.data.files import HIDDEN
from larr.data.sql import ENDING
from larr.errors import DataError
from larr.progress import console

NO_TABLE = re.compile(
    r"^(readme|licen[cs]e|changelog|copying|sha256|md5)|"
    r"\.(md|rst|html?|pdf|ipynb|py|pl|sh|r|toml|ya?ml|npy|npz|png|jpe?g|svg|docx?)$",
    re.IGNORECASE,
)
"""Names of files that are ignored."""
NOT_DATA = {
    rb"<!doctype html|<html": "a web page instead of the data; download the file itself",
    rb"version https://git-lfs": "a pointer of Git LFS instead of the data; download the file "
    "itself",
    rb"\{\s*u?'": "Python literals, with single quotes, instead of JSON; convert them, for example "
    'with python -c "import ast, json, sys; '
    '[print(json.dumps(ast.literal_eval(line))) for line in sys.stdin]" < FILE > NEW.json',
    rb"[-+]?[\d.]+( \d+:[-+\d.e]+)+\s*\n": "a LIBSVM file: its numbers name no users and places, "
    "which larr needs; export the table that it was made from",
}
"""Beginning of files that are no tables -> what they are, and what to do."""
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2")
DATABASES = {".duckdb": "duckdb", ".db": "sqlite", ".sqlite": "sqlite", ".sqlite3": "sqlite"}


def sources(path: Path, unpacked: Path, *, is_given: bool = False) -> Iterator[Path]:
    """Yields the files below a folder; a folder with the parts of one table is yielded itself."""
    if not is_given and (path.name.startswith(HIDDEN) or NO_TABLE.search(path.name)):
        return
    if path.name.lower().endswith(ARCHIVES):
        folder = unpacked / path.name.partition(".")[0]
        if not folder.exists():
            safe = {} if path.suffix.lower() == ".zip" else {"filter": "data"}
            shutil.unpack_archive(path, folder, **safe)  # type: ignore[arg-type]
            console.print(f"  {path}: unpacked to {folder}", soft_wrap=True)
        path = folder
    if not path.is_dir():
        yield path
        return
    inside = [child for child in sorted(path.iterdir()) if not child.name.startswith(HIDDEN)]
    stems = {re.sub(r"[\d_.-]+|(?<=-)[0-9a-f]{8,}.*", "", child.name) for child in inside}
    is_split = len(inside) > 1 and len(stems) == 1 and re.search(ENDING, inside[0].name, re.I)
    if (is_split and not is_given) or any("=" in child.name for child in inside):
        yield path
        return
    for child in inside:
        yield from sources(child, unpacked)


def tables_in(path: Path) -> Iterator[tuple[str, FileConfig]]:
    """Yields the name and source of each table in a file, database, or folder of parts."""
    if path.suffix.lower() in (".xls", ".xlsx"):
        raise DataError("an Excel workbook; save each of its sheets as CSV")
    kind = DATABASES.get(path.suffix.lower())
    if path.is_file():
        beginning = b""
        opened = gzip.open if path.suffix == ".gz" else open
        with suppress(OSError, EOFError), opened(path, "rb") as stream:  # fails again when read
            beginning = stream.read(1000)
        for pattern, reason in NOT_DATA.items():
            if re.match(rb"\s*(?:" + pattern + rb")", beginning, re.IGNORECASE):
                raise DataError(reason)
    if kind is None:
        yield re.sub(ENDING, "", path.name, flags=re.I), FileConfig(path=path)
        return
    if kind == "duckdb":
        with duckdb.connect(str(path), read_only=True) as database:
            names = database.sql("SELECT table_name FROM information_schema.tables").fetchall()
    else:
        query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
        names = sqlite3.connect(f"file:{path}?mode=ro", uri=True).execute(query).fetchall()
    for (name,) in sorted(names):
        yield name, FileConfig(uri=f"{kind}:///{path.resolve()}", query=f'SELECT * FROM "{name}"')
