"""What a benchmark found: each model's means over seeds with intervals over users, tests, slices and costs."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gtcrec.errors import RunError
from gtcrec.evaluation.comparison import SIGNIFICANT, BaselineComparison, compare_to_baseline
from gtcrec.evaluation.statistics import bootstrap_intervals
from gtcrec.experiments.benchmark.plan import CUTS, Plan
from gtcrec.experiments.benchmark.worker import COSTS, is_tested
from gtcrec.experiments.planned_run import PlannedRun
from gtcrec.reporting.run_record import Evaluation, RunRecord, read
from gtcrec.runtime.files import atomic_path, check_manifest
from gtcrec.types import Floats

__all__ = ["Costs", "Estimate", "Measured", "Results", "Row", "measured", "results", "write_parquet"]


@dataclass(frozen=True, eq=False)
class Measured:
    """A run that was measured on test: each metric's value for each of its users, and the rest of its folder."""

    name: str
    seed: int
    record: RunRecord
    test: Evaluation
    users: NDArray[Any]  # [b] external ids
    per_user: Mapping[str, Floats]  # metric -> [b]
    setup: Mapping[str, float]  # costs.json


@dataclass(frozen=True)
class Estimate:
    """A mean over users and seeds, its 95 % interval over users, its sd over seeds, and the test against the base.

    Each user's values are averaged over the seeds first.
    """

    mean: float
    low: float
    high: float
    sd: float | None
    against: BaselineComparison | None = None

    @property
    def sure(self) -> bool:
        """Whether the difference from the base is significant after Holm's correction."""
        return self.against is not None and self.against.test.p_holm < SIGNIFICANT


@dataclass(frozen=True)
class Costs:
    """What a run of a model took, means over seeds; seconds are of all cores together, bytes the highest of all."""

    setup_cpu_seconds: float
    epoch_cpu_seconds: float | None
    epochs: float
    best_epochs: tuple[int | None, ...]
    total_cpu_seconds: float
    eval_seconds: float | None
    peak_bytes: int
    bare_bytes: int
    parameters: int


@dataclass(frozen=True)
class Row:
    """A model on a data set; `slices` and `lists` are means over seeds."""

    name: str
    model: str
    seeds: tuple[int, ...]
    estimates: Mapping[str, Estimate]
    lists: Mapping[str, float]
    slices: Mapping[str, Mapping[str, float]]
    costs: Costs


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


def measured(runs: Sequence[PlannedRun]) -> list[Measured]:
    """Read the runs that have been measured on test.

    Raises `DataError` for a damaged folder, `RunError` when runs saw different users or pairs.
    """
    found = [_read(one) for one in runs if is_tested(one.folder)]
    for one in found[1:]:
        first, names = found[0], f"{found[0].name}-{found[0].seed} and {one.name}-{one.seed}"
        if not np.array_equal(one.users, first.users):
            raise RunError(f"{names} were measured on different users; wanted the same users and split")
        if one.test.about.get("fingerprints") != first.test.about.get("fingerprints"):
            raise RunError(f"{names} saw different training or test pairs; wanted the same split")
    return found


def results(plan: Plan, data: str, runs: Sequence[Measured], seed: int = 0) -> Results:
    """Compare the runs of one data set; `seed` draws intervals and tests."""
    config, wanted = plan.config, plan.runs[data]
    by_name = {name: own for name in config.models if (own := [run for run in runs if run.name == name])}
    curve = [f"recall@{k}" for k in CUTS]
    shown = list(dict.fromkeys([*config.metrics, *curve]))
    averages = {name: {m: _average(own, m) for m in shown} for name, own in by_name.items()}
    tests: dict[tuple[str, str], BaselineComparison] = {}
    for metric in config.metrics if config.base in by_name else ():
        base = averages[config.base][metric]
        pairs = {name: (own[metric], base) for name, own in averages.items() if name != config.base}
        tests.update(
            {(name, metric): test for name, test in compare_to_baseline(config.base, metric, pairs, seed).items()}
        )
    columns = {(name, m): values for name, own in averages.items() for m, values in own.items()}
    resamples = wanted[0].config.evaluate.resamples
    bounds = bootstrap_intervals(columns, np.random.default_rng(seed), resamples=resamples)
    estimates = {
        (name, m): Estimate(float(values.mean()), *bounds[name, m], _sd(by_name[name], m), tests.get((name, m)))
        for (name, m), values in columns.items()
    }
    rows = [_row(own, {m: estimates[name, m] for m in shown}) for name, own in by_name.items()]
    have = {(run.name, run.seed) for run in runs}
    missing = [one.folder.name for one in wanted if (one.variant, one.seed) not in have]
    users, about = (len(runs[0].users), runs[0].record) if runs else (0, None)
    return Results(data, config.base, config.metrics, tuple(rows), tuple(missing), users, about)


def write_parquet(out: Path, found: Sequence[Results], runs: Mapping[str, Sequence[Measured]]) -> list[Path]:
    """Write results.parquet (a row a data set, model, seed, slice and metric), summary.parquet and costs.parquet."""
    tables = {
        "results": pa.Table.from_pylist([row for data, own in runs.items() for row in _run_rows(data, own)], _RESULTS),
        "summary": pa.Table.from_pylist([row for one in found for row in _summary_rows(one)], _SUMMARY),
        "costs": pa.Table.from_pylist([row for data, own in runs.items() for row in _cost_rows(data, own)], _COSTS),
    }
    for name, table in tables.items():
        with atomic_path(out / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary)
    return [out / f"{name}.parquet" for name in tables]


_WHO = [("data", pa.string()), ("name", pa.string()), ("model", pa.string())]
_RESULTS = pa.schema(
    [
        *_WHO,
        ("seed", pa.int64()),
        ("slice", pa.string()),  # "" for all users and items
        ("metric", pa.string()),
        *((name, pa.float64()) for name in ("value", "low", "high")),
    ]
)
_SUMMARY = pa.schema(
    [
        *_WHO,
        ("seeds", pa.list_(pa.int64())),
        ("metric", pa.string()),
        *((name, pa.float64()) for name in ("mean", "sd", "low", "high")),
        ("base", pa.string()),
        *((name, pa.float64()) for name in ("difference", "difference_low", "difference_high")),
        *((name, pa.float64()) for name in ("relative", "relative_low", "relative_high", "p", "p_holm")),
    ]
)
_COSTS = pa.schema(
    [
        *_WHO,
        ("seed", pa.int64()),
        *((name, pa.float64()) for name in ("setup_cpu_seconds", "train_cpu_seconds", "eval_seconds")),
        *((name, pa.int64()) for name in ("epochs", "best_epoch", "peak_bytes", "bare_bytes", "parameters")),
    ]
)


def _read(wanted: PlannedRun) -> Measured:
    check_manifest(wanted.folder)
    record = read(wanted.folder)
    test = record.result.test
    costs = wanted.folder / COSTS
    if test is None or not costs.exists():
        raise RunError(f"{costs}: missing; wanted a run that `gtcrec benchmark` made")
    table = pq.read_table(wanted.folder / "per_user_test.parquet")
    per_user = {name: np.asarray(table.column(name)) for name in table.column_names[1:]}
    setup = json.loads(costs.read_text(encoding="utf-8"))
    return Measured(wanted.variant, wanted.seed, record, test, np.asarray(table.column(0)), per_user, setup)


def _average(runs: Sequence[Measured], metric: str) -> Floats:
    """Each user's value averaged over seeds, float64 [b]."""
    values: Floats = np.mean([run.per_user[metric] for run in runs], axis=0)
    return values


def _sd(runs: Sequence[Measured], metric: str) -> float | None:
    means = [float(run.per_user[metric].mean()) for run in runs]
    return statistics.stdev(means) if len(means) > 1 else None


