"""Runs side by side: paired tests of each run against the first, and the tables of an evaluation, means and tests."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gtcrec.errors import RunError
from gtcrec.evaluation.comparison import SIGNIFICANT, PairedDifference, compare
from gtcrec.evaluation.metrics import cut_of, kind_of
from gtcrec.reporting.run_record import EvaluationRecord, RunRecord
from gtcrec.reporting.tables import Cell, Table
from gtcrec.types import Report

__all__ = [
    "annotate_ranks",
    "comparable_part",
    "compare_runs",
    "evaluation_table",
    "means_table",
    "shared_means",
    "tests_table",
    "unfinished_runs",
]


def annotate_ranks(
    values: Sequence[tuple[str, Mapping[str, float | None]]],
    columns: Sequence[str],
    tests: Sequence[PairedDifference] = (),
) -> list[tuple[Cell, ...]]:
    """Return a row for each (name, value by column): best and second of a column, and * for Holm p < 0.05.

    Values that are equal, to the 4 decimals that are shown, share a rank; none is best where all are equal.
    """
    ranks = {
        column: sorted({round(x, 4) for _, row in values if (x := row.get(column)) is not None}, reverse=True)
        for column in columns
    }
    significant = {(test.name, test.metric) for test in tests if test.p_holm < SIGNIFICANT}

    def cell(name: str, column: str, value: float | None) -> Cell:
        if value is None:
            return Cell("–")
        rank = ranks[column].index(round(value, 4))
        best = rank == 0 and len(ranks[column]) > 1
        return Cell(f"{value:.4f}", best, rank == 1, "*" if (name, column) in significant else "")

    return [(Cell(name), *(cell(name, column, row.get(column)) for column in columns)) for name, row in values]


def means_table(
    values: Sequence[tuple[str, Mapping[str, float]]],
    metrics: Sequence[str],
    tests: Sequence[PairedDifference],
    title: str = "",
) -> Table:
    """Return the table of runs: a run a row, a metric a column."""
    return Table(title, "", ("run", *metrics), tuple(annotate_ranks(values, metrics, tests)))


def tests_table(tests: Sequence[PairedDifference]) -> Table:
    """Return the table of paired tests against one run."""
    rows = [
        (
            test.name,
            test.metric,
            f"{test.difference:+.4f}",
            f"{test.interval[0]:+.4f} to {test.interval[1]:+.4f}",
            f"{test.p:.4f}",
            f"{test.p_holm:.4f}",
        )
        for test in tests
    ]
    title = f"paired tests against {tests[0].base}" if tests else ""
    headers = ("run", "metric", "difference", "95 % interval", "p", "p (Holm)")
    return Table(title, "", headers, tuple(tuple(map(Cell, row)) for row in rows), left=(0, 1))


def evaluation_table(evaluation: EvaluationRecord, title: str = "") -> Table:
    """Return the metrics of an evaluation, a kind a row and a cut-off a column; their intervals stand beside them.

    Metrics of all lists together come last and have no interval.
    """
    values = {**evaluation.means, **evaluation.lists}
    cuts = sorted({cut_of(name) for name in values}, key=lambda cut: (len(cut), cut))

    def cell(name: str) -> Cell:
        if name not in values:
            return Cell("")
        low, high = evaluation.intervals.get(name, (None, None))
        return Cell(f"{values[name]:.4f}", detail="" if low is None else f"{low:.4f} to {high:.4f}")

    kinds = dict.fromkeys(map(kind_of, values))
    rows = [(Cell(kind), *(cell(f"{kind}@{cut}" if cut else kind) for cut in cuts)) for kind in kinds]
    return Table(title, "", ("metric", *(f"@{cut}" if cut else "" for cut in cuts)), tuple(rows))


def comparable_part(records: Sequence[RunRecord]) -> str:
    """Return what can be compared: "test" if every run has been evaluated on test, else "valid"."""
    return "test" if all(record.result.test for record in records) else "valid"


def shared_means(runs: Sequence[tuple[str, RunRecord]]) -> list[tuple[str, dict[str, float]]]:
    """Return (name, means) of each run on the part that all have, over the metrics that all have."""
    part = comparable_part([record for _, record in runs])
    every = [(name, record.evaluation(part).means) for name, record in runs]
    shared = [metric for metric in every[0][1] if all(metric in means for _, means in every)]
    return [(name, {metric: means[metric] for metric in shared}) for name, means in every]


def unfinished_runs(runs: Sequence[tuple[str, RunRecord]]) -> list[str]:
    """Return a sentence for each run that ended at its epoch limit while its validation still improved.

    It improved if it would have gone on for want of patience: its best epoch lies within that of the limit.
    """
    sentences = []
    for name, record in runs:
        result, train = record.result, record.config["train"]
        validated = any(line.valid for line in record.history)
        if not validated or not any(line.losses for line in record.history) or result.best_epoch is None:
            continue
        waited = (result.epochs - result.best_epoch) // train["valid_every"]
        if result.epochs >= train["epochs"] and waited < train["patience"]:
            sentences.append(
                f"{name} ended at its limit of {result.epochs} epochs while it still improved (best epoch "
                f"{result.best_epoch}): with more epochs it may stand higher"
            )
    return sentences


def compare_runs(
    runs: Sequence[tuple[str, RunRecord]], metrics: Sequence[str], seed: int = 0
) -> list[PairedDifference]:
    """Test each run against the first, user by user; Holm's correction over all runs and metrics.

    Raises `RunError` if the runs saw different data or users, `ConfigError` for an unmeasured metric.
    """
    (base, first), *others = runs
    part = comparable_part([record for _, record in runs])
    for name, record in others:
        if record.data.fingerprint != first.data.fingerprint:
            raise RunError(f"{name} and {base} saw different data: fingerprints must be equal to be compared")
        sums = [one.evaluation(part).context.fingerprints.get("relevant") for one in (record, first)]
        if sums[0] != sums[1]:
            raise RunError(f"{name} and {base} were measured on different {part} interactions: expected one split")
    tables = {name: _read_per_user(record.folder / f"per_user_{part}.parquet") for name, record in runs}
    for name, table in tables.items():
        if not table.column(0).equals(tables[base].column(0)):
            raise RunError(
                f"{name} and {base} were evaluated on different users; expected the same split of the same data"
            )
    reports = {
        name: Report(np.arange(len(table)), {m: np.asarray(table.column(m)) for m in table.column_names[1:]}, {})
        for name, table in tables.items()
    }
    return compare(reports, metrics, base, seed=seed)


def _read_per_user(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise RunError(f"{path}: missing; a run folder must have it") from None
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path}: damaged: {error}") from error
