"""A service under load: requests at a constant rate (open loop).

    python benchmarks/serving.py latency STORE       one request at a time, 300 candidates by ID
    python benchmarks/serving.py load STORE [--rate 100] [--seconds 600]
    python benchmarks/serving.py highest STORE [--rate 100] [--seconds 600]   maximum steady rate
    python benchmarks/serving.py swaps STORE         two versions, 20 changes and 5 kills under load
    python benchmarks/serving.py leak STORE          memory growth, also of a twin with a leak

Sends the store's golden requests. `load` replaces their candidates by up to 300 places near a
point; `latency` by 300 places with the columns of the original candidates. Under load the latency
counts from the scheduled time of a request, so it includes queueing.
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
"""Limit of the 99th percentile for a steady rate."""
MAX_MB = 1.0
"""Limit of memory growth over 10,000 requests."""
STEP, TRIAL_SECONDS = 1.2, 30
SERVE = ("-m", "larr.cli", "serve")
Json = dict[str, Any]


def requests_of(store: Store, change: Callable[[Json], Json] = lambda body: body) -> list[bytes]:
    """Returns the changed golden requests of the current version, as HTTP."""
    golden = read_golden(store.folder / VERSIONS / store.arms()[0].version)
    return [http(change(dict(example["request"]))) for example in golden]


def http(body: Json) -> bytes:
    """Returns a ranking request as HTTP."""
    content = json.dumps(body).encode()
    head = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return b"POST /v1/rank HTTP/1.1\r\nHost: x\r\n" + head.encode() + content


def near(body: Json) -> Json:
    """Replaces the candidates of a request by the places near a point."""
    point = {"lat": 30.66, "lon": 104.06, "within_km": 100, "at_most": CANDIDATES}
    return {k: v for k, v in body.items() if k != "candidates"} | {"near": point, "k": SHOWN}


def named(store: Store) -> Callable[[Json], Json]:
    """Returns a function that gives a request 300 places, cycling its candidates' columns."""
    places = list(store.load(store.arms()[0].version).ranker.reader.place_rows)[:CANDIDATES]

    def change(body: Json) -> Json:
        rows = itertools.cycle(body["candidates"])
        many = [row | {"poi_id": place} for place, row in zip(places, rows, strict=False)]
        return body | {"candidates": many, "k": SHOWN}

    return change


class Client:
    """A pool of connections, with the latencies and statuses of responses."""

    def __init__(self) -> None:
        self.free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.seconds: list[float] = []
        self.statuses: Counter[str] = Counter()

    async def send(self, request: bytes, due: float) -> tuple[int, bytes]:
        """Returns the status and body of a response; the status is 0 if the connection breaks."""
        try:
            while self.free and self.free[-1][0].at_eof():  # the service closes idle connections
                self.free.pop()
            if not self.free:
                self.free.append(await asyncio.open_connection("127.0.0.1", PORT))
            reader, writer = self.free.pop()
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


async def open_loop(
    client: Client,
    requests: list[bytes],
    rate: float,
    seconds: float,
    check: Callable[[int, int, bytes], None] = lambda *_: None,
) -> None:
    """Sends `rate` requests per second on schedule; `check` gets the index, status and body."""
    tasks = set()
    started = time.perf_counter()
    for number in itertools.count():
        due = started + number / rate
        if due - started > seconds:
            break
        await asyncio.sleep(max(0.0, due - time.perf_counter()))

        async def send(index: int = number % len(requests), due: float = due) -> None:
            check(index, *await client.send(requests[index], due))

        task = asyncio.create_task(send())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)


@contextlib.asynccontextmanager
async def service(
    store: Store, command: Sequence[str] = SERVE
) -> AsyncIterator[list[subprocess.Popen[bytes]]]:
    """Runs a service; yields it in a list, so that the caller can replace it."""
    running = [await start(store, command)]
    try:
        yield running
    finally:
        running[0].terminate()
        running[0].wait()


