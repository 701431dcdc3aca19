"""Detects the kinds of columns by their values and names, for `larr init`.

The kind of a column is that of the first rule in `KINDS` that its values satisfy.
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
from larr.init.words import WORDS, ends_as, has_role, is_role, words_of
from larr.metrics import Array

MAX_VALUES, MAX_PARTS, MAX_NUMERIC_CATEGORY = 1_000, 500, 12
"""Maximum numbers of distinct values: of a category, of parts of lists, of a numeric category."""
TRUTH = {"1": "0", "1.0": "0.0", "true": "false", "yes": "no", "y": "n", "t": "f"}
TRUTH |= {"ja": "nein", "oui": "non", "sí": "no", "是": "否"}
WORDY = r"\pL{2}.*\s|[^\x00-\x7f]{2}"
"""More than one word, or letters of languages without spaces."""
MIN_SENTINEL = 0.05
"""Minimum share of rows with -1 for it to mean that the value is missing."""
MIN_WORDS = 0.3
"""Minimum share of values that match `WORDY` in a column of texts."""
CLOCK = r"^([01]?\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?$"
ISO = r"^\d{4}[-/]\d{1,2}[-/]\d{1,2}"
DIGITS = {
    "%Y%m%d": r"^(199|20[0-4])\d[01]\d[0-3]\d$",
    "%Y%m%d%H": r"^(199|20[0-4])\d(0[1-9]|1[0-2])[0-3]\d[0-2]\d$",
    "%Y%m%d%H%M": r"^(199|20[0-4])\d[01]\d[0-3]\d[0-2]\d[0-5]\d$",
    "%Y%m%d%H%M%S": r"^(199|20[0-4])\d[01]\d[0-3]\d[0-2]\d[0-5]\d[0-5]\d$",
    "%y%m%d%H": r"^[0-3]\d(0[1-9]|1[0-2])[0-3]\d[0-2]\d$",
}
"""Times written as digits, and what they look like; the last form needs a name such as `hour`."""
DATES: tuple[str, ...] = (
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d.%m.%Y",
    "%d-%m-%Y",
    "%d-%b-%Y",
    "%m %d, %Y",
    "%b %d, %Y",
)
DATES += ("%B %d, %Y", "%d %b %Y", "%d %B %Y", "%d.%m.%y", "%Y年%m月%d日")
TIMES = (
    "",
    *(c + t for c in (" ", ", ") for t in ("%H:%M", "%H:%M:%S", "%I:%M:%S %p", "%I:%M %p")),
)
FORMATS = (*(date + time for time in TIMES for date in DATES), "%a %b %d %H:%M:%S %z %Y")
FORMATS += ("%I:%M %p, %B %d %Y", "%d/%b/%Y:%H:%M:%S %z")
MIXED = "with / or -: "
FORMATS += tuple(f"{MIXED}{date}{time}" for time in TIMES for date in DATES[:2])
"""Time formats other than ISO 8601, tried in this order. Excel writes dates that it takes for those
of another country with other separators."""
EPOCHS = {"seconds": 10**6, "milliseconds": 1000, "microseconds": 1, "nanoseconds": 1e-3}
"""Units of times since 1970, in microseconds."""
STARTED = {
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
OLDEST, LATEST = 6.3e14, 2.2e15
"""The range of plausible times in microseconds since 1970: 1990 to 2039."""


@dataclass(frozen=True, eq=False)
class Column:
    """A column of a file and its kind."""

    name: str
    values: pl.Series
    """Texts, or null if missing."""
    dtype: pl.DataType
    clean: str = ""
    """SQL that computes the values from cells with brackets or units, see `cells`."""

    @cached_property
    def words(self) -> list[str]:
        """The words of the name, in lower case."""
        return words_of(self.name)

    @property
    def sql(self) -> str:
        """The name in SQL."""
        return identifier(self.name)

    @cached_property
    def sentinel(self) -> str:
        """The text -1 or -1.0 if it means a missing value: common, and the only negative one."""
        numbers = self.values.cast(pl.Float64, strict=False)
        low, is_coded = self.values.filter(numbers < 0), self.kind == "category" and self.is_integer
        is_common = len(low) > MIN_SENTINEL * len(self.values)
        is_one = is_common and low.n_unique() == 1 and low[0] in ("-1", "-1.0")
        return str(low[0]) if is_one and not is_coded else ""

    @property
    def read(self) -> str:
        """SQL for the values, cleaned and without the sentinel."""
        sql = self.clean or self.sql
        return f"nullif({sql}, {literal(self.sentinel)})" if self.sentinel else sql

    @cached_property
    def distinct(self) -> pl.Series:
        """The distinct values."""
        return self.values.drop_nulls().unique(maintain_order=True)

    @property
    def example(self) -> str:
        """A value for a comment, shortened."""
        return repr(str(self.distinct.filter(self.distinct != self.sentinel).first())[:40])

    @property
    def is_key(self) -> bool:
        """Whether all values are distinct."""
        return not self.repeated

    @property
    def repeated(self) -> float:
        """The share of rows with a missing value or the value of an earlier row."""
        return 1 - len(self.distinct) / len(self.values)

    @cached_property
    def number_values(self) -> Array:
        """The distinct values as numbers, empty if a value is not a number."""
        numbers = self.distinct.cast(pl.Float64, strict=False)
        return np.array([]) if numbers.null_count() else numbers.to_numpy()

    @cached_property
    def is_integer(self) -> bool:
        """Whether all values are integers."""
        return len(self.number_values) > 0 and bool((self.number_values % 1 == 0).all())

    def all_match(self, pattern: str) -> bool:
        """Returns whether all values match a regular expression."""
        return bool(self.distinct.str.contains(pattern).all())

    @cached_property
    def look(self) -> tuple[str, str]:
        """The kind, a key of `KINDS` or `code`, and the form.

        A code is a text or number with many values that are not words. The form is the format of
        a time (empty for ISO 8601), its unit since 1970, or the separator of a list.
        """
        for kind, rule in KINDS:
            if form := rule(self):
                return kind, form if isinstance(form, str) else ""
        return "code", ""

    @property
    def kind(self) -> str:
        """See `look`."""
        return self.look[0]

    @property
    def form(self) -> str:
        """See `look`."""
        return self.look[1]

    @property
    def yes(self) -> str:
        """The true value of a flag."""
        return str(next(value for value in self.distinct if value.lower() in TRUTH))

    @cached_property
    def times(self) -> pl.Series:
        """The values as times, for the kinds time and date."""
        if self.form in STARTED:
            microseconds = self.values.cast(pl.Float64) * 1e6 * STARTED[self.form][1]
            return START + microseconds.cast(pl.Int64).cast(pl.Duration("us"))
        if self.form and self.form not in EPOCHS:
            return parsed(self.values, self.form)
        return as_type(self.values, pl.Datetime("us"), TablesConfig())

    def as_time(self, clock: Column | None = None) -> str:
        """Returns SQL for a time that larr can read; `clock` is a separate time of day."""
        if self.form in STARTED:
            return f"TIMESTAMP '{START:%Y-%m-%d}' + {STARTED[self.form][0].format(self.read)}"
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


def has_words(column: Column) -> bool:
    """Returns whether many values are texts of several words."""
    return share(column.distinct.str.contains(WORDY)) >= MIN_WORDS


def _digits(column: Column) -> str:
    """Returns the form of times that are written as digits, empty for others."""
    if not column.is_integer or "id" in column.words:
        return ""
    fits = (form for form, pattern in DIGITS.items() if column.all_match(pattern))
    form = next(fits, "")
    is_time = form[:2] == "%Y" or is_role(column.name, "time")
    return form if is_time and _fits(column, form) else ""


def _started(column: Column) -> str:
    """Returns the form of times that count from a start, as judged by name and range."""
    words = {*column.words}
    if not column.is_integer or not words <= WORDS["time"] or len(column.distinct) <= MIN_COUNTED:
        return ""
    second, minute = (column.number_values // size % 100 for size in (1, 100))
    if max(second.max(), minute.max()) < 60 and column.number_values.max() < 240_000:
        return ""  # a time of day, such as 93015
    units = {"day": {"day", "date"}, "hour": {"hour"}}
    named = [unit for unit, names in units.items() if names & words]
    span = np.ptp(column.number_values)
    forms = (f for f in STARTED if (f.startswith(named[0]) if named else "second" in f))
    return next((f for f in forms if SHORTEST <= span * STARTED[f][1] <= LONGEST), "")


def _is_nested(dtype: pl.DataType) -> bool:
    """Returns whether cells hold bytes, structs, or lists of these or of floats: embeddings."""
    if isinstance(dtype, pl.List):
        return dtype.inner.is_nested() or dtype.inner.is_float()
    return dtype.is_nested() or dtype == pl.Binary


KINDS: tuple[tuple[str, Callable[[Column], object]], ...] = (
    ("nested", lambda c: _is_nested(c.dtype)),
    ("missing", lambda c: not len(c.distinct)),
    ("list", lambda c: isinstance(c.dtype, pl.List)),
    ("constant", lambda c: len(c.distinct) == 1 and not c.values.null_count()),
    ("category", lambda c: len(c.distinct) == 1),
    ("flag", lambda c: {*c.distinct.head(3).str.to_lowercase()} in map(set, TRUTH.items())),
    ("date", lambda c: _digits(c) == "%Y%m%d" and "%Y%m%d"),
    ("time", _digits),
    ("time", lambda c: c.is_integer and "id" not in c.words and _unit(c.number_values)),
    ("time", _started),
    ("category", lambda c: c.is_integer and len(c.distinct) <= MAX_NUMERIC_CATEGORY),
    (
        "category",
        lambda c: (
            c.is_integer and (_has(c, "year") or is_kind(c)) and len(c.distinct) <= MAX_VALUES
        ),
    ),
    ("code", lambda c: c.is_integer and len(c.distinct) > c.values.count() / 2 and _is_code(c)),
    ("category", lambda c: c.is_integer and _is_id(c) and len(c.distinct) <= MAX_VALUES),
    ("code", lambda c: c.is_integer and _is_id(c)),
    ("number", lambda c: len(c.number_values)),
    ("clock", lambda c: c.all_match(CLOCK)),
    ("date", lambda c: c.all_match(ISO + "$")),
    ("time", lambda c: c.all_match(ISO + r"([T ]\d{1,2}:\d\d.*)?$")),
    ("time", lambda c: c.all_match(ISO + r" \d\d$") and "%Y-%m-%d %H"),
    ("time", lambda c: next((f for f in FORMATS if "M" in f and _fits(c, f)), "")),
    ("date", lambda c: next((f for f in FORMATS if "M" not in f and _fits(c, f)), "")),
    ("link", lambda c: c.all_match("^https?://")),
    # Words with spaces between are a phrase, unless the column is named as one of kinds.
    ("list", lambda c: _separator(c.distinct.head(10_000), "|;," + " " * has_role(c.name, "kind"))),
    ("category", lambda c: len(c.distinct) <= min(MAX_VALUES, c.values.count() / 2)),
    ("category", lambda c: is_kind(c) and c.repeated >= 0.5),
    ("text", has_words),
)
"""Kinds and their rules, tried in this order; a rule may return the form."""


def share(mask: pl.Series) -> float:
    """Returns the share of true values."""
    return float(mask.sum()) / max(len(mask), 1)


def percent(part: float) -> str:
    """Returns a share above 0 as text, such as `1.2%`."""
    return f"{part:.1%}" if part >= 0.001 else "less than 0.1%"


def _unit(number_values: Array) -> str:
    """Returns the unit of plausible times since 1970, empty for other numbers."""
    low, high = number_values.min(), number_values.max()
    fits = (u for u, size in EPOCHS.items() if low * size >= OLDEST and high * size <= LATEST)
    return next(fits, "")


def _is_id(column: Column) -> bool:
    """Returns whether the column's name is that of an ID: `brand_id`, `customer`."""
    return _has(column, "id", "code") or any(is_role(column.name, r) for r in ("user", "place"))


