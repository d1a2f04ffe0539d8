"""Catalogues in numbers alone, each with one planted truth that a claim about the method can be tested on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gtcrec.errors import DataError
from gtcrec.types import Dataset, Floats, Interactions, Ints, ItemFeatures, Masks, Vocabulary

__all__ = ["SyntheticTruth", "disjoint_interests", "null_interests", "xor_interests"]

_STREAM = 7  # keeps these draws apart from others that start from the same seed


@dataclass(frozen=True, eq=False)
class SyntheticTruth:
    """A catalogue and its truth: `relevant[m]` bool [n_users, d_m], the columns of content that a user cares about."""

    dataset: Dataset
    relevant: dict[str, Masks]


def disjoint_interests(
    seed: int = 0,
    n_users: int = 2000,
    n_items: int = 2000,
    parts: int = 8,
    width: int = 32,
    clusters: int = 60,
    train: int = 12,
    held: int = 2,
    noise: float = 0.3,
) -> SyntheticTruth:
    """Users who care about disjoint parts of the content.

    Content has `parts` parts of `width` columns; in each, an item belongs to one of `clusters` clusters with normal
    centres, plus `noise`. A user cares about one part and likes items of two of its clusters: `train` training, `held`
    validation and `held` test items.
    """
    rng = np.random.default_rng([_STREAM, seed])
    centres = rng.normal(size=(parts, clusters, width))
    codes = rng.integers(0, clusters, (n_items, parts))
    content = np.concatenate([centres[p, codes[:, p]] for p in range(parts)], axis=1)
    content += noise * rng.normal(size=content.shape)
    cares = rng.integers(0, parts, n_users)
    n_needed = train + 2 * held
    chosen = np.empty((n_users, n_needed), dtype=np.int64)
    for user, part in enumerate(cares):
        sizes = np.bincount(codes[:, part], minlength=clusters)
        first, second = rng.permutation(clusters)[:2]
        if sizes[first] + sizes[second] < n_needed:  # rare, and never with the sizes that are the defaults
            first, second = np.argsort(-sizes)[:2]
        candidates = np.flatnonzero((codes[:, part] == first) | (codes[:, part] == second))
        if len(candidates) < n_needed:
            raise DataError(
                f"expected at least {n_needed} items in two clusters, found {len(candidates)}; draw more items"
            )
        chosen[user] = rng.permutation(candidates)[:n_needed]
    labels = np.repeat([0, 1, 2], [train, held, held])
    relevant = np.repeat(cares[:, None] == np.arange(parts), width, axis=1)
    features = {"content": content.astype(np.float32)}
    return SyntheticTruth(
        _make_dataset("parts", chosen, np.tile(labels, (n_users, 1)), features), {"content": relevant}
    )


def xor_interests(
    seed: int = 0,
    n_users: int = 1000,
    n_items: int = 2000,
    bits: int = 6,
    width: int = 24,
    train: int = 2,
    held: int = 2,
    noise: float = 0.5,
) -> SyntheticTruth:
    """A dependency of three views that no pair of them shows: what a user likes is image code xor text code.

    Each item has two independent codes of `bits` bits, seen in `image` and `text` through a random linear map plus
    noise. A user likes one value of their exclusive or: `train` training, `held` validation and `held` test items.
    """
    rng = np.random.default_rng([_STREAM, 1, seed])
    codes = rng.integers(0, 2, (2, n_items, bits))
    features = {}
    for name, code in zip(("image", "text"), codes, strict=True):
        seen = (2.0 * code - 1) @ rng.normal(size=(bits, width)) + noise * rng.normal(size=(n_items, width))
        features[name] = seen.astype(np.float32)
    values = (codes[0] ^ codes[1]) @ (1 << np.arange(bits))
    n_needed = train + 2 * held
    least = np.bincount(values, minlength=1 << bits).min()
    if least < n_needed:
        raise DataError(f"expected at least {n_needed} items of each value, found {least}; draw more items")
    tastes = rng.integers(0, 1 << bits, n_users)
    chosen = np.stack([rng.permutation(np.flatnonzero(values == taste))[:n_needed] for taste in tastes])
    labels = np.tile(np.repeat([0, 1, 2], [train, held, held]), (n_users, 1))
    return SyntheticTruth(_make_dataset("xor", chosen, labels, features), {})


def null_interests(
    seed: int = 0, n_users: int = 1500, n_items: int = 1200, width: int = 64, per_user: int = 12, held: int = 2
) -> SyntheticTruth:
    """Nothing planted in the content: users follow hidden tastes of their own, and content is noise."""
    rng = np.random.default_rng([_STREAM, 2, seed])
    tastes, traits = rng.normal(size=(n_users, 8)), rng.normal(size=(n_items, 8))
    scores = tastes @ traits.T + rng.gumbel(size=(n_users, n_items))
    chosen = np.argsort(-scores, axis=1)[:, : per_user + 2 * held]
    labels = rng.permuted(np.tile(np.repeat([0, 1, 2], [per_user, held, held]), (n_users, 1)), axis=1)
    features = {m: rng.normal(size=(n_items, width)).astype(np.float32) for m in ("image", "text")}
    return SyntheticTruth(_make_dataset("chance", chosen, labels, features), {})


def _make_dataset(name: str, chosen: Ints, labels: NDArray[np.int64], features: dict[str, Floats]) -> Dataset:
    """The data set of each user's chosen items [n_users, c] with their labels (0 train, 1 valid, 2 test)."""
    n_users, n_items = len(chosen), len(next(iter(features.values())))
    order = np.argsort(chosen, axis=1)
    items, labels = np.take_along_axis(chosen, order, 1), np.take_along_axis(labels, order, 1)
    users = np.repeat(np.arange(n_users), chosen.shape[1])
    return Dataset(
        name=name,
        interactions=Interactions(users, items.ravel(), n_users, n_items),
        features=ItemFeatures(n_items, features, {m: np.ones(n_items, dtype=np.bool_) for m in features}),
        users=Vocabulary(np.arange(n_users), "user"),
        items=Vocabulary(np.arange(n_items), "item"),
        labels=labels.ravel().astype(np.int8),
    )
