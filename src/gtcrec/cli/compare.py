"""`gtcrec compare`: runs, and the lists of other programs, side by side with paired tests."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gtcrec.cli.options import HEADLINE_METRICS, DataPath, Metrics, StudyFormat, prepare_parent
from gtcrec.errors import ConfigError, RunError, nearest

if TYPE_CHECKING:
    from gtcrec.evaluation.comparison import PairedDifference
    from gtcrec.types import Dataset, Report

__all__ = ["compare", "print_comparison"]

T = TypeVar("T")


def compare(
    folders: Annotated[list[Path] | None, typer.Argument(metavar="RUN", help="Run folders.")] = None,
    baseline: Annotated[
        str, typer.Option("--baseline", metavar="NAME", help="What the others are tested against; default: the first.")
    ] = "",
    metric: Metrics = None,
    form: StudyFormat = "text",
    html: Annotated[Path | None, typer.Option("--html", help="Also write a page.")] = None,
    lists: Annotated[
        list[Path] | None, typer.Option("--lists", metavar="FILE", help="Others' lists: a TREC run or MMRec's top-k.")
    ] = None,
    data: DataPath = None,
) -> None:
    """Set runs side by side, with paired tests of each against the baseline (Holm-corrected)."""
    folders = folders or []
    if lists:
        if html:
            raise typer.BadParameter("--html shows run folders alone, without --lists")
        _compare_reports(_reports(folders, lists, data), baseline, metric, form)
        return
    if len(folders) < 2:
        raise typer.BadParameter("expected at least two run folders")
    short = [folder.resolve().name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    runs = _baseline_first(dict(zip(names, folders, strict=True)), baseline)
    prepare_parent(html)
    tests = print_comparison(runs, metric, form)
    if html:
        from gtcrec.cli.console import say
        from gtcrec.reporting.html import write_comparison_page

        say(f"page: {write_comparison_page(list(runs.items()), tests, html)}")


def print_comparison(runs: Mapping[str, Path], metrics: Sequence[str] | None, form: str) -> "list[PairedDifference]":
    """Print the comparison of run folders by name, the first as the baseline, and return the paired tests."""
    from gtcrec.cli.console import say
    from gtcrec.reporting.run_comparison import comparable_part, compare_runs, shared_means, unfinished_runs
    from gtcrec.reporting.run_record import read_run_record

    records = [(name, read_run_record(folder)) for name, folder in runs.items()]
    means = dict(shared_means(records))
    shown = list(metrics or _headline(next(iter(means.values()))))
    tests = compare_runs(records, shown)
    _print_means(means, shown, tests, form, comparable_part([record for _, record in records]), runs)
    for sentence in unfinished_runs(records):
        say(f"warning: {sentence}")
    return tests


def _compare_reports(reports: "Mapping[str, Report]", baseline: str, metrics: Sequence[str] | None, form: str) -> None:
    """Print the comparison of reports on test."""
    from gtcrec.evaluation.comparison import compare

    reports = _baseline_first(reports, baseline)
    first, base = next(iter(reports.items()))
    shared = [m for m in base.means if all(m in report.means for report in reports.values())]
    shown = list(metrics or _headline(shared))
    for metric in shown:
        if metric not in shared:
            raise ConfigError(
                f"{metric!r} was not measured in all{nearest(metric, shared)}; in all: {', '.join(shared)}"
            )
    tests = compare(reports, shown, first)
    _print_means({name: report.means for name, report in reports.items()}, shown, tests, form, "test")


def _headline(measured: Sequence[str] | Mapping[str, float]) -> list[str]:
    return [metric for metric in HEADLINE_METRICS if metric in measured] or list(measured)


def _baseline_first(named: Mapping[str, T], baseline: str) -> dict[str, T]:
    """Return the mapping with the baseline at its head."""
    if baseline and baseline not in named:
        raise ConfigError(f"no run is called {baseline!r}{nearest(baseline, named)}; runs: {', '.join(named)}")
    return {**({baseline: named[baseline]} if baseline else {}), **named}


def _print_means(
    means: Mapping[str, Mapping[str, float]],
    metrics: Sequence[str],
    tests: "Sequence[PairedDifference]",
    form: str,
    part: str,
    folders: Mapping[str, Path] | None = None,
) -> None:
    """Print a table of means over users, the first of the runs as the baseline, and the paired tests."""
    from gtcrec.cli.console import print_json, print_tables
    from gtcrec.reporting.run_comparison import means_table, tests_table

    baseline = next(iter(means))
    if form == "json":
        runs: list[dict[str, Any]] = [
            {
                "name": name,
                **({"folder": str(folders[name])} if folders else {}),
                "means": {metric: values[metric] for metric in metrics},
            }
            for name, values in means.items()
        ]
        print_json({"part": part, "base": baseline, "runs": runs, "tests": [vars(test) for test in tests]})
        return
    rows = list(means.items())
    if form == "text":
        title = f"{part}, means over users (* differs from {baseline}, Holm-corrected p < 0.05)"
        print_tables([means_table(rows, metrics, tests, title), tests_table(tests)])
    else:
        print_tables([means_table(rows, metrics, tests)], form)


def _reports(folders: Sequence[Path], files: Sequence[Path], data: str | None) -> "dict[str, Report]":
    """Name -> report on test: runs as they were measured, lists measured here by the first run's protocol."""
    from gtcrec.data import split
    from gtcrec.evaluation.trec import evaluate_lists, read_lists
    from gtcrec.experiments.config import load_config
    from gtcrec.experiments.run_folder import read_stored_config

    if not folders and data is None:
        raise typer.BadParameter("--lists without a run folder: expected --data DIR, the data that they rank")
    config = read_stored_config(folders[0], data) if folders else load_config(data, "popular")
    dataset = config.data.load()
    parts = split(dataset, config.split)
    reports = {folder.resolve().name: _test_report(folder, dataset) for folder in folders}
    for file in files:
        reports[file.name] = evaluate_lists(read_lists(file, dataset), parts, "test", config.evaluate)
    if len(reports) < len(folders) + len(files):
        raise typer.BadParameter("expected run folders and lists of different names")
    if len(reports) < 2:
        raise typer.BadParameter("expected at least two run folders or lists")
    (first, base), *others = reports.items()
    for name, report in others:
        same_pairs = report.context.fingerprints == base.context.fingerprints
        if not same_pairs or list(report.users) != list(base.users):
            raise RunError(f"{name} and {first} were measured on different users or pairs; expected the same split")
    return reports


def _test_report(folder: Path, dataset: "Dataset") -> "Report":
    """Return the report on test of a run folder."""
    import json

    import pyarrow.parquet as pq

    from gtcrec.evaluation.report_io import report_from_json
    from gtcrec.reporting.run_record import read_run_record

    read_run_record(folder).evaluation("test")  # which checks the sums of what is read here
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report_from_json(report["test"], pq.read_table(folder / "per_user_test.parquet"), dataset.users)
