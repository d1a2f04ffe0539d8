"""Popular: every user gets the items with the most training interactions."""

import torch
from pydantic import BaseModel, ConfigDict
from scipy.sparse import csr_array
from torch import Tensor, nn

from gtcrec.types import Interactions, ItemFeatures, Scorer

__all__ = ["Popular", "PopularConfig"]


class PopularConfig(BaseModel):
    """Popular has no settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Popular(nn.Module):
    """Scores an item by its number of training users."""

    counts: Tensor

    def __init__(self, config: PopularConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.register_buffer("counts", torch.from_numpy(train.item_counts).float())

    def scorer(self) -> Scorer:
        counts = self.counts.clone()
        return lambda users: counts.expand(len(users), -1)

    def fold_in(self, liked: csr_array) -> Tensor:
        """Return the scores [b, n_items] of users whom the training did not have, by their likes [b, n_items]."""
        return self.counts.expand(liked.shape[0], -1)
