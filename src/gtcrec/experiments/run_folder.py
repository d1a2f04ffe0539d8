"""The files of a run folder: how it is made, what its checkpoint binds, and how results are put into it.

Training has one commit point, the checkpoint: it holds the history and a copy of the files that say what is trained.
Results have one, the manifest.
"""

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gtcrec.errors import DataError, InUseError, RunError
from gtcrec.evaluation.evaluator import recommend
from gtcrec.experiments.config import RunConfig, load_config
from gtcrec.reporting.html import write_run_report
from gtcrec.reporting.run_record import read_run_record
from gtcrec.runtime.files import (
    MANIFEST,
    check_manifest,
    fsync_path,
    is_stale,
    link_or_copy,
    make_folder,
    replace_files,
    sweep_stale,
    temporary_path,
    write_manifest,
    write_text,
    writing,
)
from gtcrec.runtime.locks import hold_lock
from gtcrec.training.trainer import Epoch
from gtcrec.types import Dataset, Interactions, Ints, Scorer, Split

__all__ = [
    "CHECKPOINT",
    "STOP_REQUEST",
    "check_bound_files",
    "check_results",
    "describe_dataset",
    "describe_environment",
    "describe_examples",
    "history_files",
    "make_run_folder",
    "publish_results",
    "read_bound_files",
    "read_fingerprint",
    "read_stored_config",
    "request_stop",
    "rewrite_page",
    "staged_results",
    "sweep_run",
    "write_per_user",
]

CHECKPOINT = "checkpoint.safetensors"
STOP_REQUEST = ".stop"  # the file that asks the process that trains a run to end it
_EXAMPLES = 4  # users whose lists the report shows
_BOUND = ("config.yaml", "data.json", "environment.json")
_SHOWN = (*_BOUND, "history.jsonl", "timings.jsonl")  # what the page of a run reads beside its results


def make_run_folder(
    folder: Path, texts: Mapping[str, str], writers: Mapping[str, Callable[[Path], None]] = MappingProxyType({})
) -> None:
    """Make a folder with these files, whole or not at all. The caller holds its lock and knows that it is empty.

    `writers` write files of other kinds, by name.
    """
    sweep_stale(folder.resolve().parent, folder.resolve().name, alone=True)
    fresh = temporary_path(folder.resolve())
    make_folder(fresh)
    try:
        for name, text in texts.items():
            write_text(fresh / name, text)
        for name, write in writers.items():
            write(fresh / name)
        with writing(folder):
            fresh.replace(folder.resolve())
            fsync_path(folder.resolve().parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def request_stop(folder: Path) -> None:
    """Ask the process that trains a run to end it after the epoch it is at."""
    write_text(folder / STOP_REQUEST, "")


def sweep_run(folder: Path) -> None:
    """Remove what killed processes left in a run folder, unless a process writes to it now."""
    if any(is_stale(file.name, alone=True) for file in folder.iterdir()):
        with suppress(InUseError), hold_lock(folder):
            sweep_stale(folder, alone=True)


def read_bound_files(folder: Path) -> dict[str, str]:
    """Return the texts of the files that say what is trained, which a checkpoint holds a copy of."""
    return {name: (folder / name).read_text(encoding="utf-8") for name in _BOUND}


def read_fingerprint(folder: Path) -> str:
    """Return the fingerprint of the data of a run. Raises `RunError` when its `data.json` does not say it."""
    path = folder / "data.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["fingerprint"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read as facts of the data: {type(error).__name__}: {error}") from error


