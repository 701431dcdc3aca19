"""Columns that differ between the candidates of a request, as declared and as found in the log.

A client sends these columns with every candidate and all others once for a request, so they are a
part of the HTTP interface. They are declared in `features.candidate_columns`: guessed from the log,
new data could change what clients must send.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import polars as pl
from rich.markup import escape

from larr.config import Config
from larr.data.contract import NEVER_FEATURES
from larr.data.features import NESTED
from larr.data.log import Log
from larr.data.time_columns import TIME_COLUMNS
from larr.data.transforms import Template
from larr.errors import ConfigError, DataError
from larr.progress import console

MOST_DIFFERING = 0.05
"""In a larger share of the requests, different values are no slip of the log."""
OF_THE_REQUEST = ("request_id", "user_id", "time", *TIME_COLUMNS)
DERIVED = ("poi_", "user_", "pair_")
"""Prefixes of columns that the server looks up by the IDs of a request and its candidates."""


def raw_column(config: Config, name: str) -> str:
    """Returns the column that a level is computed from, or the name itself if it is no level."""
    levels = {f"{bucket.column}_level": bucket.column for bucket in config.buckets}
    return levels.get(name, name)


def candidate_features(config: Config, names: Iterable[str]) -> list[str]:
    """Returns those of some features that differ between the candidates of a request.

    They are declared columns, levels of declared columns, and figures of a user at a place.
    """
    declared = set(config.features.candidate_columns)
    return [
        name for name in names if raw_column(config, name) in declared or name.startswith("pair_")
    ]


def check_candidate_columns(config: Config, log: Log) -> None:
    """Checks the declaration against the configuration and the log.

    Raises ConfigError if a declared column is missing, cannot differ, or is read by a text that is
    rendered once for a request; DataError if a column that is not declared differs between the
    candidates of more than `MOST_DIFFERING` of the requests.
    """
    schema = log.scan().collect_schema()
    _check_declared(config, schema)
    declared = config.features.candidate_columns
    undeclared = [
        name
        for name in dict.fromkeys(raw_column(config, name) for name in _read_columns(config))
        if name in schema
        and name not in (*declared, *OF_THE_REQUEST, *NEVER_FEATURES)
        and not name.startswith(DERIVED)
        and not isinstance(schema[name], NESTED)
    ]
    if not undeclared:
        return
    # Unlike n_unique, min and max take constant memory for each request. They skip missing values:
    # a value that is missing in some rows does not differ.
    differs = [pl.col(name).min() != pl.col(name).max() for name in undeclared]
    requests = log.scan().group_by("request_id").agg(differs).fill_null(value=False)
    shares = requests.select(pl.col(undeclared).mean()).collect(engine="streaming").row(0)
    shares_of = {name: share for name, share in zip(undeclared, shares, strict=True) if share > 0}
    examples = {name: _example(requests, name) for name in shares_of}
    differing = [name for name, share in shares_of.items() if share > MOST_DIFFERING]
    if differing:
        found = ", ".join(
            f"{name} in {shares_of[name]:.0%} of the requests, such as {examples[name]}"
            for name in differing
        )
        line = json.dumps([*(name for name in declared if name in schema), *differing])
        raise DataError(
            f"table impressions: columns differ between the candidates of a request ({found}) and "
            "are not declared; clients send such columns with each candidate, the others once for "
            "a request. Give all rows of a request the same value, or write under [features]:\n"
            f"candidate_columns = {line}"
        )
    for name, share in shares_of.items():
        console.print(
            escape(
                f"  {name}: differs between the candidates in {share:.2%} of the requests, such as "
                f"{examples[name]}; it is not in features.candidate_columns, so each request has "
                "one value"
            )
        )


def _check_declared(config: Config, schema: pl.Schema) -> None:
    declared = config.features.candidate_columns
    missing = [name for name in declared if name not in schema]
    if missing and "candidate_columns" in config.features.model_fields_set:
        raise ConfigError(
            f"features.candidate_columns: impressions have no column {', '.join(missing)}; they "
            f"have {', '.join(schema)}"
        )
    for name in declared:
        if name in OF_THE_REQUEST or name.startswith(DERIVED):
            raise ConfigError(
                f"features.candidate_columns: {name} is looked up or belongs to the request, so no "
                "client sends it with a candidate; take it out"
            )
    readers = {
        f"keyword {keyword.name} (owner {keyword.owner})": Template(keyword).columns
        for keyword in config.keywords
        if keyword.owner != "poi"
    } | {
        f"within of profile {profile.name}": [profile.within]
        for profile in config.profiles
        if profile.within
    }
    for reader, columns in readers.items():
        refused = [name for name in columns if raw_column(config, name) in declared]
        if refused:
            raise ConfigError(
                f"{reader} reads {', '.join(refused)}, which differs between the candidates of a "
                "request (features.candidate_columns); what a request has once cannot depend on "
                "it. Read another column, or take it out of features.candidate_columns"
            )


def _read_columns(config: Config) -> list[str]:
    """Returns all columns that features, levels, profiles and texts of requests read."""
    texts = [keyword for keyword in config.keywords if keyword.owner != "poi"]
    return [
        *config.features.categories,
        *config.features.numbers,
        *(bucket.column for bucket in config.buckets),
        *(profile.within for profile in config.profiles if profile.within),
        *(name for keyword in texts for name in Template(keyword).columns),
    ]


def _example(requests: pl.LazyFrame, name: str) -> str:
    differing = requests.filter(pl.col(name)).select(pl.col("request_id").min())
    return f"request_id {differing.collect(engine='streaming').item()}"
