"""The runs of a study that have ended, read back, and each user's values averaged over their seeds."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gtcrec.errors import ConfigError, RunError, nearest
from gtcrec.evaluation.comparison import SIGNIFICANT, BaselineComparison, compare_to_baseline, correct_together
from gtcrec.evaluation.seed_variance import crossed_interval
from gtcrec.experiments.execution.worker import COSTS
from gtcrec.experiments.planned_run import Part, PlannedRun, check_folder, is_evaluated
from gtcrec.reporting.run_record import EvaluationRecord, RunRecord, read_run_record
from gtcrec.runtime.files import check_manifest
from gtcrec.types import Floats

__all__ = [
    "Estimate",
    "MeasuredRun",
    "average_seeds",
    "check_comparable",
    "compare_metrics",
    "comparison_facts",
    "estimate",
    "read_runs",
]


@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """A finished run: each metric's value for each of its users, and the other files of its folder."""

    planned: PlannedRun
    record: RunRecord
    evaluation: EvaluationRecord
    users: NDArray[Any]  # [b] external ids
    per_user: Mapping[str, Floats]  # metric -> [b]
    setup: Mapping[str, Any]  # costs.json; empty for a run of version 0.1 outside a benchmark

    @property
    def variant(self) -> str:
        return self.planned.variant

    @property
    def seed(self) -> int:
        return self.planned.seed

    @property
    def costs(self) -> dict[str, Any]:
        """What the run took, in CPU seconds of all cores: of an epoch and a validation the medians; None if unknown."""
        result, timings = self.record.result, self.record.timings
        validated = {line.epoch for line in self.record.history if line.valid}
        train = [line.train_cpu_seconds for line in timings]
        valid = [
            seconds for line in timings if line.epoch in validated and (seconds := line.eval_cpu_seconds) is not None
        ]
        return {
            **{name: self.setup.get(name) for name in ("setup_cpu_seconds", "peak_bytes", "bare_bytes")},
            "train_cpu_seconds": sum(train),
            "epoch_cpu_seconds": statistics.median(train) if train else None,
            "eval_seconds": statistics.median(valid) if valid else None,
            "epochs": result.epochs,
            "best_epoch": result.best_epoch,
            "parameters": result.parameters,
        }


@dataclass(frozen=True)
class Estimate:
    """A metric's mean over users and seeds, its sd over seeds, and its comparison with the baseline.

    `low` and `high` bound its 95 % interval over users; NaN where none was drawn. `seed_interval` is over users and
    seeds, None of a single run.
    """

    mean: float
    sd: float | None
    against: BaselineComparison | None = None
    low: float = math.nan
    high: float = math.nan
    seed_interval: tuple[float, float] | None = None

    @property
    def significant(self) -> bool:
        """Whether the difference from the baseline is significant after Holm's correction."""
        return self.against is not None and self.against.test.p_holm < SIGNIFICANT


def read_runs(runs: Iterable[PlannedRun], on: Part, metrics: Sequence[str] = ()) -> list[MeasuredRun]:
    """Read those of the runs that have been measured on `on`, with the values of `metrics` (none named: all).

    Raises `RunError` for a folder that holds another run, `ConfigError` for a metric that one has not, `DataError`
    for a damaged folder.
    """
    found = []
    for run in runs:
        check_folder(run)
        if is_evaluated(run.folder, on):
            found.append(_read_run(run, on, metrics))
    return found


def check_comparable(runs: Sequence[MeasuredRun], same_data: bool = True) -> None:
    """Raise `RunError` when runs were measured on different users or pairs.

    With `same_data` also when runs of equal settings of `data` read different data.
    """
    same_reading: dict[str, MeasuredRun] = {}  # the first run of those that read the data in one way
    for run in runs:
        first = runs[0]
        if not np.array_equal(run.users, first.users):
            raise RunError(f"{_names(first, run)} were measured on different users; expected the same users and split")
        if run.evaluation.context.fingerprints != first.evaluation.context.fingerprints:
            raise RunError(f"{_names(first, run)} saw different training or relevant pairs; expected the same split")
        other = same_reading.setdefault(run.planned.config.data.model_dump_json(), run)
        if same_data and run.record.data.fingerprint != other.record.data.fingerprint:
            raise RunError(f"{_names(other, run)} saw different data: fingerprints must be equal to be compared")


