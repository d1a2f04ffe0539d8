"""Durable files: written whole or not at all, and checked when read.

No common file format checks itself, so each folder that gtcrec writes carries `manifest.json` with the
sha256 sum of every file in it.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from gtcrec.errors import DataError, GtcrecError, RunError, WriteError

__all__ = [
    "MANIFEST",
    "OWN_SUM",
    "atomic_path",
    "check_manifest",
    "expect_files",
    "fsync_path",
    "has_manifest",
    "is_empty",
    "is_stale",
    "json_text",
    "link_or_copy",
    "make_folder",
    "make_matrix",
    "new_folder",
    "renew_manifest",
    "replace_files",
    "require_empty",
    "sha256",
    "sweep_stale",
    "temporary_path",
    "write_json",
    "write_manifest",
    "write_text",
    "writing",
]

MANIFEST = "manifest.json"
OWN_SUM = "manifest_sha256"  # of the rest of the manifest
_STALE = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.(?:tmp|writing)")
_NAMELESS = re.compile(r"\.tmp\w{6}")  # what safetensors writes first; it says neither of what nor by whom
_RETRY = 0.05  # seconds before a reader looks again at a folder that is being renewed


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into a `WriteError` that names `path`, which the user gave.

    A `WriteError` names `path` in place of a temporary one. An error over a file that lies elsewhere passes as it is.
    """
    try:
        yield
    except WriteError as error:
        raise WriteError(path, error.reason) from error
    except OSError as error:
        named = str(error.filename or "")
        parents = (path.parent, Path(os.path.realpath(path.parent)))
        own = tuple(str(parent / name) for parent in parents for name in (path.name, f".{path.name}"))
        if named and named not in map(str, parents) and not named.startswith(own):
            raise
        raise WriteError(path, error.strerror or str(error)) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success make it durable and rename it to `path`.

    The old file stays intact until the new one is complete, whatever kills the process; an exception
    inside the block removes the temporary file. Raises `WriteError` when the disk or a permission refuses.
    """
    temporary = temporary_path(path)
    try:
        with writing(path):
            yield temporary
            fsync_path(temporary)
            temporary.replace(path)
            fsync_path(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Return the hidden sibling `.NAME.PID.tmp` that this process writes before it becomes `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sweep_stale(folder: Path, name: str = "", alone: bool = False) -> None:
    """Remove the temporary files and folders in `folder` of processes that have ended; of `name` alone if given.

    With `alone` the caller holds the lock of what they belong to, so that none can be of a process that writes now.
    """
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        for left in list(folder.iterdir()):
            if is_stale(left.name, name, alone):
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)


def is_stale(file: str, name: str = "", alone: bool = False) -> bool:
    """Return whether a file's name is that of a temporary one, as `sweep_stale` removes them."""
    found = _STALE.fullmatch(file)
    if not found:
        return alone and not name and _NAMELESS.fullmatch(file) is not None
    return name in ("", found["name"]) and (alone or not _is_alive(int(found["pid"])))


def _is_alive(pid: int) -> bool:
    """Return whether a process of this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def make_matrix(path: Path, dtype: np.dtype[Any], shape: tuple[int, int]) -> np.memmap[Any, np.dtype[Any]]:
    """Write a `.npy` file of zeros and return it as an array that lies in the file.

    All of it is on disk before the first write to the array: in a sparse file a full disk would end the process.
    """
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    missing = int(np.prod(shape)) * dtype.itemsize
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        block = bytes(1 << 20)
        while missing > 0:
            missing -= stream.write(block[:missing])
        stream.flush()
        os.fsync(stream.fileno())  # some file systems find room only now
        start = stream.tell() - int(np.prod(shape)) * dtype.itemsize
    return np.memmap(path, dtype, "r+", start, shape)


def is_empty(folder: Path) -> bool:
    """Return whether nothing stands at a path, or an empty folder. Raises `WriteError` where it may not be read."""
    with writing(folder):
        return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def require_empty(folder: Path, error: type[GtcrecError] = RunError, hint: str = "") -> None:
    """Raise `error` unless `folder` is new or empty; `hint` ends the text."""
    if not is_empty(folder):
        raise error(f"{folder}: expected a new or empty folder, found one in use{hint}")


def make_folder(folder: Path) -> None:
    """Make a folder and those it lies in, unless it is there. Raises `WriteError` when the system refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(folder, f"the folder cannot be made: {error.strerror or error}") from error


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes `out` at the end; an exception removes it.

    Files must be durable when the block ends. Raises `DataError` for a folder in use, `WriteError` when the disk or a
    permission refuses.
    """
    require_empty(out, DataError)
    make_folder(out.parent)
    place = out.resolve()
    sweep_stale(place.parent, place.name)
    folder = place.with_name(f".{place.name}.{os.getpid()}.writing")
    try:
        with writing(out):
            folder.mkdir()
            yield folder
            folder.replace(place)
            fsync_path(place.parent)
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
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Return `value` as indented JSON; NaN and infinity are refused."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def sha256(path: Path) -> str:
    """Return the hexadecimal sha256 sum of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(folder: Path, names: Collection[str], about: Mapping[str, Any] | None = None) -> None:
    """Write `manifest.json`: size and sha256 of each named file of `folder`, and `about` if given."""
    _seal(folder, {name: _entry(folder / name) for name in sorted(names)}, about or {})


