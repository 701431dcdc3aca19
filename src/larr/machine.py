"""The machine: devices, memory and processes."""

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
MAPPED, THRESHOLD = (-4, 2**16), -3
"""glibc's M_MMAP_MAX, and M_MMAP_THRESHOLD: blocks of at least this size are mapped."""
LARGE_BLOCK = 2**25
"""The highest threshold, 32 MB."""
SAMPLE_SECONDS, SAMPLES_OF_CHILDREN = 0.05, 10
"""Memory is sampled at this interval, that of child processes, which is slow to read, only in every
tenth sample: this saves 4 s of CPU time per million rows prepared by two processes."""


def device() -> str:
    """Returns the device of models: `cuda` if a GPU is present, else `cpu`."""
    import torch  # noqa: PLC0415 - serving has no torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def bf16_is_fast() -> bool:
    """Returns whether the GPU or CPU supports bfloat16 in hardware."""
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def keep_freed_memory() -> None:
    """Returns freed memory to the system once, then makes glibc keep memory that is freed later.

    By default each large tensor is mapped and unmapped again, with page faults. On stage 1 with the
    built-in model and one core this leaves a sixth of them: 12 steps take 4.1 s, not 5.4 s. The
    small tensors of the rankers do not benefit.
    """
    gc.collect()
    _set_malloc(MALLOC_OPTIONS)


def return_large_blocks(least: int = LARGE_BLOCK) -> None:
    """Makes glibc return freed blocks of `least` bytes or more to the system again.

    The logits of a large model are such blocks. Their sizes vary from step to step, so keeping them
    fragments the memory: stage 1 with SmolLM2 grew from 3.0 to 4.8 GB in seven steps, and to 19 GB
    in 40; with this it stays at 1.7 GB, at the same speed.
    """
    _set_malloc((MAPPED, (THRESHOLD, least)))


def _set_malloc(options: tuple[tuple[int, int], ...]) -> None:
    """Returns freed memory to the system, then sets options of glibc's malloc."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.malloc_trim(0)
        for option, value in options:
            libc.mallopt(option, value)


def end_with_parent() -> None:
    """Makes this process end with its parent, even if the parent is killed."""

    def wait() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Yields a list with one item, the peak memory in bytes, including that of worker processes.

    Memory is sampled because `resource.getrusage` cannot separate the stages of a run: its maximum
    never decreases, and for child processes it is that of the largest one, not their sum.
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
                        # Unique memory only, as a fork shares the pages of its parent.
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