def _has(column: Column, *words: str) -> bool:
    """Returns whether a column's name contains one of some words."""
    return not {*words}.isdisjoint(column.words)


def is_kind(column: Column) -> bool:
    """Returns whether the column's name ends with a word such as `category`."""
    return ends_as(column.name, "kind")


def _is_code(column: Column) -> bool:
    """Returns whether the column's name suggests that its numbers are codes."""
    return not WORDS["code"].isdisjoint(column.words)


def _separator(some: pl.Series, separators: str) -> str:
    """Returns the separator of lists whose parts recur, empty for other texts."""
    has_spaces = some.str.contains(", ", literal=True)
    has_sentences = has_spaces.any()
    for separator, least, recurring in (("|", 0.1, 2), (";", 0.1, 2), (",", 0.2, 4), (" ", 0.4, 4)):
        is_possible = separator in separators and not (separator == " " and has_sentences)
        if is_possible and share(some.str.contains(separator, literal=True)) >= least:
            parts = some.str.split(separator).explode().str.strip_chars()
            known = parts.n_unique() <= min(MAX_PARTS, len(parts) / recurring)
            if known and (separator in "|;" or len(some) > MAX_NUMERIC_CATEGORY):
                is_spaced = separator == "," and share(has_spaces) >= least
                return ", " if is_spaced else separator
    return ""


def _fits(column: Column, form: str) -> bool:
    """Returns whether all values have a time format; tries 100 values first."""
    some = (column.distinct.head(100), column.distinct)
    return not any(parsed(values, form).null_count() for values in some)


def parsed(values: pl.Series, form: str) -> pl.Series:
    """Returns texts as times, null for those in another format."""
    if form.startswith(MIXED):
        return parsed(values.str.replace_all("-", "/", literal=True), form.removeprefix(MIXED))
    if form.endswith("H"):  # polars requires minutes
        values, form = values + ":00", f"{form}:%M"
    if "%z" in form:
        times = values.str.to_datetime(form, strict=False, time_unit="us", time_zone="UTC")
        return times.dt.replace_time_zone(None)
    if "M" in form:
        return values.str.to_datetime(form, strict=False, time_unit="us")
    return values.str.to_date(form, strict=False).cast(pl.Datetime("us"))
