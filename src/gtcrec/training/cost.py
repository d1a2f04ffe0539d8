"""What an epoch costs: wall and CPU seconds."""

import time

from gtcrec.runtime.process_group import ProcessGroup, all_gather_object

__all__ = ["Clock", "total_cost"]


def total_cost(spent: dict[str, float], workers: ProcessGroup) -> dict[str, float]:
    """What all workers spent: the CPU seconds of all, the longest wall time."""
    if workers.size == 1:
        return spent
    parts = all_gather_object(spent, workers)
    return {name: (sum if "cpu" in name else max)(part[name] for part in parts) for name in spent}


class Clock:
    """Wall and CPU seconds between laps."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> dict[str, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        spent = {f"{name}_seconds": wall - self._wall, f"{name}_cpu_seconds": cpu - self._cpu}
        self._wall, self._cpu = wall, cpu
        return spent
