"""What a benchmark found: each model's means over seeds with intervals over users, tests, slices and costs."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gtcrec.errors import RunError
from gtcrec.evaluation.statistics import bootstrap_intervals
from gtcrec.experiments.benchmark.plan import CUTS, BenchmarkPlan
from gtcrec.experiments.execution.worker import COSTS
from gtcrec.experiments.measured_run import (
    Estimate,
    MeasuredRun,
    average_seeds,
    check_comparable,
    compare_metrics,
    comparison_facts,
    estimate,
    read_runs,
)
from gtcrec.experiments.planned_run import PlannedRun
from gtcrec.reporting.run_record import RunRecord
from gtcrec.runtime.files import atomic_path

__all__ = ["Results", "Row", "read_tested", "results", "write_parquet"]


@dataclass(frozen=True)
class Row:
    """A model on a data set; `slices`, `lists` and `costs` are means over seeds.

    Of `costs` the peak of memory is the highest of all, and `best_epochs` has each run's; without training None.
    """

    name: str
    model: str
    seeds: tuple[int, ...]
    estimates: Mapping[str, Estimate]
    lists: Mapping[str, float]
    slices: Mapping[str, Mapping[str, float]]
    costs: Mapping[str, Any]


@dataclass(frozen=True)
class Results:
    """A data set's rows in the order of the file; `missing` are the runs that have not ended."""

    data: str
    base: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    missing: tuple[str, ...]
    users: int
    about: RunRecord | None


def read_tested(runs: Sequence[PlannedRun]) -> list[MeasuredRun]:
    """Read the runs that have been measured on test.

    Raises `DataError` for a damaged folder, `RunError` when runs saw different users or pairs.
    """
    found = read_runs(runs, "test")
    for run in found:
        if not run.setup:
            raise RunError(f"{run.planned.folder / COSTS}: missing; expected a run that `gtcrec benchmark` made")
    check_comparable(found, same_data=False)
    return found


def results(plan: BenchmarkPlan, data: str, runs: Sequence[MeasuredRun], seed: int = 0) -> Results:
    """Compare the runs of one data set; `seed` draws intervals and tests."""
    config, planned = plan.config, plan.runs[data]
    by_model = {name: own for name in config.models if (own := {run.seed: run for run in runs if run.variant == name})}
    shown = list(dict.fromkeys([*config.metrics, *(f"recall@{k}" for k in CUTS)]))
    tests = compare_metrics(by_model, config.metrics, config.base, False, seed)
    columns = {(name, m): average_seeds(list(own.values()), m) for name, own in by_model.items() for m in shown}
    resamples = planned[0].config.evaluate.resamples
    bounds = bootstrap_intervals(columns, np.random.default_rng(seed), resamples=resamples)
    rows = []
    for name, by_seed in by_model.items():
        members, estimates = list(by_seed.values()), {}
        for m in shown:
            mean, (low, high) = float(columns[name, m].mean()), bounds[name, m]
            one = estimate(members, m, tests.get((name, m)))
            estimates[m] = replace(one, mean=mean, low=low, high=high)
        rows.append(_row(members, estimates))
    have = {run.planned.folder for run in runs}
    missing = [run.name for run in planned if run.folder not in have]
    users, about = (len(runs[0].users), runs[0].record) if runs else (0, None)
    return Results(data, config.base, config.metrics, tuple(rows), tuple(missing), users, about)


def write_parquet(out: Path, found: Sequence[Results], runs: Mapping[str, Sequence[MeasuredRun]]) -> list[Path]:
    """Write results.parquet (a row a data set, model, seed, slice and metric), summary.parquet and costs.parquet."""
    tables = {
        "results": pa.Table.from_pylist(
            [row for data, members in runs.items() for row in _run_rows(data, members)], _RESULTS
        ),
        "summary": pa.Table.from_pylist([row for one in found for row in _summary_rows(one)], _SUMMARY),
        "costs": pa.Table.from_pylist(
            [{**_run_names(data, run), **run.costs} for data, own in runs.items() for run in own], _COSTS
        ),
    }
    for name, table in tables.items():
        with atomic_path(out / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary)
    return [out / f"{name}.parquet" for name in tables]