def replace_files(folder: Path, staged: Path, names: Sequence[str]) -> None:
    """Move the named files from the folder `staged` into `folder`, whose manifest seals them.

    A reader at any moment, and one after a kill, finds a folder that its manifest describes. The last of `names` is
    moved last. Raises `DataError` when one of the other files is damaged.
    """
    sealed = _read_manifest(folder)[1]["files"]
    check_manifest(folder, [name for name in sealed if name not in names])
    expect_files(folder, {name: staged / name for name in names}, add=True)
    with writing(folder):
        for name in names:
            fsync_path(staged / name)
            (staged / name).replace(folder / name)
        fsync_path(folder)
    renew_manifest(folder, names)


def expect_files(folder: Path, coming: Mapping[str, Path], add: bool = False) -> None:
    """Let the manifest accept the files `coming` beside those of the same names that they will replace.

    Of names that the manifest lacks nothing is noted, unless `add` is set.
    """
    _, manifest = _read_manifest(folder)
    files = manifest["files"]
    for name, file in coming.items():
        if name in files:
            now = sha256(folder / name) if (folder / name).is_file() else None
            known = (files[name]["sha256"], files[name].get("was"))
            files[name] = {**_entry(file), "was": now if now in known else known[0]}
        elif add:
            files[name] = {**_entry(file), "was": None}
    _seal(folder, files, manifest)


def renew_manifest(folder: Path, names: Iterable[str]) -> None:
    """Give the named files, which are in place, their entries in the manifest."""
    _, manifest = _read_manifest(folder)
    _seal(folder, {**manifest["files"], **{name: _entry(folder / name) for name in names}}, manifest)


def _entry(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def _seal(folder: Path, files: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    manifest = {**about, "files": dict(sorted(files.items()))}
    manifest.pop(OWN_SUM, None)
    write_json(folder / MANIFEST, {**manifest, OWN_SUM: _own_sum(manifest)})


def _own_sum(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != OWN_SUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def has_manifest(folder: Path) -> bool:
    """Return whether a folder has a manifest that gtcrec wrote, whole or damaged, not one of another program."""
    try:
        content = (folder / MANIFEST).read_bytes()
    except OSError:
        return (folder / MANIFEST).is_file()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return any(word in content for word in (b"gtcrec", b"sha256", b'"files"'))
    return isinstance(value, dict) and ("gtcrec" in value or OWN_SUM in value or b'"sha256"' in content)


def check_manifest(folder: Path, names: Collection[str] | None = None) -> dict[str, Any]:
    """Verify every file that the folder's manifest names, or those of `names` alone, and return the manifest.

    Raises `DataError` naming the first file that is missing or differs, or one of `names` that the manifest lacks.
    """
    while True:
        content, manifest = _read_manifest(folder)
        fault = _first_fault(folder, manifest["files"], names)
        if not fault:
            return manifest
        time.sleep(_RETRY)
        with suppress(OSError):
            if (folder / MANIFEST).read_bytes() != content:  # renewed meanwhile, with the files
                continue
        raise DataError(fault)


def _read_manifest(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Return a manifest's bytes and value. Raises `DataError` when it is missing, damaged or edited."""
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
        manifest = json.loads(content)
        for name, entry in manifest["files"].items():
            place = PurePosixPath(name)
            if place.is_absolute() or ".." in place.parts or not isinstance(entry["sha256"], str):
                raise ValueError(f"not an entry: {name!r}")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as a manifest: {error}") from error
    if manifest.get(OWN_SUM, _own_sum(manifest)) != _own_sum(manifest):
        raise DataError(f"{path}: damaged or edited: its content differs from its own sum, {OWN_SUM}")
    return content, manifest


def _first_fault(folder: Path, entries: Mapping[str, Any], names: Collection[str] | None) -> str:
    """Return what is wrong with the first file that is not as its entry says, or ""."""
    for name in entries if names is None else names:
        file, entry = folder / name, entries.get(name)
        if entry is None:
            return f"{file}: not named by {MANIFEST}, which names every file of this folder"
        allowed = {entry["sha256"], entry.get("was", "")}
        try:
            found = sha256(file)
        except FileNotFoundError:
            found = None
        except OSError as error:
            return f"{file}: cannot be read: {error.strerror or error}"
        if found is None and None not in allowed:
            return f"{file}: missing, though {MANIFEST} names it"
        if found not in allowed:
            return f"{file}: damaged or edited: its sha256 sum differs from the one in {MANIFEST}"
    return ""


def fsync_path(path: Path) -> None:
    """Wait until a file or a folder's names are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
