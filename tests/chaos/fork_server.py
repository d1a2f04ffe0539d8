"""A process that has imported gtcrec once and forks a child for each command, at a fraction of a start's cost.

It reads a line of JSON a request and answers each by one: `do` names the method of `Server`. `forks.py` speaks to it.
"""

import ctypes
import importlib
import json
import mmap
import multiprocessing
import os
import pkgutil
import signal
import struct
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gtcrec
from gtcrec.cli.main import execute
from gtcrec.reporting import figures

PLAN_BYTES = 4096  # of `struct plan` in file_events.c
HEAD = struct.Struct("llll512s512s")  # events, at, action, shift, what, folder
PATIENCE = 120.0  # seconds of a command until it counts as hanging
HEAVY = (
    *("torch", "pyarrow.parquet", "pyarrow.dataset", "pyarrow.csv", "pyarrow.json", "scipy.sparse.linalg", "optuna"),
    *("safetensors.torch", "PIL.Image", "matplotlib.figure", "matplotlib.backends.backend_svg", "torch._dynamo"),
    *("sklearn.metrics", "sklearn.feature_extraction.text", "sklearn.decomposition", "rich.traceback"),
)


@dataclass
class Child:
    """A command that runs: its process, the memory it shares with this one, and the file of what it says."""

    process: int
    memory: mmap.mmap
    said: Path
    code: int | None = None
    answer: dict[str, Any] | None = None  # once it has ended

    @property
    def head(self) -> tuple[int, int, int, int, bytes, bytes]:
        return HEAD.unpack(self.memory[: HEAD.size])  # type: ignore[return-value]


class Server:
    """The commands under way."""

    def __init__(self) -> None:
        self.shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self.children: list[Child] = []
        for name in (*HEAVY, *(one.name for one in pkgutil.walk_packages(gtcrec.__path__, "gtcrec."))):
            if name != "gtcrec.__main__":
                with suppress(ImportError):  # of an extra that is not installed
                    importlib.import_module(name)
        # Drawing takes most of the time of a short command; what is written, and when, stays as it is.
        figures._draw_panels = lambda names, *rest: "\n".join(names).encode()

    def start(self, words: list[str], folder: str = "", at: int = 0, action: int = 0, shift: int = 0) -> dict[str, Any]:
        memory = mmap.mmap(-1, PLAN_BYTES)
        memory[: HEAD.size] = HEAD.pack(0, at, action, shift, b"", folder.encode())
        descriptor, said = tempfile.mkstemp(prefix="chaos-said-")
        process = os.fork()
        if process == 0:
            self._be_command(words, memory, descriptor)
        os.close(descriptor)
        self.children.append(Child(process, memory, Path(said)))
        return {"number": len(self.children) - 1}

    def _be_command(self, words: list[str], memory: mmap.mmap, said: int) -> None:
        """Run the command as a process of its own would, and end."""
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for target, source in ((0, nothing), (1, nothing), (2, said)):
            os.dup2(source, target)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        fork = multiprocessing.get_context("fork")
        multiprocessing.get_context = lambda method=None: fork  # type: ignore[assignment,misc]
        self.shim.follow_plan(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory))))
        code = 70
        try:
            code = execute(words)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self, number: int, stopped: bool = False, seconds: float = 0) -> dict[str, Any]:
        """Wait until a command ends, or stands still at its event if `stopped` is set, or so many seconds if any."""
        child, end = self.children[number], time.monotonic() + (seconds or PATIENCE)
        if child.answer:
            return child.answer
        while child.code is None and time.monotonic() < end:
            found, status = os.waitpid(child.process, os.WNOHANG | os.WUNTRACED)
            if found and os.WIFSTOPPED(status):
                if stopped:
                    break
            elif found:
                child.code = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(0.002)
        hangs = child.code is None and not stopped and not seconds
        if hangs:
            os.killpg(child.process, signal.SIGKILL)
            os.waitpid(child.process, 0)
            child.code = -signal.SIGALRM
        events, _, _, _, what, _ = child.head
        said = child.said.read_text(encoding="utf-8", errors="replace")
        if child.code is not None:
            with suppress(ProcessLookupError, PermissionError):  # workers that a killed command leaves
                os.killpg(child.process, signal.SIGKILL)
            child.said.unlink(missing_ok=True)
        answer: dict[str, Any] = {
            "code": child.code,
            "events": events,
            "what": what.rstrip(b"\0").decode("utf-8", "replace"),
        }
        answer["said"] = said[-4000:]
        child.answer = answer if child.code is not None else None
        return answer

    def go_on(self, number: int) -> dict[str, Any]:
        os.killpg(self.children[number].process, signal.SIGCONT)
        return {}


def main() -> None:
    """Answer requests until there are no more."""
    server = Server()
    for line in sys.stdin:
        request = json.loads(line)
        sys.stdout.write(json.dumps(getattr(server, request.pop("do"))(**request)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
