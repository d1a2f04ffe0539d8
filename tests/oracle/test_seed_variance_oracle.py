"""The interval over users and seeds against drawn values whose variances are known, and against arithmetic by hand."""

import numpy as np
import pytest
from scipy import stats

from gtcrec.errors import ConfigError, DataError
from gtcrec.evaluation.comparison import compare_to_baseline
from gtcrec.evaluation.seed_variance import crossed_interval

USERS, SEEDS, MEAN, DRAWS = 200, 3, 0.2, 600


def draw(rng: np.random.Generator, of_seed: float, rest: float = 0.1) -> np.ndarray:
    """Values [seeds, users] about MEAN: users spread by 0.2, seeds by `of_seed`, each pair by `rest`."""
    users, seeds = 0.2 * rng.normal(size=(1, USERS)), of_seed * rng.normal(size=(SEEDS, 1))
    return MEAN + users + seeds + rest * rng.normal(size=(SEEDS, USERS))


def over_users(values: np.ndarray) -> tuple[float, float]:
    """The interval that knows users alone."""
    average = values.mean(axis=0)
    half = stats.norm.ppf(0.975) * average.std(ddof=1) / USERS**0.5
    return average.mean() - half, average.mean() + half


@pytest.mark.parametrize(
    ("of_seed", "users_alone"),
    [(0.0, (0.92, 0.98)), (0.03, (0.5, 0.9)), (0.1, (0.2, 0.6))],  # the latter know nothing of the seeds
)
def test_the_interval_covers_the_mean_whatever_the_seeds_spread_and_that_over_users_does_not(
    of_seed: float, users_alone: tuple[float, float]
) -> None:
    """Of 600 draws 95 % are 570; the standard error of the share is 0.9 %."""
    rng = np.random.default_rng(0)
    covered = np.zeros(2)
    for _ in range(DRAWS):
        values = draw(rng, of_seed)
        found = crossed_interval(values)
        assert found is not None
        covered += [low <= MEAN <= high for low, high in ((found.low, found.high), over_users(values))]
    both, users = covered / DRAWS
    assert 0.91 < both < 0.98
    assert users_alone[0] < users < users_alone[1]


def test_of_two_models_that_do_not_differ_one_in_twenty_is_found_to() -> None:
    """Paired differences of models whose seeds differ; over the users alone it would be one in three."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(DRAWS):
        shared = 0.2 * rng.normal(size=(1, USERS))
        sides = [shared + 0.02 * rng.normal(size=(n, 1)) + 0.1 * rng.normal(size=(n, USERS)) for n in (3, 3)]
        both = crossed_interval(*sides)
        assert both is not None
        assert (both.p < 0.05) == (not both.low <= 0 <= both.high)
        alone = sides[0].mean(axis=0) - sides[1].mean(axis=0)
        found.append([both.p < 0.05, abs(alone.mean()) > 1.96 * alone.std(ddof=1) / USERS**0.5])
    crossed, users = np.mean(found, axis=0)
    assert 0.01 < crossed < 0.09
    assert users > 0.3


def test_the_interval_is_that_of_the_variance_components() -> None:
    values = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 8.0]])
    rows, columns, whole = values.mean(axis=1), values.mean(axis=0), values.mean()
    ms_seed = 3 * ((rows - whole) ** 2).sum() / 1
    ms_user = 2 * ((columns - whole) ** 2).sum() / 2
    ms_rest = ((values - rows[:, None] - columns + whole) ** 2).sum() / 2
    variance = (ms_user + ms_seed - ms_rest) / 6
    df = variance**2 / ((ms_user / 6) ** 2 / 2 + (ms_seed / 6) ** 2 / 1)
    half = stats.t.ppf(0.975, df) * variance**0.5
    found = crossed_interval(values)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((whole - half, whole + half))
    assert found.p == pytest.approx(2 * stats.t.sf(whole / variance**0.5, df))


def test_a_model_that_depends_on_no_seed_adds_no_variance() -> None:
    rng = np.random.default_rng(2)
    three, one = draw(rng, 0.05), draw(rng, 0.0)[:1]
    assert crossed_interval(one) is None
    assert crossed_interval(one, one) is None
    forth, back = crossed_interval(three, one), crossed_interval(one, three)
    assert forth is not None
    assert back is not None
    assert (forth.low, forth.high, forth.p) == pytest.approx((-back.high, -back.low, back.p))
    against_zero = crossed_interval(three, np.zeros((1, USERS)))
    assert against_zero == crossed_interval(three)


def test_values_without_any_spread_and_one_user() -> None:
    assert crossed_interval(np.ones((2, 1))) is None
    same = crossed_interval(np.ones((2, 3)), np.ones((2, 3)))
    assert same is not None
    assert (same.low, same.high, same.p) == (0.0, 0.0, 1.0)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(DataError, match=r"expected values \[seeds, users\], at least one, found shape \[3\]"):
        crossed_interval(np.zeros(3))
    with pytest.raises(DataError, match="values must be finite, found nan"):
        crossed_interval(np.array([[np.nan, 1.0], [0.0, 1.0]]))
    with pytest.raises(DataError, match=r"must belong to the same users, found \[2, 3\]"):
        crossed_interval(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ConfigError, match=r"level must lie in \(0, 1\), found 1"):
        crossed_interval(np.zeros((2, 2)), level=1)


def test_a_comparison_has_both_intervals_and_corrects_the_larger_p() -> None:
    """The lead is the same for all users, but the seeds differ more than the models."""
    rng = np.random.default_rng(3)
    base = rng.random((1, USERS))
    ours = base + 0.02 + np.array([[-0.03], [0.0], [0.03]]) + 0.01 * rng.normal(size=(3, USERS))
    one = compare_to_baseline("base", "ndcg@20", {"ours": (ours, base)})["ours"]
    assert one.test.p < 0.001
    assert one.test.p_seeds is not None
    assert one.test.seed_interval is not None
    assert one.test.p_holm == one.test.p_seeds > 0.2
    assert one.test.seed_interval[0] < 0 < one.test.interval[0]
    assert one.test.wider_interval == one.test.seed_interval
    share = one.wider_interval
    assert share == pytest.approx(tuple(bound / base.mean() for bound in one.test.seed_interval))
    alone = compare_to_baseline("base", "ndcg@20", {"ours": (ours.mean(axis=0), base[0])})["ours"].test
    assert (alone.p, alone.interval, alone.p_seeds, alone.seed_interval) == (one.test.p, one.test.interval, None, None)
    assert alone.p_holm == alone.p


def test_the_wider_interval_is_a_share_of_the_baseline_also_where_nothing_differs() -> None:
    base = np.array([[0.25, 0.75]])
    equal = compare_to_baseline("base", "ndcg@20", {"ours": (base[:, ::-1], base)})["ours"]
    assert (equal.relative, equal.wider_interval) == (0.0, equal.interval)
    nothing = compare_to_baseline("base", "ndcg@20", {"ours": (base, np.zeros((1, 2)))})["ours"]
    assert nothing.wider_interval is None
