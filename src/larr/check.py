"""`larr check`: validates the tables as `larr prepare` does, and looks for label leaks.

Only labels of training rows are read.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import polars as pl

from larr import metrics
from larr.config import Config
from larr.data.columns import check_columns, used_columns
from larr.data.contract import NEVER_FEATURES
from larr.data.datasets import dataset
from larr.data.default_pairs import with_pairs
from larr.data.features import sample
from larr.data.log import Log, check_tables, single_row_warning
from larr.data.transforms import TIME_COLUMNS
from larr.errors import DataError
from larr.init.kinds import share
from larr.init.left_out import is_outcome, only_clicked
from larr.init.words import has_role
from larr.progress import console

MAX_ROWS = 200_000
"""Training rows in the sample."""
MAX_AUC = 0.95
"""A column that alone predicts clicks with a higher AUC is derived from the click."""
HIGH_AUC = 0.75
"""A column of the log with a higher AUC may be a consequence of the click, such as a rating."""
CLUE = (
    "it alone predicts the training clicks well, AUC {:.3f}; check that it is known before the "
    "impression, and no rating or result of it"
)
MAX_GAP = 0.5
"""If the shares of clicked and unclicked rows with a value differ by more, the value's presence may
depend on the outcome."""
MAX_CORRELATION = 0.9
"""A column of places or users is a count of the log if its rank correlation with one is higher."""
MIN_COUNTED = 10
"""Places or users with a value that are needed for a correlation."""
MAX_NEW, MAX_REPEATED = 0.5, 0.01
"""Shares of test rows with a new user or place, and of repeated rows, above which check warns."""
MIN_RARER_LABEL = 100
"""Test rows of the rarer label that are needed for a useful comparison."""
FOLDS, PRIOR = 5, 1.0
"""Folds of the cross-validated click rates, and the rows of the mean rate added to each value."""
NOT_CHECKED = {
    *("request_id", "user_id", "poi_id", "time", "position"),
    *NEVER_FEATURES,
    *TIME_COLUMNS,
}


def check(config: Config) -> None:
    """Reads and checks the tables, and prints possible problems.

    Writes rejected rows to `check/rejected/` in the output folder. Raises DataError for invalid
    tables and for leaking columns, ConfigError for settings that do not fit the tables.
    """
    source, folder = dataset(config), config.output / "check"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        tables = source.tables(config, folder / "raw")
        log = check_tables(config, tables, folder, folder / "rejected")
        check_columns(with_pairs(config, log), log)
        console.print(f"  {log.places.height:,} places, {log.users.height:,} users")
        leaks = list(_leaks(config, log))
        wrong = [finding for finding, is_certain in leaks if is_certain]
        warnings = [finding for finding, is_certain in leaks if not is_certain]
        warnings += [*_counts(log), *_split(log)]
        for warning in warnings:
            console.print(f"  warning: {warning}", soft_wrap=True)
    finally:
        for scratch in ("raw", "checked"):
            shutil.rmtree(folder / scratch, ignore_errors=True)
    if wrong:
        lines, names = "\n- ".join(wrong), ",".join(finding.partition(":")[0] for finding in wrong)
        raise DataError(
            f"{len(wrong)} columns must be removed from the configuration, where they are read, or "
            f"with a new draft: larr init FOLDER --without {names}\n- {lines}"
        )
    console.print(f"  no errors found{'; see the warnings above' * bool(warnings)}")


def _leaks(config: Config, log: Log) -> Iterator[tuple[str, bool]]:
    """Yields columns that reveal the outcome, and whether they certainly leak and are read."""
    used = used_columns(config)
    rows = sample(log.training(), MAX_ROWS)
    log_columns = [name for name in log.schema() if name not in NOT_CHECKED]
    rows = rows.join(log.places, on="poi_id", how="left", maintain_order="left")
    rows = rows.join(log.users, on="user_id", how="left", maintain_order="left")
    names = [*log_columns, *log.places.columns, *log.users.columns]
    click = rows["click"]
    for name in dict.fromkeys(names):
        if name in NOT_CHECKED or rows[name].dtype.is_nested():
            continue
        is_used = name in used
        has_value = rows[name].is_not_null()
        clicked, not_clicked = share(has_value.filter(click)), share(has_value.filter(~click))
        auc = _auc(rows.select("request_id", "click", value=name))
        shares = f"{clicked:.0%} of the clicked rows have a value, {not_clicked:.0%} of the others"
        if only_clicked(has_value, click):
            yield f"{name}: {shares}", is_used
        elif auc > MAX_AUC:
            yield f"{name}: it alone predicts the training clicks, AUC {auc:.3f}", is_used
        elif abs(clicked - not_clicked) > MAX_GAP:
            yield f"{name}: {shares}", False
        elif is_used and name in log_columns and auc > HIGH_AUC:
            yield f"{name}: {CLUE.format(auc)}", False
        elif is_used and name in log_columns and is_outcome(name):
            yield f"{name}: judging by its name, it may be known only after the impression", False


def _auc(rows: pl.DataFrame) -> float:
    """Returns the AUC of a column's numbers, or of the click rates of its values if it is higher.

    The click rates are computed by five-fold cross-validation over requests.
    """
    label_N = rows["click"].to_numpy()
    if label_N.all() or not label_N.any():
        return 0.5
    rows = rows.with_columns(
        fold=pl.col("request_id").hash() % FOLDS,
        text=pl.col("value").cast(pl.String).fill_null(""),
    )
    overall = rows.group_by("text").agg(pl.col("click").sum(), rows=pl.len())
    by_fold = rows.group_by("text", "fold").agg(pl.col("click").sum(), rows=pl.len())
    rates = by_fold.join(overall, on="text", suffix="_all").select(
        "text",
        "fold",
        score=(pl.col("click_all") - pl.col("click") + PRIOR * label_N.mean())
        / (pl.col("rows_all") - pl.col("rows") + PRIOR),
    )
    scored = rows.join(rates, on=["text", "fold"], how="left", maintain_order="left")
    aucs = [metrics.auc(label_N, scored["score"].to_numpy())]
    numbers = rows["value"].cast(pl.Float64, strict=False)
    if numbers.count() > numbers.len() / 2:
        auc = metrics.auc(label_N, numbers.rank("dense").fill_null(0).to_numpy())
        aucs += [auc, 1 - auc]
    return max(aucs)


def _counts(log: Log) -> Iterator[str]:
    """Yields numeric columns of places and users that may count events of the log."""
    train = log.training()
    for key, table in (("poi_id", log.places), ("user_id", log.users)):
        counts = train.group_by(key).agg(shown=pl.len(), clicked=pl.col("click").sum())
        joined = table.join(counts.collect(engine="streaming"), on=key)
        for name in table.columns:
            numbers = joined.with_columns(pl.col(name).cast(pl.Float64, strict=False)).drop_nulls(
                name
            )
            if name == key or numbers.height < max(MIN_COUNTED, joined.height / 2):
                continue
            with_counts = numbers.select(
                pl.corr(name, count, method="spearman").alias(count)
                for count in ("shown", "clicked")
            )
            correlation = max(abs(value or 0) for value in with_counts.row(0))
            is_count = MAX_CORRELATION < correlation <= 1
            if is_count or has_role(name, "counted"):
                evidence = "its name"
                if is_count:
                    evidence = f"its rank correlation of {correlation:.2f} with the log's counts"
                yield (
                    f"judging by {evidence}, {name} may summarise later events; the table holds "
                    "one value for all days, so check that it was known before the log"
                )


def _split(log: Log) -> Iterator[str]:
    """Yields problems with requests, and with the split into training and test rows."""
    if warning := single_row_warning(log):
        yield warning
    if not log.is_split_by_time:
        yield "some training rows are not earlier than the test rows: no test on the future"
    rows = log.scan()
    trained, tested = (rows.filter(pl.col("split") == name) for name in ("train", "test"))
    counts = (trained.select(pl.col("click").mean()), tested.select(pl.len()))
    rate, total = (frame.collect(engine="streaming").item() for frame in counts)
    if (rarer := total * min(rate, 1 - rate)) < MIN_RARER_LABEL:
        label = "with a click" if rate < 0.5 else "without a click"
        yield (
            f"of {total:,} test rows only about {rarer:.0f} are {label}: too few to tell rankers "
            "apart; test on more days or users"
        )
    for key, what in (("user_id", "users"), ("poi_id", "places")):
        unseen = tested.join(trained.select(pl.col(key).unique()), on=key, how="anti")
        new_rows = unseen.select(pl.len()).collect(engine="streaming").item()
        if new_rows > MAX_NEW * total:
            yield f"{new_rows / total:.0%} of the test rows have {what} without training rows"
    pairs = rows.select("user_id", "poi_id", "time").group_by(pl.all()).len()
    counts_of_rows = pairs.select((pl.col("len") - 1).sum(), all=pl.col("len").sum())
    repeated, total = counts_of_rows.collect(engine="streaming").row(0)
    if repeated > MAX_REPEATED * total and log.is_dated:
        yield (
            f"{repeated:,} rows have the user, place and time of another row; are they duplicates?"
        )
