"""Metrics against arithmetic by hand, and the messages of bad names and impossible counts."""

import math

import numpy as np
import pytest

from gtcrec.errors import ConfigError, DataError
from gtcrec.evaluation.metrics import CATALOG_METRICS, RANKING_METRICS, compute, compute_lists, hits, longest, parse
from gtcrec.types import Interactions, TopK


def pairs(users, items, n_users, n_items):
    return Interactions(np.array(users, dtype=np.int64), np.array(items, dtype=np.int64), n_users, n_items)


def lists_of(items, users=None):
    items = np.array(items, dtype=np.int64)
    users = np.arange(len(items)) if users is None else np.array(users)
    return TopK(users, items, np.zeros(items.shape, dtype=np.float32))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Hits at places 2 and 4 of 4; the user likes 3 items.
        ("recall@4", 2 / 3),
        ("recall@2", 1 / 3),
        ("precision@4", 2 / 4),
        ("hit@4", 1.0),
        ("hit@1", 0.0),
        ("mrr@4", 1 / 2),
        ("mrr@1", 0.0),
        ("ndcg@4", (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3) + 1 / math.log2(4))),
        ("ndcg@2", (1 / math.log2(3)) / (1 + 1 / math.log2(3))),
        ("map@4", (1 / 2 + 2 / 4) / 3),
        ("map@2", (1 / 2) / 3),
        ("map_cut@4", (1 / 2 + 2 / 4) / 3),
        ("map_cut@2", (1 / 2) / 2),
    ],
)
def test_a_user_metric_equals_its_formula_worked_by_hand(name, expected):
    found = compute([name], np.array([[False, True, False, True]]), np.array([3]))
    assert found[name].dtype == np.float64
    assert found[name].tolist() == pytest.approx([expected], abs=1e-15)


def test_the_best_list_scores_one_even_when_it_is_shorter_than_what_the_user_likes():
    found = compute(["ndcg@2", "map_cut@2", "precision@2", "recall@2"], np.ones((1, 2), dtype=bool), np.array([5]))
    assert [value[0] for value in found.values()] == pytest.approx([1, 1, 1, 2 / 5])


def test_a_list_without_hits_scores_zero_in_every_metric():
    found = compute([f"{kind}@3" for kind in RANKING_METRICS], np.zeros((2, 3), dtype=bool), np.array([1, 4]))
    assert len(found) == len(RANKING_METRICS)
    assert all(value.tolist() == [0, 0] for value in found.values())


def test_hits_mark_liked_items_and_never_an_unfilled_place():
    # Key of item -1 of user 1 equals that of item 3 of user 0, who likes it.
    liked = pairs([0, 1], [3, 0], n_users=2, n_items=4)
    found = hits(lists_of([[1, 0, -1], [3, -1, -1]], users=[1, 0]), liked)
    assert found.tolist() == [[False, True, False], [True, False, False]]


def test_no_place_is_a_hit_when_nothing_is_liked():
    assert hits(lists_of([[0, 1]]), pairs([], [], 1, 2)).tolist() == [[False, False]]


def test_contains_answers_pair_by_pair():
    held = pairs([0, 2, 2], [1, 0, 4], n_users=3, n_items=5)
    users, items = np.divmod(np.arange(15), 5)
    assert np.flatnonzero(held.contains(users, items)).tolist() == [1, 10, 14]


def test_coverage_is_the_share_of_items_in_some_list():
    lists = lists_of([[0, 1, -1], [0, -1, -1]])
    found = compute_lists(["coverage@1", "coverage@3"], lists, pairs([0], [0], 2, 4))
    assert found == {"coverage@1": 1 / 4, "coverage@3": 2 / 4}


def test_gini_is_zero_for_equal_exposure_and_largest_for_one_item():
    train = pairs([0], [0], 2, 4)
    assert compute_lists(["gini@2"], lists_of([[0, 1], [2, 3]]), train) == {"gini@2": 0.0}
    # All exposure on one of n items gives (n - 1) / n.
    assert compute_lists(["gini@1"], lists_of([[2], [2]]), train) == {"gini@1": 3 / 4}


