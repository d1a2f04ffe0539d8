"""`gtcrec train`, `resume` and `evaluate`: from data to a measured run folder."""

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gtcrec.cli.options import (
    ConfigFile,
    DataAndModel,
    DataPath,
    Device,
    Engine,
    Format,
    OldData,
    OldModel,
    OldSettings,
    RayAddress,
    RunFolder,
    Threads,
    WorkerCount,
    prepare_parent,
    read_data_and_model,
    use_threads,
)
from gtcrec.errors import ConfigError, DataError, RunError

if TYPE_CHECKING:
    from gtcrec.experiments.config import RunConfig
    from gtcrec.experiments.execution.ray_trainer import Cluster
    from gtcrec.experiments.run import Run
    from gtcrec.training.trainer import Epoch, TrainConfig

__all__ = ["evaluate", "resume", "stop", "train", "train_here"]

Failures = Annotated[int, typer.Option("--max-failures", min=0, help="With ray: how often to restart lost workers.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Make no run: print the sizes, the memory needed, and the time of an epoch."),
]


def train(
    out: Annotated[Path | None, typer.Option("--out", help="The run folder to make.")] = None,
    words: DataAndModel = None,
    config: ConfigFile = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="The same as seed=N.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="The same as epochs=N.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="The same as learning_rate=X.")] = None,
    device: Device = None,
    init_from: Annotated[
        Path | None, typer.Option("--init-from", metavar="RUN", help="Start from the weights of this run of the model.")
    ] = None,
    old_data: OldData = None,
    old_model: OldModel = None,
    old_settings: OldSettings = None,
    engine: Engine = "local",
    workers: WorkerCount = 1,
    ray_address: RayAddress = "",
    max_failures: Failures = 3,
    threads: Threads = None,
    dry_run: DryRun = False,
) -> None:
    """Train a model on a data set; Ctrl-C leaves a run that `gtcrec resume` goes on with."""
    given = read_data_and_model(words, old_data, old_model, old_settings)
    if out is None and not dry_run:
        raise typer.BadParameter("missing option --out")
    options = {"seed": seed, "train.epochs": epochs, "train.learning_rate": learning_rate, "train.device": device}
    run_config = _read_config(*given, config, options)
    if dry_run or out is None:
        _print_needs(run_config, threads)
        return
    ray = _ray_cluster(engine, workers, ray_address, max_failures)
    if ray and init_from:
        raise ConfigError("--init-from is for --engine local, found --engine ray")
    prepare_parent(out)
    if ray and not run_config.spec.solves_items:
        _train_by_ray(run_config, out, ray, fresh=True)
        return
    _train_new(run_config, out, threads, (engine, workers, ray_address) if ray else None, init_from)


def _train_new(
    config: "RunConfig",
    out: Path,
    threads: int | None,
    solve_by: tuple[Any, int, str] | None,
    init_from: Path | None,
) -> None:
    """Make a run and train it in this process, or in those of torchrun; `solve_by` says who solves blocks of items."""
    from gtcrec.experiments.run import Run
    from gtcrec.runtime.block_jobs import choose_executor
    from gtcrec.runtime.process_group import init_process_group

    with init_process_group(config.train.device) as processes:
        use_threads(threads, processes.is_main)
        run = Run.create(config, out, processes, init_from)
        if processes.is_main and init_from:
            _say_start(run, init_from)
        run.executor = choose_executor(*solve_by) if solve_by else None
        train_here(run)
    if processes.is_main:
        _print_result(out)


def resume(
    folder: RunFolder,
    data: DataPath = None,
    device: Device = None,
    engine: Engine = "local",
    workers: WorkerCount = 1,
    ray_address: RayAddress = "",
    max_failures: Failures = 3,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", min=1, help="End after so many epochs in all, with the best weights so far."),
    ] = None,
    threads: Threads = None,
) -> None:
    """Go on with an interrupted training from its last checkpoint, with any number of workers."""
    from gtcrec.experiments.run import Run
    from gtcrec.experiments.run_folder import read_stored_config
    from gtcrec.runtime.block_jobs import choose_executor
    from gtcrec.runtime.files import MANIFEST
    from gtcrec.runtime.process_group import init_process_group

    ray = _ray_cluster(engine, workers, ray_address, max_failures)
    config = read_stored_config(folder, data, device)
    if epochs and epochs > config.train.epochs:
        raise ConfigError(f"--epochs must be at most {config.train.epochs}, as the run is configured, found {epochs}")
    if ray and epochs:
        raise ConfigError("--epochs is for --engine local; `gtcrec stop` ends a training by Ray")
    if ray and not config.spec.solves_items and not (folder / MANIFEST).exists():
        _train_by_ray(config, folder, ray)
        return
    with init_process_group(config.train.device) as processes:
        use_threads(threads, processes.is_main)
        run = Run.load(folder, data, device, processes)
        run.executor = choose_executor(engine, workers, ray_address) if ray else None
        if not run.finished:
            train_here(run, epochs or 0)
        elif processes.is_main:
            _end_again(folder)
    if processes.is_main:
        _print_result(folder)


