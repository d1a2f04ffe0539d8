"""The addresses, in the kernel's hexadecimal words, on which a Ray that is started here listens, as a JSON list."""

import json
import os
import sys
from pathlib import Path

from gtcrec.runtime.ray_session import ray_session


def descendants() -> set[int]:
    """Return this process and those that descend from it."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue

    def is_own(pid: int) -> bool:
        return pid == os.getpid() or (pid > 1 and is_own(parents.get(pid, 0)))

    return {pid for pid in parents if is_own(pid)}


def listening(pids: set[int]) -> list[str]:
    """Return the local addresses of the listening TCP sockets of these processes."""
    sockets = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(os.readlink(file))
            except OSError:
                continue
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return [line[1].partition(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets]


if __name__ == "__main__":
    with ray_session(None, 1):
        import ray

        assert ray.get(ray.remote(lambda: 7).remote()) == 7
        sys.stdout.write(json.dumps(listening(descendants())) + "\n")
