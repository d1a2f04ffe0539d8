"""Scoring by inner product or by sparse weights, shared by the models whose score is one."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from gtcrec.types import Batch

__all__ = ["DotScorer", "Reranked", "SparseScorer", "dot_scorer", "of_batch"]


@dataclass(frozen=True, eq=False)
class DotScorer:
    """Users -> their inner products with all items; `users` [n_users, d], `items` [n_items, d]."""

    users: Tensor
    items: Tensor

    def __call__(self, index: Tensor) -> Tensor:
        """Return the scores [b, n_items] of users int64 [b]."""
        return self._rows(index) @ self.items.T

    def into(self, index: Tensor, out: Tensor) -> None:
        """Write the scores to `out` [b, n_items]."""
        torch.mm(self._rows(index), self.items.T, out=out)

    def _rows(self, index: Tensor) -> Tensor:
        return F.embedding(index.to(self.users.device), self.users)


def dot_scorer(users: Tensor, items: Tensor) -> DotScorer:
    """Return the scorer of user vectors [n_users, d] and item vectors [n_items, d]; it keeps its own copies."""
    return DotScorer(users.detach().clone(), items.detach().clone())


def of_batch(batch: Batch, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch's rows of `users` [n_users, d], and of `items` [n_items, d] liked and not liked, [b, d] each.

    All items are gathered at once, so that they make one gradient of `items`.
    """
    liked, others = F.embedding(torch.cat([batch.positives, batch.negatives]), items).chunk(2)
    return F.embedding(batch.users, users), liked, others


@dataclass(frozen=True, eq=False)
class SparseScorer:
    """Users -> their rows of `users` [n_users, m] times `weights` [m, n_items], both sparse and not to be changed."""

    users: csr_array
    weights: csr_array

    def __call__(self, index: Tensor) -> Tensor:
        """Return the scores [b, n_items] of users int64 [b]."""
        return self.of(self.users[index.cpu().numpy()])

    def of(self, rows: csr_array) -> Tensor:
        """Return the scores [b, n_items] of users whose rows of `users` would be these [b, m]."""
        return torch.from_numpy((rows @ self.weights).toarray())


@dataclass(frozen=True, eq=False)
class Reranked:
    """Users -> the scores of `folded`, whose best `n` items that a user has not met change places by another score.

    `told(users [b], items [b, n]) -> [b, n]` is that score; the n items keep their n scores among themselves, so that
    they stay the best. `met` is a CSR tensor [n_users, n_items] whose entries are the items that users have met.
    """

    folded: DotScorer
    told: Callable[[Tensor, Tensor], Tensor]
    met: Tensor
    n: int

    def __call__(self, index: Tensor) -> Tensor:
        """Return the scores [b, n_items] of users int64 [b]."""
        scores = self.folded(index)
        for rows in torch.split(torch.arange(len(index)), _RERANKED):
            users = index[rows].to(scores.device)
            best = scores[rows].masked_fill(self._met(users), -torch.inf).topk(min(self.n, scores.shape[1]))
            kept = best.values.isfinite()  # all but what users have met, should they have met nearly all
            told = self.told(users, best.indices).masked_fill(~kept, -torch.inf)  # which stays last
            items = best.indices.gather(1, told.argsort(dim=1, descending=True, stable=True))
            part = scores[rows]
            scores[rows] = part.scatter(1, items, torch.where(kept, best.values, part.gather(1, items)))
        return scores

    def _met(self, users: Tensor) -> Tensor:
        """Which items the users have met, bool [b, n_items]."""
        start, columns = self.met.crow_indices().long(), self.met.col_indices().long()
        counts = start[users + 1] - start[users]
        rows = torch.arange(len(users), device=users.device).repeat_interleave(counts)
        places = torch.arange(len(rows), device=users.device) - (counts.cumsum(0) - counts)[rows] + start[users][rows]
        met = torch.zeros(len(users), self.met.shape[1], dtype=torch.bool, device=users.device)
        met[rows, columns[places]] = True
        return met


_RERANKED = 64  # users at once: all contents of all their items are held
