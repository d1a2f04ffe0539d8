"""What a trained model loses when a modality's content is replaced: how much of its ranking rests on that content.

The model is rebuilt around the changed content, its graphs too, and keeps the weights that it was trained to. What
those weights learned from content in training stays: this is what scoring takes from content, not what training did.
Content that was trained (`train_content`) is such a weight: then the model's graphs alone see the change.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn

from gtcrec import models
from gtcrec.errors import DataError, RunError
from gtcrec.evaluation.comparison import (
    SIGNIFICANT,
    BaselineComparison,
    PairedDifference,
    compare_to_baseline,
    correct_together,
)
from gtcrec.evaluation.evaluator import evaluate_split, validation_users
from gtcrec.experiments.run import Run
from gtcrec.types import Floats, ItemFeatures

__all__ = ["KINDS", "Kind", "ModalityImportance", "ReplacementLoss", "modality_importance", "replace_content"]

Kind = Literal["noise", "constant", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class ReplacementLoss:
    """What became of a metric: its mean, how far that is from the intact model's, and as shares of the latter."""

    modality: str
    kind: Kind
    mean: float
    test: PairedDifference
    relative: float | None
    interval: tuple[float, float] | None

    @property
    def significant(self) -> bool:
        """Whether the difference is significant after Holm's correction."""
        return self.test.p_holm < SIGNIFICANT


@dataclass(frozen=True)
class ModalityImportance:
    """The intact model's means on validation by metric, and a `ReplacementLoss` for each metric, modality and kind."""

    users: int
    intact: Mapping[str, float]
    losses: tuple[ReplacementLoss, ...]


def replace_content(features: ItemFeatures, modality: str, kind: Kind, rng: np.random.Generator) -> ItemFeatures:
    """Return the content with one modality's present rows replaced; masks and absent rows stay.

    `noise`: drawn from a normal of each column's mean and standard deviation. `constant`: the mean row. `other`: each
    item has the row of another one, from a random cycle over the present items. Raises `DataError` when there are not
    two present items to exchange.
    """
    present = features.present[modality].nonzero()[0]
    rows: Floats = features.values[modality][present]  # [p, d_m]
    if kind == "other":
        if len(present) < 2:
            raise DataError(f"{modality}: expected at least 2 items that have it to exchange, found {len(present)}")
        order = rng.permutation(len(present))
        changed = np.empty_like(rows)
        changed[order] = rows[np.roll(order, 1)]
    else:
        mean = rows.mean(axis=0, dtype=np.float64)
        spread = rows.std(axis=0, dtype=np.float64) if kind == "noise" else np.zeros_like(mean)
        noise = rng.standard_normal(rows.shape, dtype=np.float32) if kind == "noise" else np.zeros_like(rows)
        changed = mean.astype(np.float32) + spread.astype(np.float32) * noise
    values = np.zeros(features.values[modality].shape, dtype=np.float32)
    values[present] = changed
    return ItemFeatures(features.n_items, {**features.values, modality: values}, features.present)


def modality_importance(run: Run, metrics: Sequence[str] = (), seed: int = 0) -> ModalityImportance:
    """Measure a finished run on its validation pairs, intact and with each modality replaced in each way.

    `metrics` are those of the run if none is named; `seed` draws the replacements and the statistics. Raises
    `RunError` for a run without content or not finished, or a model whose saved weights contain content.
    """
    run.need_finished()
    features = run.split.features
    if not features.names:
        raise RunError(f"{run.folder}: its data have no content, so there is none to replace")
    measured = tuple(metrics) or run.config.evaluate.metrics
    fresh = _build_around(run, features)
    start = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    intact = _measure_per_user(run, fresh, measured)
    changed = []
    for modality, kind, content in _replaced_features(features, seed):
        model = _build_around(run, content)
        for name, tensor in model.state_dict().items():
            if not torch.equal(tensor, start[name]):
                raise RunError(
                    f"{run.config.model}: its saved weights contain content: {name!r} changes with {modality}; "
                    "expected a model that keeps content in buffers that are not saved"
                )
        changed.append((modality, kind, _measure_per_user(run, model, measured)))
    means = {metric: float(values.mean()) for metric, values in intact.items()}
    tests = correct_together(
        {key: one for metric in measured for key, one in _compare_losses(metric, intact[metric], changed, seed)}
    )
    found = tuple(
        ReplacementLoss(modality, kind, float(values[metric].mean()), *tests[metric, modality, kind])
        for metric in measured
        for modality, kind, values in changed
    )
    return ModalityImportance(len(next(iter(intact.values()))), means, found)


def _replaced_features(features: ItemFeatures, seed: int) -> Iterator[tuple[str, Kind, ItemFeatures]]:
    for place, modality in enumerate(features.names):
        for number, kind in enumerate(KINDS):
            yield (
                modality,
                kind,
                replace_content(features, modality, kind, np.random.default_rng([seed, place, number])),
            )


def _build_around(run: Run, features: ItemFeatures) -> nn.Module:
    """The run's model around other content, whose weights are to be loaded."""
    config = run.config
    settings = models.make_config(config.model, config.settings, config.preset)
    return models.build_model(config.model, run.split.train, features, settings, config.train.seed, init_weights=False)


def _measure_per_user(run: Run, model: nn.Module, metrics: Sequence[str]) -> Mapping[str, Floats]:
    """Each user's metrics on validation, metric -> float64 [b], of a model given the run's weights."""
    config = run.config
    model.load_state_dict(run.model.state_dict())
    scorer = model.to(run.training.device).scorer()  # type: ignore[operator]
    users = validation_users(run.split, config.evaluate, config.train.valid_users, config.train.seed)
    found = evaluate_split(scorer, run.split, "valid", config.evaluate, metrics=metrics, details=False, users=users)
    return found.per_user


def _compare_losses(
    metric: str, intact: Floats, changed: Sequence[tuple[str, Kind, Mapping[str, Floats]]], seed: int
) -> Iterator[tuple[tuple[str, str, Kind], BaselineComparison]]:
    """Paired tests of one metric against the intact model, by metric, modality and kind."""
    pairs = {f"{modality}: {kind}": (values[metric], intact) for modality, kind, values in changed}
    tested = compare_to_baseline("intact", metric, pairs, seed).values()
    for (modality, kind, _), test in zip(changed, tested, strict=True):
        yield (metric, modality, kind), test
