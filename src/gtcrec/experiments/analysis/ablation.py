"""An ablation: GTC trained without each of its parts, over several seeds, and the table of what each part is worth.

`plan` says which runs are wanted and refuses what cannot be, `finished` reads those that have ended, `table` compares
them.
"""

import json
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gtcrec.data.formats.npy import choose_modalities, feature_files
from gtcrec.errors import ConfigError, RunError, nearest
from gtcrec.evaluation.comparison import SIGNIFICANT, PairedDifference, compare_to_baseline
from gtcrec.experiments.config import RunConfig, resolve
from gtcrec.experiments.planned_run import PlannedRun, check_folder, is_finished, start_or_resume
from gtcrec.reporting.run_record import read
from gtcrec.runtime.files import check_manifest
from gtcrec.types import Floats

__all__ = [
    "BASE",
    "GRID",
    "Effect",
    "Measured",
    "Plan",
    "PlannedRun",
    "Row",
    "Variant",
    "check_comparable",
    "finished",
    "is_finished",
    "plan",
    "plan_runs",
    "start_or_resume",
    "table",
]

BASE = "full"

# name -> (what it is, settings). Data with several modalities add a `without-M` for each M.
GRID: Mapping[str, tuple[str, tuple[str, ...]]] = {
    BASE: ("GTC as configured", ()),
    "untrained": ("as it starts, before training", ("epochs=1", "learning_rate=1e-12")),
    "random-start": ("embeddings from random", ("start=random",)),
    "no-content": ("interactions alone", ("data.modalities=[]",)),
    "no-filter": ("content as it is", ("filter=off",)),
    "noise-only": ("a filter that is never trained", ("filter=noise_only",)),
    "user-agnostic": ("one filter for all users", ("prototypes=1",)),
    "condition-identity": ("items filtered for their identity", ("condition=identity",)),
    "no-alignment": ("views not aligned", ("alignment=none",)),
    "pairwise": ("views aligned two by two", ("alignment=pairwise",)),
    "n": ("total correlation, other views drawn apart", ("alignment=n",)),
    "chain": ("total correlation as a chain", ("alignment=chain",)),
    "no-item-graph": ("no item graph of content", ("item_neighbours=0",)),
    "no-user-graph": ("no user graph", ("user_neighbours=0",)),
    "with-user-graph": ("with a user graph", ("user_neighbours=40",)),
}


@dataclass(frozen=True)
class Variant:
    """A line of the ablation; `same_as` names the variant of equal settings that stands for it, else "".

    With `redrawn` each seed hides other content.
    """

    name: str
    what: str
    config: RunConfig
    same_as: str = ""
    redrawn: bool = False

    def of(self, seed: int) -> RunConfig:
        """Return the configuration of the run with this seed."""
        train = self.config.train.model_copy(update={"seed": seed})
        data = self.config.data.model_copy(update={"hidden_seed": seed} if self.redrawn else {})
        return self.config.model_copy(update={"train": train, "data": data})


@dataclass(frozen=True)
class Plan:
    """The variants that the table shows, and the runs that this call is to train."""

    out: Path
    variants: tuple[Variant, ...]
    runs: tuple[PlannedRun, ...]


@dataclass(frozen=True, eq=False)
class Measured:
    """A finished run: each metric's value for each of its users, and what it cost."""

    variant: str
    seed: int
    data: str
    fingerprint: str  # of the data as the run read them, content included
    users: NDArray[Any]  # [b] external ids
    pairs: Mapping[str, str]  # fingerprints of the liked and the training pairs
    per_user: Mapping[str, Floats]  # metric -> [b]
    best_epoch: int | None
    cpu_seconds: float | None
    parameters: int


@dataclass(frozen=True)
class Effect:
    """A variant's mean of a metric, its spread over seeds, and its distance from the base over the seeds of both.

    `relative` and its 95 % `interval` are the difference and its bounds as shares of the mean of the base.
    """

    mean: float
    sd: float | None
    test: PairedDifference | None = None
    relative: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def sure(self) -> bool:
        """Whether the difference is significant after Holm's correction."""
        return self.test is not None and self.test.p_holm < SIGNIFICANT


