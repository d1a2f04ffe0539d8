"""Directions of content that are saved with the weights that were trained on them."""

from typing import Any

import torch
from torch import Tensor, nn

from gtcrec.ops.feature_transforms import Directions, directions
from gtcrec.types import Floats, Masks

__all__ = ["ContentDirections"]

_FITTED = ("mean", "basis", "spread")  # what `Directions` is made of


class ContentDirections(nn.Module):
    """At most `width` directions of one modality, as training saw them: another machine may find others.

    Without `fit` they are loaded next. Weights of earlier versions have none: then they are fitted after all.
    """

    mean: Tensor
    basis: Tensor
    spread: Tensor

    def __init__(self, x: Floats, present: Masks, width: int, fit: bool = True) -> None:
        super().__init__()
        self.fitted_to = x, present, width
        self.is_fitted = fit
        found = directions(x, present, width) if fit else _empty_directions(x, present, width)
        for name in _FITTED:
            self.register_buffer(name, getattr(found, name))

    @property
    def width(self) -> int:
        """How many directions there are."""
        return len(self.spread)

    def forward(self, x: Floats, present: Masks) -> Tensor:
        """Return the directions of content x [n, d] on the CPU, float32 [n, width]; absent rows are 0."""
        return Directions(*(getattr(self, name).cpu() for name in _FITTED))(x, present)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        if any(f"{prefix}{name}" not in state_dict for name in _FITTED):
            found: Any = self if self.is_fitted else directions(*self.fitted_to)
            state_dict.update({f"{prefix}{name}": getattr(found, name) for name in _FITTED})
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def _empty_directions(x: Floats, present: Masks, width: int) -> Directions:
    """Directions of the shape that `directions` would find."""
    n = x.shape[1] if x.shape[1] <= width else min(width, int(present.sum()))
    return Directions(torch.zeros(x.shape[1]), torch.zeros(x.shape[1], n), torch.zeros(n))
