"""Filters between a file and a data set: low ratings, duplicates, the k-core, modalities masked at random."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from gtcrec.errors import ConfigError, DataError, nearest
from gtcrec.types import Dataset, Floats, Interactions, Ints, ItemFeatures, Masks, Vocabulary
from gtcrec.types.arrays import pair_order

__all__ = ["Rows", "drop_low_ratings", "k_core", "keep_k_core", "mask_modalities", "masked_items", "merge_duplicates"]

Codes = NDArray[Any]  # int32 or int64


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of an interactions file as indices; each array has one entry a row, None where no column is.

    Users, items and places are int64 or int32 [n]; `places` say where the rows stand in the file, for messages.
    """

    users: NDArray[Any]
    items: NDArray[Any]
    places: NDArray[Any]
    labels: NDArray[np.int8] | None = None
    times: Floats | None = None
    ratings: Floats | None = None

    def __len__(self) -> int:
        return len(self.users)

    def at(self, chosen: NDArray[np.int64] | Masks) -> "Rows":
        """Return the chosen rows (indices or a mask), in that order."""
        columns: dict[str, Any] = {name: None if x is None else x[chosen] for name, x in vars(self).items()}
        return Rows(**columns)


def drop_low_ratings(rows: Rows, least: float | None) -> tuple[Rows, dict[str, int]]:
    """Return the rows rated at least `least`, and notes.

    Raises `DataError` without ratings and when no row is left.
    """
    if least is None:
        return rows, {}
    if rows.ratings is None:
        raise DataError(f"data.min_rating is {least:g} but there is no rating column; set data.rating to its name")
    keep = rows.ratings >= least
    if not keep.any():
        raise DataError(
            f"data.min_rating {least:g} leaves no interaction: the highest rating is {rows.ratings.max():g}"
        )
    dropped = int((~keep).sum())
    return rows.at(keep), {"rows below min_rating": dropped} if dropped else {}


def merge_duplicates(rows: Rows, place: Callable[[int], str]) -> tuple[Rows, dict[str, int]]:
    """Return one row a user-item pair, sorted by user, then item, with its earliest time; and notes.

    Raises `DataError` for a pair whose rows have different labels: it would be in training and in test.
    """
    rows = rows.at(pair_order(rows.users, rows.items, *([] if rows.times is None else [rows.times])))
    new = np.zeros(len(rows), dtype=np.bool_)
    new[:1] = True
    for side in (rows.users, rows.items):
        new[1:] |= np.diff(side) != 0
    if rows.labels is not None:
        labels, first = rows.labels, np.flatnonzero(new)[np.cumsum(new) - 1]
        clash = np.flatnonzero(labels != labels[first])
        if len(clash):
            (one, label), (two, other) = sorted(
                (int(rows.places[row]), int(rows.labels[row])) for row in (clash[0], first[clash[0]])
            )
            raise DataError(
                f"one user-item pair has label {label} in {place(one)} and label {other} in "
                f"{place(two)}: a pair must be in one part only"
            )
    merged = len(rows) - int(new.sum())
    return (rows.at(new), {"duplicates merged": merged}) if merged else (rows, {})


def keep_k_core(dataset: Dataset, k: int) -> Dataset:
    pairs = dataset.interactions
    keep = k_core(pairs.users, pairs.items, pairs.n_users, pairs.n_items, k)
    if not keep.any():
        raise DataError(f"data.k_core {k} leaves no interaction of {len(pairs)}; choose a smaller one")
    users, new_users = np.unique(pairs.users[keep], return_inverse=True)
    items, new_items = np.unique(pairs.items[keep], return_inverse=True)
    features = dataset.features
    fell = {
        f"{k}-core: interactions dropped": int((~keep).sum()),
        f"{k}-core: users dropped": pairs.n_users - len(users),
        f"{k}-core: items dropped": pairs.n_items - len(items),
    }
    return replace(
        dataset,
        interactions=Interactions(new_users, new_items, len(users), len(items)),
        features=ItemFeatures(
            len(items),
            {name: x[items] for name, x in features.values.items()},
            {name: mask[items] for name, mask in features.present.items()},
        ),
        users=Vocabulary(dataset.users.ids[users], "user"),
        items=Vocabulary(dataset.items.ids[items], "item"),
        labels=None if dataset.labels is None else dataset.labels[keep],
        times=None if dataset.times is None else dataset.times[keep],
        item_metadata=dataset.item_metadata and dataset.item_metadata.of(items),
        notes={**dataset.notes, **{what: count for what, count in fell.items() if count}},
    )


