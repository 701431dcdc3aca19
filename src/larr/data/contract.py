"""The data contract: which tables larr reads, which columns they have, which rows are sound.

Columns that are not named here are kept and can be used by a keyword or a feature.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dataframely as dy
import polars as pl

from larr.data.values import as_type
from larr.errors import DataError

NEVER_FEATURES = ("click", "order", "probability_click", "probability_order", "split")
"""Columns of impressions that say what happened; no feature or keyword may read them."""


@dataclass(frozen=True)
class Table:
    """One table of the contract: columns that must be there, columns checked if they are there."""

    key: tuple[str, ...]
    required: dict[str, dy.Column]
    optional: dict[str, dy.Column]
    refers_to: tuple[str, ...] = ()


def _id() -> dy.Column:
    return dy.String(min_length=1)


def _number(low: float, high: float) -> dy.Column:
    return dy.Float64(nullable=True, min=low, max=high)


TABLES = {
    "places": Table(
        key=("poi_id",),
        required={"poi_id": _id(), "name": dy.String(regex=r"\S")},
        optional={
            "city": dy.String(nullable=True),
            "area": dy.String(nullable=True),
            "lat": _number(-90, 90),
            "lon": _number(-180, 180),
            "category": dy.String(nullable=True),
            "tags": dy.String(nullable=True),
            "menu": dy.String(nullable=True),
            "intro": dy.String(nullable=True),
            "chain": dy.String(nullable=True),
            "price_yuan": _number(0, 1e6),
            "rating": _number(0, 5),
        },
    ),
    "users": Table(
        key=("user_id",),
        required={"user_id": _id()},
        optional={
            "nickname": dy.String(nullable=True),
            "gender": dy.String(nullable=True),
            "age_band": dy.String(nullable=True),
            "home_city": dy.String(nullable=True),
        },
    ),
    "impressions": Table(
        key=("request_id", "poi_id"),
        required={
            "request_id": _id(),
            "user_id": _id(),
            "poi_id": _id(),
            "time": dy.Datetime(),
            "click": dy.Bool(),
        },
        optional={
            "order": dy.Bool(),
            "split": dy.Enum(["train", "test"]),
            "position": dy.Int64(nullable=True, min=1),
            "lat": _number(-90, 90),
            "lon": _number(-180, 180),
            "temperature_c": _number(-90, 70),
            "probability_click": dy.Float64(min=0, max=1),
            "probability_order": dy.Float64(min=0, max=1),
        },
        refers_to=("user_id", "poi_id"),
    ),
    "orders": Table(
        key=(),
        required={"user_id": _id(), "poi_id": _id(), "time": dy.Datetime()},
        optional={"temperature_c": _number(-90, 70)},
        refers_to=("user_id", "poi_id"),
    ),
}

_UNREADABLE = " unreadable"
OLDEST = datetime(1980, 1, 1)
"""No log is older; 20240408, read as seconds since 1970, would be."""
EXPECTED = {
    "time": "a date and a time, the year first, or seconds to nanoseconds since 1970",
    "click": "true or false, yes or no, or a number of clicks",
    "order": "true or false, yes or no, or a number of orders; each with its click",
    "split": "train or test",
    "position": "1 for the place that was shown first",
}
"""What columns of the log should hold."""
_WORDS = {
    "nullability": "is missing",
    "nan": "is NaN",
    "inf": "is infinite",
    "min": "is below its range",
    "max": "is above its range",
    "min_length": "is empty",
    "regex": "is empty",
}


@dataclass(frozen=True)
class Checked:
    """Rows that keep the contract, and the others with a `reason`."""

    good: pl.DataFrame
    rejected: pl.DataFrame


def check_columns(table: str, columns: list[str]) -> None:
    """Raises DataError if a required column is not there."""
    missing = [name for name in TABLES[table].required if name not in columns]
    if missing:
        raise DataError(
            f"table {table}: no column {', '.join(missing)}; it has {', '.join(columns)}. "
            f"Rename yours with [dataset.tables.rename.{table}], for example "
            f'{missing[0]} = "your column"'
        )


def check_rows(
    table: str, frame: pl.DataFrame, known: dict[str, pl.Series], now: datetime, zone: str = ""
) -> Checked:
    """Parts sound rows from the others; `known` holds the IDs that a row may refer to.

    `zone` is that in which times are told (`dataset.tables.time_zone`).
    """
    contract = TABLES[table]
    columns = {
        name: column
        for name, column in (contract.required | contract.optional).items()
        if name in frame.columns
    }
    numbered = _without_blanks(frame, contract).with_row_index("row_number")
    typed = _typed(numbered, columns, zone)
    helpers = {name: dy.Bool() for name in typed.columns if name.endswith(_UNREADABLE)}
    schema: Any = type(
        f"{table.capitalize()}Rows",
        (dy.Schema,),
        columns
        | {"row_number": dy.UInt32()}
        | helpers
        | _rules(contract, typed.columns, known, now),
    )
    good, failure = schema.filter(typed)
    rest = numbered.drop(columns.keys())
    rejected = _reasons(failure.details(), columns).join(numbered, on="row_number", how="left")
    good = good.drop(helpers).join(rest, on="row_number", maintain_order="left")
    return Checked(good.drop("row_number"), rejected.drop("row_number"))


def _without_blanks(frame: pl.DataFrame, contract: Table) -> pl.DataFrame:
    """A blank text and, in columns of one's own, NaN and infinity are missing; what is required
    stays.
    """
    texts = [
        pl.col(name)
        for name, kind in frame.schema.items()
        if kind == pl.String and name not in contract.required
    ]
    numbers = [
        pl.col(name)
        for name, kind in frame.schema.items()
        if kind.is_float() and name not in contract.required | contract.optional
    ]
    return frame.with_columns(
        *(pl.when(one.str.strip_chars() != "").then(one) for one in texts),
        *(pl.when(one.is_finite()).then(one) for one in numbers),
    )


def _typed(numbered: pl.DataFrame, columns: dict[str, dy.Column], zone: str) -> pl.DataFrame:
    """Contract columns in their types, each with a flag for values that could not be read."""
    typed = numbered.select(
        "row_number",
        *(as_type(name, numbered.schema[name], kind.dtype, zone) for name, kind in columns.items()),
    )
    flags = [
        (typed[name].is_null() & numbered[name].is_not_null()).alias(name + _UNREADABLE)
        for name in columns
    ]
    return typed.with_columns(flags)


def _rules(
    contract: Table, columns: list[str], known: dict[str, pl.Series], now: datetime
) -> dict[str, object]:
    tests = {
        f"{name.removesuffix(_UNREADABLE)} cannot be read": ~pl.col(name)
        for name in columns
        if name.endswith(_UNREADABLE)
    }
    if contract.key:
        tests["duplicate key " + " + ".join(contract.key)] = pl.struct(
            contract.key
        ).is_first_distinct()
    for name in contract.refers_to:
        tests[f"unknown {name}"] = pl.col(name).is_null() | pl.col(name).is_in(
            known[name].implode()
        )
    if "time" in columns:
        tests["time in the future"] = pl.col("time") <= now
        tests[f"time before {OLDEST.year}"] = pl.col("time") >= OLDEST
    if "order" in columns:
        tests["order without a click"] = pl.col("click") | ~pl.col("order")
    return {name: _rule(test) for name, test in tests.items()}


def _rule(test: pl.Expr) -> object:
    return dy.rule()(lambda _: test)


def _reasons(details: pl.DataFrame, columns: dict[str, dy.Column]) -> pl.DataFrame:
    rules = [
        name
        for name in details.columns
        if ("|" in name or " " in name) and not name.endswith(_UNREADABLE)
    ]
    told = [
        pl.when(_is_said(name, details.columns)).then(pl.lit(_say(name, columns))) for name in rules
    ]
    return details.select(
        "row_number", pl.concat_str(told, separator="; ", ignore_nulls=True).alias("reason")
    )


def _is_said(rule: str, rules: list[str]) -> pl.Expr:
    """Where a rule is broken, but not that a value is missing which could not be read."""
    column, _, test = rule.partition("|")
    broken = pl.col(rule) == "invalid"
    unread = f"{column} cannot be read"
    return broken & (pl.col(unread) != "invalid") if test and unread in rules else broken


def _say(rule: str, columns: dict[str, dy.Column]) -> str:
    column, _, test = rule.partition("|")
    limit = getattr(columns[column], test) if test in ("min", "max") else None
    told = f"{column} {_WORDS.get(test, test)}" if test else rule
    return told if limit is None else f"{told} ({test} {limit:g})"


def summarise(table: str, rejected: pl.DataFrame) -> list[dict[str, object]]:
    """For each reason: the table, how many rows, and three examples."""
    rows = []
    for (reason,), group in rejected.group_by("reason", maintain_order=True):
        named = [part.split(" ")[0] for part in str(reason).split("; ")]
        keys = dict.fromkeys([*TABLES[table].required, *named])
        told = group.select(name for name in keys if name in group.columns)
        examples = told.head(3).cast(pl.String).to_dicts()
        rows.append({"table": table, "reason": reason, "rows": group.height, "examples": examples})
    return rows
