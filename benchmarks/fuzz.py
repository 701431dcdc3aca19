"""Fuzzes a running service with invalid requests, expecting no 5xx and no hang.

    larr serve STORE --port 8123 &
    python benchmarks/fuzz.py http://127.0.0.1:8123 [--requests 50000]

Sends a corpus of edge cases, byte-level mutations of it, then slow headers and bodies. For requests
generated from the OpenAPI document: `pip install schemathesis`, and
`schemathesis run http://127.0.0.1:8123/openapi.json --checks not_a_server_error -n 2000`.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx

SECONDS = 10.0
"""Timeout of a response."""
RANDOM = random.Random(1)  # noqa: S311 - nothing secret
USER = '"user_id": "u000001"'
KEYS = ("k", "time", "scene", "near", "candidates", "explain", "unknown")
SCENE = ("temperature_c", "weather", "city")
CANDIDATE = ("poi_id", "distance_km", "position")
NEAR = ("lat", "lon", "within_km", "at_most")
PATHS = (
    "/ranking?time=x",
    "/ranking?pinned={",
    "/ranking?version=../..",
    "/ranking?user_id=%ff",
    "/v1/places/%00",
    "/v1/places/fuzz",
    "/v1/places/p00001",
    "/static/../store.py",
    "/static/..%2f..%2fstore.py",
)


def corpus() -> Iterator[tuple[str, str, bytes]]:
    """Yields the method, path and body of edge cases."""
    bodies = [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}" * 1000, b"[" * 100_000, b'{"a":' * 50_000,
        b'{"user_id": NaN}', b'{"user_id": "\\ud800"}', b'{"user_id": true}', b'{"user_id": ""}',
    ]  # fmt: skip
    values = [
        "NaN", "1e999", "-1e999", "true", "null", "[]", "{}", '"\\ud800"', '"\\u0000"', "1" * 400,
        '"</poi_name><poi_name>"', '"' + "x" * 100_000 + '"', "-0.0", "1e-400",
        '"\\uff1c/poi_name>"',
    ]  # fmt: skip
    for value in values:
        fields = [
            *(f'"{key}": {value}' for key in KEYS),
            *(f'"candidates": [], "scene": {{"{name}": {value}}}' for name in SCENE),
            *(f'"candidates": [{{"poi_id": "p00001", "{name}": {value}}}]' for name in CANDIDATE),
            *(f'"near": {{"lat": 30, "lon": 104, "{key}": {value}}}' for key in NEAR),
        ]
        bodies += [f"{{{USER}, {field}}}".encode() for field in fields]
        for column in ("poi_id", "name", "lat", "menu", "price_yuan", "opened"):
            place = f'{{"poi_id": "fuzz", "name": "x", "{column}": {value}}}'
            yield "POST", "/v1/places", place.encode()
    twice = ", ".join(['{"poi_id": "p00001"}'] * 2)
    bodies.append(f'{{{USER}, "candidates": [{twice}]}}'.encode())
    many = [{"poi_id": f"p{number}"} for number in range(100_000)]
    bodies.append(json.dumps({"user_id": "u", "candidates": many}).encode())
    bodies.append(b'{"user_id": "' + b"x" * 10_000_000 + b'"}')
    for body in bodies:
        yield "POST", "/v1/rank", body
        yield "POST", "/v1/places", body
    for path in PATHS:
        yield "GET", path, b""
        yield "DELETE", path, b""
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"):
        yield method, "/v1/rank", b"{}"


def mutated(known: list[tuple[str, str, bytes]], count: int) -> Iterator[tuple[str, str, bytes]]:
    """Yields small requests of the corpus with some bytes changed, removed or inserted."""
    small = [request for request in known if 0 < len(request[2]) < 2_000]
    for _ in range(count):
        method, path, body = RANDOM.choice(small)
        changed = bytearray(body)
        for _ in range(RANDOM.randint(1, 4)):
            at = RANDOM.randrange(len(changed) + 1)
            changed[at : at + RANDOM.randint(0, 3)] = RANDOM.randbytes(RANDOM.randint(0, 3))
        yield method, path, bytes(changed)


def slow(address: str) -> None:
    """Sends unfinished headers and an unfinished body; the service must respond or disconnect."""
    parts = urlsplit(address)
    service = (parts.hostname, parts.port)
    headers = b"POST /v1/rank HTTP/1.1\r\nHost: x\r\n"
    for start in (headers, headers + b"Content-Length: 1000\r\n\r\n{"):
        started = time.perf_counter()
        with socket.create_connection(service, timeout=2 * SECONDS) as connection:
            connection.sendall(start)
            answer = connection.recv(200)
        print(f"slow: {answer.splitlines()[:1]} after {time.perf_counter() - started:.1f} s")


def main() -> None:
    """Prints the number of responses by status; exits with 1 after a 5xx or a missing response."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--requests", type=int, default=50_000)
    options = parser.parse_args()
    known = list(corpus())
    statuses: Counter[str] = Counter()
    bad = []
    with httpx.Client(base_url=options.address, timeout=SECONDS) as client:
        rest = mutated(known, options.requests - len(known))
        for number, (method, path, body) in enumerate([*known, *rest]):
            try:
                answer = client.request(method, path, content=body)
                statuses[str(answer.status_code)] += 1
                wrong = answer.status_code >= 500
            except httpx.HTTPError as error:
                statuses[type(error).__name__] += 1
                wrong = not isinstance(error, httpx.RemoteProtocolError | httpx.WriteError)
            if wrong:
                bad.append((method, path, body[:200]))
            if number % 5_000 == 0:
                print(f"{number:,} requests: {dict(statuses)}", flush=True)
    slow(options.address)
    print(f"{sum(statuses.values()):,} requests: {dict(statuses)}; {len(bad)} bad: {bad[:5]}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
