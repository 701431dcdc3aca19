"""Columns in the configuration must exist and be known before the impression."""

import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from larr.config import Config
from larr.data.columns import check_columns
from larr.data.log import Log
from larr.data.names import candidate_features
from larr.errors import ConfigError, DataError

REQUESTS = 40
FEATURES = {"categories": ["position", "weather", "mood"], "numbers": ["poi_ctr"], "recent": 0}
BUCKET = {"column": "fee", "words": ["low", "high"]}
PLACE_TEXT = {"name": "p", "owner": "poi", "view": "basic", "template": "{poi_name}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Requests with two candidates; `mood` differs in one request, `fee` in half of them."""
    rows = pl.DataFrame(
        {
            "request_id": [f"r{row // 2:02}" for row in range(2 * REQUESTS)],
            "user_id": "u",
            "position": [1, 2] * REQUESTS,
            "weather": ["rain", None] * REQUESTS,
            "mood": ["glad", "sad", *["glad"] * (2 * REQUESTS - 2)],
            "stress_level": "low",
            "fee": [1.0, 2.0, 1.0, 1.0] * (REQUESTS // 2),
            "click": True,
            "order": False,
            "probability_click": 0.5,
            "split": "train",
        }
    )
    folder = tmp_path_factory.mktemp("log")
    rows.write_parquet(folder / "log.parquet")
    return folder


@pytest.fixture
def log(folder: Path) -> Log:
    places = pl.DataFrame({"poi_id": ["p"], "poi_name": ["P"], "poi_kinds": [["a", "b"]]})
    users = pl.DataFrame({"user_id": ["u"]})
    history = pl.DataFrame({"user_id": ["u"], "poi_id": ["p"]})
    return Log(places, users, history, [folder / "log.parquet"], ["click"], [])


def configured(**changes: object) -> Config:
    keyword = {"owner": "scene", "view": "action", "name": "k", "template": "{mood}"}
    return Config.model_validate(
        {
            "features": FEATURES | changes.pop("features", {}),
            "keywords": [PLACE_TEXT, keyword | changes.pop("keyword", {})],
        }
        | changes
    )


def test_rare_differences_are_reported_and_missing_values_ignored(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    check_columns(configured(), log)
    printed = " ".join(capsys.readouterr().err.split())
    assert "mood in 2.5% of the requests, such as request_id r00" in printed
    assert "weather" not in printed


@pytest.mark.parametrize(
    "reader",
    [
        {"features": {"numbers": ["fee"]}},
        {"features": {"categories": ["fee_level"]}, "buckets": [BUCKET]},
        {"buckets": [BUCKET]},
        {"keyword": {"template": "{fee}"}},
        {"profiles": [{"name": "p", "column": "name", "within": "fee"}]},
    ],
)
def test_a_column_that_differs_must_be_declared(reader: dict[str, object], log: Log) -> None:
    with pytest.raises(DataError) as error:
        check_columns(configured(**reader), log)
    assert "fee in 50.0% of the requests, such as request_id r00" in str(error.value)
    assert 'candidate_columns = ["position", "fee"]' in str(error.value)


def test_a_declared_column_may_differ(log: Log) -> None:
    declared = {"numbers": ["fee"], "candidate_columns": ["position", "fee"]}
    check_columns(configured(features=declared), log)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": {"candidate_columns": ["feee"]}}, "impressions have no column feee"),
        ({"features": {"candidate_columns": ["user_id"]}}, "user_id is looked up or belongs"),
        (
            {"features": {"candidate_columns": ["fee"]}, "keyword": {"template": "{fee}"}},
            r"keyword k \(owner scene\): cannot read fee; expected a column with one value",
        ),
        (
            {
                "features": {"candidate_columns": ["fee"]},
                "keyword": {"template": "{fee_level}"},
                "buckets": [BUCKET],
            },
            "cannot read fee_level; expected a column with one value per request",
        ),
        (
            {"profiles": [{"name": "p", "column": "name", "within": "position"}]},
            "within of profile p: cannot read position; expected a column with one value",
        ),
        (
            {"profiles": [{"name": "p", "column": "name", "events": "clicked"}]},
            "profile p: impressions have no column order, so every click is taken",
        ),
    ],
)
def test_an_invalid_declaration_is_refused(
    changes: dict[str, object], message: str, log: Log
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_columns(configured(**changes), log)


def test_levels_and_pair_figures_follow_the_declaration() -> None:
    config = configured(buckets=[{"column": "distance_km", "words": ["near", "far"]}])
    names = ["position", "distance_km_level", "stress_level", "poi_ctr", "pair_log_clicks", "hour"]
    assert candidate_features(config, names) == ["position", "distance_km_level", "pair_log_clicks"]


def test_cross_statistics_differ_where_one_of_their_columns_does() -> None:
    pairs = [["user_id", "poi_name"], ["weather", "position"], ["user_id", "weather"]]
    config = configured(statistics=[{"columns": pair, "figures": ["ctr"]} for pair in pairs])
    names = ["user_id_x_poi_name_ctr", "weather_x_position_ctr", "user_id_x_weather_ctr"]
    assert candidate_features(config, names) == names[:2]


def test_a_profile_is_within_a_column_of_the_log_or_its_level(log: Log) -> None:
    for within in ("stress_level", "weather_level"):
        profile = {"name": "likes", "column": "name", "within": within}
        check_columns(configured(profiles=[profile], buckets=[BUCKET | {"column": "weather"}]), log)


@pytest.mark.parametrize(
    ("template", "owner", "message"),
    [
        (
            "{poi_nam}",
            "poi",
            "cannot read poi_nam; did you mean poi_name.; expected a column of pl",
        ),
        ("plain", "poi", "names no column"),
        ("{poi_name", "poi", "unmatched bracket or brace"),
        ("{poi_name} [x", "poi", "unmatched bracket or brace"),
        ("{fee[/km]}", "scene", "rename columns with one of these in their names"),
        ("{weather}", "poi", "expected a column of places; other texts need owner = .user. or"),
        ("{click}", "scene", "not known before the impression"),
        ("{probability_click}", "scene", "not known before the impression"),
        ("likes {poi_name}", "user", "cannot read poi_name; .* one value per request"),
        ("{user_order_price_yuan}", "user", "cannot read user_order_price_yuan"),
    ],
)
def test_a_template_with_an_invalid_column_is_refused(
    template: str, owner: str, message: str, log: Log
) -> None:
    view = "basic" if owner == "poi" else "action"
    keyword = {"owner": owner, "view": view, "template": template}
    with pytest.raises(ConfigError, match=message):
        check_columns(configured(keyword=keyword), log)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": {"numbers": ["click"]}}, "features.numbers: click is not known before"),
        ({"features": {"categories": ["order"]}}, "features.categories: order is not known"),
        (
            {"features": {"numbers": ["poi_stars"]}},
            "cannot read poi_stars; .*expected a column of numbers",
        ),
        ({"features": {"categories": ["poi_kinds"]}}, "poi_kinds holds List"),
        ({"features": {"numbers": ["poi_log_age"]}}, "cannot read poi_log_age"),
        ({"features": {"recent": 5}}, "needs poi_id"),
        ({"features": {"recent_keyword": "k"}}, "k is not a scene keyword with owner poi"),
        ({"buckets": [BUCKET | {"column": "click"}]}, "bucket click: click is not known"),
        ({"buckets": [BUCKET | {"column": "likes"}]}, "bucket likes: cannot read likes"),
        (
            {"profiles": [{"name": "t", "column": "kitchen"}]},
            "cannot read poi_kitchen.*; expected a col",
        ),
        ({"profiles": [{"name": "t", "column": "kinds"}]}, "profile t: poi_kinds holds List"),
        ({"profiles": [{"name": "user_ctr", "column": "name"}]}, "user_ctr: larr adds a column"),
        (
            {"profiles": [{"name": "t", "column": "name", "within": "order"}]},
            "within of profile t: order is not known before",
        ),
        (
            {"profiles": [{"name": "t", "column": "name", "within": "place"}]},
            "within of profile t: cannot read place; expected .* of the impressions",
        ),
        ({"statistics": [{"columns": ["user_id", "click"]}]}, "click is not known before"),
        (
            {"statistics": [{"columns": ["user_id", "poi_kitchen"]}]},
            "statistics user_id_x_poi_kitchen: cannot read poi_kitchen.*; expected a column of a",
        ),
        ({"statistics": [{"columns": ["user_id", "poi_kinds"]}]}, "poi_kinds holds List"),
        ({"statistics": [{"columns": ["user_id", "poi_ctr"]}]}, "cannot read poi_ctr"),
        (
            {
                "statistics": [{"columns": ["user_id", "poi_ctr_level"]}],
                "buckets": [BUCKET | {"column": "poi_ctr"}],
            },
            "cannot read poi_ctr_level",
        ),
        (
            {"statistics": [{"columns": ["user_id", "poi_name"], "figures": ["cvr"]}]},
            "statistics user_id_x_poi_name: cvr counts orders, but impressions have no column",
        ),
        ({"keywords": []}, "none has the owner poi"),
        ({"keywords": [PLACE_TEXT]}, "none has the owner user or scene; stage 2 needs one"),
        ({"contrast": {"near": "poi_planet"}}, "contrast.near: cannot read poi_planet"),
        ({"features": {"categories": []}}, "features.categories: the rankers need at least one"),
        ({"align": {"tuned": {"ple": {"hidden": ["no_such"]}}}}, "ple: hidden names no_such"),
        (
            {"instruct": {"knowledge": "p"}},
            "instruct.knowledge: p is not a scene keyword with owner user or scene; these are k",
        ),
        (
            {"instruct": {"answers": ["k"]}},
            "instruct.answers: k is not a scene keyword with owner poi; these are p",
        ),
        (
            {"align": {"models": ["ple"], "figures": ["predictions"]}},
            "instruct: a ranker reads the LM of `larr instruct`; set knowledge and answers",
        ),
        ({"evaluate": {"slices": ["fee"]}}, "evaluate.slices: the test rows have no column"),
        (
            {"features": {"situation": ["weather"], "categories": ["user_id", "mood"]}},
            "features.situation: weather must be among features.categories; possible are user_id",
        ),
        (
            {"features": {"situation_attributes": ["mood"], "categories": ["mood", "poi_id"]}},
            "features.situation_attributes: mood must be among .*; possible are poi_id$",
        ),
    ],
)
def test_a_setting_with_an_invalid_column_is_refused(
    changes: dict[str, object], message: str, log: Log
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_columns(configured(**changes), log)


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("places", "poi_ctr"),
        ("users", "user_impressions"),
        ("impressions", "poi_name"),
        ("impressions", "pair_log_clicks"),
        ("orders", "recent"),
    ],
)
def test_names_of_added_columns_are_reserved(
    table: str, column: str, log: Log, tmp_path: Path
) -> None:
    added = pl.lit("0.5").alias(column)
    if table == "impressions":
        pl.read_parquet(log.impressions).with_columns(added).write_parquet(tmp_path / "log.parquet")
        log = replace(log, impressions=[tmp_path / "log.parquet"])
    else:
        field = "history" if table == "orders" else table
        log = replace(log, **{field: getattr(log, field).with_columns(added)})
    with pytest.raises(DataError, match=f"table {table}: the name of column {column} is also used"):
        check_columns(configured(), log)


