"""Scoring by inner product, shared by the models whose score is one."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["DotScorer", "dot_scorer"]


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
        return torch.nn.functional.embedding(index.to(self.users.device), self.users)


def dot_scorer(users: Tensor, items: Tensor) -> DotScorer:
    """Return the scorer of user vectors [n_users, d] and item vectors [n_items, d]; it keeps its own copies."""
    return DotScorer(users.detach().clone(), items.detach().clone())
