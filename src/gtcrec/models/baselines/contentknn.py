"""ContentKNN: an item scores by how its content resembles that of the user's items, if wanted with who liked both."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.base import Space
from gtcrec.models.modalities import modality_weights
from gtcrec.ops import neighbors as similarity
from gtcrec.ops.feature_transforms import directions
from gtcrec.ops.scorers import SparseScorer
from gtcrec.types import Floats, Interactions, ItemFeatures, Masks

__all__ = ["SPACE", "ContentKNN", "ContentKNNConfig"]


class ContentKNNConfig(BaseModel):
    """Settings of ContentKNN; those of the interactions' part are ItemKNN's defaults, the others are not tuned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    neighbours: int = Field(100, ge=1, description="items kept per item by content")
    modality_weights: Mapping[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict, description="of each modality in the similarity, by name; empty: equal"
    )
    interactions: float = Field(0.5, ge=0, le=1, description="share of ItemKNN's similarity; 0: content alone")
    liked_neighbours: int = Field(2000, ge=1, description="items kept per item by interactions")
    shrink: float = Field(100.0, ge=0, description="as ItemKNN's")
    activity: float = Field(0.5, ge=0, description="as ItemKNN's")


SPACE: Space = {
    "neighbours": (10, 30, 100, 300, 1000),
    "interactions": (0.0, 0.25, 0.5, 0.75, 0.9),
    "liked_neighbours": (200, 500, 1000, 2000),
    "shrink": (10.0, 30.0, 100.0, 300.0),
    "activity": (0.0, 0.25, 0.5, 0.75, 1.0),
}


class ContentKNN(nn.Module):
    """s(u, i) = sum over liked j of (1 - a) content(i, j) + a co-liked(i, j), a = `interactions`.

    content(i, j) is the weighted mean over the modalities of the cosine of standardised content, which is 0 in a
    modality that either item lacks; an item keeps its nearest, those with a positive mean. co-liked(i, j) is ItemKNN's.
    Both are scaled so that an item's similarities sum to 1 on average: a weighted hybrid (Burke 2002) needs parts of
    one size. Derived from the data, so no part of the saved weights.
    """

    def __init__(self, config: ContentKNNConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        weights = modality_weights("contentknn", config.modality_weights, features.names)
        share = config.interactions
        similar = _nothing(train.n_items)
        if share < 1:
            similar = similar + (1 - share) * _of_one_size(_similar_content(features, weights, config.neighbours))
        if share > 0:
            co_liked = similarity.similar_items(train, config.liked_neighbours, config.shrink, config.activity)
            similar = similar + share * _of_one_size(co_liked)
        self._to_items = similar.T.tocsr().astype(np.float32)  # row j: the items that have j among their nearest
        self._liked = train.matrix()

    def fold_in(self, liked: csr_array) -> Tensor:
        """Return the scores [b, n_items] of users whom the training did not have, by their likes [b, n_items]."""
        return self.scorer().of(liked)

    def scorer(self) -> SparseScorer:
        return SparseScorer(self._liked, self._to_items)


def _similar_content(features: ItemFeatures, weights: Mapping[str, float], k: int, block: int = 1024) -> csr_array:
    """Each item's k nearest others by the mean cosine, if above 0, float32 [n_items, n_items]; in blocks of items."""
    n = features.n_items
    parts = [
        weights[m] ** 0.5 * F.normalize(_standardised(features.values[m], features.present[m]))
        for m in features.names
        if weights[m] > 0
    ]
    if not parts:
        return _nothing(n)
    x = torch.cat(parts, dim=1) / sum(weights.values()) ** 0.5  # [n_items, widths]: <x_i, x_j> is the mean cosine
    values, columns = [], []
    for start in range(0, n, block):
        cosine = x[start : start + block] @ x.T  # [block, n_items]
        own = torch.arange(len(cosine))
        cosine[own, own + start] = -torch.inf
        best = cosine.topk(min(k, n - 1), dim=1)
        values.append(best.values)
        columns.append(best.indices)
    value, column = torch.cat(values), torch.cat(columns)  # [n_items, k]
    rows, places = (value > 0).nonzero(as_tuple=True)
    near = value[rows, places].numpy(), (rows.numpy(), column[rows, places].numpy())
    return csr_array(near, shape=(n, n))


def _standardised(x: Floats, present: Masks) -> Tensor:
    return directions(x, present, x.shape[1])(x, present)


def _nothing(n: int) -> csr_array:
    empty = np.zeros(0, dtype=np.int64)
    return csr_array((empty.astype(np.float32), (empty, empty)), shape=(n, n))


def _of_one_size(similar: csr_array) -> csr_array:
    """Similarities scaled to a sum of 1 per item on average; without any, as they are."""
    total = float(similar.sum())
    return similar * (similar.shape[0] / total) if total > 0 else similar
