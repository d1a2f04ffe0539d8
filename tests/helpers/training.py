"""A step's batch and its random numbers, for tests of models."""

import pytest
import torch

from gtcrec.types import Batch, Split


def a_batch(split: Split) -> Batch:
    """Every third training pair, each with the next item as the other one: users and items of many pairs among them."""
    rows = torch.arange(0, len(split.train), 3)
    users, items = torch.from_numpy(split.train.users)[rows], torch.from_numpy(split.train.items)[rows]
    return Batch(users, items, (items + 1) % split.train.n_items)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def check_bfloat16_terms(model, batch):
    """Assert that the loss terms of a batch are nearly those of float32, and have gradients."""
    whole = model.loss(batch, stream())
    with torch.autocast("cpu", torch.bfloat16):
        found = model.loss(batch, stream())
    sum(found.values()).backward()
    assert {name: term.item() for name, term in found.items()} == pytest.approx(
        {name: term.item() for name, term in whole.items()}, rel=0.02
    )
