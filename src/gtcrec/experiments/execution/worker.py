"""One run of a study, trained to its end and measured, in a process that holds the lock of its folder.

`costs.json` in the run folder holds what the other files of a run do not: what setting up took, and the process's
peak memory. A run of which only the results are kept loses its other files when it has been measured on test.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gtcrec.data.splits import require_test
from gtcrec.errors import InUseError
from gtcrec.experiments.planned_run import Part, PlannedRun, is_evaluated, is_finished, start_or_resume
from gtcrec.experiments.run import Run
from gtcrec.reporting.run_record import read_run_record
from gtcrec.runtime.files import MANIFEST, check_manifest, sweep_stale, write_json, write_manifest
from gtcrec.runtime.locks import hold_lock

__all__ = [
    "COSTS",
    "RESULTS",
    "Send",
    "is_done",
    "keep_results",
    "peak_bytes",
    "train_and_measure",
    "train_locked",
]

Send = Callable[[Mapping[str, Any]], None]
COSTS = "costs.json"
RESULTS = (
    *("config.yaml", "data.json", "environment.json", "history.jsonl", "timings.jsonl"),
    *("report.json", "per_user_test.parquet", COSTS),
)


def train_locked(send: Send, run: PlannedRun, on: Part, keep: str) -> None:
    """Do the run, or send {"busy": True} when another process does it; an event after each epoch."""
    try:
        with hold_lock(run.folder):
            if not is_evaluated(run.folder, on):
                train_and_measure(run, on, send)
            if keep == "results":
                keep_results(run.folder)
    except InUseError:
        send({"busy": True})


def is_done(folder: Path, on: Part, keep: str) -> bool:
    """Return whether a folder holds a run that was measured on `on`, and no more of its files than `keep` says."""
    return is_evaluated(folder, on) and (keep == "all" or not _removable_files(folder))


def train_and_measure(run: PlannedRun, on: Part = "test", send: Send = lambda event: None) -> None:
    """Make the run or go on with it, to its end, and on "test" to its one evaluation. The caller holds its lock."""
    sweep_stale(run.folder.parent, run.folder.name, alone=True)
    sweep_stale(run.folder, alone=True)
    bare, clock = peak_bytes(), (time.perf_counter(), time.process_time())
    opened = start_or_resume(run)
    if on == "test":
        require_test(opened.split)
    if not is_finished(run.folder):
        now = (time.perf_counter(), time.process_time())
        setup = {"setup_seconds": now[0] - clock[0], "setup_cpu_seconds": now[1] - clock[1], "bare_bytes": bare}
        _train(opened, setup, send)
    if on == "test" and read_run_record(run.folder).result.test is None:
        opened.evaluate()


def keep_results(folder: Path) -> None:
    """Remove the files of a tested run that no table needs: weights, checkpoint, page, values of validation.

    The manifest goes first, so that a kill leaves no file missing that it names.
    """
    check_manifest(folder)
    write_manifest(folder, list(RESULTS))
    for file in _removable_files(folder):
        file.unlink()


def _removable_files(folder: Path) -> list[Path]:
    """Return the files of a measured run that no table needs."""
    return [file for file in folder.iterdir() if file.name not in (*RESULTS, MANIFEST)]


def peak_bytes() -> int:
    """Return the most memory that this process has had at once; never less than at an earlier call.

    The kernel's own mark can sink by some pages: it counts them for each processor apart and adds them up now and then.
    """
    global _highest
    _highest = max(_highest, _peak_of_kernel())
    return _highest


def _peak_of_kernel() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count the memory of the process that started this one
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _train(run: Run, setup: Mapping[str, float], send: Send) -> None:
    """Train to the end; costs are on disk before the results, whose manifest seals them."""
    path = run.folder / COSTS
    past = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    costs = {**setup, **past}  # a run that was interrupted was set up when it was made
    config = run.config.train
    send({"epoch": run.epochs_done, "of": config.epochs})
    for epoch in run.epochs():
        peak = max(peak_bytes(), past.get("peak_bytes", 0))
        if peak > costs.get("peak_bytes", 0):
            costs["peak_bytes"] = peak
            write_json(path, costs)
        value = epoch.valid.get(config.valid_metric)
        send({"epoch": epoch.number, "of": config.epochs, "value": value, "best": epoch.best})
    if not path.exists():  # every epoch was done before this process began
        write_json(path, {**costs, "peak_bytes": peak_bytes()})


_highest = 0  # of the readings so far
