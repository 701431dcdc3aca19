"""The HTTP service: ranking, new places, health and metrics."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from hmac import compare_digest
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from msgspec.json import encode
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from rich.text import Text
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from larr import machine
from larr.errors import InputError, LarrError, UnavailableError
from larr.plugins import plugins
from larr.progress import console
from larr.serve.http import PatientProtocol
from larr.serve.live import Live
from larr.serve.places import WITHDRAWN
from larr.serve.request import (
    Columns,
    PlaceStatus,
    Problem,
    RankAnswer,
    RankRequest,
    Readiness,
    decode,
)
from larr.serve.store import VERSIONS, Store, check

BODY_BYTES, BODY_SECONDS = 1_000_000, 5.0
"""The limits of a request's body: its size, and the time to receive it."""
REFRESH_SECONDS = 1.0
"""The interval between checks of the store."""
DRAIN_SECONDS, KEEP_ALIVE_SECONDS = 10, 75
"""Load balancers keep idle connections for a minute, so the service must keep them longer."""
STORE_VARIABLE, TOKEN_VARIABLE = "LARR_STORE", "LARR_TOKEN"
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The folder in which several processes collect their metrics."""
JSON = "application/json"
UNREAD = (400, 408, 413)
"""The client may still be sending the body after these statuses, so the connection is closed."""
RETRY_SECONDS = 5.0
"""The delay before a process that cannot start exits and is replaced."""
SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
"""The upper bounds of the histogram's buckets."""


