"""Checks the columns that the configuration names against those of the tables.

A column of a keyword, feature, bucket or profile must exist and be known before the impression.
Texts of users and scenes are rendered once per request, so they cannot read columns that differ
between candidates.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import polars as pl

from larr import artifacts
from larr.config import Config
from larr.data.contract import NEVER_FEATURES
from larr.data.log import Log, differing, sample_requests
from larr.data.names import (
    LOOKED_UP,
    candidate_features,
    compared_numbers,
    raw_column,
)
from larr.data.snapshot import PAIR_FIGURES
from larr.data.statistics import NEVER_SEEN, RATES
from larr.data.transforms import AGE, NAME_WORDS, TIME_COLUMNS, Template
from larr.data.values import NESTED
from larr.data.within import within_names
from larr.errors import ConfigError, DataError, suggestion
from larr.progress import console
from larr.stages import is_instructed

IMPRESSIONS = ("user_impressions", "poi_impressions")
"""Columns with the number of training rows of each row's user and place."""
KEPT_FOR_EVALUATION = ("request_id", "user_id", "poi_id", "time", *IMPRESSIONS)
NUMBERS = "a column of numbers"
"""The description of these columns in errors."""
SAMPLED = 1_000
"""Rows from which an error learns whether a column holds numbers."""
OF_THE_REQUEST = ("request_id", "user_id", "time", *TIME_COLUMNS)
MAX_DIFFERING = 0.05
"""If a column differs within a larger share of the requests, it is not a mistake in the log."""
Use = tuple[str, list[str], Collection[str], str]
"""The setting that reads columns, the columns, the valid columns, and a description of these."""


def check_columns(config: Config, log: Log) -> None:
    """Raises ConfigError for an invalid column in a setting, DataError for an invalid table.

    Prints columns that differ within so few requests that it may be a mistake in the log.
    """
    impressions = log.schema()
    levels = {bucket.level for bucket in config.buckets}
    owners = ("poi", "user")
    figures = {f"{owner}_{name}" for owner in owners for name in (*NEVER_SEEN, *RATES)}
    figures |= {"user_order_price_yuan", AGE, *PAIR_FIGURES}
    figures |= {name for pair in config.statistics or [] for name in pair.figure_names}
    internal = {"recent", *IMPRESSIONS, *within_names(compared_numbers(config))}  # not for settings
    _check_tables(config, log, impressions, figures | levels | internal | {NAME_WORDS})
    # The names are reserved in any case; the columns exist only if places have these.
    for name, needed in (("user_order_price_yuan", "poi_price_yuan"), (AGE, "poi_since")):
        if needed not in log.places.columns:
            figures.discard(name)
    tables = {**impressions, **log.places.schema, NAME_WORDS: pl.String(), **log.users.schema}
    numbers = {*tables, *figures} - internal
    uses = _uses(config, log, impressions, numbers, numbers | levels)
    counted = {*tables, *(f"{name}_level" for name in tables)} & (numbers | levels)
    expected = "a column of a table or of the time, or a level of one"
    uses += [
        (f"statistics {pair.name}", [*pair.columns], counted, expected)
        for pair in config.statistics or []
    ]
    refuse(
        [
            *_invalid_uses(config, uses, tables, log),
            *_invalid_settings(config, impressions, log.tasks),
            *later_problems(config, log.places.columns),
        ]
    )
    _check_undeclared(config, log, impressions)


def refuse(problems: Sequence[str]) -> None:
    """Raises ConfigError with all problems, if there are any."""
    if problems:
        heading = [f"{len(problems)} settings must be changed:"] if len(problems) > 1 else []
        raise ConfigError("\n- ".join([*heading, *problems]))


def later_problems(config: Config, places: Collection[str]) -> Iterator[str]:
    """Yields problems for stages after `prepare`; `places` are the columns of places."""
    owners = {keyword.owner for keyword in config.keywords}
    if "poi" not in owners:
        yield "keywords: none has the owner poi; places need at least one text"
    if not owners & {"user", "scene"}:
        yield "keywords: none has the owner user or scene; stage 2 needs one"
    yield from _instruct_problems(config)
    near, categories = config.contrast.near, config.features.categories
    if near and near not in places:
        known = ", ".join(sorted(places))
        problem = f"contrast.near: cannot read {near}{suggestion(near, places)}"
        yield f"{problem}; expected a column of places: {known}"
    if not categories:
        yield "features.categories: the rankers need at least one, got none"
    for name in dict.fromkeys([*config.align.models, *config.choose.kinds]):
        if unknown := set(config.align.of(name).hidden).difference(categories):
            yield (
                f"{name}: hidden names {', '.join(sorted(unknown))}; the categories are "
                f"{', '.join(categories)}"
            )
    kept = [*KEPT_FOR_EVALUATION, *categories]
    if missing := [name for name in config.evaluate.slices if name not in kept]:
        yield (
            f"evaluate.slices: the test rows have no column {', '.join(missing)}; they keep "
            f"{', '.join(kept)} (add columns to features.categories)"
        )


