"""CPU and wall seconds between laps, and the memory that this process has held at most."""

import resource
import sys
import time
from collections.abc import Sequence
from statistics import median

Cost = dict[str, float]  # "cpu" and "wall" seconds


class Clock:
    """Seconds since the last lap, or since the clock was made."""

    def __init__(self) -> None:
        self.lap()

    def lap(self) -> Cost:
        before = getattr(self, "_now", (0.0, 0.0))
        self._now = time.process_time(), time.perf_counter()
        return {"cpu": self._now[0] - before[0], "wall": self._now[1] - before[1]}


def middle(costs: Sequence[Cost]) -> Cost:
    """The median of each kind of seconds."""
    return {kind: median(cost[kind] for cost in costs) for kind in ("cpu", "wall")}


def added(costs: Sequence[Cost]) -> Cost:
    """The sum of each kind of seconds."""
    return {kind: sum(cost[kind] for cost in costs) for kind in ("cpu", "wall")}


def scaled(cost: Cost, factor: float) -> Cost:
    return {kind: seconds * factor for kind, seconds in cost.items()}


def peak_bytes() -> int:
    """The largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
