"""Losses against other implementations and arithmetic."""

import math

import pytest
import torch
from symile import Symile

from gtcrec import losses


def views(m, n=16, d=6):
    rng = torch.Generator().manual_seed(m)
    return [torch.randn(n, d, generator=rng, dtype=torch.float64) for _ in range(m)]


def orders(m, n=16):
    return [losses.derangement(n, torch.Generator().manual_seed(10 + k)) for k in range(m)]


@pytest.mark.parametrize("m", [3, 4])
def test_total_correlation_equals_the_symile_package(m, monkeypatch):
    v, order = views(m), orders(m)
    # Symile draws a permutation for each non-anchor view of each anchor; ours keeps the first in place.
    draws = iter(
        torch.arange(16) if k == 0 else order[other]
        for anchor in range(m)
        for k, other in enumerate(o for o in range(m) if o != anchor)
    )
    monkeypatch.setattr(torch, "randperm", lambda n: next(draws))
    wanted = Symile("n")(v, torch.tensor(1.7, dtype=torch.float64))
    found = losses.total_correlation(v, torch.tensor(1.7, dtype=torch.float64), order)
    assert found.item() == pytest.approx(wanted.item(), abs=1e-6)


def test_two_views_give_the_symmetric_info_nce():
    v, scale = views(2), torch.tensor(0.8, dtype=torch.float64)
    assert losses.total_correlation(v, scale, orders(2)).item() == pytest.approx(
        losses.info_nce(*v, scale).item(), abs=1e-12
    )


def test_a_view_that_every_item_misses_changes_nothing_for_the_others():
    v, scale = views(3), torch.tensor(1.1, dtype=torch.float64)
    has, lacks = torch.ones(16, dtype=torch.bool), torch.zeros(16, dtype=torch.bool)
    found = losses.total_correlation(v, scale, orders(3), [has, has, lacks])
    # The two anchors that are left are averaged with a third whose loss is 0.
    assert found.item() == pytest.approx(losses.info_nce(v[0], v[1], scale).item() * 2 / 3, abs=1e-12)


def test_independent_views_reach_no_bound_and_equal_ones_reach_the_ceiling():
    n = 64
    equal = [torch.eye(n, dtype=torch.float64)] * 3
    loss = losses.total_correlation(equal, torch.tensor(1e3, dtype=torch.float64), orders(3, n))
    assert math.log(n) - loss.item() == pytest.approx(math.log(n), abs=1e-9)
    none = losses.total_correlation(equal, torch.tensor(0.0, dtype=torch.float64), orders(3, n))
    assert math.log(n) - none.item() == pytest.approx(0.0, abs=1e-12)


def test_pairwise_is_the_mean_info_nce_over_pairs_of_views_that_items_have():
    v, scale = views(3), torch.tensor(0.8, dtype=torch.float64)
    every, some, none = torch.ones(16, dtype=torch.bool), torch.arange(16) < 9, torch.zeros(16, dtype=torch.bool)
    wanted = [losses.info_nce(v[0], v[1], scale), *(losses.info_nce(v[m][:9], v[2][:9], scale) for m in (0, 1))]
    found = losses.pairwise(v, scale, [every, every, some])
    assert found.item() == pytest.approx(sum(wanted).item() / 3, abs=1e-12)
    assert losses.pairwise(v, scale, [every, none, none]).item() == 0


@pytest.mark.parametrize("block", [1, 1 << 19])
def test_the_gradient_that_comes_with_the_value_equals_the_numerical_one(block, monkeypatch):
    monkeypatch.setattr(losses, "_BLOCK", block)
    n = 70  # more than one block of at least 64 rows
    v, order = [one.requires_grad_() for one in views(3, n, 2)], orders(3, n)
    scale = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    has = [torch.arange(n) % 3 != m for m in range(3)]
    assert torch.autograd.gradcheck(
        lambda *given: losses.total_correlation(given[:3], given[3], order, has), (*v, scale)
    )


@pytest.mark.parametrize(("count", "n"), [(1, 4), (2, 1)])
def test_too_few_views_or_items_are_refused(count, n):
    with pytest.raises(
        ValueError, match=f"wanted at least 2 views of at least 2 items, found {count} views of {n} items"
    ):
        losses.total_correlation([torch.ones(n, 3)] * count, torch.tensor(1.0), [torch.arange(n)] * count)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_a_derangement_is_a_permutation_without_fixed_point(n):
    for seed in range(20):
        order = losses.derangement(n, torch.Generator().manual_seed(seed))
        assert sorted(order.tolist()) == list(range(n))
        assert (order != torch.arange(n)).all()


def test_bpr_and_squared_norm_equal_their_formulas():
    a, b = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])
    wanted = -(math.log(1 / (1 + math.exp(-1.5))) + math.log(1 / (1 + math.exp(4.0)))) / 2
    assert losses.bpr(a, b).item() == pytest.approx(wanted, abs=1e-6)
    assert losses.squared_norm(torch.tensor([[3.0], [4.0]]), torch.tensor([[0.0], [1.0]])).item() == pytest.approx(
        26 / 4
    )
