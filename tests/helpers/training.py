"""A step's batch and its random numbers, for tests of models."""

import torch

from gtcrec.types import Batch, Split


def a_batch(split: Split) -> Batch:
    """Every third training pair, each with the next item as the other one: users and items of many pairs among them."""
    rows = torch.arange(0, len(split.train), 3)
    users, items = torch.from_numpy(split.train.users)[rows], torch.from_numpy(split.train.items)[rows]
    return Batch(users, items, (items + 1) % split.train.n_items)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
