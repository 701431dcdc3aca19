"""The HTTP service: ranking, new places, health, metrics."""

from __future__ import annotations

import asyncio
import hmac
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from rich.markup import escape as markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from larr.errors import InputError, LarrError, UnavailableError
from larr.plugins import plugins
from larr.progress import console
from larr.serve.http import PatientProtocol
from larr.serve.live import Live
from larr.serve.openapi import PlaceStatus, Readiness, document
from larr.serve.places import WITHDRAWN
from larr.serve.request import Columns, Problem, RankRequest, decode, encode
from larr.serve.store import VERSIONS, Store, check

DRAIN_SECONDS, KEEP_ALIVE_SECONDS = 10, 75
"""A load balancer keeps idle connections for a minute, and must not find one closed."""
FACTORY = "larr.serve.app:create"
STORE_VARIABLE, TOKEN_VARIABLE = "LARR_STORE", "LARR_TOKEN"
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The folder in which several processes collect what `/metrics` shows of all of them."""
JSON = "application/json"
UNREAD = (400, 408, 413)
"""After these answers a part of the body may still come, so the connection is closed."""
RETRY_SECONDS = 5.0
"""Before a process that could not start ends, and another one is started in its place."""
SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)


@dataclass(frozen=True)
class Limits:
    """The limits of a request, and how often the store is read."""

    body_bytes: int = 1_000_000
    body_seconds: float = 5.0
    """A body has to be complete by then."""
    refresh_seconds: float = 1.0


class Metrics:
    """The counters that `/metrics` shows."""

    def __init__(self) -> None:
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


class RefusedError(Exception):
    """An answer with another status than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Service:
    """The routes around the versions that are served."""

    def __init__(self, live: Live, token: str | None = None, limits: Limits = Limits()) -> None:
        self.live, self.token, self.limits = live, token, limits
        self.counted = Metrics()
        self._changed = asyncio.Event()

    def app(self) -> Starlette:
        """Returns the ASGI application; while it runs, it follows the store."""
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
                    await asyncio.wait_for(self._changed.wait(), self.limits.refresh_seconds)
                self._changed.clear()

        task = asyncio.create_task(follow())
        yield
        task.cancel()

    def guarded(
        self, handler: Callable[[Request], Awaitable[bytes]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Returns a route that checks the token and turns exceptions into answers."""

        async def answer(request: Request) -> Response:
            status, headers = 200, None
            try:
                self._check_token(request)
                content = await handler(request)
            except RefusedError as error:
                status, content = error.status, encode(Problem(str(error)))
                headers = {"connection": "close"} if status in UNREAD else None
            except InputError as error:
                status, content = 422, encode(Problem(str(error)))
            except UnavailableError as error:
                status, content = 503, encode(Problem(str(error)))
            except OSError as error:
                status, content = 503, encode(Problem(f"it could not be kept: {error.strerror}"))
            except Exception as error:
                console.print_exception()
                status, content = 500, encode(Problem(f"a failure inside larr: {error!r:.200}"))
            self.counted.answers.labels(status).inc()
            return Response(content, status, headers, media_type=JSON)

        return answer

    def _check_token(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        token = token if scheme.lower() == "bearer" else ""
        # Compared in constant time, which gives no character of the token away.
        if self.token is not None and not hmac.compare_digest(token.encode(), self.token.encode()):
            raise RefusedError(401, "send the header `Authorization: Bearer TOKEN`")

    async def rank(self, request: Request) -> bytes:
        """`POST /v1/rank`.

        Ranks in the event loop: a thread costs more than the few ms that the others wait.
        """
        body, seconds = await self._body(request), self.counted.seconds
        with seconds.labels("decode").time():
            decoded = decode(body, RankRequest)
        with seconds.labels("rank").time():
            answer = self.live.rank(decoded)
        self.counted.ranked.labels(answer.version, answer.arm).inc()
        for reason in chain(answer.degraded, *(item.degraded for item in answer.items)):
            self.counted.degraded.labels(reason).inc()
        with seconds.labels("encode").time():
            return encode(answer)

    async def add_place(self, request: Request) -> bytes:
        """`POST /v1/places`: answers when the place is on the disk; it is embedded later."""
        row = decode(await self._body(request), Columns)
        await asyncio.to_thread(self.live.accept, row)
        self._changed.set()
        return encode(PlaceStatus(str(row["poi_id"]), "accepted"))

    async def place(self, request: Request) -> bytes:
        """`GET /v1/places/ID`."""
        poi_id = request.path_params["poi_id"]
        status = self.live.status(poi_id)
        if status is None:
            raise RefusedError(404, f"no place {poi_id!r:.80} is known")
        return encode(PlaceStatus(poi_id, status))

    async def withdraw(self, request: Request) -> bytes:
        """`DELETE /v1/places/ID`: the answer comes when this is on the disk."""
        poi_id = request.path_params["poi_id"]
        if not await asyncio.to_thread(self.live.withdraw, poi_id):
            raise RefusedError(404, f"no place {poi_id!r:.80} is known")
        self._changed.set()
        return encode(PlaceStatus(poi_id, WITHDRAWN))

    async def _body(self, request: Request) -> bytes:
        limits, body = self.limits, bytearray()
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limits.body_bytes:
                        raise RefusedError(
                            413, f"the body has more than {limits.body_bytes:,} bytes"
                        )
        except ClientDisconnect:
            raise RefusedError(400, "the body ended too early") from None
        except TimeoutError:
            seconds = f"{limits.body_seconds:g} s"
            raise RefusedError(408, f"the body was not complete within {seconds}") from None
        return bytes(body)

    async def described(self, _: Request) -> Response:
        """`GET /openapi.json`."""
        return Response(encode(document(self.token is not None)), media_type=JSON)

    async def alive(self, _: Request) -> Response:
        """`GET /livez`: the process answers."""
        return Response(encode({"status": "ok"}), media_type=JSON)

    async def ready(self, _: Request) -> Response:
        """`GET /readyz`: whether it can rank, with which versions, and which it refused."""
        is_ready = self.live.has_followed
        arms = [opened.arm for opened in self.live.opened]
        content = Readiness("ok" if is_ready else "starting", arms, self.live.refused)
        return Response(encode(content), 200 if is_ready else 503, media_type=JSON)

    async def metrics(self, _: Request) -> Response:
        """`GET /metrics`, for Prometheus."""
        registry = self.counted.registry
        if METRICS_VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return Response(generate_latest(registry), media_type="text/plain")


async def _refused(_: Request, error: Exception) -> Response:
    """Returns JSON, as for all else, for a path or a method without a route."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these alone
    problem = encode(Problem(error.detail))
    return Response(problem, error.status_code, error.headers, media_type=JSON)


def serve(store: Store, address: tuple[str, int], token: str | None, workers: int = 1) -> None:
    """Serves a store until a signal stops it; requests under way are answered first."""
    _require_free(address)
    versions = ", ".join(f"{arm.name}: {arm.version}" for arm in store.arms())
    console.print(f"serving {versions} on http://{address[0]}:{address[1]}")
    more: dict[str, Any] = {"app": Service(Live(store), token).app() if workers == 1 else FACTORY}
    with tempfile.TemporaryDirectory() as metrics:
        if workers > 1:
            for arm in store.arms():
                check(store.folder / VERSIONS / arm.version)
            more |= {"factory": True, "workers": workers}
            os.environ |= {STORE_VARIABLE: str(store.folder), METRICS_VARIABLE: metrics}
            os.environ |= {TOKEN_VARIABLE: token} if token else {}
        uvicorn.run(
            **more,
            host=address[0],
            port=address[1],
            http=PatientProtocol,
            log_level="warning",
            timeout_graceful_shutdown=DRAIN_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )


def _require_free(address: tuple[str, int]) -> None:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        socket.create_server(address, family=family).close()
    except OSError as error:
        raise LarrError(
            f"--host {address[0]} --port {address[1]}: cannot be listened on: {error.strerror}; "
            "give another --port"
        ) from error


def create() -> Starlette:
    """Returns the application of one of several processes; `serve` sets its environment."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    store = Store(Path(os.environ[STORE_VARIABLE]))
    try:
        return Service(Live(store), os.environ.get(TOKEN_VARIABLE)).app()
    except LarrError as error:
        console.print(f"[bold red]not served:[/bold red] {markup(str(error))}")
        time.sleep(RETRY_SECONDS)
        raise SystemExit(2) from None


def _end_with_parent() -> None:
    """Ends this process when the one that started it was killed, as it would keep the port."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
