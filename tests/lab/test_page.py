"""The page, clicked through in a browser: a scene, a pinned one, a version, a phone."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from larr.serve.app import Service
from larr.serve.live import Live
from larr.serve.request import RankedPlace, RankRequest, TextEffect, decode
from larr_lab.page.page import text_influences
from tests.serving import Published, running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PASSWORD = {"Authorization": "Basic " + base64.b64encode(b"me:secret").decode()}


@pytest.fixture(scope="module")
def live(published: Published) -> Live:
    """Two versions, the first current; tests do not change the store."""
    return Live(published.store)


@pytest.fixture(scope="module")
def address(live: Live) -> Iterator[str]:
    with running(Service(live)) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium here; scripts/browser installs it")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page in a new tab, which must raise no errors and send no external requests."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    failures: list[str] = []
    tab.on("pageerror", lambda error: failures.append(str(error)))
    tab.on("requestfailed", lambda request: failures.append(request.url))
    tab.on(
        "request", lambda request: request.url.startswith(address) or failures.append(request.url)
    )
    tab.goto(address)
    tab.wait_for_selector("table.ranked")
    yield tab
    assert not failures
    tab.close()


def test_a_changed_scene_is_ranked_against_the_pinned_one(page: Any) -> None:
    assert page.locator("tr[data-poi]").count() > 0
    page.click("text=Pin this scene")
    page.wait_for_selector("#against")
    assert "nothing changed" in page.inner_text("#against")
    weather = page.locator("[name='scene.weather']")
    other = next(
        value
        for value in weather.locator("option").all_inner_texts()
        if value not in ("–", weather.input_value())
    )
    weather.select_option(other)
    page.wait_for_function(
        "value => document.querySelector('#against').innerText.includes(value)", arg=other
    )
    assert page.locator("td:text-matches('^(▲|▼|=|new)')").count() > 0
    page.click("text=Unpin")
    page.wait_for_selector("#against", state="detached")


def test_a_text_that_doubles_the_score_has_an_influence_of_a_hundred_percent() -> None:
    texts = [TextEffect("against", "", 0.0, -0.3), TextEffect("for", "", 0.0, 0.1)]
    influences = text_influences(RankedPlace("p", 0.2, {}, texts=texts))
    assert [influence.keyword for influence in influences] == ["for", "against"]
    assert [influence.percent for influence in influences] == pytest.approx([100, -60])


def test_the_texts_of_a_place_are_shown_when_it_is_clicked(page: Any, live: Live) -> None:
    first = page.locator("tr[data-poi]").first
    reads_texts = live.store.versions()[0]["model"] != "ple"
    texts = page.locator("tr[data-poi]:first-child + tr.texts")
    assert not texts.is_visible()
    first.locator("summary").click()
    assert texts.is_visible() == reads_texts
    assert texts.locator("td td").count() > 15 if reads_texts else True


def test_two_versions_are_compared(page: Any, published: Published) -> None:
    page.click("text=Pin this scene")
    page.wait_for_selector("#against")
    page.select_option("[name=version]", published.second)
    page.wait_for_function(
        "value => document.querySelector('#against').innerText.includes(value)",
        arg=published.second,
    )


def test_the_curl_command_equals_the_request_of_the_page(page: Any, live: Live) -> None:
    line = page.evaluate("document.getElementById('curl').textContent")
    body = line.split(" -d ")[1].strip("'").replace("'\"'\"'", "'")
    answer = live.rank(decode(body.encode(), RankRequest))
    shown = page.evaluate("[...document.querySelectorAll('tr[data-poi]')].map(r => r.dataset.poi)")
    assert [item.poi_id for item in answer.items] == shown


def test_it_fits_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_an_invalid_scene_is_reported(live: Live) -> None:
    with TestClient(Service(live).app()) as client:
        for wrong, message in (
            ({"time": "noon"}, "expected the local time of the place"),
            ({"user_id": ""}, "invalid scene"),
            ({"scene.temperature_c": "<b>hot</b>"}, "&lt;b&gt;hot"),
            ({"scene.temperature_c": "nan"}, "out of range"),
            ({"version": "nowhere"}, "has no version nowhere"),
            ({"pinned": "{"}, "invalid pinned scene"),
        ):
            answer = client.get("/ranking", params={"user_id": "u000001"} | wrong)
            assert (answer.status_code, message in answer.text) == (200, True), answer.text


def test_the_token_is_the_password(live: Live) -> None:
    with TestClient(Service(live, "secret").app()) as client:
        refused = client.get("/")
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Basic")
        assert client.get("/", headers={"Authorization": "Basic %%%"}).status_code == 401
        assert client.get("/", headers=PASSWORD).status_code == 200
        assert "Explore a scene" in client.get("/", headers=PASSWORD).text
        assert client.get("/static/htmx.min.js").status_code == 200


def test_a_pinned_scene_is_json(live: Live) -> None:
    with TestClient(Service(live).app()) as client:
        pinned = json.dumps({"user_id": "u000001"})
        answer = client.get("/ranking", params={"user_id": "u000002", "pinned": pinned})
        assert "user id: u000001 → u000002" in answer.text
