"""Names of the arrays that travel, and the order of pairs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Ints", "Masks", "pair_keys", "pair_order"]

Ints = NDArray[np.int64]
Floats = NDArray[Any]  # float32 for content and scores, float64 for metrics
Masks = NDArray[np.bool_]


def pair_keys(users: Ints, items: Ints, n_users: int, n_items: int) -> Ints | None:
    """Return users * n_items + items, int64 [n], which order as the pairs do; None where int64 is too narrow.

    >>> pair_keys(np.array([0, 2]), np.array([1, 0]), n_users=3, n_items=4)
    array([1, 8])
    """
    return users.astype(np.int64) * n_items + items if int(n_users) * int(n_items) < 1 << 63 else None


def pair_order(users: Ints, items: Ints, *then: NDArray[Any]) -> Ints:
    """Return `np.lexsort((*then, items, users))`, int64 [n], in a fraction of its time.

    Users and items, at least 0, are one key of one sort. The keys `then`, the last of which comes first, are looked at
    only where a pair stands more than once.

    >>> pair_order(np.array([1, 0, 1]), np.array([0, 5, 0]), np.array([8.0, 9.0, 7.0]))
    array([1, 2, 0])
    """
    ends = [int(side.max()) + 1 if len(side) else 0 for side in (users, items)]
    keys = pair_keys(users, items, *ends)
    if keys is None:
        return np.lexsort((*then, items, users))
    order, keys = _sorted_keys(keys, ends[0] * ends[1])
    if then:
        equal = keys[1:] == keys[:-1]
        rows = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
        order[rows] = order[rows][np.lexsort((*(key[order[rows]] for key in then), keys[rows]))]
    return order


def _sorted_keys(keys: Ints, end: int) -> tuple[Ints, Ints]:
    """Return the stable order of keys int64 [n], all below `end`, and the keys in it; may overwrite them.

    Where a key and its place fit into one int64, such numbers are sorted: that takes half of an argsort's time.
    """
    bits = len(keys).bit_length()
    if end << bits >= 1 << 63:
        order = np.argsort(keys, kind="stable")
        return order, keys[order]
    keys <<= bits
    keys |= np.arange(len(keys))
    keys.sort()
    order = keys & ((1 << bits) - 1)
    keys >>= bits
    return order, keys
