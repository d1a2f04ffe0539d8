"""Losses against other implementations and arithmetic."""

import itertools
import math
import re

import pytest
import torch
from symile import Symile
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gtcrec.ops import _contrastive, losses


def views(m, n=16, d=6):
    rng = torch.Generator().manual_seed(m)
    return [torch.randn(n, d, generator=rng, dtype=torch.float64) for _ in range(m)]


def orders(m, n=16):
    return [losses.derangement(n, torch.Generator().manual_seed(10 + k)) for k in range(m)]


def whole_info_nce(a, b, scale):
    logits, own = scale * a @ b.T, torch.arange(len(a))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def patchy(n=16):
    """Who has each of three views: all, two of three, half; no item has none."""
    return [torch.ones(n, dtype=torch.bool), torch.arange(n) % 3 != 0, torch.arange(n) % 2 == 0]


def of_kind(kind, v, scale, has=None):
    """The loss of a kind over views of any number."""
    if kind == "n":
        return losses.total_correlation(v, scale, orders(len(v), len(v[0])), has)
    return {"n_squared": losses.n_squared, "chain": losses.chain, "pairwise": losses.pairwise}[kind](v, scale, has)


KINDS = pytest.mark.parametrize("kind", ["n", "n_squared", "chain", "pairwise"])


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


@pytest.mark.parametrize(("m", "n"), [(3, 16), (3, 9), (4, 7)])
def test_n_squared_equals_the_symile_package(m, n):
    ours, theirs = ([one.requires_grad_() for one in views(m, n)] for _ in range(2))
    scale = torch.tensor(1.7, dtype=torch.float64)
    found, wanted = losses.n_squared(ours, scale), Symile("n_squared")(theirs, scale)
    assert found.item() == pytest.approx(wanted.item(), abs=1e-6)
    found.backward()
    wanted.backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-9, rtol=0)


@KINDS
def test_two_views_give_the_symmetric_info_nce(kind):
    v, scale = views(2), torch.tensor(0.8, dtype=torch.float64)
    wanted = whole_info_nce(*v, scale).item()
    assert losses.info_nce(*v, scale).item() == pytest.approx(wanted, abs=1e-12)
    assert of_kind(kind, v, scale).item() == pytest.approx(wanted, abs=1e-12)


@KINDS
def test_a_view_that_every_item_misses_changes_nothing_for_the_others(kind):
    v, scale = views(3), torch.tensor(1.1, dtype=torch.float64)
    has, lacks = torch.ones(16, dtype=torch.bool), torch.zeros(16, dtype=torch.bool)
    found = of_kind(kind, v, scale, [has, has, lacks])
    wanted = whole_info_nce(v[0], v[1], scale)
    if kind == "n_squared":  # each combination of the two stands there once for each of 16 rows of ones
        wanted = wanted + math.log(16)
    assert found.item() == pytest.approx(wanted.item(), abs=1e-12)


@KINDS
@pytest.mark.parametrize("m", [2, 3, 4])
def test_a_critic_that_says_nothing_reaches_no_bound_and_a_perfect_one_the_ceiling(kind, m):
    n = 20
    equal = [torch.eye(n, dtype=torch.float64)] * m
    ceiling = losses.ceiling(kind, n, m)
    assert ceiling == pytest.approx(math.log(n) * (m - 1 if kind in ("n_squared", "chain") else 1), abs=1e-12)
    assert of_kind(kind, equal, torch.tensor(1e3, dtype=torch.float64)).item() == pytest.approx(0, abs=1e-9)
    assert of_kind(kind, equal, torch.tensor(0.0, dtype=torch.float64)).item() == pytest.approx(ceiling, abs=1e-9)


@KINDS
def test_with_absent_views_a_critic_that_says_nothing_still_reaches_no_bound(kind):
    v, has = views(3), patchy()
    loss = of_kind(kind, v, torch.tensor(0.0, dtype=torch.float64), has)
    assert losses.ceiling(kind, 16, 3, has) - loss.item() == pytest.approx(0, abs=1e-12)


