"""Tuning: a model's settings chosen on validation, by a study in a folder that any number of processes work on.

`plan` says what may be tried and refuses what cannot be, `tune` tries it, `tried` reads what was tried, `best` picks.
The folder holds `study.json` (what is tuned, on what), `journal.log` (Optuna's), `trials.csv` and `best.yaml` (a
configuration for `gtcrec train --config`).
"""

import csv
import hashlib
import io
import json
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from gtcrec import data, models
from gtcrec.errors import ConfigError, DataError, GtcrecError, RunError
from gtcrec.experiments.config import RunConfig, dump_yaml, resolve
from gtcrec.experiments.planned_run import flatten
from gtcrec.experiments.tuning.space import configured, searched, value_of
from gtcrec.experiments.tuning.trials import Outcome, Trial, Trials, study_lock
from gtcrec.models.base import Space
from gtcrec.runtime.files import write_json, write_text
from gtcrec.training.trainer import Epoch, Training, epochs
from gtcrec.types import ItemFeatures, Split

__all__ = ["Outcome", "Plan", "Trial", "TuningSplit", "Watch", "best", "plan", "tried", "tune"]

_POLL = 0.5  # seconds between looks at what other processes have done

Watch = Callable[[Trial], AbstractContextManager[tuple[Callable[[Epoch], None], Callable[[int, int], None]]]]
"""Shows a trial: what it yields is called after each epoch and after each step, as `console.progress` is."""


@dataclass(frozen=True)
class Plan:
    """A study: the folder, the settings that its first trial has, each setting's values, and how many trials."""

    out: Path
    config: RunConfig
    space: Space
    trials: int
    seed: int
    prune: bool = False

    @property
    def wanted(self) -> int:
        """How many trials the study will have: no more than the space has settings."""
        return min(self.trials, math.prod(map(len, self.space.values())))

    def configured(self, settings: Mapping[str, Any]) -> RunConfig:
        """Return the whole configuration of a trial with these settings."""
        return configured(self.config, settings)

    def open(self) -> Trials:
        """Open the study's trials."""
        start = {key: values.index(value_of(self.config, key)) for key, values in self.space.items()}
        return Trials(self.out, self.space, start, self.seed, self.prune)


class TuningSplit(Split):
    """The training and validation pairs of a split. It has no test pairs, so nothing that tunes can look at them."""

    def __init__(self, split: Split) -> None:
        nothing = split.train.where(np.zeros(len(split.train), dtype=np.bool_))
        how = {key: value for key, value in split.how.items() if key != "test"}
        super().__init__(split.train, split.valid, nothing, split.features, how)

    def final_test(self) -> NoReturn:
        """Raise `RunError`."""
        raise RunError("tuning chooses on validation: it has no test pairs")


def plan(
    path: str,
    model: str | None,
    out: Path,
    trials: int = 20,
    given: Sequence[str] = (),
    file: Path | None = None,
    space: Path | None = None,
    seed: int = 0,
    prune: bool = False,
) -> Plan:
    """Return a study of `model` on the data at `path`: `trials` trainings, the first with the defaults.

    `given` and `file` are as for `resolve`; settings that `given` names are not searched. `space` is a YAML file that
    replaces the model's own space: setting -> list of values. The default is always one of a setting's values. `seed`
    draws the trials; each training has the seed of the settings. Raises `ConfigError` for a setting or value that
    the model does not have or that must be the same for all trials.
    """
    base = resolve(path, model, file, given)
    return Plan(out, base, searched(base, given, space), trials, seed, prune)


def tune(
    plan: Plan,
    workers: int = 1,
    minutes: float = math.inf,
    retry_running: bool = False,
    watch: Watch | None = None,
) -> Iterator[Trial]:
    """Try settings until the study has its trials, yielding each trial that ends; goes on from where a study stands.

    One worker is this process; more are processes of their own, which share its threads and are not watched. No trial
    starts after `minutes`. Trials of dead processes of this machine are tried again, with `retry_running` also those
    that other machines have not ended. A training whose loss is not finite, or whose settings exclude each other, is a
    failed trial. Raises `RunError` for a folder that holds another study, or other errors of a training as they are.
    """
    deadline = time.time() + 60 * minutes
    split = _begin(plan)
    with plan.open() as trials, trials.locked():
        trials.bury(retry_running)
        _write(plan, trials.all())
    yield from _work(plan, split, deadline, watch or _unseen) if workers == 1 else _share(plan, workers, deadline)


