"""A run is a folder: its configuration, its training, its results, and the trained model, ready to recommend."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import nn

from gtcrec import checkpoint, data, models, report
from gtcrec.config import RunConfig, dump_yaml, resolve
from gtcrec.errors import DataError, RunError
from gtcrec.evaluate import evaluate_split, per_user_table, recommend, report_to_json
from gtcrec.files import MANIFEST, atomic_path, check_manifest, write_json, write_manifest, write_text
from gtcrec.train import Epoch, Training, epochs
from gtcrec.types import Dataset, Report, Scorer

__all__ = ["Recommendation", "Run", "fit"]

_CHECKPOINT = "checkpoint.safetensors"
_MODEL = "model.safetensors"
_EXAMPLES = 4  # users whose lists the report shows


@dataclass(frozen=True)
class Recommendation:
    """One place of a list, in external ids."""

    user: Any
    item: Any
    rank: int
    score: float


class Run:
    """A training and its results in a folder. `Run.create` starts one, `Run.load` opens one."""

    def __init__(self, config: RunConfig, folder: Path, dataset: Dataset) -> None:
        self.config = config
        self.folder = folder
        self.dataset = dataset
        self.split = data.split(dataset, config.split)
        settings = models.settings(config.model, config.settings, config.preset)
        self.model: nn.Module = models.build(
            config.model, self.split.train, self.split.features, settings, config.train.seed
        )
        self.training = Training(self.model, config.train)

    @classmethod
    def create(cls, config: RunConfig, folder: str | Path) -> "Run":
        """Start a run in a new or empty folder. Raises `RunError` when the folder holds something."""
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(f"{folder}: exists and is not an empty folder; name a new one or use `gtcrec resume`")
        run = cls(config, folder, _dataset(config))
        fresh = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")  # becomes the run when it is complete
        fresh.mkdir(parents=True)
        write_json(fresh / "environment.json", _environment())
        write_json(fresh / "data.json", _about(run.dataset, run.split.how))
        write_text(fresh / "config.yaml", dump_yaml(config))
        fresh.replace(folder)
        return run

    @classmethod
    def load(cls, folder: str | Path, path: str | None = None) -> "Run":
        """Open a run, finished or not; `path` says where its data lies now.

        Raises `RunError` when the folder is not a run or is damaged, or the data is not the run's.
        """
        folder = Path(folder)
        if not (folder / "config.yaml").is_file():
            raise RunError(f"{folder}: not a run folder: config.yaml is missing")
        if (folder / MANIFEST).exists():
            try:
                check_manifest(folder)
            except DataError as error:
                raise RunError(str(error)) from error
        config = resolve(path, file=folder / "config.yaml")
        if not Path(config.data.path).exists():
            raise RunError(f"{folder}: its data, {config.data.path}, are not there; say where with --data")
        dataset = _dataset(config)
        wanted = json.loads((folder / "data.json").read_text(encoding="utf-8"))["fingerprint"]
        if dataset.fingerprint != wanted:
            raise RunError(
                f"{config.data.path}: not the data of this run: its fingerprint differs from the one in data.json"
            )
        run = cls(config, folder, dataset)
        if (folder / _CHECKPOINT).exists():
            run.training.load(folder / _CHECKPOINT)
        if run.finished:
            run.model.load_state_dict(checkpoint.load(folder / _MODEL)[0])
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
        for epoch in epochs(self.model, self.split, config, self.training, on_step, self.config.evaluate):
            if epoch.number % config.checkpoint_every == 0 or epoch.stop:
                self.training.save(self.folder / _CHECKPOINT)
                self._write_history()
            yield epoch
        if not self.finished:
            self._finish()

    def evaluate(self) -> Report:
        """Evaluate the trained model on the test pairs: the explicit final call. Writes the result to the folder."""
        self._need_finished()
        found = evaluate_split(self.scorer, self.split, "test", self.config.evaluate, self.config.train.seed)
        self._write_report("test", found)
        return found

    def recommend(self, users: Iterable[Any], k: int = 10) -> list[Recommendation]:
        """Return the k best items for each user, by external id, without the user's training items.

        Raises `DataError` for a user who is not in the data.
        """
        self._need_finished()
        index = self.dataset.users.index(users)
        lists = recommend(self.scorer, index, k, [self.split.train])
        found = []
        for user, items, scores in zip(index, lists.items, lists.scores, strict=True):
            name = self.dataset.users.ids[user : user + 1].tolist()[0]
            kept = items >= 0
            ranked = zip(self.dataset.items.external(items[kept]).tolist(), scores[kept].tolist(), strict=True)
            found += [Recommendation(name, item, rank, score) for rank, (item, score) in enumerate(ranked, 1)]
        return found

    @cached_property
    def scorer(self) -> Scorer:
        """The trained model's scores, computed once."""
        scorer: Scorer = self.model.scorer()  # type: ignore[operator]
        return scorer

    def _need_finished(self) -> None:
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
        checkpoint.save(self.folder / _MODEL, self.model.state_dict(), {"model": self.config.model})
        found = evaluate_split(self.scorer, self.split, "valid", self.config.evaluate, self.config.train.seed)
        self._write_report("valid", found)

    def _write_report(self, on: str, found: Report) -> None:
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
            "parameters": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
        }
        with atomic_path(self.folder / f"per_user_{on}.parquet") as temporary:
            pq.write_table(per_user_table(found, self.dataset.users), temporary)
        write_json(path, {**past, **facts, on: report_to_json(found)})
        if on == "test" or not (self.folder / "examples.json").exists():
            write_json(self.folder / "examples.json", {"users": self._examples(found, on)})
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
        cards = self.dataset.cards
        image = cards.images[item] if cards else None
        return {
            "item": self.dataset.items.ids[item : item + 1].tolist()[0],
            "title": cards.titles[item] if cards else None,
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


def _dataset(config: RunConfig) -> Dataset:
    reading = data.ReadConfig(**config.data.model_dump(exclude={"path"}))
    return data.load(config.data.path, reading)


def _about(dataset: Dataset, how: Any) -> dict[str, Any]:
    """What `data.json` says of the data."""
    counts = {
        "users": len(dataset.users),
        "items": len(dataset.items),
        "interactions": len(dataset.interactions),
        "split": dict(how),
        "modalities": {
            m: {
                "width": dataset.features.values[m].shape[1],
                "present": int(dataset.features.present[m].sum()),
            }
            for m in dataset.features.names
        },
    }
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "counts": counts,
        "notes": {key: int(value) for key, value in dataset.notes.items()},
    }


def _environment() -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("gtcrec", "torch", "numpy", "scipy", "pyarrow")}
    return {
        "versions": versions,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
