"""Smaller comparisons than that of all peers: each has a plan in configs, its results and a page of its own."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.accuracy import peers, tuning
from benchmarks.blocks import Block
from benchmarks.paths import CONFIGS, RESULTS, RUNS, TUNED
from gtcrec.experiments.benchmark.plan import BenchmarkConfig
from gtcrec.experiments.benchmark.tables import tables

PLANS = {"gtc": "gtc.md", "linear": "l3ae.md", "mended": "mended.md", "start": "start.md"}
"""A plan's name -> its page."""


def measure(
    data: Path, name: str, only: Sequence[str], jobs: int, note: Callable[[str, Sequence[str], str], object]
) -> None:
    """Search settings where the plan wants tuned ones, then train, test and store what is missing."""
    config = peers.read_plan(data, CONFIGS / f"{name}.yaml")
    for unknown in sorted(set(only) - set(config.data)):
        raise SystemExit(f"{name}: expected data sets of the plan, {', '.join(config.data)}; found {unknown}")
    chosen = {one: source for one, source in config.data.items() if one in (only or config.data)}
    config = config.model_copy(update={"data": chosen})
    if config.config:
        for one in chosen:
            kept = TUNED / name / one
            missing = [model for model in config.models if not (kept / f"{model}.yaml").exists()]
            tuning.tune(config, one, missing, name)
    (RESULTS / name).mkdir(exist_ok=True)
    peers.train(config, (), jobs, RUNS / name, RESULTS / name, note)


def blocks(name: str) -> dict[str, Block]:
    """Return the tables of a plan's page, of each data set that is measured."""
    config = peers.read_plan(Path("data"), CONFIGS / f"{name}.yaml")
    made = {}
    for one in peers.stored_results(config, RESULTS / name, hidden=()):
        for table in tables(one):
            if table.title == "Paired tests":
                table = dataclasses.replace(table, rows=tuple(row for row in table.rows if row[1].text in _TESTED))
            if table.title in _SHOWN:
                made[f"{_SHOWN[table.title]}-{one.data}"] = peers.table_block(table)
        if config.config:
            made[f"tuning-{one.data}"] = tuning.tuning_block(one.data, config.models, name)
    return made | (_before(config) if name == "mended" else {})


def _before(config: BenchmarkConfig) -> dict[str, Block]:
    """The means that version 0.1 had of the mended models, with the settings that its search had found."""
    made = {}
    for one in peers.stored_results(peers.read_plan(Path("data")), only=list(config.data), hidden=()):
        means = next(table for table in tables(one) if table.title == "Means")
        rows = tuple(row for row in means.rows if row[0].text in config.models)
        made[f"before-{one.data}"] = peers.table_block(dataclasses.replace(means, rows=rows))
    return made


_SHOWN = {"Means": "means", "Paired tests": "tests"}
_TESTED = ("ndcg@5", "ndcg@20", "recall@20")
