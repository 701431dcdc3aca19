"""Serving starts and ranks with only its required packages installed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from larr.serve.store import Store
from larr.serve.version import ServedVersion
from tests.serving import Published

SCRIPT = """
import json, sys

for name in FORBIDDEN:
    sys.modules[name] = None  # an import of it raises ModuleNotFoundError

from pathlib import Path
from starlette.testclient import TestClient
from larr.cli import main
from larr.serve.app import Service
from larr.serve.live import Live
from larr.serve.store import Store
from larr.serve.version import ServedVersion

store, request, place = Store(Path(sys.argv[1])), *map(json.loads, sys.argv[2:4])
with TestClient(Service(Live(store)).app()) as client:
    while client.get("/readyz").status_code != 200:
        pass
    near = {name: value for name, value in request.items() if name != "candidates"}
    near["near"] = {"lat": place["lat"], "lon": place["lon"]}
    explained = client.post("/v1/rank", json=request | {"explain": True, "k": 2}).json()
    added = client.post("/v1/places", json=place)
    while added.status_code == 200:
        if client.get("/v1/places/" + place["poi_id"]).json()["status"] == "embedded":
            break
    found = {
        "ranked": client.post("/v1/rank", json=request).json(),
        "near": client.post("/v1/rank", json=near).json(),
        "explained": explained,
        "added": [added.status_code, added.json()],
        "page": client.get("/").status_code,
    }
print(json.dumps(found))
sys.argv = ["larr", "versions", str(store.folder)]
main()
"""
FORBIDDEN = [
    *("accelerate", "datasets", "lightgbm", "matplotlib", "onnx", "onnxscript", "optuna", "peft"),
    *("pyarrow", "scipy", "sentence_transformers", "sklearn", "tokenizers"),
    *("torch", "transformers"),
]


def served_without_torch(
    store: Store, request: dict[str, Any], place: dict[str, Any]
) -> dict[str, Any]:
    """The answers of a service in a process that cannot import these packages."""
    script = f"FORBIDDEN = {FORBIDDEN}\n{SCRIPT}"
    arguments = [str(store.folder), json.dumps(request), json.dumps(place)]
    command = [sys.executable, "-c", script, *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert store.arms()[0].version in process.stderr, "`larr versions` lists it"
    answers: dict[str, Any] = json.loads(process.stdout)
    return answers


def test_serving_without_torch_ranks_explains_and_searches(
    store: Store, published: Published, asked: dict[str, Any], version: ServedVersion
) -> None:
    name, known = published.run.align.models[0], version.known_places.row(5, named=True)
    place = {"poi_id": "new", "name": "New Moon", "lat": known["poi_lat"], "lon": known["poi_lon"]}
    answers = served_without_torch(store, asked, place)
    assert len(answers["ranked"]["items"]) == len(asked["candidates"])
    assert answers["near"]["items"]
    assert answers["page"] == 200
    status, content = answers["added"]
    if name != "ple":
        assert answers["explained"]["items"][0]["texts"]
        assert (status, "pip install 'larr[train]'" in content["error"]) == (503, True)
    else:
        assert "reads no texts" in answers["explained"]["error"]
        assert (status, content["status"]) == (200, "accepted")
