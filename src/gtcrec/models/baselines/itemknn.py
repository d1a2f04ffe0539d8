"""ItemKNN: an item scores by its similarity to the user's items, over each item's nearest neighbours."""

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor, nn

from gtcrec.models.base import ModelConfig, ModelSpec
from gtcrec.ops import neighbors as similarity
from gtcrec.ops.scorers import SparseScorer
from gtcrec.types import Interactions, ItemFeatures

__all__ = ["SPEC", "ItemKNN", "ItemKNNConfig"]


class ItemKNNConfig(ModelConfig):
    """Settings of ItemKNN; the defaults were chosen on the validation part of `baby` (docs/results)."""

    num_neighbors: int = Field(2000, ge=1, description="items kept per item")
    shrink: float = Field(100.0, ge=0, description="added to the norm: few common users count less")
    activity_discount: float = Field(
        0.5, ge=0, description="a user with n items counts n^-discount: less for the very active"
    )


class ItemKNN(nn.Module):
    """s(u, i) = sum of similarity(i, j) over the user's items j among the nearest of i (Deshpande & Karypis 2004).

    `similarity.similar_items` gives the similarities; they are part of the saved weights.
    """

    indptr: Tensor
    indices: Tensor
    weights: Tensor

    def __init__(self, config: ItemKNNConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        similar = similarity.similar_items(train, config.num_neighbors, config.shrink, config.activity_discount)
        self._histories = train.matrix()
        self.register_buffer("indptr", torch.from_numpy(similar.indptr.astype(np.int64)))
        self.register_buffer("indices", torch.from_numpy(similar.indices.astype(np.int64)))
        self.register_buffer("weights", torch.from_numpy(similar.data.astype(np.float32)))

    def fold_in(self, history: csr_array) -> Tensor:
        return self.scorer().of(history)

    def scorer(self) -> SparseScorer:
        n = len(self.indptr) - 1
        parts = tuple(one.cpu().numpy().copy() for one in (self.weights, self.indices, self.indptr))
        to_items = csr_array(parts, shape=(n, n)).T.tocsr()  # row j: the items that have j among their nearest
        return SparseScorer(self._histories, to_items)


SPEC = ModelSpec(
    name="itemknn",
    model=ItemKNN,
    config=ItemKNNConfig,
    uses_content=False,
    paper="Deshpande & Karypis 2004, Item-based top-N recommendation algorithms",
    search_space={
        "num_neighbors": (50, 100, 200, 500, 1000, 2000),
        "shrink": (0.0, 10.0, 30.0, 100.0, 300.0),
        "activity_discount": (0.0, 0.25, 0.5, 0.75, 1.0),
    },
)
