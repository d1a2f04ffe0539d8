"""The command `benchmark`, and how all studies train their runs."""

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gtcrec.cli.options import TableFormat
from gtcrec.errors import GtcrecError

if TYPE_CHECKING:
    from gtcrec.experiments.benchmark.results import Results
    from gtcrec.experiments.planned_run import Part, PlannedRun
    from gtcrec.reporting.tables import Table

__all__ = [
    "Jobs",
    "benchmark",
    "failure_text",
    "show_runs",
    "train_planned",
]

Jobs = Annotated[int, typer.Option("--jobs", min=1, help="How many run side by side; each has its share of the cores.")]


def benchmark(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="Data sets, models, seeds, metrics, base.")],
    out: Annotated[Path | None, typer.Option("--out", help="Instead of the file's `out`.")] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="Train this model, data set or DATA/MODEL.")
    ] = None,
    jobs: Jobs = 1,
    table_only: Annotated[bool, typer.Option("--table-only", help="Train nothing.")] = False,
    form: TableFormat = "text",
) -> None:
    """Train models on data sets with several seeds, measure each once on test, and compare them.

    The same command goes on where it stopped, and repeats no run that has ended; several processes may share --out.
    """
    from gtcrec.cli.console import print_tables, say
    from gtcrec.experiments.benchmark.page import write_pages
    from gtcrec.experiments.benchmark.plan import plan, read_file
    from gtcrec.experiments.benchmark.results import read_tested, results, write_parquet

    config = read_file(file)
    if not (out or config.out):
        raise typer.BadParameter("expected --out FOLDER, or `out` in the file")
    study = plan(config, out or Path(config.out), only or ())
    way_on = f"go on with: gtcrec benchmark {shlex.quote(str(file))}, the runs are under {shlex.quote(str(study.out))}"
    failed = [] if table_only else train_planned(study.trained, study.out, jobs, "test", way_on, config.keep)
    runs = {data: read_tested(planned) for data, planned in study.runs.items()}
    if not any(runs.values()):
        raise GtcrecError(
            f"{study.out}: expected runs that have been measured on test, found none{failure_text(failed)}"
        )
    found = [results(study, data, members) for data, members in runs.items()]
    print_tables([_means_table(one) for one in found if one.rows], form)
    say("\n".join(map(str, [*write_parquet(study.out, found, runs), *write_pages(study.out, found)])))
    if failed:
        raise GtcrecError(f"{len(failed)} of {len(study.trained)} runs failed{failure_text(failed)}")


def train_planned(
    runs: "Sequence[PlannedRun]", out: Path, jobs: int, on: "Part", way_on: str, keep: str = "all"
) -> "list[tuple[PlannedRun, str]]":
    """Train the runs under `out` and measure them on `on`; return those that failed and why."""
    from gtcrec.cli.console import resumable
    from gtcrec.experiments.execution.scheduler import train_runs
    from gtcrec.runtime.files import sweep_stale

    sweep_stale(out)
    with resumable(way_on), show_runs(runs, out, on) as on_event:
        return train_runs(runs, jobs, on_event, on, keep)


def failure_text(failed: "Sequence[tuple[PlannedRun, str]]") -> str:
    """Return the runs that failed and why, to be put after a message."""
    return "".join(f"; {run.folder.parent.name}/{run.folder.name}: {why}" for run, why in failed)


@contextmanager
def show_runs(
    runs: "Sequence[PlannedRun]", out: Path, on: "Part"
) -> "Iterator[Callable[[PlannedRun, Mapping[str, Any]], None]]":
    """Show trainings on stderr: on a terminal a bar of all runs and one of each at work, elsewhere a line a run."""
    from gtcrec.cli.console import console
    from gtcrec.experiments.planned_run import is_evaluated

    progress = _RunProgress(out, len(runs), {run.folder for run in runs if is_evaluated(run.folder, on)})
    if not sys.stderr.isatty():
        yield progress.print_line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[words]}"), console=console(sys.stderr), transient=True) as bar:
        progress.start_bar(bar)
        yield progress.update_bar


class _RunProgress:
    """Which runs have ended, and the best validation of each."""

    def __init__(self, out: Path, total: int, ended: set[Path]) -> None:
        from gtcrec.cli.console import TimeLeft

        self.out, self.total, self.ended = out, total, ended
        self.clock = TimeLeft(len(ended))
        self.best: dict[Path, float] = {}
        self.tasks: dict[Path, Any] = {}

    def take_in(self, run: "PlannedRun", event: Mapping[str, Any]) -> str:
        """Note an event and return the run's best validation so far."""
        if event.get("best"):
            self.best[run.folder] = event["value"]
        if "ended" in event:
            self.ended.add(run.folder)
        return f"{run.config.train.valid_metric} {self.best[run.folder]:.4f}" if run.folder in self.best else ""

    def print_line(self, run: "PlannedRun", event: Mapping[str, Any]) -> None:
        from gtcrec.cli.console import say

        shown = [run.folder.relative_to(self.out).as_posix(), event.get("ended", ""), self.take_in(run, event)]
        if "ended" in event:
            left = self.clock.words(len(self.ended), self.total)
            say(f"{len(self.ended)}/{self.total}  {'  '.join(filter(None, shown))}{left}")

    def start_bar(self, bar: Any) -> None:
        self.bar = bar
        self.whole = bar.add_task("runs", total=self.total, completed=len(self.ended), words="")

    def update_bar(self, run: "PlannedRun", event: Mapping[str, Any]) -> None:
        value = self.take_in(run, event)
        if "ended" in event:
            if run.folder in self.tasks:
                self.bar.remove_task(self.tasks.pop(run.folder))
            self.bar.update(self.whole, completed=len(self.ended))
            return
        if run.folder not in self.tasks:
            name = run.folder.relative_to(self.out).as_posix()
            self.tasks[run.folder] = self.bar.add_task(name, total=event["of"], words="")
        words = f"best {value}" if value else ""
        self.bar.update(self.tasks[run.folder], completed=event["epoch"], words=words)


def _means_table(found: "Results") -> "Table":
    """The table of means for the terminal."""
    from dataclasses import replace

    from gtcrec.experiments.benchmark.tables import tables

    title = f"{found.data}, test, {found.users:,} users (* differs from {found.base}, ns does not, Holm p < 0.05)"
    return replace(tables(found)[0], title=title)
