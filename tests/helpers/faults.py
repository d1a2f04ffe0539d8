"""A process that dies, or a disk that fails, at the n-th file event: write, rename, link, sync, removal."""

import errno
import io
import os
import traceback
from collections.abc import Callable
from typing import Any

import pytest

EVENTS = ("replace", "rename", "unlink", "fsync", "mkdir", "rmdir", "link")


def count_events(monkeypatch: pytest.MonkeyPatch, at: Callable[[int, str], None]) -> list[str]:
    """Call `at(number, name)` before each file event from now on, counted from 1; return the list that they go to."""
    seen: list[str] = []

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def event(*arguments: Any, **options: Any) -> Any:
            if name != "open" or any(letter in str([*arguments[1:2], options.get("mode")]) for letter in "wax+"):
                seen.append(f"{name} {arguments[0]}")
                at(len(seen), name)
            return real(*arguments, **options)

        return event

    for name in EVENTS:
        monkeypatch.setattr(os, name, counted(name, getattr(os, name)))
    monkeypatch.setattr(io, "open", counted("open", io.open))
    return seen


def die_at(number: int, work: Callable[[], object]) -> int:
    """Do `work` in a process that dies before its file event of this number; return its exit code, 9 if it died."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        with pytest.MonkeyPatch.context() as patch:
            count_events(patch, lambda now, name: os._exit(9) if now == number else None)
            work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def fail_at(number: int) -> Callable[[int, str], None]:
    """Return what `count_events` calls for a disk that is full from the event of this number on; removing works."""

    def fail(now: int, name: str) -> None:
        if now >= number and name not in ("unlink", "rmdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return fail


def places(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers 1 to `count`, spread evenly, first and last included."""
    if count <= most:
        return list(range(1, count + 1))
    return sorted({1 + round(k * (count - 1) / (most - 1)) for k in range(most)})
