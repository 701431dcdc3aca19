"""Versions of what is served: immutable folders in a store; one is current, or two are compared.

STORE/versions/ID/    the part of an output folder that serving reads; manifest.json says the
                      sha256 of each file, READY that the folder is whole
STORE/current.json    the version to be served, and the one before it
STORE/places.jsonl    the places that came since, and STORE/vectors.sqlite their texts' vectors
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from filelock import FileLock

from larr import artifacts, rankers
from larr.config import Config
from larr.data.features import read_features
from larr.data.featurise import Featuriser
from larr.data.prepare import REQUESTS
from larr.data.time_columns import TIME_COLUMNS, with_time_columns
from larr.errors import ConfigError, InputError
from larr.rankers.predict import load_ranker, probabilities, require_ranker, undo_sampling
from larr.serve.features import Reader
from larr.serve.ranking import Ranking, RankRequest
from larr.serve.scorer import Embed, Scorer
from larr.serve.vectors import KeptVectors

STORE = "store"
"""A store's folder in the output of a run, unless another one is given."""
VERSIONS, CURRENT, VECTORS = "versions", "current.json", "vectors.sqlite"
MANIFEST, READY, SERVING, GOLDEN = "manifest.json", "READY", "serving.json", "golden.json"
FOLDED = "folded"
DATA = ("features.json", "texts.parquet", "recent_texts.npy", "vocabularies", "known")
"""What serving reads of `prepare/`."""
TOLERANCE = 1e-5
"""Between probabilities of the folded ranker and those that `larr evaluate` gives."""
ID_DIGITS = 12


class VersionError(InputError):
    """A version that is not there, not whole, or gives other answers than it should."""


class Arm(msgspec.Struct, frozen=True):
    """A version, and the share of the users that it serves."""

    name: str
    version: str
    share: float


class _Pointer(msgspec.Struct):
    arms: list[Arm]
    previous: list[Arm] | None = None


@dataclass(frozen=True)
class Store:
    """The versions of a folder."""

    folder: Path

    def publish(self, config: Config, model: str) -> str:
        """Copies what serving needs of a run into a new version; returns its ID.

        The same run gives the same ID, and is not copied again.
        """
        require_ranker(config, model)
        versions = self.folder / VERSIONS
        versions.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=versions, prefix=".") as scratch:
            made = Path(scratch) / "version"
            _copy(config, model, made)
            files = {name: _sha256(made / name) for name in _files(made)}
            if (known := self._made_from(_sources(files))) is not None:
                return known
            version = _identity(files)
            told = {"version": version, "model": model, "files": files}
            told["made"] = datetime.now(UTC).isoformat(timespec="seconds")
            artifacts.write_json(made / MANIFEST, told)
            (made / READY).touch()
            _sync(made)
            check(made)
            replay(open_version(made), read_golden(made), version)
            shutil.rmtree(versions / version, ignore_errors=True)
            made.rename(versions / version)
            _sync(versions)
        return version

    def _made_from(self, sources: dict[str, str]) -> str | None:
        """The version that was made from these files, if there is one and it is whole."""
        for one in self.versions():
            if _sources(one["files"]) == sources:
                with suppress(VersionError):
                    check(self.folder / VERSIONS / one["version"])
                    return str(one["version"])
        return None

    def sent(self, version: str) -> tuple[list[str], list[str]]:
        """The columns that a client sends of the scene and of a candidate."""
        scene, candidate = open_version(self.folder / VERSIONS / version).accepted
        return [*scene], [*candidate]

    def versions(self) -> list[dict[str, Any]]:
        """The manifests of the whole versions, the latest first."""
        found = [
            artifacts.read_json(path.parent / MANIFEST)
            for path in (self.folder / VERSIONS).glob(f"*/{READY}")
        ]
        return sorted(found, key=lambda one: (one["made"], one["version"]), reverse=True)

    def arms(self) -> list[Arm]:
        """What is to be served."""
        return self._pointer().arms

    def activate(self, version: str, share: float = 1.0) -> None:
        """Makes a version current if its files are whole and its golden requests come out.

        With a share below 1 it becomes arm B of a test, beside the current one.
        """
        if not 0 < share <= 1:
            raise ConfigError(f"--share {share:g}: expected more than 0, and at most 1")
        self.load(version)
        with self._changing():
            before = self._pointer().arms if (self.folder / CURRENT).is_file() else None
            arms = [Arm("A", version, 1.0)]
            if share < 1:
                if before is None or before[0].version == version:
                    raise VersionError(
                        f"{self.folder}: a test needs another version to be current than {version}"
                    )
                arms = [Arm("A", before[0].version, 1 - share), Arm("B", version, share)]
            if arms != before:
                self._point(_Pointer(arms, before))

    def roll_back(self) -> list[Arm]:
        """Serves again what was served before the last change; returns it."""
        with self._changing():
            previous = self._pointer().previous
            if previous is None:
                raise VersionError(f"{self.folder}: nothing was served before this")
            for arm in previous:
                self.load(arm.version)
            self._point(_Pointer(previous, self.arms()))
        return previous

    def load(self, version: str) -> Ranking:
        """Opens a version, after its files were checked and its golden requests replayed."""
        folder = self.folder / VERSIONS / version
        if folder.parent != self.folder / VERSIONS or not folder.is_dir():
            known = ", ".join(one["version"] for one in self.versions()) or "none"
            raise VersionError(f"{self.folder} has no version {version}; there are: {known}")
        check(folder)
        ranking = open_version(folder, self.folder / VECTORS)
        replay(ranking, read_golden(folder), version)
        return ranking

    def _changing(self) -> FileLock:
        """What is served is changed by one process after the other."""
        return FileLock(self.folder / f".{CURRENT}.lock")

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
                f"{self.folder / CURRENT} cannot be read: {error}; `larr activate` a version anew"
            ) from error


