"""The OpenAPI document, from the types that requests and answers are read and written with.

msgspec writes the schemas; Starlette's own `SchemaGenerator` would read them from docstrings.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec

from larr.serve.request import Columns, Problem, RankAnswer, RankRequest
from larr.serve.store import Arm

Json = dict[str, Any]
DIALECT = "3.1.0"


class PlaceStatus(msgspec.Struct):
    """A place is `accepted`, `embedded`, `trained` or `withdrawn`."""

    poi_id: str
    status: str


class Readiness(msgspec.Struct):
    """The arms that are served, and why the store's latest choice is not, if it is not."""

    status: str
    arms: list[Arm]
    refused: str | None = None


def document(secured: bool) -> Json:
    """Returns the document; if `secured`, its calls need a token."""
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
    schema = dict(zip(kinds, schemas, strict=True))

    def answers(kind: str, *refusals: int) -> Json:
        contents = {"200": _content("The answer.", schema[kind])}
        for status in (401, *refusals) if secured else refusals:
            contents[str(status)] = _content(REFUSALS[status], schema["problem"])
        return contents

    poi_id = {"name": "poi_id", "in": "path", "required": True, "schema": {"type": "string"}}
    document: Json = {
        "openapi": DIALECT,
        "info": {"title": "larr", "version": version("larr")},
        "paths": {
            "/v1/rank": {
                "post": {
                    "summary": "Ranks candidates, or the places around, for a user in a scene.",
                    "requestBody": _content("", schema["rank"], required=True),
                    "responses": answers("answer", 400, 408, 413, 422),
                }
            },
            "/v1/places": {
                "post": {
                    "summary": "Adds a place that is new, by the columns of the data contract.",
                    "requestBody": _content("", schema["place"], required=True),
                    "responses": answers("status", 400, 408, 413, 422, 503),
                }
            },
            "/v1/places/{poi_id}": {
                "get": {
                    "summary": "The status of a place.",
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
                        "200": _content("The answer.", schema["ready"]),
                        "503": _content("It is starting.", schema["ready"]),
                    },
                }
            },
        },
        "components": {"schemas": components},
    }
    if secured:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


REFUSALS = {
    400: "The body ended too early.",
    401: "The token is missing or wrong.",
    404: "The place is not known.",
    408: "The body was not complete in time.",
    413: "The body is too large.",
    422: "The content is refused, with the reason.",
    503: "It could not be written to the disk, or texts cannot be embedded here.",
}


def _content(description: str, schema: Json, *, required: bool | None = None) -> Json:
    content: Json = {"content": {"application/json": {"schema": schema}}}
    return content | ({"required": required} if required else {"description": description})
