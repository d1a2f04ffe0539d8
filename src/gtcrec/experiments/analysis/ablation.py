"""An ablation: GTC trained without each of its parts, over several seeds, and the table of what each part is worth.

`plan` says which runs are needed and refuses what cannot be, `compare_variants` compares those that have ended.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gtcrec.data.formats.npy import choose_modalities, feature_files
from gtcrec.errors import ConfigError, nearest
from gtcrec.experiments.config import RunConfig, load_config
from gtcrec.experiments.measured_run import Estimate, MeasuredRun, check_comparable, compare_metrics, estimate
from gtcrec.experiments.planned_run import StudyPlan, Variant, existing_seeds, plan_study

__all__ = ["BASELINE", "GRID", "Row", "compare_variants", "modality_names", "plan"]

BASELINE = "full"

# name -> (what it is, settings). Data with several modalities add a `without-M` for each M.
GRID: Mapping[str, tuple[str, tuple[str, ...]]] = {
    BASELINE: ("GTC as configured", ()),
    "untrained": ("as it starts, before training", ("epochs=1", "learning_rate=1e-12")),
    "linear": ("the linear part alone", ("embedding_weight=0", "history_weight=0", "interest_weight=0")),
    "embedding": ("the embedding part alone", ("linear_weight=0", "history_weight=0", "interest_weight=0")),
    "history": ("the history diffusion alone", ("linear_weight=0", "embedding_weight=0", "interest_weight=0")),
    "interest": ("the content diffusion alone", ("linear_weight=0", "embedding_weight=0", "history_weight=0")),
    "no-linear": ("without the linear part", ("linear_weight=0",)),
    "no-embedding": ("without the embedding part", ("embedding_weight=0",)),
    "no-history": ("without the history diffusion", ("history_weight=0",)),
    "no-interest": ("without the content diffusion", ("interest_weight=0",)),
    "no-diffusion-loss": ("diffusions that are never trained", ("diffusion_weight=0",)),
    "random-start": ("embeddings from random", ("init=random",)),
    "no-content": ("interactions alone", ("data.modalities=[]",)),
    "no-filter": ("content as it is", ("filter=off",)),
    "noise-only": ("a filter that is never trained", ("filter=noise_only",)),
    "user-agnostic": ("one filter for all users", ("num_prototypes=1",)),
    "condition-identity": ("items filtered for their identity", ("condition=item_id",)),
    "no-alignment": ("views not aligned", ("alignment=none",)),
    "pairwise": ("views aligned two by two", ("alignment=pairwise",)),
    "n": ("total correlation, other views drawn apart", ("alignment=n",)),
    "chain": ("total correlation as a chain", ("alignment=chain",)),
    "no-item-graph": ("no item graph of content", ("num_item_neighbors=0",)),
    "no-user-graph": ("no user graph", ("num_user_neighbors=0",)),
    "with-user-graph": ("with a user graph", ("num_user_neighbors=40",)),
}


@dataclass(frozen=True)
class Row:
    """A line of the table; `paired` are the seeds that the baseline has too, `cpu_seconds` those of an epoch."""

    name: str
    what: str
    same_as: str
    seeds: tuple[int, ...]
    paired: tuple[int, ...]
    estimates: Mapping[str, Estimate]
    best_epochs: tuple[int | None, ...]
    cpu_seconds: float | None
    parameters: int | None


def plan(
    data: str,
    out: Path,
    seeds: Sequence[int],
    only: Sequence[str] = (),
    settings: Sequence[str] = (),
    file: Path | None = None,
) -> StudyPlan:
    """Return what to train on `data` under `out`: the variants named by `only` (none: all) with each seed.

    `settings` ("key=value") and `file` are as for `load_config`, before a variant's own settings. The table also shows
    the variants that `out` has already. Raises `ConfigError` for an unknown name or what the config refuses, `RunError`
    for a folder that holds another run.
    """
    for setting in settings:
        if setting.partition("=")[0] in ("seed", "train.seed"):
            raise ConfigError(f"the ablation's seeds are 0, 1, ... of --seeds, found the setting {setting!r}")
    grid = {**GRID, **_without_each_modality(load_config(data, "gtc", file, settings))}
    for name in only:
        if name not in grid:
            raise ConfigError(f"unknown variant {name!r}{nearest(name, grid)}; known: {', '.join(grid)}")
    variants: list[Variant] = []
    for name, (what, changes) in grid.items():
        if name == BASELINE or not only or name in only or existing_seeds(out, name):
            try:
                config = load_config(data, "gtc", file, [*settings, *changes])
            except ConfigError as error:
                raise ConfigError(f"variant {name}: {error}") from error
            same = next((one.name for one in variants if one.config == config), "")
            variants.append(Variant(name, what, config, same))
    trained = {one.same_as or one.name for one in variants if not only or one.name in only}
    return plan_study(out, variants, seeds, trained)


def compare_variants(
    variants: Sequence[Variant],
    runs: Sequence[MeasuredRun],
    metrics: Sequence[str],
    seed: int = 0,
    baseline: str = BASELINE,
) -> list[Row]:
    """Compare each variant with `baseline`, user by user, each user's values averaged over the seeds that both have.

    Interval and p are those of `paired_test`, drawn from `seed`; Holm's correction is over variants and metrics.
    Raises `RunError` when runs were measured on different users or pairs, or saw different content.
    """
    check_comparable(runs)
    by_seed = {one.name: {run.seed: run for run in runs if run.variant == one.name} for one in variants}
    tests = compare_metrics(by_seed, metrics, baseline, True, seed)
    reference = by_seed.get(baseline, {})
    rows = []
    for one in variants:
        members = [by_seed[one.name][number] for number in sorted(by_seed[one.name])]
        estimates = {m: estimate(members, m, tests.get((one.name, m))) for m in metrics if members}
        seconds = [took for run in members if (took := run.costs["epoch_cpu_seconds"]) is not None]
        rows.append(
            Row(
                one.name,
                one.what,
                one.same_as,
                tuple(run.seed for run in members),
                tuple(run.seed for run in members if run.seed in reference),
                estimates,
                tuple(run.record.result.best_epoch for run in members),
                statistics.mean(seconds) if seconds else None,
                members[0].record.result.parameters if members else None,
            )
        )
    return rows


def modality_names(config: RunConfig) -> list[str]:
    """Return the modalities that a configuration reads from its data."""
    path = Path(config.data.path)
    return list(choose_modalities(feature_files(path if path.is_dir() else path.parent), config.data.modalities))


def _without_each_modality(base: RunConfig) -> dict[str, tuple[str, tuple[str, ...]]]:
    """A variant for each modality of the data, which is trained on the others alone."""
    names = modality_names(base)
    others = {m: json.dumps([other for other in names if other != m], ensure_ascii=False) for m in names}
    return {f"without-{m}": (f"data without {m}", (f"data.modalities={others[m]}",)) for m in names}
