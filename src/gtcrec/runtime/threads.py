"""How many processors there are for this process, how many of them are free, and how its threads wait."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CpuTimes", "available_cores", "free_cores", "read_cpu_times", "wait_passively"]

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@dataclass(frozen=True)
class CpuTimes:
    """Readings of one moment: the machine's busy and whole processor time, in the kernel's unit, and our seconds."""

    busy: int
    whole: int
    own: float
    clock: float


def wait_passively() -> None:
    """Let threads sleep while they wait for one another; torch's OpenMP reads this from the environment as it loads.

    By default they spin: with other work on the machine they take the processor from the thread that they wait for. Who
    sets one of the variables is obeyed.
    """
    if not any(name in os.environ for name in _WAITING):
        os.environ.update({"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"})


def available_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many processors this process may use: those of its affinity, within the limit of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = _limit(cgroup)
    return max(1, min(cores, round(quota / period))) if quota > 0 else cores


def read_cpu_times(stat: Path = Path("/proc/stat")) -> CpuTimes | None:
    """Return the processor times of now; None where the system does not tell them."""
    try:
        name, *fields = stat.read_text(encoding="utf-8").splitlines()[0].split()
        ticks = [int(field) for field in fields[:8]]  # user, nice, system, idle, iowait, irq, softirq, steal
    except (OSError, ValueError, IndexError):
        return None
    if name != "cpu" or len(ticks) < 5:
        return None
    return CpuTimes(sum(ticks) - ticks[3] - ticks[4], sum(ticks), time.process_time(), time.monotonic())


def free_cores(since: CpuTimes | None, now: CpuTimes | None = None) -> int:
    """Return how many of the available cores no other process has used since a reading, at least 1.

    Without two readings 0.2 seconds apart the load average says it, which takes a minute to follow. Load of the whole
    machine is taken to be spread evenly over its processors.
    """
    cores, machine = available_cores(), os.cpu_count() or 1
    now = now or read_cpu_times()
    if since and now and now.clock - since.clock >= _SHORTEST and now.whole > since.whole:
        busy = machine * (now.busy - since.busy) / (now.whole - since.whole)
        others = busy - (now.own - since.own) / (now.clock - since.clock)
    else:
        others = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, cores - round(max(0.0, others) * cores / machine))


_SHORTEST = 0.2  # seconds; the kernel counts in hundredths


def _limit(cgroup: Path) -> tuple[float, float]:
    """Return the processor time that a container has in each period; 0 for no limit."""
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text(encoding="utf-8").split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((cgroup / "cpu" / name).read_text(encoding="utf-8") for name in names)
        return (0.0, 1.0) if quota == "max" else (float(quota), max(float(period), 1.0))
    except (OSError, ValueError):
        return 0.0, 1.0
