"""Fuzzes `larr prepare` with damaged tables: it must read, reject or refuse them without loss.

    python benchmarks/fuzz_tables.py [--tables 5000] [--seed 1] [--only 17]

Each case is a small log with places and users, as CSV in a random dialect or Parquet with random
types, with up to three kinds of damage in one table. A case fails if larr raises anything but its
own errors, if the accepted and rejected rows together differ from the rows written, or if a note is
lost.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import random
import re
import sys
import tempfile
import traceback
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from larr.data.datasets import own_tables
from larr.data.log import Log, check_tables
from larr.data.prepare import prepare
from larr.errors import LarrError
from larr.progress import console
from larr.settings import load_config

ROWS, PLACES, USERS = 300, 9, 7
CONFIG = """
[features]
categories = ["user_id", "poi_id", "poi_kitchen", "weather", "note"]
numbers = ["poi_ctr", "distance_km", "poi_rating", "poi_seats"]
candidate_columns = ["distance_km", "note"]
[[keywords]]
name = "title"
owner = "poi"
view = "business"
prompt = true
template = "{poi_name}"
[[keywords]]
name = "kitchen"
owner = "poi"
view = "basic"
template = "{poi_kitchen}[, {poi_tags}]"
[[keywords]]
name = "scene"
owner = "scene"
view = "action"
template = "{meal_slot}[, {weather}]"
"""
WORDS = (
    "Käse, mild",
    'say "hi"',
    "two\nlines",
    "plain",
    "麻婆豆腐",
    "Борщ",
    "a;b",
    "a\tb",
    "back\\",
    "'q'",
)
CELLS = (
    "", " ", "NULL", "nan", "-", "N/A", "None", "\\N", "inf", "-inf", "1e999", "-1", "1e308",
    "0x1F", "+49", "1.10", "007", "1e3", "3,5", "2.5", "true", "2", "99999999999999999999",
    "2024-13-45", "12:00", "04/05/2024", "1712000000", "</title>", "{x}", "[y]", "😀", "\u0000",
    "=1+1", "x" * 70_000,
)  # fmt: skip
NAMES = (
    "row_number", "row", "row_nr", "index", "recent", "day", "hour", "a/b", "[x]", "{y}",
    "scales", "len", "literal", "poi_name", "user_id ", "request", "chain", "text_id", "../up",
    "split", "weight", "", "log_row", "file", "line", "reason", "keys", "labels", "known",
    "count", "draw", "number", "places", "ä b",
)  # fmt: skip


def tables(rng: random.Random) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of a valid log, places and users."""
    start = datetime(2024, 4, 1, 8)
    places = [
        {"poi_id": f"p{n}", "name": rng.choice(WORDS), "kitchen": rng.choice(WORDS),
         "tags": "hot, new", "rating": n / 2, "seats": n, "lat": 30.0 + n, "lon": 104.5}
        for n in range(PLACES)
    ]  # fmt: skip
    log = [
        {"request_id": f"r{n // 3}", "user_id": n // 3 % USERS, "poi_id": f"p{(n * 7) % PLACES}",
         "time": str(start + timedelta(minutes=n // 3 * 25)), "click": int(n % 3 == 1),
         "order": int(n % 9 == 1), "weather": ["sunny", "rain"][n // 3 % 2],
         "distance_km": n / 4, "note": f"note {n}"}
        for n in range(ROWS)
    ]  # fmt: skip
    users = [{"user_id": n, "gender": rng.choice("fm")} for n in range(USERS)]
    return {"places": places, "users": users, "impressions": log}


def damage_rows(rows: list[dict[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
    """Returns rows with damaged cells, columns or rows."""
    kind = rng.randrange(8)
    column = rng.choice(list(rows[0]))
    if kind <= 2:
        for row in rng.sample(rows, rng.choice((1, 2, len(rows)))):
            row[column] = rng.choice(CELLS)
    elif kind == 3 and len(rows[0]) > 1:
        rows = [{name: value for name, value in row.items() if name != column} for row in rows]
    elif kind == 4:
        name, values = rng.choice(NAMES), rng.choice((CELLS, range(9)))
        rows = [row | {name: values[n % len(values)]} for n, row in enumerate(rows)]
    elif kind == 5:
        rows = rows + rng.sample(rows, 2)
    elif kind == 6:
        rows = rows[: rng.choice((1, 5))]
    else:
        rows = [row | {column: None} for row in rows]
    return [dict(row) for row in rows]


def damage_bytes(content: bytes, rng: random.Random) -> bytes:
    """Returns the content of a CSV file with damaged bytes."""
    at = rng.randrange(len(content) + 1)
    added = rng.choice(
        (b'"', b"\n", b"\r\n", b",", b";", b"\x00", b"\xff\xfe", b'\\"', b"\n\n", b"\xef\xbb\xbf")
    )
    kind = rng.randrange(4)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + content[min(len(content), at + rng.randint(1, 30)) :]
    return content[:at] + added + content[at:]


def write_csv(rows: list[dict[str, Any]], folder: Path, name: str, rng: random.Random) -> Path:
    """Writes rows as CSV in a random dialect."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    doubled, end = rng.random() < 2 / 3, rng.choice(("\n", "\r\n"))
    written = io.StringIO()
    writer = csv.DictWriter(
        written,
        columns,
        delimiter=rng.choice(",,;\t|"),
        quoting=rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
        doublequote=doubled,
        escapechar=None if doubled else "\\",
        lineterminator=end,
    )
    writer.writeheader()
    writer.writerows(rows)
    text = written.getvalue().removesuffix(rng.choice(("", end)))
    encoding = rng.choice(("utf-8",) * 4 + ("utf-8-sig", "utf-16", "latin-1", "gb18030"))
    try:
        content = text.encode(encoding)
    except UnicodeEncodeError:
        content = text.encode()
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        content = damage_bytes(content, rng)
        (folder / "damaged").write_text(content.decode(encoding, errors="replace"))
    ending = rng.choice(("csv", "csv", "csv.gz", "csv.zst"))
    path = folder / f"{name}.{ending}"
    if ending == "csv.gz":
        content = gzip.compress(content)
    if ending == "csv.zst":
        with pa.output_stream(path, compression="zstd") as stream:
            stream.write(content)
    else:
        path.write_bytes(content)
    return path


TYPES = (
    pl.Int32, pl.UInt64, pl.Float32, pl.Float64, pl.String, pl.Categorical, pl.Decimal(20, 2),
    pl.Boolean, pl.Binary, pl.List(pl.String), pl.Datetime("ns"),
    pl.Datetime("us", "Asia/Shanghai"), pl.Date, pl.Null,
)  # fmt: skip


def write_parquet(rows: list[dict[str, Any]], folder: Path, name: str, rng: random.Random) -> Path:
    """Writes rows to two Parquet files, some columns with a random type."""
    frame = (
        pl.DataFrame(rows, infer_schema_length=None, strict=False)
        if rows
        else pl.DataFrame({"poi_id": []})
    )
    for column in rng.sample(frame.columns, min(2, frame.width)):
        try:
            frame = frame.with_columns(pl.col(column).cast(rng.choice(TYPES)))
        except pl.exceptions.PolarsError:
            continue
    path = folder / name
    path.mkdir()
    half = frame.height // 2
    second = frame[half:].select(rng.sample(frame.columns, frame.width))
    frame[:half].write_parquet(path / "0.parquet")
    second.write_parquet(path / "1.parquet")
    return path


def write_plain(rows: list[dict[str, Any]], folder: Path, name: str) -> Path:
    """Writes undamaged rows."""
    path = folder / f"{name}.parquet"
    pl.DataFrame(rows, infer_schema_length=None, strict=False).write_parquet(path)
    return path


def outcome(number: int, seed: int, folder: Path) -> tuple[str, str]:
    """Writes and prepares a case; returns the outcome and the details."""
    rng = random.Random(f"{seed}/{number}")  # noqa: S311 - nothing secret
    rows = tables(rng)
    victim = rng.choice((*rows, "impressions"))
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        if len(rows[victim]) > 1:
            rows[victim] = damage_rows(rows[victim], rng)
    write = rng.choice((write_csv, write_csv, write_parquet))
    paths = {name: write_plain(rows[name], folder, name) for name in rows if name != victim}
    paths[victim] = write(rows[victim], folder, victim, rng)
    (folder / "mine.toml").write_text(CONFIG)
    settings = [f"dataset.tables.{name}={path}" for name, path in paths.items()]
    config = load_config(folder / "mine.toml", [f"output={folder}/out", *settings])
    try:
        checked = folder / "checked"
        checked.mkdir()
        log = check_tables(config, own_tables(config, checked / "raw"), checked)
        lost = losses(log, checked, rows, victim, folder)
        prepare(config)
    except LarrError as error:
        return "refused", str(error)
    except Exception:
        return "FAILED", traceback.format_exc()
    return ("LOST", lost) if lost else ("kept", "")


def losses(log: Log, checked: Path, rows: dict[str, Any], victim: str, folder: Path) -> str:
    """Returns how the accepted and rejected rows differ from the rows written; empty if equal.

    Counts rows in files with undamaged bytes. In a file with damaged bytes, each note that remains
    as a word must occur in an accepted row or among the rejected ones.
    """
    kept = {"places": log.places, "users": log.users, "impressions": log.scan().collect()}
    rejected = {
        name: [
            pl.read_parquet(path)
            for path in (checked / "rejected").glob(f"{name}*")
            if not path.stem.endswith("values")
        ]
        for name in (*rows, "lines")
    }
    lines = "\n".join(text for frame in rejected["lines"] for text in frame["text"])
    is_cut = (folder / "damaged").exists()
    for name, given in rows.items():
        found = kept[name].height + sum(frame.height for frame in rejected[name])
        if not (is_cut and name == victim) and not lines and found != len(given):
            return f"{name}: {found} rows accepted or rejected, {len(given)} written"
    notes = {str(row["note"]) for row in rows["impressions"] if row.get("note")}
    frames = [kept["impressions"], *rejected["impressions"]]
    seen = {str(note) for frame in frames if "note" in frame.columns for note in frame["note"]}
    if is_cut:
        content = (folder / "damaged").read_text(encoding="utf-8", errors="replace")
        notes = {note for note in notes if re.search(rf"(?<!\w){re.escape(note)}(?!\w)", content)}
    everything = set(re.findall(r"note \d+", lines + "\n".join(seen)))
    missing = [note for note in notes - everything if note.startswith("note ")]
    return f"{len(missing)} rows are lost: {missing[:5]}" if missing else ""


def main() -> None:
    """Prints the number of cases by outcome; exits with 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int)
    options = parser.parse_args()
    console.quiet = options.only is None
    counts: Counter[str] = Counter()
    numbers = range(options.tables) if options.only is None else [options.only]
    for number in numbers:
        with tempfile.TemporaryDirectory(prefix="larr-fuzz-") as folder:
            what, details = outcome(number, options.seed, Path(folder))
        counts[what] += 1
        if what.isupper() or options.only is not None:
            print(f"case {number}: {what}: {details}", flush=True)
        if number % 250 == 249:
            print(f"{number + 1:,} tables: {dict(counts)}", flush=True)
    print(f"{sum(counts.values()):,} tables: {dict(counts)}")
    sys.exit(any(what.isupper() for what in counts))


if __name__ == "__main__":
    main()
