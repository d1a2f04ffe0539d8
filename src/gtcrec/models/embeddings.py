"""Vectors of users and items, side by side."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gtcrec.types import Interactions

__all__ = ["UserItemVectors", "xavier_embeddings"]


class UserItemVectors(NamedTuple):
    """Something of users and the same of items."""

    users: Tensor
    items: Tensor


def xavier_embeddings(train: Interactions, dim: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Return fresh embeddings of users [n_users, dim] and items [n_items, dim]; the users' are drawn first."""
    users, items = (nn.init.xavier_uniform_(torch.empty(n, dim)) for n in (train.n_users, train.n_items))
    return nn.Parameter(users), nn.Parameter(items)
