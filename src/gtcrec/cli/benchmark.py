"""The command `benchmark`, and how `compare` sets the lists of other programs beside runs."""

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gtcrec.errors import ConfigError, GtcrecError, RunError, nearest

if TYPE_CHECKING:
    from gtcrec.experiments.benchmark.plan import Plan
    from gtcrec.experiments.benchmark.results import Results
    from gtcrec.experiments.planned_run import PlannedRun
    from gtcrec.types import Dataset, Report

__all__ = ["benchmark", "compare_lists"]

_COMPARED = ("recall@20", "ndcg@20", "ndcg@5")


def benchmark(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="Data sets, models, seeds, metrics, base.")],
    out: Annotated[Path | None, typer.Option("--out", help="Instead of the file's `out`.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Train this model, data set or DATA/MODEL; once or more."),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at a time; each has its share of the cores.")] = 1,
    table_only: Annotated[bool, typer.Option("--table-only", help="Train nothing.")] = False,
) -> None:
    """Train models on data sets with several seeds, measure each once on test, and compare them.

    The same command goes on where it stopped, and repeats no run that has ended; several processes may share --out.
    """
    from gtcrec.cli.console import print_table, say
    from gtcrec.experiments.benchmark.page import write_pages
    from gtcrec.experiments.benchmark.plan import plan, read_file
    from gtcrec.experiments.benchmark.results import measured, results, write_parquet

    config = read_file(file)
    if out is None and not config.out:
        raise typer.BadParameter("wanted --out FOLDER, or `out` in the file")
    chosen = plan(config, out or Path(config.out), only or ())
    failed = [] if table_only else _work(chosen, jobs, file)
    runs = {data: measured(wanted) for data, wanted in chosen.runs.items()}
    if not any(runs.values()):
        raise GtcrecError(f"{chosen.out}: wanted runs that have been measured on test, found none{_why(failed)}")
    found = [results(chosen, data, own) for data, own in runs.items()]
    print_table(*(_shown(one) for one in found if one.rows))
    say("\n".join(map(str, [*write_parquet(chosen.out, found, runs), *write_pages(chosen.out, found)])))
    if failed:
        raise GtcrecError(f"{len(failed)} of {len(chosen.trained)} runs failed{_why(failed)}")


def _why(failed: "list[tuple[PlannedRun, str]]") -> str:
    return "".join(f"; {one.folder.parent.name}/{one.folder.name}: {why}" for one, why in failed)


def _work(plan: "Plan", jobs: int, file: Path) -> "list[tuple[PlannedRun, str]]":
    from gtcrec.cli.console import resumable
    from gtcrec.experiments.benchmark.scheduler import work

    way_on = f"go on with: gtcrec benchmark {shlex.quote(str(file))}, the runs are under {shlex.quote(str(plan.out))}"
    with resumable(way_on), _watched(plan) as on_event:
        return work(plan.trained, jobs, on_event, plan.config.keep)


class _Tally:
    """Which runs have ended, and the best validation of each so far."""

    def __init__(self, plan: "Plan") -> None:
        from gtcrec.experiments.benchmark.worker import is_tested

        self.total = len(plan.trained)
        self.done = {_label(one) for one in plan.trained if is_tested(one.folder)}
        self.best: dict[str, float] = {}

    def note(self, wanted: "PlannedRun", event: Mapping[str, Any]) -> str:
        """Take notice of an event and return the words for the run's best validation."""
        label, metric = _label(wanted), wanted.config.train.valid_metric
        if event.get("best"):
            self.best[label] = event["value"]
        if "ended" in event:
            self.done.add(label)
        return f"{metric} {self.best[label]:.4f}" if label in self.best else ""

    def line(self, wanted: "PlannedRun", event: Mapping[str, Any]) -> None:
        """Print a line when a run has ended."""
        from gtcrec.cli.console import say

        words = self.note(wanted, event)
        if "ended" in event:
            say(f"{len(self.done)}/{self.total}  {'  '.join(filter(None, (_label(wanted), event['ended'], words)))}")


@contextmanager
def _watched(plan: "Plan") -> "Iterator[Callable[[PlannedRun, Mapping[str, Any]], None]]":
    """Show the work on stderr: on a terminal a bar of all runs and one of each at work, elsewhere a line a run."""
    from gtcrec.cli.console import console

    tally = _Tally(plan)
    if not sys.stderr.isatty():
        yield tally.line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[words]}"), console=console(sys.stderr), transient=True) as bar:
        whole = bar.add_task("runs", total=tally.total, completed=len(tally.done), words="")
        tasks: dict[str, Any] = {}

        def live(wanted: "PlannedRun", event: Mapping[str, Any]) -> None:
            label, words = _label(wanted), tally.note(wanted, event)
            if "ended" in event:
                if label in tasks:
                    bar.remove_task(tasks.pop(label))
                bar.update(whole, completed=len(tally.done))
                return
            if label not in tasks:
                tasks[label] = bar.add_task(label, total=event["of"], words="")
            bar.update(tasks[label], completed=event["epoch"], words=f"best {words}" if words else "")

        yield live


