"""ContentKNN: an item scores by how its content resembles that of the user's items, if expected with who liked both."""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.base import CONTENT_SCALING, ContentModelConfig, ModelSpec
from gtcrec.models.modalities import modality_weights
from gtcrec.ops import neighbors as similarity
from gtcrec.ops.scorers import SparseScorer
from gtcrec.types import Floats, Interactions, ItemFeatures, Masks

__all__ = ["SPEC", "ContentKNN", "ContentKNNConfig"]


class ContentKNNConfig(ContentModelConfig):
    """Settings of ContentKNN; those of the interactions' part are ItemKNN's defaults, the others are not tuned."""

    content_scaling: Literal["raw", "standardized"] = Field(
        "standardized", description="standardized: each column of content has mean 0 and variance 1; raw: as it is"
    )
    num_neighbors: int = Field(100, ge=1, description="items kept per item by content")
    modality_weights: Mapping[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict, description="of each modality in the similarity, by name; empty: equal"
    )
    interaction_weight: float = Field(0.5, ge=0, le=1, description="share of ItemKNN's similarity; 0: content alone")
    num_interaction_neighbors: int = Field(2000, ge=1, description="items kept per item by interactions")
    shrink: float = Field(100.0, ge=0, description="as ItemKNN's")
    activity_discount: float = Field(0.5, ge=0, description="as ItemKNN's")


class ContentKNN(nn.Module):
    """s(u, i) = sum over the user's items j of (1 - a) content(i, j) + a co-liked(i, j), a = `interaction_weight`.

    content(i, j) is the weighted mean over the modalities of the cosine of the contents, which is 0 in a modality that
    either item lacks; an item keeps its nearest, those with a positive mean. co-liked(i, j) is ItemKNN's.
    Both are scaled so that an item's similarities sum to 1 on average: a weighted hybrid (Burke 2002) needs parts of
    one size. Derived from the data, so no part of the saved weights.
    """

    def __init__(self, config: ContentKNNConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        weights = modality_weights("contentknn", config.modality_weights, features.names)
        share = config.interaction_weight
        similar = similarity.empty_csr(train.n_items, train.n_items)
        if share < 1:
            similar = similar + (1 - share) * _of_one_size(_similar_content(features, weights, config.num_neighbors))
        if share > 0:
            co_liked = similarity.similar_items(
                train, config.num_interaction_neighbors, config.shrink, config.activity_discount
            )
            similar = similar + share * _of_one_size(co_liked)
        self._to_items = similar.T.tocsr().astype(np.float32)  # row j: the items that have j among their nearest
        self._histories = train.matrix()

    def fold_in(self, history: csr_array) -> Tensor:
        return self.scorer().of(history)

    def scorer(self) -> SparseScorer:
        return SparseScorer(self._histories, self._to_items)


def _similar_content(features: ItemFeatures, weights: Mapping[str, float], k: int) -> csr_array:
    """Each item's k nearest others by the mean cosine, if above 0, float32 [n_items, n_items]; in blocks of items."""
    n = features.n_items
    parts = [
        weights[m] ** 0.5 * F.normalize(_zero_absent(features.values[m], features.present[m]))
        for m in features.names
        if weights[m] > 0
    ]
    if not parts:
        return similarity.empty_csr(n, n)
    x = torch.cat(parts, dim=1) / sum(weights.values()) ** 0.5  # [n_items, widths]: <x_i, x_j> is the mean cosine
    value, column = similarity.nearest_neighbors(x, x, min(k, n - 1), skip_self=True)  # [n_items, k]
    rows, places = (value > 0).nonzero(as_tuple=True)
    near = value[rows, places].numpy(), (rows.numpy(), column[rows, places].numpy())
    return csr_array(near, shape=(n, n))


def _zero_absent(x: Floats, present: Masks) -> Tensor:
    return torch.from_numpy(np.where(present[:, None], x, np.float32(0)))


def _of_one_size(similar: csr_array) -> csr_array:
    """Similarities scaled to a sum of 1 per item on average; without any, as they are."""
    total = float(similar.sum())
    return similar * (similar.shape[0] / total) if total > 0 else similar


SPEC = ModelSpec(
    name="contentknn",
    model=ContentKNN,
    config=ContentKNNConfig,
    paper="Burke 2002, Hybrid Recommender Systems: Survey and Experiments",
    search_space={
        "content_scaling": CONTENT_SCALING,
        "num_neighbors": (10, 30, 100, 300, 1000),
        "interaction_weight": (0.0, 0.25, 0.5, 0.75, 0.9),
        "num_interaction_neighbors": (200, 500, 1000, 2000),
        "shrink": (10.0, 30.0, 100.0, 300.0),
        "activity_discount": (0.0, 0.25, 0.5, 0.75, 1.0),
    },
)