def check(folder: Path) -> None:
    """Refuses a folder that is not whole, and names the file at fault."""
    if not (folder / READY).is_file():
        raise VersionError(f"{folder}: {READY} is missing, so it was not written to its end")
    try:
        told = artifacts.read_json(folder / MANIFEST)
        files: dict[str, str] = told["files"]
        version = told["version"]
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise VersionError(f"{folder / MANIFEST}: cannot be read: {error!r}") from error
    if _identity(files) != version:
        raise VersionError(f"{folder / MANIFEST}: its files do not give the version {version}")
    for name, expected in files.items():
        if not (folder / name).is_file():
            raise VersionError(f"{folder}: {name} is missing")
        if _sha256(folder / name) != expected:
            raise VersionError(f"{folder}: {name} is not what was published; publish it again")


def open_version(folder: Path, kept: Path | None = None) -> Ranking:
    """The ranking of a version's folder; vectors of new places' texts are kept in a file."""
    told = artifacts.read_json(folder / SERVING)
    config = Config.model_validate(told["config"]).model_copy(update={"output": folder})
    reader = Reader(config, artifacts.folder(config, "prepare"))
    encoder = artifacts.folder(config, "contrast")
    embed: Embed | None = None
    if encoder.is_dir():
        embed = _Embedder(config)
        embed = KeptVectors(kept, _digest(folder, encoder.name), embed) if kept else embed
    folded = folder / FOLDED
    scorer = Scorer.load(config, told["model"], reader, folded if folded.is_dir() else None)
    return Ranking(scorer, _version(folder), embed)


class _Embedder:
    """The text embedding model of a version, read when the first text comes."""

    def __init__(self, config: Config) -> None:
        self.config, self.encoder = config, None

    def __call__(self, texts: list[tuple[str, str]]) -> Any:
        from larr.text.encoder import load_encoder  # noqa: PLC0415 - most services need no transformers
        from larr.text.vectors import compute  # noqa: PLC0415

        if self.encoder is None:
            self.encoder = load_encoder(artifacts.folder(self.config, "contrast"))
        return compute(self.encoder, [[text] for text in texts], self.config.embed.batch_tokens)


def read_golden(folder: Path) -> list[dict[str, Any]]:
    """The golden requests of a version, each with the probabilities that are expected."""
    golden: list[dict[str, Any]] = artifacts.read_json(folder / GOLDEN)
    return golden


