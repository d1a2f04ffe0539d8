"""A small benchmark's file and its runs, and measured runs of made-up values."""

from pathlib import Path

import numpy as np
import yaml

from gtcrec.experiments.benchmark.plan import BenchmarkPlan, plan, read_file
from gtcrec.experiments.config import load_config
from gtcrec.experiments.measured_run import MeasuredRun
from gtcrec.experiments.planned_run import PlannedRun
from gtcrec.reporting.run_record import (
    DataRecord,
    EvaluationRecord,
    ResultRecord,
    RunRecord,
    TimingLine,
    _Examples,
)

SMALL = {
    "models": {
        "bpr": {"settings": {"embedding_dim": 8}},
        "popular": None,
        "wide": {"model": "bpr", "settings": {"embedding_dim": 16}},
    },
    "seeds": [0, 1],
    "metrics": ["recall@20", "ndcg@20", "recall@5"],
    "base": "bpr",
    "train": {"epochs": 1, "batch_size": 256, "learning_rate": 0.02},
    "evaluate": {"resamples": 200},
}
RUNS = ["bpr-0", "bpr-1", "popular-0", "wide-0", "wide-1"]


def write_file(folder: Path, **more: object) -> Path:
    file = folder / "bench.yaml"
    file.write_text(
        yaml.safe_dump({**SMALL, "data": {"shop": str(folder / "shop")}, "out": str(folder / "out"), **more})
    )
    return file


def planned(file: Path, only: tuple[str, ...] = ()) -> BenchmarkPlan:
    config = read_file(file)
    return plan(config, Path(config.out), only)


def measured_run(
    variant: str,
    seed: int,
    values: list[float],
    users: list[int] | None = None,
    data: str = "x",
    fingerprint: str = "f00d",
    train: str = "b",
) -> MeasuredRun:
    """A run of these values of hit@1, whose best epoch is the seed and an epoch of which takes 1 + seed seconds."""
    pairs = {"fingerprints": {"liked": "a", "train": train}}
    evaluation = EvaluationRecord(users=len(values), means={}, intervals={}, about=pairs)
    planned = PlannedRun(variant, seed, load_config(data, "gtc"), Path(f"{variant}-{seed}"))
    record = RunRecord(
        planned.folder,
        ResultRecord(model="gtc", best_epoch=seed, epochs=1, stop="", parameters=10, valid=evaluation),
        DataRecord(name="shop", fingerprint=fingerprint, counts={}),
        [],
        [TimingLine(epoch=1, train_seconds=1.0, train_cpu_seconds=1.0 + seed)],
        {},
        {},
        _Examples(),
    )
    found = np.arange(len(values)) if users is None else np.array(users)
    return MeasuredRun(planned, record, evaluation, found, {"hit@1": np.array(values)}, {})
