"""The machine: where models run, its memory, its processes."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

MALLOC_OPTIONS = ((-4, 0), (-1, 2**31 - 1), (-2, 2**28))
"""glibc's M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD, from malloc.h."""
SAMPLE_SECONDS, SAMPLES_OF_CHILDREN = 0.05, 10
"""Of the memory. That of children, which takes the kernel long, is looked up in every tenth sample:
4 s of processor time less for a million rows that two processes prepare."""


def device() -> str:
    """Returns where models run: `cuda` where a GPU is present, else `cpu`."""
    import torch  # noqa: PLC0415 - serving has no torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def bf16_is_fast() -> bool:
    """Whether this GPU or processor has bfloat16 products in hardware."""
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def keep_freed_memory() -> None:
    """Returns freed memory to the system once, and lets glibc keep what is freed from now on.

    By default each large tensor is mapped and unmapped again. Measured on stage 1 with the built-in
    model, on one core: without those page faults (a sixth remains) 12 steps take 4.1 s instead
    of 5.4 s; the small tensors of the rankers gain nothing.
    """
    gc.collect()
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.malloc_trim(0)
        for option, value in MALLOC_OPTIONS:
            libc.mallopt(option, value)


def end_with_parent() -> None:
    """Lets this process end with the one that started it, even if that was killed."""

    def wait() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Yields a list whose only item becomes the peak in bytes, that of worker processes included.

    It samples, because `resource.getrusage` cannot tell the stages of a run apart: its maximum
    never falls, and for children it is that of the largest, though several train at a time.
    """
    import psutil  # noqa: PLC0415 - serving has no psutil

    process, peak, stop = psutil.Process(), [0], threading.Event()

    def sample() -> None:
        samples = of_children = 0
        while peak[0] == 0 or not stop.wait(SAMPLE_SECONDS):
            if samples % SAMPLES_OF_CHILDREN == 0:
                of_children = 0
                for child in process.children():
                    with suppress(psutil.NoSuchProcess):
                        # only what it does not share: a fork begins with all pages of its parent
                        of_children += child.memory_full_info().uss
            samples += 1
            peak[0] = max(peak[0], process.memory_info().rss + of_children)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
