"""Locks between processes: who writes a folder or a file holds its lock, and a second process is refused in words.

The system frees a lock when its process ends, in whatever way. Readers need no lock.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from gtcrec.errors import InUseError, WriteError
from gtcrec.runtime.files import make_folder

__all__ = ["hold_lock", "is_locked"]


@contextmanager
def hold_lock(path: Path, wait: float = 0.5) -> Iterator[None]:
    """Hold the lock of a file or folder, `.NAME.lock` beside it; this thread may hold it already.

    Raises `InUseError` when another process still holds it after `wait` seconds.
    """
    make_folder(path.parent)
    lock = _lock(path)
    try:
        lock.acquire(timeout=wait, poll_interval=0.05)
    except Timeout:
        raise InUseError(f"{path}: in use by {_holder(lock)}; wait for it to end, or end it") from None
    except OSError as error:
        raise WriteError(path, f"its lock cannot be made: {error.strerror or error}") from error
    try:
        if lock.lock_counter == 1:
            with suppress(OSError):  # a full disk has room for locks, not for words
                Path(lock.lock_file).write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        if lock.lock_counter == 1:
            with suppress(OSError):  # who waits for this file notices that it has no name any more
                Path(lock.lock_file).unlink()
        lock.release()


def is_locked(path: Path) -> bool:
    """Return whether a process or another thread holds the lock of a file or folder now."""
    lock = _lock(path)
    if not Path(lock.lock_file).exists():
        return False
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def _lock(path: Path) -> FileLock:
    place = path.resolve()
    return FileLock(place.with_name(f".{place.name}.lock"), is_singleton=True)


def _holder(lock: FileLock) -> str:
    try:
        return Path(lock.lock_file).read_text(encoding="utf-8") or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"
