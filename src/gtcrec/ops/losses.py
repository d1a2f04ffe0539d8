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
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from gtcrec.ops import _contrastive

__all__ = [
    "L2_FORMS",
    "MOST_COMBINATIONS",
    "bpr",
    "ceiling",
    "chain",
    "cosine_info_nce",
    "derangement",
    "info_nce",
    "log_sum_exp",
    "n_squared",
    "pairwise",
    "partial_log_sum_exp",
    "squared_norm",
    "summed_norm",
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


def summed_norm(*rows: Tensor) -> Tensor:
    """Return the sum of the L2 norms, not squared, of several [b, d] tensors, per row of the batch.

    A tensor has one norm, that of all its entries: what MMRec (Zhou 2023, arXiv 2302.03497) takes for regularisation.

    >>> summed_norm(torch.tensor([[3.0], [4.0]]), torch.zeros(2, 1)).item()
    2.5
    """
    return torch.stack([one.norm() for one in rows]).sum() / len(rows[0])


L2_FORMS: Mapping[str, Callable[..., Tensor]] = {"half_squares": squared_norm, "norms": summed_norm}
"""What a model's setting `reg_form` names."""


def info_nce(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """Return the symmetric InfoNCE loss of paired rows a, b [n, d], logits scale * <a_i, b_j>.

    In blocks of rows, which are held for the gradient if all of them are at most 64 MiB (4,096 rows).
    """
    a, b, scale = map(_at_least_float32, (a, b, scale))
    with torch.autocast(a.device.type, enabled=False):  # exponentials want float32 at least
        with torch.no_grad():
            bound = scale.abs() * a.norm(dim=1).max() * b.norm(dim=1).max()  # no logit is further from 0
        if bound <= _contrastive.SPREAD:
            loss: Tensor = _contrastive.FusedSymmetricInfoNCE.apply(a, b, scale, bound)  # type: ignore[no-untyped-call]
            return loss
    weights = torch.full((len(a),), 1 / len(a), dtype=a.dtype, device=a.device)
    return (_fused_info_nce(a, b, b, scale, weights) + _fused_info_nce(b, a, a, scale, weights)) / 2


def cosine_info_nce(a: Tensor, b: Tensor, temperature: float, counts: Tensor | None = None) -> Tensor:
    """Return the mean over rows i of -ln (exp(cos(a_i, b_i) / tau) / sum_j n_j exp(cos(a_i, b_j) / tau)), a, b [n, d].

    Row i counts n_i = `counts[i]` times, as an anchor and among the others (int64 [n], 0: not at all), by default once;
    0 where no row counts. `temperature` tau is at least 0.03, so that each exponential is within float32.
    """
    if counts is not None:
        at = counts.nonzero().flatten()
        if not len(at):
            return a.sum() * 0.0
        a, b, counts = F.embedding(at, a), F.embedding(at, b), counts[at]
    with torch.autocast(a.device.type, enabled=False):  # exponentials want float32
        a, b = F.normalize(a.float(), dim=1) / temperature, F.normalize(b.float(), dim=1)
        bound = a.new_tensor(1 / temperature)  # of the logits: no cosine is above 1
        times = torch.ones_like(bound).expand(len(a)) if counts is None else counts.float()
        masses = [torch.addmm(-bound, rows, b.T).exp_() @ times for rows in torch.split(a, _ROWS)]
        loss = torch.cat(masses).log() + bound - (a * b).sum(dim=1)  # [n]
        return torch.dot(loss, times) / times.sum()


def log_sum_exp(a: Tensor, b: Tensor, weights: Tensor, present: Tensor | None = None) -> Tensor:
    """Return sum_i w_i ln sum_j exp <a_i, b_j>: what a contrast of a few rows a [k, d] among all of b [n, d] sums up.

    `weights` [k] are w. `present` (bool [n]) marks the j that take part, by default all. Without any of them w must
    be 0, and so is the sum. Logits [k, n] are made in blocks and not kept: memory O((k + n) d + block), time O(k n d).

    >>> round(log_sum_exp(torch.zeros(2, 3), torch.zeros(4, 3), torch.ones(2)).exp().item(), 3)  # 4 times 4
    16.0
    """
    with torch.autocast(a.device.type, enabled=False):  # exponentials want float32 at least
        a, b = _at_least_float32(a), _at_least_float32(b)
        shift = b.new_zeros(len(b))
        if present is not None:
            shift = shift.masked_fill(~present, -torch.inf)
        found: Tensor = _contrastive.FusedLogSumExp.apply(a, b, shift, weights.to(a.dtype))  # type: ignore[no-untyped-call]
        return found


def partial_log_sum_exp(
    a: Tensor, b: Tensor, constants: Tensor, shift: Tensor, weights: Tensor, left_out: Tensor
) -> Tensor:
    """Return sum_i w_i ln sum_j exp(s_j + <a_i, [b_j, c_j]>), each row i over the j that are not left out of it.

    a [k, d + e], b [n, d], `constants` c [n, e], `shift` s [n], `weights` w [k]; `left_out` int64 names places of the
    matrix [k, n] laid end to end, ascending. Memory and time as of `log_sum_exp`.
    """
    with torch.autocast(a.device.type, enabled=False):
        floats = (_at_least_float32(x) for x in (a, b, constants, shift, weights))
        found: Tensor = _contrastive.FusedPartialLogSumExp.apply(*floats, left_out)  # type: ignore[no-untyped-call]
        return found


def pairwise(views: Sequence[Tensor], scale: Tensor, present: Sequence[Tensor] | None = None) -> Tensor:
    """Return the mean InfoNCE loss over all pairs of views [n, d], each over the items that have both (bool [n]).

    0 where no item has two views.
    """
    terms = [loss for _, loss in _link_losses(views, scale, _pair_chain_links(len(views)), present)]
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
    tuple is set against n - 1 tuples of the other views drawn independently: the first of them stays in
    place and view m of the rest is permuted by `orders[m]` (int64 [n], without fixed point), so that no item
    meets its own tuple as a negative. logits_ij = scale * sum_d a_i[d] * prod_m v_m[j_m][d], cross-entropy,
    averaged over anchors. Two views give the symmetric InfoNCE. Memory O(n d), time O(n^2 d).

    `present[m]` (bool [n]) marks the items that have view m: an absent view counts as 1 in the product, and
    is no anchor.
    """
    _check_views(views)
    views, has = _fill_absent(views, present)
    losses: list[Tensor] = []
    for anchor, view in enumerate(views):
        first, *rest = (m for m in range(len(views)) if m != anchor)
        others = _contrastive.view_product([views[m] for m in (first, *rest)])  # [n, d]
        negatives = _contrastive.view_product([views[first], *(views[m][orders[m]] for m in rest)])  # [n, d]
        losses.append(_fused_info_nce(view, others, negatives, scale, _anchor_weights(has[anchor], view)))
    return _mean_over_anchors(losses, has)


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
    n = _check_views(views)
    if n ** (len(views) - 1) > MOST_COMBINATIONS:
        raise ValueError(
            f"expected at most {MOST_COMBINATIONS} combinations of the other views' rows, "
            f"found {n}^{len(views) - 1} from {n} items of {len(views)} views: take fewer items or another alignment"
        )
    views, has = _fill_absent([_at_least_float32(view) for view in views], present)
    scale = _at_least_float32(scale)
    positive = scale * _contrastive.view_product(views).sum(dim=1)  # [n]
    losses: list[Tensor] = []
    for anchor, view in enumerate(views):
        others = [v for m, v in enumerate(views) if m != anchor]
        mass: Tensor = _contrastive.FusedCombinationsLogSumExp.apply(view, scale, *others)  # type: ignore[no-untyped-call]  # [n]
        losses.append(torch.dot(mass - positive, _anchor_weights(has[anchor], view)))
    return _mean_over_anchors(losses, has)


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
    _check_views(views)
    links = _chain_links(len(views), orderings)
    terms = [links[link] * loss for link, loss in _link_losses(views, scale, links, present)]
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
    links = _pair_chain_links(views) if kind == "pairwise" else _chain_links(views, orderings)
    counts = {link: n if present is None else int(_items_of_link(link, present).sum()) for link in links}
    total = math.fsum(links[link] * math.log(count) for link, count in counts.items() if count)
    weight = sum(links[link] for link, count in counts.items() if count)
    return total / weight if kind == "pairwise" and weight else total


_ROWS = 256  # rows of logits at once
_KINDS = ("n", "n_squared", "chain", "pairwise")

_Link = tuple[tuple[int, ...], int]  # views that are multiplied, and the one that they are compared with


def _pair_chain_links(count: int) -> dict[_Link, float]:
    return {((a,), b): 1.0 for a, b in itertools.combinations(range(count), 2)}


def _chain_links(count: int, orderings: Sequence[Sequence[int]] | None) -> dict[_Link, float]:
    """Return the comparisons that the orderings ask for, each with its weight."""
    if orderings is None:
        orderings = [[(start + k) % count for k in range(count)] for start in range(count)]
    if not orderings:
        raise ValueError("expected at least one ordering of the views, found none")
    found: Counter[_Link] = Counter()
    for order in orderings:
        if sorted(order) != list(range(count)):
            raise ValueError(f"an ordering must name each of the views 0..{count - 1} once, found {list(order)}")
        a, b = sorted(order[:2])
        found[(a,), b] += 1
        found.update((tuple(sorted(order[:k])), order[k]) for k in range(2, count))
    return {link: times / len(orderings) for link, times in found.items()}


def _items_of_link(link: _Link, present: Sequence[Tensor]) -> Tensor:
    before, last = link
    return present[last] & torch.stack([present[m] for m in before]).any(dim=0)  # [n]


def _link_losses(
    views: Sequence[Tensor], scale: Tensor, links: dict[_Link, float], present: Sequence[Tensor] | None
) -> Iterator[tuple[_Link, Tensor]]:
    """Yield each comparison that some item allows, with its InfoNCE loss over those items."""
    views, _ = _fill_absent(views, present)
    for link in links:
        before, last = _contrastive.view_product([views[m] for m in link[0]]), views[link[1]]  # [n, d]
        if present is not None:
            some = _items_of_link(link, present)
            if not some.any():
                continue
            before, last = before[some], last[some]
        yield link, info_nce(before, last, scale)


def _check_views(views: Sequence[Tensor]) -> int:
    n = len(views[0])
    if len(views) < 2 or n < 2:
        raise ValueError(f"expected at least 2 views of at least 2 items, found {len(views)} views of {n} items")
    return n


def _fill_absent(
    views: Sequence[Tensor], present: Sequence[Tensor] | None
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Return the views with 1, the product's neutral element, where they are absent, and who has them."""
    if present is None:
        return views, [torch.ones(len(view), dtype=torch.bool, device=view.device) for view in views]
    return [torch.where(has[:, None], view, 1.0) for view, has in zip(views, present, strict=True)], present


def _anchor_weights(has: Tensor, like: Tensor) -> Tensor:
    here = has.to(like.dtype)
    return here / here.sum().clamp(min=1)  # [n]


def _mean_over_anchors(losses: Sequence[Tensor], has: Sequence[Tensor]) -> Tensor:
    """Return the mean over the anchors that some item has (the loss of any other is 0)."""
    anchors = torch.stack([one.any() for one in has]).sum().clamp(min=1)
    return torch.stack(list(losses)).sum() / anchors


def _fused_info_nce(*tensors: Tensor) -> Tensor:
    with torch.autocast(tensors[0].device.type, enabled=False):  # exponentials want float32 at least
        loss: Tensor = _contrastive.FusedInfoNCE.apply(*map(_at_least_float32, tensors))  # type: ignore[no-untyped-call]
        return loss


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype.itemsize < 4 else x