def test_an_error_suggests_columns_that_would_be_accepted(log: Log) -> None:
    changes = {"categories": ["wether"], "numbers": ["fees"]}
    keyword = {"template": "{mood"}
    with pytest.raises(ConfigError) as caught:
        check_columns(configured(features=changes, keyword=keyword), log)
    category, number, keyword = str(caught.value).splitlines()[1:]
    assert "cannot read wether; did you mean weather?; expected a column of a table: " in category
    assert not {"click", "split", "request_id", "poi_kinds"} & {*re.split("[:,] ", category)}
    assert "cannot read fees; did you mean fee?; expected a column of numbers: " in number
    listed = {*re.split("[:,] ", number)}
    assert {"fee", "position", "poi_ctr"} <= listed
    assert not {"weather", "mood", "poi_name"} & listed
    assert "unmatched bracket" in keyword, "and no second problem for it"


def test_problems_of_later_stages_are_in_the_same_list(log: Log) -> None:
    changes = {"contrast": {"near": "poi_planet"}, "features": {"numbers": ["no_such"]}}
    with pytest.raises(ConfigError, match="2 settings must be changed") as caught:
        check_columns(configured(**changes), log)
    assert [line[:20] for line in str(caught.value).splitlines()[1:]] == [
        "- features.numbers: ",
        "- contrast.near: can",
    ]
