"""The OpenAPI document, from the types that requests and answers are read and written with."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec

from larr.serve.request import Columns, Problem, RankAnswer, RankRequest
from larr.serve.store import Arm

Json = dict[str, Any]
DIALECT = "3.1.0"


class PlaceStatus(msgspec.Struct):
    """How far a place is: `accepted`, `embedded`, `trained` or `withdrawn`."""

    poi_id: str
    status: str


class Readiness(msgspec.Struct):
    """What is served, and what was refused of the store's latest choice."""

    status: str
    arms: list[Arm]
    refused: str | None = None


def document(secured: bool) -> Json:
    """The document; with `secured` its calls need a token."""
    kinds = {
        "rank": RankRequest,
        "answer": RankAnswer,
        "place": Columns,
        "status": PlaceStatus,
        "ready": Readiness,
        "problem": Problem,
    }
    schemas, components = msgspec.json.schema_components(
        kinds.values(), ref_template="#/components/schemas/{name}"
    )
    told = dict(zip(kinds, schemas, strict=True))

    def answers(kind: str, *refusals: int) -> Json:
        found = {"200": _content("The answer.", told[kind])}
        for status in (401, *refusals) if secured else refusals:
            found[str(status)] = _content(REFUSALS[status], told["problem"])
        return found

    poi_id = {"name": "poi_id", "in": "path", "required": True, "schema": {"type": "string"}}
    made: Json = {
        "openapi": DIALECT,
        "info": {"title": "larr", "version": version("larr")},
        "paths": {
            "/v1/rank": {
                "post": {
                    "summary": "Ranks candidates, or the places around, for a user in a scene.",
                    "requestBody": _content("", told["rank"], required=True),
                    "responses": answers("answer", 400, 408, 413, 422),
                }
            },
            "/v1/places": {
                "post": {
                    "summary": "Adds a place that is new, by the columns of the data contract.",
                    "requestBody": _content("", told["place"], required=True),
                    "responses": answers("status", 400, 408, 413, 422, 503),
                }
            },
            "/v1/places/{poi_id}": {
                "get": {
                    "summary": "How far a place is.",
                    "parameters": [poi_id],
                    "responses": answers("status", 404),
                },
                "delete": {
                    "summary": "Withdraws a place that was added.",
                    "parameters": [poi_id],
                    "responses": answers("status", 404, 422, 503),
                },
            },
            "/readyz": {
                "get": {
                    "summary": "Whether it can rank, and with which versions.",
                    "responses": {
                        "200": _content("The answer.", told["ready"]),
                        "503": _content("It has only begun.", told["ready"]),
                    },
                }
            },
        },
        "components": {"schemas": components},
    }
    if secured:
        made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"token": []}]
    return made


REFUSALS = {
    400: "The body ended too early.",
    401: "The token is missing or wrong.",
    404: "Nobody knows the place.",
    408: "The body was not there in time.",
    413: "The body is too large.",
    422: "The content is refused, with the reason.",
    503: "It could not be kept on the disk.",
}


def _content(description: str, schema: Json, *, required: bool | None = None) -> Json:
    made: Json = {"content": {"application/json": {"schema": schema}}}
    return made | ({"required": required} if required else {"description": description})
