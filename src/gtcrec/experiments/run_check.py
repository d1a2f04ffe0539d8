"""What is wrong with the files of a run, and how it is mended without training.

The checkpoint is believed when its own sum is right: it has the history and copies of the files that it was trained by.
Results can be written anew from it.
"""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from gtcrec.errors import DataError, RunError
from gtcrec.experiments.run_folder import CHECKPOINT, history_files
from gtcrec.runtime.files import (
    MANIFEST,
    check_manifest,
    is_stale,
    renew_manifest,
    sweep_stale,
    write_manifest,
    write_text,
)
from gtcrec.runtime.locks import hold_lock, is_locked
from gtcrec.training import checkpoint
from gtcrec.training.trainer import Epoch

__all__ = ["Finding", "check_run", "repair_run"]

_RESULTS = (MANIFEST, "report.json", "per_user_valid.parquet", "per_user_test.parquet", "examples.json")


@dataclass(frozen=True)
class Finding:
    """A file of a run that is not as it should be; `harmful` unless commands work all the same."""

    file: str
    problem: str
    remedy: str
    harmful: bool = True
    mend: Callable[[], None] | None = field(default=None, repr=False, compare=False)


def check_run(folder: Path) -> list[Finding]:
    """Return what is wrong with the files of a run, finished or not; nothing is changed.

    Raises `RunError` for what is no run folder.
    """
    if not folder.is_dir() or not any((folder / name).is_file() for name in ("config.yaml", CHECKPOINT, MANIFEST)):
        raise RunError(f"{folder}: not a run folder")
    if is_locked(folder):
        return [Finding(str(folder), "a process writes to it now", "check it when that process has ended", False)]
    facts, found = _read_checkpoint(folder)
    if facts:
        found += _check_copies(folder, facts)
    found += _check_results(folder, facts)
    left = [file.name for file in folder.iterdir() if is_stale(file.name, alone=True)]
    mend = partial(sweep_stale, folder, alone=True)
    return found + [
        Finding(str(folder / name), "left by a process that was killed", "--repair removes it", False, mend)
        for name in left
    ]


def repair_run(folder: Path) -> list[Finding]:
    """Mend what can be mended and return what is left. Raises `InUseError` when a process writes to the run."""
    with hold_lock(folder):
        for _ in range(3):  # one repair may bring the next to light
            for one in check_run(folder):
                if one.mend:
                    one.mend()
        return check_run(folder)


def _read_checkpoint(folder: Path) -> tuple[dict[str, Any], list[Finding]]:
    path = folder / CHECKPOINT
    if not path.exists():
        return {}, []
    try:
        return checkpoint.load(path)[1], []
    except RunError as error:
        problem = str(error).removeprefix(f"{path}: ")
        if (folder / MANIFEST).exists() and (folder / "model.json").exists():
            remedy = "--repair removes it: the run recommends and compares without"
            return {}, [Finding(str(path), problem, remedy, True, partial(_forget_checkpoint, folder))]
        return {}, [Finding(str(path), problem, "train again in another folder")]


def _check_copies(folder: Path, facts: dict[str, Any]) -> list[Finding]:
    """Compare the files of a run with what its checkpoint holds of them."""
    history = history_files([Epoch(**entry) for entry in facts["history"]])
    found = []
    for name, text in {**facts.get("files", {}), **history}.items():
        path = folder / name
        try:
            if path.read_bytes() == text.encode():
                continue
            problem = "differs from the copy in the checkpoint"
        except FileNotFoundError:
            problem = "missing"
        remedy = "--repair restores it from the checkpoint"
        found.append(Finding(str(path), problem, remedy, True, partial(_restore, folder, name, text)))
    return found


def _check_results(folder: Path, facts: dict[str, Any]) -> list[Finding]:
    """Check the manifest of a finished run, and every file that it names."""
    ended = bool(facts) and bool(facts["history"]) and bool(facts["history"][-1]["stop"])
    if not (folder / MANIFEST).exists():
        state = "training has ended, its results are not written" if ended else "training has not ended"
        return [Finding(str(folder), state, f"go on with `gtcrec resume {folder}`", False)]
    try:
        check_manifest(folder)
    except DataError as error:
        file, _, problem = str(error).partition(": ")
        if not facts:
            return [Finding(file, problem, "without a checkpoint it cannot be written again")]
        remedy = f"--repair removes the results; `gtcrec resume {folder}` writes them anew, then evaluate again"
        return [Finding(file, problem, remedy, True, partial(_remove_results, folder))]
    return []


def _restore(folder: Path, name: str, text: str) -> None:
    write_text(folder / name, text)
    if (folder / MANIFEST).exists():
        with suppress(DataError):  # a damaged manifest is a finding of its own
            renew_manifest(folder, [name])


def _remove_results(folder: Path) -> None:
    for name in _RESULTS:
        (folder / name).unlink(missing_ok=True)


def _forget_checkpoint(folder: Path) -> None:
    """Leave a damaged checkpoint out of a finished run; what else its manifest names must be right."""
    names = [name for name in check_manifest(folder, ())["files"] if not name.startswith("checkpoint.")]
    check_manifest(folder, names)
    write_manifest(folder, names)
    for file in folder.glob("checkpoint.*"):
        file.unlink() if file.is_file() else shutil.rmtree(file)
