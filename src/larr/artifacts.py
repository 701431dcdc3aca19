"""Stage folders: what a stage was made from, whether it is whole, and whether it is up to date.

A stage writes its files into its own folder under `output` and its manifest last, so a manifest
means "complete". The manifest holds the settings and the identities of the inputs that the files
were made from; a stage whose input is missing or stale is refused with the verb that renews it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from polars.exceptions import ComputeError
from safetensors import SafetensorError

from larr import memory
from larr.config import Config
from larr.errors import LarrError, StaleError

MANIFEST = "manifest.json"
BEGUN = "begun.json"
ORIGIN = "origin.json"


@dataclass(frozen=True)
class Stage:
    """A verb of the command line: its folder, the verbs it reads from, its part of the settings."""

    folder: str
    inputs: tuple[str, ...]
    settings: tuple[str, ...]
    files: tuple[str, ...] = ()
    """Settings that name files from elsewhere, or folders of them."""
    in_parts: bool = False
    """Made of parts that stay when the stage is made again and nothing changed for them."""


STAGES = {
    "prepare": Stage(
        "data",
        (),
        ("seed", "dataset", "keywords", "buckets", "profiles", "features"),
        files=(
            *(f"dataset.tables.{name}" for name in ("places", "users", "impressions", "orders")),
            "dataset.coupon.path",
        ),
    ),
    "pretrain": Stage(
        "lm",
        ("prepare",),
        ("seed", "backbone", "pretrain"),
        files=("backbone.model", "pretrain.general_text"),
    ),
    "contrast": Stage(
        "encoder", ("prepare", "pretrain"), ("seed", "backbone", "contrast", "embed")
    ),
    "embed": Stage(
        "vectors",
        ("prepare", "contrast"),
        (
            *("seed", "backbone", "embed", "encoders", "sentence_encoder"),
            *("align.models", "align.variants"),
        ),
        files=("sentence_encoder",),
        in_parts=True,
    ),
    "tune": Stage("tuning", ("prepare", "embed"), ("seed", "align", "tune"), in_parts=True),
    "align": Stage("ranker", ("prepare", "embed"), ("seed", "align"), in_parts=True),
    "evaluate": Stage("report", ("prepare", "embed", "align"), ("seed", "evaluate")),
}
AS_FAST = {"dataset": ("chunk_rows",), "embed": ("batch_tokens",)}
"""Settings that change how long a stage takes and how much memory, and not what it makes."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
RUN = tuple(verb for verb in STAGES if verb != "tune")
"""The verbs of `larr run`, in order; what `tune` finds is put into the configuration."""


@dataclass
class Work:
    """A stage at work: where it writes, and what it reports of itself."""

    folder: Path
    unit: str = "rows"
    count: int = 0
    figures: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    peak_bytes: list[int] = field(default_factory=lambda: [0])

    def measured(self, count: int, unit: str) -> None:
        """Says how much was done, for the rate in the manifest and in the report."""
        self.count, self.unit = self.count + count, unit

    def cost(self) -> dict[str, Any]:
        """Seconds, rate and memory so far."""
        seconds = time.perf_counter() - self.started
        return {
            "seconds": round(seconds, 3),
            "count": self.count,
            "unit": f"{self.unit}/s",
            "rate": round(self.count / seconds, 3),
            "peak_memory_mb": round(self.peak_bytes[0] / 2**20, 1),
        }


def folder(config: Config, verb: str) -> Path:
    """The folder that a verb writes."""
    return config.output / STAGES[verb].folder


def manifest(config: Config, verb: str) -> dict[str, Any] | None:
    """The manifest of a complete stage, or None."""
    path = folder(config, verb) / MANIFEST
    if not path.is_file():
        return None
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    is_whole = isinstance(parsed, dict) and {"stage", "settings", "inputs", "files"} <= set(parsed)
    return parsed if is_whole else None


def is_current(config: Config, verb: str) -> bool:
    """Whether the stage is whole and was made from these settings and from current inputs."""
    return why_stale(config, verb) is None


