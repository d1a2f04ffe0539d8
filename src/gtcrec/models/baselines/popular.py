"""Popular: every user gets the items with the most training interactions."""

import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from gtcrec.models.base import ModelConfig, ModelSpec
from gtcrec.types import Interactions, ItemFeatures, Scorer

__all__ = ["SPEC", "Popular", "PopularConfig"]


class PopularConfig(ModelConfig):
    """Popular has no settings."""


class Popular(nn.Module):
    """Scores an item by its number of training users."""

    counts: Tensor

    def __init__(self, config: PopularConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.register_buffer("counts", torch.from_numpy(train.item_counts).float())

    def scorer(self) -> Scorer:
        counts = self.counts.clone()
        return lambda users: counts.expand(len(users), -1)

    def fold_in(self, history: csr_array) -> Tensor:
        return self.counts.expand(history.shape[0], -1)


SPEC = ModelSpec("popular", Popular, PopularConfig, uses_content=False, personalized=False)
