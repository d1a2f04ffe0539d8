"""Intervals and tests against scipy.stats and arithmetic, and the messages of bad input."""

import itertools

import numpy as np
import pytest
import scipy.stats

from gtcrec.errors import ConfigError, DataError
from gtcrec.evaluation import statistics
from gtcrec.evaluation.statistics import (
    PairedTest,
    bootstrap_interval,
    bootstrap_intervals,
    holm,
    paired_test,
    paired_tests,
)


def test_the_interval_agrees_with_scipys_percentile_bootstrap():
    values = np.random.default_rng(1).gamma(0.5, size=300)
    low, high = bootstrap_interval(values, np.random.default_rng(2), level=0.9, resamples=20_000)
    other = scipy.stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=0.9,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert [low, high] == pytest.approx([other.low, other.high], abs=0.03 * (high - low))


def test_the_interval_of_equal_values_is_that_value():
    assert bootstrap_interval(np.full(7, 0.25), np.random.default_rng(0)) == (0.25, 0.25)


def test_about_95_percent_of_the_intervals_hold_the_true_mean():
    rng = np.random.default_rng(5)
    held = [
        low < 0.5 < high for low, high in (bootstrap_interval(rng.random(80), rng, resamples=300) for _ in range(200))
    ]
    # Binomial(200, 0.95) lies in [0.90, 0.99] with more than 99 % probability.
    assert 0.90 <= np.mean(held) <= 0.99


def test_columns_share_their_draws_and_one_column_alone_gets_the_same_interval():
    rng = np.random.default_rng(6)
    columns = {"a": rng.random(50), "b": rng.random(50)}
    together = bootstrap_intervals(columns, np.random.default_rng(7))
    assert list(together) == ["a", "b"]
    for name, column in columns.items():
        alone = bootstrap_interval(column, np.random.default_rng(7))
        assert together[name] == alone
    assert bootstrap_intervals({}, rng) == {}


def test_results_do_not_depend_on_how_many_resamples_are_held_at_once(monkeypatch):
    rng = np.random.default_rng(8)
    a, b = rng.random(40), rng.random(40)
    whole = paired_test(a, b, np.random.default_rng(9))
    monkeypatch.setattr(statistics, "_CELLS", 64)
    interval = bootstrap_interval(a - b, np.random.default_rng(9))
    assert interval == pytest.approx((whole.low, whole.high), abs=1e-12)
    blocked = paired_test(a, b, np.random.default_rng(9))
    # Blocks draw other coins for the flips; the standard error of p is below 0.005.
    assert blocked.p == pytest.approx(whole.p, abs=0.025)


@pytest.mark.parametrize("shift", [0.0, 0.35, 0.8])
def test_p_agrees_with_scipys_exact_permutation_test(shift):
    rng = np.random.default_rng(10)
    a, b = rng.normal(shift, 1, size=11), rng.normal(0, 1, size=11)
    exact = scipy.stats.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    ).pvalue
    found = paired_test(a, b, np.random.default_rng(11), resamples=40_000).p
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 40_000) + 1e-4)


def test_p_counts_sign_flips_that_tie_with_the_observed_difference_but_for_rounding():
    tenths = np.array([1, 2, -3, 4, 6, -7])
    flips = np.array(list(itertools.product([-1, 1], repeat=6)))
    exact = np.mean(np.abs(flips @ tenths) >= abs(tenths.sum()))
    found = paired_test(tenths * 0.1, np.zeros(6), np.random.default_rng(0), resamples=40_000)
    assert found.p == pytest.approx(exact, abs=0.01)


def test_p_is_never_zero_and_one_without_any_difference():
    sure = paired_test(np.arange(60) + 1.0, np.arange(60) + 0.0, np.random.default_rng(0), resamples=999)
    assert sure.p == 1 / 1000
    none = paired_test(np.ones(5), np.ones(5), np.random.default_rng(0))
    assert none == PairedTest(difference=0.0, base=1.0, low=0.0, high=0.0, p=1.0)


