"""Artifacts: folders that record what they were built from, so that stale ones are never read.

The manifest of an artifact is written last, so its presence means that the artifact is complete. It
holds larr's version, the settings, the keys of the inputs, and the hashes of the files. Artifacts
are the folder of a stage, each ranker in `align/`, each vector source in `embed/`, each search in
`tune/`, and each study. The error for a missing or stale input names the command that renews it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from polars.exceptions import ComputeError
from safetensors import SafetensorError

from larr import machine
from larr.config import Config
from larr.errors import LarrError, StaleError
from larr.sections import leaves, picked
from larr.stages import COST_ONLY, STAGES, stage_inputs

MANIFEST = "manifest.json"
STARTED = "started.json"
"""The inputs of an unfinished artifact; replaced by the manifest at the end."""
VERSION = version("larr")
FIELDS = {"larr", "settings", "inputs", "sources", "files"}
"""The required fields of a manifest."""
MISSING = "it is missing or unfinished"
BLOCK_ROWS = 1_000_000
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Artifact:
    """A folder and the inputs of its files."""

    folder: Path
    settings: dict[str, Any]
    """The settings that determine its content, as JSON values."""
    inputs: dict[str, str | None] = field(default_factory=dict)
    """Name, for messages -> `key` of an artifact that it reads, or None if that is missing."""
    files: Sequence[Path | str | None] = ()
    """Files, or folders of files, that it reads from outside `output`; sizes and modification times
    are compared. Paths that do not exist are ignored, such as the public name of a model."""
    in_parts: bool = False
    """Whether its subfolders are artifacts, which are kept when it is rebuilt."""
    stages: tuple[Artifact, ...] = ()
    """The stages that it reads, which must be current as well."""
    ignored: frozenset[str] = frozenset()
    """Inputs, and paths of settings, that may have changed since it was built."""

    @property
    def built_from(self) -> dict[str, Any]:
        """The content of the manifest except the files."""
        sources = {}
        for path in (Path(named) for named in self.files if named):
            for file in [path] if path.is_file() else sorted(path.rglob("*")):
                if file.is_file():
                    sources[str(file)] = [file.stat().st_size, file.stat().st_mtime_ns]
        content = {"larr": VERSION, "settings": self.settings, "inputs": self.inputs}
        # Converted as in a manifest, in which tuples are lists and keys are strings.
        return dict(json.loads(json.dumps(content | {"sources": sources})))

    def why_stale(self) -> str | None:
        """Returns the reason why the folder is stale, or None if it is current."""
        recorded, current = manifest(self.folder), self.built_from
        if recorded is None:
            return MISSING
        for source in self.stages:
            if not source.is_current():
                return f"its input {source.folder.name}/ is out of date"
        if recorded["larr"] != VERSION:
            return f"it was written by larr {recorded['larr']}, but this is larr {VERSION}"
        for part, reason in (
            ("settings", "it was built with other settings ({})"),
            ("sources", "its source files have changed ({})"),
            ("inputs", "it was built from another {}"),
        ):
            old, new = dict(leaves(recorded[part])), dict(leaves(current[part]))
            paths = sorted({*old, *new} - self.ignored)
            if changed := [path for path in paths if old.get(path) != new.get(path)]:
                return reason.format(", ".join(changed))
        for name, expected in recorded["files"].items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != expected["bytes"]:
                return f"its file {name} is missing or has another size"
        return None

    def is_current(self) -> bool:
        """Returns whether the folder is complete and was built from the current inputs."""
        return self.why_stale() is None

    def start(self, *, resume: bool) -> None:
        """Empties the folder; with `resume`, only if it was started from other inputs.

        An artifact in parts is not emptied, as each part is an artifact itself.
        """
        (self.folder / MANIFEST).unlink(missing_ok=True)
        try:
            keep = self.in_parts or (resume and read_json(self.folder / STARTED) == self.built_from)
        except (FileNotFoundError, ValueError):
            keep = False
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / STARTED, self.built_from)

    def finish(self, **report: Any) -> None:
        """Writes the manifest, with the fields `report`, which marks the folder as complete."""
        content = self.built_from | {"files": _files(self.folder)} | report
        write_json(self.folder / MANIFEST, content)
        (self.folder / STARTED).unlink(missing_ok=True)


@dataclass
class Work:
    """A running stage: its output folder and measurements."""

    folder: Path
    peak_bytes: list[int]
    figures: dict[str, Any] = field(default_factory=dict)
    """Results for the manifest and the report."""
    count: int = 0
    unit: str = "rows"
    started: float = field(default_factory=time.perf_counter)

    def measured(self, count: int, unit: str) -> None:
        """Adds to the amount of work, for the rate in the manifest and in the report."""
        self.count, self.unit = self.count + count, unit

    def cost(self) -> dict[str, Any]:
        """Returns the time, rate and memory so far."""
        seconds = time.perf_counter() - self.started
        return {
            "seconds": round(seconds, 3),
            "count": self.count,
            "unit": f"{self.unit}/s",
            "rate": round(self.count / seconds, 3),
            "peak_memory_mb": round(self.peak_bytes[0] / 2**20, 1),
        }


def folder(config: Config, verb: str) -> Path:
    """Returns the folder of a stage."""
    return config.output / verb


def stage(config: Config, verb: str) -> Artifact:
    """Returns the artifact of a stage."""
    declared, inputs = STAGES[verb], stage_inputs(config, verb)
    tree = config.model_dump(mode="json", exclude=COST_ONLY)
    recorded = {f"{source}/": manifest(folder(config, source)) for source in inputs}
    ignored = frozenset(declared.may_change if config.keep_trained else ())
    return Artifact(
        folder(config, verb),
        picked(tree, declared.settings),
        {name: _key(content) if content else None for name, content in recorded.items()},
        declared.files(config),
        declared.in_parts,
        tuple(stage(config, source) for source in inputs if f"{source}/" not in ignored),
        ignored,
    )


def manifest(folder: Path) -> dict[str, Any] | None:
    """Returns the manifest of a complete artifact, or None."""
    try:
        content = read_json(folder / MANIFEST)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) and set(content) >= FIELDS else None


def require(config: Config, *verbs: str) -> None:
    """Raises StaleError if one of these stages is missing or stale."""
    for verb in verbs:
        if reason := stage(config, verb).why_stale():
            raise StaleError(
                f"{folder(config, verb)}: {reason}; run `larr {verb}` with the same configuration "
                "(or `larr run`, which updates everything)"
            )


def key(folder: Path, file: str | None = None) -> str:
    """Returns the SHA-256 of a complete artifact, or of one of its files.

    It depends on settings, inputs and content, but not on the time and place of building. Raises
    StaleError if the artifact is incomplete.
    """
    recorded = manifest(folder)
    if recorded is None or (file and file not in recorded["files"]):
        raise StaleError(
            f"{folder / (file or '')}: {MISSING}; run `larr run` with rankers (align.models) that "
            "read it"
        )
    return str(recorded["files"][file]["sha256"]) if file else _key(recorded)


@contextmanager
def building(config: Config, verb: str, *, resume: bool = True) -> Iterator[Work]:
    """Runs a stage: checks its inputs, yields its folder, and writes the manifest at the end.

    With `resume`, the files of an interrupted run with the same settings and inputs are kept, and
    the stage skips what is complete. Without it, the stage writes to a temporary folder that
    replaces the old one at the end.
    """
    require(config, *stage_inputs(config, verb))
    artifact = stage(config, verb)
    target = artifact.folder
    if target.is_symlink():
        raise LarrError(
            f"{target} is a symbolic link, but larr has to empty this folder. Remove the link, or "
            "set `output` to the other disk"
        )
    beside = target.with_name(f"{target.name}.partial")
    written = artifact if resume else replace(artifact, folder=beside)
    try:
        with _locked(target):
            written.start(resume=resume)
            with machine.peak_memory() as peak_bytes:
                work = Work(written.folder, peak_bytes)
                yield work
            written.finish(figures=work.figures, measured=work.cost())
            if not resume:
                shutil.rmtree(target, ignore_errors=True)
                written.folder.rename(target)
    except (OSError, ComputeError, SafetensorError) as error:
        # polars and safetensors report a full disk only in the texts of their own errors.
        if not any(os.strerror(code) in str(error) for code in NO_ROOM):
            raise
        raise LarrError(
            f"{target}: could not be written: {error}; free disk space or set another `output`, "
            "then run the same command again"
        ) from error


def forget(config: Config, verb: str) -> None:
    """Removes the manifests of a stage and its parts, so that it runs again from the start."""
    target = folder(config, verb)
    with _locked(target):
        for path in (*target.rglob(MANIFEST), *target.rglob(STARTED)):
            path.unlink()


def share(config: Config, other: Config, verb: str) -> bool:
    """Links a stage of `config` into the output of `other` if it is the same in both.

    Returns whether it is.
    """
    source, link = folder(config, verb), folder(other, verb)
    if link.is_symlink():
        link.unlink()
    shared = all(folder(other, name).is_symlink() for name in STAGES[verb].inputs)
    if not shared or stage(config, verb).settings != stage(other, verb).settings:
        return False
    shutil.rmtree(link, ignore_errors=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(source, link.parent), target_is_directory=True)
    return True


def new_array(path: Path, dtype: np.dtype[Any] | type, shape: tuple[int, ...]) -> np.memmap:
    """Returns a memory-mapped .npy file of zeros with preallocated disk space.

    Otherwise a disk that fills up later would kill the process with a signal, without an error.
    """
    array: np.memmap = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def write_rows(path: Path, first: int, row_NX: np.ndarray) -> None:
    """Writes rows of a .npy file from row `first`; other processes can write other rows."""
    offset = np.load(path, mmap_mode="r").offset
    # Write-only: with read access a network file system may write back complete pages.
    with open(os.open(path, os.O_WRONLY), "wb") as file:  # noqa: PTH123
        file.seek(offset + first * row_NX[:1].nbytes)
        file.write(np.ascontiguousarray(row_NX).data)


def array_blocks(path: Path) -> Iterator[np.ndarray]:
    """Yields the rows of a .npy file block by block.

    Each block is mapped separately, so its pages are freed with it.
    """
    for start in range(0, len(np.load(path, mmap_mode="r")), BLOCK_ROWS):
        yield np.load(path, mmap_mode="r")[start : start + BLOCK_ROWS]


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path, which replaces `path` at the end unless an error is raised."""
    partial = path.with_name(f"{path.name}.partial")
    yield partial
    partial.replace(path)


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file that a stage wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Raises LarrError if another process is writing the same stage."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(target.with_name(f".{target.name}.lock"), timeout=0):
            yield
    except Timeout:
        raise LarrError(
            f"{target}: another larr is writing it; wait for it, or set another `output`"
        ) from None


def _key(recorded: dict[str, Any]) -> str:
    content = {name: recorded[name] for name in ("settings", "inputs", "files")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns path -> size and hash of each file; those of parts come from their manifests."""
    files: dict[str, dict[str, Any]] = {}
    for part in sorted(folder.iterdir()):
        recorded = (manifest(part) or {}).get("files", {})
        files |= {f"{part.name}/{name}": entry for name, entry in recorded.items()}
    others = {
        name: path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, STARTED)
        if (name := path.relative_to(folder).as_posix()) not in files
    }
    with ThreadPoolExecutor() as pool:  # a long log has tens of gigabytes
        hashes = pool.map(sha256, others.values())
        for (name, path), hash_ in zip(others.items(), hashes, strict=True):
            files[name] = {"bytes": path.stat().st_size, "sha256": hash_}
    return files


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