def _row(runs: Sequence[Measured], estimates: Mapping[str, Estimate]) -> Row:
    tests = [run.test for run in runs]
    first = runs[0]
    slices = {
        group: _means([{k: v for k, v in test.slices[group].items() if v is not None} for test in tests])
        for group in tests[0].slices
    }
    return Row(
        first.name,
        first.record.result.model,
        tuple(run.seed for run in runs),
        estimates,
        _means([test.lists for test in tests]),
        slices,
        _costs(runs),
    )


def _means(groups: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: statistics.mean(group[key] for group in groups) for key in groups[0]}


def _costs(runs: Sequence[Measured]) -> Costs:
    trained = [run for run in runs if any(line.losses for line in run.record.history)]
    epoch = [statistics.median(line.train_cpu_seconds for line in run.record.timings) for run in trained]
    evaluations = [seconds for run in runs if (seconds := _eval_seconds(run)) is not None]
    return Costs(
        statistics.mean(run.setup["setup_cpu_seconds"] for run in runs),
        statistics.mean(epoch) if epoch else None,
        statistics.mean(run.record.result.epochs for run in runs) if trained else 0,
        tuple(run.record.result.best_epoch if trained else None for run in runs),
        statistics.mean(run.setup["setup_cpu_seconds"] + _train_seconds(run) for run in runs),
        statistics.mean(evaluations) if evaluations else None,
        max(int(run.setup["peak_bytes"]) for run in runs),
        min(int(run.setup["bare_bytes"]) for run in runs),
        runs[0].record.result.parameters,
    )


def _train_seconds(run: Measured) -> float:
    return sum(line.train_cpu_seconds for line in run.record.timings)


def _eval_seconds(run: Measured) -> float | None:
    """Median CPU seconds of a validation: scores, lists and metrics."""
    validated = {line.epoch for line in run.record.history if line.valid}
    lines = [line for line in run.record.timings if line.epoch in validated]
    seconds = [line.eval_cpu_seconds for line in lines if line.eval_cpu_seconds is not None]
    return statistics.median(seconds) if seconds else None


def _who(data: str, name: str, model: str) -> dict[str, Any]:
    return {"data": data, "name": name, "model": model}


def _run_rows(data: str, runs: Sequence[Measured]) -> list[dict[str, Any]]:
    rows = []
    for run in runs:
        who = {**_who(data, run.name, run.record.result.model), "seed": run.seed}
        for metric, value in {**run.test.means, **run.test.lists}.items():
            low, high = run.test.intervals.get(metric, (None, None))
            rows.append({**who, "slice": "", "metric": metric, "value": value, "low": low, "high": high})
        for group, means in run.test.slices.items():
            rows += [{**who, "slice": group, "metric": metric, "value": value} for metric, value in means.items()]
    return rows


def _summary_rows(found: Results) -> list[dict[str, Any]]:
    rows = []
    for row in found.rows:
        who = {**_who(found.data, row.name, row.model), "seeds": row.seeds}
        for metric, one in row.estimates.items():
            facts = {**who, "metric": metric, "mean": one.mean, "sd": one.sd, "low": one.low, "high": one.high}
            if one.against:
                test, relative, interval = one.against
                facts |= {"base": test.base, "difference": test.difference, "p": test.p, "p_holm": test.p_holm}
                facts |= dict(zip(("difference_low", "difference_high"), test.interval, strict=True))
                facts["relative"] = relative
                facts |= dict(zip(("relative_low", "relative_high"), interval or (None, None), strict=True))
            rows.append(facts)
    return rows


def _cost_rows(data: str, runs: Sequence[Measured]) -> list[dict[str, Any]]:
    return [
        {
            **_who(data, run.name, run.record.result.model),
            "seed": run.seed,
            "setup_cpu_seconds": run.setup["setup_cpu_seconds"],
            "train_cpu_seconds": _train_seconds(run),
            "eval_seconds": _eval_seconds(run),
            "epochs": run.record.result.epochs,
            "best_epoch": run.record.result.best_epoch,
            "peak_bytes": int(run.setup["peak_bytes"]),
            "bare_bytes": int(run.setup["bare_bytes"]),
            "parameters": run.record.result.parameters,
        }
        for run in runs
    ]