def test_p_is_uniform_when_nothing_differs():
    rng = np.random.default_rng(12)
    p = [paired_test(rng.random(40), rng.random(40), rng, resamples=499, bootstrap=1).p for _ in range(200)]
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_difference_and_relative_difference_are_of_the_means():
    found = paired_test(np.array([0.2, 0.4]), np.array([0.1, 0.3]), np.random.default_rng(0))
    assert found.difference == pytest.approx(0.1)
    assert found.relative == pytest.approx(0.5)
    assert found.relative_interval == pytest.approx((found.low / 0.2, found.high / 0.2))
    none = paired_test(np.ones(2), np.zeros(2), np.random.default_rng(0))
    assert (none.base, none.relative, none.relative_interval) == (0, None, None)


def test_a_family_is_tested_one_by_one_and_corrected_together():
    rng = np.random.default_rng(20)
    base = rng.random(200)
    pairs = [(base + rng.normal(by, 0.4, 200), base) for by in (0.2, 0.07, 0.0)]
    found = paired_tests(pairs, 4)
    assert [test for test, _ in found] == [paired_test(a, b, np.random.default_rng(4)) for a, b in pairs]
    assert [p for _, p in found] == holm([test.p for test, _ in found]).tolist()
    going_on = np.random.default_rng(4)
    assert [test for test, _ in paired_tests(pairs, np.random.default_rng(4))] == [
        paired_test(a, b, going_on) for a, b in pairs
    ]
    uneven = [*pairs, (base[:50], rng.random(50))]
    assert [test for test, _ in paired_tests(uneven, 4)] == [
        paired_test(a, b, np.random.default_rng(4)) for a, b in uneven
    ]
    assert paired_tests([], 0) == []


def test_swapping_the_models_turns_the_difference_round():
    rng = np.random.default_rng(13)
    a, b = rng.random(100), rng.random(100)
    ab, ba = paired_test(a, b, np.random.default_rng(1)), paired_test(b, a, np.random.default_rng(1))
    assert [ab.difference, ab.low, ab.high] == pytest.approx([-ba.difference, -ba.high, -ba.low])
    assert ab.p == ba.p


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5], [0.5]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.02, 0.01, 0.02, 0.005], [0.04, 0.03, 0.04, 0.02]),
        ([], []),
    ],
)
def test_holm_multiplies_the_sorted_p_and_never_lets_them_fall(p, expected):
    assert holm(p).tolist() == pytest.approx(expected)


def test_impossible_input_is_refused():
    rng, one = np.random.default_rng(0), np.ones(3)
    with pytest.raises(DataError, match=r"values: expected at least one value in one dimension, found shape \[0\]"):
        bootstrap_interval(np.array([]), rng)
    with pytest.raises(DataError, match=r"values: expected .* found shape \[2, 2\]"):
        bootstrap_interval(np.ones((2, 2)), rng)
    with pytest.raises(DataError, match="values: values must be finite, found nan"):
        bootstrap_interval(np.array([1, np.nan]), rng)
    with pytest.raises(ConfigError, match=r"level must lie in \(0, 1\), found 95"):
        bootstrap_interval(one, rng, level=95)
    with pytest.raises(ConfigError, match="resamples must be at least 1, found 0"):
        bootstrap_interval(one, rng, resamples=0)
    with pytest.raises(ConfigError, match="resamples must be at least 1, found 0"):
        paired_test(one, one, rng, resamples=0)
    with pytest.raises(DataError, match=r"must belong to the same users, found \(3,\) and \(2,\)"):
        paired_test(one, np.ones(2), rng)
    with pytest.raises(DataError, match="b: values must be finite, found inf"):
        paired_test(one, one * np.inf, rng)
    with pytest.raises(DataError, match=r"p values must lie in \[0, 1\], found \[0.5, 2.0\]"):
        holm([0.5, 2])
