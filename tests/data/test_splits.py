"""Splits: every pair in one part, sizes by rule, order of time kept, the same for a seed."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gtcrec.data import SplitConfig, split
from gtcrec.data.splits import assign
from gtcrec.errors import DataError
from gtcrec.types import Dataset, Interactions, ItemFeatures, Vocabulary


def dataset(pairs: list[tuple[int, int]], times: Any = None, labels: Any = None) -> Dataset:
    """Pairs must be sorted: times and labels belong to them in order."""
    users, items = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    n_users, n_items = int(users.max()) + 1, int(items.max()) + 1
    return Dataset(
        "toy",
        Interactions(users, items, n_users, n_items),
        ItemFeatures(n_items),
        Vocabulary(np.arange(n_users)),
        Vocabulary(np.arange(n_items)),
        None if labels is None else np.array(labels, dtype=np.int8),
        None if times is None else np.array(times, dtype=np.float64),
    )


def row(n: int, times: Any = None) -> Dataset:
    return dataset([(0, i) for i in range(n)], times)


def sizes(data: Dataset, **config: Any) -> list[int]:
    return np.bincount(assign(data, SplitConfig(**config)), minlength=3).tolist()


STRATEGIES = ("random", "leave_one_out", "user_time", "global_time", "cold_items", "label")


def test_cold_items_go_to_one_part_with_all_of_their_interactions() -> None:
    data = dataset([(u, i) for u in range(7) for i in range(20)])
    found = assign(data, SplitConfig(strategy="cold_items", ratios=(0.6, 0.15, 0.25), seed=3))
    of_item = [set(found[data.interactions.items == item].tolist()) for item in range(20)]
    assert all(len(parts) == 1 for parts in of_item)
    assert sorted(part for parts in of_item for part in parts) == [0] * 12 + [1] * 3 + [2] * 5
    again, other = (assign(data, SplitConfig(strategy="cold_items", ratios=(0.6, 0.15, 0.25), seed=s)) for s in (3, 4))
    assert np.array_equal(found, again)
    assert not np.array_equal(found, other)


@settings(deadline=None, derandomize=True, database=None)
@given(
    st.sets(st.tuples(st.integers(0, 8), st.integers(0, 30)), min_size=1, max_size=120),
    st.sampled_from(STRATEGIES),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_every_pair_lands_in_exactly_one_part(pairs: Any, strategy: Any, seed: int, draw: Any) -> None:
    listed = sorted(pairs)
    data = dataset(listed, [draw.randrange(20) for _ in listed], [0, *(draw.randrange(3) for _ in listed[1:])])
    config = SplitConfig(strategy=strategy, seed=seed)
    if not (assign(data, config) == 0).any():
        assert strategy == "global_time"  # the earliest moment may be beyond the first cut
        return
    parts = split(data, config)
    three = (parts.train, parts.valid, parts.final_test())
    found = [(int(u), int(i)) for part in three for u, i in zip(part.users, part.items, strict=True)]
    assert sorted(found) == listed
    assert [parts.how["train"], parts.how["valid"], parts.how["test"]] == [len(part) for part in three]
    if strategy in ("random", "leave_one_out", "user_time"):
        assert ((parts.train.user_counts > 0) == (data.interactions.user_counts > 0)).all()


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, [1, 0, 0]),
        (2, [1, 0, 1]),
        (3, [1, 1, 1]),
        (9, [7, 1, 1]),
        (10, [8, 1, 1]),
        (29, [25, 2, 2]),
        (30, [24, 3, 3]),
    ],
)
@pytest.mark.parametrize("strategy", ["random", "user_time"])
def test_sizes_by_ratio_are_those_of_the_rule(n: int, expected: list[int], strategy: str) -> None:
    assert sizes(row(n, np.arange(n)), strategy=strategy) == expected


@pytest.mark.parametrize(("n", "expected"), [(1, [1, 0, 0]), (2, [1, 0, 1]), (3, [1, 1, 1]), (50, [48, 1, 1])])
def test_leave_one_out_takes_one_each(n: int, expected: list[int]) -> None:
    assert sizes(row(n), strategy="leave_one_out") == expected


def test_other_ratios_are_kept_and_leave_one_pair_to_train() -> None:
    assert sizes(row(100), strategy="random", ratios=(0.42, 0.29, 0.29)) == [42, 29, 29]
    assert sizes(row(10), strategy="random", ratios=(0.01, 0.98, 0.01)) == [1, 8, 1]
    assert sizes(row(20), strategy="random", ratios=(0.9, 0, 0.1)) == [18, 0, 2]


def test_random_splits_differ_by_seed_and_repeat_for_one() -> None:
    data = row(200)
    first, again, other = (assign(data, SplitConfig(strategy="random", seed=seed)) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_random_splits_take_every_pair_equally_often() -> None:
    draws = [assign(row(10), SplitConfig(strategy="random", seed=seed)) == 2 for seed in range(2000)]
    # 2,000 draws of probability .1: standard deviation .0067
    np.testing.assert_allclose(np.mean(draws, axis=0), 0.1, atol=5 * 0.0067)


def test_leave_one_out_takes_the_last_by_time() -> None:
    data = dataset([(0, 0), (0, 1), (0, 2), (1, 0), (1, 3)], [9, 1, 5, 2, 1])
    assert assign(data, SplitConfig(strategy="leave_one_out")).tolist() == [2, 0, 1, 2, 0]


def test_user_time_never_trains_on_what_came_later() -> None:
    rng = np.random.default_rng(0)
    data = dataset([(u, i) for u in range(20) for i in range(5 + u)], rng.permutation(290))
    parts = assign(data, SplitConfig(strategy="user_time"))
    assert data.times is not None
    for user in range(20):
        of_user = data.interactions.users == user
        ordered = parts[of_user][np.argsort(data.times[of_user])]
        assert (np.diff(ordered) >= 0).all()


def test_equal_times_are_ordered_by_chance_not_by_item() -> None:
    data = row(4, [1, 1, 1, 1])
    last = [int(np.argmax(assign(data, SplitConfig(strategy="leave_one_out", seed=seed)))) for seed in range(400)]
    # 400 draws of probability 1/4: mean 100, standard deviation 8.7
    assert (abs(np.bincount(last, minlength=4) - 100) < 5 * 8.7).all()


def test_global_time_cuts_all_users_at_the_same_moments() -> None:
    data = dataset([(u, i) for u in range(2) for i in range(5)], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert assign(data, SplitConfig(strategy="global_time")).tolist() == [0] * 8 + [1, 2]
    tied = replace(data, times=np.array([0, 1, 2, 3, 4, 5, 6, 7, 7, 7], dtype=np.float64))
    config = SplitConfig(strategy="global_time", ratios=(0.8, 0.2, 0))
    assert assign(tied, config).tolist() == [0] * 7 + [1, 1, 1]


def test_auto_is_label_where_there_are_labels_else_random() -> None:
    pairs = [(0, i) for i in range(12)]
    labelled = dataset(pairs, labels=[0, 1, 2] * 4)
    assert assign(labelled).tolist() == [0, 1, 2] * 4
    assert split(labelled).how["used"] == "label"
    assert assign(dataset(pairs)).tolist() == assign(dataset(pairs), SplitConfig(strategy="random")).tolist()


def test_how_can_be_written_as_json() -> None:
    how = split(row(10), SplitConfig(seed=4)).how
    assert json.loads(json.dumps(how)) == {
        "strategy": "auto",
        "ratios": [0.8, 0.1, 0.1],
        "seed": 4,
        "used": "random",
        "train": 8,
        "valid": 1,
        "test": 1,
    }


def test_what_a_strategy_needs_is_named() -> None:
    with pytest.raises(DataError, match=r"split 'label' needs labels, the data has none; set data\.label"):
        split(row(3), SplitConfig(strategy="label"))
    for strategy in ("user_time", "global_time"):
        with pytest.raises(DataError, match=f"split '{strategy}' needs times, the data has none; set data.time"):
            split(row(3), SplitConfig(strategy=strategy))  # type: ignore[arg-type]


def test_a_split_without_training_pairs_is_refused() -> None:
    with pytest.raises(DataError, match="split 'label' leaves no training interaction of 2"):
        split(dataset([(0, 0), (0, 1)], labels=[1, 2]))
    with pytest.raises(DataError, match="split 'global_time' leaves no training interaction of 3"):
        split(row(3, [5, 5, 5]), SplitConfig(strategy="global_time"))


def test_ratios_that_do_not_add_up_and_unknown_strategies_are_refused() -> None:
    with pytest.raises(ValidationError, match="ratios must add up to 1"):
        SplitConfig(ratios=(0.8, 0.1, 0.2))
    with pytest.raises(ValidationError, match="strategy"):
        SplitConfig(strategy="kfold")  # type: ignore[arg-type]
