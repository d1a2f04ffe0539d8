"""A run is a folder: its configuration, its training, its results, and the trained model, ready to recommend."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import nn

from gtcrec import data, models
from gtcrec.errors import DataError, RunError
from gtcrec.evaluation.evaluator import evaluate_split, recommend, valid_users
from gtcrec.evaluation.report_io import per_user_table, report_to_json
from gtcrec.experiments.config import RunConfig, dump_yaml, resolve
from gtcrec.experiments.run_folder import _about, _environment, _write_per_user, read_stored_config, require_empty
from gtcrec.ops.fold_in import history_matrix
from gtcrec.reporting import html as report
from gtcrec.runtime.files import MANIFEST, atomic_path, check_manifest, write_json, write_manifest, write_text
from gtcrec.runtime.process_group import ProcessGroup, assert_equal_across_ranks
from gtcrec.training.trainer import Epoch, Training, epochs
from gtcrec.types import Dataset, FoldsIn, Interactions, Ints, Report, Scorer, TopK

__all__ = ["RecommendedItem", "Run", "fit"]

_CHECKPOINT = "checkpoint.safetensors"
_MODEL = "model.safetensors"
_EXAMPLES = 4  # users whose lists the report shows
_ALONE = ProcessGroup()


@dataclass(frozen=True)
class RecommendedItem:
    """One place of a list, in external ids."""

    user: Any
    item: Any
    rank: int
    score: float


class Run:
    """A training and its results in a folder. `Run.create` starts one, `Run.load` opens one.

    Several `workers` that train together each have a Run of the same folder; the first of them writes the files.
    """

    def __init__(
        self, config: RunConfig, folder: Path, dataset: Dataset, workers: ProcessGroup = _ALONE, fresh: bool = True
    ) -> None:
        """`fresh`: the model is one to train; if not, its weights are loaded next."""
        self.config = config
        self.folder = folder
        self.dataset = dataset
        self.workers = workers
        self.split = data.split(dataset, config.split)
        settings = models.settings(config.model, config.settings, config.preset)
        spread = workers if config.train.tables == "sharded" else None
        self.model: nn.Module = models.build(
            config.model, self.split.train, self.split.features, settings, config.train.seed, spread, fresh
        )
        self.training = Training(self.model, config.train)

    @classmethod
    def create(cls, config: RunConfig, folder: str | Path, workers: ProcessGroup = _ALONE) -> "Run":
        """Start a run in a new or empty folder. Raises `RunError` when the folder holds something."""
        folder = Path(folder)
        if not workers.is_main:
            return cls(config, folder, config.data.load(), workers)
        require_empty(folder)
        run = cls(config, folder, config.data.load(), workers)
        fresh = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")  # becomes the run when it is complete
        fresh.mkdir(parents=True)
        write_json(fresh / "environment.json", {**_environment(), "workers": workers.size})
        write_json(fresh / "data.json", _about(run.dataset, run.split.how))
        write_text(fresh / "config.yaml", dump_yaml(config))
        fresh.replace(folder)
        return run

    @classmethod
    def load(
        cls, folder: str | Path, path: str | None = None, device: str | None = None, workers: ProcessGroup = _ALONE
    ) -> "Run":
        """Open a run, finished or not; `path` says where its data lies now, `device` on what to work now.

        Raises `RunError` when the folder is not a run or is damaged, or the data is not the run's.
        """
        folder = Path(folder)
        if (folder / MANIFEST).exists():
            try:
                check_manifest(folder)
            except DataError as error:
                raise RunError(str(error)) from error
        trained = (folder / _CHECKPOINT).exists()
        if (folder / MANIFEST).exists() and not trained:
            raise RunError(f"{folder}: only the results of this run were kept, not the trained model")
        config = read_stored_config(folder, path, device)
        if not Path(config.data.path).exists():
            raise RunError(f"{folder}: its data, {config.data.path}, are not there; say where with --data")
        dataset = config.data.load()
        wanted = json.loads((folder / "data.json").read_text(encoding="utf-8"))["fingerprint"]
        if dataset.fingerprint != wanted:
            raise RunError(
                f"{config.data.path}: not the data of this run: its fingerprint differs from the one in data.json"
            )
        run = cls(config, folder, dataset, workers, fresh=not trained)
        if trained:
            run.training.load(folder / _CHECKPOINT)
        if run.finished:
            run.model.load_state_dict(run.training.load_tensors(folder / _MODEL)[0])
        return run

    @property
    def finished(self) -> bool:
        """Whether training ended and its model and report are written."""
        return bool(self.training.stop) and (self.folder / MANIFEST).exists()

    @property
    def epochs_done(self) -> int:
        return len(self.training.history)

    def epochs(self, on_step: Callable[[int, int], None] = lambda done, steps: None) -> Iterator[Epoch]:
        """Train from where the run stands, yielding after each epoch; at the end the results are written.

        A checkpoint is on disk before the epoch is yielded, so a killed run goes on from there.
        """
        config = self.config.train
        writes = self.workers.is_main or config.tables == "sharded"  # of which each worker writes its part
        if self.workers.size > 1:
            assert_equal_across_ranks("their data's fingerprint", self.dataset.fingerprint, self.workers)
        for epoch in epochs(self.model, self.split, config, self.training, on_step, self.config.evaluate, self.workers):
            if writes and (epoch.number % config.checkpoint_every == 0 or epoch.stop):
                self.training.save(self.folder / _CHECKPOINT)
                if self.workers.is_main:
                    self._write_history()
            yield epoch
        if writes and not self.finished:
            self._finish()

    def evaluate(self) -> Report:
        """Evaluate the trained model on the test pairs: the explicit final call. Writes the result to the folder."""
        self.need_finished()
        found = evaluate_split(self.scorer, self.split, "test", self.config.evaluate, self.config.train.seed)
        self._write_report("test", found, self._examples(found, "test"))
        return found

    def recommend(self, users: Iterable[Any], k: int = 10) -> list[RecommendedItem]:
        """Return the k best items for each user, by external id, without the user's training items.

        Raises `DataError` for a user who is not in the data.
        """
        table = self.recommend_table(self.dataset.users.index(users), k)
        return [RecommendedItem(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]

    def recommend_table(self, users: Ints, k: int = 10) -> pa.Table:
        """Return what `recommend` does for users by index, as a table: user_id, item_id, rank int32, score float32."""
        self.need_finished()
        lists = recommend(self.scorer, users, k, [self.split.train])
        return self._listed(lists, "user_id", self._ids["user"])

    def recommend_liked(self, lists: Sequence[Sequence[Any]], k: int = 10) -> pa.Table:
        """Return the k best items for users whom the data does not have, each by the items that they like.

        `lists` has external item ids; the table is as that of `recommend_table`, with `list`, counted from 1, for the
        user. What a list names is left out of its recommendations. Raises `DataError` for an item that is not in the
        data, `RunError` for a model that cannot score new users.
        """
        self.need_finished()
        if not isinstance(self.model, FoldsIn):
            raise RunError(f"{self.config.model} cannot score users whom the training did not have")
        n_items = len(self.dataset.items)
        liked = history_matrix([self.dataset.items.index(one) for one in lists], n_items)
        rows, items = liked.nonzero()
        met = Interactions(rows.astype(np.int64), items.astype(np.int64), len(lists), n_items)
        scores = self.model.fold_in(liked)  # once: it may compute all items' vectors
        found = recommend(lambda users: scores[users.to(scores.device)], np.arange(len(lists)), k, [met])
        return self._listed(found, "list", pa.array(np.arange(1, len(lists) + 1)))

    def _listed(self, lists: TopK, name: str, ids: pa.Array) -> pa.Table:
        rows, places = (lists.items >= 0).nonzero()
        columns = {
            name: ids.take(pa.array(lists.users[rows])),
            "item_id": self._ids["item"].take(pa.array(lists.items[rows, places])),
            "rank": pa.array(places.astype(np.int32) + 1),
            "score": pa.array(lists.scores[rows, places]),
        }
        return pa.table(columns)

    @cached_property
    def _ids(self) -> dict[str, pa.Array]:
        return {one.word: pa.array(one.ids) for one in (self.dataset.users, self.dataset.items)}

    @cached_property
    def scorer(self) -> Scorer:
        """The trained model's scores, computed once."""
        scorer: Scorer = self.model.scorer()  # type: ignore[operator]
        return scorer

    def need_finished(self) -> None:
        """Raise `RunError` unless training has ended."""
        if not self.finished:
            raise RunError(f"{self.folder}: training has not ended; run `gtcrec resume {self.folder}`")

    def _write_history(self) -> None:
        lines = [
            {"epoch": e.number, "losses": dict(e.losses), "valid": dict(e.valid) or None, "best": e.best}
            for e in self.training.history
        ]
        times = [{"epoch": e.number, **e.seconds} for e in self.training.history]
        for name, entries in (("history.jsonl", lines), ("timings.jsonl", times)):
            write_text(self.folder / name, "".join(json.dumps(entry) + "\n" for entry in entries))

    def _finish(self) -> None:
        """Write the model and its validation; of sharded tables all workers write and rank their part."""
        self.training.save_tensors(self.folder / _MODEL, self.model.state_dict(), {"model": self.config.model})
        config, seed = self.config.evaluate, self.config.train.seed
        users = valid_users(self.split, config, self.config.train.valid_users, seed)
        found = evaluate_split(self.scorer, self.split, "valid", config, seed, users=users)
        examples = self._examples(found, "valid")
        if self.workers.is_main:
            self._write_report("valid", found, examples)

    def _write_report(self, on: str, found: Report, examples: list[dict[str, Any]]) -> None:
        """Write one evaluation and the page; the manifest, which marks a finished run, goes first and comes last."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
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
        with atomic_path(self.folder / f"per_user_{on}.parquet") as temporary:
            _write_per_user(temporary, per_user_table(found, self.dataset.users))
        write_json(path, {**past, **facts, on: report_to_json(found)})
        write_json(self.folder / "examples.json", {"users": examples})
        report.render(self.folder)
        names = [file.name for file in self.folder.iterdir() if file.is_file() and not file.name.startswith(".")]
        write_manifest(self.folder, [name for name in names if name != MANIFEST])

    def _examples(self, found: Report, on: str) -> list[dict[str, Any]]:
        """What the report shows of a few users, spread evenly over those evaluated."""
        places = np.linspace(0, len(found.users) - 1, min(_EXAMPLES, len(found.users))).round().astype(int)
        users = found.users[places]
        lists = recommend(self.scorer, users, 8, [self.split.train])
        liked = self.split.valid if on == "valid" else self.split.final_test()
        return [
            {
                "user": self.dataset.users.ids[user : user + 1].tolist()[0],
                "liked": [self._card(item) for item in self.split.train.items_of(user)[:8].tolist()],
                "recommended": [
                    {**self._card(item), "score": score, "hit": item in liked.items_of(user)}
                    for item, score in zip(lists.items[row].tolist(), lists.scores[row].tolist(), strict=True)
                    if item >= 0
                ],
            }
            for row, user in enumerate(users.tolist())
        ]

    def _card(self, item: int) -> dict[str, Any]:
        item_metadata = self.dataset.item_metadata
        image = item_metadata.images[item] if item_metadata else None
        return {
            "item": self.dataset.items.ids[item : item + 1].tolist()[0],
            "title": item_metadata.titles[item] if item_metadata else None,
            "image": os.path.relpath(image, self.folder) if image else None,
        }


def fit(path: str | Path, model: str = "gtc", out: str | Path = "runs/gtc", **given: Any) -> Run:
    """Train a model on a data folder and return the finished run.

    `given` are settings by name, as after `gtcrec train --set`: `fit("data", seed=1, dim=32)`; a dotted key
    is written with a double underscore: `split__strategy="leave_one_out"`.
    """
    settings = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in given.items()]
    run = Run.create(resolve(str(path), model, given=settings), out)
    for _ in run.epochs():
        pass
    return run
