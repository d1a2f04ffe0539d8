"""The files of a study of missing modalities: its table as Markdown, JSON and Parquet, and a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from gtcrec.experiments.analysis.ablation import Row
from gtcrec.experiments.analysis.missing_modalities import MissingPoint, to_arrow
from gtcrec.experiments.analysis.pages import row_facts, study_page, write_figure
from gtcrec.experiments.measured_run import Estimate
from gtcrec.reporting import figures
from gtcrec.runtime.files import atomic_path, write_json, write_text

__all__ = ["point_facts", "write_missing"]

Results = Sequence[tuple[MissingPoint, Row]]


def write_missing(out: Path, found: Results, about: Mapping[str, Any]) -> list[Path]:
    """Write the table and, where matplotlib is installed, the plot; return the paths of the files."""
    panels = [(metric, _curves(found, metric)) for metric in about["metrics"]]
    label = f"items whose content is masked, %; {about['on']}; 95 % paired interval; filled: p < 0.05"
    drawn = figures.missing_curves(panels, label) if figures.available() else b""
    note = (
        f"Written by `gtcrec analyze missing-modalities`. Measured on {about['on']}, {about['users']:,} users. Every "
        "model was trained anew on what was left, and scored with it. Each metric: mean over users and seeds ± "
        f"standard deviation over seeds; then the relative difference from the same model at {about['base']}, its 95 % "
        "bootstrap interval over users, and p. It is "
        "the larger of that over users, by sign flips, and that over users and seeds, Holm over the table. Users are "
        "paired, their values averaged over the seeds that both have; each seed masks other items. \\* p < 0.05."
    )
    texts = [note, *(["![What is lost as content is masked](missing.svg)"] if drawn else [])]
    page = study_page(f"Missing content on {about['data']}", texts, [row for _, row in found], about)
    write_text(out / "missing.md", page)
    write_json(out / "missing.json", {**about, "points": point_facts(found)})
    with atomic_path(out / "missing.parquet") as temporary:
        pq.write_table(to_arrow(found), temporary)
    return [*(out / f"missing.{end}" for end in ("md", "json", "parquet")), *write_figure(out / "missing.svg", drawn)]


def point_facts(found: Results) -> list[dict[str, Any]]:
    """Return the points and their rows as plain values for JSON."""
    return [
        {"model": point.model, "hidden": point.masked, "share": point.missing_rate, **row_facts(row)}
        for point, row in found
    ]


def _curves(found: Results, metric: str) -> list[figures.Curve]:
    """A curve a model and what is masked, from share 0; those with no point beyond it are left out."""
    measured = [(point, _curve_mark(row.estimates[metric])) for point, row in found if row.estimates]
    starts = {point.model: (0.0, mark) for point, mark in measured if not point.masked}
    beyond: dict[tuple[str, str], list[tuple[float, figures.Mark]]] = {}
    for point, mark in measured:
        if point.masked:
            beyond.setdefault((point.model, point.masked), []).append((100 * point.missing_rate, mark))
    return [
        figures.Curve(model, masked, [*([starts[model]] if model in starts else []), *points])
        for (model, masked), points in beyond.items()
    ]


def _curve_mark(one: Estimate) -> figures.Mark:
    """The mean with the paired interval around it; without a test, no interval."""
    if one.against is None:
        return figures.Mark("", one.mean, one.mean, one.mean, False)
    test = one.against.test
    low, high = (one.mean - test.difference + bound for bound in test.interval)
    return figures.Mark("", one.mean, low, high, one.significant)
