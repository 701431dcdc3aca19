"""Sections for tables, keywords, statistics and features."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self, get_args
from zoneinfo import available_timezones

from pydantic import Field, field_validator, model_validator

from larr.sections import AboveZero, Name, Positive, Section

TableName = Literal["places", "users", "impressions", "orders"]
RESERVED_KEYWORDS = {"user_id", "poi_id", "chain", "time", "row", "near", "beside", "log_row"}
"""Columns of files that also have a column for each keyword."""

MISSING = (
    *("NULL", "Null", "null", "(null)", r"\N", "None", "<NA>", "NA", "#NA", "N/A", "n/a", "#N/A"),
    *("NaN", "nan", "-NaN", "-nan", "NaT", "#N/A N/A", "1.#QNAN", "-1.#IND", "-", "--", "?"),
)
"""Markers of missing values in the output of databases, spreadsheets and pandas."""


class FileConfig(Section):
    """A file, a folder of files, or a query, which the SQL of `[dataset.tables]` can read.

    Options of CSV files that are not set are detected and printed.
    """

    path: Path | None = None
    """A Parquet, CSV or JSON file (also `.gz` and `.zst`), or a folder of files of one format.
    `{seed}` is replaced by the seed of the run."""
    uri: str = ""
    """A database instead of a path, for example `sqlite:///shop.db`, `duckdb:///shop.duckdb` or
    `postgresql://user@host/shop`; all but DuckDB need the extra `databases`."""
    query: str = ""
    """The query of the database; without `uri`, DuckDB SQL over the preceding files."""
    columns: list[str] = []
    """Column names of a CSV file without a header."""
    separator: str = ""
    """Separator of a CSV file."""
    quote: str | None = None
    """Quotation mark of a CSV file; empty for none."""
    escape: str | None = None
    """Escape character of quotation marks: the quotation mark itself, or a backslash."""
    encoding: str = ""
    """Encoding of a CSV file, such as `utf-8`, `utf-16`, `latin-1` or `gb18030`."""
    decimal: Literal["", ".", ","] = ""
    """Decimal mark of a CSV file."""
    skip: Annotated[int, Field(ge=0)] = 0
    """Lines of a CSV file before the header, or before the first row."""
    file_column: str = ""
    """Name of a column to add, with each row's file name without extension; useful if the date is
    only in the file name."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) != bool(self.query) or (self.uri and not self.query):
            raise ValueError("a file needs either path, or query with an optional uri")
        return self


class TablesConfig(Section):
    """Your tables: paths, or DuckDB SQL over `[dataset.files]`; see docs/your_data.md."""

    places: str | None = None
    """A file or folder as in `[dataset.files]`, or a query that begins with SELECT, FROM or WITH.
    If not set, places are taken from the impressions."""
    users: str | None = None
    """The same; if not set, users are taken from the impressions."""
    impressions: str | None = None
    """The same; required. Queries of other tables can read it by name."""
    orders: str | None = None
    """The same, for orders from before the log; optional."""
    rename: dict[TableName, dict[str, str]] = {}
    """For each table, the contract's column name -> your column name."""
    time_zone: str = ""
    """Time zone of the places, for example Asia/Shanghai, to which seconds since 1970 and times
    with an offset are converted. If empty, they are not converted and offsets are dropped."""
    naive_times: Literal["", "local", "utc"] = ""
    """The zone of times without an offset, if `time_zone` is set: `local` for that of the places,
    or `utc`, from which they are converted."""

    @field_validator("time_zone")
    @classmethod
    def _zone_exists(cls, name: str) -> str:
        if name and name not in available_timezones():
            raise ValueError(f"no time zone {name!r}; expected a name like Asia/Shanghai or UTC")
        return name

    @model_validator(mode="after")
    def _utc_needs_a_zone(self) -> Self:
        if self.naive_times == "utc" and not self.time_zone:
            raise ValueError('naive_times = "utc" needs time_zone, the zone of the places')
        return self


def is_query(table: str) -> bool:
    """Returns whether a table is given as SQL, not as a path."""
    return re.match(r"\s*(select|from|with)\s", table, re.IGNORECASE) is not None


