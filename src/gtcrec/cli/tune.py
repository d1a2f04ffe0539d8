"""The command that chooses a model's settings on validation: `tune`."""

import math
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gtcrec.cli.benchmark import Jobs
from gtcrec.cli.options import ConfigFile, DataAndModel, OldData, OldModel, OldSettings, read_data_and_model

if TYPE_CHECKING:
    from gtcrec.experiments.tuning.study import Trial, TuningPlan
    from gtcrec.training.trainer import Epoch

__all__ = ["tune"]


def tune(
    out: Annotated[Path, typer.Option("--out", help="The study's folder; one that is there is gone on with.")],
    words: DataAndModel = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Settings to try; the first are the defaults.")] = 20,
    config: ConfigFile = None,
    space: Annotated[
        Path | None, typer.Option("--space", help="A YAML file, setting: [values]; if not given, the model's own.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws the settings; seed=N seeds trainings.")] = 0,
    prune: Annotated[bool, typer.Option("--prune", help="End trials that fall below the others' median.")] = False,
    extend: Annotated[
        int, typer.Option("--extend", min=0, help="Values outside a grid to try while the winner is at its edge.")
    ] = 2,
    jobs: Jobs = 1,
    workers: Annotated[int | None, typer.Option("--workers", min=1, hidden=True)] = None,
    stop_after: Annotated[
        float, typer.Option("--stop-after", min=0, metavar="MINUTES", help="Start no trial after so many minutes.")
    ] = math.inf,
    retry_running: Annotated[
        bool, typer.Option("--retry-running", help="Try again what other machines began; they must have stopped.")
    ] = False,
    old_data: OldData = None,
    old_model: OldModel = None,
    old_settings: OldSettings = None,
) -> None:
    """Search a model's settings on validation; the test interactions take no part.

    The same command goes on where it stopped; started on several machines with one --out, they share the trials.
    """
    data, model, settings = read_data_and_model(words, old_data, old_model, old_settings)
    if data is None:
        raise typer.BadParameter("missing argument DATA")
    from gtcrec.cli.console import print_table, resumable, say
    from gtcrec.experiments.tuning import study as tuning

    plan = tuning.plan(data, model, out, trials, settings, config, space, seed, prune, extend)
    with resumable(f"the same command goes on from here, with the trials in {shlex.quote(str(out))}"):
        for trial in tuning.tune(plan, workers or jobs, stop_after, retry_running, _show_trials(plan)):
            say(_trial_text(plan, trial))
    found = tuning.list_trials(plan)
    top = tuning.best(found)
    print_table(_trials_table(plan, found, top))
    say(_summary_text(plan, found, top))


def _show_trials(plan: "TuningPlan") -> Callable[["Trial"], Any]:
    """Shows each trial's training as a bar, on a terminal."""

    @contextmanager
    def watch(trial: "Trial") -> Iterator[tuple[Callable[["Epoch"], None], Callable[[int, int], None]]]:
        from gtcrec.cli.console import progress, say

        if not sys.stderr.isatty():
            yield lambda epoch: None, lambda step, steps: None
            return
        place = "outside" if trial.outside else f"of {plan.size}"
        say(f"trial {trial.number} {place}  {_settings_text(trial)}", style="dim")
        with progress(plan.config.train.epochs, plan.config.train.valid_metric) as shown:
            yield shown

    return watch


def _settings_text(trial: "Trial") -> str:
    return "  ".join(f"{key}={value}" for key, value in trial.settings.items()) or "the defaults"


def _trial_text(plan: "TuningPlan", trial: "Trial") -> str:
    """What is said of a trial that has ended."""
    assert trial.outcome
    came = trial.outcome.error or _result_text(plan.config.train.valid_metric, trial)
    number = f"{trial.number}, outside" if trial.outside else f"{trial.number}/{plan.size}"
    return f"{number}  {came}{'  pruned' if trial.state == 'pruned' else ''}  {_settings_text(trial)}"


def _result_text(metric: str, trial: "Trial") -> str:
    from gtcrec.cli.console import number

    assert trial.outcome
    value = f"{number(trial.value)}{_error_text(trial)}"
    return f"{metric} {value} at epoch {trial.outcome.best_epoch} of {trial.outcome.epochs}"


def _error_text(trial: "Trial") -> str:
    """The standard error of a trial's validation, if it is known."""
    error = trial.outcome.standard_error if trial.outcome else None
    return "" if error is None else f" ± {error:.4f}"


def _trials_table(plan: "TuningPlan", found: "Sequence[Trial]", top: "Trial") -> Any:
    """A line a trial, the best bold."""
    from rich.markup import escape

    from gtcrec.cli.console import number, table

    rows = []
    for trial in found:
        out = trial.outcome
        value = f"{number(trial.value)}{_error_text(trial)}"
        cells = [
            f"{trial.number} (defaults)" if trial.number == 1 else str(trial.number),
            f"[bold]{value}[/bold]" if trial is top else value,
            f"{out.best_epoch} of {out.epochs}" if out and out.best_epoch else "-",
            f"{out.seconds:.1f}" if out else "-",
            *(escape(str(trial.settings[key])) for key in plan.space),
            "" if trial.state == "done" else trial.state,
        ]
        rows.append(cells)
    headers = ["trial", plan.config.train.valid_metric, "best epoch", "seconds", *plan.space, ""]
    left = (0, len(headers) - 1)
    return table(headers, rows, f"{plan.config.model} on validation", left=left)


def _summary_text(plan: "TuningPlan", found: "Sequence[Trial]", top: "Trial") -> str:
    """The best settings, what is left to do, and how to train with them."""
    from gtcrec.experiments.tuning.study import missing_trials

    out, metric = shlex.quote(str(plan.out)), plan.config.train.valid_metric
    first = next((trial for trial in found if trial.number == 1 and trial.value is not None), None)
    against = f", the defaults {first.value:.4f}" if first and first is not top else ""
    lines = [f"best: trial {top.number}, {_result_text(metric, top)}{against}", f"  {_settings_text(top)}"]
    lines += _edge_lines(found, top)
    missing = missing_trials(plan, found)
    if missing:
        lines.append(f"{missing} of {plan.size} trials have not ended; the same command goes on from here")
    elif plan.size < plan.trials:
        lines.append(f"the space has {plan.size} settings: all were tried")
    data = shlex.quote(plan.config.data.path)
    lines.append(f"train with them: gtcrec train {data} --config {out}/best.yaml --out {out}/best")
    return "\n".join(lines)


def _edge_lines(found: "Sequence[Trial]", top: "Trial") -> list[str]:
    """Which settings were tried outside of the space, and which of the winner's stand at an edge still."""
    outside = dict.fromkeys(key for trial in found for key in trial.outside)
    lines = [f"tried outside of the space: {', '.join(outside)}"] if outside else []
    return [*lines, *([f"at an edge of what was tried: {', '.join(top.at_edge)}"] if top.at_edge else [])]
