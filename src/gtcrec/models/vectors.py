"""Scoring by inner product, shared by the models whose score is one."""

import torch
from torch import Tensor

from gtcrec.types import Scorer

__all__ = ["dot_scorer"]


def dot_scorer(users: Tensor, items: Tensor) -> Scorer:
    """Return the scorer of user vectors [n_users, d] and item vectors [n_items, d]; it keeps its own copies."""
    users, items = users.detach().clone(), items.detach().clone()

    def scores(index: Tensor) -> Tensor:
        return torch.nn.functional.embedding(index.to(users.device), users) @ items.T

    return scores