def test_gini_is_half_the_mean_absolute_difference_over_the_mean_with_unlisted_items():
    listed = np.random.default_rng(0).integers(0, 9, size=(20, 3))
    exposure = np.bincount(listed.ravel(), minlength=12)
    expected = np.abs(exposure[:, None] - exposure).mean() / (2 * exposure.mean())
    found = compute_lists(["gini@3"], lists_of(listed), pairs([0], [0], 20, 12))
    assert found["gini@3"] == pytest.approx(expected, abs=1e-12)


def test_novelty_averages_self_information_and_takes_unseen_items_as_had_by_half_a_user():
    # Of 4 users, 2 have item 0, 1 has item 1, none has item 2: 1, 2 and 3 bits.
    train = pairs([0, 1, 2], [0, 0, 1], n_users=4, n_items=3)
    assert compute_lists(["novelty@3"], lists_of([[0, 1, 2]]), train) == {"novelty@3": 2.0}
    assert compute_lists(["novelty@2"], lists_of([[0, 1, 2], [0, -1, -1]]), train) == {"novelty@2": 4 / 3}


def test_longest_is_the_largest_k_of_both_sorts():
    assert longest(["recall@5", "coverage@20", "ndcg@10"]) == 20
    assert longest([]) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "recal@20",
            r"unknown metric 'recal@20' \(did you mean 'recall'\?\), expected one of recall, ndcg, .* with @k",
        ),
        ("zzz@20", r"unknown metric 'zzz@20', expected one of"),
        ("recall", r"metric 'recall' needs the length of the list, as in 'recall@20'"),
        ("recall@0", r"metric 'recall@0': k must be a positive whole number, found '0'"),
        ("recall@-5", r"metric 'recall@-5': k must be a positive whole number, found '-5'"),
        ("ndcg@five", r"metric 'ndcg@five': k must be a positive whole number, found 'five'"),
        ("ndcg@", r"metric 'ndcg@': k must be a positive whole number, found ''"),
    ],
)
def test_a_bad_metric_name_is_refused_by_name(name, message):
    with pytest.raises(ConfigError, match=message):
        parse(name, RANKING_METRICS)


def test_a_metric_that_needs_longer_lists_is_refused():
    with pytest.raises(ConfigError, match="recall@20 needs lists of 20 items, found lists of 3"):
        compute(["recall@20"], np.zeros((1, 3), dtype=bool), np.array([1]))
    with pytest.raises(ConfigError, match="gini@20 needs lists of 20 items, found lists of 1"):
        compute_lists(["gini@20"], lists_of([[0]]), pairs([0], [0], 1, 1))


def test_a_user_metric_is_not_a_list_metric():
    assert not set(RANKING_METRICS) & set(CATALOG_METRICS)
    with pytest.raises(ConfigError, match="unknown metric 'recall@1', expected one of coverage, gini, novelty with @k"):
        compute_lists(["recall@1"], lists_of([[0]]), pairs([0], [0], 1, 1))


@pytest.mark.parametrize(("relevant", "text"), [(0, "found 0 relevant and 2 hits"), (1, "found 1 relevant and 2 hits")])
def test_a_user_with_fewer_relevant_items_than_hits_is_refused(relevant, text):
    with pytest.raises(DataError, match=rf"at least one relevant item and as many as hits, {text} \(row 1\)"):
        compute(["recall@2"], np.ones((2, 2), dtype=bool), np.array([2, relevant]))


def test_lists_that_are_all_empty_are_refused():
    with pytest.raises(DataError, match="gini@2 needs at least one recommended item, found 1 empty lists"):
        compute_lists(["gini@2"], lists_of([[-1, -1]]), pairs([0], [0], 1, 3))
