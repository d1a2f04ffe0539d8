"""A run that a study wants: which folder it has, whether that holds it, how it is begun or gone on with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtcrec.errors import RunError
from gtcrec.experiments.config import RunConfig
from gtcrec.experiments.run import Run
from gtcrec.experiments.run_folder import read_stored_config, require_empty
from gtcrec.runtime.files import MANIFEST

__all__ = ["PlannedRun", "check_folder", "flatten", "is_finished", "start_or_resume"]


@dataclass(frozen=True)
class PlannedRun:
    """A run of the variant with this seed."""

    variant: str
    seed: int
    config: RunConfig
    folder: Path


def start_or_resume(wanted: PlannedRun) -> Run:
    """Make the run, or open it where it stands. Raises as `check_folder`."""
    check_folder(wanted)
    if (wanted.folder / "config.yaml").exists():
        return Run.load(wanted.folder, wanted.config.data.path)
    return Run.create(wanted.config, wanted.folder)


def is_finished(folder: Path) -> bool:
    """Return whether a folder holds a run whose training has ended."""
    return (folder / MANIFEST).exists()


def check_folder(wanted: PlannedRun) -> None:
    """Raise `RunError` if the folder holds anything but the wanted run; it names the key that differs."""
    if not (wanted.folder / "config.yaml").exists():
        require_empty(wanted.folder)
        return
    found = read_stored_config(wanted.folder, wanted.config.data.path)
    if found != wanted.config:
        theirs, ours = (dict(flatten(one.model_dump(mode="json"))) for one in (found, wanted.config))
        key = next(key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key))
        raise RunError(
            f"{wanted.folder}: holds a run with {key} = {theirs.get(key)!r}, wanted {ours.get(key)!r}; "
            "give the settings it was made with, or another --out"
        )


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings with dotted keys; an empty mapping has none."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from flatten(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner
