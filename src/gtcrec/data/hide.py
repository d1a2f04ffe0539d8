"""Hiding a share of a modality's content, to ask what a model is worth on an incomplete catalogue."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from gtcrec.errors import ConfigError, DataError, nearest
from gtcrec.types import Dataset, Floats, Ints, ItemFeatures, Masks

__all__ = ["hidden_items", "hide"]


def hide(dataset: Dataset, shares: Mapping[str, float], seed: int) -> Dataset:
    """Hide a share, in [0, 1), of the items that have a modality, by name of the modality.

    Hidden rows become zeros whose mask is False; interactions and items stay, `notes` count what was hidden. Raises
    `ConfigError` for a modality that was not read, `DataError` for content that was left on disk.
    """
    features = dataset.features
    values: dict[str, Floats] = dict(features.values)
    present: dict[str, Masks] = dict(features.present)
    notes = dict(dataset.notes)
    for name, share in shares.items():
        if name not in values:
            found = ", ".join(features.names) or "none"
            raise ConfigError(f"data.hidden: no content {name!r} was read, found {found}{nearest(name, values)}")
        if isinstance(values[name], np.memmap):
            raise DataError(f"data.hidden: {name} stays on disk, where no row can be hidden; leave memory_map out")
        rows = hidden_items(present[name], share, name, seed)
        if len(rows):
            values[name], present[name] = values[name].copy(), present[name].copy()
            values[name][rows], present[name][rows] = 0, False
            notes[f"{name}: items whose content was hidden"] = len(rows)
    return replace(dataset, features=ItemFeatures(features.n_items, values, present), notes=notes)


def hidden_items(present: Masks, share: float, modality: str, seed: int) -> Ints:
    """Return floor(share · n) of the n items that are present, int64, drawn from the seed and the modality's name.

    What one share hides, a larger one hides too.

    >>> hidden_items(np.ones(10, dtype=bool), 0.25, "image", 0).shape
    (2,)
    """
    name = int.from_bytes(hashlib.sha256(modality.encode()).digest()[:8])
    order = np.random.default_rng([seed, name]).permutation(np.flatnonzero(present))
    # 0.29 · 100 is 28.999... in floating point
    return order[: math.floor(share * len(order) + 1e-9)].astype(np.int64)