def why_stale(config: Config, verb: str) -> str | None:
    """Why a stage has to be made (again), in words, or None if it is up to date."""
    made = manifest(config, verb)
    if made is None:
        return "it is missing or unfinished"
    told = _deciding(made["settings"])
    changed = _changed(told, _settings(config, verb), _settings(Config(), verb))
    if changed:
        return f"it was made with other settings ({', '.join(changed)})"
    changed = _changed(made.get("from_elsewhere", {}), _from_elsewhere(config, verb))
    if changed:
        return f"files that it was made from have changed ({', '.join(changed)})"
    for source in STAGES[verb].inputs:
        if why_stale(config, source) is not None:
            return f"its input {STAGES[source].folder}/ is out of date"
        if made["inputs"][source] != identity(config, source):
            return f"it was made from another {STAGES[source].folder}/"
    broken = _broken(folder(config, verb), made["files"])
    return f"its file {broken} is missing or has another size" if broken else None


def require(config: Config, *verbs: str) -> None:
    """Refuses to go on from a missing or stale stage."""
    for verb in verbs:
        reason = why_stale(config, verb)
        if reason is not None:
            raise StaleError(
                f"{folder(config, verb)}: {reason}; run `larr {verb}` with the same configuration "
                "(or `larr run`, which renews whatever is out of date)"
            )


@contextmanager
def making(config: Config, verb: str, *, resume: bool = True) -> Iterator[Work]:
    """Runs a stage: checks its inputs, writes the manifest last.

    With `resume`, what an interrupted run left in the folder is kept if that run was begun with
    the same settings and inputs; the stage then skips the pieces that are whole. Without it the
    folder stays as it was until the new one, beside it, is whole. A stage in parts looks after each
    of them by itself (`begin_part`).
    """
    require(config, *STAGES[verb].inputs)
    origin = _origin(config, verb)
    target = folder(config, verb)
    if target.is_symlink():
        raise LarrError(
            f"{target} is a link; larr empties this folder before it is made again. Remove the "
            "link, or set `output` to the other disk"
        )
    place = target if resume else target.with_name(f"{target.name}.partial")
    memory.release()
    memory.keep_freed()
    try:
        with _alone(target):
            if STAGES[verb].in_parts:
                target.mkdir(parents=True, exist_ok=True)
                (target / MANIFEST).unlink(missing_ok=True)
            else:
                _begin(place, origin, resume)
            with memory.peak() as peak_bytes:
                work = Work(place, peak_bytes=peak_bytes)
                yield work
                cost = work.cost()
            made = origin | {
                "files": _hashes(place),
                "figures": work.figures,
                "measured": cost,
            }
            write_json(place / MANIFEST, made)
            (place / BEGUN).unlink(missing_ok=True)
            if place != target:
                shutil.rmtree(target, ignore_errors=True)
                place.rename(target)
    except (OSError, ComputeError, SafetensorError) as error:
        if not any(os.strerror(code) in str(error) for code in NO_ROOM):
            raise
        raise LarrError(
            f"{target}: could not be written: {error}; make room or set another `output`, "
            "then run the same command again"
        ) from error


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Refuses to make a stage that another process is making."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(target.with_name(f".{target.name}.lock"), timeout=0):
            yield
    except Timeout:
        raise LarrError(
            f"{target}: another larr is making it; wait for it, or set another `output`"
        ) from None


def has_part(folder: Path, origin: dict[str, Any]) -> bool:
    """Whether a part of a stage is whole and was made from this."""
    try:
        made = read_json(folder / ORIGIN)
        return bool(made["made_from"] == origin) and _broken(folder, made["files"]) is None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def begin_part(folder: Path, origin: dict[str, Any], *, resume: bool) -> None:
    """Empties a part's folder; with `resume` not if it was begun from the same and not ended."""
    if resume and _same(folder / BEGUN, origin):
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(folder / BEGUN, origin)


def end_part(folder: Path) -> None:
    """Says that a part is whole."""
    made = {"made_from": read_json(folder / BEGUN), "files": _hashes(folder)}
    write_json(folder / ORIGIN, made)
    (folder / BEGUN).unlink()


def share(config: Config, other: Config, verb: str) -> bool:
    """Lets another output read a stage of this one, if it would make the very same."""
    source, link = folder(config, verb), folder(other, verb)
    shared = all(folder(other, name).is_symlink() for name in STAGES[verb].inputs)
    if not shared or _settings(config, verb) != _settings(other, verb):
        if link.is_symlink():
            link.unlink()
        return False
    if not link.is_symlink():
        shutil.rmtree(link, ignore_errors=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(source, link.parent), target_is_directory=True)
    return True