def _end_again(folder: Path) -> None:
    """Say that a run has ended, and remove what processes that were killed left in it."""
    from gtcrec.cli.console import say
    from gtcrec.experiments.run_folder import sweep_run

    sweep_run(folder)
    say(f"{folder}: training has ended already")


def stop(folder: RunFolder, data: DataPath = None, device: Device = None) -> None:
    """End a training now, with its best weights so far and its results; one that runs ends after its epoch."""
    from gtcrec.cli.console import say
    from gtcrec.experiments.run import Run
    from gtcrec.experiments.run_folder import read_stored_config, request_stop
    from gtcrec.runtime.files import MANIFEST
    from gtcrec.runtime.locks import is_locked

    read_stored_config(folder, data, device)
    if (folder / MANIFEST).exists():
        _end_again(folder)
    elif is_locked(folder):
        request_stop(folder)
        say(f"{folder}: the process that trains it was asked to end after this epoch")
    else:
        run = Run.load(folder, data, device)
        if not run.epochs_done:
            raise RunError(f"{folder}: no epoch is done yet, so there are no weights to keep")
        train_here(run, run.epochs_done)
        _print_result(folder)


def evaluate(
    folder: RunFolder,
    data: DataPath = None,
    device: Device = None,
    form: Format = "text",
    threads: Threads = None,
) -> None:
    """Measure a trained model on the test interactions: the one final call."""
    from gtcrec.cli.console import print_json, print_table, say
    from gtcrec.experiments.run import Run
    from gtcrec.reporting.run_comparison import evaluation_table
    from gtcrec.reporting.run_record import read_run_record

    use_threads(threads, announce=False)
    Run.load(folder, data, device).evaluate()
    result = read_run_record(folder).result.test
    if result is None:
        raise RunError(f"{folder / 'report.json'}: expected the test evaluation, found none")
    if form == "json":
        print_json(result.model_dump())
    else:
        print_table(evaluation_table(result, f"test, {result.users:,} users, mean and 95 % interval"))
    say(f"report: {folder / 'report.html'}")


def train_here(run: "Run", end_after: int = 0) -> None:
    """Train a run in this process to its end, or after `end_after` epochs; of several processes the first shows it."""
    if run.workers.is_main:
        _warn_of_no_test(run)
    epochs = partial(run.epochs, end_after=end_after) if end_after else run.epochs
    if run.workers.is_main:
        past = run.training.best
        best = past.valid.get(run.config.train.valid_metric) if past else None
        _show_epochs(run.folder, run.config.train, epochs, run.epochs_done, best)
    else:
        for _ in epochs():
            pass


def _say_start(run: "Run", init_from: Path) -> None:
    """Say what a run took over of another, and warn where its validation was trained on."""
    from gtcrec.cli.console import say

    found = run.started_from
    counts = ", ".join(f"{found[word]['known']:,} {word} and {found[word]['new']:,} new" for word in ("users", "items"))
    say(f"starting from {init_from}: {counts}")
    if trained := found["validation"]["trained_on"]:
        say(
            f"warning: {init_from} was trained on {trained:,} of {found['validation']['interactions']:,} interactions "
            "of the validation, which looks better than it is; split by time or by leave_one_out",
            style="yellow",
        )


def _warn_of_no_test(run: "Run") -> None:
    """Say before the work that a run cannot be evaluated, if so."""
    from gtcrec.cli.console import say
    from gtcrec.data.splits import require_test

    try:
        require_test(run.split)
    except DataError as error:
        say(f"warning: the run cannot be evaluated: {error}", style="yellow")


def _read_config(
    data: str | None, model: str | None, settings: list[str], config: Path | None, options: Mapping[str, Any]
) -> "RunConfig":
    """Return the configuration of a run; `options` are settings that stand in options of their own, None if not."""
    if data is None and config is None:
        raise typer.BadParameter("missing argument DATA")
    from gtcrec.experiments.config import load_config

    given = [f"{key}={value}" for key, value in options.items() if value is not None]
    return load_config(data, model, config, [*settings, *given])


