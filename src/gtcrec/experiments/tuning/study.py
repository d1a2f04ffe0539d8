"""Tuning: a model's settings chosen on validation, by a study in a folder that any number of processes work on.

`plan` says what may be tried and refuses what cannot be, `tune` tries it, `list_trials` reads it, `best` picks.
The folder holds `study.json` (what is tuned, on what), `journal.log` (Optuna's), `trials.csv` and `best.yaml` (a
configuration for `gtcrec train --config`).
"""

import csv
import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from torch import nn

from gtcrec import data, models
from gtcrec.data.formats.load import rename_old_settings
from gtcrec.data.splits import require_validation
from gtcrec.errors import ConfigError, DataError, GtcrecError, RunError
from gtcrec.evaluation.evaluator import evaluate_split, validation_users
from gtcrec.experiments.config import RunConfig, dump_yaml, load_config
from gtcrec.experiments.execution.scheduler import WorkerPool
from gtcrec.experiments.execution.worker import Send
from gtcrec.experiments.planned_run import flatten
from gtcrec.experiments.tuning.grids import Grid, extend_grids
from gtcrec.experiments.tuning.space import apply_settings, rename_space, resolve_space, value_of
from gtcrec.experiments.tuning.trials import Outcome, Trial, Trials, study_lock
from gtcrec.models.base import SearchSpace
from gtcrec.runtime.files import write_json, write_text
from gtcrec.training.trainer import Epoch, TrainConfig, Training, epochs
from gtcrec.types import ItemFeatures, Split

__all__ = [
    "EXTEND",
    "Outcome",
    "Trial",
    "TuningPlan",
    "TuningSplit",
    "Watch",
    "best",
    "list_trials",
    "missing_trials",
    "plan",
    "tune",
]

EXTEND = 2  # values outside a grid, on each side
_POLL = 0.5  # seconds between looks at what other processes have done

Watch = Callable[[Trial], AbstractContextManager[tuple[Callable[[Epoch], None], Callable[[int, int], None]]]]
"""Shows a trial: what it yields is called after each epoch and after each step, as `console.progress` is."""


@dataclass(frozen=True)
class TuningPlan:
    """A study: the folder, the settings that its first trial has, each setting's values, and how many trials.

    `extend` is how many values outside a grid may be tried on each side, while the winner stands there.
    """

    out: Path
    config: RunConfig
    space: SearchSpace
    trials: int
    seed: int
    prune: bool = False
    extend: int = EXTEND

    @property
    def size(self) -> int:
        """How many trials the study will have in its space: no more than the space has settings."""
        return min(self.trials, math.prod(map(len, self.space.values())))

    @cached_property
    def grids(self) -> dict[str, Grid]:
        """Each setting's values with those outside of the space."""
        return extend_grids(self.config, self.space, self.extend)

    def configure(self, settings: Mapping[str, Any]) -> RunConfig:
        """Return the whole configuration of a trial with these settings."""
        return apply_settings(self.config, settings)

    def open(self) -> Trials:
        """Open the study's trials."""
        start = {key: values.index(value_of(self.config, key)) for key, values in self.space.items()}
        return Trials(self.out, self.space, start, self.seed, self.prune, self.grids)


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
    settings: Sequence[str] = (),
    file: Path | None = None,
    space: Path | None = None,
    seed: int = 0,
    prune: bool = False,
    extend: int = EXTEND,
) -> TuningPlan:
    """Return a study of `model` on the data at `path`: `trials` trainings, the first with the defaults.

    `settings` and `file` are as for `load_config`; what `settings` names is not searched. `space` is a YAML file that
    replaces the model's own space: setting -> list of values. The default is always one of a setting's values. `seed`
    draws the trials; each training has the seed of the settings. `extend` values outside each grid may be tried. A
    study that is there keeps its own space and metric where nothing else is given. Raises `ConfigError` for a setting
    or value that the model does not have or that must be the same for all trials.
    """
    base = load_config(path, model, file, settings)
    stored = _read_facts(out / "study.json", base.model)
    if stored and not file:
        metric = stored["config"]["train"]["valid_metric"]
        base = load_config(path, model, file, [f"train.valid_metric={metric}", *settings])
    values = resolve_space(base, settings, space, (stored or {}).get("space"))
    return TuningPlan(out, base, values, trials, seed, prune, extend)