def _label(wanted: "PlannedRun") -> str:
    return f"{wanted.folder.parent.name}/{wanted.folder.name}"


def _shown(found: "Results") -> Any:
    """The table of means for the terminal."""
    from rich.markup import escape

    from gtcrec.cli.console import table
    from gtcrec.experiments.benchmark.tables import tables

    means = tables(found)[0]
    lines = [[_styled(cell, escape(cell.text)) for cell in row] for row in means.rows]
    title = f"{found.data}, test, {found.users:,} users (* differs from {found.base}, ns does not, Holm p < 0.05)"
    return table(means.headers, lines, title)


def _styled(cell: Any, text: str) -> str:
    text = f"[bold]{text}[/bold]" if cell.best else f"[u]{text}[/u]" if cell.second else text
    return f"{text} {cell.mark}" if cell.mark else text


def compare_lists(
    folders: Sequence[Path], files: Sequence[Path], data: str | None, metrics: Sequence[str] | None, form: str
) -> None:
    """Print a comparison on test of runs and of lists in files; the first run, else the first file, is the base."""
    from gtcrec.cli.console import comparison, differences, print_json, print_table
    from gtcrec.evaluation.comparison import compare_to_baseline
    from gtcrec.reporting.run_comparison import mark
    from gtcrec.reporting.tables import runs_text

    found = _reports(folders, files, data)
    names = list(found)
    if len(names) < 2:
        raise typer.BadParameter("wanted at least two run folders or lists")
    shared = [m for m in found[names[0]].means if all(m in one.means for one in found.values())]
    wanted = list(metrics or [m for m in _COMPARED if m in shared] or shared)
    for metric in wanted:
        if metric not in shared:
            raise ConfigError(
                f"{metric!r} was not measured in all{nearest(metric, shared)}; in all: {', '.join(shared)}"
            )
    base = found[names[0]]
    tests = []
    for metric in wanted:
        pairs = {name: (found[name].per_user[metric], base.per_user[metric]) for name in names[1:]}
        tests += [one.test for one in compare_to_baseline(names[0], metric, pairs).values()]
    values = [(name, {m: one.means[m] for m in wanted}) for name, one in found.items()]
    if form == "json":
        rows = [{"name": name, "means": means} for name, means in values]
        print_json({"part": "test", "base": names[0], "runs": rows, "tests": [vars(test) for test in tests]})
    elif form == "table":
        title = f"test, means over users (* differs from {names[0]}, Holm-corrected p < 0.05)"
        print_table(comparison(mark(values, wanted, tests), wanted, title), differences(tests))
    else:
        sys.stdout.write(runs_text(mark(values, wanted, tests), wanted, form) + "\n")


def _reports(folders: Sequence[Path], files: Sequence[Path], data: str | None) -> "dict[str, Report]":
    """Name -> report on test: runs as they were measured, lists measured here by the first run's protocol."""
    from gtcrec.data import split
    from gtcrec.evaluation.trec import evaluate_lists, read_lists
    from gtcrec.experiments.config import resolve
    from gtcrec.experiments.run_folder import read_stored_config

    if not folders and data is None:
        raise typer.BadParameter("--lists without a run folder: wanted --data DIR, the data that they rank")
    config = read_stored_config(folders[0], data) if folders else resolve(data, "popular")
    dataset = config.data.load()
    parts = split(dataset, config.split)
    found = {folder.resolve().name: _report(folder, dataset) for folder in folders}
    for file in files:
        found[file.name] = evaluate_lists(read_lists(file, dataset), parts, "test", config.evaluate)
    if len(found) < len(folders) + len(files):
        raise typer.BadParameter("wanted run folders and lists of different names")
    first, *others = found
    for name in others:
        one, base = found[name], found[first]
        if one.about.get("fingerprints") != base.about.get("fingerprints") or list(one.users) != list(base.users):
            raise RunError(f"{name} and {first} were measured on different users or pairs; wanted the same split")
    return found


def _report(folder: Path, dataset: "Dataset") -> "Report":
    """The report on test of a run folder."""
    import json

    import pyarrow.parquet as pq

    from gtcrec.evaluation.report_io import report_from

    whole = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    if "test" not in whole:
        raise RunError(f"{folder}: not measured on test; run `gtcrec evaluate {folder}`")
    return report_from(whole["test"], pq.read_table(folder / "per_user_test.parquet"), dataset.users)
