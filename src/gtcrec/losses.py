"""Losses as pure functions of tensors.

Total correlation: TC(v_1..v_M) = KL(p(v_1..v_M) || prod_m p(v_m)). A contrast of each item's own tuple of views
against tuples whose views are drawn independently gives a lower bound, log N - loss, in nats (design of the
negatives after Symile, Saporta et al. 2024, arXiv 2411.01053).
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["bpr", "derangement", "info_nce", "pairwise", "squared_norm", "total_correlation"]


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Return the mean of -ln sigmoid(positive - negative) (Rendle et al. 2009); both [b].

    >>> round(bpr(torch.zeros(3), torch.zeros(3)).item(), 4)
    0.6931
    """
    return F.softplus(negative - positive).mean()


def squared_norm(*rows: Tensor) -> Tensor:
    """Return half the squared L2 norm of several [b, d] tensors, per row of the batch."""
    total = torch.stack([one.square().sum() for one in rows]).sum()
    return total / (2 * len(rows[0]))


def info_nce(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """Return the symmetric InfoNCE loss of paired rows a, b [n, d], logits scale * <a_i, b_j>."""
    logits = scale * a @ b.T  # [n, n]
    own = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def pairwise(views: Sequence[Tensor], scale: Tensor, present: Sequence[Tensor]) -> Tensor:
    """Return the mean InfoNCE loss over all pairs of views [n, d], each over the items that have both (bool [n]).

    0 where no item has two views.
    """
    terms = []
    for a, b in itertools.combinations(range(len(views)), 2):
        both = present[a] & present[b]
        if both.any():
            terms.append(info_nce(views[a][both], views[b][both], scale))
    return torch.stack(terms).mean() if terms else scale * 0.0


def derangement(n: int, rng: torch.Generator) -> Tensor:
    """Return a random permutation of 0..n-1 without fixed point (one cycle), int64 [n], n >= 2.

    >>> order = derangement(5, torch.Generator().manual_seed(0))
    >>> bool((order != torch.arange(5)).all()), sorted(order.tolist())
    (True, [0, 1, 2, 3, 4])
    """
    order = torch.randperm(n, generator=rng, device=rng.device)
    result = torch.empty_like(order)
    result[order] = order.roll(1)
    return result


def total_correlation(
    views: Sequence[Tensor], scale: Tensor, orders: Sequence[Tensor], present: Sequence[Tensor] | None = None
) -> Tensor:
    """Return the contrastive loss whose log n - loss bounds the total correlation of the views from below.

    `views` are M >= 2 tensors [n, d]; row i of each belongs to item i. For each anchor view a, item i's own
    tuple is told from n - 1 tuples of the other views drawn independently: the first of them stays in
    place and view m of the rest is permuted by `orders[m]` (int64 [n], without fixed point), so that no item
    meets its own tuple as a negative. logits_ij = scale * sum_d a_i[d] * prod_m v_m[j_m][d], cross-entropy,
    averaged over anchors. Two views give the symmetric InfoNCE. Memory O(n d), time O(n^2 d).

    `present[m]` (bool [n]) marks the items that have view m: an absent view counts as 1 in the product, and
    is no anchor.
    """
    n = len(views[0])
    if len(views) < 2 or n < 2:
        raise ValueError(f"wanted at least 2 views of at least 2 items, found {len(views)} views of {n} items")
    if present is not None:
        views = [torch.where(has[:, None], v, 1.0) for v, has in zip(views, present, strict=True)]
    losses: list[Tensor] = []
    for anchor, view in enumerate(views):
        first, *rest = (m for m in range(len(views)) if m != anchor)
        others = _product([views[m] for m in (first, *rest)])  # [n, d]
        negatives = _product([views[first], *(views[m][orders[m]] for m in rest)])  # [n, d]
        has = torch.ones(n, dtype=view.dtype, device=view.device) if present is None else present[anchor].to(view.dtype)
        losses.append(_contrast(view, others, negatives, scale, has / has.sum().clamp(min=1)))
    return torch.stack(losses).mean()


def _product(views: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(views)).prod(dim=0) if len(views) > 1 else views[0]


def _contrast(*given: Tensor) -> Tensor:
    with torch.autocast(given[0].device.type, enabled=False):  # exponentials want float32 at least
        wide = (one.float() if one.dtype.itemsize < 4 else one for one in given)
        loss: Tensor = _Contrast.apply(*wide)  # type: ignore[no-untyped-call]
        return loss


class _Contrast(torch.autograd.Function):
    """sum_i w_i (logsumexp_j L_ij - L_ii), L_ij = scale <a_i, b_j> off the diagonal and scale <a_i, o_i> on it.

    The gradient is computed with the value, in blocks of rows: the n x n logits are never held whole, nor kept for the
    backward pass.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, o: Tensor, b: Tensor, scale: Tensor, weights: Tensor) -> Tensor:
        n, own = len(a), (a * o).sum(dim=1)  # [n]
        total, slope = a.new_zeros(()), a.new_zeros(())
        grad_a, grad_o, grad_b = torch.empty_like(a), torch.empty_like(o), torch.zeros_like(b)
        block = max(64, _BLOCK // n)
        for start in range(0, n, block):
            rows = slice(start, min(start + block, n))
            w, x = weights[rows, None], a[rows]
            at = torch.arange(len(x), device=a.device)
            logits = x @ b.T  # [block, n]
            logits[at, at + start] = own[rows]
            p = logits * scale
            top = p.amax(dim=1, keepdim=True)
            mass = p.sub_(top).exp_().sum(dim=1, keepdim=True)
            total += torch.dot(top[:, 0] + mass[:, 0].log() - scale * own[rows], weights[rows])
            p.div_(mass)  # softmax over the row
            p[at, at + start] -= 1.0
            p.mul_(w)  # d total / d (scale * logits)
            slope += torch.dot(p.flatten(), logits.flatten())
            p.mul_(scale)
            diagonal = p[at, at + start][:, None]
            p[at, at + start] = 0.0
            torch.addmm(diagonal * o[rows], p, b, out=grad_a[rows])
            grad_b.addmm_(p.T, x)
            torch.mul(diagonal, x, out=grad_o[rows])
        ctx.save_for_backward(grad_a, grad_o, grad_b, slope)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        grad_a, grad_o, grad_b, slope = ctx.saved_tensors
        return grad * grad_a, grad * grad_o, grad * grad_b, grad * slope, None


_BLOCK = 1 << 19  # logits held at once
