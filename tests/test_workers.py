"""Worker processes end with their parent, on errors and on Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest

from larr.config import ClusterConfig
from larr.errors import LarrError
from larr.workers import run_parallel

SLEEPS = (
    "import time; from larr.config import ClusterConfig; from larr.workers import run_parallel; "
    "run_parallel(time.sleep, {'one': (100,), 'two': (100,)}, ClusterConfig(workers=2))"
)
TWO = ClusterConfig(workers=2)
STARTED_BY = 60
ENDED_WITHIN = 30


def test_an_interrupt_does_not_wait_for_jobs() -> None:
    process = subprocess.Popen([sys.executable, "-c", SLEEPS], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + STARTED_BY
    while len(working(process)) < TWO.workers and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(ENDED_WITHIN) != 0


def working(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Returns the jobs that have imported their modules and now sleep."""
    children = psutil.Process(process.pid).children()
    return [child for child in children if child.num_threads() > 1]


def test_an_error_in_a_worker_is_raised_by_its_parent() -> None:
    with pytest.raises(TypeError, match="has no len"):
        run_parallel(len, {"one": (1,), "two": (1,)}, TWO)


def test_a_killed_worker_is_reported() -> None:
    with pytest.raises(LarrError, match=r"was killed, .* set a lower cluster.workers"):
        run_parallel(signal.raise_signal, dict.fromkeys("ab", (signal.SIGKILL,)), TWO)
