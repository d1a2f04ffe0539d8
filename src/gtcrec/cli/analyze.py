"""The commands that ask where a model's figures and scores come from: `gtcrec analyze ...`."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gtcrec.cli.benchmark import Jobs, failure_text, train_planned
from gtcrec.cli.options import (
    HEADLINE_METRICS,
    ConfigFile,
    DataAndModel,
    DataPath,
    Device,
    Metrics,
    OldData,
    OldModel,
    OldSettings,
    RunFolder,
    StudyFormat,
    TableFormat,
    read_data_and_model,
)
from gtcrec.errors import ConfigError, GtcrecError, RunError, nearest

if TYPE_CHECKING:
    from gtcrec.experiments.measured_run import MeasuredRun
    from gtcrec.experiments.planned_run import StudyPlan

__all__ = ["ablation", "analyze_app", "explain", "importance", "missing_modalities"]

FULL_CONTENT = "share 0"
Part = Literal["valid", "test"]
Out = Annotated[Path, typer.Option("--out", help="Where the runs and the table go.")]
Seeds = Annotated[str, typer.Option("--seeds", metavar="N,N,...", help="Seeds of each line of the table.")]
On = Annotated[Part, typer.Option("--on", help="test: the one final evaluation of each run.")]
TableOnly = Annotated[bool, typer.Option("--table-only", help="Train nothing.")]

analyze_app = typer.Typer(help="Ask where a model's figures and scores come from.", no_args_is_help=True)


@analyze_app.command("ablation")
def ablation(
    out: Out,
    words: DataAndModel = None,
    seeds: Seeds = "0,1,2",
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="Train this variant; once or more.")
    ] = None,
    config: ConfigFile = None,
    metric: Metrics = None,
    on: On = "valid",
    jobs: Jobs = 1,
    table_only: TableOnly = False,
    form: TableFormat = "text",
    old_data: OldData = None,
    old_settings: OldSettings = None,
) -> None:
    """Train GTC without each of its parts, over several seeds, and compare each with the whole.

    The same command goes on where it stopped; several processes may share --out. The table shows every variant and
    seed that has ended.
    """
    from gtcrec.cli.console import print_tables
    from gtcrec.experiments.analysis.ablation import BASELINE, compare_variants, plan
    from gtcrec.experiments.analysis.pages import study_tables, write_ablation

    data, model, settings = read_data_and_model(words, old_data, None, old_settings)
    if data is None or model not in (None, "gtc"):
        raise typer.BadParameter("expected DATA [KEY=VALUE]...; the parts are GTC's")
    study = plan(data, out, _parse_seeds(seeds), only or (), settings, config)
    metrics = _choose_metrics(metric, study)

    def show(runs: "list[MeasuredRun]", about: dict[str, Any]) -> list[Path]:
        rows = compare_variants(study.variants, runs, metrics)
        print_tables(study_tables(rows, metrics, on, BASELINE), form)
        return write_ablation(out, rows, {**about, "base": BASELINE})

    _run_study(study, metrics, on, 0 if table_only else jobs, show)


@analyze_app.command("missing-modalities")
def missing_modalities(
    out: Out,
    words: DataAndModel = None,
    also: Annotated[list[str] | None, typer.Option("--also", metavar="MODEL", help="Another; once or more.")] = None,
    shares: Annotated[str, typer.Option("--shares", metavar="X,X,...", help="Shares to mask.")] = "0,0.3,0.6,0.9",
    modality: Annotated[
        list[str] | None,
        typer.Option("--modality", metavar="NAME", help="Mask it; A+B: both. Default: each alone, and all together."),
    ] = None,
    seeds: Seeds = "0,1,2",
    config: ConfigFile = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Default: ndcg@20.")] = None,
    on: On = "valid",
    jobs: Jobs = 1,
    table_only: TableOnly = False,
    form: TableFormat = "text",
    old_data: OldData = None,
    old_model: OldModel = None,
    old_settings: OldSettings = None,
) -> None:
    """Mask a share of the items' content, train models anew on what is left, and draw what they lose.

    A setting MODEL:KEY=VALUE is that of one model.

    What is masked is drawn from the seed and the modality's name; a larger share masks what a smaller one does, and
    more. The same command goes on where it stopped; several processes may share --out. The table shows what the
    command names, of every seed that has ended.
    """
    from gtcrec.cli.console import print_tables
    from gtcrec.experiments.analysis.missing_modalities import compare_points, plan
    from gtcrec.experiments.analysis.missing_page import write_missing
    from gtcrec.experiments.analysis.pages import study_tables

    data, model, settings = read_data_and_model(words, old_data, old_model, old_settings)
    if data is None:
        raise typer.BadParameter("missing argument DATA")
    names = [model or "gtc", *(also or ())]
    study = plan(data, out, names, _parse_shares(shares), _parse_seeds(seeds), modality or (), settings, config)
    metrics = _choose_metrics(metric or ["ndcg@20"], study)

    def show(runs: "list[MeasuredRun]", about: dict[str, Any]) -> list[Path]:
        found = compare_points(study, runs, metrics)
        print_tables(study_tables([row for _, row in found], metrics, on, FULL_CONTENT), form)
        return write_missing(out, found, {**about, "base": FULL_CONTENT})

    _run_study(study, metrics, on, 0 if table_only else jobs, show)


@analyze_app.command("importance")
def importance(
    folder: RunFolder,
    data: DataPath = None,
    device: Device = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws the replacements.")] = 0,
    metric: Metrics = None,
    form: StudyFormat = "text",
) -> None:
    """Replace the content of each modality under a trained model and show what it loses, on validation.

    noise: random rows of each column's mean and spread; constant: the mean row; other: another item's row.
    """
    from dataclasses import asdict

    from gtcrec.cli.console import print_json, print_tables
    from gtcrec.experiments.analysis.modality_importance import modality_importance
    from gtcrec.experiments.analysis.pages import importance_tables
    from gtcrec.experiments.run import Run

    run = Run.load(folder, data, device)
    metrics = _default_metrics(metric, run.config.evaluate.metrics)
    found = modality_importance(run, metrics, seed)
    if form == "json":
        print_json({"on": "valid", **asdict(found)})
    else:
        print_tables(importance_tables(found, metrics), form)


@analyze_app.command("explain")
def explain(
    folder: RunFolder,
    user: Annotated[str, typer.Option("--user", "-u", metavar="ID", help="A user's id in the data.")],
    item: Annotated[list[str], typer.Option("--item", "-i", metavar="ID", help="An item's id; once or more.")],
    data: DataPath = None,
    device: Device = None,
    nearest: Annotated[int, typer.Option("--nearest", min=0, help="How many history items to show.")] = 5,
    form: StudyFormat = "text",
) -> None:
    """Say why a user gets an item: the parts of its score, what was kept of its content, the history items near it.

    matters: the share of the item's content that counts for the user; its residual: what does not count.

    filtered: the share of the content that the filter keeps; its residual: what the filter turned aside.
    """
    from dataclasses import asdict

    from gtcrec.cli.console import print_json, print_tables
    from gtcrec.experiments.analysis.explanation import explain
    from gtcrec.experiments.analysis.pages import explanation_tables
    from gtcrec.experiments.run import Run

    found = explain(Run.load(folder, data, device), user, item, nearest)
    if form == "json":
        print_json(asdict(found))
    else:
        print_tables(explanation_tables(found), form)


def _run_study(
    study: "StudyPlan",
    metrics: Sequence[str],
    on: Part,
    jobs: int,
    show: "Callable[[list[MeasuredRun], dict[str, Any]], list[Path]]",
) -> None:
    """Train a study's runs, `jobs` at a time, read those that have ended, and print and write what they show."""
    from gtcrec.cli.console import say
    from gtcrec.experiments.measured_run import read_runs
    from gtcrec.experiments.planned_run import existing_runs

    few = study.variants[0].config.train.valid_users
    if on == "valid" and few and len({run.seed for run in study.runs}) > 1:  # each seed draws its own
        raise ConfigError(
            f"expected the same validation users for every seed, found valid_users={few}; use --on test or 0"
        )
    way_on = f"the same command goes on from here, with the runs of {shlex.quote(str(study.out))}"
    failed = train_planned(study.runs, study.out, jobs, on, way_on) if jobs else []
    runs = read_runs(existing_runs(study.out, study.variants), on, metrics)
    if not runs:
        raise RunError(f"{study.out}: expected runs that have been measured on {on}, found none{failure_text(failed)}")
    about = {"data": runs[0].record.data.name, "on": on, "users": len(runs[0].users), "metrics": list(metrics)}
    say("\n".join(map(str, show(runs, about))))
    if failed:
        raise GtcrecError(f"{len(failed)} of {len(study.runs)} runs failed{failure_text(failed)}")


def _parse_seeds(text: str) -> list[int]:
    """Return the seeds of a word such as "0,1,2"; others are wrong usage."""
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() for word in words) or len(set(map(int, words))) < len(words):
        raise typer.BadParameter(f"--seeds: expected distinct whole numbers such as 0,1,2, found {text!r}")
    return [int(word) for word in words]


def _parse_shares(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--shares: expected numbers such as 0,0.3,0.6,0.9, found {text!r}") from None


def _choose_metrics(metrics: list[str] | None, study: "StudyPlan") -> tuple[str, ...]:
    return _default_metrics(metrics, study.variants[0].config.evaluate.metrics)


def _default_metrics(metrics: list[str] | None, measured: tuple[str, ...]) -> tuple[str, ...]:
    """The metrics asked for, or the headline metrics of those that are measured; refused if one is not measured."""
    for name in metrics or ():
        if name not in measured:
            raise ConfigError(f"{name!r} is not measured{nearest(name, measured)}; measured: {', '.join(measured)}")
    return tuple(metrics or [name for name in HEADLINE_METRICS if name in measured] or measured)