@dataclass(frozen=True)
class Row:
    """A line of the table; `paired` are the seeds that the base has as well, `cpu_seconds` those of an epoch."""

    name: str
    what: str
    same_as: str
    seeds: tuple[int, ...]
    paired: tuple[int, ...]
    effects: Mapping[str, Effect]
    best_epochs: tuple[int | None, ...]
    cpu_seconds: float | None
    parameters: int | None


def plan(
    data: str,
    out: Path,
    seeds: Sequence[int],
    only: Sequence[str] = (),
    given: Sequence[str] = (),
    file: Path | None = None,
) -> Plan:
    """Return what to train on `data` under `out`: the variants named by `only` (none: all) with each seed.

    `given` and `file` are as for `resolve`, before a variant's own settings. The table also shows the variants that
    `out` has already. Raises `ConfigError` for an unknown name or what the config refuses, `RunError` for a folder
    that holds another run.
    """
    for one in given:
        if one.partition("=")[0] in ("seed", "train.seed"):
            raise ConfigError(f"the ablation's seeds are 0, 1, ... of --seeds, found the setting {one!r}")
    base = resolve(data, "gtc", file, given)
    grid = {**GRID, **_without(base)}
    for name in only:
        if name not in grid:
            raise ConfigError(f"unknown variant {name!r}{nearest(name, grid)}; known: {', '.join(grid)}")
    variants: list[Variant] = []
    for name, (what, settings) in grid.items():
        if name == BASE or not only or name in only or _folders(out, name):
            config = _resolved(name, data, file, [*given, *settings])
            same = next((one.name for one in variants if one.config == config), "")
            variants.append(Variant(name, what, config, same))
    return plan_runs(
        out, variants, seeds, {one.same_as or one.name for one in variants if not only or one.name in only}
    )


def plan_runs(out: Path, variants: Sequence[Variant], seeds: Sequence[int], trained: Collection[str]) -> Plan:
    """Return the plan that trains the variants named by `trained`; raises `RunError` for a folder of another run."""
    kept = [one for one in variants if not one.same_as]
    runs = [_wanted(out, one, seed) for one in kept if one.name in trained for seed in seeds]
    for run in [*runs, *_present(out, kept)]:
        check_folder(run)
    return Plan(out, tuple(variants), tuple(runs))


def finished(plan: Plan, on: str, metrics: Sequence[str]) -> list[Measured]:
    """Read the runs of the plan's variants, of any seed, that have ended and were measured on `on`.

    Raises `RunError` for a folder that holds another run, `ConfigError` for a metric that one has not, `DataError` for
    a damaged one.
    """
    found = []
    for run in _present(plan.out, [one for one in plan.variants if not one.same_as]):
        check_folder(run)
        if is_finished(run.folder):
            found += _measured(run, on, metrics)
    return found


def table(
    variants: Sequence[Variant], runs: Sequence[Measured], metrics: Sequence[str], seed: int = 0, base: str = BASE
) -> list[Row]:
    """Compare each variant with `base`, user by user, each user's values averaged over the seeds that both have.

    Interval and p are those of `paired_test`, drawn from `seed`; Holm's correction is over the variants of a metric.
    Raises `RunError` when runs were measured on different users or pairs, or saw different content.
    """
    check_comparable(variants, runs)
    by_seed = {one.name: {run.seed: run for run in runs if run.variant == one.name} for one in variants}
    full = by_seed.get(base, {})
    paired = {name: tuple(sorted(own.keys() & full.keys())) for name, own in by_seed.items()}
    tested = [name for name, common in paired.items() if common and name != base]
    effects: dict[str, dict[str, Effect]] = {name: {} for name in by_seed}
    for metric in metrics:
        for name, own in by_seed.items():
            if own:
                effects[name][metric] = _spread(own, metric)
        pairs = {
            name: (_average(by_seed[name], paired[name], metric), _average(full, paired[name], metric))
            for name in tested
        }
        for name, test in compare_to_baseline(base, metric, pairs, seed).items():
            own_effect = effects[name][metric]
            effects[name][metric] = Effect(own_effect.mean, own_effect.sd, *test)
    return [_row(one, by_seed[one.name], paired[one.name], effects[one.name]) for one in variants]


def _without(base: RunConfig) -> dict[str, tuple[str, tuple[str, ...]]]:
    """A variant for each modality of the data, which is trained on the others alone."""
    path = Path(base.data.path)
    names = list(choose_modalities(feature_files(path if path.is_dir() else path.parent), base.data.modalities))
    rest = {m: json.dumps([other for other in names if other != m], ensure_ascii=False) for m in names}
    return {f"without-{m}": (f"data without {m}", (f"data.modalities={rest[m]}",)) for m in names}


