"""`larr check` finds columns that leak the outcome, using only training labels."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from larr.check import check
from larr.errors import ConfigError, DataError
from tests.own_tables import own_config, write_own

DAYS, USERS, PLACES = 10, 12, 15


def tables(**columns: pl.Expr) -> dict[str, pl.DataFrame]:
    """A log of random clicks with further columns, computed from `click` and `draw`."""
    random = np.random.default_rng(1)
    log = pl.DataFrame(
        [
            {
                "request_id": f"{day}-{user}",
                "user_id": user,
                "poi_id": f"p{place}",
                "time": f"2024-04-{day + 1:02} 12:00:00",
                "click": int(random.random() < 0.1 + 0.05 * place),
                "draw": random.random(),
            }
            for day in range(DAYS)
            for user in range(USERS)
            for place in random.permutation(PLACES)[:4].tolist()
        ]
    )
    places = pl.DataFrame({"id": [f"p{n}" for n in range(PLACES)], "title": "x"})
    return {
        "impressions": log.with_columns(**columns).drop("draw"),
        "users": pl.DataFrame({"user_id": range(USERS)}),
        "places": places.with_columns(sold=pl.int_range(PLACES), seats=pl.lit(4)),
    }


def checked(folder: Path, *settings: str, **changes: pl.DataFrame) -> None:
    check(own_config(folder, [*write_own(folder, **changes), *settings]))


def test_leaking_columns_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clicked = pl.col("click") == 1
    log = tables(
        receipt=pl.when(clicked).then(pl.format("r{}", "user_id")),
        state=pl.when(clicked).then(pl.lit("b")).otherwise(pl.lit("a")),
        dwell_seconds="draw",
        weather=pl.when(pl.col("draw") < 0.5).then(pl.lit("rain")).otherwise(pl.lit("sun")),
        seconds=pl.col("click") + pl.col("draw"),
    )
    declared = "features.candidate_columns=['receipt', 'state', 'dwell_seconds', 'weather']"
    used = "features.categories=['user_id', 'poi_id', 'receipt', 'state', 'weather']"
    numbers = "features.numbers=['dwell_seconds']"
    with pytest.raises(DataError, match="2 columns must be removed") as caught:
        checked(tmp_path, declared, used, numbers, **log)
    found = {line.partition(":")[0] for line in str(caught.value).splitlines()[1:]}
    assert found == {"- receipt", "- state"}
    printed = capsys.readouterr().err
    assert "warning: seconds: it alone predicts the training clicks" in printed, "it is not read"
    assert "warning: dwell_seconds: judging by its name" in printed, "its values are harmless"
    assert "weather" not in printed
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["check"]


def test_a_result_of_the_click_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a rating that is higher after a click, in most rows."""
    log = tables(mood=(pl.col("click") + pl.col("draw") * 1.6) // 0.3, noise="draw")
    both = "['mood', 'noise']"
    checked(tmp_path, f"features.candidate_columns={both}", f"features.numbers={both}", **log)
    printed = " ".join(capsys.readouterr().err.split())
    assert "warning: mood: it alone predicts the training clicks well, AUC 0." in printed
    assert "warning: noise" not in printed


def test_the_labels_of_test_rows_are_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A column that predicts only test clicks is not found, as their labels are not read."""
    is_last = pl.col("time").str.starts_with(f"2024-04-{DAYS}")
    state = pl.when(is_last).then(pl.col("click")).otherwise((pl.col("draw") * 2).cast(pl.Int64))
    changes = tables(state=state)
    checked(tmp_path, **changes | {"places": changes["places"].drop("sold")})
    printed = capsys.readouterr().err
    assert "state" not in printed
    assert printed.count("warning") == 2
    assert "warning: of 48 test rows only about 2" in printed


def test_counts_of_the_log_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = tables()
    counts = changes["impressions"].group_by(id="poi_id").agg(known=pl.col("click").sum())
    changes["places"] = changes["places"].join(counts, on="id", maintain_order="left")
    checked(tmp_path, **changes)
    printed = " ".join(capsys.readouterr().err.split())
    assert "judging by its name, poi_sold may summarise later events" in printed
    assert "with the log's counts, poi_known may summarise later events" in printed
    assert "no errors found; see the warnings above" in printed
    assert "poi_seats" not in printed


def test_problems_of_the_split_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = tables()
    log = changes["impressions"]
    again = log.head(30).with_columns(request_id=pl.lit("again-") + pl.col("request_id"))
    changes["impressions"] = pl.concat([log, again])
    checked(tmp_path, "dataset.split_by=user_id", **changes)
    printed = " ".join(capsys.readouterr().err.split())
    assert "some training rows are not earlier than the test rows" in printed
    assert "100% of the test rows have users without training rows" in printed
    assert "30 rows have the user, place and time" in printed


def test_requests_of_one_row_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = tables()
    second = pl.format("{}{}", pl.col("time").str.head(17), 10 + pl.int_range(pl.len()) % 4)
    changes["impressions"] = changes["impressions"].drop("request_id").with_columns(time=second)
    checked(tmp_path, **changes)
    assert "warning: 100% of the requests have one row" in capsys.readouterr().err


def test_settings_and_rows_are_checked_as_by_prepare(tmp_path: Path) -> None:
    changes = tables()
    changes["places"] = changes["places"].head(PLACES - 1)
    with pytest.raises(ConfigError, match="cannot read no_such"):
        checked(tmp_path, "features.numbers=['no_such']", **changes)
    assert [*(tmp_path / "out" / "check" / "rejected").glob("impressions-*.parquet")]