@KINDS
def test_items_without_any_view_give_a_loss_and_a_ceiling_of_zero(kind):
    v, none = [one.requires_grad_() for one in views(3)], [torch.zeros(16, dtype=torch.bool)] * 3
    scale = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    loss = of_kind(kind, v, scale, none)
    loss.backward()
    assert (loss.item(), scale.grad.item(), losses.ceiling(kind, 16, 3, none)) == (0, 0, 0)


@KINDS
def test_gradients_are_zero_at_absent_entries_and_only_there(kind):
    v, has = [one.requires_grad_() for one in views(3)], patchy()
    of_kind(kind, v, torch.tensor(0.8, dtype=torch.float64), has).backward()
    compared = torch.stack(has).sum(dim=0) > (1 if kind in ("chain", "pairwise") else 0)
    assert not compared.all() or kind in ("n", "n_squared")
    for one, present in zip(v, has, strict=True):
        assert ((one.grad != 0).all(dim=1) == (present & compared)).all()
        assert ((one.grad == 0).all(dim=1) == ~(present & compared)).all()


def test_n_squared_with_absent_views_equals_the_sum_over_combinations_that_leaves_their_factors_out():
    n, v, has, scale = 6, views(3, 6), patchy(6), 0.7
    wanted = []
    for anchor in range(3):
        rest = [m for m in range(3) if m != anchor]

        def logit(i, rows, anchor=anchor, rest=rest):
            factors = [v[anchor][i], *(v[m][row] for m, row in zip(rest, rows, strict=True) if has[m][row])]
            return scale * math.fsum(math.prod(one[d].item() for one in factors) for d in range(6))

        terms = [
            math.log(sum(math.exp(logit(i, rows)) for rows in itertools.product(range(n), repeat=2))) - logit(i, (i, i))
            for i in range(n)
            if has[anchor][i]
        ]
        wanted.append(sum(terms) / len(terms))
    found = losses.n_squared(v, torch.tensor(scale, dtype=torch.float64), has)
    assert found.item() == pytest.approx(sum(wanted) / 3, abs=1e-12)


