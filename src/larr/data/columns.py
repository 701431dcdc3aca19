"""The columns that the configuration names, checked against those of the tables.

Keywords, features, buckets and profiles name columns. Each must exist, be known before the
impression, and be known at the place where it is read: a text of the scene is rendered once for a
request, so it cannot read what differs between the candidates.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import polars as pl
from rich.markup import escape

from larr.config import Config
from larr.data.contract import NEVER_FEATURES
from larr.data.known import PAIR_FIGURES
from larr.data.log import Log
from larr.data.statistics import NEVER_SEEN
from larr.data.transforms import TIME_COLUMNS, Template
from larr.errors import ConfigError, DataError
from larr.progress import console

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
    uses = [
        Use("features.categories", config.features.categories),
        Use("features.numbers", config.features.numbers, numbers=True),
        *(
            Use(f"bucket {bucket.column}", [bucket.column], numbers=True)
            for bucket in config.buckets
        ),
        *(
            Use(f"within of profile {profile.name}", [profile.within], once=True)
            for profile in config.profiles
            if profile.within
        ),
    ]
    for keyword in config.keywords:
        where = f"keyword {keyword.name} (owner {keyword.owner})"
        uses.append(Use(where, Template(keyword).columns, once=keyword.owner != "poi"))
    levels = {f"{bucket.column}_level" for bucket in config.buckets}
    names = (*NEVER_SEEN, "ctr", "cvr", "impressions")
    figures = {f"{owner}_{name}" for owner in ("poi", "user") for name in names}
    added = {"user_order_price_yuan", "recent", *PAIR_FIGURES, *figures, *levels}
    _check_tables(config, log, impressions, added)
    problems = chain(
        _wrong_columns(config, log, uses, impressions, added),
        _wrong_keywords(config),
        _wrong_features(config, uses, impressions),
    )
    for problem in problems:
        raise ConfigError(problem)
    _check_undeclared(config, uses, log, impressions)


def _check_tables(config: Config, log: Log, impressions: pl.Schema, added: set[str]) -> None:
    """Raises an error for a column with the name of an added column or of one in another table."""
    profiles = {profile.name for profile in config.profiles}
    if taken := sorted(profiles & added):
        raise ConfigError(f"profile {taken[0]}: larr adds a column of that name itself")
    added = added | profiles
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


def _wrong_columns(
    config: Config, log: Log, uses: Iterable[Use], impressions: pl.Schema, added: set[str]
) -> Iterator[str]:
    """Yields problems of columns that are missing, outcomes, or without single values."""
    near = config.contrast.near
    if near and near not in log.places.columns:
        names = ", ".join(log.places.columns)
        yield f"contrast.near: places have no column {near}; they have {names}"
    for profile in config.profiles:
        where, kind = f"profile {profile.name}:", log.places.schema.get(profile.poi_column)
        if kind is None:
            names = ", ".join(name.removeprefix("poi_") for name in log.places.columns)
            yield f"{where} places have no column {profile.column}; they have {names}"
        if isinstance(kind, NESTED):
            yield f"{where} {profile.column} holds {kind}; give a text with values joined by commas"
        if profile.within and raw_column(config, profile.within) not in impressions:
            yield (
                f"{where} within is {profile.within}, which impressions do not have; they have "
                f"{', '.join(impressions)}"
            )
    tables = {**impressions, **log.places.schema, **log.users.schema}
    columns = {*tables, *added} - {"recent", "poi_impressions", "user_impressions"}
    if "poi_price_yuan" not in log.places.columns:
        columns.discard("user_order_price_yuan")
    levels = {f"{bucket.column}_level" for bucket in config.buckets}
    profiles = {profile.name for profile in config.profiles}
    for use in uses:
        known = columns - levels if use.numbers else columns | profiles
        for name in use.columns:
            if name in NEVER_FEATURES:
                yield f"{use.where}: {name} is known only after the impression; take it out"
            if name not in known:
                names = ", ".join(sorted(known))
                yield f"{use.where}: no table has {name}; known columns: {names}"
            if isinstance(tables.get(name), NESTED):
                yield f"{use.where}: {name} holds {tables[name]}; give a column of single values"


def _wrong_keywords(config: Config) -> Iterator[str]:
    """Yields problems of templates by themselves and for the owner of their keyword."""
    for keyword in config.keywords:
        template, where = Template(keyword), f"keyword {keyword.name}:"
        foreign = [name for name in template.columns if not name.startswith("poi_")]
        target = [name for name in template.columns if name.startswith(("poi_", "pair_"))]
        if not template.is_balanced:
            yield (
                f"{where} template {keyword.template!r} has a bracket or brace without its other "
                "half; write columns in {braces}, optional parts in [brackets]"
            )
        if not template.columns:
            yield f"{where} template {keyword.template!r} names no column"
        if keyword.owner == "poi" and foreign:
            yield (
                f"{where} owner is poi, but {', '.join(foreign)} is no column of places; use "
                "poi_... columns or another owner"
            )
        if keyword.owner != "poi" and target:
            yield (
                f"{where} owner is {keyword.owner}, but {', '.join(target)} describes the "
                "candidate, and this text is rendered once for a request; use other columns or "
                'owner = "poi"'
            )
    if not any(keyword.owner == "poi" for keyword in config.keywords):
        yield "keywords: none has the owner poi; places need at least one text"


def _wrong_features(config: Config, uses: Iterable[Use], impressions: pl.Schema) -> Iterator[str]:
    """Yields problems of recent places and of the declared columns of candidates."""
    settings = config.features
    texts = [keyword.name for keyword in config.scene_keywords if keyword.owner == "poi"]
    if settings.recent_keyword and settings.recent_keyword not in texts:
        yield (
            f"features.recent_keyword: {settings.recent_keyword} is no scene keyword of a place; "
            f"these are {', '.join(texts)}"
        )
    if settings.recent and "poi_id" not in settings.categories:
        yield "features.recent needs poi_id among features.categories"
    missing = [name for name in settings.candidate_columns if name not in impressions]
    if missing and "candidate_columns" in settings.model_fields_set:
        yield (
            f"features.candidate_columns: impressions have no column {', '.join(missing)}; they "
            f"have {', '.join(impressions)}"
        )
    for name in settings.candidate_columns:
        if name in OF_THE_REQUEST or name.startswith(LOOKED_UP):
            yield (
                f"features.candidate_columns: {name} is looked up or belongs to the request, so no "
                "client sends it with a candidate; take it out"
            )
    for use in uses:
        for name in use.columns:
            if use.once and raw_column(config, name) in settings.candidate_columns:
                yield (
                    f"{use.where} reads {name}, which differs between the candidates of a "
                    "request (features.candidate_columns); it has one value for a request. Read "
                    "another column, or take it out of features.candidate_columns"
                )


def _check_undeclared(
    config: Config, uses: Iterable[Use], log: Log, impressions: pl.Schema
) -> None:
    """Raises DataError for a column that is read, differs within requests and is not declared."""
    declared = config.features.candidate_columns
    read = dict.fromkeys(raw_column(config, name) for use in uses for name in use.columns)
    columns = [
        name
        for name in read
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
    findings: dict[str, str] = {}
    for name, share in zip(columns, shares, strict=True):
        if not share:
            continue
        first = requests.filter(pl.col(name)).select(pl.col("request_id").min())
        example = first.collect(engine="streaming").item()
        line = f"{name} in {share:.1%} of the requests, such as request_id {example}"
        if share > MOST_DIFFERING:
            findings[name] = line
        else:
            line = f"  values differ between the candidates: {line}; the column is not in "
            line += "features.candidate_columns, so a request has one value of it"
            console.print(escape(line))
    if findings:
        toml = json.dumps([*(name for name in declared if name in impressions), *findings])
        raise DataError(
            "table impressions: columns differ between the candidates of a request "
            f"({'; '.join(findings.values())}) and are not declared; clients send these with each "
            "candidate, others once for a request. Give all rows of a request the same value, or "
            f"write under [features]:\ncandidate_columns = {toml}"
        )
