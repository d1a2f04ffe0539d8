"""A training as the command line shows it: progress, interruption, and what came of it."""

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gtcrec.errors import ConfigError

if TYPE_CHECKING:
    from gtcrec.experiments.config import RunConfig
    from gtcrec.experiments.ray_trainer import Cluster
    from gtcrec.experiments.run import Run
    from gtcrec.training.trainer import Epoch, TrainConfig

__all__ = ["cluster", "go_on", "start", "train_here"]


def cluster(engine: str, workers: int, address: str, max_failures: int) -> "Cluster | None":
    """Return the Ray to train with, or None for this process. Raises `ConfigError` for several workers without Ray."""
    if engine == "local":
        if workers > 1:
            raise ConfigError(
                f"--engine local is one process, found --workers {workers}; wanted --engine ray, or torchrun"
            )
        return None
    from gtcrec.experiments.ray_trainer import Cluster

    return Cluster(workers, address, max_failures)


def start(config: "RunConfig", folder: Path, ray: "Cluster | None") -> None:
    """Start a run, train it to its end and print the result."""
    from gtcrec.experiments.run import Run
    from gtcrec.experiments.run_folder import require_empty
    from gtcrec.runtime.process_group import init_process_group

    if ray:
        require_empty(folder)
        _train_by_ray(config, folder, ray)
        return
    with init_process_group(config.train.device) as workers:
        train_here(Run.create(config, folder, workers))
    if workers.is_main:
        _print_result(folder)


def go_on(folder: Path, data: str | None, device: str | None, ray: "Cluster | None") -> None:
    """Train a run that was interrupted to its end and print the result."""
    from gtcrec.cli.console import say
    from gtcrec.experiments.run import Run
    from gtcrec.experiments.run_folder import read_stored_config
    from gtcrec.runtime.files import MANIFEST
    from gtcrec.runtime.process_group import init_process_group

    config = read_stored_config(folder, data, device)
    if ray and not (folder / MANIFEST).exists():
        _train_by_ray(config, folder, ray)
        return
    with init_process_group(config.train.device) as workers:
        run = Run.load(folder, data, device, workers)
        if not run.finished:
            train_here(run)
        elif workers.is_main:
            say(f"{folder}: training has ended already")
    if workers.is_main:
        _print_result(folder)


def train_here(run: "Run") -> None:
    """Train a run in this process to its end; of several workers only the first shows it."""
    if run.workers.is_main:
        past = run.training.best
        best = past.valid[run.config.train.valid_metric] if past else None
        _show(run.folder, run.config.train, run.epochs, run.epochs_done, best)
    else:
        for _ in run.epochs():
            pass


def _train_by_ray(config: "RunConfig", folder: Path, ray: "Cluster") -> None:
    from gtcrec.cli.console import say
    from gtcrec.experiments import ray_trainer as engine

    past = engine.history(folder)
    best = next((e.valid[config.train.valid_metric] for e in reversed(past) if e.best), None)

    def epochs(on_step: Callable[[int, int], None]) -> "Iterator[Epoch]":
        return engine.epochs(config, folder, ray, lambda text: say(text, style="yellow"))

    _show(folder, config.train, epochs, len(past), best)
    _print_result(folder)


def _print_result(folder: Path) -> None:
    """Print the validation metrics of a finished run."""
    from gtcrec.cli.console import evaluation, print_table, say
    from gtcrec.reporting.run_record import read

    found = read(folder).result
    epoch = f"epoch {found.best_epoch} of {found.epochs}"
    title = f"{found.model}, best {epoch}, validation, {found.valid.users:,} users, mean and 95 % interval"
    print_table(evaluation(found.valid, title))
    say(f"training ended: {found.stop}\nreport: {folder / 'report.html'}")
    if found.test is None:
        say(f"test is one explicit call: gtcrec evaluate {shlex.quote(str(folder))}")


def _show(
    folder: Path,
    config: "TrainConfig",
    epochs: "Callable[[Callable[[int, int], None]], Iterator[Epoch]]",
    done: int,
    best: float | None,
) -> None:
    from gtcrec.cli.console import progress, resumable

    way_on = f"resume with: gtcrec resume {shlex.quote(str(folder))}"
    shown = progress(config.epochs, config.valid_metric, done, best)
    with resumable(way_on), shown as (after_epoch, after_step):
        for epoch in epochs(after_step):
            after_epoch(epoch)
