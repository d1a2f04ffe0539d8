"""The k-core against dropping one user or item at a time, in random order."""

import time
from typing import Any

import numpy as np
import pytest

from gtcrec.data.filters import k_core


def one_at_a_time(pairs: set[tuple[int, int]], k: int, rng: np.random.Generator) -> set[tuple[int, int]]:
    """Drop any user or item with fewer than k pairs until there is none."""
    pairs = set(pairs)
    while True:
        nodes = [(side, end) for side in (0, 1) for end in sorted({pair[side] for pair in pairs})]
        weak = [(side, end) for side, end in nodes if sum(pair[side] == end for pair in pairs) < k]
        if not weak:
            return pairs
        side, end = weak[rng.integers(len(weak))]
        pairs = {pair for pair in pairs if pair[side] != end}


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_the_k_core_is_what_dropping_one_at_a_time_leaves(seed: int, kind: Any) -> None:
    rng = np.random.default_rng(seed)
    n_users, n_items, k = int(rng.integers(1, 14)), int(rng.integers(1, 14)), int(rng.integers(0, 5))
    users, items = np.nonzero(rng.random((n_users, n_items)) < rng.uniform(0.1, 0.7))
    order = rng.permutation(len(users)) if seed % 2 else np.arange(len(users))
    users, items = users[order].astype(kind), items[order].astype(kind)
    keep = k_core(users, items, n_users, n_items, k)
    found = set(zip(users[keep].tolist(), items[keep].tolist(), strict=True))
    assert found == one_at_a_time(set(zip(users.tolist(), items.tolist(), strict=True)), k, rng)


def test_a_long_chain_falls_from_its_ends_in_linear_time() -> None:
    n = 30_000  # user j likes items j and j + 1: the 2-core is empty, and each round takes one user and one item an end
    users = np.repeat(np.arange(n), 2)
    items = np.arange(n).repeat(2) + np.tile([0, 1], n)
    start = time.process_time()
    assert not k_core(users, items, n, n + 1, 2).any()
    seconds = time.process_time() - start
    circle = np.where(items == n, 0, items)  # closed, nobody is weak
    assert k_core(users, circle, n, n, 2).all()
    assert seconds < 15  # a round over all pairs takes 1 ms, and there are 30,000 rounds
