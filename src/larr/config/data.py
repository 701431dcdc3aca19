"""Sections for the tables and for what is derived from their columns."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self, get_args
from zoneinfo import available_timezones

from pydantic import Field, field_validator, model_validator

from larr.sections import AboveZero, Name, Positive, Section

TableName = Literal["places", "users", "impressions", "orders"]
RESERVED_KEYWORDS = {"user_id", "poi_id", "chain", "time", "row", "near", "beside", "log_row"}
"""Columns of files that have a column for each keyword, too."""

MISSING = (
    *("NULL", "Null", "null", "(null)", r"\N", "None", "<NA>", "NA", "#NA", "N/A", "n/a", "#N/A"),
    *("NaN", "nan", "-NaN", "-nan", "NaT", "#N/A N/A", "1.#QNAN", "-1.#IND", "-", "--", "?"),
)
"""What databases, spreadsheets and pandas write for a missing value."""


class FileConfig(Section):
    """A file, a folder of files of one kind, or the result of a query, for the SQL of
    `[dataset.tables]`. What is not set of a CSV file is detected and printed."""

    path: Path | None = None
    """A Parquet, CSV or JSON file (`.gz` and `.zst`, too), or a folder of files of one kind.
    `{seed}` stands for the run's seed."""
    uri: str = ""
    """A database instead of a path, for example `sqlite:///shop.db`, `duckdb:///shop.duckdb` or
    `postgresql://user@host/shop`; all but DuckDB need the extra `databases`."""
    query: str = ""
    """What is read from the database; without `uri`, SQL (DuckDB's) over the files named before."""
    columns: list[str] = []
    """The names of the columns of a CSV file without a header."""
    separator: str = ""
    """Between the values of a CSV file."""
    quote: str | None = None
    """The quotation mark of a CSV file; empty if it has none."""
    escape: str | None = None
    """What precedes a quotation mark within quotes: another quotation mark, or a backslash."""
    encoding: str = ""
    """Of a CSV file, such as `utf-8`, `utf-16`, `latin-1` or `gb18030`."""
    decimal: Literal["", ".", ","] = ""
    """The decimal mark of the numbers in a CSV file."""
    skip: Annotated[int, Field(ge=0)] = 0
    """Lines of a CSV file before the header, or before the first row."""
    file_column: str = ""
    """The name of a column to add: which file a row is from, by its name without `.csv` and the
    like. For dates that only the names of files have."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) != bool(self.query) or (self.uri and not self.query):
            raise ValueError("a file needs either path, or query, to which uri may be added")
        return self


class TablesConfig(Section):
    """Your tables: each a path, or SQL (DuckDB's) over `[dataset.files]`; see docs/your_data.md."""

    places: str | None = None
    """A file or folder as in `[dataset.files]`, or a query that begins with SELECT, FROM or WITH.
    Without it the places are those of the impressions."""
    users: str | None = None
    """The same; without it the users are those of the impressions."""
    impressions: str | None = None
    """The same; required. Queries of the other tables can read it by its name."""
    orders: str | None = None
    """Orders from before the log; may be absent."""
    rename: dict[TableName, dict[str, str]] = {}
    """For each table, the contract's column name -> your column name."""
    time_zone: str = ""
    """The zone of the places, for example Asia/Shanghai, to which seconds since 1970 and times with
    an offset are converted. Empty: they are not converted, and offsets are dropped."""
    naive_times: Literal["", "local", "utc"] = ""
    """What times without an offset are, if there is a `time_zone`: `local` times of the places, or
    `utc`, which is converted as well."""

    @field_validator("time_zone")
    @classmethod
    def _is_a_zone(cls, name: str) -> str:
        if name and name not in available_timezones():
            raise ValueError(f"no time zone {name!r}; expected a name like Asia/Shanghai or UTC")
        return name

    @model_validator(mode="after")
    def _utc_needs_a_zone(self) -> Self:
        if self.naive_times == "utc" and not self.time_zone:
            raise ValueError('naive_times = "utc" needs time_zone, the zone of the places')
        return self


def is_query(table: str) -> bool:
    """Returns whether a table is given as SQL, and not as a path."""
    return re.match(r"\s*(select|from|with)\s", table, re.IGNORECASE) is not None


class NegativesConfig(Section):
    """Places sampled as not clicked, for a log in which each row is a click. They are drawn evenly
    from those that have been clicked by then and still will be."""

    per_request: Positive = 4
    """How many, beside what was clicked."""
    within: list[str] = []
    """Columns that places and impressions have in common, such as `city`: only places with the
    value of the request are drawn."""
    not_taken_in: list[str] = ["request_id"]
    """Places that were clicked in rows with the same values of these columns are not drawn."""


class DatasetConfig(Section):
    """Where the tables come from and how they are checked and split."""

    kind: str = "tables"
    """`tables` for your own, or a data set of another package; see `larr.data.datasets`."""
    bad_rows: Literal["reject", "stop"] = "reject"
    """What happens if rows break the contract: they are moved to `prepare/rejected/`, or the run
    stops."""
    split_by: Literal["time", "user_id", "poi_id", "request_id"] = "time"
    """What separates the test set, unless impressions have a column `split`: the last rows by time,
    or users, places or requests drawn at random. A log without times is split by users instead."""
    test_days: Positive = 1
    """How many days at the end of the log are tested, unless `test_share` is set."""
    test_share: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """The share of the rows that is tested, or of the users, places or requests; of these a fifth
    if it is not set."""
    negatives: NegativesConfig | None = None
    """Set it if each row is a click, to sample places that were not clicked."""
    sampling_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the impressions without a click that the training days contain. Decision 27."""
    missing: list[str] = [*MISSING]
    """Words that stand for a missing value in a text, a number or an ID."""
    chunk_rows: Positive = 250_000
    """Impressions in memory at a time, in rows."""
    folder: Path = Path()
    """The folder at which relative paths of tables and files begin."""
    files: dict[Name, FileConfig] = {}
    """Files and databases that the SQL of `tables` reads by these names."""
    tables: TablesConfig = TablesConfig()

    @field_validator("files")
    @classmethod
    def _no_name_of_a_table(cls, files: dict[str, FileConfig]) -> dict[str, FileConfig]:
        if taken := sorted(files.keys() & get_args(TableName)):
            raise ValueError(f"{taken[0]} is the name of a table; give the file another name")
        return files

    @model_validator(mode="after")
    def _tables_are_read(self) -> Self:
        if self.kind != "tables" and self.tables != TablesConfig():
            raise ValueError(
                f'tables are given, but kind is "{self.kind}"; set kind = "tables" to read them'
            )
        return self


class BucketConfig(Section):
    """The levels of a number in words: adds the column `<column>_level`. Decision 13."""

    column: str
    """A column of numbers."""
    words: list[str] = Field(min_length=2)
    """One word or phrase for each bucket, from low to high."""
    edges: list[float] | None = None
    """Rising edges between the words, one fewer than these; quantiles of the training days if not
    set."""

    @model_validator(mode="after")
    def _edges_rise_between_the_words(self) -> Self:
        edges, expected = self.edges, len(self.words) - 1
        if edges is not None and (sorted(edges) != edges or len(edges) != expected):
            raise ValueError(
                f"bucket {self.column}: {len(self.words)} words need {expected} rising edges, got "
                f"{edges}"
            )
        return self


class KeywordConfig(Section):
    """A slice of a description, wrapped in two special tokens. Paper: Eq. (2)-(4), (8)."""

    name: Name
    """Gives the special tokens `<name>` and `</name>`."""
    owner: Literal["poi", "user", "scene"]
    """Which side the text describes; `user` and `scene` keywords form U, `poi` keywords P."""
    view: Literal["business", "basic", "profile", "action"]
    """P_d, P_b, U_p or U_a: the side of the stage 2 pair. Paper: section 3.2."""
    template: str
    """The text, with columns in braces: `{poi_name}[, {poi_area}]`. A part in brackets is left out
    where one of its columns is missing; a row that misses a column outside them has no text."""
    prompt: bool = False
    """A part of x in stage 1 (name, location); other POI keywords are y. Paper: Eq. (5)-(6)."""
    scene: bool = True
    """One of the r scene texts that stage 3 reads. Paper: Eq. (22); r = 10."""

    @model_validator(mode="after")
    def _view_is_the_owners(self) -> Self:
        views = ("business", "basic") if self.owner == "poi" else ("profile", "action")
        if self.view not in views:
            raise ValueError(
                f"keyword {self.name}: a keyword of {self.owner} has the view {views[0]} or "
                f"{views[1]}, got {self.view}"
            )
        return self


class ProfileConfig(Section):
    """A text about a user's earlier orders: the most frequent values of a column of places."""

    column: str
    """A column of places: a text of one or more values joined by commas."""
    name: Name
    """The name of the derived column, to be used in keyword templates."""
    within: str | None = None
    """A scene column; only orders with the same value of it count (a similar situation)."""
    top: Positive = 3
    """The number of values."""

    @property
    def poi_column(self) -> str:
        """The name of the column once places are joined to the log."""
        return f"poi_{self.column.removeprefix('poi_')}"


class StatisticConfig(Section):
    """What earlier days show of two values together, such as a user and a category.

    Every ranker reads its figures, numbers that are named `<column>_x_<column>_<figure>`.
    """

    columns: tuple[str, str]
    """Columns of users, places or impressions, columns of the time, or levels of these; of texts of
    places each value between commas counts. Without any pair larr chooses some by the features;
    `statistics = []` for none."""

    figures: list[Literal["log_clicks", "share", "ctr", "cvr"]] = Field(
        ["log_clicks"], min_length=1
    )
    """`log_clicks`: how often they were clicked together, orders from before the log included;
    `share`: that count over the one that the totals of both let expect; `ctr`: clicks over those
    expected from impressions and both rates; `cvr`: the same of orders. All but the first are
    smoothed logarithms."""

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        if self.columns[0] == self.columns[1]:
            raise ValueError(f"statistics: columns must differ, got {self.columns[0]} twice")
        return self

    @property
    def name(self) -> str:
        """The first part of the names of its figures."""
        return "_x_".join(self.columns)


class FeatureConfig(Section):
    """What rankers read in addition to the scene texts; the same for every ranker."""

    categories: list[str] = []
    """Columns looked up in an embedding table: IDs and scene fields."""
    numbers: list[str] = []
    """Columns standardised with the mean and deviation of the training days."""
    within_request: bool = False
    """Whether rankers also read, of each number that differs between the candidates of a request,
    the rank and the difference from the mean among these, and their number. Set it if the rows of
    a request are all candidates that were to be ranked, and not only those that were shown."""
    candidate_columns: list[str] = ["position", "distance_km"]
    """Columns of impressions that differ between the candidates of a request: clients send them
    with each candidate, all others once for a request. Columns of places need no entry."""
    recent: Annotated[int, Field(ge=0)] = 10
    """How many places of a user's latest orders and clicks before the day of the impression."""
    recent_keyword: str = ""
    """The scene keyword of owner poi whose vectors stand for the recent places in the user's
    interaction sequence; empty for none. Choose one that does not change with time. Paper: end of
    section 3.2."""
    half_life_days: AboveZero = 30.0
    """Days in which the weight of an event in the statistics of a user or place halves."""
