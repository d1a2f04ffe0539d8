"""The runs that a study needs: variants by seeds, the folder of each, and what a folder holds already.

Ablation, missing modalities and benchmark plan alike: each makes `Variant`s, trains their `PlannedRun`s with
`scheduler.train_runs`, and reads them back with `measured_run.read_runs`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gtcrec.errors import RunError
from gtcrec.experiments.config import RunConfig
from gtcrec.experiments.run import Run
from gtcrec.experiments.run_folder import read_stored_config
from gtcrec.runtime.files import MANIFEST, require_empty

__all__ = [
    "Part",
    "PlannedRun",
    "StudyPlan",
    "Variant",
    "check_folder",
    "existing_runs",
    "existing_seeds",
    "flatten",
    "is_evaluated",
    "is_finished",
    "plan_study",
    "start_or_resume",
]

Part = Literal["valid", "test"]


@dataclass(frozen=True)
class PlannedRun:
    """A run of the variant with this seed."""

    variant: str
    seed: int
    config: RunConfig
    folder: Path

    @property
    def name(self) -> str:
        """The variant and the seed, as the folder is called."""
        return f"{self.variant}-{self.seed}"


@dataclass(frozen=True)
class Variant:
    """A line of a study's table; `same_as` names the variant of equal settings that stands for it, else "".

    With `redraw_missing` each seed masks the content of other items.
    """

    name: str
    what: str
    config: RunConfig
    same_as: str = ""
    redraw_missing: bool = False

    def run(self, out: Path, seed: int) -> PlannedRun:
        """Return the run with this seed, whose folder is out/NAME-SEED."""
        train = self.config.train.model_copy(update={"seed": seed})
        data = self.config.data.model_copy(update={"missing_seed": seed} if self.redraw_missing else {})
        config = self.config.model_copy(update={"train": train, "data": data})
        return PlannedRun(self.name, seed, config, out / f"{self.name}-{seed}")


@dataclass(frozen=True)
class StudyPlan:
    """The variants that the table shows, and the runs that this call is to train."""

    out: Path
    variants: tuple[Variant, ...]
    runs: tuple[PlannedRun, ...]


def plan_study(
    out: Path, variants: Sequence[Variant], seeds: Sequence[int], trained: Iterable[str] | None = None
) -> StudyPlan:
    """Return the plan that trains the variants named by `trained` (None: all) with each seed.

    Raises `RunError` for a folder that holds another run, also of a variant that is not trained.
    """
    names = {one.name for one in variants} if trained is None else set(trained)
    runs = [one.run(out, seed) for one in variants if not one.same_as and one.name in names for seed in seeds]
    for run in [*runs, *existing_runs(out, variants)]:
        check_folder(run)
    return StudyPlan(out, tuple(variants), tuple(runs))


def existing_runs(out: Path, variants: Iterable[Variant]) -> list[PlannedRun]:
    """Return the runs of the variants, of any seed, of which `out` has a folder."""
    return [one.run(out, seed) for one in variants if not one.same_as for seed in existing_seeds(out, one.name)]


def existing_seeds(out: Path, variant: str) -> list[int]:
    """Return the seeds of which `out` has a folder of the variant."""
    ends = [path.name.removeprefix(f"{variant}-") for path in out.glob("*-*") if path.name.startswith(f"{variant}-")]
    return sorted(int(end) for end in ends if end.isascii() and end.isdigit())


def start_or_resume(run: PlannedRun) -> Run:
    """Make the run, or open it where it stands. Raises as `check_folder`."""
    check_folder(run)
    if (run.folder / "config.yaml").exists():
        return Run.load(run.folder, run.config.data.path)
    return Run.create(run.config, run.folder)


def is_finished(folder: Path) -> bool:
    """Return whether a folder holds a run whose training has ended."""
    return (folder / MANIFEST).exists()


def is_evaluated(folder: Path, on: Part) -> bool:
    """Return whether a folder holds a run that has been trained to its end and measured on `on`."""
    return is_finished(folder) and on in json.loads((folder / "report.json").read_text(encoding="utf-8"))


def check_folder(run: PlannedRun) -> None:
    """Raise `RunError` if the folder holds anything but the planned run; it names the key that differs."""
    if not (run.folder / "config.yaml").exists():
        require_empty(run.folder)
        return
    stored = read_stored_config(run.folder, run.config.data.path)
    if stored != run.config:
        found, planned = (dict(flatten(one.model_dump(mode="json"))) for one in (stored, run.config))
        key = next(key for key in {**planned, **found} if planned.get(key) != found.get(key))
        raise RunError(
            f"{run.folder}: holds a run with {key} = {found.get(key)!r}, expected {planned.get(key)!r}; "
            "give the settings it was made with, or another --out"
        )


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings with dotted keys; an empty mapping has none."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from flatten(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner
