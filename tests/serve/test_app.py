"""The HTTP service: responses, errors, metrics."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
from starlette.testclient import TestClient
from uvicorn.server import ServerState

from larr.errors import LarrError
from larr.serve.app import Service, serve
from larr.serve.http import PatientProtocol
from larr.serve.live import Live
from larr.serve.store import Store
from tests.serving import Published, free_port, running

TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def published(publish: Callable[[str], Published]) -> Published:
    return publish("larr")


@pytest.fixture
def client(store: Store, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setattr("larr.serve.app.BODY_BYTES", 20_000)
    return TestClient(Service(Live(store), "secret").app())


def test_a_request_is_ranked(client: TestClient, asked: dict[str, Any]) -> None:
    answer = client.post("/v1/rank", json=asked, headers=TOKEN)
    assert answer.status_code == 200
    assert len(answer.json()["items"]) == len(asked["candidates"])
    assert answer.json()["arm"] == "A"


def test_invalid_requests_are_refused(client: TestClient, asked: dict[str, Any]) -> None:
    wrong = client.post("/v1/rank", json=asked | {"k": -1}, headers=TOKEN)
    assert wrong.status_code == 422
    assert "k" in wrong.json()["error"]
    assert client.post("/v1/rank", content=b"{", headers=TOKEN).status_code == 422
    large = client.post("/v1/rank", content=b" " * 30_000, headers=TOKEN)
    assert (large.status_code, "more than" in large.json()["error"]) == (413, True)
    assert client.post("/v1/rank", json=asked).status_code == 401
    assert client.get("/v1/rank").status_code == 405


def test_unknown_paths_and_methods_are_refused_in_json(client: TestClient) -> None:
    for method, path, status in (("GET", "/v2", 404), ("PUT", "/v1/rank", 405)):
        answer = client.request(method, path)
        assert answer.status_code == status
        assert set(answer.json()) == {"error"}


def test_health_and_metrics(client: TestClient, asked: dict[str, Any]) -> None:
    assert client.get("/livez").json() == {"status": "ok"}
    ready = client.get("/readyz").json()
    (arm,) = ready["arms"]
    assert (arm["name"], arm["share"]) == ("A", 1)
    assert ready["time_zones"] == {arm["version"]: ""}
    client.post("/v1/rank", json=asked | {"user_id": "unknown"}, headers=TOKEN)
    metrics = client.get("/metrics").text
    assert 'larr_degraded_total{reason="unknown_user"} 1.0' in metrics
    assert 'larr_answers_total{status="200"} 1.0' in metrics
    assert f'larr_ranked_total{{arm="A",version="{arm["version"]}"}} 1.0' in metrics
    for part in ("decode", "rank", "encode"):
        assert f'larr_rank_seconds_count{{part="{part}"}} 1.0' in metrics


def test_a_running_service_follows_the_store(
    store: Store, second: str, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("larr.serve.app.REFRESH_SECONDS", 0.01)
    first = store.arms()[0].version
    with TestClient(Service(Live(store)).app()) as client:
        assert client.post("/v1/rank", json=asked).json()["version"] == first
        store.activate(second)
        deadline = time.monotonic() + 20
        while client.get("/readyz").json()["arms"][0]["version"] != second:
            assert time.monotonic() < deadline
        assert client.post("/v1/rank", json=asked).json()["version"] == second


def test_the_openapi_document_has_all_endpoints(store: Store) -> None:
    service = Service(Live(store), "secret")
    answer = TestClient(service.app()).get("/openapi.json").json()
    calls = {path for path in answer["paths"] if path.startswith("/v1")}
    assert calls == {route.path_format for route in service.app().routes if "/v1" in route.path}
    schemas = answer["components"]["schemas"]
    assert schemas["RankRequest"]["required"] == ["user_id"]
    used = re.findall(r"#/components/schemas/(\w+)", json.dumps(answer))
    assert set(used) <= set(schemas)
    assert answer["security"] == [{"token": []}]


def connected(address: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", httpx.URL(address).port or 0), timeout=5)


def test_headers_have_a_deadline(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("larr.serve.http.HEADER_SECONDS", 0.3)
    with running(Service(Live(store))) as address:
        for sent in (b"", b"POST /v1/rank HTTP/1.1\r\nHost: x\r\n"):
            with connected(address) as slow:
                slow.sendall(sent)
                assert slow.recv(10) == b"", "closed by the server"
        with httpx.Client(base_url=address) as client:
            for _ in range(3):
                assert client.get("/livez").status_code == 200
                time.sleep(0.2)  # in total longer than the deadline, which applies to each request


def test_a_body_has_a_deadline(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("larr.serve.app.BODY_SECONDS", 0.3)
    with running(Service(Live(store))) as address, connected(address) as slow:
        slow.sendall(b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert b" 408 " in slow.recv(100)


def answers_to(address: str, head: str, body: bytes) -> bytes:
    """Returns the response before the connection is closed."""
    with connected(address) as client:
        client.sendall(f"POST /v1/rank HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode() + body)
        answer = b""
        while more := client.recv(65_536):
            answer += more
    return answer


def test_an_http_2_upgrade_is_answered_in_http_1(store: Store, asked: dict[str, Any]) -> None:
    body = json.dumps(asked).encode()
    head = (
        "Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n"
        f"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nContent-Length: {len(body)}\r\n"
    )
    with running(Service(Live(store))) as address:
        answer = answers_to(address, head, body)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1") == 1


def test_headers_have_a_size_limit(store: Store) -> None:
    with running(Service(Live(store))) as address, suppress(ConnectionError):
        assert answers_to(address, "x: y\r\n" * 100_000, b"") == b"", "closed by the server"


def test_a_service_that_ranks_is_ready(store: Store, asked: dict[str, Any]) -> None:
    Live(store).accept({"poi_id": "new", "name": "Not embedded yet"})
    client = TestClient(Service(Live(store)).app())
    assert client.post("/v1/rank", json=asked).status_code == 200
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ok")


@pytest.mark.parametrize(
    ("error", "status"), [(OSError(28, "No space left on device"), 503), (ValueError("what"), 500)]
)
def test_failures_are_reported_and_counted(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Live, "accept", fail)
    client = TestClient(Service(Live(store)).app())
    answer = client.post("/v1/places", json={"poi_id": "a/b", "name": "A"})
    assert answer.status_code == status
    assert str(error.args[-1]) in answer.json()["error"]
    assert f'larr_answers_total{{status="{status}"}} 1.0' in client.get("/metrics").text
    assert "'a/b'" in client.get("/v1/places/a%2Fb").json()["error"]


def test_packets_are_sent_at_once() -> None:
    """asyncio does not set TCP options on shared sockets, which do not name TCP."""

    async def accepted() -> int:
        config = uvicorn.Config("none:app", http=PatientProtocol)
        accepted_protocol: asyncio.Future[PatientProtocol] = (
            asyncio.get_running_loop().create_future()
        )

        def make() -> PatientProtocol:
            accepted_protocol.set_result(PatientProtocol(config, ServerState(), {}))
            return accepted_protocol.result()

        config.load_app = lambda: None
        config.load()
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        server = await asyncio.get_running_loop().create_server(make, sock=listening)
        async with server:
            _, writer = await asyncio.open_connection(*listening.getsockname())
            transport = (await accepted_protocol).transport
            option = transport.get_extra_info("socket").getsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY
            )
            writer.close()
            transport.close()
            return int(option)

    assert asyncio.run(accepted())


@contextmanager
def two_processes(store: Store) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """`larr serve --workers 2`, once ready."""
    port = free_port()
    command = [sys.executable, "-m", "larr.cli", "serve", str(store.folder), "--workers", "2"]
    with (
        subprocess.Popen([*command, "--port", str(port), "--token", "secret"]) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=TOKEN) as client,
    ):
        for _ in range(600):
            with suppress(httpx.TransportError):
                if client.get("/readyz").status_code == 200:
                    break
            time.sleep(0.1)
        yield process, client


def test_workers_end_when_the_first_process_is_killed(store: Store) -> None:
    with two_processes(store) as (process, _):
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        assert not psutil.wait_procs(workers, timeout=20)[1]


def test_several_processes_serve_one_store(store: Store, asked: dict[str, Any]) -> None:
    with two_processes(store) as (process, client):
        for _ in range(5):
            assert client.post("/v1/rank", json=asked).status_code == 200
        metrics = client.get("/metrics").text
        process.terminate()
        assert process.wait(timeout=20) == 0
    assert 'larr_answers_total{status="200"} 5.0' in metrics, "of all processes together"


def test_a_port_in_use_is_refused(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = ("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(LarrError, match=f"--port {address[1]}: cannot listen"):
            serve(store, address, None)
