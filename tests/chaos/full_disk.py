"""Commands that write onto a full or a read-only disk: refused in words, and done once they can write."""

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chaos.stage import Command, Stage, Tally, require, require_refusal, run, run_whole
from gtcrec.errors import GtcrecError


def can_mount() -> bool:
    """Return whether this process may mount file systems."""
    return hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mount") is not None and _try_mount()


def _try_mount() -> bool:
    with tempfile.TemporaryDirectory() as name:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", name], capture_output=True)
        if mounted.returncode == 0:
            subprocess.run(["umount", name], check=True)
        return mounted.returncode == 0


@contextmanager
def _mounted(stage: Stage, prefix: str, one: Command, tally: Tally) -> Iterator[Path]:
    """Yield a folder that is a file system of its own, of 64 MB; count what fails in it as the command's failure."""
    place = Path(tempfile.mkdtemp(dir=stage.folder, prefix=prefix))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], check=True)
    try:
        yield place
    except (GtcrecError, OSError) as error:
        tally.failures.append(f"{one.name}: {error}")
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _remount(place: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(place)], check=True)


def fill_disk(stage: Stage, one: Command, draw: random.Random, tally: Tally) -> None:
    """Leave a command so much room as it needs in part, then room enough."""
    with _mounted(stage, "disk-", one, tally) as place:
        one.prepare(place)
        status = os.statvfs(place)
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        _remount(place, f"size={used + 4096 * int(2 ** draw.uniform(0, 7))}")
        tally.tried += 1
        code, said = run(one.words(place))
        require_refusal(code, said)
        _remount(place, "size=64m")
        if code:
            run_whole(one.words(place))
        one.check(place, True)


def make_read_only(stage: Stage, one: Command, draw: random.Random, tally: Tally) -> None:
    """Let a command write into a folder of a file system that is read-only, then into the same one writable."""
    with _mounted(stage, "read-only-", one, tally) as place:
        one.prepare(place)
        _remount(place, "ro")
        tally.tried += 1
        code, said = run(one.words(place))
        require_refusal(code, said)
        require(code == 1, f"exit code {code} in a read-only folder")
        require("Read-only file system" in said, f"the error does not say why: {said[-300:]}")
        one.check(place, False)
        _remount(place, "rw")
        run_whole(one.words(place))
        one.check(place, True)
