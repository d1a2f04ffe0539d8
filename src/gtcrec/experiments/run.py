"""A run is a folder: its configuration, its training, its results, and the trained model, ready to recommend."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import nn

from gtcrec import data, models
from gtcrec.data.datasets import find_source
from gtcrec.data.splits import require_test, require_validation
from gtcrec.errors import RunError
from gtcrec.evaluation.evaluator import evaluate_split, validation_users
from gtcrec.evaluation.report_io import per_user_table, report_to_json
from gtcrec.experiments.config import RunConfig, dump_yaml, load_config
from gtcrec.experiments.item_weights import solve_in_blocks
from gtcrec.experiments.model_bundle import WEIGHTS, ModelBundle, write_bundle_files
from gtcrec.experiments.run_folder import (
    CHECKPOINT,
    STOP_REQUEST,
    check_bound_files,
    check_results,
    describe_dataset,
    describe_environment,
    describe_examples,
    history_files,
    make_run_folder,
    publish_results,
    read_bound_files,
    read_fingerprint,
    read_stored_config,
    staged_results,
    write_per_user,
)
from gtcrec.experiments.trackers import track_epochs
from gtcrec.experiments.warm_start import WarmStart
from gtcrec.reporting.html import write_run_report
from gtcrec.reporting.notebook import run_html
from gtcrec.runtime.block_jobs import Executor
from gtcrec.runtime.files import MANIFEST, json_text, require_empty, sweep_stale, write_json, write_text
from gtcrec.runtime.locks import hold_lock
from gtcrec.runtime.process_group import SINGLE_PROCESS, ProcessGroup, all_gather_object, assert_equal_across_ranks
from gtcrec.training.dry_run import need_memory
from gtcrec.training.trainer import Epoch, Training, epochs
from gtcrec.types import Dataset, Report, Scorer, SolvesItems

__all__ = ["Run", "train"]


class Run:
    """A training and its results in a folder. `gtcrec.train` makes one, `Run.load` opens one.

    Parameters
    ----------
    config : RunConfig
        Everything that decides the outcome.
    folder : path
        Where the files lie.
    dataset : Dataset
        As `config.data` reads it.
    workers : ProcessGroup
        Several that train together each have a Run of the same folder; the first of them writes the files.
    fresh : bool
        False where weights are loaded next.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> shop = gtcrec.data.write_catalog(folder / "shop", n_users=60, n_items=40)
    >>> run = Run.load(gtcrec.train(shop, "popular", folder / "run").folder)
    >>> run.finished, run.epochs_done
    (True, 1)
    """

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        dataset: Dataset,
        workers: ProcessGroup = SINGLE_PROCESS,
        fresh: bool = True,
    ) -> None:
        self.config = config
        self.folder = folder
        self.dataset, self.encoders = dataset, config.data.load_encoders(dataset)
        self.workers = workers
        self.split = data.split(dataset, config.split)
        require_validation(self.split)
        settings = models.make_config(config.model, config.settings, config.preset)
        spread = workers if config.train.embedding_sharding == "row_wise" else None
        fresh = fresh and not config.spec.solves_items  # `epochs` solves for them
        with need_memory(config.model, settings, self.split, config.train) if fresh else nullcontext():
            self.model: nn.Module = models.build_model(
                config.model, self.split.train, self.split.features, settings, config.train.seed, spread, fresh
            )
        self.training = Training(self.model, config.train)
        self.executor: Executor | None = None  # of what is done in blocks; this process if none is given
        self.started_from: dict[str, Any] = {}  # what `create` found in the run whose weights it took over
        self._stamp: tuple[int, ...] = ()  # tells whether another process has replaced the checkpoint meanwhile

    @classmethod
    def create(
        cls,
        config: RunConfig,
        folder: str | Path,
        workers: ProcessGroup = SINGLE_PROCESS,
        init_from: str | Path | None = None,
    ) -> "Run":
        """Start a run in a new or empty folder, from the weights of the run `init_from` if given.

        Raises `RunError` when the folder holds something, and as `WarmStart`.
        """
        folder = Path(folder)
        with hold_lock(folder) if workers.is_main else nullcontext():
            if workers.is_main:
                require_empty(folder, hint="; name another, or go on with `gtcrec resume`")
            start = WarmStart.read(init_from, config) if init_from else None
            run = cls(config, folder, config.data.load(), workers)
            about = describe_dataset(run.dataset, run.split.how)
            if start:
                run.started_from = start.apply(run.model, run.split)
                about["started_from"] = run.started_from
            if workers.is_main:
                run._make_folder(about)
        return run

    def _make_folder(self, about: dict[str, Any]) -> None:
        """Write what says what is trained; with the weights of another run, also a checkpoint before any epoch."""
        texts = {
            "environment.json": json_text({**describe_environment(), "workers": self.workers.size}),
            "data.json": json_text(about),
            "config.yaml": dump_yaml(self.config),
        }
        if not self.started_from:
            make_run_folder(self.folder, texts)
            return
        make_run_folder(
            self.folder, texts | history_files([]), {CHECKPOINT: partial(self.training.save, facts={"files": texts})}
        )
        self._stamp = self._read_stamp()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        path: str | None = None,
        device: str | None = None,
        workers: ProcessGroup = SINGLE_PROCESS,
    ) -> "Run":
        """Open a run, finished or not; `path` says where its data lies now, `device` on what to work now.

        Raises `RunError` when the folder is not a run, is damaged or was edited, or the data is not the run's.
        """
        folder = Path(folder)
        check_results(folder)
        trained = (folder / CHECKPOINT).exists()
        config = read_stored_config(folder, path, device)
        if not Path(config.data.path).exists():
            raise RunError(f"{folder}: its data, {config.data.path}, are not there; say where with --data")
        dataset = config.data.load()
        if dataset.fingerprint != read_fingerprint(folder):
            raise RunError(
                f"{config.data.path}: not the data of this run: its fingerprint differs from the one in data.json"
            )
        run = cls(config, folder, dataset, workers, fresh=not trained)
        if trained:
            run._stamp = run._read_stamp()
            check_bound_files(folder, run.training.load(folder / CHECKPOINT).get("files", {}))
        if run.finished:
            run.model.load_state_dict(run.training.load_tensors(folder / WEIGHTS)[0])
        return run

    @property
    def finished(self) -> bool:
        """Whether training ended and its model and report are written."""
        return bool(self.training.stop) and (self.folder / MANIFEST).exists()

    @property
    def epochs_done(self) -> int:
        return self.training.epochs_done

    def epochs(
        self, on_step: Callable[[int, int], None] = lambda done, steps: None, end_after: int = 0
    ) -> Iterator[Epoch]:
        """Train from where the run stands, yielding after each epoch; at the end the results are written.

        A checkpoint is on disk before the epoch is yielded, so a killed run goes on from there. With `end_after`
        training ends after so many epochs in all, those of earlier calls included, and has its best weights so far.
        Raises `RunError` when another process writes to the run, `GtcrecError` when the loss is no longer finite.
        """
        config, workers = self.config.train, self.workers
        writes = workers.is_main or config.embedding_sharding == "row_wise"  # of which each worker writes its part
        with self._writing() if workers.is_main else nullcontext():
            if workers.is_main:
                (self.folder / STOP_REQUEST).unlink(missing_ok=True)  # to a process that ended before it saw it
            if workers.size > 1:
                assert_equal_across_ranks("their data's fingerprint", self.dataset.fingerprint, workers)
            if isinstance(self.model, SolvesItems) and self.model.n_items:
                fingerprint = self.dataset.fingerprint
                solve_in_blocks(self.model, self.config, fingerprint, self.folder, self.executor, on_step)
            files = read_bound_files(self.folder) if writes else {}
            end_early = self._end_early(end_after)
            training = epochs(
                self.model, self.split, config, self.training, on_step, self.config.evaluate, workers, end_early
            )
            trackers = config.trackers if workers.is_main else ()
            with track_epochs(trackers, self.config, self.folder, self.epochs_done) as track:
                for epoch in training:
                    if writes and (epoch.number % config.checkpoint_every == 0 or epoch.stop):
                        self.training.save(self.folder / CHECKPOINT, {"files": files})
                        if workers.is_main:
                            self._stamp = self._read_stamp()
                            self._write_history()
                    track(epoch)
                    yield epoch
            if writes and not self.finished:
                self._finish()

    def evaluate(self) -> Report:
        """Evaluate the trained model on the test pairs: the explicit final call. Writes the result to the folder."""
        self.need_finished()
        require_test(self.split)
        found = evaluate_split(self.scorer, self.split, "test", self.config.evaluate, self.config.train.seed)
        with self._writing():
            relevant = self.split.final_test()
            examples = describe_examples(self.scorer, self.split, self.dataset, found.users, relevant, self.folder)
            self._write_report("test", found, examples)
        return found

    def bundle(self) -> ModelBundle:
        """Return what the trained model needs to answer, beside its weights."""
        return ModelBundle(
            self.config.model,
            self.config.settings,
            self.config.train.seed,
            self.dataset.users,
            self.dataset.items,
            self.split.train,
            self.split.features,
            item_columns=self.dataset.item_metadata and self.dataset.item_metadata.table(),
            encoders=self.encoders,
        )

    @cached_property
    def scorer(self) -> Scorer:
        """The trained model's scores, computed once."""
        scorer: Scorer = self.model.scorer()  # type: ignore[operator]
        return scorer

    def need_finished(self) -> None:
        """Raise `RunError` unless training has ended."""
        if not self.finished:
            raise RunError(f"{self.folder}: training has not ended; run `gtcrec resume {self.folder}`")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock of the folder; raises `RunError` if another process does or has changed the training."""
        with hold_lock(self.folder):
            if self._read_stamp() != self._stamp:
                raise RunError(f"{self.folder}: another process has gone on with this run; open it again")
            sweep_stale(self.folder, alone=True)
            yield

    def _read_stamp(self) -> tuple[int, ...]:
        try:
            status = (self.folder / CHECKPOINT).stat()
        except FileNotFoundError:
            return ()
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _end_early(self, end_after: int) -> Callable[[int], str]:
        """Return the function that says after each epoch why to end, equally in all workers, or ""."""

        def reason(done: int) -> str:
            if end_after and done >= end_after:
                return f"ended after {done} epochs as asked"
            asked = (self.folder / STOP_REQUEST).exists()
            if self.workers.size > 1:
                asked = any(all_gather_object(asked, self.workers))
            return f"stopped after {done} epochs as asked" if asked else ""

        return reason

    def _write_history(self) -> None:
        for name, text in history_files(self.training.history).items():
            write_text(self.folder / name, text)

    def _finish(self) -> None:
        """Write the model and its validation; of sharded tables all workers write and rank their part."""
        self.training.save_tensors(self.folder / WEIGHTS, self.model.state_dict(), {"model": self.config.model})
        config, seed = self.config.evaluate, self.config.train.seed
        users = validation_users(self.split, config, self.config.train.valid_users, seed)
        found = evaluate_split(self.scorer, self.split, "valid", config, seed, users=users)
        examples = describe_examples(self.scorer, self.split, self.dataset, found.users, self.split.valid, self.folder)
        if self.workers.is_main:
            self._write_history()  # again: a kill may have come between the checkpoint and its history
            write_bundle_files(self.folder, self.bundle(), self.scorer)
            self._write_report("valid", found, examples)
            (self.folder / STOP_REQUEST).unlink(missing_ok=True)

    def _write_report(self, on: str, found: Report, examples: list[dict[str, Any]]) -> None:
        """Write one evaluation and the page."""
        best = self.training.best
        path = self.folder / "report.json"
        past = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        facts = {
            "model": self.config.model,
            "best_epoch": best.number if best else None,
            "epochs": self.epochs_done,
            "stop": self.training.stop,
            "parameters": self.training.parameters,
        }
        with staged_results(self.folder) as staged:
            write_per_user(staged / f"per_user_{on}.parquet", per_user_table(found, self.dataset.users))
            write_json(staged / "report.json", {**past, **facts, on: report_to_json(found)})
            write_json(staged / "examples.json", {"users": examples})
            write_run_report(self.folder, staged=staged)
            publish_results(self.folder, staged)

    def _repr_html_(self) -> str:
        state = self.training.stop or f"{self.epochs_done} of at most {self.config.train.epochs} epochs done"
        facts = [["model", self.config.model], ["data", self.dataset.name], ["folder", str(self.folder)]]
        return run_html(self.folder, [*facts, ["training", state]], self.finished)


def train(
    data: str | Path,
    model: str = "gtc",
    run_dir: str | Path | None = None,
    *,
    init_from: str | Path | None = None,
    callbacks: Iterable[Callable[[Epoch], object]] = (),
    **settings: Any,
) -> Run:
    """Train a model on a data set in a run folder, which holds everything and can be resumed.

    Parameters
    ----------
    data : path or name
        As `load_dataset` takes it.
    model : str
        A name of the registry.
    run_dir : path, optional
        A new or empty folder; `runs/DATA-MODEL-TIME` if not given.
    init_from : path, optional
        A finished run or saved recommender of the same model, whose weights are the first ones; new users and items
        keep those that they would have had.
    callbacks : iterable of callables
        Each is called with every `Epoch`, after its checkpoint is on disk.
    **settings
        Settings by name, of the model or of training, such as `embedding_dim=32` and `epochs=100`; `preset`; and those
        of other sections with a double underscore for the dot, such as `split__strategy="leave_one_out"`.

    Returns
    -------
    Run
        Finished: `evaluate` looks at its test interactions, `Recommender.load(run.folder)` answers.

    Raises
    ------
    ConfigError
        For an unknown setting, with the nearest known one.
    RunError
        For a folder in use.

    Examples
    --------
    >>> import tempfile
    >>> from gtcrec.data import write_catalog
    >>> folder = Path(tempfile.mkdtemp())
    >>> data = write_catalog(folder / "shop", n_users=60, n_items=40)
    >>> run = train(data, "bpr", folder / "bpr", embedding_dim=8, epochs=2)
    >>> run.finished
    True
    """
    named = {key.replace("__", "."): value for key, value in settings.items()}
    config = load_config(str(find_source(data)), model, values=named)
    run = Run.create(config, Path(run_dir) if run_dir else _new_run_folder(config), init_from=init_from)
    watchers = list(callbacks)
    for epoch in run.epochs():
        for watcher in watchers:
            watcher(epoch)
    return run


def _new_run_folder(config: RunConfig) -> Path:
    data = Path(config.data.path)
    return Path("runs") / f"{data.stem}-{config.model}-{time.strftime('%Y%m%d-%H%M%S')}"
