"""A service under load: requests that arrive at a constant rate, whatever comes back.

    python benchmarks/serving.py latency STORE       one after the other, 300 candidates by name
    python benchmarks/serving.py load STORE [--rate 100] [--seconds 600]
    python benchmarks/serving.py highest STORE [--rate 100] [--seconds 600]   the rate that holds
    python benchmarks/serving.py swaps STORE         two versions, 20 changes and 5 kills under load
    python benchmarks/serving.py leak STORE          memory over requests, and of a twin that leaks

Requests are the store's golden requests: under `load` with the places near a point instead of their
own candidates, at most 300, under `latency` with 300 places and columns of their own candidates.
Under load latency counts from the moment a request was due, so a queue shows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from msgspec.json import encode

from larr.serve.app import serve
from larr.serve.live import Live
from larr.serve.request import RankAnswer, RankRequest
from larr.serve.store import VERSIONS, Store, read_golden

PORT = 8123
CONNECTIONS = 64
CANDIDATES, SHOWN = 300, 20
SWAPS, KILLS = 20, 5
SLOWEST_MS = 20.0
"""What the 99th percentile has to stay under for a rate to hold."""
MOST_MB = 1.0
"""What 10,000 requests may add to the memory."""
STEP, TRIAL_SECONDS = 1.2, 30
SERVE = ("-m", "larr.cli", "serve")
Json = dict[str, Any]


def requests_of(store: Store, change: Callable[[Json], Json] = lambda one: one) -> list[bytes]:
    """The golden requests of the current version, changed, as HTTP."""
    golden = read_golden(store.folder / VERSIONS / store.arms()[0].version)
    return [http(change(dict(one["request"]))) for one in golden]


def http(body: Json) -> bytes:
    """A request to rank."""
    content = json.dumps(body).encode()
    head = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return b"POST /v1/rank HTTP/1.1\r\nHost: x\r\n" + head.encode() + content


def near(body: Json) -> Json:
    """The request with the places around instead of its candidates."""
    place = {"lat": 30.66, "lon": 104.06, "within_km": 100, "at_most": CANDIDATES}
    return {name: value for name, value in body.items() if name != "candidates"} | {
        "near": place,
        "k": SHOWN,
    }


def named(store: Store) -> Callable[[Json], Json]:
    """What gives a request 300 places, with the columns of its own candidates in turn."""
    places = list(store.load(store.arms()[0].version).ranker.reader.place_rows)[:CANDIDATES]

    def change(body: Json) -> Json:
        rows = itertools.cycle(body["candidates"])
        many = [row | {"poi_id": place} for place, row in zip(places, rows, strict=False)]
        return body | {"candidates": many, "k": SHOWN}

    return change


class Client:
    """Connections that are kept, and what came back over them."""

    def __init__(self) -> None:
        self.free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.seconds: list[float] = []
        self.statuses: Counter[str] = Counter()

    async def send(self, request: bytes, due: float) -> tuple[int, bytes]:
        """One request; its status is 0 if the connection broke."""
        try:
            while self.free and self.free[-1][0].at_eof():  # the service closes idle ones
                self.free.pop()
            reader, writer = self.free.pop() if self.free else await self._open()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            self.statuses["broken connection"] += 1
            return 0, b""
        if len(self.free) < CONNECTIONS:
            self.free.append((reader, writer))
        else:
            writer.close()
        self.seconds.append(time.perf_counter() - due)
        self.statuses[str(status)] += 1
        return status, body

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", PORT)


async def open_loop(
    client: Client,
    requests: list[bytes],
    rate: float,
    seconds: float,
    check: Callable[[int, int, bytes], None] = lambda *_: None,
) -> None:
    """Sends `rate` requests a second, each at its time; `check` sees number, status, body."""
    tasks = set()
    started = time.perf_counter()
    for number in itertools.count():
        due = started + number / rate
        if due - started > seconds:
            break
        await asyncio.sleep(max(0.0, due - time.perf_counter()))

        async def one(number: int = number, due: float = due) -> None:
            which = number % len(requests)
            check(which, *await client.send(requests[which], due))

        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)


@contextlib.asynccontextmanager
async def service(
    store: Store, command: Sequence[str] = SERVE
) -> AsyncIterator[list[subprocess.Popen[bytes]]]:
    """A running service, in a list so that it can be replaced."""
    running = [await start(store, command)]
    try:
        yield running
    finally:
        running[0].terminate()
        running[0].wait()


async def start(store: Store, command: Sequence[str] = SERVE) -> subprocess.Popen[bytes]:
    """Starts a service and waits until it is ready.

    Without settings of malloc from outside: memory that is freed and kept would hide a leak.
    """
    process = subprocess.Popen(
        [sys.executable, *command, str(store.folder), "--port", str(PORT)],
        env={name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    client = Client()
    while process.poll() is None:
        status, _ = await client.send(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", 0.0)
        if status == 200:
            return process
        await asyncio.sleep(0.05)
    raise SystemExit(f"the service ended with {process.returncode}")


def summary(client: Client) -> str:
    """Percentiles and statuses."""
    if not client.seconds:
        return f"nothing came back: {dict(client.statuses)}"
    middle, high = (1000 * np.quantile(client.seconds, share) for share in (0.5, 0.99))
    return f"p50 {middle:.1f} ms, p99 {high:.1f} ms, {dict(client.statuses)}"


def memory(process: subprocess.Popen[bytes]) -> float:
    """MB of a process and its workers that they do not share."""
    root = psutil.Process(process.pid)
    return sum(one.memory_full_info().uss for one in [root, *root.children(recursive=True)]) / 2**20


async def latency(store: Store, _: float, seconds: float) -> None:
    """One request after the other over one connection."""
    requests = requests_of(store, named(store))
    async with service(store):
        for client in (Client(), Client()):  # the first one warms up
            started = time.perf_counter()
            for request in itertools.cycle(requests):
                due = time.perf_counter()
                if due - started > seconds:
                    break
                await client.send(request, due)
        print(f"{CANDIDATES} candidates, one request after the other: {summary(client)}")


async def load(store: Store, rate: float, seconds: float) -> bool:
    """One rate for a time, served by a process for each core; whether it held."""
    requests = requests_of(store, near)
    async with service(store, (*SERVE, "--workers", str(os.cpu_count()))) as running:
        await open_loop(Client(), requests, min(rate, 20), 2)
        client, before = Client(), memory(running[0])
        await open_loop(client, requests, rate, seconds)
        after, sent = memory(running[0]), len(client.seconds)
        slope = 10_000 * (after - before) / max(1, sent)
        print(f"{rate:g} requests/s for {seconds:g} s: {summary(client)}")
        print(f"memory {before:.0f} -> {after:.0f} MB: {slope:+.2f} MB for 10,000 requests")
        is_fast = sent > 0 and 1000 * np.quantile(client.seconds, 0.99) < SLOWEST_MS
        return is_fast and set(client.statuses) == {"200"}


async def highest(store: Store, rate: float, seconds: float) -> None:
    """Raises the rate while it holds for a short time, then lowers it until it holds for long."""
    while await load(store, rate, TRIAL_SECONDS):
        rate *= STEP
    while rate > 1 and not await load(store, rate / STEP, seconds):
        rate /= STEP**0.5
    print(f"highest rate: {rate / STEP:g} requests/s")


async def swaps(store: Store, rate: float, seconds: float) -> None:
    """Changes between the two latest versions and kills, while requests come."""
    versions = [one["version"] for one in store.versions()][:2]
    if len(versions) < 2:
        raise SystemExit(f"{store.folder} needs two versions; publish another")
    golden = {one: read_golden(store.folder / VERSIONS / one) for one in versions}
    requests = requests_of(store)
    seen: Counter[str] = Counter()

    def check(which: int, status: int, body: bytes) -> None:
        if status != 200:
            return
        answer = json.loads(body)
        seen[answer["version"]] += 1
        expected = golden[answer["version"]][which]["probabilities"]
        for item in answer["items"]:
            if not np.allclose(
                list(item["probabilities"].values()), expected[item["poi_id"]], atol=1e-5
            ):
                seen["wrong"] += 1

    async def change(running: list[subprocess.Popen[bytes]]) -> None:
        for number in range(SWAPS):
            await asyncio.to_thread(store.activate, versions[number % 2])
            await asyncio.sleep(seconds / (2 * SWAPS))
        for _ in range(KILLS):
            await asyncio.sleep(seconds / (4 * KILLS))
            os.kill(running[0].pid, signal.SIGKILL)
            running[0].wait()
            running[0] = await start(store)

    async with service(store) as running:
        client = Client()
        await asyncio.gather(change(running), open_loop(client, requests, rate, seconds, check))
        print(f"{SWAPS} changes and {KILLS} kills at {rate:g} requests/s: {summary(client)}")
        print(f"answers by version: {dict(seen)}")


async def leak(store: Store, rate: float, seconds: float) -> None:
    """The slope of memory, and that of a twin that keeps each answer."""
    requests = requests_of(store)
    slopes = []
    for name, command in (("service", SERVE), ("leaking twin", [__file__, "twin"])):
        async with service(store, command) as running:
            await open_loop(Client(), requests, rate, seconds / 4)
            client, before = Client(), memory(running[0])
            await open_loop(client, requests, rate, seconds)
            slopes.append(10_000 * (memory(running[0]) - before) / max(1, len(client.seconds)))
            print(f"{name}: {slopes[-1]:+.2f} MB for 10,000 requests; {summary(client)}")
    if not slopes[0] < MOST_MB < slopes[1]:
        raise SystemExit(f"expected less than {MOST_MB:g} MB, and more of the twin")


def twin(store: Store) -> None:
    """Serves, and keeps a copy of each answer for ever."""
    answers, rank = [], Live.rank

    def leaking(live: Live, request: RankRequest) -> RankAnswer:
        answer = rank(live, request)
        answers.append(encode(answer))
        return answer

    Live.rank = leaking  # type: ignore[method-assign]
    serve(store, ("127.0.0.1", PORT), None)


CHOICES = {"latency": latency, "load": load, "highest": highest, "swaps": swaps, "leak": leak}


def main() -> None:
    """Runs one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=[*CHOICES, "twin"])
    parser.add_argument("store", type=Path)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--port", type=int, default=PORT, help="of the twin, always the same")
    options = parser.parse_args()
    if options.what == "twin":
        twin(Store(options.store))
        return
    asyncio.run(CHOICES[options.what](Store(options.store), options.rate, options.seconds))


if __name__ == "__main__":
    main()
