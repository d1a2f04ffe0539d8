"""Train GTC with its cheaper settings, and measure what they cost in accuracy."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.accuracy.running import quick_catalog, train_run
from benchmarks.blocks import Block
from gtcrec.evaluation.statistics import bootstrap_interval
from gtcrec.experiments.run import Run
from gtcrec.reporting.run_record import read_run_record

METRIC = "ndcg@20"
SETTINGS = {
    "tiktok": ["als_reg=0.05", "epochs=40", "valid_every=2", "patience=6"],
    "sports": ["als_reg=0.05", "learning_rate=0.003", "lr_decay=linear", "epochs=12", "valid_every=4"],
}
SEEDS = (0, 1, 2)
PRESETS = {  # the first is the whole that the other makes cheaper
    "embedding": "`embedding`: embeddings over the whole graph at every step",
    "sampled": "`sampled`: walks instead of the whole graph",
}


def measure(data: Path, names: Sequence[str], runs: Path) -> dict[str, Block]:
    """Train what is missing of each data set, evaluate each run on test once, and return the tables."""
    return {
        f"sampled-{name}": _measured(name, data / name, SETTINGS[name], SEEDS, runs / name)
        for name in names or SETTINGS
    }


def measure_quick(runs: Path) -> dict[str, Block]:
    """The same of a tiny catalog, with one epoch."""
    return {"sampled-quick": _measured("quick", quick_catalog(runs / "catalog"), ["epochs=1"], (0,), runs / "sampled")}


def _measured(name: str, data: Path, settings: Sequence[str], seeds: Sequence[int], runs: Path) -> Block:
    values: dict[str, NDArray[np.float64]] = {}
    rows = []
    for preset, shown in PRESETS.items():
        folders = [runs / f"{preset}-{seed}" for seed in seeds]
        for seed, folder in zip(seeds, folders, strict=True):
            train_run(data, folder, "gtc", [f"preset={preset}", *settings, f"seed={seed}"])
        values[preset] = np.mean([_per_user(folder) for folder in folders], axis=0)
        rows.append([shown, str(len(seeds)), *_cells(folders, values[preset], values["embedding"], preset)])
    headers = (name, "seeds", METRIC, "to the whole", "interval", "best epoch", "CPU-s an epoch")
    return Block([f"Settings of both: {', '.join(settings)}."], headers, rows)


def _cells(folders: Sequence[Path], values: NDArray[np.float64], whole: NDArray[np.float64], preset: str) -> list[str]:
    records = [read_run_record(folder) for folder in folders]
    epochs = ", ".join(str(record.result.best_epoch) for record in records)
    seconds = np.median([line.train_cpu_seconds for record in records for line in record.timings])
    share, interval = "–", "–"
    if preset != "embedding":
        low, high = bootstrap_interval(values - whole, np.random.default_rng(0))
        share = f"{(values.mean() / whole.mean() - 1) * 100:+.1f} %"
        interval = f"[{low / whole.mean() * 100:+.1f} %, {high / whole.mean() * 100:+.1f} %]"
    return [f"{values.mean():.4f}", share, interval, epochs, f"{seconds:.2f}"]


def _per_user(folder: Path) -> NDArray[np.float64]:
    """Each test user's metric; the run is evaluated on test if it has not been."""
    if read_run_record(folder).result.test is None:
        Run.load(folder).evaluate()
    return np.asarray(pq.read_table(folder / "per_user_test.parquet")[METRIC])