class Service:
    """The routes of the service and the counters behind `/metrics`."""

    def __init__(self, live: Live, token: str | None = None) -> None:
        self.live, self.token = live, token
        self.registry = registry = CollectorRegistry()
        self.answers = Counter("larr_answers", "Answers by status", ["status"], registry=registry)
        self.degraded = Counter(
            "larr_degraded", "What was not known", ["reason"], registry=registry
        )
        self.ranked = Counter("larr_ranked", "Rankings", ["version", "arm"], registry=registry)
        self.seconds = Histogram(
            "larr_rank_seconds",
            "Time of a ranking by part: decode, rank, encode",
            ["part"],
            buckets=SECONDS,
            registry=registry,
        )
        self._changed = asyncio.Event()

    def app(self) -> Starlette:
        """Returns the ASGI application, which follows the store while it runs."""
        pages = (page.load()(self.live, self.token) for page in plugins("pages").values())
        return Starlette(
            lifespan=self._following,
            exception_handlers={HTTPException: _refused},
            routes=[
                Route("/v1/rank", self.guarded(self.rank), methods=["POST"]),
                Route("/v1/places", self.guarded(self.add_place), methods=["POST"]),
                Route("/v1/places/{poi_id:path}", self.guarded(self.place)),
                Route("/v1/places/{poi_id:path}", self.guarded(self.withdraw), methods=["DELETE"]),
                Route("/livez", self.alive),
                Route("/readyz", self.ready),
                Route("/metrics", self.metrics),
                Route("/openapi.json", self.described),
                *chain.from_iterable(pages),
            ],
        )

    @asynccontextmanager
    async def _following(self, _: Starlette) -> AsyncIterator[None]:
        async def follow() -> None:
            while True:
                await asyncio.to_thread(self.live.refresh)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), REFRESH_SECONDS)
                self._changed.clear()

        task = asyncio.create_task(follow())
        yield
        task.cancel()

    def guarded(
        self, handler: Callable[[Request], Awaitable[bytes]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Returns a route that checks the token and turns exceptions into responses."""

        async def answer(request: Request) -> Response:
            status, problem = 200, ""
            try:
                self._check_token(request)
                content = await handler(request)
            except HTTPException as error:
                status, problem = error.status_code, error.detail
            except (InputError, UnavailableError) as error:
                status, problem = 422 if isinstance(error, InputError) else 503, str(error)
            except OSError as error:
                status, problem = 503, f"could not be written: {error.strerror}"
            except Exception as error:
                console.print_exception()
                status, problem = 500, f"internal error: {error!r:.200}"
            if status != 200:
                content = encode(Problem(problem))
            self.answers.labels(status).inc()
            headers = {"connection": "close"} if status in UNREAD else None
            return Response(content, status, headers, media_type=JSON)

        return answer

    def _check_token(self, request: Request) -> None:
        """Raises HTTPException if the service has a token and the request another one."""
        if self.token is None:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        sent = token.encode() if scheme.lower() == "bearer" else b""
        # in constant time, so that the response time does not reveal the token
        if not compare_digest(sent, self.token.encode()):
            raise HTTPException(401, "send the header `Authorization: Bearer TOKEN`")

    async def rank(self, request: Request) -> bytes:
        """`POST /v1/rank`.

        Runs in the event loop: a thread costs more than the few ms that other requests wait.
        """
        body = await self._body(request)
        with self.seconds.labels("decode").time():
            decoded = decode(body, RankRequest)
        with self.seconds.labels("rank").time():
            answer = self.live.rank(decoded)
        self.ranked.labels(answer.version, answer.arm).inc()
        for reason in chain(answer.degraded, *(item.degraded for item in answer.items)):
            self.degraded.labels(reason).inc()
        with self.seconds.labels("encode").time():
            return encode(answer)

    async def add_place(self, request: Request) -> bytes:
        """`POST /v1/places`: responds when the place is on disk; its texts are embedded later."""
        row = decode(await self._body(request), Columns)
        await asyncio.to_thread(self.live.accept, row)
        self._changed.set()
        return encode(PlaceStatus(str(row["poi_id"]), "accepted"))

    async def place(self, request: Request) -> bytes:
        """`GET /v1/places/ID`."""
        poi_id = request.path_params["poi_id"]
        status = self.live.status(poi_id)
        if status is None:
            raise HTTPException(404, f"unknown place {poi_id!r:.80}")
        return encode(PlaceStatus(poi_id, status))

    async def withdraw(self, request: Request) -> bytes:
        """`DELETE /v1/places/ID`: responds when the withdrawal is on disk."""
        poi_id = request.path_params["poi_id"]
        if not await asyncio.to_thread(self.live.withdraw, poi_id):
            raise HTTPException(404, f"unknown place {poi_id!r:.80}")
        self._changed.set()
        return encode(PlaceStatus(poi_id, WITHDRAWN))

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > BODY_BYTES:
                        raise HTTPException(413, f"the body has more than {BODY_BYTES:,} bytes")
        except ClientDisconnect:
            raise HTTPException(400, "the body ended early") from None
        except TimeoutError:
            problem = f"the body was not complete within {BODY_SECONDS:g} s"
            raise HTTPException(408, problem) from None
        return bytes(body)

    async def described(self, _: Request) -> Response:
        """`GET /openapi.json`: the file of that name, with the schemas of the types."""
        document = json.loads(Path(__file__).with_name("openapi.json").read_text())
        document["info"]["version"] = version("larr")
        kinds = (Columns, RankRequest, RankAnswer, PlaceStatus, Readiness, Problem)
        reference = "#/components/schemas/{name}"
        schemas, named = msgspec.json.schema_components(kinds, ref_template=reference)
        document["components"]["schemas"] = named | {"Place": schemas[0]}
        for refusal in document["components"]["responses"].values():
            refusal.setdefault("content", {JSON: {"schema": schemas[-1]}})
        if self.token is None:
            del document["security"], document["components"]["securitySchemes"]
            for path in document["paths"].values():
                for call in path.keys() & {"get", "post", "delete"}:
                    path[call]["responses"].pop("401", None)
        return Response(encode(document), media_type=JSON)

    async def alive(self, _: Request) -> Response:
        """`GET /livez`: the process responds."""
        return Response(encode({"status": "ok"}), media_type=JSON)

    async def ready(self, _: Request) -> Response:
        """`GET /readyz`: the versions with which the service ranks, and the one it refused."""
        arms, versions = zip(*self.live.opened, strict=True)
        zones = {version.id: version.time_zone for version in versions}
        content = Readiness("ok", list(arms), zones, self.live.refused)
        return Response(encode(content), media_type=JSON)

    async def metrics(self, _: Request) -> Response:
        """`GET /metrics`, for Prometheus."""
        registry = self.registry
        if METRICS_VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return Response(generate_latest(registry), media_type="text/plain")


async def _refused(_: Request, error: Exception) -> Response:
    """Returns JSON for a path or a method without a route."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these alone
    problem = encode(Problem(error.detail))
    return Response(problem, error.status_code, error.headers, media_type=JSON)


def serve(store: Store, address: tuple[str, int], token: str | None, workers: int = 1) -> None:
    """Serves a store until a signal stops it, after answering the requests in progress."""
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server(address, family=family).close()
    except OSError as error:
        raise LarrError(
            f"--host {host} --port {port}: cannot listen: {error.strerror}; choose another --port"
        ) from error
    arms = store.arms()
    versions = ", ".join(f"{arm.name}: {arm.version}" for arm in arms)
    console.print(f"serving {versions} on http://{host}:{port}")
    with tempfile.TemporaryDirectory() as metrics:
        if workers == 1:
            app: dict[str, Any] = {"app": Service(Live(store), token).app()}
        else:
            for arm in arms:
                check(store.folder / VERSIONS / arm.version)
            app = {"app": "larr.serve.app:create", "factory": True, "workers": workers}
            os.environ |= {STORE_VARIABLE: str(store.folder), METRICS_VARIABLE: metrics}
            os.environ |= {TOKEN_VARIABLE: token} if token else {}
        uvicorn.run(
            **app,
            host=host,
            port=port,
            http=PatientProtocol,
            log_level="warning",
            timeout_graceful_shutdown=DRAIN_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )


def create() -> Starlette:
    """Returns the application of one of several processes; `serve` sets its environment."""
    machine.end_with_parent()  # an orphaned process would keep the port
    store = Store(Path(os.environ[STORE_VARIABLE]))
    try:
        return Service(Live(store), os.environ.get(TOKEN_VARIABLE)).app()
    except LarrError as error:
        console.print(Text("not served:", style="bold red"), str(error))
        time.sleep(RETRY_SECONDS)
        raise SystemExit(2) from None