_NAMES = [("data", pa.string()), ("name", pa.string()), ("model", pa.string())]
_RESULTS = pa.schema(
    [
        *_NAMES,
        ("seed", pa.int64()),
        ("slice", pa.string()),  # "" for all users and items
        ("metric", pa.string()),
        *((name, pa.float64()) for name in ("value", "low", "high")),
    ]
)
_SUMMARY = pa.schema(
    [
        *_NAMES,
        ("seeds", pa.list_(pa.int64())),
        ("metric", pa.string()),
        *((name, pa.float64()) for name in ("mean", "sd", "low", "high", "seeds_low", "seeds_high")),
        ("base", pa.string()),
        *((name, pa.float64()) for name in ("difference", "difference_low", "difference_high")),
        *((name, pa.float64()) for name in ("difference_seeds_low", "difference_seeds_high", "p_seeds")),
        *((name, pa.float64()) for name in ("relative", "relative_low", "relative_high", "p", "p_holm")),
    ]
)
_COSTS = pa.schema(
    [
        *_NAMES,
        ("seed", pa.int64()),
        *((name, pa.float64()) for name in ("setup_cpu_seconds", "train_cpu_seconds", "eval_seconds")),
        *((name, pa.int64()) for name in ("epochs", "best_epoch", "peak_bytes", "bare_bytes", "parameters")),
    ]
)


def _row(runs: Sequence[MeasuredRun], estimates: Mapping[str, Estimate]) -> Row:
    tests, first = [run.evaluation for run in runs], runs[0]
    slices = {
        group: _mean_values([{k: v for k, v in test.slices[group].items() if v is not None} for test in tests])
        for group in tests[0].slices
    }
    return Row(
        first.variant,
        first.record.result.model,
        tuple(run.seed for run in runs),
        estimates,
        _mean_values([test.lists for test in tests]),
        slices,
        _mean_costs(runs),
    )


def _mean_values(groups: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: statistics.mean(group[key] for group in groups) for key in groups[0]}


def _mean_costs(runs: Sequence[MeasuredRun]) -> dict[str, Any]:
    """Mean costs over seeds, None for what no run has; a model without a loss has no epochs."""
    trained = any(line.losses for run in runs for line in run.record.history)
    costs = [run.costs for run in runs]
    known = {name: [one[name] for one in costs if one[name] is not None] for name in costs[0]}
    means = {name: statistics.mean(values) if values else None for name, values in known.items()}
    return {
        **means,
        "total_cpu_seconds": statistics.mean(one["setup_cpu_seconds"] + one["train_cpu_seconds"] for one in costs),
        "epoch_cpu_seconds": means["epoch_cpu_seconds"] if trained else None,
        "epochs": means["epochs"] if trained else 0,
        "best_epochs": tuple(one["best_epoch"] if trained else None for one in costs),
        "peak_bytes": max(known["peak_bytes"]),
        "bare_bytes": min(known["bare_bytes"]),
        "parameters": costs[0]["parameters"],
    }


def _run_rows(data: str, runs: Sequence[MeasuredRun]) -> list[dict[str, Any]]:
    rows = []
    for run in runs:
        head, test = _run_names(data, run), run.evaluation
        for metric, value in {**test.means, **test.lists}.items():
            low, high = test.intervals.get(metric, (None, None))
            rows.append({**head, "slice": "", "metric": metric, "value": value, "low": low, "high": high})
        for group, means in test.slices.items():
            rows += [{**head, "slice": group, "metric": metric, "value": value} for metric, value in means.items()]
    return rows


def _summary_rows(found: Results) -> list[dict[str, Any]]:
    rows = []
    for row in found.rows:
        head = {"data": found.data, "name": row.name, "model": row.model, "seeds": row.seeds}
        for metric, one in row.estimates.items():
            facts = {"metric": metric, "mean": one.mean, "sd": one.sd, "low": one.low, "high": one.high}
            facts |= dict(zip(("seeds_low", "seeds_high"), one.seed_interval or (None, None), strict=True))
            rows.append({**head, **facts, **comparison_facts(one)})
    return rows


def _run_names(data: str, run: MeasuredRun) -> dict[str, Any]:
    return {"data": data, "name": run.variant, "model": run.record.result.model, "seed": run.seed}
