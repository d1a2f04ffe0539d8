"""A folder in the place of another: who looks finds the former or the new one, never a mixture of both.

Linux exchanges two folders in one step (`renameat2`, Linux 3.15). Where the system or the file system lacks that, two
renames take its place: for a moment nothing stands at the path, and after a kill in it the next writer puts the former
folder back.
"""

import ctypes
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from gtcrec.errors import InUseError
from gtcrec.runtime.files import MANIFEST, fsync_path, link_or_copy, sweep_stale, writing
from gtcrec.runtime.locks import hold_lock

__all__ = ["exchange_folders", "read_unchanged", "renewed_folder", "restore_folder", "sweep_copies"]

Found = TypeVar("Found")

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
_LACKING = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)


def exchange_folders(new: Path, place: Path) -> None:
    """Put the folder `new` in the place of the folder `place`, and remove the former.

    Both lie in one folder, and the caller holds the lock of `place`. Files must be durable. Raises `WriteError` when a
    permission or the disk refuses.
    """
    former = _former(place)
    with writing(place):
        if _exchange(new, place):
            fsync_path(place.parent)
            shutil.rmtree(new, ignore_errors=True)
            return
        place.replace(former)
        new.replace(place)
        fsync_path(place.parent)
    shutil.rmtree(former, ignore_errors=True)


def restore_folder(place: Path) -> None:
    """Make up for a kill between two renames: put the former folder back if nothing stands at its place."""
    former = _former(place)
    if place.exists():
        shutil.rmtree(former, ignore_errors=True)
    elif former.exists():
        with writing(place):
            former.replace(place)
            fsync_path(place.parent)


@contextmanager
def renewed_folder(place: Path) -> Iterator[Path]:
    """Yield a copy of a folder that takes its place at the end; an exception removes the copy.

    The copy's files are second names of the former's: they may be replaced, never written into. Hidden files stay
    behind. The caller holds the lock of `place`, whose links are followed already.
    """
    sweep_stale(place.parent, place.name, alone=True)
    fresh = place.with_name(f".{place.name}.{os.getpid()}.writing")
    try:
        with writing(place):
            for file in sorted(place.rglob("*")):
                inside = file.relative_to(place)
                if file.is_file() and not any(part.startswith(".") for part in inside.parts):
                    link_or_copy(file, fresh / inside)
            yield fresh
            os.sync()  # files are copied without a sync each where the disk has no second names
        exchange_folders(fresh, place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def sweep_copies(place: Path) -> None:
    """Remove what a process that was killed while it renewed a folder left beside it, unless one renews it now."""
    place = place.resolve()
    with suppress(InUseError), hold_lock(place):
        sweep_stale(place.parent, place.name, alone=True)


def read_unchanged(folder: Path, read: Callable[[], Found]) -> Found:
    """Return what `read` makes of the files of a folder; it is called again where these were replaced meanwhile.

    The folder's manifest tells. Raises what `read` raises of a folder that stays.
    """
    while True:
        before = _manifest_bytes(folder)
        try:
            found = read()
        except Exception:  # files of two folders may fail in any way
            if _manifest_bytes(folder) == before:
                raise
            continue
        if _manifest_bytes(folder) == before:
            return found


def _manifest_bytes(folder: Path) -> bytes | None:
    try:
        return (folder / MANIFEST).read_bytes()
    except (OSError, ValueError):  # no such path, or one that the system does not take
        return None


def _former(place: Path) -> Path:
    return place.with_name(f".{place.name}.former")


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; return False where that is not to be had."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # another system, or a C library from before 2018
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _LACKING:
        return False
    raise OSError(number, os.strerror(number), str(other))