def k_core(users: Codes, items: Codes, n_users: int, n_items: int, k: int) -> Masks:
    """Return which of the distinct pairs lie in the k-core, bool [n]: there each user and item has at least k pairs.

    It is the largest such set, so the order of peeling does not matter (Seidman 1983). Time and memory are linear in
    the pairs: a user or item that falls is visited once, with its pairs alone.
    """
    alive = np.ones(len(users), dtype=np.bool_)
    sides = (_Degrees.of(users, n_users), _Degrees.of(items, n_items))
    fallen = [np.flatnonzero(side.degrees < k) for side in sides]
    for side, nodes in zip(sides, fallen, strict=True):
        side.gone[nodes] = True
    place = 0  # users and items by turns
    while len(fallen[0]) or len(fallen[1]):
        here, there = sides[place], sides[1 - place]
        edges = here.edges_of(fallen[place])
        edges = edges[alive[edges]]
        alive[edges] = False
        touched = there.lower((users, items)[1 - place][edges])
        new = touched[(there.degrees[touched] < k) & ~there.gone[touched]]
        there.gone[new] = True
        fallen[place] = fallen[place][:0]
        fallen[1 - place] = np.concatenate([fallen[1 - place], new])
        place = 1 - place
    return alive


@dataclass(frozen=True, eq=False)
class _Degrees:
    """The nodes of a side: v has the pairs `edges[starts[v]:starts[v + 1]]`; how many are left, and who fell."""

    starts: NDArray[np.int64]
    edges: Codes
    degrees: NDArray[np.int64]
    gone: Masks

    @classmethod
    def of(cls, nodes: Codes, n: int) -> "_Degrees":
        degrees = np.bincount(nodes, minlength=n)
        starts = np.concatenate([[0], np.cumsum(degrees)])
        kind = np.int32 if len(nodes) < 2**31 else np.int64
        edges: Codes = np.arange(len(nodes), dtype=kind)
        if len(nodes) and (np.diff(nodes) < 0).any():
            # The conversion of a matrix with one row an edge is a counting sort.
            starts_of_rows: Any = np.arange(len(nodes) + 1, dtype=kind)
            columns: Any = nodes.astype(kind)
            matrix = csr_array((np.ones(len(nodes), np.int8), columns, starts_of_rows), shape=(len(nodes), n))
            edges = matrix.tocsc().indices
        return cls(starts, edges, degrees, np.zeros(n, dtype=np.bool_))

    def edges_of(self, nodes: NDArray[np.int64]) -> Codes:
        """Return the pairs of all nodes, one node after the other."""
        first = self.starts[nodes]
        counts = self.starts[nodes + 1] - first
        steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.asarray(self.edges[np.repeat(first, counts) + steps])

    def lower(self, ends: Codes) -> NDArray[np.int64]:
        """Take one pair from each node as often as it stands in `ends`; return the distinct nodes, ascending."""
        if len(ends) * 10 > len(self.degrees):
            counts = np.bincount(ends, minlength=len(self.degrees))
            self.degrees[:] -= counts
            return np.flatnonzero(counts)
        nodes, counts = np.unique(ends, return_counts=True)
        self.degrees[nodes] -= counts
        return nodes.astype(np.int64)


def mask_modalities(dataset: Dataset, shares: Mapping[str, float], seed: int) -> Dataset:
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
            raise ConfigError(f"data.missing_rate: no content {name!r} was read, found {found}{nearest(name, values)}")
        if isinstance(values[name], np.memmap):
            raise DataError(
                f"data.missing_rate: {name} stays on disk, where no row can be masked; leave memory_map out"
            )
        rows = masked_items(present[name], share, name, seed)
        if len(rows):
            values[name], present[name] = values[name].copy(), present[name].copy()
            values[name][rows], present[name][rows] = 0, False
            notes[f"{name}: items whose content was hidden"] = len(rows)
    return replace(dataset, features=ItemFeatures(features.n_items, values, present), notes=notes)


def masked_items(present: Masks, share: float, modality: str, seed: int) -> Ints:
    """Return floor(share · n) of the n items that are present, int64, drawn from the seed and the modality's name.

    What one share hides, a larger one hides too.

    >>> masked_items(np.ones(10, dtype=bool), 0.25, "image", 0).shape
    (2,)
    """
    name = int.from_bytes(hashlib.sha256(modality.encode()).digest()[:8])
    order = np.random.default_rng([seed, name]).permutation(np.flatnonzero(present))
    # 0.29 · 100 is 28.999... in floating point
    return order[: math.floor(share * len(order) + 1e-9)].astype(np.int64)
