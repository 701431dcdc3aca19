"""The HTTP service: ranking, health, figures."""

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
from dataclasses import dataclass, field
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
FIGURES_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Where several processes put what `/metrics` tells of all of them."""
JSON = "application/json"
UNREAD = (400, 408, 413)
"""After these answers a part of the body may still come, so the connection is closed."""
RETRY_SECONDS = 5.0
"""Before a process that could not start ends, and another one is started in its place."""
SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)


@dataclass(frozen=True)
class Limits:
    """What a client may ask for."""

    body_bytes: int = 1_000_000
    body_seconds: float = 5.0
    """A body has to be there by then."""
    refresh_seconds: float = 1.0
    """Between two looks at the store."""


@dataclass
class Figures:
    """What `/metrics` tells."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.answers = Counter(
            "larr_answers", "Answers by status", ["status"], registry=self.registry
        )
        self.degraded = Counter(
            "larr_degraded", "What was not known", ["reason"], registry=self.registry
        )
        self.ranked = Counter("larr_ranked", "Rankings", ["version", "arm"], registry=self.registry)
        self.seconds = Histogram(
            "larr_rank_seconds",
            "Time of a ranking by part: decode, rank, encode",
            ["part"],
            buckets=SECONDS,
            registry=self.registry,
        )


class RefusedError(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Service:
    """The routes around what is live."""

    def __init__(self, live: Live, token: str | None = None, limits: Limits = Limits()) -> None:
        self.live, self.token, self.limits = live, token, limits
        self.figures = Figures()
        self._news = asyncio.Event()

    def app(self) -> Starlette:
        """The ASGI application; while it runs, it follows the store."""
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
                *chain.from_iterable(
                    page.load()(self.live, self.token) for page in plugins("pages").values()
                ),
            ],
        )

    @asynccontextmanager
    async def _following(self, _: Starlette) -> AsyncIterator[None]:
        async def follow() -> None:
            while True:
                await asyncio.to_thread(self.live.refresh)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), self.limits.refresh_seconds)
                self._news.clear()

        task = asyncio.create_task(follow())
        yield
        task.cancel()

    def guarded(
        self, handler: Callable[[Request], Awaitable[bytes]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Lets those with the token in, and says what was wrong with a request."""

        async def answer(request: Request) -> Response:
            status, headers = 200, None
            try:
                self._let_in(request)
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
            self.figures.answers.labels(status).inc()
            return Response(content, status, headers, media_type=JSON)

        return answer

    def _let_in(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        given = given if scheme.lower() == "bearer" else ""
        if self.token is not None and not hmac.compare_digest(given.encode(), self.token.encode()):
            raise RefusedError(401, "send the header `Authorization: Bearer TOKEN`")

    async def rank(self, request: Request) -> bytes:
        """`POST /v1/rank`."""
        body = await self._body(request)
        with self.figures.seconds.labels("decode").time():
            asked = decode(body, RankRequest)
        with self.figures.seconds.labels("rank").time():
            answer = self.live.rank(asked)
        self.figures.ranked.labels(answer.version, answer.arm).inc()
        for reason in chain(answer.degraded, *(item.degraded for item in answer.items)):
            self.figures.degraded.labels(reason).inc()
        with self.figures.seconds.labels("encode").time():
            return encode(answer)

    async def add_place(self, request: Request) -> bytes:
        """`POST /v1/places`: it is on the disk when this answers, and embedded soon after."""
        row = decode(await self._body(request), Columns)
        await asyncio.to_thread(self.live.accept, row)
        self._news.set()
        return encode(PlaceStatus(str(row["poi_id"]), "accepted"))

    async def place(self, request: Request) -> bytes:
        """`GET /v1/places/ID`: how far it is."""
        poi_id = request.path_params["poi_id"]
        status = self.live.status(poi_id)
        if status is None:
            raise _unknown(poi_id)
        return encode(PlaceStatus(poi_id, status))

    async def withdraw(self, request: Request) -> bytes:
        """`DELETE /v1/places/ID`: it is on the disk when this answers, and forgotten soon after."""
        poi_id = request.path_params["poi_id"]
        if not await asyncio.to_thread(self.live.withdraw, poi_id):
            raise _unknown(poi_id)
        self._news.set()
        return encode(PlaceStatus(poi_id, WITHDRAWN))

    async def _body(self, request: Request) -> bytes:
        most, body = self.limits.body_bytes, bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > most:
                        raise RefusedError(413, f"the body has more than {most:,} bytes")
        except ClientDisconnect:
            raise RefusedError(400, "the body ended too early") from None
        except TimeoutError:
            seconds = self.limits.body_seconds
            raise RefusedError(408, f"the body was not there within {seconds:g} s") from None
        return bytes(body)

    async def described(self, _: Request) -> Response:
        """`GET /openapi.json`."""
        return Response(encode(document(self.token is not None)), media_type=JSON)

    async def alive(self, _: Request) -> Response:
        """`GET /livez`: the process answers."""
        return Response(encode({"status": "ok"}), media_type=JSON)

    async def ready(self, _: Request) -> Response:
        """`GET /readyz`: it can rank, with which versions, and what it would not take over."""
        is_ready = self.live.has_followed
        arms = [one.arm for one in self.live.opened]
        told = Readiness("ok" if is_ready else "starting", arms, self.live.refused)
        return Response(encode(told), 200 if is_ready else 503, media_type=JSON)

    async def metrics(self, _: Request) -> Response:
        """`GET /metrics`, for Prometheus."""
        registry = self.figures.registry
        if FIGURES_VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return Response(generate_latest(registry), media_type="text/plain")


async def _refused(_: Request, error: Exception) -> Response:
    """What no route takes, in JSON as all else."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these alone
    problem = encode(Problem(error.detail))
    return Response(problem, error.status_code, error.headers, media_type=JSON)


def _unknown(poi_id: str) -> RefusedError:
    return RefusedError(404, f"no place {poi_id!r:.80} is known")


def create() -> Starlette:
    """The application of one of several processes, as `serve` tells them by the environment."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    store = Store(Path(os.environ[STORE_VARIABLE]))
    try:
        return Service(Live(store), os.environ.get(TOKEN_VARIABLE)).app()
    except LarrError as error:
        console.print(f"[bold red]not served:[/bold red] {markup(str(error))}")
        time.sleep(RETRY_SECONDS)
        raise SystemExit(2) from None


def _end_with_parent() -> None:
    """Ends this process when the one that started it was killed: it would hold the port."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _require_free(address: tuple[str, int]) -> None:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        socket.create_server(address, family=family).close()
    except OSError as error:
        raise LarrError(
            f"--host {address[0]} --port {address[1]}: cannot be listened on: {error.strerror}; "
            "give another --port"
        ) from error


def serve(store: Store, address: tuple[str, int], token: str | None, workers: int = 1) -> None:
    """Serves a store until it is told to stop; what is under way is ended first."""
    _require_free(address)
    told = ", ".join(f"{arm.name}: {arm.version}" for arm in store.arms())
    console.print(f"serving {told} on http://{address[0]}:{address[1]}")
    more: dict[str, Any] = {"app": Service(Live(store), token).app() if workers == 1 else FACTORY}
    with tempfile.TemporaryDirectory() as figures:
        if workers > 1:
            for arm in store.arms():
                check(store.folder / VERSIONS / arm.version)
            more |= {"factory": True, "workers": workers}
            os.environ |= {STORE_VARIABLE: str(store.folder), FIGURES_VARIABLE: figures}
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