def new_array(path: Path, dtype: np.dtype[Any] | type, shape: tuple[int, ...]) -> np.memmap:
    """A memory-mapped .npy file of zeros whose room on the disk is taken at once.

    Without that, a disk that fills up later ends the process with a signal instead of an error.
    """
    array: np.memmap = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def write_json(path: Path, content: Any) -> None:
    """Writes JSON whole or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields where to write a file, which comes to its place when all went well."""
    partial = path.with_name(f"{path.name}.partial")
    yield partial
    partial.replace(path)


def read_json(path: Path) -> Any:
    """Reads JSON that a stage wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def _begin(target: Path, origin: dict[str, Any], resume: bool) -> None:
    begun = target / BEGUN
    if not (resume and _same(begun, origin)):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        write_json(begun, origin)
    (target / MANIFEST).unlink(missing_ok=True)


def _same(path: Path, origin: dict[str, Any]) -> bool:
    try:
        return bool(read_json(path) == origin)
    except (FileNotFoundError, ValueError):
        return False


def _origin(config: Config, verb: str) -> dict[str, Any]:
    inputs = {source: identity(config, source) for source in STAGES[verb].inputs}
    return {
        "stage": verb,
        "settings": _settings(config, verb),
        "from_elsewhere": _from_elsewhere(config, verb),
        "inputs": inputs,
    }


def _settings(config: Config, verb: str) -> dict[str, Any]:
    return _deciding(_chosen(config, STAGES[verb].settings))


def _deciding(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without those of `AS_FAST`."""
    return {
        name: {key: one for key, one in value.items() if key not in AS_FAST[name]}
        if name in AS_FAST
        else value
        for name, value in settings.items()
    }


def _chosen(config: Config, names: tuple[str, ...]) -> dict[str, Any]:
    tree = config.model_dump(mode="json")
    chosen = {}
    for dotted in names:
        value: Any = tree
        for part in dotted.split("."):
            value = value[part]
        chosen[dotted] = value
    return chosen


def _from_elsewhere(config: Config, verb: str) -> dict[str, Any]:
    return files_from_elsewhere(config, STAGES[verb].files)


def files_from_elsewhere(config: Config, settings: tuple[str, ...]) -> dict[str, Any]:
    """Size and time of change of each file that settings name, as far as they are there."""
    found = {}
    for named in _chosen(config, settings).values():
        path = Path(named or "")
        files = [path] if path.is_file() else sorted(path.rglob("*")) if named else []
        for file in files:
            if file.is_file():
                told = file.stat()
                found[str(file)] = [told.st_size, told.st_mtime_ns]
    return found


def forget(config: Config, verb: str) -> None:
    """Lets a stage be made anew as a whole, whatever of it is finished or begun."""
    target = folder(config, verb)
    with _alone(target):
        for name in (MANIFEST, BEGUN, ORIGIN):
            for path in (target / name, *target.glob(f"*/{name}")):
                path.unlink(missing_ok=True)


def _changed(
    old: dict[str, Any], new: dict[str, Any], default: dict[str, Any] | None = None
) -> list[str]:
    """What differs; a setting that an older larr did not have was as it is by default."""
    names, default = [], default or {}
    for name in sorted(set(old) | set(new)):
        before, after = old.get(name, default.get(name)), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            inside = default.get(name)
            below = _changed(before, after, inside if isinstance(inside, dict) else None)
            names += [f"{name}.{inner}" for inner in below]
        elif before != after:
            names.append(name)
    return names


def identity(config: Config, verb: str, file: str | None = None) -> str:
    """What tells one making of a stage from another: a hash of it, or of one of its files."""
    made = manifest(config, verb)
    if made and file:
        if file not in made["files"]:
            raise StaleError(
                f"{folder(config, verb)} has no {file}; put a ranker that reads it into "
                "align.models and run `larr run` with the same configuration"
            )
        return str(made["files"][file]["sha256"])
    if made is None:
        raise StaleError(
            f"{folder(config, verb)}: it is missing or unfinished; run `larr run` with the same "
            "configuration"
        )
    content = {key: made[key] for key in ("stage", "settings", "inputs", "files")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hashes(target: Path) -> dict[str, dict[str, Any]]:
    files = {}
    for path in sorted(target.rglob("*")):
        if path.is_file() and path.name not in (MANIFEST, BEGUN):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            name = path.relative_to(target).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": digest}
    return files


def _broken(target: Path, files: dict[str, dict[str, Any]]) -> str | None:
    for name, expected in files.items():
        path = target / name
        if not path.is_file() or path.stat().st_size != expected["bytes"]:
            return name
    return None