def _print_needs(config: "RunConfig", threads: int | None) -> None:
    """Print sizes, memory and the time of an epoch. Raises `ConfigError` if the model and its training do not fit."""
    from gtcrec import data, models
    from gtcrec.cli.console import write_out
    from gtcrec.data.splits import require_validation
    from gtcrec.models.memory import estimate_memory
    from gtcrec.runtime.memory import free_memory
    from gtcrec.training.dry_run import need_memory, time_epoch

    use_threads(threads)
    split = data.split(config.data.load(), config.split)
    require_validation(split)
    pairs, training = split.train, config.train
    settings = models.make_config(config.model, config.settings, config.preset)
    need = estimate_memory(models.get_spec(config.model), settings, pairs, split.features, training.batch_size)
    whole, parts = _gib(need.total), [_gib(part) for part in (need.model, need.training, need.passing)]
    write_out(
        f"users         {pairs.n_users:,}\nitems         {pairs.n_items:,}\n"
        f"interactions  {len(pairs):,} to train on, {len(split.valid):,} to validate on\n"
        f"parameters    about {need.weights:,}\n"
        f"memory        about {whole} GiB beyond the data: the model {parts[0]}, its training {parts[1]}, what passes "
        f"{parts[2]}; {_gib(free_memory())} GiB are free\n"
    )
    with need_memory(config.model, settings, split, training):
        start = time.perf_counter()
        model = models.build_model(config.model, pairs, split.features, settings, training.seed)
        built = time.perf_counter() - start
        epoch = time_epoch(model, split, training)
    write_out(f"building      {built:.1f} s\n")
    if epoch.steps:
        steps = f"{epoch.steps:,} steps" if epoch.steps > 1 else "1 step"
        write_out(f"epoch         about {epoch.seconds:.1f} s for {steps}, validation apart\n")
    else:
        write_out("epoch         none: nothing is trained step by step\n")


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"


def _ray_cluster(engine: str, workers: int, address: str, max_failures: int) -> "Cluster | None":
    """Return the Ray to train with, or None for this process. Raises `ConfigError` for several workers without Ray."""
    if engine == "local":
        if workers > 1:
            raise ConfigError(
                f"--engine local is one process, found --workers {workers}; expected --engine ray, or torchrun"
            )
        return None
    from gtcrec.experiments.execution.ray_trainer import Cluster

    return Cluster(workers, address, max_failures)


def _train_by_ray(config: "RunConfig", folder: Path, ray: "Cluster", fresh: bool = False) -> None:
    from gtcrec.cli.console import say
    from gtcrec.experiments.execution import ray_trainer
    from gtcrec.runtime.files import require_empty

    if fresh:
        require_empty(folder)
    past = ray_trainer.history(folder)
    best = next((e.valid.get(config.train.valid_metric) for e in reversed(past) if e.best), None)

    def epochs(on_step: Callable[[int, int], None]) -> "Iterator[Epoch]":
        return ray_trainer.epochs(config, folder, ray, lambda text: say(text, style="yellow"))

    _show_epochs(folder, config.train, epochs, len(past), best)
    _print_result(folder)


def _print_result(folder: Path) -> None:
    """Print the validation metrics of a finished run."""
    from gtcrec.cli.console import print_table, say
    from gtcrec.reporting.run_comparison import evaluation_table
    from gtcrec.reporting.run_record import read_run_record

    result = read_run_record(folder).result
    epoch = f"epoch {result.best_epoch} of {result.epochs}"
    title = f"{result.model}, best {epoch}, validation, {result.valid.users:,} users, mean and 95 % interval"
    print_table(evaluation_table(result.valid, title))
    say(f"training ended: {result.stop}\nreport: {folder / 'report.html'}")
    if result.test is None:
        say(f"test is one explicit call: gtcrec evaluate {shlex.quote(str(folder))}")


def _show_epochs(
    folder: Path,
    config: "TrainConfig",
    epochs: "Callable[[Callable[[int, int], None]], Iterator[Epoch]]",
    done: int,
    best: float | None,
) -> None:
    """Train, showing each epoch; an interruption says how to resume the run in `folder`."""
    from gtcrec.cli.console import progress, resumable

    hint = f"resume with: gtcrec resume {shlex.quote(str(folder))}"
    display = progress(config.epochs, config.valid_metric, done, best)
    with resumable(hint), display as (after_epoch, after_step):
        for epoch in epochs(after_step):
            after_epoch(epoch)
