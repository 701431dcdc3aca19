"""The memory of this process: what the C library does with freed pages, and the peak."""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

MALLOC_OPTIONS = ((-4, 0), (-1, 2**31 - 1), (-2, 2**28))  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD


def keep_freed() -> None:
    """Lets glibc keep freed memory for what comes next: up to a factor of two in training."""
    if _has_glibc():
        for option, value in MALLOC_OPTIONS:
            ctypes.CDLL(None).mallopt(option, value)


def release() -> None:
    """Gives what the stages before have freed back to the system; glibc keeps it otherwise."""
    gc.collect()
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _has_glibc() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


@contextmanager
def peak() -> Iterator[list[int]]:
    """Samples the memory of this process and what its workers do not share with any other.

    The list's only item is the peak, in bytes. A fork that has only begun shares all it has.
    """
    process, found, stop = psutil.Process(), [0], threading.Event()

    def sample() -> None:
        now = process.memory_info().rss
        for child in process.children():
            with suppress(psutil.NoSuchProcess):
                now += child.memory_full_info().uss
        found[0] = max(found[0], now)

    def sample_often() -> None:
        while not stop.wait(0.05):
            sample()

    thread = threading.Thread(target=sample_often, daemon=True)
    sample()
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()
