"""The k-core of a user-item graph: peeled from the edge inwards, each pair looked at once from either side."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from gtcrec.types import Masks

__all__ = ["core_pairs"]

Codes = NDArray[Any]  # int32 or int64


def core_pairs(users: Codes, items: Codes, n_users: int, n_items: int, k: int) -> Masks:
    """Return which of the distinct pairs lie in the k-core, bool [n]: there each user and item has at least k pairs.

    It is the largest such set, so the order of peeling does not matter (Seidman 1983). Time and memory are linear in
    the pairs: a user or item that falls is visited once, with its pairs alone.
    """
    alive = np.ones(len(users), dtype=np.bool_)
    sides = (_Side.of(users, n_users), _Side.of(items, n_items))
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
class _Side:
    """The nodes of a side: v has the pairs `edges[starts[v]:starts[v + 1]]`; how many are left, and who fell."""

    starts: NDArray[np.int64]
    edges: Codes
    degrees: NDArray[np.int64]
    gone: Masks

    @classmethod
    def of(cls, nodes: Codes, n: int) -> "_Side":
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
