"""Pairs are sorted by one key, and lie as numpy's lexsort would lay them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtcrec.data.filters import Rows, merge_duplicates
from gtcrec.data.splits import SplitConfig, _order_of_users, assign
from gtcrec.types import Dataset, Interactions, ItemFeatures, Vocabulary
from gtcrec.types.arrays import pair_keys, pair_order

HUGE = 1 << 40  # two of these do not fit an int64
indices = st.integers(0, 5) | st.integers(0, 1 << 31) | st.integers(0, HUGE)
times = st.sampled_from([0.0, 0.25, 1.0, 3e9])
rows = st.lists(st.tuples(indices, indices, times, times), max_size=40)


def columns(rows):
    users, items, first, second = (np.array([row[k] for row in rows]) for k in range(4))
    return users.astype(np.int64), items.astype(np.int64), first.astype(float), second.astype(float)


@given(rows)
def test_the_order_is_that_of_lexsort(rows):
    users, items, first, second = columns(rows)
    assert pair_order(users, items).tolist() == np.lexsort((items, users)).tolist()
    assert pair_order(users, items, first).tolist() == np.lexsort((first, items, users)).tolist()
    assert pair_order(users, items, second, first).tolist() == np.lexsort((second, first, items, users)).tolist()


def test_keys_that_int64_cannot_hold_are_none():
    one = np.array([HUGE])
    assert pair_keys(one, one, HUGE, HUGE) is None
    assert pair_keys(np.array([2**31], dtype=np.int64), np.array([5]), 2**32, 2**30).tolist() == [2**61 + 5]
    assert pair_keys(np.array([60000], dtype=np.int32), np.array([1], dtype=np.int32), 10**6, 10**6).tolist() == [
        60000 * 10**6 + 1
    ]


@pytest.mark.parametrize("end", [6, HUGE])
@given(data=st.data())
def test_interactions_are_sorted_and_their_own(end, data):
    drawn = data.draw(st.lists(st.tuples(st.integers(0, end - 1), st.integers(0, end - 1)), unique=True, max_size=30))
    users, items = (np.array([pair[k] for pair in drawn], dtype=np.int64) for k in (0, 1))
    pairs = Interactions(users, items, end, end)
    assert list(zip(pairs.users.tolist(), pairs.items.tolist(), strict=True)) == sorted(drawn)
    assert not np.shares_memory(pairs.users, users)
    assert not np.shares_memory(pairs.items, items)


@given(rows)
def test_the_first_row_of_equal_pairs_stays(rows):
    users, items, times, _ = columns([(u % 4, i % 4, t, s) for u, i, t, s in rows])
    found, notes = merge_duplicates(Rows(users, items, np.arange(len(rows)), times=times), str)
    earliest = {}
    for place in np.lexsort((times, items, users)).tolist():
        earliest.setdefault((users[place], items[place]), place)
    assert found.places.tolist() == list(earliest.values())
    assert notes.get("duplicates merged", 0) == len(rows) - len(earliest)


@given(rows, st.integers(0, 9))
def test_pairs_of_a_user_are_ordered_by_the_keys_themselves(rows, seed):
    """Also where steps of the last key are too coarse, all its values are equal or one is no number."""
    distinct = sorted({(u % 4, i % 16) for u, i, *_ in rows})
    users, items = (np.array([pair[k] for pair in distinct], dtype=np.int64) for k in (0, 1))
    pairs, rng = Interactions(users, items, 4, 16), np.random.default_rng(seed)
    draws = rng.random(len(pairs))
    for last in (
        rng.integers(0, 3, len(pairs)).astype(float),
        1e9 + rng.integers(0, 3, len(pairs)) * 2.0**-22,
        np.zeros(len(pairs)),
        np.where(rng.random(len(pairs)) < 0.2, np.nan, draws),
        np.full(len(pairs), 5e-324) * rng.integers(0, 2, len(pairs)),
    ):
        expected = np.lexsort((draws, last, pairs.users)).tolist()
        assert _order_of_users(pairs, draws, last).tolist() == expected
    assert _order_of_users(pairs, draws).tolist() == np.lexsort((draws, pairs.users)).tolist()


def test_a_split_by_time_takes_each_users_last_pairs():
    users = np.repeat(np.arange(50), 10)
    items, times = np.tile(np.arange(10), 50), np.random.default_rng(0).integers(0, 10**6, 500).astype(float)
    dataset = Dataset(
        "x", Interactions(users, items, 50, 10), ItemFeatures(10), Vocabulary(np.arange(50)), Vocabulary(np.arange(10)),
        times=times,
    )  # fmt: skip
    parts = assign(dataset, SplitConfig(strategy="user_time", ratios=(0.8, 0.1, 0.1))).reshape(50, 10)
    assert (parts == 2).sum(axis=1).tolist() == [1] * 50
    assert (np.where(parts == 2)[1] == times.reshape(50, 10).argmax(axis=1)).all()
