"""The OpenAPI document: `openapi.json`, with the types that requests and answers are read with."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from larr.serve.request import Columns, Problem, RankAnswer, RankRequest
from larr.serve.store import Arm


class PlaceStatus(msgspec.Struct):
    """A place is `accepted`, `embedded`, `trained` or `withdrawn`."""

    poi_id: str
    status: str


class Readiness(msgspec.Struct):
    """The arms that are served, and why the store's latest choice is not, if it is not."""

    status: str
    arms: list[Arm]
    refused: str | None = None


def document(secured: bool) -> dict[str, Any]:
    """Returns the document; if `secured`, its calls need a token."""
    content: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text())
    content["info"]["version"] = version("larr")
    kinds = (Columns, RankRequest, RankAnswer, PlaceStatus, Readiness, Problem)
    (place, *_), schemas = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    content["components"]["schemas"] = schemas | {"Place": place}
    if not secured:
        del content["security"], content["components"]["securitySchemes"]
        for path in content["paths"].values():
            for call in ("get", "post", "delete"):
                path.get(call, {"responses": {}})["responses"].pop("401", None)
    return content
