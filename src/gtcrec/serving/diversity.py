"""Lists whose items are unlike one another, by maximal marginal relevance (Carbonell and Goldstein, 1998).

Imports neither torch nor scipy: stored vectors are diversified by it too.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from gtcrec.types import Floats, Ints, TopK

__all__ = ["POOL", "cosines", "diversify", "marginal_order", "side_by_side"]

POOL = 200
"""The best items of a list that change places; those after them stay ordered by score."""


def diversify(lists: TopK, weight: float, similarity: Callable[[Ints], Floats], n: int) -> TopK:
    """Return lists whose first `POOL` items are ordered by marginal relevance, cut after `n`.

    `similarity` gives those among items int64 [p], float [p, p]. The order of a list depends on its first `POOL`
    items alone, not on `n`, so that lists of any length begin alike. Scores stay those of the items.
    """
    items, scores = lists.items[:, :n].copy(), lists.scores[:, :n].copy()
    for row in range(len(items)):
        pool = lists.items[row, :POOL]
        pool = pool[pool >= 0]
        order = marginal_order(lists.scores[row, : len(pool)], similarity(pool), weight, n)
        items[row, : len(order)] = pool[order]
        scores[row, : len(order)] = lists.scores[row, order]
    return TopK(lists.users, items, scores)


def marginal_order(scores: Floats, similarity: Floats, weight: float, n: int) -> Ints:
    """Return the places of the first n of p items, int64, chosen one by one.

    The next is always that of the largest (1 - weight) r - weight s: r is its score, scaled to [0, 1] among the p, and
    s its largest similarity to one chosen before. `scores` [p] descend; the earlier place wins a tie.

    >>> alike = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> marginal_order(np.array([3.0, 2.9, 1.0]), alike, 0.6, 3).tolist()
    [0, 2, 1]
    """
    if not len(scores):
        return np.zeros(0, dtype=np.int64)
    spread = float(scores[0]) - float(scores[-1])
    relevance = (scores.astype(np.float64) - scores[-1]) / spread if spread > 0 else np.ones(len(scores))
    nearest = np.zeros(len(scores))
    gain = (1 - weight) * relevance
    chosen: list[int] = []
    for _ in range(min(n, len(scores))):
        best = int(np.argmax(gain - weight * nearest))
        nearest = np.maximum(nearest, similarity[best]) if chosen else similarity[best].astype(np.float64)
        chosen.append(best)
        gain[best] = -np.inf
    return np.array(chosen, dtype=np.int64)


def cosines(rows: Any) -> Floats:
    """Return the cosines among rows [p, d], dense or a sparse array: [p, p]; 0 for a row of zeros."""
    if hasattr(rows, "toarray"):
        inner = (rows @ rows.T).toarray().astype(np.float64)
        lengths = np.sqrt(np.diagonal(inner))
    else:
        rows = np.asarray(rows, dtype=np.float64)
        inner, lengths = rows @ rows.T, np.linalg.norm(rows, axis=1)
    outer = np.outer(lengths, lengths)
    found: Floats = np.divide(inner, outer, out=np.zeros_like(inner), where=outer > 0)
    return found


def side_by_side(contents: list[Floats]) -> Floats:
    """Return contents [p, d_m] as rows [p, sum of d_m], each content of length 1 or 0."""
    units = []
    for content in contents:
        lengths = np.linalg.norm(content, axis=1, keepdims=True)
        units.append(np.divide(content, lengths, out=np.zeros_like(content), where=lengths > 0))
    return np.concatenate(units, axis=1)
