"""Progress in a log file: lines with the amount, the rate and the remaining time."""

from __future__ import annotations

import re

import pytest

from larr import progress


def test_lines_tell_the_rate_once_something_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with progress.track("embedding", 8, "texts") as advance:
        advance(0)
        advance(2)
    first, second, last = capsys.readouterr().err.splitlines()
    assert first == "  embedding: 0 of 8 texts"
    assert re.fullmatch(r"  embedding: 2 of 8 texts, [\d,]+ texts/s, \d+ s left", second)
    assert re.fullmatch(r"  embedding: 2 texts in [\d.]+ s, [\d,]+ texts/s", last)
