"""Fixtures of the tests of data."""

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for tables."""
    (tmp_path / "tables").mkdir()
    return tmp_path / "tables"
