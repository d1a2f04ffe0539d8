"""The trials of a tuning study: what was tried, and what comes next, in an Optuna journal that several processes share.

A process that reads or writes the journal holds the study's lock. A trial that is under way names its worker, which
holds a lock of its own. The system frees both locks when a process ends, in whatever way, so a dead worker's trial is
known at once and nothing waits for a time-out. Several machines can share a folder on a file system that honours file
locks, as NFS does. Needs the extra `tune`.
"""

import copy
import glob
import itertools
import os
import platform
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock, Timeout

from gtcrec.errors import ConfigError, RunError
from gtcrec.experiments.tuning.grids import Grid, beyond, open_edges
from gtcrec.models.base import SearchSpace
from gtcrec.models.renamed import RENAMED

__all__ = ["Outcome", "Trial", "Trials", "study_lock"]

_STREAM = 6  # keeps these draws apart from others that start from the same seed
_DRAWS = 30  # of the sampler, before untried settings are drawn evenly
_WARM_UP = 10  # epochs before a trial may be pruned
_NAME = "gtcrec"  # of the one study in the journal


@dataclass(frozen=True)
class Outcome:
    """What a trial's training came to; `value` is its best validation, None if it broke down, as `error` then says.

    `standard_error` is that of `value` as a mean over the validation users; None for trials that did not end by
    themselves, and for those of version 0.2 and before.
    """

    value: float | None
    best_epoch: int | None
    epochs: int
    seconds: float
    pruned: bool = False
    error: str = ""
    standard_error: float | None = None


@dataclass(frozen=True)
class Trial:
    """Settings that are tried; `number` counts from 1, which has the defaults, `record` is the journal's number.

    `outside` are the settings whose value lies outside of the space, `at_edge` those whose value is the first or last
    of all that was tried, though there are further ones.
    """

    number: int
    settings: Mapping[str, Any]
    state: str  # running, done, pruned or failed
    record: int
    outcome: Outcome | None = None
    outside: tuple[str, ...] = ()
    at_edge: tuple[str, ...] = ()

    @property
    def value(self) -> float | None:
        """The best validation, if the trial has ended with one."""
        return self.outcome.value if self.outcome else None


