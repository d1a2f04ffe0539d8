"""Scoring by inner product or by sparse weights, shared by the models whose score is one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from gtcrec.ops import topk as ranking
from gtcrec.ops.sharded import _ALONE, join_rows, lookup, shard_rows
from gtcrec.runtime.process_group import ProcessGroup, gather
from gtcrec.types import Batch, Interactions, Ints, TopK

__all__ = ["DotScorer", "RerankingScorer", "ShardedScorer", "SparseScorer", "dot_scorer", "gather_batch"]


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


def gather_batch(batch: Batch, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
class RerankingScorer:
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


@dataclass(frozen=True, eq=False)
class ShardedScorer:
    """Users -> their inner products with all items, of which each worker scores its own; the same in all workers.

    `users` [own, d] and `items` [own, d] are this worker's rows of tables of n_users and n_items rows.
    """

    users: Tensor
    items: Tensor
    n_users: int
    n_items: int
    workers: ProcessGroup

    def __call__(self, index: Tensor) -> Tensor:
        """Return the scores [b, n_items] of users int64 [b]."""
        parts = gather(self._own_scores(index).T, self.workers)  # [own, b] of each worker
        return join_rows([shard_rows(part, rank, len(parts), _ALONE) for rank, part in enumerate(parts)]).T

    def recommend(self, users: Ints, k: int, exclude: Sequence[Interactions], block: int) -> TopK:
        """Do what `ranking.recommend` does: each worker ranks its own items, and the lists are merged."""
        block = block or ranking.block_users(self.n_items, self.items.device.type)  # as many calls in each worker
        mine = [self._own_pairs(pairs, users) for pairs in exclude]
        found = ranking.recommend(self._own_scores, users, k, mine, block)
        size, rank = self.workers.size, self.workers.rank
        items = np.where(found.items >= 0, found.items * size + rank, -1)
        both = (torch.from_numpy(side.T.copy()) for side in (items, found.scores))  # [k, b]
        items, scores = (torch.cat(gather(side, self.workers)).T.numpy() for side in both)  # [b, W k]
        order = np.lexsort((items, -scores), axis=1)[:, :k]  # best first, ties by ascending item
        return TopK(users, *(np.take_along_axis(side, order, axis=1) for side in (items, scores)))

    def _own_scores(self, index: Tensor) -> Tensor:
        rows = lookup(self.users, self.n_users, index.to(self.users.device), self.workers)
        return rows @ self.items.T

    def _own_pairs(self, pairs: Interactions, users: Ints) -> Interactions:
        """The pairs of these users with this worker's items, which are counted as it holds them."""
        wanted = np.zeros(pairs.n_users, dtype=np.bool_)
        wanted[users] = True
        at = (pairs.items % self.workers.size == self.workers.rank) & wanted[pairs.users]
        return Interactions(pairs.users[at], pairs.items[at] // self.workers.size, pairs.n_users, len(self.items))
