"""ItemKNN: an item scores by its similarity to the user's items, over each item's nearest neighbours."""

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.sparse import csr_array
from torch import Tensor, nn

from gtcrec.models.base import Space
from gtcrec.ops import neighbors as similarity
from gtcrec.ops.scorers import SparseScorer
from gtcrec.types import Interactions, ItemFeatures

__all__ = ["SPACE", "ItemKNN", "ItemKNNConfig"]


class ItemKNNConfig(BaseModel):
    """Settings of ItemKNN; the defaults were chosen on the validation part of `baby` (docs/results)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    neighbours: int = Field(2000, ge=1, description="items kept per item")
    shrink: float = Field(100.0, ge=0, description="added to the norm: few common users count less")
    activity: float = Field(0.5, ge=0, description="a user with n items counts n^-activity: less for the very active")


SPACE: Space = {
    "neighbours": (50, 100, 200, 500, 1000, 2000),
    "shrink": (0.0, 10.0, 30.0, 100.0, 300.0),
    "activity": (0.0, 0.25, 0.5, 0.75, 1.0),
}


class ItemKNN(nn.Module):
    """s(u, i) = sum of similarity(i, j) over liked j among the nearest of i (Deshpande & Karypis 2004).

    `similarity.similar_items` gives the similarities; they are part of the saved weights.
    """

    indptr: Tensor
    indices: Tensor
    weights: Tensor

    def __init__(self, config: ItemKNNConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        similar = similarity.similar_items(train, config.neighbours, config.shrink, config.activity)
        self._liked = train.matrix()
        self.register_buffer("indptr", torch.from_numpy(similar.indptr.astype(np.int64)))
        self.register_buffer("indices", torch.from_numpy(similar.indices.astype(np.int64)))
        self.register_buffer("weights", torch.from_numpy(similar.data.astype(np.float32)))

    def fold_in(self, liked: csr_array) -> Tensor:
        """Return the scores [b, n_items] of users whom the training did not have, by their likes [b, n_items]."""
        return self.scorer().of(liked)

    def scorer(self) -> SparseScorer:
        n = len(self.indptr) - 1
        parts = tuple(one.cpu().numpy().copy() for one in (self.weights, self.indices, self.indptr))
        to_items = csr_array(parts, shape=(n, n)).T.tocsr()  # row j: the items that have j among their nearest
        return SparseScorer(self._liked, to_items)
