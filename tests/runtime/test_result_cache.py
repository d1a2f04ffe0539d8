"""Results are kept by their inputs, within bounds, and what is kept is what was computed."""

import numpy as np
import pytest
import torch

from gtcrec.ops import least_squares, neighbors
from gtcrec.runtime.result_cache import ResultCache
from gtcrec.types import Interactions


@pytest.fixture
def counted():
    """A function that says how often it was called, in an array of 80 bytes."""
    calls = []

    def compute():
        calls.append(1)
        return (np.full(10, len(calls)),)

    return compute, calls


def test_equal_inputs_are_computed_once_and_any_other_anew(counted):
    compute, calls = counted
    cache = ResultCache(10_000)
    x = np.arange(6.0)
    inputs = [
        (x, 3),
        (x + 0, 3),
        (x, 4),
        (x, 3.0),
        (x, "3"),
        (x.astype(np.float32), 3),
        (x.reshape(2, 3), 3),
        (x.reshape(2, 3).T, 3),
        (np.append(x[:5], 5.5), 3),
    ]
    found = [cache.get(compute, *one)[0][0] for one in inputs]
    assert found == [1, 1, 2, 3, 4, 5, 6, 7, 8]
    assert len(calls) == 8


def test_a_caller_that_changes_its_result_changes_nothing_kept(counted):
    cache = ResultCache(10_000)
    for _ in range(3):
        found = cache.get(counted[0], "x")[0]
        assert found.tolist() == [1] * 10
        found[:] = 7


def test_what_was_used_last_stays_within_the_bound(counted):
    compute, calls = counted
    cache = ResultCache(200)  # two results
    for name in ("a", "b", "a", "c", "a"):
        cache.get(compute, name)
    assert len(calls) == 3
    cache.get(compute, "b")  # which made room for c
    assert len(calls) == 4


def test_a_result_above_the_bound_is_not_kept(counted):
    compute, calls = counted
    cache = ResultCache(79)
    for _ in range(2):
        cache.get(compute, "a")
    assert len(calls) == 2


def test_neighbors_are_searched_once_for_the_same_content(monkeypatch):
    calls, search = [], neighbors.nearest_neighbors
    monkeypatch.setattr(neighbors, "nearest_neighbors", lambda *a, **k: calls.append(1) or search(*a, **k))
    monkeypatch.setattr(neighbors, "_NEAREST", ResultCache(1 << 20))
    x = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    first, again = (neighbors.nearest_rows(x, 4) for _ in range(2))
    assert first.tolist() == again.tolist()
    assert first.tolist() == search(torch.from_numpy(x), torch.from_numpy(x), 4, skip_self=True)[1].tolist()
    neighbors.nearest_rows(x, 5)
    x[3, 2] += 1
    neighbors.nearest_rows(x, 4)
    assert len(calls) == 3


def test_factors_are_those_of_their_start_and_draw_as_before(monkeypatch):
    calls, side = [], least_squares._Side
    monkeypatch.setattr(least_squares, "_Side", lambda *given: calls.append(1) or side(*given))
    monkeypatch.setattr(least_squares, "_FACTORS", ResultCache(1 << 20))
    rng = np.random.default_rng(0)
    users, items = np.divmod(rng.choice(20 * 15, 80, replace=False), 15)
    train = Interactions(users, items, 20, 15)

    def solve(seed, **given):
        torch.manual_seed(seed)
        found = least_squares.factorize(train, 4, 0.1, 0.01, **given)
        return *(side.tolist() for side in found), torch.rand(()).item()

    first = solve(1)
    assert solve(1) == first
    assert len(calls) == 2  # one for each side
    assert solve(2) != first
    assert solve(1, num_sweeps=3) != first
    assert len(calls) == 6
    assert solve(1) == first