class NegativesConfig(Section):
    """Negatives (unclicked places) sampled for a log in which every row is a click.

    They are drawn uniformly from the places between their first (or `since`) and last click.
    """

    per_request: Positive = 4
    """Negatives per request."""
    within: list[str] = []
    """Common columns of places and impressions, such as `city`: negatives have the same values as
    the request."""
    not_taken_in: list[str] = ["request_id"]
    """Places clicked in rows with equal values of these columns are not sampled."""


class DatasetConfig(Section):
    """The source of the tables, and how they are checked and split."""

    kind: str = "tables"
    """`tables` for your own, or a data set of another package; see `larr.data.datasets`."""
    bad_rows: Literal["reject", "stop"] = "reject"
    """Whether rows that break the contract are moved to `prepare/rejected/`, or stop the run."""
    split_by: Literal["time", "user_id", "poi_id", "request_id"] = "time"
    """How the test rows are chosen, unless impressions have a column `split`: the last rows by
    time, or random users, places or requests. A log without times is split by user instead."""
    test_days: Annotated[int, Field(ge=0)] = 1
    """Test days at the end of the log, unless `test_share` is set; 0 trains on all rows, also those
    that a column `split` marks as test, for a version to serve: `larr run` then has no report."""
    test_share: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Share of test rows in a split by time, or of test users, places or requests; 0.2 for these
    if not set."""
    negatives: NegativesConfig | None = None
    """Set it if every row is a click, to sample unclicked places."""
    sampling_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the impressions without a click that were kept in the training days. Decision 27."""
    missing: list[str] = [*MISSING]
    """Markers of a missing value in a text, a number or an ID."""
    chunk_rows: Positive = 250_000
    """Impressions in memory at a time."""
    folder: Path = Path()
    """Base folder of relative paths of tables and files."""
    files: dict[Name, FileConfig] = {}
    """Name, for the SQL of `tables` -> file or database."""
    tables: TablesConfig = TablesConfig()

    @field_validator("files")
    @classmethod
    def _names_are_free(cls, files: dict[str, FileConfig]) -> dict[str, FileConfig]:
        if taken := sorted(files.keys() & get_args(TableName)):
            raise ValueError(f"{taken[0]} is the name of a table; rename the file")
        return files

    @model_validator(mode="after")
    def _tables_match_kind(self) -> Self:
        if self.kind != "tables" and self.tables != TablesConfig():
            raise ValueError(
                f'tables are set, but kind is "{self.kind}"; set kind = "tables" to read them'
            )
        return self


class BucketConfig(Section):
    """Converts a number to words: adds the column `<column>_level`. Decision 13."""

    column: str
    """A numeric column."""
    words: list[str] = Field(min_length=2)
    """A word or phrase for each bucket, from low to high."""
    edges: list[float] | None = None
    """Ascending edges between the words, one fewer than the words; quantiles of the training days
    if not set."""

    @property
    def level(self) -> str:
        """The name of the new column."""
        return f"{self.column}_level"

    @model_validator(mode="after")
    def _edges_fit_words(self) -> Self:
        edges, expected = self.edges, len(self.words) - 1
        if edges is not None and (sorted(edges) != edges or len(edges) != expected):
            raise ValueError(
                f"bucket {self.column}: {len(self.words)} words need {expected} ascending edges, "
                f"got {edges}"
            )
        return self


class KeywordConfig(Section):
    """A part of a description, wrapped in two special tokens. Paper: Eq. (2)-(4), (8)."""

    name: Name
    """Name of the special tokens `<name>` and `</name>`."""
    owner: Literal["poi", "user", "scene"]
    """Which side the text describes; `user` and `scene` keywords form U, `poi` keywords P."""
    view: Literal["business", "basic", "profile", "action"]
    """P_d, P_b, U_p or U_a: the side of the stage 2 pair. Paper: section 3.2."""
    template: str
    """The text, with columns in braces: `{poi_name}[, {poi_area}]`. A part in brackets is omitted
    if one of its columns is missing; if another column is missing the row has no text."""
    prompt: bool = False
    """Whether it is part of x in stage 1 (name, location) rather than y. Paper: Eq. (5)-(6)."""
    scene: bool = True
    """Whether it is one of the r scene texts of stage 3. Paper: Eq. (22); r = 10."""

    @model_validator(mode="after")
    def _view_fits_owner(self) -> Self:
        views = ("business", "basic") if self.owner == "poi" else ("profile", "action")
        if self.view not in views:
            raise ValueError(
                f"keyword {self.name}: a keyword of {self.owner} has the view {views[0]} or "
                f"{views[1]}, got {self.view}"
            )
        return self


