"""Missing modalities: models trained anew on a catalog of which a share of the content is masked, and what they lose.

`plan` says which runs are needed, `compare_points` compares each with the model's run on all content; the runs
themselves are those of any study.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from gtcrec.errors import ConfigError, nearest
from gtcrec.evaluation.comparison import correct_together
from gtcrec.experiments.analysis.ablation import Row, compare_variants, modality_names
from gtcrec.experiments.config import RunConfig, load_config
from gtcrec.experiments.measured_run import MeasuredRun, check_comparable, comparison_facts
from gtcrec.experiments.planned_run import StudyPlan, Variant, plan_study

__all__ = ["MissingPlan", "MissingPoint", "compare_points", "plan", "to_arrow"]

TOGETHER = "+"


@dataclass(frozen=True)
class MissingPoint:
    """A model and what is masked from it: modalities joined by "+", "" for none, and the share of each."""

    variant: Variant
    model: str
    masked: str
    missing_rate: float


@dataclass(frozen=True)
class MissingPlan(StudyPlan):
    """The runs, and the points of the table, for each model first the one with all content."""

    points: tuple[MissingPoint, ...]


def plan(
    data: str,
    out: Path,
    models: Sequence[str],
    shares: Sequence[float],
    seeds: Sequence[int],
    masked: Sequence[str] = (),
    settings: Sequence[str] = (),
    file: Path | None = None,
) -> MissingPlan:
    """Return what to train on `data` under `out`: each model at share 0, and at each share of each of `masked`.

    `masked` are modalities, or several joined by "+" that are masked together, each its own items; none named means
    each alone, and all. `settings` and `file` are as for `load_config`; "MODEL:key=value" is a setting of one model.
    What is masked is drawn anew for each seed. Raises `ConfigError` for what cannot be, `RunError` for a folder that
    holds another run.
    """
    for what, words in (("models", list(models)), ("shares", list(shares)), ("modalities", list(masked))):
        if len(set(words)) < len(words):
            raise ConfigError(f"expected distinct {what}, found {', '.join(map(str, words))}")
    for share in shares:
        if not 0 <= share < 1:
            raise ConfigError(f"expected shares in [0, 1), found {share}; to leave a modality out, use data.modalities")
    model_settings = _settings_by_model(models, settings)
    points: list[MissingPoint] = []
    for model in models:
        config = load_config(data, model, file, model_settings[model])
        if config.data.missing_rate:
            raise ConfigError(
                f"what is masked is for --shares and --modality, found data.missing_rate={config.data.missing_rate}"
            )
        points += _points_of_model(model, config, sorted(shares), masked)
    study = plan_study(out, [point.variant for point in points], seeds)
    return MissingPlan(out, study.variants, study.runs, tuple(points))


def compare_points(
    plan: MissingPlan, runs: Sequence[MeasuredRun], metrics: Sequence[str], seed: int = 0
) -> list[tuple[MissingPoint, Row]]:
    """Compare each point with its model's share 0, user by user; Holm's correction over all points and metrics.

    Raises `RunError` when runs were measured on different users or pairs.
    """
    check_comparable(runs)
    found: list[tuple[MissingPoint, Row]] = []
    for model in dict.fromkeys(point.model for point in plan.points):
        points = [point for point in plan.points if point.model == model]
        variants = [point.variant for point in points]
        names = {variant.name for variant in variants}
        rows = compare_variants(
            variants, [run for run in runs if run.variant in names], metrics, seed, variants[0].name
        )
        found += zip(points, rows, strict=True)
    corrected = correct_together(
        {
            (place, metric): one.against
            for place, (_, row) in enumerate(found)
            for metric, one in row.estimates.items()
            if one.against
        }
    )

    def with_family(place: int, row: Row) -> Row:
        estimates = {m: replace(one, against=corrected.get((place, m))) for m, one in row.estimates.items()}
        return replace(row, estimates=estimates)

    return [(point, with_family(place, row)) for place, (point, row) in enumerate(found)]


def to_arrow(found: Sequence[tuple[MissingPoint, Row]]) -> pa.Table:
    """Return the results as a table, a row a point and metric."""
    rows = []
    for point, row in found:
        for metric, one in row.estimates.items():
            facts = {"model": point.model, "hidden": point.masked, "share": point.missing_rate, "seeds": row.seeds}
            rows.append({**facts, "metric": metric, "mean": one.mean, "sd": one.sd, **comparison_facts(one)})
    return pa.Table.from_pylist(rows, _SCHEMA)


_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("hidden", pa.string()),
        ("share", pa.float64()),
        ("seeds", pa.list_(pa.int64())),
        ("metric", pa.string()),
        *((name, pa.float64()) for name in ("mean", "sd", "difference", "difference_low", "difference_high")),
        *((name, pa.float64()) for name in ("difference_seeds_low", "difference_seeds_high", "p_seeds")),
        *((name, pa.float64()) for name in ("relative", "relative_low", "relative_high", "p", "p_holm")),
    ]
)


def _settings_by_model(models: Sequence[str], settings: Sequence[str]) -> dict[str, list[str]]:
    """The settings of each model: those of all, then its own."""
    shared: list[str] = []
    by_model: Mapping[str, list[str]] = {model: [] for model in models}
    for one in settings:
        key, equals, value = one.partition("=")
        model, colon, rest = key.rpartition(":")
        if rest in ("seed", "train.seed", "data.hidden_seed", "data.missing_seed"):
            raise ConfigError(f"the study's seeds are those of --seeds, found the setting {one!r}")
        if colon and model not in by_model:
            raise ConfigError(
                f"{one!r}: the study has no model {model!r}{nearest(model, by_model)}; has {', '.join(by_model)}"
            )
        (by_model[model] if colon else shared).append(f"{rest}{equals}{value}")
    return {model: [*shared, *words] for model, words in by_model.items()}


def _points_of_model(
    model: str, config: RunConfig, shares: Sequence[float], masked: Sequence[str]
) -> Iterator[MissingPoint]:
    yield MissingPoint(Variant(f"{model}-intact", "all content", config), model, "", 0.0)
    for modalities in _masked_groups(config, masked):
        name = TOGETHER.join(modalities)
        for share in filter(None, shares):
            data = config.data.model_copy(update={"missing_rate": dict.fromkeys(modalities, share)})
            changed, percent = config.model_copy(update={"data": data}), f"{100 * share:g}"
            what = f"{percent} % of {' and of '.join(modalities)} masked"
            variant = Variant(f"{model}-{name}-{percent}", what, changed, redraw_missing=True)
            yield MissingPoint(variant, model, name, share)


def _masked_groups(config: RunConfig, masked: Sequence[str]) -> list[list[str]]:
    """The modalities that are masked together: those named, or each alone and all."""
    names = modality_names(config)
    if not names:
        raise ConfigError(f"{config.data.path}: its data have no content, so there is none to mask")
    for name in (one for group in masked for one in group.split(TOGETHER)):
        if name not in names:
            raise ConfigError(f"no content {name!r} to mask{nearest(name, names)}; the data have: {', '.join(names)}")
    if masked:
        return [group.split(TOGETHER) for group in masked]
    return [*([name] for name in names), *([names] if len(names) > 1 else [])]
