"""Smaller comparisons than that of all peers: each has a plan in configs, its results and a page of its own."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.accuracy import peers, tuning
from benchmarks.blocks import Block
from benchmarks.paths import CONFIGS, RESULTS, RUNS, TUNED
from gtcrec.experiments.benchmark.tables import tables

PLANS = {"linear": "l3ae.md", "mended": "mended.md", "start": "start.md"}
"""A plan's name -> its page."""


def measure(
    data: Path, name: str, only: Sequence[str], jobs: int, note: Callable[[str, Sequence[str], str], object]
) -> None:
    """Search settings where the plan wants tuned ones, then train, test and store what is missing."""
    config = peers.read_plan(data, CONFIGS / f"{name}.yaml")
    if config.config:
        for one in only or config.data:
            kept = TUNED / name / one
            missing = [model for model in config.models if not (kept / f"{model}.yaml").exists()]
            tuning.tune(config, one, missing, TUNED / name)
    (RESULTS / name).mkdir(exist_ok=True)
    peers.train(config, list(only), jobs, RUNS / name, RESULTS / name, note)


def blocks(name: str) -> dict[str, Block]:
    """Return the tables of a plan's page, of each data set that is measured."""
    config = peers.read_plan(Path("data"), CONFIGS / f"{name}.yaml")
    made = {}
    for one in peers.stored_results(config, RESULTS / name, withdrawn=()):
        for table in tables(one):
            if table.title == "Paired tests":
                table = dataclasses.replace(table, rows=tuple(row for row in table.rows if row[1].text in _TESTED))
            if table.title in _SHOWN:
                made[f"{_SHOWN[table.title]}-{one.data}"] = peers.table_block(table)
        if config.config:
            made[f"tuning-{one.data}"] = tuning.tuning_block(one.data, config.models, TUNED / name)
    return made


_SHOWN = {"Means": "means", "Paired tests": "tests"}
_TESTED = ("ndcg@5", "ndcg@20", "recall@20")
