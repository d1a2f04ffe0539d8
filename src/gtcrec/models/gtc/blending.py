"""A blend of scores: each part standardised by user over all items, and weights of the parts from held-out items."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from gtcrec.ops.scorers import DotScorer
from gtcrec.types import Floats, Interactions, Ints, Scorer

__all__ = ["Blend", "InnerPart", "choose_weights", "mean_ndcg", "standard_scores"]

_TINY = 1e-12
_STEPS = 10  # of the grid: weights are multiples of 1 / _STEPS that sum to 1
_MOST_USERS = 2000  # that choose the weights
_LIST = 20  # the lists' length
_POOL = 150  # best items of each part among which a blend finds its own best
_BLOCK_USERS = 256


def standard_scores(scores: Tensor, known: Tensor | None = None) -> Tensor:
    """Return scores [b, n] less the mean of the `known` items' scores [b, n_items], over their standard deviation.

    Without `known` they are the known ones. Scores without spread become 0.
    """
    known = scores if known is None else known
    spread = known.std(dim=1, correction=0, keepdim=True)
    return torch.where(spread > _TINY, (scores - known.mean(dim=1, keepdim=True)) / spread.clamp(min=_TINY), 0.0)


@dataclass(frozen=True, eq=False)
class InnerPart:
    """A part whose score is an inner product, standardised: `scaled_users` [b, d] times `items` [n_items, d].

    Items are centred by `mean` [d], users divided by the standard deviation of their scores. `blocks` names groups of
    neighbouring columns, `widths` counts them.
    """

    scaled_users: Tensor
    items: Tensor
    mean: Tensor
    blocks: tuple[str, ...]
    widths: list[int]

    @classmethod
    def standardized(cls, users: Tensor, items: Tensor, blocks: list[tuple[str, int]]) -> "InnerPart":
        """Standardise the products of `users` [b, d] and `items` [n_items, d]; no score is computed for it."""
        mean = items.mean(dim=0)
        centred = items - mean
        covariance = centred.T @ centred / len(items)
        spread = ((users @ covariance) * users).sum(dim=1, keepdim=True).clamp(min=0).sqrt()
        scaled = torch.where(spread > _TINY, users / spread.clamp(min=_TINY), 0.0)
        return cls(scaled, centred, mean, tuple(name for name, _ in blocks), [width for _, width in blocks])

    def scorer(self, index: Tensor) -> Tensor:
        """Return the standardised scores [b, n_items] of users int64 [b]."""
        return F.embedding(index.to(self.scaled_users.device), self.scaled_users) @ self.items.T


@dataclass(frozen=True, eq=False)
class Blend:
    """Users -> the weighted sum of their parts' standardised scores: one inner product, and the linear part."""

    dot: DotScorer | None
    linear: Scorer | None
    linear_weight: float

    @classmethod
    def join(cls, parts: Mapping[str, InnerPart], weights: Mapping[str, float], linear: Scorer | None) -> "Blend":
        """Join the inner products, each with its weight folded into its users' vectors."""
        dot = None
        if parts:
            users = torch.cat([weights[name] * part.scaled_users for name, part in parts.items()], dim=1)
            dot = DotScorer(users, torch.cat([part.items for part in parts.values()], dim=1))
        return cls(dot, linear, weights["linear"])

    def __call__(self, index: Tensor) -> Tensor:
        """Return the scores [b, n_items] of users int64 [b]."""
        scores = None if self.dot is None else self.dot(index)
        if self.linear is None:
            assert scores is not None
            return scores
        linear = self.linear(index)
        linear = self.linear_weight * standard_scores(linear if scores is None else linear.to(scores.device))
        return linear if scores is None else scores.add_(linear)