def tried(plan: Plan) -> list[Trial]:
    """Return the study's trials by number, those under way included."""
    with plan.open() as trials:
        return trials.all()


def best(found: Sequence[Trial]) -> Trial:
    """Return the trial with the best validation, of equal ones the first. Raises `RunError` when none has a value."""
    done = [trial for trial in found if trial.state == "done"]
    if not done:
        errors = [trial.outcome.error for trial in found if trial.outcome and trial.outcome.error]
        raise RunError(f"no trial of {len(found)} has a validation{': ' + errors[0] if errors else ' yet'}")
    return max(done, key=lambda trial: trial.value or 0.0)


def _unseen(trial: Trial) -> AbstractContextManager[tuple[Callable[[Epoch], None], Callable[[int, int], None]]]:
    return nullcontext((lambda epoch: None, lambda step, steps: None))


def _begin(plan: Plan) -> TuningSplit:
    """Make the study's folder, or make sure that it is this study's; returns what is tuned on."""
    split, fingerprint = _load(plan.config)
    path = plan.out / "study.json"
    if plan.out.exists() and not plan.out.is_dir():
        raise RunError(f"{plan.out}: wanted a folder, found a file")
    plan.out.mkdir(parents=True, exist_ok=True)
    with study_lock(plan.out):
        others = [file.name for file in plan.out.iterdir() if file.name != "lock" and not file.name.startswith(".")]
        facts = _facts(plan, fingerprint)
        if path.exists():
            _check_same(path, facts)
        elif others:
            raise RunError(f"{plan.out}: wanted a study or an empty folder, found {others[0]} and no study.json")
        write_json(path, {"trials": plan.trials, **facts})
    return split


def _load(config: RunConfig) -> tuple[TuningSplit, str]:
    """What is tuned on, and a sum of it; the test pairs end here."""
    dataset = config.data.load()
    split = TuningSplit(data.split(dataset, config.split))
    unlabelled = replace(dataset, labels=None, times=None)
    parts = [
        replace(unlabelled, interactions=split.train),
        replace(unlabelled, interactions=split.valid, features=ItemFeatures(len(dataset.items))),
    ]
    return split, hashlib.sha256(" ".join(part.fingerprint for part in parts).encode()).hexdigest()


def _facts(plan: Plan, fingerprint: str) -> dict[str, Any]:
    """What makes a study this one; where its data lie and on what it trains may change."""
    config = plan.config.model_dump(mode="json")
    del config["data"]["path"], config["train"]["device"]
    space = {key: list(values) for key, values in plan.space.items()}
    return {"data": fingerprint, "seed": plan.seed, "prune": plan.prune, "space": space, "config": config}


def _check_same(path: Path, facts: Mapping[str, Any]) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        there = dict(flatten({key: found[key] for key in facts}))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: damaged: {type(error).__name__}: {error}") from error
    wanted = dict(flatten(facts))
    for key in [*wanted, *there]:
        if there.get(key) != wanted.get(key):
            raise RunError(
                f"{path}: another study: {key} is {there.get(key)!r} there and {wanted.get(key)!r} here; "
                "give another --out"
            )


def _work(plan: Plan, split: TuningSplit, deadline: float, watch: Watch) -> Iterator[Trial]:
    """Try settings in this process until none are left to try or the time is up."""
    with plan.open() as trials:
        while time.time() < deadline and (trial := trials.claim(plan.trials)):
            outcome = _train(plan, split, trial, trials, watch)
            with trials.locked():
                trials.finish(trial, outcome)
                found = trials.all()
                _write(plan, found)
            yield from (one for one in found if one.record == trial.record)