def _resolved(name: str, data: str, file: Path | None, given: Sequence[str]) -> RunConfig:
    try:
        return resolve(data, "gtc", file, given)
    except ConfigError as error:
        raise ConfigError(f"variant {name}: {error}") from error


def _wanted(out: Path, variant: Variant, seed: int) -> PlannedRun:
    return PlannedRun(variant.name, seed, variant.of(seed), out / f"{variant.name}-{seed}")


def _folders(out: Path, name: str) -> list[int]:
    """The seeds of which `out` has a folder of the variant."""
    endings = [folder.name.removeprefix(f"{name}-") for folder in out.glob("*-*") if folder.name.startswith(f"{name}-")]
    return sorted(int(end) for end in endings if end.isascii() and end.isdigit())


def _present(out: Path, variants: Sequence[Variant]) -> list[PlannedRun]:
    return [_wanted(out, one, seed) for one in variants for seed in _folders(out, one.name)]


def _measured(run: PlannedRun, on: str, metrics: Sequence[str]) -> list[Measured]:
    """The run's figures, or nothing if it was not measured on `on`."""
    check_manifest(run.folder)
    record = read(run.folder)
    result = record.result
    evaluation = result.test if on == "test" else result.valid
    if evaluation is None:
        return []
    found = pq.read_table(run.folder / f"per_user_{on}.parquet")
    for metric in metrics:
        if metric not in found.column_names[1:]:
            known = found.column_names[1:]
            raise ConfigError(f"{metric!r} was not measured{nearest(metric, known)}; measured: {', '.join(known)}")
    seconds = [line.train_cpu_seconds for line in record.timings]
    return [
        Measured(
            run.variant,
            run.seed,
            record.data.name,
            record.data.fingerprint,
            np.asarray(found.column(0)),
            evaluation.about.get("fingerprints", {}),
            {metric: np.asarray(found.column(metric)) for metric in metrics},
            result.best_epoch,
            statistics.median(seconds) if seconds else None,
            result.parameters,
        )
    ]


def check_comparable(variants: Sequence[Variant], runs: Sequence[Measured]) -> None:
    """Raise `RunError` when runs were measured on different users or pairs, or saw different content."""
    by_name = {one.name: one for one in variants}
    alike: dict[str, Measured] = {}  # the first run of those that read the data in one way
    for run in runs:
        first = runs[0]
        if not np.array_equal(run.users, first.users):
            raise RunError(f"{_names(first, run)} were measured on different users; wanted the same users and split")
        if run.pairs != first.pairs:
            raise RunError(f"{_names(first, run)} saw different training or liked pairs; wanted the same split")
        other = alike.setdefault(by_name[run.variant].of(run.seed).data.model_dump_json(), run)
        if run.fingerprint != other.fingerprint:
            raise RunError(f"{_names(other, run)} saw different data: fingerprints must be equal to be compared")


def _names(first: Measured, second: Measured) -> str:
    return f"{first.variant}-{first.seed} and {second.variant}-{second.seed}"


def _average(runs: Mapping[int, Measured], seeds: Sequence[int], metric: str) -> Floats:
    """Each user's value averaged over seeds, float64 [b]."""
    values: Floats = np.mean([runs[seed].per_user[metric] for seed in seeds], axis=0)
    return values


def _spread(runs: Mapping[int, Measured], metric: str) -> Effect:
    means = [float(run.per_user[metric].mean()) for run in runs.values()]
    return Effect(statistics.mean(means), statistics.stdev(means) if len(means) > 1 else None)


def _row(variant: Variant, runs: Mapping[int, Measured], paired: tuple[int, ...], effects: Mapping[str, Effect]) -> Row:
    own = [runs[seed] for seed in sorted(runs)]
    seconds = [run.cpu_seconds for run in own if run.cpu_seconds is not None]
    return Row(
        variant.name,
        variant.what,
        variant.same_as,
        tuple(sorted(runs)),
        paired,
        effects,
        tuple(run.best_epoch for run in own),
        statistics.mean(seconds) if seconds else None,
        own[0].parameters if own else None,
    )