def choose_weights(parts: Mapping[str, Scorer], train: Interactions, valid: Interactions) -> dict[str, float]:
    """Return weights of the parts, which sum to 1, with the best ndcg@20 of held-out items.

    The scorers' scores are standardised by user. At most 2,000 users choose, drawn once. A blend finds its best items
    among the 150 best of each part. Of equal weights the first of the grid is taken, which is the more even one.
    """
    names = list(parts)
    grid = np.array(sorted(_simplex(len(names)), key=lambda one: (sum(v * v for v in one), one)), np.float32) / _STEPS
    totals = np.zeros(len(grid))
    for best in _candidate_blocks([parts[name] for name in names], train, valid):
        totals += [best.ndcg(torch.from_numpy(weights)).sum() for weights in grid]
    return dict(zip(names, grid[int(np.argmax(totals))].tolist(), strict=True))


def mean_ndcg(scorer: Scorer, train: Interactions, valid: Interactions) -> float:
    """Return the mean ndcg@20 of held-out items, over the users that `choose_weights` takes."""
    values = [best.ndcg(torch.ones(1)) for best in _candidate_blocks([scorer], train, valid)]
    return float(np.mean(np.concatenate(values))) if values else 0.0


def _candidate_blocks(parts: Sequence[Scorer], train: Interactions, valid: Interactions) -> Iterator["_Candidates"]:
    users = np.flatnonzero((valid.user_counts > 0) & (train.user_counts > 0))
    if len(users) > _MOST_USERS:
        users = np.sort(np.random.default_rng(0).choice(users, _MOST_USERS, replace=False))
    seen, relevant = train.matrix(), valid.matrix()
    for start in range(0, len(users), _BLOCK_USERS):
        some = users[start : start + _BLOCK_USERS]
        yield _Candidates.gather(parts, some, seen[some], relevant[some])


def _simplex(n: int, left: int = _STEPS) -> Iterator[tuple[int, ...]]:
    """All tuples of n numbers from 0 on that sum to `left`."""
    if n == 1:
        yield (left,)
        return
    for first in range(left + 1):
        yield from ((first, *rest) for rest in _simplex(n - 1, left - first))


@dataclass(frozen=True, eq=False)
class _Candidates:
    """The best items of some users by each part: standardised scores [n_parts, b, m] and which are relevant [b, m]."""

    scores: Tensor
    relevant: Tensor
    counts: Tensor  # relevant items of each user, [b]

    @classmethod
    def gather(cls, parts: Sequence[Scorer], users: Ints, seen: csr_array, relevant: csr_array) -> "_Candidates":
        index, mask = torch.from_numpy(users), torch.from_numpy(seen.toarray() > 0)
        targets = torch.from_numpy(relevant.toarray() > 0)
        scores = [part(index).float().cpu() for part in parts]
        n = min(_POOL, mask.shape[1])
        best = [one.masked_fill(mask, -torch.inf).topk(n, dim=1).indices for one in scores]
        items = torch.cat(best, dim=1).sort(dim=1).values
        again = F.pad(items[:, 1:] == items[:, :-1], (1, 0))  # an item that two parts list counts once
        out = again | mask.gather(1, items)
        stacked = torch.stack([one.gather(1, items).masked_fill(out, -torch.inf) for one in scores])
        return cls(stacked, targets.gather(1, items) & ~out, targets.sum(dim=1))

    def ndcg(self, weights: Tensor) -> Floats:
        """Each user's ndcg@20 of the blend with weights [n_parts], [b]."""
        used = [place for place, weight in enumerate(weights.tolist()) if weight]  # 0 times -inf is no score
        blend = torch.einsum("p,pbm->bm", weights[used], self.scores[used])
        top = blend.topk(min(_LIST, blend.shape[1]), dim=1).indices
        discounts = 1 / torch.arange(2, _LIST + 2).double().log2()
        gained = self.relevant.gather(1, top).double() @ discounts[: top.shape[1]]
        ideal = discounts.cumsum(dim=0)[self.counts.clamp(max=_LIST) - 1]
        return (gained / ideal).numpy()
