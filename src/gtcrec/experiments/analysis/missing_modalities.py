"""Missing content: models trained anew on a catalogue of which a share of the content is hidden, and what they lose.

`plan` says which runs are wanted, `table` compares each with the model's run on all content; the runs themselves are
begun and read as those of an ablation.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from gtcrec.data.formats.npy import choose_modalities, feature_files
from gtcrec.errors import ConfigError, nearest
from gtcrec.experiments.analysis.ablation import Measured, Plan, Row, Variant, check_comparable, plan_runs
from gtcrec.experiments.analysis.ablation import table as compared
from gtcrec.experiments.config import RunConfig, resolve

__all__ = ["Point", "Study", "parquet", "plan", "table"]

TOGETHER = "+"


@dataclass(frozen=True)
class Point:
    """A model and what is hidden from it: modalities joined by "+", "" for none, and the share of each."""

    variant: Variant
    model: str
    hidden: str
    share: float


@dataclass(frozen=True)
class Study:
    """The points, for each model first the one at share 0, and the runs that they need."""

    plan: Plan
    points: tuple[Point, ...]


def plan(
    data: str,
    out: Path,
    models: Sequence[str],
    shares: Sequence[float],
    seeds: Sequence[int],
    hidden: Sequence[str] = (),
    given: Sequence[str] = (),
    file: Path | None = None,
) -> Study:
    """Return what to train on `data` under `out`: each model at share 0, and at each share of each of `hidden`.

    `hidden` are modalities, or several joined by "+" that are hidden together, each its own items; none named means
    each alone, and all. `given` and `file` are as for `resolve`; "MODEL:key=value" is a setting of that model alone.
    What is hidden is drawn anew for each seed. Raises `ConfigError` for what cannot be, `RunError` for a folder that
    holds another run.
    """
    for what, words in (("models", list(models)), ("shares", list(shares)), ("modalities", list(hidden))):
        if len(set(words)) < len(words):
            raise ConfigError(f"wanted distinct {what}, found {', '.join(map(str, words))}")
    for share in shares:
        if not 0 <= share < 1:
            raise ConfigError(f"wanted shares in [0, 1), found {share}; to leave a modality out, use data.modalities")
    settings = _by_model(models, given)
    points: list[Point] = []
    for model in models:
        config = resolve(data, model, file, settings[model])
        if config.data.hidden:
            raise ConfigError(f"what is hidden is for --shares and --modality, found data.hidden={config.data.hidden}")
        points += _points(model, config, sorted(shares), hidden)
    variants = [point.variant for point in points]
    return Study(plan_runs(out, variants, seeds, {one.name for one in variants}), tuple(points))


def table(study: Study, runs: Sequence[Measured], metrics: Sequence[str], seed: int = 0) -> list[tuple[Point, Row]]:
    """Compare each point with its model's share 0, user by user; Holm's correction over a model's points.

    Raises `RunError` when runs were measured on different users or pairs.
    """
    check_comparable([point.variant for point in study.points], runs)
    found: list[tuple[Point, Row]] = []
    for model in dict.fromkeys(point.model for point in study.points):
        own = [point for point in study.points if point.model == model]
        names = {point.variant.name for point in own}
        theirs = [run for run in runs if run.variant in names]
        rows = compared([one.variant for one in own], theirs, metrics, seed, own[0].variant.name)
        found += zip(own, rows, strict=True)
    return found


def parquet(found: Sequence[tuple[Point, Row]]) -> pa.Table:
    """Return the results as a table, a row a point and metric."""
    rows = []
    for point, row in found:
        for metric, effect in row.effects.items():
            facts = {"model": point.model, "hidden": point.hidden, "share": point.share, "seeds": row.seeds}
            facts |= {"metric": metric, "mean": effect.mean, "sd": effect.sd, "relative": effect.relative}
            facts |= dict(zip(("relative_low", "relative_high"), effect.interval or (None, None), strict=True))
            if effect.test:
                facts |= {"difference": effect.test.difference, "p": effect.test.p, "p_holm": effect.test.p_holm}
                facts |= dict(zip(("difference_low", "difference_high"), effect.test.interval, strict=True))
            rows.append(facts)
    return pa.Table.from_pylist(rows, _SCHEMA)


_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("hidden", pa.string()),
        ("share", pa.float64()),
        ("seeds", pa.list_(pa.int64())),
        ("metric", pa.string()),
        *((name, pa.float64()) for name in ("mean", "sd", "difference", "difference_low", "difference_high")),
        *((name, pa.float64()) for name in ("relative", "relative_low", "relative_high", "p", "p_holm")),
    ]
)


def _by_model(models: Sequence[str], given: Sequence[str]) -> dict[str, list[str]]:
    """The settings of each model: those of all, then its own."""
    shared: list[str] = []
    own: Mapping[str, list[str]] = {model: [] for model in models}
    for one in given:
        key, equals, value = one.partition("=")
        model, colon, rest = key.rpartition(":")
        if rest in ("seed", "train.seed", "data.hidden_seed"):
            raise ConfigError(f"the study's seeds are those of --seeds, found the setting {one!r}")
        if colon and model not in own:
            raise ConfigError(f"{one!r}: the study has no model {model!r}{nearest(model, own)}; has {', '.join(own)}")
        (own[model] if colon else shared).append(f"{rest}{equals}{value}")
    return {model: [*shared, *words] for model, words in own.items()}


def _points(model: str, config: RunConfig, shares: Sequence[float], hidden: Sequence[str]) -> Iterator[Point]:
    yield Point(Variant(f"{model}-intact", "all content", config), model, "", 0.0)
    for modalities in _groups(config, hidden):
        name = TOGETHER.join(modalities)
        for share in shares:
            if share:
                data = config.data.model_copy(update={"hidden": dict.fromkeys(modalities, share)})
                percent = f"{100 * share:g}"
                what = f"{percent} % of {' and of '.join(modalities)} hidden"
                variant = Variant(
                    f"{model}-{name}-{percent}", what, config.model_copy(update={"data": data}), redrawn=True
                )
                yield Point(variant, model, name, share)


def _groups(config: RunConfig, hidden: Sequence[str]) -> list[list[str]]:
    """The modalities that are hidden together: those named, or each alone and all."""
    path = Path(config.data.path)
    files = feature_files(path if path.is_dir() else path.parent)
    names = list(choose_modalities(files, config.data.modalities))
    if not names:
        raise ConfigError(f"{path}: its data have no content, so there is none to hide")
    for name in (one for group in hidden for one in group.split(TOGETHER)):
        if name not in names:
            raise ConfigError(f"no content {name!r} to hide{nearest(name, names)}; the data have: {', '.join(names)}")
    if hidden:
        return [group.split(TOGETHER) for group in hidden]
    return [*([name] for name in names), *([names] if len(names) > 1 else [])]