class Trials:
    """The trials of the study in `folder`, as one worker sees and adds to them; a context, at whose end it leaves.

    `space` has each setting's values, `start` the place of the default among them. A trial's settings are drawn by
    Optuna's TPE sampler from `seed`, the trial's number and the trials before it, so that one worker draws the same
    trials whether or not it was stopped in between. Several workers draw while trials are under way, so which
    settings they try depends on who ends first; each number is tried once all the same. Settings that were tried or
    are being tried are never drawn again: the study ends early when the whole space has been tried.

    Then the best trial decides: while one of its settings stands at the edge of its grid, the next value outside is
    tried, with the best trial's other settings, as far as `grids` go; without them nothing outside is tried.
    """

    def __init__(
        self,
        folder: Path,
        space: SearchSpace,
        start: Mapping[str, int],
        seed: int,
        prune: bool = False,
        grids: Mapping[str, Grid] | None = None,
    ) -> None:
        self.folder = folder
        self.space = space
        self.start = start
        self.seed = seed
        self.size = int(np.prod([len(values) for values in space.values()], dtype=object))
        self._optuna = _import_optuna()
        self.grids = grids or {key: Grid(tuple(values)) for key, values in space.items()}
        self._distributions = {key: self._distribution(values) for key, values in space.items()}
        self._wide = {key: self._distribution(values, self.grids[key].extend) for key, values in space.items()}
        self._lock = study_lock(folder)
        self._worker: FileLock | None = None
        self._claimed: dict[int, Any] = {}  # record -> Optuna's handle of a trial that this worker has under way
        with self.locked():
            for stale in folder.glob(".*.tmp"):  # a killed process's; writers hold the lock
                stale.unlink()
            self._study = self._open_study(prune)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Leave; a trial that this worker has not finished will be tried again."""
        if self._worker:
            self._worker.release(force=True)
            Path(self._worker.lock_file).unlink(missing_ok=True)
            self._worker = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the study's lock, which this object may hold already."""
        logging = self._optuna.logging
        with self._lock:
            level = logging.get_verbosity()
            logging.set_verbosity(logging.ERROR)
            try:
                if self._lock.lock_counter == 1:
                    _drop_torn_line(self.folder / "journal.log")
                yield
            finally:
                logging.set_verbosity(level)

    def all(self) -> list[Trial]:
        """Return the trials by number, without the records of those whose worker died."""
        with self.locked():
            records = list(self._living_records().values())
            places = [record.params for record in records]
            return [self._to_trial(record, places) for record in records]

    def claim(self, count: int) -> Trial | None:
        """Return the next trial that no worker has, now this worker's; None when there is none.

        It is one of `count` in the space, or after them one outside.
        """
        with self.locked():
            self.reap_dead_trials()
            records = self._living_records()
            number = next(n for n in itertools.count(1) if n not in records)
            params = self._next_params(number, list(records.values()), min(count, self.size))
            if params is None:
                return None
            owner = {"host": platform.node(), "worker": self._worker_name()}
            attributes = {"number": number, "settings": self._settings(params), **owner}
            self._study.enqueue_trial(params, user_attrs=attributes)
            claimed = self._study.ask(self._distributions if self._is_inside(params) else self._wide)
            self._claimed[claimed.number] = claimed
            records = self._living_records()
            return self._to_trial(records[number], [record.params for record in records.values()])

    def report(self, trial: Trial, epoch: int, value: float) -> bool:
        """Note a trial's validation after an epoch; returns whether to end it: its best is below the others' median."""
        with self.locked():
            if not self._is_claimed(trial):
                return False
            claimed = self._claimed[trial.record]
            claimed.report(value, epoch)
            return bool(claimed.should_prune())

    def finish(self, trial: Trial, outcome: Outcome) -> None:
        """Note how a trial ended; nothing is noted if it has been taken from this worker as one of the dead."""
        with self.locked():
            if not self._is_claimed(trial):
                return
            claimed = self._claimed.pop(trial.record)
            claimed.set_user_attr("outcome", asdict(outcome))
            if outcome.pruned or outcome.value is None:  # the sampler counts it among the worst
                self._study.tell(claimed, state=self._optuna.trial.TrialState.PRUNED)
            else:
                self._study.tell(claimed, outcome.value)

    def reap_dead_trials(self, others: bool = False) -> None:
        """Free the trials of this machine's dead workers and, with `others`, those under way on other machines."""
        states = self._optuna.trial.TrialState
        with self.locked():
            while self._study.get_trials(deepcopy=False, states=(states.WAITING,)):  # killed while it claimed
                self._study.ask(self._wide)
            for record in self._study.get_trials(deepcopy=False, states=(states.RUNNING,)):
                file = self.folder / "workers" / record.user_attrs["worker"]
                here = record.user_attrs["host"] == platform.node()
                if _is_free(file) if here else others:
                    self._study.tell(record.number, state=states.FAIL)
                    file.unlink(missing_ok=True)
            for file in (self.folder / "workers").glob(f"{glob.escape(platform.node())}-*"):
                if _is_free(file):  # of a worker that died between two trials
                    file.unlink(missing_ok=True)

    def _open_study(self, prune: bool) -> Any:
        optuna, path = self._optuna, self.folder / "journal.log"
        try:
            backend = optuna.storages.journal.JournalFileBackend(str(path), lock_obj=_StudyLockHeld())
            return optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                sampler=optuna.samplers.RandomSampler(seed=0),  # not asked: `_draw_params` does that
                pruner=optuna.pruners.MedianPruner(n_warmup_steps=_WARM_UP) if prune else optuna.pruners.NopPruner(),
                study_name=_NAME,
                direction="maximize",
                load_if_exists=True,
            )
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunError(f"{path}: damaged: {type(error).__name__}: {error}") from error

    def _distribution(self, values: Sequence[Any], extend: int = 0) -> Any:
        """Places in the values and outside: near ones are alike where the values are numbers, and only there."""
        if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
            return self._optuna.distributions.IntDistribution(-extend, len(values) - 1 + extend)
        return self._optuna.distributions.CategoricalDistribution(tuple(range(len(values))))

    def _living_records(self) -> dict[int, Any]:
        """The records by number; those that failed or wait are of workers that died."""
        states = self._optuna.trial.TrialState
        records = self._study.get_trials(deepcopy=False)
        renamed = [self._rename(t) for t in records if t.state not in (states.FAIL, states.WAITING)]
        living = {t.user_attrs["number"]: t for t in renamed}
        return dict(sorted(living.items()))

    def _abandoned_params(self, number: int) -> dict[str, int] | None:
        """The settings of the dead worker that last had this number, if it lived to note all of them."""
        failed = self._study.get_trials(deepcopy=False, states=(self._optuna.trial.TrialState.FAIL,))
        whole = [t for t in failed if len(t.params) == len(self.space)]
        same = (t for t in reversed(whole) if t.user_attrs["number"] == number)
        return next((dict(self._rename(t).params) for t in same), None)

    def _rename(self, record: Any) -> Any:
        """A record under today's names of settings, which are those of the space."""
        if set(record.params) == set(self.space):
            return record
        names = {}
        for key in record.params:
            section, dot, name = key.rpartition(".")
            names[key] = f"{section}{dot}{RENAMED[name].name if key not in self.space and name in RENAMED else name}"
        renamed = copy.copy(record)
        renamed.params = {names[key]: value for key, value in record.params.items()}
        renamed.distributions = {names[key]: value for key, value in record.distributions.items()}
        renamed.user_attrs = {**record.user_attrs, "settings": self._settings(renamed.params)}
        return renamed

    def _settings(self, params: Mapping[str, int]) -> dict[str, Any]:
        return {key: self.grids[key].value(place) for key, place in params.items() if key in self.space}

    def _is_inside(self, params: Mapping[str, int]) -> bool:
        return not any(grid.outside(params[key]) for key, grid in self.grids.items())

    def _next_params(self, number: int, records: list[Any], count: int) -> dict[str, int] | None:
        """The settings of the trial of this number: a dead worker's, new ones in the space, or outside; None: no more.

        Outside is tried once all `count` trials in the space have ended.
        """
        inside = [record for record in records if self._is_inside(record.params)]
        abandoned = self._abandoned_params(number)
        if abandoned and (len(inside) < count or not self._is_inside(abandoned)):
            return abandoned
        if len(inside) < count:
            return self._draw_params(number, inside)
        states = self._optuna.trial.TrialState
        done = [record for record in records if record.state == states.COMPLETE]
        if not done or any(record.state == states.RUNNING for record in inside):
            return None
        best = max(done, key=lambda record: record.value)
        return beyond(best.params, [record.params for record in records], self.grids)

    def _draw_params(self, number: int, past: list[Any]) -> dict[str, int]:
        """Settings that no worker has tried; those under way spread the draws, and so do repeated ones."""
        if number == 1:
            return dict(self.start)
        optuna = self._optuna
        first, second = np.random.SeedSequence([_STREAM, self.seed, number]).generate_state(2).tolist()
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=first))
        study.add_trials(past)
        tried = [record.params for record in past]
        for _ in range(_DRAWS):
            params: dict[str, int] = study.ask(self._distributions).params
            if params not in tried:
                return params
        rng = np.random.default_rng(second)
        while True:  # some settings are untried, as there are fewer trials than settings
            params = {key: int(rng.integers(len(values))) for key, values in self.space.items()}
            if params not in tried:
                return params

    def _worker_name(self) -> str:
        """The name of the file that this worker holds a lock on for as long as it lives."""
        if self._worker is None:
            (self.folder / "workers").mkdir(exist_ok=True)
            name = f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
            self._worker = FileLock(self.folder / "workers" / name)
            self._worker.acquire()
        return Path(self._worker.lock_file).name

    def _is_claimed(self, trial: Trial) -> bool:
        """Whether a trial under way is this worker's still."""
        running = self._study.get_trials(deepcopy=False)[trial.record].state == self._optuna.trial.TrialState.RUNNING
        return running and trial.record in self._claimed

    def _to_trial(self, record: Any, tried: Sequence[Mapping[str, int]]) -> Trial:
        """A record as a trial; `tried` are the places of all."""
        attributes, states = record.user_attrs, self._optuna.trial.TrialState
        outside = tuple(key for key, grid in self.grids.items() if grid.outside(record.params[key]))
        edges = tuple(open_edges(record.params, tried, self.grids))
        facts = attributes["number"], attributes["settings"]
        if record.state == states.RUNNING:
            return Trial(*facts, "running", record.number, None, outside, edges)
        outcome = Outcome(**attributes["outcome"])
        state = "failed" if outcome.error else "pruned" if outcome.pruned else "done"
        return Trial(*facts, state, record.number, outcome, outside, edges)


def study_lock(folder: Path) -> FileLock:
    """Return the lock of the study in a folder, of one process at a time; a context that waits for it."""
    return FileLock(folder / "lock")


class _StudyLockHeld:
    """The journal's lock, for Optuna: a process that writes holds the study's lock already."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError('optuna is not installed; pip install "gtcrec[tune]"') from error
    return optuna


def _is_free(file: Path) -> bool:
    """Whether no process holds a lock on the file, or it is not there."""
    try:
        with FileLock(file).acquire(blocking=False):
            return True
    except Timeout:
        return False


def _drop_torn_line(path: Path) -> None:
    """Cut off what a process killed while it wrote left of its last line."""
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
