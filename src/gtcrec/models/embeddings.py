"""Vectors of users and items, side by side: what holds them, and what they start from."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gtcrec.ops.least_squares import factorize
from gtcrec.types import Interactions

__all__ = ["UserItemVectors", "als_factors", "init_from_als", "xavier_embeddings"]

_ALS_SCALE = 4.0  # of factors whose inner products are 1 at most: now log odds of up to 16


class UserItemVectors(NamedTuple):
    """Something of users and the same of items."""

    users: Tensor
    items: Tensor


def xavier_embeddings(train: Interactions, dim: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Return fresh embeddings of users [n_users, dim] and items [n_items, dim]; the users' are drawn first."""
    users, items = (nn.init.xavier_uniform_(torch.empty(n, dim)) for n in (train.n_users, train.n_items))
    return nn.Parameter(users), nn.Parameter(items)


def als_factors(train: Interactions, dim: int, unobserved_weight: float, reg: float) -> tuple[Tensor, Tensor]:
    """Return factors of users [n_users, dim] and items [n_items, dim] by least squares over all pairs.

    `unobserved_weight` is that of all pairs' squared scores, as a multiple of the observed pairs'; `reg` weighs the
    squared factors. See `gtcrec.ops.least_squares.factorize`.
    """
    return factorize(train, dim, unobserved_weight * len(train) / (train.n_users * train.n_items), reg)


def init_from_als(
    train: Interactions, users: nn.Parameter, items: nn.Parameter, unobserved_weight: float, reg: float
) -> None:
    """Let embeddings of users [n_users, dim] and items [n_items, dim] start from `als_factors`, scaled."""
    factors = als_factors(train, users.shape[1], unobserved_weight, reg)
    for table, rows in zip((users, items), factors, strict=True):
        table.data = _ALS_SCALE * rows
