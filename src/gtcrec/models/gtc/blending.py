"""A blend of scores: each part standardised by user over all items, and weights of the parts from held-out items."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gtcrec.ops.scorers import SparseScorer
from gtcrec.ops.topk import seen_places, select_best
from gtcrec.types import Floats, Interactions, Ints, Scorer

__all__ = ["Blend", "InnerPart", "choose_weights", "mean_ndcg", "remember_scores", "standard_scores"]

_TINY = 1e-12
_STEPS = 10  # of the grid: weights are multiples of 1 / _STEPS that sum to 1
_GRID_PARTS = 3  # of which all combinations are tried
_MOST_USERS = 2000  # that choose the weights
_LIST = 20  # the lists' length
_POOL = 150  # best items of each part among which a blend finds its own best
_BLOCK_USERS = 256
_BLOCK_SCORES = 1 << 24  # of a part at once, and of all choosing users if they are to be remembered


def standard_scores(scores: Tensor, known: Tensor | None = None) -> Tensor:
    """Return scores [b, n] less the mean of the `known` items' scores [b, n_items], over their standard deviation.

    Without `known` they are the known ones. Scores without spread become 0.
    """
    mean = (scores if known is None else known).mean(dim=1, keepdim=True)
    centred = scores - mean
    others = centred if known is None else known - mean
    spread = torch.linalg.vector_norm(others, dim=1, keepdim=True) / math.sqrt(others.shape[1])  # std() takes 40 times
    return centred.mul_(_inverse(spread))


@dataclass(frozen=True, eq=False)
class InnerPart:
    """A part whose score is an inner product, standardised: `scaled` users [b, d] times `items` [n_items, d].

    Items are centred by `mean` [d]. Their `covariance` [d, d] says how far a user's scores spread. `blocks` names
    groups of neighbouring columns, `widths` counts them.
    """

    users: Tensor
    items: Tensor
    mean: Tensor
    covariance: Tensor
    blocks: tuple[str, ...]
    widths: list[int]

    @classmethod
    def standardized(cls, users: Tensor, items: Tensor, blocks: list[tuple[str, int]]) -> "InnerPart":
        """Standardise the products of `users` [n_users, d] and `items` [n_items, d]; no score is computed for it."""
        mean = items.mean(dim=0)
        centred = items - mean
        covariance = centred.T @ centred / len(items)
        return cls(users, centred, mean, covariance, tuple(name for name, _ in blocks), [width for _, width in blocks])

    def scaled(self, index: Tensor) -> Tensor:
        """Return the vectors [b, d] of users int64 [b] over the standard deviation of their scores."""
        users = F.embedding(index.to(self.users.device), self.users)
        spread = ((users @ self.covariance) * users).sum(dim=1, keepdim=True).clamp(min=0).sqrt()
        return users * _inverse(spread)

    def scorer(self, index: Tensor) -> Tensor:
        """Return the standardised scores [b, n_items] of users int64 [b]."""
        return self.scaled(index) @ self.items.T


@dataclass(frozen=True, eq=False)
class Blend:
    """Users -> the weighted sum of their parts' standardised scores: one inner product, and the linear part.

    `items` [n_items, d] are those of all `parts`, side by side.
    """

    parts: tuple[tuple[float, InnerPart], ...]
    items: Tensor
    linear: Scorer | None
    linear_weight: float

    @classmethod
    def join(cls, parts: Mapping[str, InnerPart], weights: Mapping[str, float], linear: Scorer | None) -> "Blend":
        """Join the inner products, each with its weight."""
        weighted = tuple((weights[name], part) for name, part in parts.items())
        items = torch.cat([part.items for part in parts.values()], dim=1) if parts else torch.zeros(0, 0)
        return cls(weighted, items, linear, weights["linear"])

    def __call__(self, index: Tensor) -> Tensor:
        """Return the scores [b, n_items] of users int64 [b]."""
        if not self.parts:
            assert self.linear is not None
            return self.linear_weight * standard_scores(self.linear(index))
        scores = self._scaled(index) @ self.items.T
        self._add_linear(index, scores)
        return scores

    def into(self, index: Tensor, out: Tensor) -> None:
        """Write the scores to `out` [b, n_items]."""
        if not self.parts:
            out.copy_(self(index))
            return
        torch.mm(self._scaled(index), self.items.T, out=out)
        self._add_linear(index, out)

    def _scaled(self, index: Tensor) -> Tensor:
        return torch.cat([weight * part.scaled(index) for weight, part in self.parts], dim=1)

    def _add_linear(self, index: Tensor, scores: Tensor) -> None:
        """Add the standardised linear part; of sparse scores the zeros are one number a user."""
        if self.linear is None:
            return
        if not isinstance(self.linear, SparseScorer):
            scores.add_(standard_scores(self.linear(index).to(scores.device)), alpha=self.linear_weight)
            return
        found, n = self.linear.rows(index), scores.shape[1]
        row = np.repeat(np.arange(len(index)), np.diff(found.indptr))
        values = found.data.astype(np.float64)
        sums, squares = (np.bincount(row, one, minlength=len(index)) / n for one in (values, values**2))
        spread = np.sqrt(np.maximum(squares - sums**2, 0.0))
        scale = np.where(spread > _TINY, self.linear_weight / np.maximum(spread, _TINY), 0.0)
        zeros, entries = (torch.from_numpy(one.astype(np.float32)) for one in (-sums * scale, values * scale[row]))
        scores.add_(zeros[:, None].to(scores))
        places = torch.from_numpy(row * n + found.indices)
        scores.view(-1).index_add_(0, places.to(scores.device), entries.to(scores))


def _inverse(spread: Tensor) -> Tensor:
    """1 / spread, 0 where there is none."""
    return torch.where(spread > _TINY, 1 / spread.clamp(min=_TINY), 0.0)


def choose_weights(parts: Mapping[str, Scorer], train: Interactions, valid: Interactions) -> dict[str, float]:
    """Return weights of the parts, which sum to 1, with the best ndcg@20 of held-out items.

    The scorers' scores are standardised by user. At most 2,000 users choose, drawn once. A blend finds its best items
    among the 150 best of each part. The first three share a grid; each further part gets what share of the whole is
    best, at the cost of the others alike. Of equal weights the first is taken: the more even one, the smaller share.
    """
    names = list(parts)
    blocks = list(_candidate_blocks([parts[name] for name in names], _POOL, train, valid))

    def gain(weights: Floats) -> float:
        return sum(best.gains(torch.from_numpy(weights)) for best in blocks)

    n = min(len(names), _GRID_PARTS)
    grid = np.array(sorted(_simplex(n), key=lambda one: (sum(v * v for v in one), one)), np.float32) / _STEPS
    chosen = max(np.pad(grid, ((0, 0), (0, len(names) - n))), key=gain)
    for place in range(n, len(names)):
        alone = np.eye(len(names), dtype=np.float32)[place]
        shares = np.arange(_STEPS + 1, dtype=np.float32) / _STEPS
        chosen = max([(1 - share) * chosen + share * alone for share in shares], key=gain)
    return dict(zip(names, chosen.tolist(), strict=True))


def mean_ndcg(scorer: Scorer, train: Interactions, valid: Interactions) -> float:
    """Return the mean ndcg@20 of held-out items, over the users that `choose_weights` takes."""
    total, users = 0.0, 0
    for best in _candidate_blocks([scorer], _LIST, train, valid):
        total, users = total + best.gains(torch.ones(1)), users + best.users
    return total / max(users, 1)


def remember_scores(scorer: Scorer, n_items: int) -> Scorer:
    """Return the scorer of one that is asked for the same blocks of users twice; of large catalogues it forgets."""
    if _MOST_USERS * n_items > _BLOCK_SCORES:
        return scorer
    found: dict[tuple[int, ...], Tensor] = {}

    def remembered(index: Tensor) -> Tensor:
        key = tuple(index.tolist())
        if key not in found:
            found[key] = scorer(index)
        return found[key]

    return remembered


def _candidate_blocks(
    parts: Sequence[Scorer], pool: int, train: Interactions, valid: Interactions
) -> Iterator["_Candidates"]:
    users = np.flatnonzero((valid.user_counts > 0) & (train.user_counts > 0))
    if len(users) > _MOST_USERS:
        users = np.sort(np.random.default_rng(0).choice(users, _MOST_USERS, replace=False))
    size = max(1, min(_BLOCK_USERS, _BLOCK_SCORES // train.n_items))
    for start in range(0, len(users), size):
        yield _Candidates.gather(parts, pool, users[start : start + size], train, valid)


def _simplex(n: int, left: int = _STEPS) -> Iterator[tuple[int, ...]]:
    """All tuples of n numbers from 0 on that sum to `left`."""
    if n == 1:
        yield (left,)
        return
    for first in range(left + 1):
        yield from ((first, *rest) for rest in _simplex(n - 1, left - first))


@dataclass(frozen=True, eq=False)
class _Candidates:
    """The best items by each part of those users whose held-out items are among them.

    Standardised scores [n_parts, b, m], ascending by item and -inf in places that are left over; the row and column of
    each held-out item [r]; what it gains at rank 1 to 20, as a share of the ideal list of its user, [r, 20].
    """

    users: int  # those who gain nothing included
    scores: Tensor
    row: Tensor
    column: Tensor
    shares: Tensor

    @classmethod
    def gather(
        cls, parts: Sequence[Scorer], pool: int, users: Ints, train: Interactions, valid: Interactions
    ) -> "_Candidates":
        index, seen = torch.from_numpy(users), torch.from_numpy(seen_places(train, users))
        scores = [part(index).float().cpu() for part in parts]
        for one in scores:
            one.view(-1).index_fill_(0, seen, -torch.inf)
        items = torch.cat([select_best(one, pool)[1] for one in scores], dim=1).sort(dim=1).values
        out = F.pad(items[:, 1:] == items[:, :-1], (1, 0)) | (items < 0)  # an item that two parts list counts once
        held, counts = torch.from_numpy(seen_places(valid, users)), torch.from_numpy(valid.user_counts[users])
        is_held = torch.isin(torch.arange(len(items))[:, None] * train.n_items + items, held) & ~out
        some = is_held.any(dim=1).nonzero()[:, 0]
        items, out = items[some], out[some]
        best = [one[some].gather(1, items.clamp(min=0)).masked_fill_(out, -torch.inf) for one in scores]
        row, column = is_held[some].nonzero(as_tuple=True)
        discounts = 1 / torch.arange(2, _LIST + 2).double().log2()
        ideal = discounts.cumsum(dim=0)[counts[some].clamp(max=_LIST) - 1]
        return cls(len(users), torch.stack(best), row, column, discounts / ideal[row, None])

    def gains(self, weights: Tensor) -> float:
        """The sum of the users' ndcg@20 of the blend with weights [n_parts]; of equal scores the first item leads."""
        used = [place for place, weight in enumerate(weights.tolist()) if weight]  # 0 times -inf is no score
        blend = torch.einsum("p,pbm->bm", weights[used], self.scores[used])
        own = blend[self.row, self.column][:, None]
        others = blend[self.row]
        before = torch.arange(others.shape[1]) < self.column[:, None]
        rank = ((others > own) | ((others == own) & before)).sum(dim=1)
        listed = rank < _LIST
        return float(self.shares[listed, rank[listed]].sum())