def _instruct_problems(config: Config) -> Iterator[str]:
    """Yields problems of the section `instruct`, which may be empty if no ranker reads its LM."""
    settings = config.instruct
    if is_instructed(config) and not (settings.knowledge and settings.answers):
        yield "instruct: a ranker reads the LM of `larr instruct`; set knowledge and answers"
    knowledge = {settings.knowledge} - {""}
    yield from _invalid_keywords(config, "instruct.knowledge", knowledge, ("user", "scene"))
    yield from _invalid_keywords(config, "instruct.answers", settings.answers, ("poi",))


def _invalid_keywords(
    config: Config, setting: str, names: Iterable[str], owners: Sequence[str]
) -> Iterator[str]:
    """Yields the problem of a setting that names others than scene keywords of some owners."""
    known = [keyword.name for keyword in config.scene_keywords if keyword.owner in owners]
    if unknown := [name for name in names if name not in known]:
        yield (
            f"{setting}: {', '.join(unknown)} is not a scene keyword with owner "
            f"{' or '.join(owners)}; these are {', '.join(known)}"
        )


def check_later_stages(config: Config) -> None:
    """Raises ConfigError for settings, changed since `prepare`, that later stages do not allow."""
    places = artifacts.folder(config, "prepare") / "places.parquet"
    refuse([*later_problems(config, pl.read_parquet_schema(places))])


def _invalid_uses(
    config: Config, uses: list[Use], tables: Mapping[str, pl.DataType], log: Log
) -> Iterator[str]:
    """Yields problems with the columns that settings read."""
    existing = {*tables}.union(*(known for _, _, known, _ in uses))
    unusable = {name for name, dtype in tables.items() if isinstance(dtype, NESTED)}
    unusable |= {"request_id", *NEVER_FEATURES, *(() if log.is_dated else TIME_COLUMNS)}
    for where, columns, known, expected in uses:
        for name in columns:
            if name in NEVER_FEATURES:
                yield f"{where}: {name} is not known before the impression; remove it"
            elif not log.is_dated and raw_column(config, name) in (AGE, *TIME_COLUMNS):
                yield f"{where}: impressions have no time, so {name} is undefined; remove it"
            elif name not in known:
                others = _without_numbers(log) if expected == NUMBERS else set()
                valid = sorted({*known} - unusable - others)
                near = "" if name in existing else suggestion(name, valid)
                yield f"{where}: cannot read {name}{near}; expected {expected}: {', '.join(valid)}"
            elif isinstance(tables.get(name), NESTED):
                yield (
                    f"{where}: {name} holds {tables[name]}; give a column of single values, or of "
                    "comma-separated texts"
                )


def _without_numbers(log: Log) -> set[str]:
    """Returns the columns of the tables that hold no number.

    Columns of CSV files are texts until a setting reads them as numbers.
    """
    tables = (log.scan(), log.places.lazy(), log.users.lazy())
    columns = [column for table in tables for column in table.head(SAMPLED).collect()]
    return {
        column.name
        for column in columns
        if column.dtype.is_temporal()
        or (column.dtype == pl.String and column.cast(pl.Float64, strict=False).is_null().all())
    }


def _uses(
    config: Config, log: Log, impressions: pl.Schema, numbers: set[str], single: set[str]
) -> list[Use]:
    """Returns the uses of columns; `numbers` are columns without levels, `single` with them."""
    columns = single | {profile.name for profile in config.profiles}
    differing = candidate_features(config, columns)
    of_request = {name for name in columns.difference(differing) if not name.startswith("poi_")}
    within = {name for name in of_request if raw_column(config, name) in impressions}
    once = "a column with one value per request (not of places or features.candidate_columns)"
    uses: list[Use] = [
        ("features.categories", config.features.categories, columns, "a column of a table"),
        ("features.numbers", config.features.numbers, numbers, NUMBERS),
    ]
    uses += [(f"bucket {b.column}", [b.column], numbers, NUMBERS) for b in config.buckets]
    place_columns = [*log.places.columns, NAME_WORDS]
    for profile in config.profiles:
        where = f"profile {profile.name}"
        uses.append((where, [profile.poi_column], place_columns, "a column of places"))
        if profile.within:
            expected = f"{once} of the impressions"
            uses.append((f"within of {where}", [profile.within], within, expected))
    for keyword in config.keywords:
        where = f"keyword {keyword.name} (owner {keyword.owner})"
        if keyword.owner == "poi":
            known = {name for name in columns if name.startswith("poi_")}.difference(differing)
            expected = 'a column of places; other texts need owner = "user" or "scene"'
        else:
            known = of_request
            expected = f'{once}; texts of places need owner = "poi"'
        uses.append((where, Template(keyword).columns, known, expected))
    return uses


