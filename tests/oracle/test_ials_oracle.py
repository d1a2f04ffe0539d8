"""iALS against dense least squares, row by row, and against the objective written out."""

import itertools

import numpy as np
import pytest
import torch

from gtcrec import models
from gtcrec.types import Interactions, ItemFeatures


def draw(n_users=30, n_items=12, share=0.3, seed=0):
    """Pairs in which a user and an item have nothing, and an item is liked by nearly all."""
    rng = np.random.default_rng(seed)
    liked = rng.random((n_users, n_items)) < share
    liked[:, 3] = True
    liked[4], liked[:, 7] = False, False
    return Interactions(*np.nonzero(liked), n_users, n_items)


def build(pairs, seed=0, **given):
    return models.build_model("ials", pairs, ItemFeatures(pairs.n_items), models.make_config("ials", given), seed)


def ridge(x, others, unobserved, reg, frequency):
    """Each row's factors: the minimum of the objective in them, from all pairs, [n_rows, dim]."""
    found = np.zeros((len(x), others.shape[1]))
    for r, likes in enumerate(x):
        weight = np.where(likes > 0, 1 + unobserved, unobserved)  # a like is in both sums
        own = reg * (likes.sum() + unobserved * len(others)) ** frequency
        left = others.T @ (weight[:, None] * others) + own * np.eye(others.shape[1])
        found[r] = np.linalg.solve(left, others.T @ likes)
    return found


def objective(x, users, items, unobserved, reg, frequency):
    score = users @ items.T
    total = ((score - 1) ** 2)[x > 0].sum() + unobserved * (score**2).sum()
    for side, factors, n in ((x, users, len(items)), (x.T, items, len(users))):
        total += (reg * (side.sum(1) + unobserved * n) ** frequency * (factors**2).sum(1)).sum()
    return total


@pytest.mark.parametrize("dim", [3, 16], ids=["few dimensions", "many dimensions"])
@pytest.mark.parametrize(("unobserved", "reg", "frequency"), [(0.1, 0.02, 1.0), (0.3, 0.5, 0.5), (1.0, 0.1, 0.0)])
def test_sweeps_equal_dense_least_squares_from_the_same_start(dim, unobserved, reg, frequency):
    pairs = draw()
    x = pairs.matrix().toarray()
    torch.manual_seed(3)
    _, items = (torch.randn(n, dim).double().numpy() * 0.2 / dim**0.5 for n in (30, 12))
    for _ in range(4):
        users = ridge(x, items, unobserved, reg, frequency)
        items = ridge(x.T, users, unobserved, reg, frequency)
    given = {
        "embedding_dim": dim,
        "unobserved_weight": unobserved,
        "reg": reg,
        "reg_exponent": frequency,
        "init_std": 0.2,
        "num_sweeps": 4,
    }
    found = build(pairs, 3, **given).scorer()(torch.arange(30)).numpy()
    np.testing.assert_allclose(found, users @ items.T, atol=1e-4)


def test_rows_in_many_blocks_equal_dense_least_squares(monkeypatch):
    monkeypatch.setattr("gtcrec.ops.least_squares._BLOCK_NUMBERS", 60)
    test_sweeps_equal_dense_least_squares_from_the_same_start(5, 0.1, 0.05, 1.0)


def test_a_sweep_more_never_raises_the_objective():
    pairs = draw()
    values = []
    for sweeps in range(1, 9):
        users, items = (
            one.double().numpy()
            for one in build(pairs, embedding_dim=6, num_sweeps=sweeps, unobserved_weight=0.1, reg=0.03).vectors()
        )
        values.append(objective(pairs.matrix().toarray(), users, items, 0.1, 0.03, 1.0))
    assert all(later < earlier for earlier, later in itertools.pairwise(values))


def test_what_nobody_liked_scores_zero():
    scores = build(draw()).scorer()(torch.arange(30))
    assert not scores[4].any()
    assert not scores[:, 7].any()
    assert scores[:, 3].any()


def test_without_interactions_all_scores_are_zero():
    none = Interactions(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), 3, 4)
    assert not build(none).scorer()(torch.arange(3)).any()


def test_the_factors_are_saved_and_depend_on_the_seed():
    first, second = build(draw(), 1), build(draw(), 2)
    assert set(first.state_dict()) == {"users", "items"}
    assert not torch.equal(first.users, second.users)
