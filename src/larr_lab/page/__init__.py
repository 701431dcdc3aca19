"""The demo page, as routes of the service."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from contextlib import suppress
from html import escape
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from larr.errors import InputError
from larr.serve.live import Live
from larr_lab.page.page import Page

STATIC = Path(__file__).parent / "static"


def routes(live: Live, token: str | None) -> list[BaseRoute]:
    """Returns the routes of the page at `/` and its parts.

    Browsers cannot send a bearer token, so they ask for the token as a password.
    """
    page = Page(live, token is not None)

    def in_browser(content: Callable[[Request], str]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            if token is not None and not _has_password(request, token):
                return Response(status_code=401, headers={"www-authenticate": "Basic"})
            try:
                return HTMLResponse(content(request))
            except InputError as error:
                return HTMLResponse(f'<p class="finding error">{escape(str(error))}</p>')

        return answer

    def ranking(request: Request) -> str:
        return page.ranking(dict(request.query_params), str(request.base_url))

    return [
        Route("/", in_browser(lambda _: page.home())),
        Route("/ranking", in_browser(ranking)),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]


def _has_password(request: Request, token: str) -> bool:
    credentials = request.headers.get("authorization", "").removeprefix("Basic ")
    with suppress(ValueError):
        password = base64.b64decode(credentials, validate=True).partition(b":")[2]
        return hmac.compare_digest(password, token.encode())
    return False
