"""Metrics of groups of items and users."""

from collections.abc import Mapping, Sequence

import numpy as np

from gtcrec.evaluation.metrics import compute
from gtcrec.types import Floats, Interactions, Masks, Report, TopK

__all__ = ["item_slices", "mean_metrics", "user_slices"]

_HEAD = 0.2  # the usual border of the long tail: the most popular fifth of the items


def mean_metrics(per_user: Mapping[str, Floats]) -> dict[str, float]:
    """Return the mean of each metric over users."""
    return {name: float(values.mean()) for name, values in per_user.items()}


def item_slices(
    lists: TopK, is_hit: Masks, relevant: Interactions, train: Interactions, names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return the means over cold, tail and head items: only relevant items of the group count."""
    by_count = np.argsort(-train.item_counts, kind="stable")
    cold = train.item_counts == 0
    head = np.zeros(train.n_items, dtype=np.bool_)
    head[by_count[: int(np.ceil(_HEAD * np.count_nonzero(~cold)))]] = True
    slices = {}
    for word, group in (("cold", cold), ("tail", ~cold & ~head), ("head", head)):
        n_relevant = relevant.where(group[relevant.items]).user_counts[lists.users]
        rows = n_relevant > 0
        if rows.any():
            means = mean_metrics(compute(names, (is_hit & group[lists.items])[rows], n_relevant[rows]))
            slices[f"items: {word}"] = {"users": float(np.count_nonzero(rows)), **means}
    return slices


def user_slices(report: Report, train: Interactions) -> dict[str, dict[str, float]]:
    """Return the means over thirds of the users by their training pairs."""
    counts = train.user_counts[report.users]
    borders = np.quantile(counts, [1 / 3, 2 / 3])
    third = np.searchsorted(borders, counts)  # [b], 0 up to and including the first border
    slices = {}
    for number, word in enumerate(("low", "mid", "high")):
        rows = third == number
        if rows.any():
            means = mean_metrics({name: values[rows] for name, values in report.per_user.items()})
            slices[f"users: {word}"] = {"users": float(np.count_nonzero(rows)), **means}
    return slices
