"""Where the benchmarks read and write, and how one of their modules runs in a process of its own."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "benchmarks/configs"
LEDGER = ROOT / "benchmarks/ledger.csv"
TUNED = ROOT / "benchmarks/tuned"
RESULTS = ROOT / "benchmarks/results"
PAGES = ROOT / "docs/results"
RUNS = Path("runs/benchmarks")  # ignored by git; a run that was stopped goes on from here


def module_command(name: str, *words: object) -> list[str]:
    """Return the command that runs a module of this package."""
    return [sys.executable, "-m", name, *map(str, words)]


def module_environment(threads: int | None = None, **more: str) -> dict[str, str]:
    """Return the environment in which `module_command` works anywhere, with so many threads for each library."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**os.environ, "PYTHONPATH": path, **(dict.fromkeys(limits, str(threads)) if threads else {}), **more}
