"""A small benchmark's file, and the runs that it wants."""

from pathlib import Path

import yaml

from gtcrec.experiments.benchmark.plan import Plan, plan, read_file

SMALL = {
    "models": {"bpr": {"settings": {"dim": 8}}, "popular": None, "wide": {"model": "bpr", "settings": {"dim": 16}}},
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


def planned(file: Path, only: tuple[str, ...] = ()) -> Plan:
    config = read_file(file)
    return plan(config, Path(config.out), only)
