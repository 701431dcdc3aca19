"""The HTTP service: answers, refusals, figures."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from larr.serve.app import Limits, Service
from larr.serve.ranking import Ranking
from tests.test_ranking import asked, ranking  # noqa: F401 - fixtures
from tests.test_scorer import served  # noqa: F401 - a fixture

TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture
def client(ranking: Ranking) -> TestClient:  # noqa: F811
    return TestClient(Service(ranking, "secret", Limits(body_bytes=20_000)).app())


def test_it_ranks(client: TestClient, asked: dict[str, Any]) -> None:  # noqa: F811
    told = client.post("/v1/rank", json=asked, headers=TOKEN)
    assert told.status_code == 200
    assert len(told.json()["items"]) == len(asked["candidates"])


def test_it_refuses_what_is_wrong(client: TestClient, asked: dict[str, Any]) -> None:  # noqa: F811
    wrong = client.post("/v1/rank", json=asked | {"k": -1}, headers=TOKEN)
    assert wrong.status_code == 422
    assert "k" in wrong.json()["error"]
    assert client.post("/v1/rank", content=b"{", headers=TOKEN).status_code == 422
    large = client.post("/v1/rank", content=b" " * 30_000, headers=TOKEN)
    assert (large.status_code, "more than" in large.json()["error"]) == (413, True)
    assert client.post("/v1/rank", json=asked).status_code == 401
    assert client.get("/v1/rank").status_code == 405


def test_it_tells_how_it_is(client: TestClient, asked: dict[str, Any]) -> None:  # noqa: F811
    assert client.get("/livez").json() == {"status": "ok"}
    assert client.get("/readyz").json()["version"] == "v1"
    client.post("/v1/rank", json=asked | {"user_id": "nobody"}, headers=TOKEN)
    figures = client.get("/metrics").text
    assert 'larr_degraded_total{reason="unknown_user"} 1.0' in figures
    assert 'larr_answers_total{status="200"} 1.0' in figures
