"""Detects what the columns of a table hold, by their values and names.

The kind of a column is that of the first rule in `KINDS` that it satisfies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import numpy as np
import polars as pl

from larr.config.data import TablesConfig
from larr.data.sql import identifier, literal
from larr.data.values import as_type
from larr.init.words import WORDS, has_role, is_kind, is_role, words_of
from larr.metrics import Array

MAX_VALUES, MAX_PARTS, MAX_NUMERIC_CATEGORY = 1_000, 500, 12
"""Maximum numbers of distinct values: of a category, of parts of lists, of a numeric category."""
TRUTH = {"1": "0", "1.0": "0.0", "true": "false", "yes": "no", "y": "n", "t": "f"}
TRUTH |= {"ja": "nein", "oui": "non", "sí": "no", "是": "否"}
WORDY = r"\pL{2}.*\s|[^\x00-\x7f]{2}"
"""More than one word, or letters of languages without spaces."""
MIN_WORDS = 0.3
"""Minimum share of values that match `WORDY` in a column of texts."""
MIN_SENTINEL = 0.05
"""Minimum share of rows with -1 for it to mean that the value is missing."""
CLOCK = r"^([01]?\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?$"
ISO = r"^\d{4}[-/]\d{1,2}[-/]\d{1,2}"
DIGITS = {"%Y%m%d": 8, "%Y%m%d%H": 10, "%Y%m%d%H%M": 12, "%Y%m%d%H%M%S": 14, "%y%m%d%H": 8}
"""Times written as digits, and how many; the last format needs a name such as `hour`."""
DATES = ["%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%d-%b-%Y", "%m %d, %Y", "%b %d, %Y"]
DATES += ["%B %d, %Y", "%d %b %Y", "%d %B %Y", "%d.%m.%y", "%Y年%m月%d日"]
CLOCKS = ("%H:%M", "%H:%M:%S", "%I:%M:%S %p", "%I:%M %p")
TIMES = ("", *(between + clock for between in (" ", ", ") for clock in CLOCKS))
MIXED = "with / or -: "
"""Excel writes dates that it takes for those of another country with other separators."""
FORMATS = (
    *(date + time for time in TIMES for date in DATES),
    "%a %b %d %H:%M:%S %z %Y",
    "%I:%M %p, %B %d %Y",
    "%d/%b/%Y:%H:%M:%S %z",
    *(f"{MIXED}{date}{time}" for time in TIMES for date in DATES[:2]),
)
"""Formats of dates and times other than ISO 8601, tried in this order."""
EPOCHS = {"seconds": 10**6, "milliseconds": 1000, "microseconds": 1, "nanoseconds": 1e-3}
"""Units of times since 1970, in microseconds."""
OLDEST, LATEST = 6.3e14, 2.2e15
"""The range of plausible times in microseconds since 1970: 1990 to 2039."""
RELATIVE = {
    "days from a start": ("to_days({}::INT)", 86_400),
    "hours from a start": ("to_hours({}::BIGINT)", 3_600),
    "seconds from a start": ("to_seconds({}::BIGINT)", 1),
    "milliseconds from a start": ("to_milliseconds({}::BIGINT)", 0.001),
}
"""Forms of times that count from an unknown start -> SQL, and seconds."""
START = datetime(2000, 1, 1)
"""The day that is taken for an unknown start."""
MIN_COUNTED, SHORTEST, LONGEST = 31, 2 * 86_400, 10 * 365 * 86_400
"""Such times have more distinct values than the first number, and a range of seconds between the
others."""


@dataclass(frozen=True, eq=False)
class Column:
    """A column of a table and its kind."""

    name: str
    values: pl.Series
    """Texts, or null if missing."""
    dtype: pl.DataType
    clean: str = ""
    """SQL that computes the values from cells with brackets or units."""

    @cached_property
    def words(self) -> list[str]:
        """The words of the name, in lower case."""
        return words_of(self.name)

    @property
    def sql(self) -> str:
        """The name in SQL."""
        return identifier(self.name)

    @property
    def value_sql(self) -> str:
        """SQL for the values, cleaned and without the sentinel."""
        sql = self.clean or self.sql
        return f"nullif({sql}, {literal(self.sentinel)})" if self.sentinel else sql

    @cached_property
    def sentinel(self) -> str:
        """The text -1 or -1.0 if it means a missing value: common, and the only negative one."""
        low = self.values.filter(self.values.cast(pl.Float64, strict=False) < 0)
        is_common = len(low) > MIN_SENTINEL * len(self.values)
        is_coded = self.kind == "category" and self.is_integer
        is_one = is_common and low.n_unique() == 1 and low[0] in ("-1", "-1.0")
        return str(low[0]) if is_one and not is_coded else ""

    @cached_property
    def missing(self) -> float:
        """The share of rows without a value."""
        return share(self.values.is_null())

    @cached_property
    def distinct(self) -> pl.Series:
        return self.values.drop_nulls().unique(maintain_order=True)

    @property
    def repeated(self) -> float:
        """The share of rows with a missing value or the value of an earlier row."""
        return 1 - len(self.distinct) / len(self.values)

    @property
    def is_key(self) -> bool:
        """Whether all values are distinct."""
        return not self.repeated

    @property
    def example(self) -> str:
        """A value for a comment, shortened."""
        return repr(str(self.distinct.filter(self.distinct != self.sentinel).first())[:40])

    @cached_property
    def number_values(self) -> Array:
        """The distinct values as numbers, empty if a value is not a number."""
        numbers = self.distinct.cast(pl.Float64, strict=False)
        return np.array([]) if numbers.null_count() else numbers.to_numpy()

    @property
    def is_numeric(self) -> bool:
        """Whether all values are numbers."""
        return len(self.number_values) > 0

    @cached_property
    def is_integer(self) -> bool:
        """Whether all values are integers."""
        return self.is_numeric and bool((self.number_values % 1 == 0).all())

    @cached_property
    def has_words(self) -> bool:
        """Whether many values are texts of several words."""
        return share(self.distinct.str.contains(WORDY)) >= MIN_WORDS

    def all_match(self, pattern: str) -> bool:
        return bool(self.distinct.str.contains(pattern).all())

    @cached_property
    def kind_and_form(self) -> tuple[str, str]:
        """The kind, a key of `KINDS`, `date` or `code`, and the form.

        A code is a text or number with many values that are not words. The form is the format of
        a time (empty for ISO 8601), its unit since 1970, or the separator of a list.
        """
        for kind, rule in KINDS:
            if found := rule(self):
                form = found if isinstance(found, str) else ""
                is_date = "%d" in form and "%H" not in form and "%I" not in form
                return "date" if is_date else kind, form
        return "code", ""

    @property
    def kind(self) -> str:
        return self.kind_and_form[0]

    @property
    def form(self) -> str:
        return self.kind_and_form[1]

    @property
    def true_value(self) -> str:
        return str(next(value for value in self.distinct if value.lower() in TRUTH))

    @cached_property
    def times(self) -> pl.Series:
        """The values as times, for the kinds time and date."""
        if self.form in RELATIVE:
            microseconds = self.values.cast(pl.Float64) * 1e6 * RELATIVE[self.form][1]
            return START + microseconds.cast(pl.Int64).cast(pl.Duration("us"))
        if self.form and self.form not in EPOCHS:
            return parsed(self.values, self.form)
        return as_type(self.values, pl.Datetime("us"), TablesConfig())

    def as_time(self, clock: Column | None = None) -> str:
        """Returns SQL for a time that larr can read; `clock` is a separate time of day."""
        if self.form in RELATIVE:
            return f"TIMESTAMP '{START:%Y-%m-%d}' + {RELATIVE[self.form][0].format(self.value_sql)}"
        own = f"replace({self.sql}, '-', '/')" if self.form.startswith(MIXED) else self.sql
        sql = f"{own} || ' ' || {clock.sql}" if clock else own
        if not self.form or self.form in EPOCHS:
            return sql
        form = self.form.removeprefix(MIXED) + (" %H:%M" if clock else "")
        form += ":%S" if clock and clock.all_match(":.*:") else ""
        return f"strptime({sql}{'::VARCHAR' * (form in DIGITS)}, {literal(form)})"

    @property
    def timestamp(self) -> str:
        """SQL for the time as a timestamp."""
        if self.form in EPOCHS:
            return f"make_timestamp(({self.sql}::BIGINT * {EPOCHS[self.form]:g})::BIGINT)"
        return self.as_time() if self.form else f"{self.sql}::TIMESTAMP"


def share(mask: pl.Series) -> float:
    """Returns the share of true values."""
    return float(mask.sum()) / max(len(mask), 1)


def percent(part: float) -> str:
    """Returns a share above 0 as text, such as `1.2%`."""
    return f"{part:.1%}" if part >= 0.001 else "less than 0.1%"


def parsed(values: pl.Series, form: str) -> pl.Series:
    """Returns texts as times, null for those in another format."""
    if form.startswith(MIXED):
        values, form = values.str.replace_all("-", "/", literal=True), form.removeprefix(MIXED)
    if form.endswith("H"):  # polars requires minutes
        values, form = values + ":00", f"{form}:%M"
    times = values.str.to_datetime(form, strict=False, time_unit="us", time_zone="UTC")
    return times.dt.replace_time_zone(None)


def _fits(column: Column, form: str) -> bool:
    """Returns whether all values have a time format; tries 100 values first."""
    some = (column.distinct.head(100), column.distinct)
    return not any(parsed(values, form).null_count() for values in some)


def _time_of_integers(column: Column) -> str:
    """Returns the form of times that are written as integers, empty for other columns."""
    words, numbers = {*column.words}, column.number_values
    if not column.is_integer or "id" in words:
        return ""
    length = column.distinct.str.len_chars()
    for form, digits in DIGITS.items():
        is_possible = form.startswith("%Y") or is_role(column.name, "time")
        if is_possible and (length == digits).all():
            times = parsed(column.distinct, form).cast(pl.Int64)
            if times.is_between(OLDEST, LATEST).fill_null(False).all():
                return form
    for unit, size in EPOCHS.items():
        if numbers.min() * size >= OLDEST and numbers.max() * size <= LATEST:
            return unit
    # Others count from a start, as judged by name and range.
    if not words <= WORDS["time"] or len(numbers) <= MIN_COUNTED:
        return ""
    minutes_and_seconds = numbers % 100, numbers // 100 % 100
    if np.max(minutes_and_seconds) < 60 and numbers.max() < 240_000:
        return ""  # a time of day, such as 93015
    units = {"day": {"day", "date"}, "hour": {"hour"}}
    unit = next((unit for unit, names in units.items() if names & words), "second")
    span = np.ptp(numbers)
    forms = (form for form in RELATIVE if unit in form)
    return next((f for f in forms if SHORTEST <= span * RELATIVE[f][1] <= LONGEST), "")


def _is_nested(dtype: pl.DataType) -> bool:
    """Returns whether cells hold bytes, structs, or lists of these or of floats: embeddings."""
    if isinstance(dtype, pl.List):
        return dtype.inner.is_nested() or dtype.inner.is_float()
    return dtype.is_nested() or dtype == pl.Binary


def _is_id(column: Column) -> bool:
    """Returns whether integers are IDs, judging by the name: `brand_id`, `customer`."""
    is_named = "id" in column.words or "code" in column.words
    return column.is_integer and (is_named or is_role(column.name, "user", "place"))


def _is_code(column: Column) -> bool:
    """Returns whether integers, most of them in one row, are named as a code: `zip`, `phone`."""
    is_named = not WORDS["code"].isdisjoint(column.words)
    return column.is_integer and is_named and len(column.distinct) > column.values.count() / 2


def _is_integer_category(column: Column) -> bool:
    """Returns whether integers are few, or years or kinds by the name."""
    is_named = "year" in column.words or is_kind(column.name)
    most = MAX_VALUES if is_named else MAX_NUMERIC_CATEGORY
    return column.is_integer and len(column.distinct) <= most


def _separator(column: Column) -> str:
    """Returns the separator of lists whose parts recur, empty for other texts."""
    some = column.distinct.head(10_000)
    has_spaces = some.str.contains(", ", literal=True)
    # Words with spaces between are a phrase, unless the column is named as one of kinds.
    has_phrases = has_spaces.any() or not has_role(column.name, "kind")
    for separator, least, recurring in (("|", 0.1, 2), (";", 0.1, 2), (",", 0.2, 4), (" ", 0.4, 4)):
        if separator == " " and has_phrases:
            continue
        if share(some.str.contains(separator, literal=True)) >= least:
            parts = some.str.split(separator).explode().str.strip_chars()
            known = parts.n_unique() <= min(MAX_PARTS, len(parts) / recurring)
            if known and (separator in "|;" or len(some) > MAX_NUMERIC_CATEGORY):
                is_spaced = separator == "," and share(has_spaces) >= least
                return ", " if is_spaced else separator
    return ""


KINDS: tuple[tuple[str, Callable[[Column], object]], ...] = (
    ("nested", lambda c: _is_nested(c.dtype)),
    ("missing", lambda c: not len(c.distinct)),
    ("list", lambda c: isinstance(c.dtype, pl.List)),
    ("constant", lambda c: len(c.distinct) == 1 and not c.values.null_count()),
    ("category", lambda c: len(c.distinct) == 1),
    ("flag", lambda c: {*c.distinct.head(3).str.to_lowercase()} in map(set, TRUTH.items())),
    ("time", _time_of_integers),
    ("category", _is_integer_category),
    ("code", _is_code),
    ("category", lambda c: _is_id(c) and len(c.distinct) <= MAX_VALUES),
    ("code", _is_id),
    ("number", lambda c: c.is_numeric),
    ("clock", lambda c: c.all_match(CLOCK)),
    ("date", lambda c: c.all_match(ISO + "$")),
    ("time", lambda c: c.all_match(ISO + r"([T ]\d{1,2}:\d\d.*)?$")),
    ("time", lambda c: c.all_match(ISO + r" \d\d$") and "%Y-%m-%d %H"),
    ("time", lambda c: next((form for form in FORMATS if _fits(c, form)), "")),
    ("link", lambda c: c.all_match("^https?://")),
    ("list", _separator),
    ("category", lambda c: len(c.distinct) <= min(MAX_VALUES, c.values.count() / 2)),
    ("category", lambda c: is_kind(c.name) and c.repeated >= 0.5),
    ("text", lambda c: c.has_words),
)
"""Kinds and their rules, tried in this order; a rule may return the form."""
