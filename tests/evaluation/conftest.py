"""Evaluated runs that several tests read; nothing may write to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from larr.config import Config
from larr.evaluation.evaluate import evaluate
from tests.fake_run import make_run, read_report


@pytest.fixture(scope="package")
def package_patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="package")
def configs(
    tmp_path_factory: pytest.TempPathFactory, package_patch: pytest.MonkeyPatch
) -> list[Config]:
    """Three seeds of simulated data."""
    output = tmp_path_factory.mktemp("three_seeds")
    runs = [make_run(output / f"seed-{seed}", package_patch, seed) for seed in (1, 2, 3)]
    for config in runs:
        evaluate(config)
    return runs


@pytest.fixture
def found(configs: list[Config]) -> dict[str, Any]:
    """The report of the first seed."""
    return read_report(configs[0].output)


@pytest.fixture(scope="package")
def clicks_only(
    tmp_path_factory: pytest.TempPathFactory, package_patch: pytest.MonkeyPatch
) -> Config:
    """A small log without orders and true probabilities."""
    output = tmp_path_factory.mktemp("clicks_only")
    config = make_run(output, package_patch, rows=150, tasks=1, simulated=False)
    evaluate(config)
    return config
