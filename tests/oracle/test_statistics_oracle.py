"""The paired test on simulated users: how often it errs, how often it finds, and scipy.stats on the same values.

The users are like those of real data: they like one to a few items, and most lists hold none of them.
"""

import numpy as np
import pytest
import scipy.stats

from gtcrec.evaluation.statistics import bootstrap_interval, holm, paired_test, paired_tests

SHARED = 0.6  # of the hits and misses, both models have by the same chance


def recalls(rng, n_users, effect=0.0):
    """Recall of each user under two models; the first finds each liked item with a chance higher by `effect`."""
    liked = np.minimum(rng.geometric(0.5, n_users), 8)
    chance = rng.beta(0.3, 3, n_users)
    user = np.repeat(np.arange(n_users), liked)
    both, ours, theirs, same = rng.random((4, len(user)))
    draws = [np.where(same < SHARED, both, own) for own in (ours, theirs)]
    found = [draw < chance[user] * factor for draw, factor in zip(draws, (1 + effect, 1.0), strict=True)]
    return [np.bincount(user, hit, n_users) / liked for hit in found]


def test_the_simulated_users_are_like_real_ones():
    a, b = recalls(np.random.default_rng(0), 20_000, effect=0.03)
    assert 0.80 < (b == 0).mean() < 0.92
    assert 0.07 < b.mean() < 0.11
    assert 0.5 < np.corrcoef(a, b)[0, 1] < 0.8
    assert (a.mean() - b.mean()) / b.mean() == pytest.approx(0.03, abs=0.03)


def test_where_nothing_differs_5_percent_are_called_significant():
    rng = np.random.default_rng(1)
    p = np.array([paired_test(*recalls(rng, 400), rng, resamples=499, bootstrap=1).p for _ in range(4000)])
    # The standard error of a share of 0.05 of 4,000 is 0.0034.
    assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.015)
    assert (p <= 0.01).mean() == pytest.approx(0.01, abs=0.007)


def test_in_a_family_where_nothing_differs_holm_errs_in_at_most_5_percent():
    rng = np.random.default_rng(2)
    families = 600
    wrong = 0
    for _ in range(families):
        base = recalls(rng, 200)[1]
        pairs = [(rng.permutation(base), base) for _ in range(4)]
        p = [paired_test(a, b, rng, resamples=299, bootstrap=1).p for a, b in pairs]
        wrong += bool((holm(p) <= 0.05).any())
    assert wrong / families <= 0.05 + 0.015


@pytest.mark.parametrize(("n_users", "floor"), [(10_000, 0.2), (40_000, 0.7)])
def test_a_planted_3_percent_effect_is_found_as_often_as_theory_says(n_users, floor):
    rng = np.random.default_rng(3)
    trials = 150
    found, theirs, sizes = [], [], []
    for _ in range(trials):
        a, b = recalls(rng, n_users, effect=0.03)
        found.append(paired_test(a, b, rng, resamples=199, bootstrap=1).p <= 0.05)
        theirs.append(scipy.stats.ttest_rel(a, b).pvalue <= 0.05)
        sizes.append((a - b).std())
    # The planted difference is 3 % of the mean; a normal test of it has this power.
    mean = 0.03 * 0.3 / 3.3
    z = mean / (np.mean(sizes) / np.sqrt(n_users))
    expected = scipy.stats.norm.sf(1.96 - z) + scipy.stats.norm.cdf(-1.96 - z)
    assert np.mean(found) == pytest.approx(expected, abs=0.1)
    assert np.mean(found) == pytest.approx(np.mean(theirs), abs=0.05)
    assert np.mean(found) > floor


@pytest.mark.parametrize("effect", [0.0, 0.3])
def test_p_agrees_with_scipys_permutation_test(effect):
    a, b = recalls(np.random.default_rng(4), 600, effect)
    other = scipy.stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=10_000,
        rng=np.random.default_rng(5),
    ).pvalue
    found = paired_test(a, b, np.random.default_rng(6), resamples=10_000).p
    # Twice the standard error of a difference of two shares of 10,000, and a bit.
    assert found == pytest.approx(other, abs=3 * np.sqrt(2 * other * (1 - other) / 10_000) + 2e-4)


@pytest.mark.parametrize("effect", [0.0, 0.05, 0.2])
def test_p_agrees_with_the_t_test_of_many_users(effect):
    a, b = recalls(np.random.default_rng(7), 5000, effect)
    found = paired_test(a, b, np.random.default_rng(8), resamples=10_000)
    assert found.p == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, abs=0.02)


def test_the_interval_agrees_with_scipys_bootstrap():
    a, b = recalls(np.random.default_rng(9), 2000, 0.1)
    found = paired_test(a, b, np.random.default_rng(10), resamples=1, bootstrap=10_000)
    other = scipy.stats.bootstrap(
        (a - b,), np.mean, n_resamples=10_000, method="percentile", batch=500, rng=np.random.default_rng(11)
    ).confidence_interval
    width = other.high - other.low
    assert [found.low, found.high] == pytest.approx([other.low, other.high], abs=0.03 * width)
    assert found.difference == pytest.approx((found.low + found.high) / 2, abs=0.05 * width)


def test_the_interval_holds_the_true_difference_in_95_percent():
    rng = np.random.default_rng(12)
    truth = 0.1 * 0.3 / 3.3  # the planted share of the mean chance
    held = 0
    for _ in range(400):
        a, b = recalls(rng, 600, effect=0.1)
        low, high = bootstrap_interval(a - b, rng, resamples=300)
        held += low <= truth <= high
    assert held / 400 == pytest.approx(0.95, abs=0.03)


def test_a_family_has_the_tests_of_its_pairs():
    rng = np.random.default_rng(13)
    pairs = [recalls(rng, 300, effect) for effect in (0.0, 0.5)]
    for (test, p_holm), (a, b) in zip(paired_tests([tuple(pair) for pair in pairs], 0), pairs, strict=True):
        assert test.difference == pytest.approx(a.mean() - b.mean())
        assert test.p <= p_holm
