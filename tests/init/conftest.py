"""Fixtures of the tests of `larr init`."""

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for tables."""
    (tmp_path / "tables").mkdir()
    return tmp_path / "tables"
