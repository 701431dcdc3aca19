"""The data contract: the tables that larr reads, their columns, and the rules for their rows.

Other columns are kept; keywords and features can use them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import polars as pl

NEVER_FEATURES = ("click", "order", "probability_click", "probability_order", "split", "weight")
"""Columns of impressions that are unknown at request time, so features must not read them."""
OLDEST = datetime(1980, 1, 1)
"""Earlier times are errors, such as the date 20240408 read as seconds since 1970."""
YEAR = r"^\d{4}(\.0)?$"
"""A year instead of a date, which would be read as seconds since 1970."""


@dataclass(frozen=True)
class Column:
    """The type and the limits of a column."""

    dtype: pl.DataType
    nullable: bool = True
    low: float | None = None
    high: float | None = None
    expected: str = ""
    """A description of valid values; if set, a log with many invalid ones is refused."""

    @property
    def rejects(self) -> bool:
        """Whether an invalid value rejects its row; otherwise the value becomes null."""
        return not self.nullable or bool(self.expected)


@dataclass(frozen=True)
class Table:
    """The required columns of a table, and optional ones, which are checked if present."""

    key: tuple[str, ...]
    required: dict[str, Column]
    optional: dict[str, Column]
    refers_to: tuple[str, ...] = ()
    """Columns that hold a key of places or users."""

    @property
    def columns(self) -> dict[str, Column]:
        """All columns, the required ones first."""
        return self.required | self.optional


ID = NAME = Column(pl.String(), nullable=False)
TEXT = Column(pl.String())
NUMBER, NUMBER_FROM_0 = Column(pl.Float64()), Column(pl.Float64(), low=0)
LATITUDE = Column(pl.Float64(), low=-90, high=90)
LONGITUDE = Column(pl.Float64(), low=-180, high=180)
CELSIUS = Column(pl.Float64(), low=-90, high=70)
PROBABILITY = Column(pl.Float64(), nullable=False, low=0, high=1)
TIME = Column(
    pl.Datetime("us"),
    nullable=False,
    expected="a date and a time, the year first, or seconds to nanoseconds since 1970",
)
CLICK = Column(
    pl.Boolean(), nullable=False, expected="true or false, yes or no, or a number of clicks"
)
ORDER = Column(
    pl.Boolean(),
    nullable=False,
    expected="true or false, yes or no, or a number of orders; each with its click",
)
SPLIT = Column(pl.Enum(["train", "test"]), nullable=False, expected="train or test")
WEIGHT = Column(pl.Float64(), nullable=False, low=1e-6, expected="a number above 0")
SINCE = Column(pl.Datetime("us"))
POSITION = Column(pl.Int64(), low=1, expected="1 for the place that was shown first")

TABLES = {
    "places": Table(
        key=("poi_id",),
        required={"poi_id": ID, "name": NAME},
        optional={
            "city": TEXT,
            "area": TEXT,
            "lat": LATITUDE,
            "lon": LONGITUDE,
            "category": TEXT,
            "tags": TEXT,
            "menu": TEXT,
            "intro": TEXT,
            "chain": TEXT,
            "price_yuan": NUMBER_FROM_0,
            "rating": NUMBER_FROM_0,
            "since": SINCE,
        },
    ),
    "users": Table(
        key=("user_id",),
        required={"user_id": ID},
        optional={"nickname": TEXT, "gender": TEXT, "age_band": TEXT, "home_city": TEXT},
    ),
    "impressions": Table(
        key=("request_id", "poi_id"),
        required={"request_id": ID, "user_id": ID, "poi_id": ID, "time": TIME, "click": CLICK},
        optional={
            "order": ORDER,
            "split": SPLIT,
            "position": POSITION,
            "weight": WEIGHT,
            "lat": LATITUDE,
            "lon": LONGITUDE,
            "temperature_c": CELSIUS,
            "probability_click": PROBABILITY,
            "probability_order": PROBABILITY,
        },
        refers_to=("user_id", "poi_id"),
    ),
    "orders": Table(
        key=(),
        required={"user_id": ID, "poi_id": ID, "time": TIME},
        optional={"temperature_c": CELSIUS},
        refers_to=("user_id", "poi_id"),
    ),
}


Violations = dict[tuple[str, str], pl.Series]
"""(column, reason) -> a Boolean mask, without nulls, of the rows that break a rule.

The columns of a key are joined by " + "."""


def column_violations(
    columns: Mapping[str, Column], given: pl.DataFrame, typed: pl.DataFrame
) -> Violations:
    """Returns the rows that break a rule about a single column.

    `given` holds the values as read, `typed` the values converted to the types of the contract,
    with null if the conversion failed.
    """
    violations: Violations = {}
    for name, values in zip(typed.columns, typed, strict=True):
        low, high = columns[name].low, columns[name].high
        problem = "is not a number" if columns[name].dtype.is_float() else "cannot be read"
        violations[name, f"{name} {problem}"] = values.is_null() & given[name].is_not_null()
        if not columns[name].nullable:
            violations[name, f"{name} is missing"] = given[name].is_null()
        if columns[name] is SINCE:
            is_year = given[name].cast(pl.String).str.contains(YEAR)
            violations[name, f"{name} is a year; write a date such as 2019-07-01"] = is_year
        if low is not None:
            violations[name, f"{name} is below its range (min {low:g})"] = values < low
        if high is not None:
            violations[name, f"{name} is above its range (max {high:g})"] = values > high
    # A comparison with null is null: a missing value is neither too low nor too high.
    return {rule: rows.fill_null(False) for rule, rows in violations.items()}


def row_violations(
    table: Table,
    typed: pl.DataFrame,
    known: Mapping[str, pl.Series],
    rejected: Mapping[str, pl.Series],
    now: datetime,
) -> Violations:
    """Returns the rows that break a rule about keys, references, times or orders.

    `known` holds the valid IDs for `refers_to`, `rejected` the IDs of rejected rows.
    """
    violations: Violations = {}
    if table.key:
        repeated = typed.select(~pl.struct(table.key).is_first_distinct()).to_series()
        violations |= duplicates(table, repeated)
    for name in table.refers_to:
        is_unknown = ~typed[name].is_in(known[name].implode())
        was_rejected = typed[name].is_in(rejected.get(name, typed[name].clear()).implode())
        violations[name, f"unknown {name}"] = is_unknown & ~was_rejected
        violations[name, f"{name} of a rejected row of places or users"] = is_unknown & was_rejected
    if "time" in typed.columns:
        violations["time", "time in the future"] = typed["time"] > now
        violations["time", f"time before {OLDEST.year}"] = typed["time"] < OLDEST
    if "order" in typed.columns:
        violations["order", "order without a click"] = typed["order"] & ~typed["click"]
    return {rule: rows.fill_null(False) for rule, rows in violations.items()}


def duplicates(table: Table, repeated: pl.Series) -> Violations:
    """Returns the rows that repeat the key of an earlier row; `repeated` is their mask."""
    key = " + ".join(table.key)
    return {(key, f"duplicate key {key}"): repeated}
