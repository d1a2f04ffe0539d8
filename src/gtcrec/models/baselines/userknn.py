"""UserKNN: an item scores by the votes of the users who resemble the user and like it."""

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from gtcrec.models.base import Space
from gtcrec.ops import neighbors as similarity
from gtcrec.ops.scorers import SparseScorer
from gtcrec.types import Interactions, ItemFeatures, Scorer

__all__ = ["SPACE", "UserKNN", "UserKNNConfig"]


class UserKNNConfig(BaseModel):
    """Settings of UserKNN, not tuned: on the validation part of `baby`, the best of six tried find 2 % more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    neighbours: int = Field(1000, ge=1, description="users kept per user")
    shrink: float = Field(10.0, ge=0, description="added to the norm: few common items count less")
    popularity: float = Field(
        0.5, ge=0, description="an item with n users counts n^-popularity: less for the very liked"
    )


SPACE: Space = {
    "neighbours": (50, 100, 200, 500, 1000, 2000),
    "shrink": (0.0, 3.0, 10.0, 30.0, 100.0),
    "popularity": (0.0, 0.25, 0.5, 0.75, 1.0),
}


class UserKNN(nn.Module):
    """s(u, i) = sum of similarity(u, v) over the nearest v of u who like i (Sarwar et al. 2000, for likes).

    similarity(u, v) = c_uv / (|u| |v| + shrink); c_uv sums deg(i)^-popularity over the common items i, |u| is the root
    of the user's count. Derived from the data, so no part of the saved weights.
    """

    def __init__(self, config: UserKNNConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        swapped = Interactions(train.items, train.users, n_users=train.n_items, n_items=train.n_users)
        self._similar = similarity.similar_items(swapped, config.neighbours, config.shrink, config.popularity)
        self._liked = train.matrix()

    def scorer(self) -> Scorer:
        return SparseScorer(self._similar, self._liked)
