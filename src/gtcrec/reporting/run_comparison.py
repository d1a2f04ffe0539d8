"""Runs side by side: paired tests of each run against the first, and the marked table of their means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gtcrec.errors import ConfigError, RunError, nearest
from gtcrec.evaluation.comparison import SIGNIFICANT, PairedDifference, compare_to_baseline
from gtcrec.reporting.run_record import RunRecord
from gtcrec.types import Floats

__all__ = ["RankedMean", "common_means", "compare_to_first", "mark", "part_of"]


@dataclass(frozen=True)
class RankedMean:
    """A mean in a table of runs: is it best or second in its column, does it differ from the first run."""

    value: float
    best: bool
    second: bool
    significant: bool


def mark(
    values: Sequence[tuple[str, Mapping[str, float]]],
    metrics: Sequence[str],
    comparisons: Sequence[PairedDifference],
) -> list[tuple[str, list[RankedMean]]]:
    """Return a row of cells for each run (name, means), marking best, second and significant (Holm p < 0.05).

    Equal means, to the 4 decimals that are shown, share a mark.
    """
    ranks = {m: sorted({round(means[m], 4) for _, means in values}, reverse=True) for m in metrics}
    sure = {(test.name, test.metric) for test in comparisons if test.p_holm < SIGNIFICANT}

    def cell(name: str, metric: str, value: float) -> RankedMean:
        rank = ranks[metric].index(round(value, 4))
        return RankedMean(value, rank == 0 and len(values) > 1, rank == 1, (name, metric) in sure)

    return [(name, [cell(name, m, means[m]) for m in metrics]) for name, means in values]


def part_of(records: Sequence[RunRecord]) -> str:
    """Return what can be compared: "test" if every run has been evaluated on test, else "valid"."""
    return "test" if all(record.result.test for record in records) else "valid"


def common_means(runs: Sequence[tuple[str, RunRecord]]) -> list[tuple[str, dict[str, float]]]:
    """Return (name, means) of each run on the part that all have, over the metrics that all have."""
    part = part_of([record for _, record in runs])
    every = [(name, getattr(record.result, part).means) for name, record in runs]
    shared = [metric for metric in every[0][1] if all(metric in means for _, means in every)]
    return [(name, {metric: means[metric] for metric in shared}) for name, means in every]


def compare_to_first(
    runs: Sequence[tuple[str, RunRecord]], metrics: Sequence[str], seed: int = 0
) -> list[PairedDifference]:
    """Test each run against the first, user by user; Holm's correction over the runs of each metric.

    Raises `RunError` if the runs saw different data or users, `ConfigError` for an unmeasured metric.
    """
    (base, first), *others = runs
    part = part_of([record for _, record in runs])
    for name, record in others:
        if record.data.fingerprint != first.data.fingerprint:
            raise RunError(f"{name} and {base} saw different data: fingerprints must be equal to be compared")
        if _liked(record, part) != _liked(first, part):
            raise RunError(f"{name} and {base} were measured on different {part} interactions: wanted one split")
    tables = {name: _per_user(record.folder / f"per_user_{part}.parquet") for name, record in runs}
    found: list[PairedDifference] = []
    for metric in metrics:
        pairs = {name: _paired(tables[name], tables[base], name, base, metric) for name, _ in others}
        found += [one.test for one in compare_to_baseline(base, metric, pairs, seed).values()]
    return found


def _liked(record: RunRecord, part: str) -> Any:
    return getattr(record.result, part).about.get("fingerprints", {}).get("liked")


def _paired(ours: pa.Table, theirs: pa.Table, name: str, base: str, metric: str) -> tuple[Floats, Floats]:
    for which, table in ((name, ours), (base, theirs)):
        known = table.column_names[1:]
        if metric not in known:
            raise ConfigError(
                f"{metric!r} was not measured in {which}{nearest(metric, known)}; found {', '.join(known)}"
            )
    if not ours.column(0).equals(theirs.column(0)):
        raise RunError(f"{name} and {base} were evaluated on different users; wanted the same split of the same data")
    return np.asarray(ours.column(metric)), np.asarray(theirs.column(metric))


def _per_user(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise RunError(f"{path}: missing; a run folder must have it") from None
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path}: damaged: {error}") from error