def tune(
    plan: TuningPlan,
    jobs: int = 1,
    minutes: float = math.inf,
    retry_running: bool = False,
    watch: Watch | None = None,
) -> Iterator[Trial]:
    """Try settings until the study has its trials, yielding each trial that ends; goes on from where a study stands.

    One job is this process; more are processes of their own, which share the cores and are not watched. No trial
    starts after `minutes`. Trials of dead processes of this machine are tried again, with `retry_running` also those
    that other machines have not ended. A training whose loss is not finite, or whose settings exclude each other, is a
    failed trial. Raises `RunError` for a folder that holds another study, or other errors of a training as they are.
    """
    deadline = time.time() + 60 * minutes
    split = _open_study_folder(plan)
    with plan.open() as trials, trials.locked():
        trials.reap_dead_trials(retry_running)
        _write_tables(plan, trials.all())
    if jobs == 1:
        yield from _try_settings(plan, split, deadline, watch or _watch_nothing)
    else:
        yield from run_in_processes(plan, jobs, deadline)


def list_trials(plan: TuningPlan) -> list[Trial]:
    """Return the study's trials by number, those under way included."""
    with plan.open() as trials:
        return trials.all()


def missing_trials(plan: TuningPlan, found: Sequence[Trial]) -> int:
    """Return how many of the study's trials have not ended, those outside of its space left out."""
    return max(0, plan.size - sum(trial.state != "running" and not trial.outside for trial in found))


def best(found: Sequence[Trial]) -> Trial:
    """Return the trial with the best validation, of equal ones the first. Raises `RunError` when none has a value."""
    done = [trial for trial in found if trial.state == "done"]
    if not done:
        errors = [trial.outcome.error for trial in found if trial.outcome and trial.outcome.error]
        raise RunError(f"no trial of {len(found)} has a validation{': ' + errors[0] if errors else ' yet'}")
    return max(done, key=lambda trial: trial.value or 0.0)


def _watch_nothing(trial: Trial) -> AbstractContextManager[tuple[Callable[[Epoch], None], Callable[[int, int], None]]]:
    return nullcontext((lambda epoch: None, lambda step, steps: None))


def _open_study_folder(plan: TuningPlan) -> TuningSplit:
    """Make the study's folder, or make sure that it is this study's; returns what is tuned on."""
    split, fingerprint = _load_tuning_split(plan.config)
    path = plan.out / "study.json"
    if plan.out.exists() and not plan.out.is_dir():
        raise RunError(f"{plan.out}: expected a folder, found a file")
    plan.out.mkdir(parents=True, exist_ok=True)
    with study_lock(plan.out):
        others = [file.name for file in plan.out.iterdir() if file.name != "lock" and not file.name.startswith(".")]
        facts = _study_facts(plan, fingerprint)
        if path.exists():
            _check_same(path, facts)
        elif others:
            raise RunError(f"{plan.out}: expected a study or an empty folder, found {others[0]} and no study.json")
        write_json(path, {"trials": plan.trials, "extend": plan.extend, **facts})
    return split


def _load_tuning_split(config: RunConfig) -> tuple[TuningSplit, str]:
    """What is tuned on, and a sum of it; the test pairs end here."""
    dataset = config.data.load()
    split = TuningSplit(data.split(dataset, config.split))
    require_validation(split)
    unlabelled = replace(dataset, labels=None, times=None)
    parts = [
        replace(unlabelled, interactions=split.train),
        replace(unlabelled, interactions=split.valid, features=ItemFeatures(len(dataset.items))),
    ]
    return split, hashlib.sha256(" ".join(part.fingerprint for part in parts).encode()).hexdigest()


def _study_facts(plan: TuningPlan, fingerprint: str) -> dict[str, Any]:
    """What makes a study this one; where its data lie and on what it trains may change."""
    config = plan.config.model_dump(mode="json")
    del config["data"]["path"], config["train"]["device"]
    space = {key: list(values) for key, values in plan.space.items()}
    return {"data": fingerprint, "seed": plan.seed, "prune": plan.prune, "space": space, "config": config}


def _check_same(path: Path, facts: Mapping[str, Any]) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found["config"]["data"] = rename_old_settings(found["config"]["data"])
        stored = dict(flatten(_current_facts({key: found[key] for key in facts})))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: damaged: {type(error).__name__}: {error}") from error
    planned = dict(flatten(facts))
    for key in [*planned, *stored]:
        if stored.get(key) != planned.get(key):
            raise RunError(
                f"{path}: another study: {key} is {stored.get(key)!r} there and {planned.get(key)!r} here; "
                "give another --out"
            )


def _read_facts(path: Path, model: str) -> dict[str, Any] | None:
    """The facts of a study of this model; None where there is none, or none that can be read."""
    try:
        facts = _current_facts(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, GtcrecError):
        return None  # `_check_same` says what is wrong
    return facts if facts["config"]["model"] == model else None