def check_bound_files(folder: Path, copies: Mapping[str, str]) -> None:
    """Raise `RunError` when a file differs from its copy in the checkpoint; it names the line."""
    for name, text in copies.items():
        try:
            found = (folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            found = ""
        for number, (now, then) in enumerate(zip_longest(found.splitlines(), text.splitlines(), fillvalue=""), 1):
            if now != then:
                raise RunError(
                    f"{folder / name}, line {number}: edited or damaged since training began: found {now.strip()!r}, "
                    f"expected {then.strip()!r}; `gtcrec runs check {folder} --repair` restores the file"
                )


def history_files(history: Sequence[Epoch]) -> dict[str, str]:
    """Return the texts of `history.jsonl` and `timings.jsonl`."""
    lines = [
        {"epoch": e.number, "losses": dict(e.losses), "valid": dict(e.valid) or None, "best": e.best} for e in history
    ]
    times = [{"epoch": e.number, **e.seconds} for e in history]
    files: dict[str, list[dict[str, Any]]] = {"history.jsonl": lines, "timings.jsonl": times}
    return {name: "".join(json.dumps(entry) + "\n" for entry in entries) for name, entries in files.items()}


def rewrite_page(folder: Path) -> Path:
    """Write the page of a finished run again and return its path. Raises as `read_run_record`."""
    read_run_record(folder)
    with hold_lock(folder), staged_results(folder) as staged:
        for name in ("report.json", "examples.json"):
            if (folder / name).is_file():
                link_or_copy(folder / name, staged / name)
        write_run_report(folder, staged=staged)
        publish_results(folder, staged)
    return folder / "report.html"


@contextmanager
def staged_results(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder in the run folder, where results are written before they are published.

    It has what the page shows beside them, and it disappears at the end.
    """
    staged = temporary_path(folder / "results")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        with writing(folder):
            make_folder(staged)
            for name in _SHOWN:
                if (folder / name).is_file():
                    link_or_copy(folder / name, staged / name)
            yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def publish_results(folder: Path, staged: Path) -> None:
    """Move staged results into the run folder; the manifest, which makes them valid, is written last.

    Where there is one, the run can be read at every moment. `report.json`, which says what was measured, comes last.
    """
    names = sorted(file.name for file in staged.iterdir() if file.name not in (*_SHOWN, "report.json"))
    names.append("report.json")
    if (folder / MANIFEST).exists():
        replace_files(folder, staged, names)
        return
    with writing(folder):
        for name in names:
            fsync_path(staged / name)
            (staged / name).replace(folder / name)
        fsync_path(folder)
    sealed = [file.name for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    write_manifest(folder, sealed)


def read_stored_config(folder: Path, path: str | None = None, device: str | None = None) -> RunConfig:
    """Return the configuration of a run, with the data at `path` and on `device` if given.

    Raises `RunError` when the folder is not a run.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        raise RunError(f"{folder}: not a run folder: config.yaml is missing")
    return load_config(path, file=file, assignments=[f"train.device={device}"] if device else [], stored=True)


def write_per_user(path: Path, table: pa.Table) -> None:
    """Write a table of ordered ids and of metrics, which have few distinct values, in a third of the usual bytes."""
    user, *metrics = table.column_names
    delta = "DELTA_BINARY_PACKED" if pa.types.is_integer(table.schema.field(user).type) else "DELTA_BYTE_ARRAY"
    pq.write_table(table, path, compression="zstd", use_dictionary=metrics, column_encoding={user: delta})


def describe_dataset(dataset: Dataset, how: Any) -> dict[str, Any]:
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


def check_results(folder: Path) -> None:
    """Raise `RunError` for results that are damaged, or were kept without the model that they are of."""
    if not (folder / MANIFEST).exists():
        return
    try:
        check_manifest(folder)
    except DataError as error:
        raise RunError(str(error)) from error
    if not (folder / CHECKPOINT).exists():
        raise RunError(f"{folder}: only the results of this run were kept, not the trained model")


def describe_environment() -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("gtcrec", "torch", "numpy", "scipy", "pyarrow")}
    return {
        "versions": versions,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def describe_examples(
    scorer: Scorer, split: Split, dataset: Dataset, users: Ints, relevant: Interactions, folder: Path
) -> list[dict[str, Any]]:
    """What the report shows of a few users, spread evenly over `users`, those evaluated on `relevant` interactions."""
    users = users[np.linspace(0, len(users) - 1, min(_EXAMPLES, len(users))).round().astype(int)]
    lists = recommend(scorer, users, 8, [split.train])

    def describe(item: int) -> dict[str, Any]:
        metadata = dataset.item_metadata
        image = metadata.images[item] if metadata else None
        return {
            "item": dataset.items.ids[item : item + 1].tolist()[0],
            "title": metadata.titles[item] if metadata else None,
            "image": os.path.relpath(image, folder) if image else None,
        }

    return [
        {
            "user": dataset.users.ids[user : user + 1].tolist()[0],
            "history": [describe(item) for item in split.train.items_of(user)[:8].tolist()],
            "recommended": [
                {**describe(item), "score": score, "hit": item in relevant.items_of(user)}
                for item, score in zip(lists.items[row].tolist(), lists.scores[row].tolist(), strict=True)
                if item >= 0
            ],
        }
        for row, user in enumerate(users.tolist())
    ]
