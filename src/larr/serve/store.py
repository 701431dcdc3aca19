"""Versions of what is served: immutable folders in a store; one is current, or two are compared.

STORE/versions/ID/    a ranker and the part of a run that serving reads; manifest.json has the
                      sha256 of each file, READY is written last and means "complete"
STORE/current.json    the version to be served, and those before it
STORE/places.jsonl    the places that were added since
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
"""A store's folder in the output of a run, unless another one is given."""
VERSIONS, CURRENT, VECTORS = "versions", "current.json", "vectors.sqlite"
LOCK = f".{CURRENT}.lock"
"""Held by a process that changes what is served, so that one comes after the other."""
MANIFEST, READY, SERVING, GOLDEN = "manifest.json", "READY", "serving.json", "golden.json"
RANKER = "ranker"
TOLERANCE = 1e-5
"""Between the probabilities of the served ranker and those of the trained one."""
ID_DIGITS = 12


class VersionError(InputError):
    """A version that is missing or incomplete, or gives other answers than it should."""


class _Pointer(msgspec.Struct):
    arms: list[Arm]
    before: list[list[Arm]] = []
    """What was served before that, the latest last."""


@dataclass(frozen=True)
class Store:
    """The versions of a folder."""

    folder: Path

    def published_from(self, run: dict[str, Any]) -> str | None:
        """Returns the version with this description of a run, if one is complete."""
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
        """Lets a version be served, once its files and its golden requests are checked; returns it.

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
                        f"{self.folder}: a test needs another version to be current than {version}"
                    )
                arms = [Arm("A", served.arms[0].version, 1 - share), Arm("B", version, share)]
            if arms != served.arms:
                before = [*served.before, served.arms] if served.arms else []
                self._point(_Pointer(arms, before))
        return opened

    def roll_back(self) -> list[Arm]:
        """Undoes the last change that is not undone; returns what is served now."""
        with FileLock(self.folder / LOCK):
            before = self._pointer().before
            if not before:
                raise VersionError(f"{self.folder}: nothing was served before this")
            for arm in before[-1]:
                self.load(arm.version)
            self._point(_Pointer(before[-1], before[:-1]))
        return before[-1]

    def load(self, version: str) -> ServedVersion:
        """Returns a version whose files were checked and whose golden requests were replayed."""
        folder = self.folder / VERSIONS / version
        if folder.parent != self.folder / VERSIONS or not folder.is_dir():
            known = ", ".join(file["version"] for file in self.versions()) or "none"
            raise VersionError(f"{self.folder} has no version {version}; there are: {known}")
        return open_checked(folder, self.folder / VECTORS)

    def _point(self, pointer: _Pointer) -> None:
        artifacts.write_json(self.folder / CURRENT, msgspec.to_builtins(pointer))

    def _pointer(self) -> _Pointer:
        try:
            return msgspec.json.decode((self.folder / CURRENT).read_bytes(), type=_Pointer)
        except FileNotFoundError as error:
            inside = self.folder / STORE
            hint = f"did you mean {inside}?" if inside.is_dir() else "is that the folder?"
            raise VersionError(
                f"{self.folder}: no version is current there; {hint} `larr publish CONFIG --store "
                f"{self.folder}` makes one"
            ) from error
        except msgspec.MsgspecError as error:
            raise VersionError(
                f"{self.folder / CURRENT} cannot be read: {error}; `larr activate` a version"
            ) from error


def check(folder: Path) -> None:
    """Raises VersionError for an incomplete or changed folder, with the file at fault."""
    if not (folder / READY).is_file():
        raise VersionError(f"{folder}: {READY} is missing, so it was not written to its end")
    try:
        manifest = artifacts.read_json(folder / MANIFEST)
        files: dict[str, str] = manifest["files"]
        version = manifest["version"]
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise VersionError(f"{folder / MANIFEST}: cannot be read: {error!r}") from error
    if identity(files) != version:
        raise VersionError(f"{folder / MANIFEST}: its files do not give the version {version}")
    current = hashes(folder)
    for name, expected in files.items():
        if name not in current:
            raise VersionError(f"{folder}: {name} is missing")
        if current[name] != expected:
            raise VersionError(f"{folder}: {name} is not what was published; publish it again")


def open_version(folder: Path, vectors: Path | str = ":memory:") -> ServedVersion:
    """Returns the version of a folder; the file `vectors` keeps those of new places' texts."""
    if not (folder / RANKER).is_dir():
        raise VersionError(f"{folder}: an older larr published this version; publish it again")
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
            embedders[source] = Embedder(config, source, identity(files), vectors)
    is_published = (folder / MANIFEST).is_file()
    version = artifacts.read_json(folder / MANIFEST)["version"] if is_published else "unpublished"
    return ServedVersion(ServedRanker(folder / RANKER, reader), version, embedders)


def open_checked(folder: Path, vectors: Path | str = ":memory:") -> ServedVersion:
    """Returns the version of a folder, checked and with its golden requests replayed.

    Raises VersionError if it gives other probabilities than expected.
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
                    f"version {opened.id}: golden request {number} gives {item.poi_id} {actual}, "
                    f"the evaluation gave {expected}; it is not served"
                )
    return opened


def read_golden(folder: Path) -> list[dict[str, Any]]:
    """Returns the golden requests of a version, each with its expected probabilities."""
    golden: list[dict[str, Any]] = artifacts.read_json(folder / GOLDEN)
    return golden


def hashes(folder: Path) -> dict[str, str]:
    """Returns the sha256 of each file below a folder, by its relative path."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[path.relative_to(folder).as_posix()] = digest
    return files


def identity(files: dict[str, str]) -> str:
    """Returns the ID of files, from their names and hashes."""
    lines = "\n".join(f"{name} {files[name]}" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()[:ID_DIGITS]


def sync(folder: Path) -> None:
    """Waits until the names and the contents of a folder's files are on the disk."""
    for path in [*folder.rglob("*"), folder]:
        if path.name.startswith("."):
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