def _current_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a study under today's names of settings, those that came later at their defaults."""
    config = facts["config"]
    stored = models.complete_settings(config["model"], config["settings"])
    settings = models.make_config(config["model"], stored, config.get("preset", "default"))
    train = TrainConfig(**config["train"]).model_dump(mode="json", exclude={"device"})
    current = {"settings": settings.model_dump(mode="json"), "train": train}
    space = {key: list(values) for key, values in rename_space(facts["space"], config["model"]).items()}
    return {**facts, "space": space, "config": {**config, **current}}


def _try_settings(plan: TuningPlan, split: TuningSplit, deadline: float, watch: Watch) -> Iterator[Trial]:
    """Try settings in this process until none are left to try or the time is up."""
    with plan.open() as trials:
        while time.time() < deadline and (trial := trials.claim(plan.trials)):
            outcome = _train_trial(plan, split, trial, trials, watch)
            with trials.locked():
                trials.finish(trial, outcome)
                found = trials.all()
                _write_tables(plan, found)
            yield from (one for one in found if one.record == trial.record)


def _train_trial(plan: TuningPlan, split: TuningSplit, trial: Trial, trials: Trials, watch: Watch) -> Outcome:
    began = time.perf_counter()
    try:
        config = plan.configure(trial.settings)
    except ConfigError as refused:  # each value is fine with the defaults, these are not together
        return Outcome(None, None, 0, 0.0, error=str(refused))
    settings = models.make_config(config.model, config.settings, config.preset)
    model = models.build_model(config.model, split.train, split.features, settings, config.train.seed)
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
    spread = None if error or pruned else _standard_error(model, split, config, metric)
    seconds, top = round(time.perf_counter() - began, 3), training.best
    value = top.valid[metric] if top and not error else None
    return Outcome(value, top.number if top else None, training.epochs_done, seconds, pruned, error, spread)


def _standard_error(model: nn.Module, split: TuningSplit, config: RunConfig, metric: str) -> float | None:
    """The standard error over the validation users of a trained model's metric; None for fewer than two users."""
    train = config.train
    users = validation_users(split, config.evaluate, train.valid_users, train.seed)
    if len(users) < 2:
        return None
    scorer = model.scorer()  # type: ignore[operator]
    report = evaluate_split(scorer, split, "valid", config.evaluate, metrics=(metric,), details=False, users=users)
    return float(report.per_user[metric].std(ddof=1)) / math.sqrt(len(users))


def run_in_processes(plan: TuningPlan, jobs: int, deadline: float) -> Iterator[Trial]:
    """Try settings in processes, yielding the trials that end meanwhile, also those of other machines.

    An error of a process is raised here; one that is killed costs no trial, but `RunError` if none goes on.
    """
    codes: list[int] = []
    with WorkerPool[int](jobs) as pool, plan.open() as trials:
        ended = {trial.record for trial in trials.all() if trial.outcome}
        for number in range(jobs):
            pool.start(number, _try_settings_in_process, plan, deadline)
        while pool.busy:
            events = [event for _, event in pool.events(_POLL)]
            fresh = [trial for trial in trials.all() if trial.outcome and trial.record not in ended]
            ended |= {trial.record for trial in fresh}
            yield from fresh
            for event in events:
                if "error" in event:
                    raise event["error"]
                codes += [event["exit"]] if event["exit"] else []
    if codes and time.time() < deadline and missing_trials(plan, list_trials(plan)):
        raise RunError(f"{plan.out}: a worker ended with exit code {codes[0]}; the same command goes on from here")


def _try_settings_in_process(send: Send, plan: TuningPlan, deadline: float) -> None:
    for _ in _try_settings(plan, _load_tuning_split(plan.config)[0], deadline, _watch_nothing):
        pass


def _write_tables(plan: TuningPlan, found: Sequence[Trial]) -> None:
    """Write the table of trials and, once one has a value, the best configuration."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    metric = plan.config.train.valid_metric
    results = ["standard_error", "best_epoch", "epochs", "seconds"]
    lines.writerow(["trial", "state", metric, *results, *plan.space, "outside", "at_edge", "error"])
    for trial in found:
        out = trial.outcome
        came = [out.value, *(getattr(out, name) for name in results)] if out else [""] * 5
        values = [json.dumps(trial.settings[key]) for key in plan.space]
        edges = [" ".join(trial.outside), " ".join(trial.at_edge)]
        lines.writerow([trial.number, trial.state, *came, *values, *edges, out.error if out else ""])
    write_text(plan.out / "trials.csv", text.getvalue())
    if any(trial.state == "done" for trial in found):
        write_text(plan.out / "best.yaml", dump_yaml(plan.configure(best(found).settings)))