@pytest.mark.parametrize("orderings", [None, [(2, 0, 1)], [(0, 1, 2), (1, 0, 2)]])
def test_chain_equals_the_sum_of_info_nce_of_products_that_leave_absent_factors_out(orderings):
    v, has, scale = views(3), patchy(), torch.tensor(0.7, dtype=torch.float64)
    found = losses.chain(v, scale, has, orderings).item()
    orderings = orderings or [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    loss = ceiling = 0.0
    for order in orderings:
        for k in (1, 2):
            items = [i for i in range(16) if has[order[k]][i] and any(has[m][i] for m in order[:k])]
            joint = [math.prod(v[m][i] for m in order[:k] if has[m][i]) for i in items]
            loss += whole_info_nce(torch.stack(joint), v[order[k]][items], scale).item() / len(orderings)
            ceiling += math.log(len(items)) / len(orderings)
    assert found == pytest.approx(loss, abs=1e-12)
    assert losses.ceiling("chain", 16, 3, has, orderings) == pytest.approx(ceiling, abs=1e-12)


def test_the_ceiling_of_pairwise_is_the_mean_over_pairs_that_some_item_has():
    every, some, none = torch.ones(16, dtype=torch.bool), torch.arange(16) < 9, torch.zeros(16, dtype=torch.bool)
    wanted = (math.log(16) + 2 * math.log(9)) / 3
    assert losses.ceiling("pairwise", 16, 3, [every, every, some]) == pytest.approx(wanted, abs=1e-12)
    assert losses.ceiling("pairwise", 16, 3, [every, some, none]) == pytest.approx(math.log(9), abs=1e-12)


def test_pairwise_is_the_mean_info_nce_over_pairs_of_views_that_items_have():
    v, scale = views(3), torch.tensor(0.8, dtype=torch.float64)
    every, some, none = torch.ones(16, dtype=torch.bool), torch.arange(16) < 9, torch.zeros(16, dtype=torch.bool)
    wanted = [whole_info_nce(v[0], v[1], scale), *(whole_info_nce(v[m][:9], v[2][:9], scale) for m in (0, 1))]
    found = losses.pairwise(v, scale, [every, every, some])
    assert found.item() == pytest.approx(sum(wanted).item() / 3, abs=1e-12)
    assert losses.pairwise(v, scale, [every, none, none]).item() == 0


@pytest.mark.parametrize("spread", [0.0, 40.0])  # 0: each direction by itself, as for logits too far apart
@pytest.mark.parametrize("held", [0, 1 << 24])
@pytest.mark.parametrize("length", [0.1, 1.0, 7.0])
def test_info_nce_and_its_gradient_equal_those_of_the_whole_matrix(spread, held, length, monkeypatch):
    monkeypatch.setattr(_contrastive, "BLOCK", 1)
    monkeypatch.setattr(_contrastive, "SPREAD", spread)
    monkeypatch.setattr(_contrastive, "HELD", held)
    given = [(length * one).requires_grad_() for one in views(2, 70, 3)]
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    found, wanted = losses.info_nce(*given, scale), whole_info_nce(*given, scale)
    torch.testing.assert_close(found, wanted)
    for one, other in zip(*(torch.autograd.grad(v, [*given, scale]) for v in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("factor", [30.0, 1e4])
def test_info_nce_is_finite_and_right_at_logits_of_any_size(factor):
    a, b = (factor**0.5 * one.float() for one in views(2, 70, 3))
    found = losses.info_nce(a, b, torch.tensor(1.0))
    assert found.item() == pytest.approx(whole_info_nce(a.double(), b.double(), torch.tensor(1.0)).item(), rel=1e-5)


@pytest.mark.parametrize("block", [1, 1 << 19])
@pytest.mark.parametrize(("kind", "n"), [("n", 70), ("n_squared", 9), ("chain", 70), ("pairwise", 70)])
def test_the_gradient_in_blocks_equals_the_numerical_one(kind, n, block, monkeypatch):
    monkeypatch.setattr(_contrastive, "BLOCK", block)  # 1: more than one block of at least 64 rows or combinations
    v = [one.requires_grad_() for one in views(3, n, 2)]
    scale = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    has = [torch.arange(n) % 3 != m for m in range(3)]
    assert torch.autograd.gradcheck(lambda *given: of_kind(kind, given[:3], given[3], has), (*v, scale))


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor held that was computed meanwhile."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else [out]:
            if isinstance(one, torch.Tensor):
                self.found = max(self.found, one.numel())
        return out


@KINDS
def test_no_more_than_a_block_of_logits_is_ever_held(kind, monkeypatch):
    monkeypatch.setattr(_contrastive, "BLOCK", 1)
    n = 100  # all logits would be 100^2, or 100^3 of n_squared
    v = [one.float().requires_grad_() for one in views(3, n, 4)]
    with Largest() as largest:
        of_kind(kind, v, torch.tensor(0.9)).backward()
    assert largest.found == 64 * n


@KINDS
def test_narrow_numbers_are_compared_in_float32(kind):
    v, scale = [one.sign() for one in views(3)], torch.tensor(0.8)  # products of signs are exact in bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        found = of_kind(kind, [one.bfloat16() for one in v], scale)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(of_kind(kind, v, scale.double()).item(), abs=1e-5)


@pytest.mark.parametrize("kind", ["n", "n_squared", "chain"])
@pytest.mark.parametrize(("count", "n"), [(1, 4), (2, 1)])
def test_too_few_views_or_items_are_refused(kind, count, n, monkeypatch):
    monkeypatch.setattr(losses, "derangement", lambda n, rng: torch.arange(n))
    with pytest.raises(
        ValueError, match=f"expected at least 2 views of at least 2 items, found {count} views of {n} items"
    ):
        of_kind(kind, [torch.ones(n, 3)] * count, torch.tensor(1.0))


def test_more_combinations_than_the_limit_are_refused():
    message = "expected at most 16777216 combinations of the other views' rows, found 4097^2 from 4097 items of 3 views"
    with pytest.raises(ValueError, match=re.escape(message)):
        losses.n_squared([torch.ones(4097, 1)] * 3, torch.tensor(1.0))


@pytest.mark.parametrize(
    ("orderings", "message"),
    [
        ([], "expected at least one ordering of the views, found none"),
        ([(0, 1, 2), (0, 0, 1)], "an ordering must name each of the views 0..2 once, found [0, 0, 1]"),
        ([(0, 1)], "an ordering must name each of the views 0..2 once, found [0, 1]"),
    ],
)
def test_an_ordering_that_is_no_permutation_of_the_views_is_refused(orderings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        losses.chain(views(3), torch.tensor(1.0), orderings=orderings)


def test_an_unknown_kind_has_no_ceiling():
    with pytest.raises(ValueError, match="the kind must be one of n, n_squared, chain, pairwise, found 'cubed'"):
        losses.ceiling("cubed", 16, 3)


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


def test_a_summed_norm_has_one_norm_for_each_tensor_by_the_rows_of_the_batch():
    one, two = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[0.0, 6.0], [8.0, 0.0]])
    assert losses.summed_norm(one, two).item() == pytest.approx((5 + 10) / 2)


@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize("block", [None, 40])
def test_log_sum_exp_and_its_gradient_equal_those_of_the_whole_matrix(scale, block, monkeypatch):
    if block:
        monkeypatch.setattr(_contrastive, "BLOCK", block)  # 16 rows at once, the least
    rng = torch.Generator().manual_seed(0)
    draws = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((37, 3), (50, 3), (37,))]
    a, b = (x.requires_grad_() for x in draws[:2])
    weights, present = draws[2].detach(), torch.arange(50) % 4 > 0
    found = losses.log_sum_exp(scale * a, b, weights, present)
    wanted = torch.dot(weights, (scale * a @ b[present].T).logsumexp(dim=1))
    torch.testing.assert_close(found, wanted)
    for one, other in zip(torch.autograd.grad(found, (a, b)), torch.autograd.grad(wanted, (a, b)), strict=True):
        torch.testing.assert_close(one, other)
    assert torch.autograd.gradcheck(lambda a, b: losses.log_sum_exp(a, b, weights, present), (a, b))


def test_log_sum_exp_of_rows_without_weight_among_none_is_nothing():
    a, b = (torch.ones(2, 3, requires_grad=True) for _ in range(2))
    loss = losses.log_sum_exp(a, b, torch.zeros(2), torch.zeros(2, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert not a.grad.any()
    assert not b.grad.any()


def test_a_partial_log_sum_exp_leaves_out_what_it_is_told_row_by_row(monkeypatch):
    rng = torch.Generator().manual_seed(4)
    a, b, c, s = (torch.randn(*shape, generator=rng).double() for shape in ((5, 4), (7, 3), (7, 1), (7,)))
    weights, left_out = torch.rand(5, generator=rng).double(), torch.tensor([1, 3, 9, 20, 34])
    monkeypatch.setattr(_contrastive, "BLOCK", 0)  # sixteen rows at once
    whole = (a @ torch.cat([b, c], dim=1).T + s).view(-1).index_fill(0, left_out, -torch.inf).view(5, 7)
    found = losses.partial_log_sum_exp(a, b, c, s, weights, left_out)
    torch.testing.assert_close(found, torch.dot(weights, whole.logsumexp(dim=1)))
    inputs = [x.requires_grad_() for x in (a, b, s)]
    many = [torch.cat([x] * 9) for x in (weights, torch.arange(5))]  # several blocks
    far = torch.cat([left_out + 35 * place for place in range(9)])
    assert torch.autograd.gradcheck(
        lambda a, b, s: losses.partial_log_sum_exp(a[many[1]], b, c, s, many[0], far), inputs
    )