class ProfileConfig(Section):
    """A text about a user's earlier behaviour: the main values of a column of places."""

    column: str
    """A column of places with one or more comma-separated values."""
    name: Name
    """Name of the new column, for keyword templates."""
    events: Literal["taken", "clicked", "left"] = "taken"
    """The events that count: `taken` places were ordered (or clicked, in a log without orders),
    `clicked` ones not ordered, `left` ones shown and not clicked. Only the log has the last two."""
    within: str | None = None
    """A scene column; only events with the same value count (a similar situation)."""
    top: Positive = 3
    """Number of values."""
    ranked_by: Literal["count", "tfidf"] = "count"
    """`count`: the most frequent values; `tfidf`: the values that are more frequent than in the
    events of all users, the explicit persona of PerCoNet (arXiv 2304.07923)."""

    @property
    def poi_column(self) -> str:
        """The name of `column` after places are joined to the log."""
        return f"poi_{self.column.removeprefix('poi_')}"


class StatisticConfig(Section):
    """A cross statistic: counts of two values together on earlier days, such as user and category.

    Every ranker reads the figures, as numbers `<column>_x_<column>_<figure>`.
    """

    columns: tuple[str, str]
    """Two columns of users, places, impressions or the time, or levels of these. Each
    comma-separated value of a column of places counts; `poi_name_words` has the words of a name. If
    `statistics` is not set larr chooses pairs among the features; `statistics = []` for none."""

    figures: list[Literal["log_clicks", "share", "ctr", "cvr"]] = Field(
        ["log_clicks"], min_length=1
    )
    """`log_clicks`: log(1 + number of clicks and earlier orders of both values together); `share`:
    this number over the number expected from the totals of both; `ctr`: clicks over clicks expected
    from impressions and both rates; `cvr`: the same for orders. All but the first are smoothed
    logarithms."""

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        if self.columns[0] == self.columns[1]:
            raise ValueError(f"statistics: columns must differ, got {self.columns[0]} twice")
        return self

    @property
    def name(self) -> str:
        return "_x_".join(self.columns)

    @property
    def figure_names(self) -> list[str]:
        return [f"{self.name}_{figure}" for figure in self.figures]


class FeatureConfig(Section):
    """The inputs of all rankers besides the scene texts."""

    categories: list[str] = []
    """Categorical columns, for embedding tables: IDs and scene fields."""
    numbers: list[str] = []
    """Numeric columns, standardised by the mean and standard deviation of the training days."""
    within_request: bool = False
    """Whether rankers also read the number of candidates and, for each number that differs between
    them, its rank and its difference from the mean within the request. Set it if a request's rows
    are all candidates, not only those that were shown."""
    candidate_columns: list[str] = ["position", "distance_km"]
    """Columns of impressions that differ between the candidates of a request. Clients send them
    with each candidate, and all others once per request. Columns of places need no entry."""
    recent: Annotated[int, Field(ge=0)] = 10
    """Number of the places that a user ordered or clicked most recently, before the day."""
    recent_keyword: str = ""
    """Scene keyword with owner poi whose vectors represent the recent places in the user's
    interaction sequence; empty for none. Choose one that does not change with time. Paper: end of
    section 3.2."""
    half_life_days: AboveZero = 30.0
    """Half-life of an event's weight in the statistics, in days."""
    situation: list[str] = []
    """Categories of the scene, such as `["meal_slot", "place_kind"]`, whose values together are the
    context of an order. Text figures then also compare a place with the user's latest orders in
    similar contexts; empty for none. Doubles the memory of the histories, or more."""
    situation_attributes: list[str] = []
    """Categories of places, such as `["poi_category"]`. Contexts in which similar places are
    ordered, by the Jensen-Shannon divergence of these attributes, become one situation. Empty: each
    context is a situation. Paper: arXiv 2403.12566, categories and prices."""
    situations: Positive = 8
    """Maximum number of situations, if there are attributes. arXiv 2403.12566 has about 30."""
