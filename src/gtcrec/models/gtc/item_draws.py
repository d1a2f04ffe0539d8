"""Items that stand for a whole catalogue in a softmax."""

import math

import torch
from torch import Tensor

__all__ = ["draw_items"]


def draw_items(certain: Tensor, n_items: int, most: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return items int64 [n] for a step's cross-entropy, and what to add to their scores, [n].

    Up to `most` items a catalogue stands for itself. Of a larger one the `certain` items int64 count once, of the rest
    some are drawn and count n_rest / n_drawn times. An item may be drawn more than once.
    """
    if n_items <= most:
        return torch.arange(n_items), torch.zeros(n_items)
    drawn = torch.randint(n_items, (most,), generator=rng)
    drawn = drawn[~torch.isin(drawn, certain)]
    times = (n_items - len(certain)) / max(len(drawn), 1)
    offset = torch.cat([torch.zeros(len(certain)), torch.full((len(drawn),), math.log(times))])
    return torch.cat([certain, drawn]), offset
