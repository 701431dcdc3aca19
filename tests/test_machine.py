"""Memory that is freed."""

from __future__ import annotations

import sys

import numpy as np
import psutil
import pytest

from larr import machine

SIZE = 64 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="these are options of glibc")
def test_large_blocks_are_returned_to_the_system() -> None:
    process = psutil.Process()
    machine.return_large_blocks()
    try:
        block = np.ones(SIZE, np.uint8)
        before = process.memory_info().rss
        del block
        assert before - process.memory_info().rss > SIZE / 2
    finally:
        machine.keep_freed_memory()