async def start(store: Store, command: Sequence[str] = SERVE) -> subprocess.Popen[bytes]:
    """Starts a service and waits until it is ready.

    Removes malloc settings from the environment, since retained free memory would hide a leak.
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
    raise SystemExit(f"the service exited with status {process.returncode}")


def summary(client: Client) -> str:
    """Returns latency percentiles and statuses."""
    if not client.seconds:
        return f"no response: {dict(client.statuses)}"
    p50, p99 = (1000 * np.quantile(client.seconds, share) for share in (0.5, 0.99))
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, {dict(client.statuses)}"


def memory(process: subprocess.Popen[bytes]) -> float:
    """Returns the private memory of a process and its workers, in MB."""
    root = psutil.Process(process.pid)
    return sum(p.memory_full_info().uss for p in [root, *root.children(recursive=True)]) / 2**20


async def latency(store: Store, _: float, seconds: float) -> None:
    """Sends one request at a time over one connection."""
    requests = requests_of(store, named(store))
    async with service(store):
        for client in (Client(), Client()):  # the first is a warm-up
            started = time.perf_counter()
            for request in itertools.cycle(requests):
                due = time.perf_counter()
                if due - started > seconds:
                    break
                await client.send(request, due)
        print(f"{CANDIDATES} candidates, one request at a time: {summary(client)}")


async def load(store: Store, rate: float, seconds: float) -> bool:
    """Sends requests at a rate to one process per core; returns whether the rate was steady."""
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
    """Raises the rate while short trials are steady, then lowers it until a long one is."""
    while await load(store, rate, TRIAL_SECONDS):
        rate *= STEP
    while rate > 1 and not await load(store, rate / STEP, seconds):
        rate /= STEP**0.5
    print(f"highest rate: {rate / STEP:g} requests/s")


async def swaps(store: Store, rate: float, seconds: float) -> None:
    """Swaps the two latest versions and kills the service under load."""
    versions = [each["version"] for each in store.versions()][:2]
    if len(versions) < 2:
        raise SystemExit(f"{store.folder} needs two versions; publish another")
    golden = {version: read_golden(store.folder / VERSIONS / version) for version in versions}
    requests = requests_of(store)
    seen: Counter[str] = Counter()

    def check(index: int, status: int, body: bytes) -> None:
        if status != 200:
            return
        answer = json.loads(body)
        seen[answer["version"]] += 1
        expected = golden[answer["version"]][index]["probabilities"]
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
        print(f"responses by version: {dict(seen)}")


async def leak(store: Store, rate: float, seconds: float) -> None:
    """Measures the memory growth, and that of a twin that keeps each response."""
    requests = requests_of(store)
    slopes = []
    for name, command in (("service", SERVE), ("leaking twin", [__file__, "twin"])):
        async with service(store, command) as running:
            await open_loop(Client(), requests, rate, seconds / 4)
            client, before = Client(), memory(running[0])
            await open_loop(client, requests, rate, seconds)
            slopes.append(10_000 * (memory(running[0]) - before) / max(1, len(client.seconds)))
            print(f"{name}: {slopes[-1]:+.2f} MB for 10,000 requests; {summary(client)}")
    if not slopes[0] < MAX_MB < slopes[1]:
        raise SystemExit(f"expected less than {MAX_MB:g} MB, and more for the twin")


def twin(store: Store) -> None:
    """Runs a service that keeps a copy of each response."""
    answers, rank = [], Live.rank

    def leaking(live: Live, request: RankRequest) -> RankAnswer:
        answer = rank(live, request)
        answers.append(encode(answer))
        return answer

    Live.rank = leaking  # type: ignore[method-assign]
    serve(store, ("127.0.0.1", PORT), None)


CHOICES = {"latency": latency, "load": load, "highest": highest, "swaps": swaps, "leak": leak}


def main() -> None:
    """Runs one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=[*CHOICES, "twin"])
    parser.add_argument("store", type=Path)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--port", type=int, default=PORT, help="ignored; the twin has a fixed port")
    options = parser.parse_args()
    if options.what == "twin":
        twin(Store(options.store))
        return
    asyncio.run(CHOICES[options.what](Store(options.store), options.rate, options.seconds))


if __name__ == "__main__":
    main()