def average_seeds(runs: Sequence[MeasuredRun], metric: str) -> Floats:
    """Return each user's value averaged over the runs, float64 [b]."""
    values: Floats = _values(runs, metric).mean(axis=0)
    return values


def _values(runs: Sequence[MeasuredRun], metric: str) -> Floats:
    """Each run's values, float64 [runs, b]."""
    return np.stack([run.per_user[metric] for run in runs])


def compare_metrics(
    by_variant: Mapping[str, Mapping[int, MeasuredRun]],
    metrics: Sequence[str],
    baseline: str,
    common_seeds: bool,
    seed: int,
) -> dict[tuple[str, str], BaselineComparison]:
    """Test each variant against `baseline`, users and seeds as sources of variance; (variant, metric) -> comparison.

    `by_variant` is variant -> seed -> run. With `common_seeds` the seeds are those that both have, else each one's.
    Holm's correction is over all variants and metrics.
    """
    found = {
        (name, metric): one
        for metric in metrics
        for name, one in _compare_metric(by_variant, metric, baseline, common_seeds, seed).items()
    }
    return correct_together(found)


def _compare_metric(
    by_variant: Mapping[str, Mapping[int, MeasuredRun]], metric: str, baseline: str, common_seeds: bool, seed: int
) -> dict[str, BaselineComparison]:
    base, pairs = by_variant.get(baseline, {}), {}
    for name, runs in by_variant.items():
        common = sorted(runs.keys() & base.keys())
        sides = [[side[one] for one in common] if common_seeds else list(side.values()) for side in (runs, base)]
        if name != baseline and all(sides):
            pairs[name] = (_values(sides[0], metric), _values(sides[1], metric))
    return compare_to_baseline(baseline, metric, pairs, seed)


def estimate(runs: Sequence[MeasuredRun], metric: str, against: BaselineComparison | None = None) -> Estimate:
    """Return the estimate of a metric from the runs of one variant."""
    means = [float(run.per_user[metric].mean()) for run in runs]
    both = crossed_interval(_values(runs, metric))
    return Estimate(
        statistics.mean(means),
        statistics.stdev(means) if len(means) > 1 else None,
        against,
        seed_interval=(both.low, both.high) if both else None,
    )


def comparison_facts(one: Estimate) -> dict[str, Any]:
    """Return the comparison with the baseline as plain values by name; without one, nothing."""
    if one.against is None:
        return {}
    test, relative, interval = one.against
    relative_low, relative_high = interval or (None, None)
    seeds_low, seeds_high = test.seed_interval or (None, None)
    return {
        "base": test.base,
        "difference": test.difference,
        "difference_low": test.interval[0],
        "difference_high": test.interval[1],
        "relative": relative,
        "relative_low": relative_low,
        "relative_high": relative_high,
        "difference_seeds_low": seeds_low,
        "difference_seeds_high": seeds_high,
        "p_seeds": test.p_seeds,
        "p": test.p,
        "p_holm": test.p_holm,
    }


def _read_run(run: PlannedRun, on: Part, metrics: Sequence[str]) -> MeasuredRun:
    check_manifest(run.folder)
    record, path = read_run_record(run.folder), run.folder / f"per_user_{on}.parquet"
    evaluation = record.evaluation(on)
    user, *known = pq.read_schema(path).names
    for metric in metrics:
        if metric not in known:
            raise ConfigError(f"{metric!r} was not measured{nearest(metric, known)}; measured: {', '.join(known)}")
    table = pq.read_table(path, columns=[user, *(metrics or known)])
    per_user = {metric: np.asarray(table.column(metric)) for metric in metrics or known}
    path = run.folder / COSTS
    setup = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return MeasuredRun(run, record, evaluation, np.asarray(table.column(user)), per_user, setup)


def _names(first: MeasuredRun, second: MeasuredRun) -> str:
    return f"{first.planned.name} and {second.planned.name}"
