"""Commands that write onto a full or a read-only disk: refused in words, and done once they can write."""

import os
import random
import shutil
import subprocess
import tempfile
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


def fill_disk(stage: Stage, one: Command, draw: random.Random, tally: Tally) -> None:
    """Leave a command so much room as it needs in part, then room enough."""
    place = Path(tempfile.mkdtemp(dir=stage.folder, prefix="disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], check=True)
    try:
        one.prepare(place)
        status = os.statvfs(place)
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        room = used + 4096 * int(2 ** draw.uniform(0, 7))
        subprocess.run(["mount", "-o", f"remount,size={room}", str(place)], check=True)
        tally.tried += 1
        code, said = run(one.words(place))
        require_refusal(code, said)
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        if code:
            run_whole(one.words(place))
        one.check(place, True)
    except (GtcrecError, OSError) as error:
        tally.failures.append(f"{one.name}: {error}")
    finally:
        subprocess.run(["umount", str(place)], check=True)


def make_read_only(stage: Stage, one: Command, draw: random.Random, tally: Tally) -> None:
    """Let a command write into a folder of a file system that is read-only, then into the same one writable."""
    place = Path(tempfile.mkdtemp(dir=stage.folder, prefix="read-only-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], check=True)
    try:
        one.prepare(place)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        tally.tried += 1
        code, said = run(one.words(place))
        require_refusal(code, said)
        require(code == 1, f"exit code {code} in a read-only folder")
        require("Read-only file system" in said, f"the error does not say why: {said[-300:]}")
        one.check(place, False)
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
        run_whole(one.words(place))
        one.check(place, True)
    except (GtcrecError, OSError) as error:
        tally.failures.append(f"{one.name}: {error}")
    finally:
        subprocess.run(["umount", str(place)], check=True)
