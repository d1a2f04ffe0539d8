"""Durable files: written whole or not at all, and checked when read.

No common file format checks itself, so each folder that gtcrec writes carries `manifest.json` with the
sha256 sum of every file in it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gtcrec.errors import DataError, GtcrecError, RunError

__all__ = [
    "MANIFEST",
    "atomic_path",
    "check_manifest",
    "fsync_path",
    "is_empty",
    "link_or_copy",
    "new_folder",
    "require_empty",
    "sha256",
    "write_json",
    "write_manifest",
    "write_text",
]

MANIFEST = "manifest.json"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success make it durable and rename it to `path`.

    The old file stays intact until the new one is complete, whatever kills the process; an exception
    inside the block removes the temporary file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        fsync_path(temporary)
        temporary.replace(path)
        fsync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def is_empty(folder: Path) -> bool:
    """Return whether nothing stands at a path, or an empty folder."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def require_empty(folder: Path, error: type[GtcrecError] = RunError, hint: str = "") -> None:
    """Raise `error` unless `folder` is new or empty; `hint` ends the text."""
    if not is_empty(folder):
        raise error(f"{folder}: expected a new or empty folder, found one in use{hint}")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes `out` at the end; an exception removes it.

    Files must be durable when the block ends. Raises `DataError` for a folder in use.
    """
    require_empty(out, DataError)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.resolve().with_name(f".{out.resolve().name}.{os.getpid()}.writing")
    folder.mkdir()
    try:
        yield folder
        folder.replace(out.resolve())
        fsync_path(out.resolve().parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name where the disk allows it, else copy it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256(path: Path) -> str:
    """Return the hexadecimal sha256 sum of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(folder: Path, names: list[str], about: Mapping[str, Any] | None = None) -> None:
    """Write `manifest.json`: size and sha256 of each named file of `folder`, and `about` if given."""
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in sorted(names)}
    write_json(folder / MANIFEST, {**(about or {}), "files": files})


def check_manifest(folder: Path, names: Collection[str] | None = None) -> dict[str, Any]:
    """Verify every file that the folder's manifest names, or those of `names`, and return the manifest.

    Raises `DataError` naming the first file that is missing, differs, or is not in the manifest though in `names`.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        files = manifest["files"]
        entries = files.items() if names is None else [(name, files[name]) for name in names]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as a manifest: {error}") from error
    for name, entry in entries:
        file = folder / name
        if not file.is_file():
            raise DataError(f"{file}: missing, though {MANIFEST} names it")
        if sha256(file) != entry["sha256"]:
            raise DataError(f"{file}: damaged or edited: its sha256 sum differs from the one in {MANIFEST}")
    return manifest


def fsync_path(path: Path) -> None:
    """Wait until a file or a folder's names are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
