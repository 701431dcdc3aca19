"""Kills `larr run` at random moments, and compares its results with those of an undisturbed run.

    python benchmarks/resuming.py configs/city_tiny.toml [--kills 30] [--seed 1] [--set ...]

Runs once undisturbed, in `OUTPUT/whole`, and again in `OUTPUT/killed`: each time all processes of
the run are killed (SIGKILL) and the command is called again, until there were enough kills and the
last run is complete. When a run completes, its files are compared and the next one starts anew.
Prints the stage of each kill and the files that differ. There must be none.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from measure import config_parser

from larr import artifacts
from larr.settings import load_config

COMPARED = {".npy", ".parquet", ".safetensors", ".txt"}
"""Files with results; the others have times and paths."""
LARR = str(Path(sys.executable).with_name("larr"))


def start(arguments: argparse.Namespace, output: Path) -> subprocess.Popen[str]:
    """Starts `larr run` in a process group of its own; its output goes to a log."""
    overrides = [*arguments.overrides, f"output={str(output)!r}"]
    command = [LARR, "run", str(arguments.config)]
    for override in overrides:
        command += ["--set", override]
    log = output.with_suffix(".log").open("a")
    return subprocess.Popen(command, stdout=log, stderr=log, text=True, start_new_session=True)


def hashes(output: Path) -> dict[str, str]:
    """Returns the hash of each file with results."""
    return {
        str(path.relative_to(output)): artifacts.sha256(path)
        for path in sorted(output.rglob("*"))
        if path.suffix in COMPARED and path.is_file()
    }


def stage(output: Path) -> str:
    """Returns the stage that a run was in."""
    written = [path for path in output.glob("*/*") if path.is_file()]
    return max(written, key=lambda path: path.stat().st_mtime).parent.name if written else "start"


def main() -> None:
    """Prints a line for each completed run, and a summary."""
    parser = config_parser(__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    folder = load_config(arguments.config, arguments.overrides).output / "resuming"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.perf_counter()
    if start(arguments, folder / "whole").wait():
        sys.exit(f"the undisturbed run failed; see {folder / 'whole.log'}")
    seconds, expected = time.perf_counter() - started, hashes(folder / "whole")
    print(f"undisturbed: {seconds:.0f} s, {len(expected)} files", flush=True)
    draws, killed, stages, differing = np.random.default_rng(arguments.seed), 0, Counter[str](), 0
    output = folder / "killed"
    while killed < arguments.kills or output.exists():  # the last run completes, too
        run = start(arguments, output)
        try:
            code = run.wait(draws.uniform(0, seconds / 2) if killed < arguments.kills else None)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            killed += 1
            stages[stage(output)] += 1
            continue
        if code:
            sys.exit(f"a resumed run failed after {killed} kills; see {output.with_suffix('.log')}")
        found = hashes(output)
        different = sorted(
            name for name in {*expected, *found} if expected.get(name) != found.get(name)
        )
        differing += len(different)
        print(f"completed after {killed} kills; different: {', '.join(different) or 'none'}")
        shutil.rmtree(output)
    print(f"{killed} kills in {dict(stages)}; {differing} files differ")
    sys.exit(differing > 0)


if __name__ == "__main__":
    main()
