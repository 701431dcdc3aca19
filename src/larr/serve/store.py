"""Versions of the served model: immutable folders in a store. One is current, or two are tested.

STORE/versions/ID/    a ranker and the files of a run that serving reads; manifest.json contains the
                      sha256 of each file; READY is written last and means "complete"
STORE/current.json    the current version, and the previous ones
STORE/places.jsonl    the places added since
STORE/vectors.sqlite  the vectors of their texts
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from filelock import FileLock

from larr import artifacts
from larr.config import Config
from larr.errors import ConfigError, InputError
from larr.serve.embedder import Embedder
from larr.serve.features import Reader
from larr.serve.ranker import ServedRanker
from larr.serve.request import Arm, RankRequest
from larr.serve.version import ServedVersion
from larr.stages import MODELS
from larr.text.fitted import FITTED

STORE = "store"
"""The default store, a folder in the output of a run."""
VERSIONS, CURRENT, VECTORS = "versions", "current.json", "vectors.sqlite"
LOCK = f".{CURRENT}.lock"
"""Serialises changes of the current version by several processes."""
MANIFEST, READY, SERVING, GOLDEN = "manifest.json", "READY", "serving.json", "golden.json"
RANKER = "ranker"
TOLERANCE = 1e-5
"""The maximum difference between the probabilities of the served and the trained ranker."""
ID_DIGITS = 12


class VersionError(InputError):
    """A version is missing, incomplete, or returns wrong probabilities."""


class _Pointer(msgspec.Struct):
    arms: list[Arm]
    before: list[list[Arm]] = []
    """The previous arms, the latest last."""


@dataclass(frozen=True)
class Store:
    """The versions of a folder."""

    folder: Path

    def published_from(self, run: dict[str, Any]) -> str | None:
        """Returns the complete version with this description of a run, if any."""
        for manifest in self.versions():
            folder = self.folder / VERSIONS / manifest["version"]
            with suppress(VersionError, FileNotFoundError):
                if artifacts.read_json(folder / SERVING) == run:
                    check(folder)
                    return str(manifest["version"])
        return None

    def versions(self) -> list[dict[str, Any]]:
        """Returns the manifests of the complete versions, the latest first."""
        manifests = [
            artifacts.read_json(path.parent / MANIFEST)
            for path in (self.folder / VERSIONS).glob(f"*/{READY}")
        ]
        return sorted(manifests, key=lambda file: (file["made"], file["version"]), reverse=True)

    def arms(self) -> list[Arm]:
        """Returns the current version, or the two of a test."""
        return self._pointer().arms

    def activate(self, version: str, share: float = 1.0) -> ServedVersion:
        """Makes a version current after checking its files and golden requests; returns it.

        With a share below 1 it becomes arm B of a test, beside the current version. Raises
        VersionError for a version that cannot be served.
        """
        if not 0 < share <= 1:
            raise ConfigError(f"--share {share:g}: expected more than 0, and at most 1")
        opened = self.load(version)
        with FileLock(self.folder / LOCK):
            served = self._pointer() if (self.folder / CURRENT).is_file() else _Pointer([])
            arms = [Arm("A", version, 1.0)]
            if share < 1:
                if not served.arms or served.arms[0].version == version:
                    raise VersionError(
                        f"{self.folder}: a test needs another current version than {version}"
                    )
                arms = [Arm("A", served.arms[0].version, 1 - share), Arm("B", version, share)]
            if arms != served.arms:
                before = [*served.before, served.arms] if served.arms else []
                self._point(_Pointer(arms, before))
        return opened

    def roll_back(self) -> list[Arm]:
        """Undoes the last change that is not undone yet; returns the arms served now."""
        with FileLock(self.folder / LOCK):
            before = self._pointer().before
            if not before:
                raise VersionError(f"{self.folder}: there is no previous version")
            for arm in before[-1]:
                self.load(arm.version)
            self._point(_Pointer(before[-1], before[:-1]))
        return before[-1]

    def load(self, version: str) -> ServedVersion:
        """Loads a version after checking its files and golden requests."""
        folder = self.folder / VERSIONS / version
        if folder.parent != self.folder / VERSIONS or not folder.is_dir():
            known = ", ".join(file["version"] for file in self.versions()) or "none"
            raise VersionError(f"{self.folder} has no version {version}; it has {known}")
        return open_checked(folder, self.folder / VECTORS)

    def _point(self, pointer: _Pointer) -> None:
        artifacts.write_json(self.folder / CURRENT, msgspec.to_builtins(pointer))

    def _pointer(self) -> _Pointer:
        try:
            return msgspec.json.decode((self.folder / CURRENT).read_bytes(), type=_Pointer)
        except FileNotFoundError as error:
            inside = self.folder / STORE
            hint = f"did you mean {inside}?" if inside.is_dir() else "is this the right folder?"
            raise VersionError(
                f"{self.folder} has no current version; {hint} `larr publish CONFIG --store "
                f"{self.folder}` writes one"
            ) from error
        except msgspec.MsgspecError as error:
            raise VersionError(
                f"{self.folder / CURRENT} cannot be read: {error}; `larr activate` a version"
            ) from error


def check(folder: Path) -> None:
    """Raises VersionError for an incomplete or modified folder, naming the file."""
    if not (folder / READY).is_file():
        raise VersionError(f"{folder}: {READY} is missing, so the version is incomplete")
    try:
        manifest = artifacts.read_json(folder / MANIFEST)
        files: dict[str, str] = manifest["files"]
        version = manifest["version"]
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise VersionError(f"{folder / MANIFEST}: cannot be read: {error!r}") from error
    if fingerprint(files) != version:
        raise VersionError(f"{folder / MANIFEST}: the hashes do not match version {version}")
    current = hashes(folder)
    for name, expected in files.items():
        if name not in current:
            raise VersionError(f"{folder}: {name} is missing")
        if current[name] != expected:
            raise VersionError(f"{folder}: {name} has changed since publishing; publish it again")


def open_version(folder: Path, vectors: Path | str = ":memory:") -> ServedVersion:
    """Opens the version of a folder; the file `vectors` caches the vectors of new texts."""
    if not (folder / RANKER).is_dir():
        raise VersionError(f"{folder}: an older version of larr published this; publish it again")
    run = artifacts.read_json(folder / SERVING)
    config = Config.model_validate(run["config"]).model_copy(update={"output": folder})
    reader = Reader(config, artifacts.folder(config, "prepare"))
    embedders = {}
    models = {source: artifacts.folder(config, verb) for source, verb in MODELS.items()}
    models |= {path.parent.name: path for path in folder.glob(f"embed/*/{FITTED}")}
    for source, model in models.items():
        if model.is_dir():
            below = model.relative_to(folder).as_posix() + "/"
            files = {name: sha for name, sha in run["sources"].items() if name.startswith(below)}
            embedders[source] = Embedder(config, source, fingerprint(files), vectors)
    is_published = (folder / MANIFEST).is_file()
    version = artifacts.read_json(folder / MANIFEST)["version"] if is_published else "unpublished"
    return ServedVersion(ServedRanker(folder / RANKER, reader), version, embedders)


def open_checked(folder: Path, vectors: Path | str = ":memory:") -> ServedVersion:
    """Opens the version of a folder, checks its files and replays its golden requests.

    Raises VersionError if a probability differs from the expected one.
    """
    check(folder)
    opened = open_version(folder, vectors)
    for number, example in enumerate(read_golden(folder)):
        answer = opened.rank(msgspec.convert(example["request"], RankRequest))
        for item in answer.items:
            actual = list(item.probabilities.values())
            expected = example["probabilities"][item.poi_id]
            if not np.allclose(actual, expected, rtol=0, atol=TOLERANCE):
                raise VersionError(
                    f"version {opened.id} is not served: golden request {number} returns {actual} "
                    f"for {item.poi_id}, expected {expected}"
                )
    return opened


def read_golden(folder: Path) -> list[dict[str, Any]]:
    """Returns the golden requests of a version, each with its expected probabilities."""
    golden: list[dict[str, Any]] = artifacts.read_json(folder / GOLDEN)
    return golden


def hashes(folder: Path) -> dict[str, str]:
    """Returns the sha256 of each file below a folder, by its relative path."""
    return {
        path.relative_to(folder).as_posix(): artifacts.sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def fingerprint(files: dict[str, str]) -> str:
    """Returns the ID of a set of files, derived from their names and hashes."""
    lines = "\n".join(f"{name} {files[name]}" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()[:ID_DIGITS]


def sync(folder: Path) -> None:
    """Flushes the names and contents of a folder's files to disk."""
    for path in [*folder.rglob("*"), folder]:
        if path.name.startswith("."):
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
