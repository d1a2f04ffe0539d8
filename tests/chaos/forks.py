"""Commands in forked children that end, stand still or meet an error at the n-th thing they do to a file.

Needs Linux and a C compiler: `file_events.c` is built into a temporary folder.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

KILL_ALL, KILL_ONE, STOP = -1, -2, -3  # actions of file_events.c; others are errors of the system
COMPILER = shutil.which("cc") or shutil.which("gcc")


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, how many file events it had, the one that was met, and what it said."""

    code: int | None
    events: int
    what: str
    said: str


def can_fork() -> bool:
    """Return whether this system can attack file events."""
    return sys.platform == "linux" and COMPILER is not None


class Forks:
    """A server of forked commands; a context, at whose end it ends."""

    def __init__(self, threads: int = 1, hash_seed: int = 0) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="chaos-forks-"))
        library, source = self._folder / "file_events.so", Path(__file__).with_name("file_events.c")
        subprocess.run([str(COMPILER), "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        environment = {**os.environ, **single, "LD_PRELOAD": str(library), "PYTHONPATH": path}
        environment["PYTHONHASHSEED"] = str(hash_seed)
        line = [sys.executable, "-m", "chaos.fork_server"]
        self._server = subprocess.Popen(
            line, text=True, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=self._folder
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()
        shutil.rmtree(self._folder)

    def start(self, words: list[str], folder: Path, at: int = 0, action: int = KILL_ALL, shift: int = 0) -> int:
        """Start a command that meets `action` at its `at`-th event below `folder`; 0: at none. Returns its number.

        Its clock is `shift` seconds ahead.
        """
        plan = {"folder": f"{folder.resolve()}/", "at": at, "action": action, "shift": shift}
        return int(self._ask(do="start", words=words, **plan)["number"])

    def wait(self, number: int, stopped: bool = False, seconds: float = 0) -> Ended:
        """Wait until a command ends, or stands still at its event if `stopped` is set, or so many seconds if any.

        Its code is None when it has not ended.
        """
        return Ended(**self._ask(do="wait", number=number, stopped=stopped, seconds=seconds))

    def go_on(self, number: int) -> None:
        """Let a command go on that stands still."""
        self._ask(do="go_on", number=number)

    def run(self, words: list[str], folder: Path, at: int = 0, action: int = KILL_ALL, shift: int = 0) -> Ended:
        """Run a command to its end."""
        return self.wait(self.start(words, folder, at, action, shift))

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())  # type: ignore[no-any-return]