def _check_tables(config: Config, log: Log, impressions: pl.Schema, added: set[str]) -> None:
    """Raises an error for a column whose name larr or another table uses as well."""
    profiles = {profile.name for profile in config.profiles}
    if taken := sorted(profiles & added):
        raise ConfigError(f"profile {taken[0]}: larr adds a column with that name; rename it")
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
                f"table {table}: the name of column {', '.join(taken)} is also used by larr or by "
                "another table; rename it ([dataset.tables.rename])"
            )


def _invalid_settings(
    config: Config, impressions: pl.Schema, tasks: Sequence[str]
) -> Iterator[str]:
    """Yields problems with templates, statistics, recent places and candidate columns."""
    for keyword in config.keywords:
        template, where = Template(keyword), f"keyword {keyword.name}: template"
        if not template.is_balanced:
            yield (
                f"{where} {keyword.template!r} has an unmatched bracket or brace; write columns "
                "in {braces}, optional parts in [brackets]; rename columns with one of these in "
                "their names ([dataset.tables.rename])"
            )
        elif not template.columns:
            yield f"{where} {keyword.template!r} names no column; write one in braces"
    settings = config.features
    if "order" not in tasks:
        yield from _needing_orders(config)
    recent = {settings.recent_keyword} - {""}
    yield from _invalid_keywords(config, "features.recent_keyword", recent, ("poi",))
    if settings.recent and "poi_id" not in settings.categories:
        yield "features.recent needs poi_id among features.categories"
    contexts = [
        name
        for name in settings.categories
        if not name.startswith("poi_")
        and raw_column(config, name) not in settings.candidate_columns
    ]
    attributes = [name for name in settings.categories if name.startswith("poi_")]
    for setting, known in (("situation", contexts), ("situation_attributes", attributes)):
        if unknown := [name for name in getattr(settings, setting) if name not in known]:
            yield (
                f"features.{setting}: {', '.join(unknown)} must be among features.categories; "
                f"possible are {', '.join(known)}"
            )
    for name in settings.candidate_columns:
        if name not in impressions and "candidate_columns" in settings.model_fields_set:
            yield (
                f"features.candidate_columns: impressions have no column {name}; they have "
                f"{', '.join(impressions)}"
            )
        if name in OF_THE_REQUEST or name.startswith(LOOKED_UP):
            yield (
                f"features.candidate_columns: {name} is looked up or belongs to the request, so "
                "clients do not send it with a candidate; remove it"
            )


def _needing_orders(config: Config) -> Iterator[str]:
    """Yields the settings that a log without a column `order` does not allow."""
    for profile in config.profiles:
        if profile.events == "clicked":
            yield (
                f"profile {profile.name}: impressions have no column order, so every click is "
                'taken; set events to "taken" or "left"'
            )
    for pair in config.statistics or []:
        if "cvr" in pair.figures:
            yield (
                f"statistics {pair.name}: cvr counts orders, but impressions have no column order; "
                "remove it from figures"
            )


def used_columns(config: Config) -> list[str]:
    """Returns the columns that settings read, without levels."""
    names = [*config.features.categories, *config.features.numbers]
    names += [bucket.column for bucket in config.buckets]
    names += [n for profile in config.profiles for n in (profile.poi_column, profile.within) if n]
    names += [name for keyword in config.keywords for name in Template(keyword).columns]
    names += [name for pair in config.statistics or [] for name in pair.columns]
    return list(dict.fromkeys(raw_column(config, name) for name in names))


def _check_undeclared(config: Config, log: Log, impressions: pl.Schema) -> None:
    """Raises DataError for an undeclared column that differs between a request's candidates."""
    declared = config.features.candidate_columns
    columns = [
        name
        for name in used_columns(config)
        if name in impressions and name not in (*declared, *OF_THE_REQUEST)
        if not name.startswith(LOOKED_UP)
    ]
    if not columns:
        return
    requests = differing(sample_requests(log.scan()), columns).fill_null(value=False)
    shares = requests.select(pl.col(columns).mean()).collect(engine="streaming").row(0)
    findings: dict[str, str] = {}
    for name, share in zip(columns, shares, strict=True):
        if not share:
            continue
        first = requests.filter(pl.col(name)).select(pl.col("request_id").min())
        example = first.collect(engine="streaming").item()
        line = f"{name} in {share:.1%} of the requests, such as request_id {example}"
        if share > MAX_DIFFERING:
            findings[name] = line
        else:
            line += "; it is not in features.candidate_columns, so each request has one value"
            console.print(f"  values differ between the candidates: {line}")
    if findings:
        toml = json.dumps([*(name for name in declared if name in impressions), *findings])
        raise DataError(
            "table impressions: columns differ between the candidates of a request "
            f"({'; '.join(findings.values())}) but are not declared; clients send declared columns "
            "with each candidate, others once per request. Give all rows of a request the same "
            f"value, or write under [features]:\ncandidate_columns = {toml}"
        )
