"""The columns that the configuration names, checked against those of the tables.

Keywords, features, buckets and profiles name columns. Each must exist, be known before the
impression, and be known at the place where it is read: a text of the scene is rendered once for a
request, so it cannot read what differs between the candidates.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

import polars as pl
from rich.markup import escape

from larr.config import Config
from larr.data.contract import NEVER_FEATURES
from larr.data.known import NEVER_SEEN, PAIR_FIGURES
from larr.data.log import Log
from larr.data.time_columns import TIME_COLUMNS
from larr.data.transforms import Template
from larr.errors import ConfigError, DataError
from larr.progress import console

FIGURES = (*NEVER_SEEN, "ctr", "cvr")
OF_THE_REQUEST = ("request_id", "user_id", "time", *TIME_COLUMNS)
LOOKED_UP = ("poi_", "user_", "pair_")
"""Prefixes of columns that a server looks up by the IDs of a request and its candidates."""
NESTED = (pl.List, pl.Struct, pl.Array)
"""Types of columns that hold no single values."""
MOST_DIFFERING = 0.05
"""In a larger share of the requests, different values are no slip of the log."""


class Use(NamedTuple):
    """A part of the configuration that reads columns."""

    where: str
    columns: list[str]
    numbers: bool = False
    """Whether it reads numbers, so neither levels nor profiles."""
    once: bool = False
    """Whether it has one value for a request, so that it cannot read columns of candidates."""


def raw_column(config: Config, name: str) -> str:
    """Returns the column that a level is computed from, or the name itself if it is no level."""
    levels = {f"{bucket.column}_level": bucket.column for bucket in config.buckets}
    return levels.get(name, name)


def candidate_features(config: Config, names: Iterable[str]) -> list[str]:
    """Returns those of some features that differ between the candidates of a request.

    They are declared columns, levels of declared columns, and figures of a user at a place.
    """
    declared = config.features.candidate_columns
    return [
        name for name in names if raw_column(config, name) in declared or name.startswith("pair_")
    ]


def check_columns(config: Config, log: Log) -> None:
    """Raises ConfigError for a column that cannot be used as configured, DataError for a table.

    Prints columns that differ within so few requests that it may be a slip of the log.
    """
    impressions = log.scan().collect_schema()
    uses = list(_uses(config))
    _check_tables(config, log, impressions)
    _check_profiles(config, log, impressions)
    _check_uses(config, log, uses, impressions)
    _check_keywords(config)
    _check_recent(config)
    _check_declared(config, uses, impressions)
    _check_undeclared(config, uses, log, impressions)


def _uses(config: Config) -> Iterable[Use]:
    yield Use("features.categories", config.features.categories)
    yield Use("features.numbers", config.features.numbers, numbers=True)
    for bucket in config.buckets:
        yield Use(f"bucket {bucket.column}", [bucket.column], numbers=True)
    for profile in config.profiles:
        if profile.within:
            yield Use(f"within of profile {profile.name}", [profile.within], once=True)
    for keyword in config.keywords:
        name = f"keyword {keyword.name} (owner {keyword.owner})"
        yield Use(name, Template(keyword).columns, once=keyword.owner != "poi")


def _added_columns(config: Config) -> set[str]:
    """Returns the columns that larr adds to those of the tables, profiles aside."""
    added = {f"{owner}_{name}" for owner in ("poi", "user") for name in (*FIGURES, "impressions")}
    added |= {"user_order_price_yuan", "recent", *PAIR_FIGURES}
    return added | {f"{bucket.column}_level" for bucket in config.buckets}


def _check_tables(config: Config, log: Log, impressions: pl.Schema) -> None:
    """Raises an error for a column with the name of an added column or of one in another table."""
    added, profiles = _added_columns(config), {profile.name for profile in config.profiles}
    if taken := sorted(profiles & added):
        raise ConfigError(f"profile {taken[0]}: larr adds a column of that name itself")
    added |= profiles
    entities = {*log.places.columns, *log.users.columns} - {"poi_id", "user_id"}
    for table, columns, others in (
        ("places", log.places.columns, added),
        ("users", log.users.columns, added),
        ("impressions", impressions, added | entities),
        ("orders", log.history.columns, added | entities),
    ):
        if taken := sorted(others.intersection(columns)):
            raise DataError(
                f"table {table}: its column {', '.join(taken)} has the name of a column that larr "
                "adds, or that another table has; rename it ([dataset.tables.rename])"
            )


def _check_profiles(config: Config, log: Log, impressions: pl.Schema) -> None:
    for profile in config.profiles:
        problem = ""
        kind = log.places.schema.get(profile.poi_column)
        if kind is None:
            names = (name.removeprefix("poi_") for name in log.places.columns)
            problem = f"places have no column {profile.column}; they have {', '.join(names)}"
        elif isinstance(kind, NESTED):
            problem = f"{profile.column} holds {kind}; give a text with values joined by commas"
        elif profile.within and raw_column(config, profile.within) not in impressions:
            problem = (
                f"within is {profile.within}, which impressions do not have; they have "
                f"{', '.join(impressions)}"
            )
        if problem:
            raise ConfigError(f"profile {profile.name}: {problem}")


def _check_uses(config: Config, log: Log, uses: Iterable[Use], impressions: pl.Schema) -> None:
    """Raises ConfigError for a column that is an outcome, is missing, or has no single values."""
    tables = {**impressions, **log.places.schema, **log.users.schema}
    unread = {"recent", "poi_impressions", "user_impressions"}
    if "poi_price_yuan" not in log.places.columns:
        unread.add("user_order_price_yuan")
    columns = {*tables, *_added_columns(config)} - unread
    levels = {f"{bucket.column}_level" for bucket in config.buckets}
    profiles = {profile.name for profile in config.profiles}
    for use in uses:
        known = columns - levels if use.numbers else columns | profiles
        for name in use.columns:
            problem = ""
            if name in NEVER_FEATURES:
                problem = f"{name} is known only after the impression; take it out"
            elif name not in known:
                problem = f"no table has {name}; known columns: {', '.join(sorted(known))}"
            elif isinstance(tables.get(name), NESTED):
                problem = f"{name} holds {tables[name]}; give a column of single values"
            if problem:
                raise ConfigError(f"{use.where}: {problem}")


def _check_keywords(config: Config) -> None:
    for keyword in config.keywords:
        template = Template(keyword)
        problem = ""
        foreign = [name for name in template.columns if not name.startswith("poi_")]
        target = [name for name in template.columns if name.startswith(("poi_", "pair_"))]
        if not template.is_balanced:
            problem = (
                f"template {keyword.template!r} has a bracket or brace without its other half; "
                "write columns in {braces}, optional parts in [brackets]"
            )
        elif not template.columns:
            problem = f"template {keyword.template!r} names no column"
        elif keyword.owner == "poi" and foreign:
            problem = (
                f"owner is poi, but {', '.join(foreign)} is no column of places; use poi_... "
                "columns or another owner"
            )
        elif keyword.owner != "poi" and target:
            problem = (
                f"owner is {keyword.owner}, but {', '.join(target)} describes the candidate, and "
                'this text is rendered once for a request; use other columns or owner = "poi"'
            )
        if problem:
            raise ConfigError(f"keyword {keyword.name}: {problem}")
    if not any(keyword.owner == "poi" for keyword in config.keywords):
        raise ConfigError("keywords: none has the owner poi; places need at least one text")


def _check_recent(config: Config) -> None:
    keyword = config.features.recent_keyword
    texts = [keyword.name for keyword in config.scene_keywords if keyword.owner == "poi"]
    if keyword and keyword not in texts:
        raise ConfigError(
            f"features.recent_keyword: {keyword} is no scene keyword of a place; these are "
            f"{', '.join(texts)}"
        )
    if config.features.recent and "poi_id" not in config.features.categories:
        raise ConfigError("features.recent needs poi_id among features.categories")


def _check_declared(config: Config, uses: Iterable[Use], impressions: pl.Schema) -> None:
    """Raises ConfigError for a declared column that does not exist, cannot differ or may not."""
    declared = config.features.candidate_columns
    missing = [name for name in declared if name not in impressions]
    if missing and "candidate_columns" in config.features.model_fields_set:
        raise ConfigError(
            f"features.candidate_columns: impressions have no column {', '.join(missing)}; they "
            f"have {', '.join(impressions)}"
        )
    for name in declared:
        if name in OF_THE_REQUEST or name.startswith(LOOKED_UP):
            raise ConfigError(
                f"features.candidate_columns: {name} is looked up or belongs to the request, so no "
                "client sends it with a candidate; take it out"
            )
    for use in uses:
        for name in use.columns:
            if use.once and raw_column(config, name) in declared:
                raise ConfigError(
                    f"{use.where} reads {name}, which differs between the candidates of a "
                    "request (features.candidate_columns); it has one value for a request. Read "
                    "another column, or take it out of features.candidate_columns"
                )


def _check_undeclared(
    config: Config, uses: Iterable[Use], log: Log, impressions: pl.Schema
) -> None:
    """Raises DataError for a column that is read, differs within requests and is not declared."""
    declared = config.features.candidate_columns
    read = (raw_column(config, name) for use in uses for name in use.columns)
    columns = [
        name
        for name in dict.fromkeys(read)
        if name in impressions and name not in (*declared, *OF_THE_REQUEST)
        if not name.startswith(LOOKED_UP)
    ]
    if not columns:
        return
    # Unlike n_unique, min and max take constant memory for each request. They skip missing values:
    # a value that is missing in some rows does not differ.
    differs = [pl.col(name).min() != pl.col(name).max() for name in columns]
    requests = log.scan().group_by("request_id").agg(differs).fill_null(value=False)
    shares = requests.select(pl.col(columns).mean()).collect(engine="streaming").row(0)
    differing, findings = [], []
    for name, share in zip(columns, shares, strict=True):
        if not share:
            continue
        first = requests.filter(pl.col(name)).select(pl.col("request_id").min())
        example = first.collect(engine="streaming").item()
        line = f"{name} in {share:.1%} of the requests, such as request_id {example}"
        if share > MOST_DIFFERING:
            findings.append(line)
            differing.append(name)
        else:
            console.print(
                escape(
                    f"  values differ between the candidates: {line}; the column is not in "
                    "features.candidate_columns, so a request has one value of it"
                )
            )
    if differing:
        toml = json.dumps([*(name for name in declared if name in impressions), *differing])
        raise DataError(
            "table impressions: columns differ between the candidates of a request "
            f"({'; '.join(findings)}) and are not declared; clients send these with each "
            "candidate, others once for a request. Give all rows of a request the same value, or "
            f"write under [features]:\ncandidate_columns = {toml}"
        )
