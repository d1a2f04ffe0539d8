"""UserKNN: an item scores by the votes of the users who resemble the user and have it."""

from pydantic import Field
from torch import nn

from gtcrec.models.base import ModelConfig, ModelSpec
from gtcrec.ops import neighbors as similarity
from gtcrec.ops.scorers import SparseScorer
from gtcrec.types import Interactions, ItemFeatures, Scorer

__all__ = ["SPEC", "UserKNN", "UserKNNConfig"]


class UserKNNConfig(ModelConfig):
    """Settings of UserKNN, not tuned: on the validation part of `baby`, the best of six tried find 2 % more."""

    num_neighbors: int = Field(1000, ge=1, description="users kept per user")
    shrink: float = Field(10.0, ge=0, description="added to the norm: few common items count less")
    popularity_discount: float = Field(
        0.5, ge=0, description="an item with n users counts n^-discount: less for the very popular"
    )


class UserKNN(nn.Module):
    """s(u, i) = sum of similarity(u, v) over the nearest v of u who have i (Sarwar et al. 2000, on binary data).

    similarity(u, v) = c_uv / (|u| |v| + shrink); c_uv sums deg(i)^-discount over the common items i, |u| is the root
    of the user's count. Derived from the data, so no part of the saved weights.
    """

    def __init__(self, config: UserKNNConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        swapped = Interactions(train.items, train.users, n_users=train.n_items, n_items=train.n_users)
        self._similar = similarity.similar_items(
            swapped, config.num_neighbors, config.shrink, config.popularity_discount
        )
        self._histories = train.matrix()

    def scorer(self) -> Scorer:
        return SparseScorer(self._similar, self._histories)


SPEC = ModelSpec(
    name="userknn",
    model=UserKNN,
    config=UserKNNConfig,
    uses_content=False,
    paper="Sarwar et al. 2000, Analysis of recommendation algorithms for e-commerce",
    search_space={
        "num_neighbors": (50, 100, 200, 500, 1000, 2000),
        "shrink": (0.0, 3.0, 10.0, 30.0, 100.0),
        "popularity_discount": (0.0, 0.25, 0.5, 0.75, 1.0),
    },
)
