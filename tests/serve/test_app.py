"""The HTTP service: answers, refusals, figures."""

from __future__ import annotations

import time
from typing import Any

import pytest
from starlette.testclient import TestClient

from larr.serve.app import Limits, Service
from larr.serve.live import Live
from larr.serve.store import Store

TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture
def client(store: Store) -> TestClient:
    return TestClient(Service(Live(store), "secret", Limits(body_bytes=20_000)).app())


def test_it_ranks(client: TestClient, asked: dict[str, Any]) -> None:
    told = client.post("/v1/rank", json=asked, headers=TOKEN)
    assert told.status_code == 200
    assert len(told.json()["items"]) == len(asked["candidates"])
    assert told.json()["arm"] == "A"


def test_it_refuses_what_is_wrong(client: TestClient, asked: dict[str, Any]) -> None:
    wrong = client.post("/v1/rank", json=asked | {"k": -1}, headers=TOKEN)
    assert wrong.status_code == 422
    assert "k" in wrong.json()["error"]
    assert client.post("/v1/rank", content=b"{", headers=TOKEN).status_code == 422
    large = client.post("/v1/rank", content=b" " * 30_000, headers=TOKEN)
    assert (large.status_code, "more than" in large.json()["error"]) == (413, True)
    assert client.post("/v1/rank", json=asked).status_code == 401
    assert client.get("/v1/rank").status_code == 405


def test_it_tells_how_it_is(client: TestClient, asked: dict[str, Any]) -> None:
    assert client.get("/livez").json() == {"status": "ok"}
    (arm,) = client.get("/readyz").json()["arms"]
    assert (arm["name"], arm["share"]) == ("A", 1)
    client.post("/v1/rank", json=asked | {"user_id": "nobody"}, headers=TOKEN)
    figures = client.get("/metrics").text
    assert 'larr_degraded_total{reason="unknown_user"} 1.0' in figures
    assert 'larr_answers_total{status="200"} 1.0' in figures


def test_it_follows_the_store_while_it_runs(
    store: Store,
    second: str,
    asked: dict[str, Any],
) -> None:
    first = store.arms()[0].version
    service = Service(Live(store), limits=Limits(refresh_seconds=0.01))
    with TestClient(service.app()) as client:
        assert client.post("/v1/rank", json=asked).json()["version"] == first
        store.activate(second)
        deadline = time.monotonic() + 20
        while client.get("/readyz").json()["arms"][0]["version"] != second:
            assert time.monotonic() < deadline
        assert client.post("/v1/rank", json=asked).json()["version"] == second
