"""The command that chooses a model's settings on validation: `tune`."""

import math
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gtcrec.experiments.tuning.study import Plan, Trial
    from gtcrec.training.trainer import Epoch

__all__ = ["tune"]


def tune(
    data: Annotated[str, typer.Option("--data", help="A data folder or a file of interactions.")],
    out: Annotated[Path, typer.Option("--out", help="The study's folder; one that is there is gone on with.")],
    model: Annotated[
        str | None, typer.Option("--model", help="A name that `gtcrec models` lists; gtc if not given.")
    ] = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Settings to try; the first are the defaults.")] = 20,
    config: Annotated[Path | None, typer.Option("--config", help="A YAML file of settings to start from.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting, the same for every trial.")
    ] = None,
    space: Annotated[
        Path | None, typer.Option("--space", help="A YAML file, setting: [values]; if not given, the model's own.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws the settings; --set seed=N seeds trainings.")] = 0,
    prune: Annotated[bool, typer.Option("--prune", help="End trials that fall below the others' median.")] = False,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that try settings side by side.")] = 1,
    stop_after: Annotated[
        float, typer.Option("--stop-after", min=0, metavar="MINUTES", help="Start no trial after so many minutes.")
    ] = math.inf,
    retry_running: Annotated[
        bool, typer.Option("--retry-running", help="Try again what other machines began; they must have stopped.")
    ] = False,
) -> None:
    """Search a model's settings on validation; the test interactions take no part.

    The same command goes on where it stopped; started on several machines with one --out, they share the trials.
    """
    from gtcrec.cli.console import print_table, resumable, say
    from gtcrec.experiments.tuning import study as tuning

    plan = tuning.plan(data, model, out, trials, settings or (), config, space, seed, prune)
    with resumable(f"the same command goes on from here, with the trials in {shlex.quote(str(out))}"):
        for trial in tuning.tune(plan, workers, stop_after, retry_running, _watched(plan)):
            say(_line(plan, trial))
    found = tuning.tried(plan)
    top = tuning.best(found)
    print_table(_table(plan, found, top))
    say(_verdict(plan, found, top))


def _watched(plan: "Plan") -> Callable[["Trial"], Any]:
    """Shows each trial's training as a bar, on a terminal."""

    @contextmanager
    def watch(trial: "Trial") -> Iterator[tuple[Callable[["Epoch"], None], Callable[[int, int], None]]]:
        from gtcrec.cli.console import progress, say

        if not sys.stderr.isatty():
            yield lambda epoch: None, lambda step, steps: None
            return
        say(f"trial {trial.number} of {plan.wanted}  {_words(trial)}", style="dim")
        with progress(plan.config.train.epochs, plan.config.train.valid_metric) as shown:
            yield shown

    return watch


def _words(trial: "Trial") -> str:
    return "  ".join(f"{key}={value}" for key, value in trial.settings.items()) or "the defaults"


def _line(plan: "Plan", trial: "Trial") -> str:
    """What is said of a trial that has ended."""
    assert trial.outcome
    came = trial.outcome.error or _result(plan.config.train.valid_metric, trial)
    return f"{trial.number}/{plan.wanted}  {came}{'  pruned' if trial.state == 'pruned' else ''}  {_words(trial)}"


def _result(metric: str, trial: "Trial") -> str:
    from gtcrec.cli.console import number

    assert trial.outcome
    return f"{metric} {number(trial.value)} at epoch {trial.outcome.best_epoch} of {trial.outcome.epochs}"


def _table(plan: "Plan", found: "Sequence[Trial]", top: "Trial") -> Any:
    """A line a trial, the best bold."""
    from rich.markup import escape

    from gtcrec.cli.console import number, table

    rows = []
    for trial in found:
        out = trial.outcome
        value = number(trial.value)
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


def _verdict(plan: "Plan", found: "Sequence[Trial]", top: "Trial") -> str:
    """The best settings, what is left to do, and how to train with them."""
    out, metric = shlex.quote(str(plan.out)), plan.config.train.valid_metric
    first = next((trial for trial in found if trial.number == 1 and trial.value is not None), None)
    against = f", the defaults {first.value:.4f}" if first and first is not top else ""
    lines = [f"best: trial {top.number}, {_result(metric, top)}{against}", f"  {_words(top)}"]
    missing = plan.wanted - sum(trial.state != "running" for trial in found)
    if missing:
        lines.append(f"{missing} of {plan.wanted} trials have not ended; the same command goes on from here")
    elif plan.wanted < plan.trials:
        lines.append(f"the space has {plan.wanted} settings: all were tried")
    data = shlex.quote(plan.config.data.path)
    lines.append(f"train with them: gtcrec train --data {data} --config {out}/best.yaml --out {out}/best")
    return "\n".join(lines)
