"""Columns that differ between the candidates of a request: declared and checked against the log."""

from pathlib import Path

import polars as pl
import pytest

from larr.config import Config
from larr.data.candidates import candidate_features, check_candidate_columns
from larr.data.log import Log
from larr.errors import ConfigError, DataError

REQUESTS = 40
FEATURES = {"categories": ["position", "weather", "mood"], "numbers": ["poi_ctr"]}
BUCKET = {"column": "fee", "words": ["low", "high"]}


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """Requests with two candidates; `mood` differs in one request, `fee` in half of them."""
    rows = pl.DataFrame(
        {
            "request_id": [f"r{row // 2:02}" for row in range(2 * REQUESTS)],
            "user_id": "u",
            "position": [1, 2] * REQUESTS,
            "weather": ["rain", None] * REQUESTS,
            "mood": ["glad", "sad", *["glad"] * (2 * REQUESTS - 2)],
            "fee": [1.0, 2.0, 1.0, 1.0] * (REQUESTS // 2),
        }
    )
    rows.write_parquet(tmp_path / "log.parquet")
    empty = pl.DataFrame()
    return Log(empty, empty, empty, [tmp_path / "log.parquet"], ["click"], [])


def configured(**changes: object) -> Config:
    keyword = {"owner": "scene", "view": "action", "name": "k", "template": "{mood}"}
    return Config.model_validate(
        {
            "features": FEATURES | changes.pop("features", {}),  # type: ignore[operator]
            "keywords": [keyword | changes.pop("keyword", {})],  # type: ignore[operator]
        }
        | changes
    )


def test_a_slip_of_the_log_is_noted_and_a_missing_value_does_not_differ(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    check_candidate_columns(configured(), log)
    printed = " ".join(capsys.readouterr().err.split())
    assert "mood: differs" in printed
    assert "2.50% of the requests, such as request_id r00" in printed
    assert "weather" not in printed


@pytest.mark.parametrize(
    "reader",
    [
        {"features": {"numbers": ["fee"]}},
        {"features": {"categories": ["fee_level"]}, "buckets": [BUCKET]},
        {"buckets": [BUCKET]},
        {"keyword": {"template": "{fee}"}},
        {"profiles": [{"name": "p", "column": "tags", "within": "fee"}]},
    ],
)
def test_a_column_that_differs_must_be_declared(reader: dict[str, object], log: Log) -> None:
    with pytest.raises(DataError) as error:
        check_candidate_columns(configured(**reader), log)
    assert "fee in 50% of the requests, such as request_id r00" in str(error.value)
    assert 'candidate_columns = ["position", "fee"]' in str(error.value)


def test_a_declared_column_may_differ(log: Log) -> None:
    declared = {"numbers": ["fee"], "candidate_columns": ["position", "fee"]}
    check_candidate_columns(configured(features=declared), log)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": {"candidate_columns": ["feee"]}}, "impressions have no column feee"),
        ({"features": {"candidate_columns": ["user_id"]}}, "user_id is looked up or belongs"),
        (
            {"features": {"candidate_columns": ["fee"]}, "keyword": {"template": "{fee}"}},
            r"keyword k \(owner scene\) reads fee, which differs",
        ),
        (
            {
                "features": {"candidate_columns": ["fee"]},
                "keyword": {"template": "{fee_level}"},
                "buckets": [BUCKET],
            },
            "reads fee_level, which differs",
        ),
        (
            {"profiles": [{"name": "p", "column": "tags", "within": "position"}]},
            "within of profile p reads position",
        ),
    ],
)
def test_a_wrong_declaration_is_refused(changes: dict[str, object], message: str, log: Log) -> None:
    with pytest.raises(ConfigError, match=message):
        check_candidate_columns(configured(**changes), log)


def test_levels_and_figures_of_pairs_follow_the_declaration() -> None:
    config = configured(buckets=[{"column": "distance_km", "words": ["near", "far"]}])
    names = ["position", "distance_km_level", "stress_level", "poi_ctr", "pair_log_clicks", "hour"]
    assert candidate_features(config, names) == ["position", "distance_km_level", "pair_log_clicks"]
