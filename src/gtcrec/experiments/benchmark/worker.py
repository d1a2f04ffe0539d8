"""One run of a benchmark in a process of its own: `python -m gtcrec.experiments.benchmark.worker RUN`.

The run comes as JSON in its one argument; progress goes out as a line of JSON an epoch. `costs.json` in the run folder
holds what the other files of a run do not: what setting up took, and the process's peak memory. A run of which the
benchmark keeps the results alone loses its other files when it has been tested.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gtcrec.errors import GtcrecError
from gtcrec.experiments.config import RunConfig
from gtcrec.experiments.planned_run import PlannedRun, is_finished, start_or_resume
from gtcrec.experiments.run import Run
from gtcrec.reporting.run_record import read
from gtcrec.runtime.files import MANIFEST, check_manifest, write_json, write_manifest

__all__ = ["COSTS", "RESULTS", "is_done", "is_tested", "keep_results", "main", "peak_bytes", "train_and_test"]

COSTS = "costs.json"
RESULTS = (
    *("config.yaml", "data.json", "environment.json", "history.jsonl", "timings.jsonl"),
    *("report.json", "per_user_test.parquet", COSTS),
)


def main() -> None:
    """Do the run that the argument names; an error becomes the last line and the exit code 1."""
    given = json.loads(sys.argv[1])
    config = RunConfig.model_validate(given["config"])
    try:
        wanted = PlannedRun(given["variant"], given["seed"], config, Path(given["folder"]))
        if given["keep"] == "all" or not is_tested(wanted.folder):
            train_and_test(wanted)
        if given["keep"] == "results":
            keep_results(wanted.folder)
    except GtcrecError as error:
        _tell({"error": str(error)})
        sys.exit(1)


def is_tested(folder: Path) -> bool:
    """Return whether a folder holds a run that has been trained to its end and measured on test."""
    return is_finished(folder) and "test" in json.loads((folder / "report.json").read_text(encoding="utf-8"))


def is_done(folder: Path, keep: str) -> bool:
    """Return whether a folder holds a tested run, and of its files no more than `keep` (of `BenchmarkConfig`) says."""
    return is_tested(folder) and (keep == "all" or not _spare(folder))


def train_and_test(wanted: PlannedRun) -> None:
    """Make the run or go on with it, to its one evaluation on test. The caller holds the run's lock."""
    _sweep(wanted.folder)
    bare, clock = peak_bytes(), (time.perf_counter(), time.process_time())
    run = start_or_resume(wanted)
    if not is_finished(wanted.folder):
        now = (time.perf_counter(), time.process_time())
        _train(run, {"setup_seconds": now[0] - clock[0], "setup_cpu_seconds": now[1] - clock[1], "bare_bytes": bare})
    if read(wanted.folder).result.test is None:
        run.evaluate()


def keep_results(folder: Path) -> None:
    """Remove the files of a tested run that no table needs: weights, checkpoint, page, values of validation.

    The manifest goes first, so that a kill leaves no file missing that it names.
    """
    check_manifest(folder)
    write_manifest(folder, list(RESULTS))
    for file in _spare(folder):
        file.unlink()


def _spare(folder: Path) -> list[Path]:
    """The files of a tested run that no table needs."""
    return [file for file in folder.iterdir() if file.name not in (*RESULTS, MANIFEST)]


def peak_bytes() -> int:
    """Return the most memory that this process has had at once; never less than at an earlier call.

    The kernel's own mark can sink by some pages: it counts them for each processor apart and adds them up now and then.
    """
    global _highest
    _highest = max(_highest, _mark())
    return _highest


def _mark() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count the memory of the process that started this one
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _train(run: Run, setup: Mapping[str, float]) -> None:
    """Train to the end; costs are on disk before the results, whose manifest seals them."""
    path = run.folder / COSTS
    past = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    costs = {**setup, **past}  # a run that was interrupted was set up when it was made
    config = run.config.train
    _tell({"epoch": run.epochs_done, "of": config.epochs})
    for epoch in run.epochs():
        peak = max(peak_bytes(), past.get("peak_bytes", 0))
        if peak > costs.get("peak_bytes", 0):
            costs["peak_bytes"] = peak
            write_json(path, costs)
        value = epoch.valid.get(config.valid_metric)
        _tell({"epoch": epoch.number, "of": config.epochs, "value": value, "best": epoch.best})
    if not path.exists():  # every epoch was done before this process began
        write_json(path, {**costs, "peak_bytes": peak_bytes()})


def _sweep(folder: Path) -> None:
    """Remove what a killed process left half written; nobody else writes here, because the caller holds the lock."""
    for left in [*folder.parent.glob(f".{folder.name}.*.tmp"), *folder.glob(".*.tmp")]:
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _tell(event: Mapping[str, Any]) -> None:
    with suppress(BrokenPipeError):  # whoever listened was killed; the run goes on
        os.write(1, (json.dumps(event) + "\n").encode())


_highest = 0  # of the readings so far

if __name__ == "__main__":
    main()