def _train(plan: Plan, split: TuningSplit, trial: Trial, trials: Trials, watch: Watch) -> Outcome:
    began = time.perf_counter()
    try:
        config = plan.configured(trial.settings)
    except ConfigError as refused:  # each value is fine with the defaults, these are not together
        return Outcome(None, None, 0, 0.0, error=str(refused))
    settings = models.settings(config.model, config.settings, config.preset)
    model = models.build(config.model, split.train, split.features, settings, config.train.seed)
    training, metric = Training(model, config.train), config.train.valid_metric
    only = config.evaluate.model_copy(update={"metrics": (metric,)})
    error, pruned = "", False
    try:
        with watch(trial) as (after_epoch, after_step):
            for epoch in epochs(model, split, config.train, training, after_step, only):
                after_epoch(epoch)
                if plan.prune and epoch.valid and not epoch.stop:
                    pruned = trials.report(trial, epoch.number, epoch.valid[metric])
                    if pruned:
                        break
    except (ConfigError, DataError, RunError):
        raise
    except GtcrecError as failure:  # the loss is not finite
        error = str(failure)
    seconds, top = round(time.perf_counter() - began, 3), training.best
    value = top.valid[metric] if top and not error else None
    return Outcome(value, top.number if top else None, len(training.history), seconds, pruned, error)


def _share(plan: Plan, workers: int, deadline: float) -> Iterator[Trial]:
    """Let processes of their own try settings, yielding the trials that end meanwhile, whoever tried them."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // workers)
    ends = [context.Pipe(duplex=False) for _ in range(workers)]
    started = [context.Process(target=_serve, args=(plan, threads, deadline, end), daemon=True) for _, end in ends]
    try:
        for process, (_, sender) in zip(started, ends, strict=True):
            process.start()
            sender.close()
        yield from _follow(plan, started, [receiver for receiver, _ in ends])
    finally:
        for process in started:
            if process.pid:
                process.terminate()  # whatever it was trying will be tried again
                process.join()
    codes = [process.exitcode for process in started if process.exitcode]
    if codes and time.time() < deadline and sum(trial.state != "running" for trial in tried(plan)) < plan.wanted:
        raise RunError(f"{plan.out}: a worker ended with exit code {codes[0]}; the same command goes on from here")


def _follow(plan: Plan, started: Sequence[Any], receivers: Sequence[Any]) -> Iterator[Trial]:
    """Yield the trials that end until the processes have ended; an error of one is raised."""
    with plan.open() as trials:
        ended = {trial.record for trial in trials.all() if trial.outcome}
        alive = True
        while alive:
            wait([process.sentinel for process in started if process.is_alive()], _POLL)
            alive = any(process.is_alive() for process in started)
            fresh = [trial for trial in trials.all() if trial.outcome and trial.record not in ended]
            ended |= {trial.record for trial in fresh}
            yield from fresh
            for receiver in receivers:
                _raise_from(receiver)


def _raise_from(receiver: Any) -> None:
    """Raise the error that a process sent, if it did."""
    try:
        if receiver.poll():
            raise receiver.recv()
    except EOFError:  # it has ended
        pass


def _serve(plan: Plan, threads: int, deadline: float, sender: Any) -> None:
    """What a process of several does; it ends when the one that started it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the one that started this ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        for _ in _work(plan, _load(plan.config)[0], deadline, _unseen):
            pass
    except GtcrecError as error:
        sender.send(error)
    except Exception as error:
        sender.send(GtcrecError(f"{type(error).__name__}: {error}"))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        wait([parent.sentinel])
        os._exit(1)


def _write(plan: Plan, found: Sequence[Trial]) -> None:
    """Write the table of trials and, once one has a value, the best configuration."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    metric = plan.config.train.valid_metric
    lines.writerow(["trial", "state", metric, "best_epoch", "epochs", "seconds", *plan.space, "error"])
    for trial in found:
        out = trial.outcome
        results = [out.value, out.best_epoch, out.epochs, out.seconds] if out else [""] * 4
        values = [json.dumps(trial.settings[key]) for key in plan.space]
        lines.writerow([trial.number, trial.state, *results, *values, out.error if out else ""])
    write_text(plan.out / "trials.csv", text.getvalue())
    if any(trial.state == "done" for trial in found):
        write_text(plan.out / "best.yaml", dump_yaml(plan.configured(best(found).settings)))
