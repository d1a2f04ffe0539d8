"""A data set in numbers, for people to check before they train."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gtcrec.data.splits import SplitConfig, assign
from gtcrec.types import Dataset, Floats, Ints, Masks

__all__ = ["describe"]

_DEFAULT = SplitConfig()


def describe(dataset: Dataset, config: SplitConfig = _DEFAULT) -> dict[str, Any]:
    """Return counts, skew, content and traps of a data set as plain numbers that JSON can hold.

    Parameters
    ----------
    dataset
        What `load` returns.
    config
        How `split` divides it: the parts that are described.

    Returns
    -------
    dict
        Counts and shares by name; `modalities` has one entry a modality.

    Raises
    ------
    DataError
        When the data lack what the split's strategy needs.

    Examples
    --------
    >>> from gtcrec.data import make_catalog
    >>> facts = describe(make_catalog(n_users=30, n_items=40).dataset)
    >>> facts["users"], facts["items"], facts["modalities"]["image"]["width"]
    (30, 40, 316)
    """
    pairs = dataset.interactions
    parts = assign(dataset, config)
    train, test = pairs.where(parts == 0), pairs.where(parts == 2)
    cold = (train.item_counts == 0) & (test.item_counts > 0)
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "users": pairs.n_users,
        "items": pairs.n_items,
        "interactions": len(pairs),
        "density": len(pairs) / (pairs.n_users * pairs.n_items),
        "per user": _quantiles(pairs.user_counts),
        "per item": _quantiles(pairs.item_counts),
        "labels": None if dataset.labels is None else _part_counts(dataset.labels),
        "parts": _part_counts(parts),
        "times": None if dataset.times is None else [float(dataset.times.min()), float(dataset.times.max())],
        "share of the top 1 % items": _top_share(pairs.item_counts, 0.01),
        "share of the top 10 % items": _top_share(pairs.item_counts, 0.1),
        "users without training pairs": int((train.user_counts == 0).sum()),
        "items without interactions": int((pairs.item_counts == 0).sum()),
        "test items without training pairs": int(cold.sum()),
        "test pairs of items without training pairs": int(cold[test.items].sum()),
        "modalities": {
            m: _describe_modality(dataset.features.values[m], dataset.features.present[m])
            for m in dataset.features.names
        },
        "titles": 0 if dataset.item_metadata is None else sum(title != "" for title in dataset.item_metadata.titles),
        "images": 0
        if dataset.item_metadata is None
        else sum(image is not None for image in dataset.item_metadata.images),
        "notes": dict(dataset.notes),
    }


def _quantiles(counts: Ints) -> dict[str, float]:
    names = ("min", "25 %", "median", "75 %", "99 %", "max")
    values = np.quantile(counts, (0, 0.25, 0.5, 0.75, 0.99, 1))
    return {**dict(zip(names, values.tolist(), strict=True)), "mean": float(counts.mean())}


def _part_counts(labels: NDArray[np.int8]) -> dict[str, int]:
    return dict(zip(("train", "valid", "test"), np.bincount(labels, minlength=3).tolist(), strict=True))


def _top_share(counts: Ints, part: float) -> float:
    """Return the share of all interactions that the `part` most popular items hold, at least one item."""
    top = max(1, round(part * len(counts)))
    return float(np.sort(counts)[::-1][:top].sum() / counts.sum())


def _describe_modality(x: Floats, present: Masks) -> dict[str, float]:
    there = np.ascontiguousarray(x[present])  # [n_present, width]
    rows = there.view(np.dtype((np.void, there.dtype.itemsize * there.shape[1]))).ravel()
    return {
        "width": x.shape[1],
        "present": float(present.mean()),
        "duplicate rows": len(rows) - len(np.unique(rows)),
        "constant columns": int((there.min(axis=0) == there.max(axis=0)).sum()) if len(there) else x.shape[1],
    }
