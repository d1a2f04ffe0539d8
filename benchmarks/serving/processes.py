"""Memory and time of a server's processes, read from /proc."""

import os
import signal
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def descendants(pid: int, word: str = "") -> list[int]:
    """Return a process's children and theirs whose command has the word."""
    found = []
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    for child in map(int, children):
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        found += [child] * (word in command) + descendants(child, word)
    return found


class Watch:
    """What a server costs from now on."""

    def __init__(self, pid: int) -> None:
        self._pid, self._killed = pid, 0.0
        self._ours = {one: _seconds(one) for one in [pid, *descendants(pid)]}
        self._busy, self._start = _busy(), time.monotonic()

    def memory(self) -> float:
        """Return the memory of all its processes in MB; what they share counts once."""
        return sum(_memory(one) for one in [self._pid, *descendants(self._pid)])

    def kill(self, pid: int) -> None:
        """Kill one of its processes, whose time still counts."""
        self._killed += _seconds(pid) - self._ours.get(pid, 0.0)
        os.kill(pid, signal.SIGKILL)

    def end(self, client_seconds: float) -> dict[str, float]:
        """Return the CPU seconds of its processes, of the clients, and the share of the machine that others had."""
        alive = [self._pid, *descendants(self._pid)]
        seconds = self._killed + sum(_seconds(one) - self._ours.get(one, 0.0) for one in alive)
        wall = (time.monotonic() - self._start) * (os.cpu_count() or 1)
        others = max(0.0, _busy() - self._busy - seconds - client_seconds) / wall
        return {"server_cpu": seconds, "client_cpu": client_seconds, "others": others}


def _seconds(pid: int) -> float:
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / _TICKS


def _busy() -> float:
    """CPU seconds of all processes since the machine started."""
    user, nice, system, *_ = (int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system) / _TICKS


def _memory(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
