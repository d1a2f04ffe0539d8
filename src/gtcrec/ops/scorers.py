"""Scoring by inner product or by sparse weights, shared by the models whose score is one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from gtcrec.ops import topk
from gtcrec.ops.sharded import join_rows, lookup, shard_rows
from gtcrec.runtime.process_group import SINGLE_PROCESS, ProcessGroup, gather
from gtcrec.types import Batch, Interactions, Ints, TopK

__all__ = ["DotScorer", "RerankingScorer", "ShardedScorer", "SparseScorer", "dot_scorer", "gather_batch"]


@dataclass(frozen=True, eq=False)
class DotScorer:
    """Users -> their inner products with all items; `users` [n_users, d], `items` [n_items, d]."""

    users: Tensor
    items: Tensor

    def __call__(self, index: Tensor) -> Tensor:
        """Return the scores [b, n_items] of users int64 [b]."""
        return self._user_rows(index) @ self.items.T

    def into(self, index: Tensor, out: Tensor) -> None:
        """Write the scores to `out` [b, n_items]."""
        torch.mm(self._user_rows(index), self.items.T, out=out)

    def _user_rows(self, index: Tensor) -> Tensor:
        return F.embedding(index.to(self.users.device), self.users)


def dot_scorer(users: Tensor, items: Tensor) -> DotScorer:
    """Return the scorer of user vectors [n_users, d] and item vectors [n_items, d]; it keeps its own copies."""
    return DotScorer(users.detach().clone(), items.detach().clone())


def gather_batch(batch: Batch, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch's rows of `users` [n_users, d], and of `items` [n_items, d] its positives and negatives, [b, d].

    All items are gathered at once, so that they make one gradient of `items`.
    """
    positives, negatives = F.embedding(torch.cat([batch.positives, batch.negatives]), items).chunk(2)
    return F.embedding(batch.users, users), positives, negatives


@dataclass(frozen=True, eq=False)
class SparseScorer:
    """Users -> their rows of `users` [n_users, m] times `weights` [m, n_items], both sparse and not to be changed."""

    users: csr_array
    weights: csr_array

    def __call__(self, index: Tensor) -> Tensor:
        """Return the scores [b, n_items] of users int64 [b]."""
        return torch.from_numpy(self.rows(index).toarray())

    def rows(self, index: Tensor) -> csr_array:
        """Return the same as a sparse matrix."""
        found: csr_array = self.users[index.cpu().numpy()] @ self.weights
        return found

    def of(self, rows: csr_array) -> Tensor:
        """Return the scores [b, n_items] of users whose rows of `users` would be these [b, m]."""
        return torch.from_numpy((rows @ self.weights).toarray())


@dataclass(frozen=True, eq=False)
class RerankingScorer:
    """Users -> the scores of `base`, each user's best `n` unseen items reordered by another score.

    `rescore(users [b], items [b, n]) -> [b, n]` is that score. The n items exchange their n scores, so that they stay
    the best. `seen` is a CSR tensor [n_users, n_items] whose entries are the items that users have seen.
    """

    base: DotScorer
    rescore: Callable[[Tensor, Tensor], Tensor]
    seen: Tensor
    n: int

    def __call__(self, index: Tensor) -> Tensor:
        """Return the scores [b, n_items] of users int64 [b]."""
        scores = self.base(index)
        for rows in torch.split(torch.arange(len(index)), _RERANKED):
            users = index[rows].to(scores.device)
            best = scores[rows].masked_fill(self._seen_mask(users), -torch.inf).topk(min(self.n, scores.shape[1]))
            unseen = best.values.isfinite()  # all, unless users have seen nearly all items
            rescored = self.rescore(users, best.indices).masked_fill(~unseen, -torch.inf)  # which stays last
            items = best.indices.gather(1, rescored.argsort(dim=1, descending=True, stable=True))
            part = scores[rows]
            scores[rows] = part.scatter(1, items, torch.where(unseen, best.values, part.gather(1, items)))
        return scores

    def _seen_mask(self, users: Tensor) -> Tensor:
        """Which items the users have seen, bool [b, n_items]."""
        start, columns = self.seen.crow_indices().long(), self.seen.col_indices().long()
        counts = start[users + 1] - start[users]
        rows = torch.arange(len(users), device=users.device).repeat_interleave(counts)
        places = torch.arange(len(rows), device=users.device) - (counts.cumsum(0) - counts)[rows] + start[users][rows]
        mask = torch.zeros(len(users), self.seen.shape[1], dtype=torch.bool, device=users.device)
        mask[rows, columns[places]] = True
        return mask


_RERANKED = 64  # users at once: all contents of all their items are held


@dataclass(frozen=True, eq=False)
class ShardedScorer:
    """Users -> their inner products with all items, of which each worker scores its own; the same in all workers.

    `users` [local, d] and `items` [local, d] are this worker's rows of tables of n_users and n_items rows.
    """

    users: Tensor
    items: Tensor
    n_users: int
    n_items: int
    workers: ProcessGroup

    def __call__(self, index: Tensor) -> Tensor:
        """Return the scores [b, n_items] of users int64 [b]."""
        parts = gather(self._local_scores(index).T, self.workers)  # [local, b] of each worker
        return join_rows([shard_rows(part, rank, len(parts), SINGLE_PROCESS) for rank, part in enumerate(parts)]).T

    def recommend(self, users: Ints, k: int, exclude: Sequence[Interactions], block: int) -> TopK:
        """Do what `topk.recommend` does: each worker ranks its own items, and the lists are merged."""
        block = block or topk.block_users(self.n_items, self.items.device.type)  # as many calls in each worker
        local_exclude = [self._local_pairs(pairs, users) for pairs in exclude]
        best = topk.recommend(self._local_scores, users, k, local_exclude, block)
        size, rank = self.workers.size, self.workers.rank
        items = np.where(best.items >= 0, best.items * size + rank, -1)
        both = (torch.from_numpy(side.T.copy()) for side in (items, best.scores))  # [k, b]
        items, scores = (torch.cat(gather(side, self.workers)).T.numpy() for side in both)  # [b, W k]
        order = np.lexsort((items, -scores), axis=1)[:, :k]  # best first, ties by ascending item
        return TopK(users, *(np.take_along_axis(side, order, axis=1) for side in (items, scores)))

    def _local_scores(self, index: Tensor) -> Tensor:
        rows = lookup(self.users, self.n_users, index.to(self.users.device), self.workers)
        return rows @ self.items.T

    def _local_pairs(self, pairs: Interactions, users: Ints) -> Interactions:
        """The pairs of these users with this worker's items, which are numbered as it holds them."""
        asked = np.zeros(pairs.n_users, dtype=np.bool_)
        asked[users] = True
        at = (pairs.items % self.workers.size == self.workers.rank) & asked[pairs.users]
        return Interactions(pairs.users[at], pairs.items[at] // self.workers.size, pairs.n_users, len(self.items))