def replay(ranking: Ranking, golden: list[dict[str, Any]], version: str) -> None:
    """Ranks the golden requests, and refuses other probabilities than those of the evaluation."""
    for number, one in enumerate(golden):
        answer = ranking.rank(msgspec.convert(one["request"], RankRequest))
        for item in answer.items:
            told, expected = list(item.probabilities.values()), one["probabilities"][item.poi_id]
            if not np.allclose(told, expected, rtol=0, atol=TOLERANCE):
                raise VersionError(
                    f"version {version}: golden request {number} gives {item.poi_id} {told}, "
                    f"the evaluation gave {expected}; it is not served"
                )


def _copy(config: Config, model: str, target: Path) -> None:
    """Writes the files of a version but its manifest."""
    data = artifacts.folder(config, "prepare")
    wanted = [data / name for name in DATA]
    wanted.append(artifacts.folder(config, "align") / model)
    source = rankers.find(config, model).vectors
    if source:
        wanted.append(artifacts.folder(config, "embed") / source)
    if source == "encoder":
        wanted.append(artifacts.folder(config, "contrast"))
    for path in wanted:
        copied = target / path.relative_to(config.output)
        copied.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, copied)
        elif path.is_file():
            shutil.copy2(path, copied)
    told = {"model": model, "config": config.model_dump(mode="json") | {"output": "."}}
    told |= {"larr": metadata.version("larr")}
    artifacts.write_json(target / SERVING, told)
    ranking = open_version(target)
    ranking.scorer.save(target / FOLDED)
    golden = list(_golden(config, model, ranking))
    if not golden:
        raise VersionError(
            f"{data / REQUESTS}: in each of these requests of the log the scene's columns differ "
            "from row to row, so none can be asked again; give each row of a request the same scene"
        )
    artifacts.write_json(target / GOLDEN, golden)


def _golden(config: Config, model: str, ranking: Ranking) -> Iterator[dict[str, Any]]:
    """Requests of the log, with the probabilities of the ranker as it was trained.

    They are asked on the day after the training days, whatever their day in the log was.
    """
    data = artifacts.folder(config, "prepare")
    if not (data / REQUESTS).is_file():
        raise VersionError(
            f"{data / REQUESTS} is missing: an older larr made this folder; run `larr prepare "
            "--force` and `larr run` with the same configuration"
        )
    rows = pl.read_parquet(data / REQUESTS)
    batch = Featuriser.load(config, data).batch(rows)
    raw_NT = probabilities(load_ranker(config, model), batch)
    expected_NT = undo_sampling(raw_NT, read_features(data).sampling_rate)
    scene, candidate = ranking.accepted
    rows = with_time_columns(rows.with_row_index("number"))
    told = [name for name in (*scene, *TIME_COLUMNS) if name in rows.columns]
    for _, group in rows.group_by("request_id", maintain_order=True):
        of_one_scene = group.select(told).n_unique() == 1
        if group["poi_id"].is_duplicated().any() or not of_one_scene:
            continue
        first = group.row(0, named=True)
        yield {
            "request": {
                "user_id": first["user_id"],
                "time": first["time"].isoformat(),
                "scene": {name: first[name] for name in scene if name in first},
                "candidates": group.select(n for n in candidate if n in first).to_dicts(),
                "k": group.height,
            },
            "probabilities": dict(
                zip(group["poi_id"], expected_NT[group["number"]].tolist(), strict=True)
            ),
        }


def _version(folder: Path) -> str:
    try:
        return str(artifacts.read_json(folder / MANIFEST)["version"])
    except FileNotFoundError:  # it is being made
        return "unpublished"


def _digest(folder: Path, part: str) -> str:
    """What names a part of a version by its content."""
    files: dict[str, str] = artifacts.read_json(folder / MANIFEST)["files"]
    return _identity({name: of for name, of in files.items() if name.startswith(f"{part}/")})


def _files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def _sources(files: dict[str, str]) -> dict[str, str]:
    """The files that a run brings; what is computed of them can differ in the last digits."""
    return {
        name: digest
        for name, digest in files.items()
        if name != GOLDEN and not name.startswith(f"{FOLDED}/")
    }


def _identity(files: dict[str, str]) -> str:
    told = "\n".join(f"{name} {files[name]}" for name in sorted(files))
    return hashlib.sha256(told.encode()).hexdigest()[:ID_DIGITS]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Waits until the names and the contents of a folder's files are on the disk."""
    for path in [*folder.rglob("*"), folder]:
        if path.name.startswith("."):
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
