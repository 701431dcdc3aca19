"""Samples negatives (unclicked places) for logs in which every row is a click.

The negatives of a request depend only on its ID, not on the seed of a run or the division of the
log into files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from larr.config import Config
from larr.config.data import NegativesConfig
from larr.data.names import INTERNAL, PLACE, ROWS
from larr.errors import ConfigError, DataError
from larr.progress import console, track

ROW, DRAW, NUMBER, PLACES, FIRST, LAST, START = (
    f"{INTERNAL}{name}" for name in ("row", "draw", "number", "places", "first", "last", "start")
)
TRIES, ROUNDS = 5, 4
"""Draws per negative, as some draws are repeated, clicked or unavailable places, and how often
more are drawn for requests that still lack negatives."""


def add_negatives(
    config: Config,
    wanted: NegativesConfig,
    places: pl.DataFrame,
    files: list[Path],
    split: Callable[[pl.LazyFrame], pl.LazyFrame],
    *,
    is_dated: bool,
) -> float:
    """Adds negatives to the files of the log, next to the first click of each request.

    `split` adds the column `split` to rows, which is then written to the files; `is_dated` is
    whether the log has times. Returns the share of the available places that was sampled. The odds
    predicted by a model of these rows, times this share, are the odds among all places.
    """
    log = split(pl.scan_parquet(files))
    _check(config, wanted, places.columns, log.drop(ROWS.values()).collect_schema().names())
    clicks = log.filter(pl.col("click"))
    available = _available(clicks, places, wanted, is_dated=is_dated)
    taken = clicks.select(*wanted.not_taken_in, "poi_id").unique().collect(engine="streaming")
    first = _first_files(files)
    total = log.select(pl.len()).collect(engine="streaming").item()
    requests, drawn, eligible = 0, 0, 0.0
    with track("sampling places", total, "rows") as advance:
        for number, path in enumerate(files):
            rows = split(pl.scan_parquet(path)).collect().with_row_index(ROW)
            read = rows.height
            clicked = rows.filter(pl.col("click")).unique("request_id", maintain_order=True)
            earlier = first.filter(pl.col("file") < number)
            clicked = clicked.join(earlier, on="request_id", how="anti", maintain_order="left")
            sampled, possible = _sampled(clicked, available, taken, wanted)
            eligible += possible
            requests, drawn = requests + clicked.height, drawn + sampled.height
            rows = pl.concat([rows, sampled.select(rows.columns)]).sort(ROW, maintain_order=True)
            rows.drop(ROW).write_parquet(path)
            advance(read)
    if not drawn:
        raise DataError("dataset.negatives: no unclicked place is available")
    share = drawn / eligible
    console.print(
        f"  sampled {drawn:,} unclicked places, {drawn / requests:.1f} per request, {share:.1%} of "
        "those available"
    )
    return share


def _check(config: Config, wanted: NegativesConfig, places: list[str], log: list[str]) -> None:
    """Raises ConfigError for columns that are missing or unknown for sampled places."""
    if lacking := [name for name in config.features.candidate_columns if name in log]:
        raise ConfigError(
            f"features.candidate_columns: {', '.join(lacking)} is unknown for the places that "
            "[dataset.negatives] samples, so it would reveal the click; remove it from the "
            "impressions (SELECT * EXCLUDE ...), or compute it from columns of places and requests"
        )
    for where, names, columns in (
        ("within", wanted.within, [name for name in places if name in log]),
        ("not_taken_in", wanted.not_taken_in, log),
    ):
        if absent := [name for name in names if name not in columns]:
            raise ConfigError(
                f"dataset.negatives.{where}: no column {', '.join(absent)}; expected some of "
                f"{', '.join(columns) or 'none that places and impressions have in common'}"
            )


def _available(
    clicks: pl.LazyFrame, places: pl.DataFrame, wanted: NegativesConfig, *, is_dated: bool
) -> pl.DataFrame:
    """Returns the available places, numbered within each split and group of `within`.

    Training rows sample from the places clicked in training rows, test rows from all. A place is
    taken to be available from its first to its last click, and as long before and after as lies
    between two clicks on average; if it has one click, as long before and after as other places
    are available on average. Otherwise a rare place would be new in clicked rows only, or, if it
    were always available, old in nearly all others. If the column `since` of places has its start,
    it is available from then.
    """
    day, count = pl.col("day").to_physical(), pl.col("clicks")
    gap = (pl.col(LAST) - pl.col(FIRST)) / (count - 1)
    duration = (pl.col(LAST) - pl.col(FIRST) + 2 * gap).filter(count > 1).mean()
    gap_of_one = duration.fill_null(np.inf) if is_dated else pl.lit(np.inf)
    gap = pl.when(count > 1).then(gap).otherwise(gap_of_one)
    per_split = [
        clicks.filter(pl.col("split").is_in(splits))
        .group_by("poi_id")
        .agg(day.min().alias(FIRST), day.max().alias(LAST), clicks=pl.len().cast(pl.Int64))
        .select("poi_id", pl.col(FIRST) - gap, pl.col(LAST) + gap, split=pl.lit(split))
        for split, splits in (("train", ["train"]), ("test", ["train", "test"]))
    ]
    available = pl.concat(per_split).sort("split", "poi_id").collect(engine="streaming")
    start = pl.col("since") if "since" in places.columns else pl.lit(None, pl.Datetime("us"))
    places = places.with_row_index(PLACE, offset=1)
    places = places.select("poi_id", PLACE, *wanted.within, start.alias(START))
    group = ["split", *wanted.within]
    return available.join(places, on="poi_id", maintain_order="left").with_columns(
        pl.when(pl.col(START).is_null()).then(FIRST).otherwise(-np.inf).alias(FIRST),
        pl.int_range(pl.len(), dtype=pl.UInt64).over(group).alias(NUMBER),
        pl.len().over(group).cast(pl.UInt64).alias(PLACES),
    )


def _first_files(files: list[Path]) -> pl.DataFrame:
    """Returns the first `file` of each request that is divided among files."""
    requests = [
        pl.scan_parquet(path).select(pl.col("request_id").unique(), file=pl.lit(number))
        for number, path in enumerate(files)
    ]
    first = pl.concat(requests).group_by("request_id").agg(pl.col("file").min(), files=pl.len())
    return first.filter(pl.col("files") > 1).drop("files").collect(engine="streaming")


def _sampled(
    clicked: pl.DataFrame, available: pl.DataFrame, taken: pl.DataFrame, wanted: NegativesConfig
) -> tuple[pl.DataFrame, float]:
    """Returns negatives for clicked rows, one of each request, and how many places were available.

    The negatives of a row are distinct places that are not `taken`.
    """
    group, draws = ["split", *wanted.within], wanted.per_request * TRIES
    sizes = available.select(*group, PLACES).unique()
    used = dict.fromkeys((ROW, "request_id", "day", "time", *group, *wanted.not_taken_in))
    rows = clicked.select(*used).join(sizes, on=group, maintain_order="left")
    lacking, found, possible = rows, [], 0.0
    for number in range(ROUNDS):
        drawn = _drawn(lacking, range(number * draws, (number + 1) * draws), available, group)
        if not number and rows.height:
            possible = float(rows[PLACES].sum()) * drawn.height / (rows.height * draws)
        found.append(drawn.join(taken, on=taken.columns, how="anti", maintain_order="left"))
        sampled = pl.concat(found).unique([ROW, "poi_id"], maintain_order=True)
        sampled = sampled.group_by(ROW, maintain_order=True).head(wanted.per_request)
        enough = sampled.group_by(ROW).len().filter(pl.col("len") == wanted.per_request)
        lacking = lacking.join(enough, on=ROW, how="anti", maintain_order="left")
        if lacking.is_empty():
            break
    rest = clicked.drop("poi_id", PLACE, "click", "order")
    sampled = sampled.select(ROW, "poi_id", PLACE).join(rest, on=ROW, maintain_order="left")
    labels = (pl.lit(value=False).alias(name) for name in ("click", "order"))
    return sampled.with_columns(labels), possible


def _drawn(
    rows: pl.DataFrame, draws: range, available: pl.DataFrame, group: list[str]
) -> pl.DataFrame:
    """Returns the available places among those that are drawn for each row."""
    rows = rows.with_columns(pl.lit([*draws]).alias(DRAW)).explode(DRAW)
    draw = pl.concat_str("request_id", DRAW, separator="|").hash()
    rows = rows.with_columns((draw % pl.col(PLACES)).alias(NUMBER))
    rows = rows.join(available.drop(PLACES), on=[*group, NUMBER], maintain_order="left")
    has_started = (pl.col(START) <= pl.col("time")).fill_null(value=True)
    return rows.filter(pl.col("day").to_physical().is_between(FIRST, LAST) & has_started)
