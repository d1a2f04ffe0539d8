"""Losses as pure functions of tensors.

Total correlation: TC(v_1..v_M) = KL(p(v_1..v_M) || prod_m p(v_m)). A contrast of each item's own tuple of views
against tuples whose views are drawn independently gives a lower bound in nats. There are four kinds; of each,
`ceiling(kind, ...) - loss` is the bound:

- `total_correlation` ("n"): n - 1 negatives, views permuted independently. Bounds TC by log n - loss.
- `n_squared`: every combination of the other views' rows is a negative. Bounds TC by (M - 1) log n - loss.
- `chain`: M - 1 contrasts along an ordering of the views. Bounds TC by (M - 1) log n - loss.
- `pairwise`: pairs of views alone. log n - loss bounds the mean mutual information of a pair, which is at most TC.

Negatives of "n" and `n_squared` after Symile, Saporta et al. 2024, arXiv 2411.01053.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "MOST_COMBINATIONS",
    "bpr",
    "ceiling",
    "chain",
    "derangement",
    "info_nce",
    "n_squared",
    "pairwise",
    "squared_norm",
    "total_correlation",
]

MOST_COMBINATIONS = 1 << 24
"""The most negatives an item may have in `n_squared`: 4,096 items of three views, 256 of four."""


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
    """Return the symmetric InfoNCE loss of paired rows a, b [n, d], logits scale * <a_i, b_j>.

    In blocks of rows, which are held for the gradient if all of them are at most 64 MiB (4,096 rows).
    """
    a, b, scale = map(_wide, (a, b, scale))
    with torch.autocast(a.device.type, enabled=False):  # exponentials want float32 at least
        with torch.no_grad():
            most = scale.abs() * a.norm(dim=1).max() * b.norm(dim=1).max()  # no logit is further from 0
        if most <= _SPREAD:
            loss: Tensor = _Symmetric.apply(a, b, scale, most)  # type: ignore[no-untyped-call]
            return loss
    weights = torch.full((len(a),), 1 / len(a), dtype=a.dtype, device=a.device)
    return (_contrast(a, b, b, scale, weights) + _contrast(b, a, a, scale, weights)) / 2


def pairwise(views: Sequence[Tensor], scale: Tensor, present: Sequence[Tensor] | None = None) -> Tensor:
    """Return the mean InfoNCE loss over all pairs of views [n, d], each over the items that have both (bool [n]).

    0 where no item has two views.
    """
    terms = [loss for _, loss in _linked(views, scale, _pairs(len(views)), present)]
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
    _count(views)
    views, has = _filled(views, present)
    losses: list[Tensor] = []
    for anchor, view in enumerate(views):
        first, *rest = (m for m in range(len(views)) if m != anchor)
        others = _product([views[m] for m in (first, *rest)])  # [n, d]
        negatives = _product([views[first], *(views[m][orders[m]] for m in rest)])  # [n, d]
        losses.append(_contrast(view, others, negatives, scale, _weights(has[anchor], view)))
    return _over_anchors(losses, has)


def n_squared(views: Sequence[Tensor], scale: Tensor, present: Sequence[Tensor] | None = None) -> Tensor:
    """Return the contrastive loss of each item's own tuple against all combinations of rows of the other views.

    `views` are M >= 2 tensors [n, d]. For anchor view a, item i has the n^(M-1) logits scale * sum_d a_i[d] *
    prod_m v_m[c_m][d], c_m in 0..n-1, its own tuple among them; cross-entropy, averaged over anchors. (M - 1) log n -
    loss bounds the total correlation from below. Logits are computed in blocks of combinations, once for the value and
    again for the gradient: memory O(n (block + d)), time O(n^M d); n^(M-1) may not pass `MOST_COMBINATIONS`.

    `present` (bool [n] of each view) is read as `total_correlation` reads it.

    >>> views = [torch.zeros(4, 2)] * 3
    >>> torch.isclose(n_squared(views, torch.tensor(1.0)), torch.tensor(16.0).log()).item()
    True
    """
    n = _count(views)
    if n ** (len(views) - 1) > MOST_COMBINATIONS:
        raise ValueError(
            f"wanted at most {MOST_COMBINATIONS} combinations of the other views' rows, "
            f"found {n}^{len(views) - 1} from {n} items of {len(views)} views: take fewer items or another alignment"
        )
    views, has = _filled([_wide(view) for view in views], present)
    scale = _wide(scale)
    own = scale * _product(views).sum(dim=1)  # [n]
    losses: list[Tensor] = []
    for anchor, view in enumerate(views):
        others = [v for m, v in enumerate(views) if m != anchor]
        mass: Tensor = _Combinations.apply(view, scale, *others)  # type: ignore[no-untyped-call]  # [n]
        losses.append(torch.dot(mass - own, _weights(has[anchor], view)))
    return _over_anchors(losses, has)


def chain(
    views: Sequence[Tensor],
    scale: Tensor,
    present: Sequence[Tensor] | None = None,
    orderings: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """Return the sum of M - 1 InfoNCE losses along an ordering of the views, averaged over `orderings`.

    TC = I(v_1; v_2) + I(v_1, v_2; v_3) + ...: each view [n, d] is told from other items' by the product of the views
    before it, logits scale * sum_d v_k[j][d] * prod_(m<k) v_m[i][d], symmetric, so that pairs of views are compared by
    dot products too. (M - 1) log n - loss bounds the total correlation from below. Orderings are permutations of
    0..M-1, by default the M cyclic ones. Memory O(n (block + d)), time O(n^2 d) for each term.

    `present[m]` (bool [n]) marks the items that have view m. A term is over the items that have its last view and at
    least one before it; an absent view counts as 1 in the product. A term without items is 0, and so is its part of
    the bound, which then is `ceiling("chain", n, M, present, orderings)` - loss.
    """
    _count(views)
    links = _links(len(views), orderings)
    terms = [links[link] * loss for link, loss in _linked(views, scale, links, present)]
    return torch.stack(terms).sum() if terms else scale * 0.0


def ceiling(
    kind: str,
    n: int,
    views: int,
    present: Sequence[Tensor] | None = None,
    orderings: Sequence[Sequence[int]] | None = None,
) -> float:
    """Return the highest bound in nats that a loss of this kind can show for n items with that many views.

    The bound itself is `ceiling - loss`. "n" and "pairwise" end at log n, "n_squared" and "chain" at (M - 1) log n.
    Give `present` (and the chain's `orderings`) if the loss had them: a term over fewer items ends earlier.

    >>> round(ceiling("n", 512, 3), 3), round(ceiling("chain", 512, 3), 3)
    (6.238, 12.477)
    """
    if kind not in _KINDS:
        raise ValueError(f"the kind must be one of {', '.join(_KINDS)}, found {kind!r}")
    if kind in ("n", "n_squared"):
        some = present is None or any(bool(has.any()) for has in present)
        return math.log(n) * (1 if kind == "n" else views - 1) * some
    links = _pairs(views) if kind == "pairwise" else _links(views, orderings)
    counts = {link: n if present is None else int(_comparable(link, present).sum()) for link in links}
    total = math.fsum(links[link] * math.log(count) for link, count in counts.items() if count)
    met = sum(links[link] for link, count in counts.items() if count)
    return total / met if kind == "pairwise" and met else total


_KINDS = ("n", "n_squared", "chain", "pairwise")

_Link = tuple[tuple[int, ...], int]  # views that are multiplied, and the one that they are compared with


def _pairs(count: int) -> dict[_Link, float]:
    return {((a,), b): 1.0 for a, b in itertools.combinations(range(count), 2)}


def _links(count: int, orderings: Sequence[Sequence[int]] | None) -> dict[_Link, float]:
    """Return the comparisons that the orderings ask for, each with its weight."""
    if orderings is None:
        orderings = [[(start + k) % count for k in range(count)] for start in range(count)]
    if not orderings:
        raise ValueError("wanted at least one ordering of the views, found none")
    found: Counter[_Link] = Counter()
    for order in orderings:
        if sorted(order) != list(range(count)):
            raise ValueError(f"an ordering must name each of the views 0..{count - 1} once, found {list(order)}")
        a, b = sorted(order[:2])
        found[(a,), b] += 1
        found.update((tuple(sorted(order[:k])), order[k]) for k in range(2, count))
    return {link: times / len(orderings) for link, times in found.items()}


def _comparable(link: _Link, present: Sequence[Tensor]) -> Tensor:
    before, last = link
    return present[last] & torch.stack([present[m] for m in before]).any(dim=0)  # [n]


def _linked(
    views: Sequence[Tensor], scale: Tensor, links: dict[_Link, float], present: Sequence[Tensor] | None
) -> Iterator[tuple[_Link, Tensor]]:
    """Yield each comparison that some item allows, with its InfoNCE loss over those items."""
    views, _ = _filled(views, present)
    for link in links:
        before, last = _product([views[m] for m in link[0]]), views[link[1]]  # [n, d]
        if present is not None:
            some = _comparable(link, present)
            if not some.any():
                continue
            before, last = before[some], last[some]
        yield link, info_nce(before, last, scale)


def _count(views: Sequence[Tensor]) -> int:
    n = len(views[0])
    if len(views) < 2 or n < 2:
        raise ValueError(f"wanted at least 2 views of at least 2 items, found {len(views)} views of {n} items")
    return n


def _filled(views: Sequence[Tensor], present: Sequence[Tensor] | None) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Return the views with 1, the product's neutral element, where they are absent, and who has them."""
    if present is None:
        return views, [torch.ones(len(view), dtype=torch.bool, device=view.device) for view in views]
    return [torch.where(has[:, None], view, 1.0) for view, has in zip(views, present, strict=True)], present


def _weights(has: Tensor, like: Tensor) -> Tensor:
    here = has.to(like.dtype)
    return here / here.sum().clamp(min=1)  # [n]


def _over_anchors(losses: Sequence[Tensor], has: Sequence[Tensor]) -> Tensor:
    """Return the mean over the anchors that some item has (the loss of any other is 0)."""
    anchors = torch.stack([one.any() for one in has]).sum().clamp(min=1)
    return torch.stack(list(losses)).sum() / anchors


def _product(views: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(views)).prod(dim=0) if len(views) > 1 else views[0]


def _contrast(*given: Tensor) -> Tensor:
    with torch.autocast(given[0].device.type, enabled=False):  # exponentials want float32 at least
        loss: Tensor = _Contrast.apply(*map(_wide, given))  # type: ignore[no-untyped-call]
        return loss


def _wide(given: Tensor) -> Tensor:
    return given.float() if given.dtype.itemsize < 4 else given


class _Contrast(torch.autograd.Function):
    """sum_i w_i (logsumexp_j L_ij - L_ii), L_ij = scale <a_i, b_j> off the diagonal and scale <a_i, o_i> on it.

    The gradient is computed with the value, in blocks of rows: the n x n logits are never held whole, nor kept for the
    backward pass.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, o: Tensor, b: Tensor, scale: Tensor, weights: Tensor) -> Tensor:
        n, own = len(a), (a * o).sum(dim=1)  # [n]
        total = a.new_zeros(())
        grad_a, grad_o, grad_b = torch.empty_like(a), torch.empty_like(o), torch.zeros_like(b)
        block = max(64, _BLOCK // n)
        for start in range(0, n, block):
            rows = slice(start, min(start + block, n))
            w, x = weights[rows, None], a[rows]
            at = torch.arange(len(x), device=a.device)
            p = (scale * x) @ b.T  # [block, n]
            p[at, at + start] = scale * own[rows]
            top = p.amax(dim=1, keepdim=True)
            mass = p.sub_(top).exp_().sum(dim=1, keepdim=True)
            total += torch.dot(top[:, 0] + mass[:, 0].log() - scale * own[rows], weights[rows])
            p.div_(mass)  # softmax over the row
            p[at, at + start] -= 1.0
            p.mul_(w)  # d total / d logits
            diagonal = p[at, at + start][:, None]
            p[at, at + start] = 0.0
            torch.addmm(diagonal * o[rows], p, b, out=grad_a[rows])
            grad_b.addmm_(p.T, x)
            torch.mul(diagonal, x, out=grad_o[rows])
        slope = (grad_a * a).sum()
        ctx.save_for_backward(scale * grad_a, scale * grad_o, scale * grad_b, slope)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        grad_a, grad_o, grad_b, slope = ctx.saved_tensors
        return grad * grad_a, grad * grad_o, grad * grad_b, grad * slope, None


class _Symmetric(torch.autograd.Function):
    """The mean over i of logsumexp_j L_ij / 2 + logsumexp_j L_ji / 2 - L_ii, L_ij = scale <a_i, b_j>, |L| <= `most`.

    Both directions share one exponential, which the bound keeps from overflow. The gradient is computed with the value,
    in blocks of rows, which are made anew for it when they are too many to be held.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, scale: Tensor, most: Tensor) -> Tensor:
        n, x = len(a), scale * a
        block = max(64, _BLOCK // n)
        parts = [slice(start, min(start + block, n)) for start in range(0, n, block)]

        def masses(rows: slice) -> Tensor:
            return torch.addmm(-most, x[rows], b.T).exp_()  # [block, n]

        by_row, by_column, held = torch.empty_like(a[:, 0]), torch.zeros_like(b[:, 0]), []
        for rows in parts:
            mass = masses(rows)
            by_row[rows] = mass.sum(dim=1)
            by_column += mass.sum(dim=0)
            if n * n <= _HELD:
                held.append(mass)
        own = (x * b).sum(dim=1)  # [n]
        total = ((by_row.log() + by_column.log()) / 2 + most - own).mean()
        grad_a, grad_b = torch.empty_like(a), torch.zeros_like(b)
        per_row, per_column = 0.5 / n / by_row[:, None], 0.5 / n / by_column
        for k, rows in enumerate(parts):
            p = held[k] if held else masses(rows)
            p.mul_(per_row[rows] + per_column)  # d total / d logits, but for the diagonal's -1 / n
            torch.mm(p, b, out=grad_a[rows])
            grad_b.addmm_(p.T, a[rows])
        grad_a -= b / n
        grad_b -= a / n
        slope = (grad_a * a).sum()
        ctx.save_for_backward(scale * grad_a, scale * grad_b, slope)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        grad_a, grad_b, slope = ctx.saved_tensors
        return grad * grad_a, grad * grad_b, grad * slope, None


class _Combinations(torch.autograd.Function):
    """log sum_c exp(scale <a_i, prod_m v_m[c_m]>) over all combinations c of rows of the other views, for each i [n].

    Value and gradient go through the combinations in blocks; between them only the result is kept.
    """

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, scale: Tensor, *others: Tensor) -> Tensor:
        total = torch.full_like(anchor[:, 0], -torch.inf)  # [n]
        for combination in _combinations(anchor, len(others)):
            logits = _logits(combination, anchor, scale, *others)  # [n, block]
            total = torch.logaddexp(total, logits.logsumexp(dim=1))
        ctx.save_for_backward(total, anchor, scale, *others)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        total, *given = ctx.saved_tensors
        given = [one.detach().requires_grad_() for one in given]
        sums = [torch.zeros_like(one) for one in given]
        for combination in _combinations(total, len(given) - 2):
            with torch.enable_grad():
                logits = _logits(combination, *given)
            p = (logits.detach() - total[:, None]).exp_().mul_(grad[:, None])  # [n, block]
            for into, slope in zip(sums, torch.autograd.grad(logits, given, p), strict=True):
                into += slope
        return tuple(sums)


def _combinations(rows: Tensor, others: int) -> Iterator[list[Tensor]]:
    """Yield all combinations of one row of each other view, in blocks: row numbers [block] of each."""
    n = len(rows)
    block = max(64, _BLOCK // n)
    for start in range(0, n**others, block):
        flat = torch.arange(start, min(start + block, n**others), device=rows.device)
        yield [flat // n**m % n for m in range(others)]


def _logits(combination: Sequence[Tensor], anchor: Tensor, scale: Tensor, *others: Tensor) -> Tensor:
    with torch.autocast(anchor.device.type, enabled=False):
        rows = _product([F.embedding(at, v) for at, v in zip(combination, others, strict=True)])  # [block, d]
        return anchor @ (scale * rows).T  # [n, block]


_BLOCK = 1 << 19  # logits worked on at once
_HELD = 1 << 24  # logits held at once
_SPREAD = 40.0  # the furthest from 0 that logits may be if exp(-80), the least share of the largest, is still a float32
