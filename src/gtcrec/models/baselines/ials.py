"""iALS: matrix factorisation by alternating least squares over all user-item pairs.

After "Collaborative Filtering for Implicit Feedback Datasets" (Hu et al. 2008), with the objective, the scaled
regularisation and the advice of "Revisiting the Performance of iALS on Item Recommendation Benchmarks" (Rendle et al.
2022, arXiv 2110.14037).
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from gtcrec.models.base import EMBEDDING_DIM, LEAST_SQUARES_REG, UNOBSERVED_WEIGHT, ModelConfig, ModelSpec
from gtcrec.ops.least_squares import factorize
from gtcrec.ops.scorers import dot_scorer
from gtcrec.types import Interactions, ItemFeatures, Scorer

__all__ = ["IALS", "SPEC", "IALSConfig"]


class IALSConfig(ModelConfig):
    """Settings of iALS; `num_sweeps`, `reg_exponent` and `init_std` are the paper's.

    It tunes the others per data set; here they are chosen on the validation parts of `baby` and `tiktok`.
    """

    embedding_dim: int = Field(128, ge=1, description="length of the factors; the paper has up to 2,048")
    num_sweeps: int = Field(16, ge=1, description="times that all users, then all items are solved for")
    unobserved_weight: float = Field(3e-3, gt=0, description="alpha_0: weight of each pair's squared score")
    unobserved_multiple: float = Field(
        0.0, ge=0, description="the same, as a multiple of the observed pairs' weight; 0: unobserved_weight says it"
    )
    reg: float = Field(0.05, gt=0, description="lambda: of the squared factors")
    reg_exponent: float = Field(1.0, ge=0, le=1, description="nu: power of a user's or item's weight in the loss")
    init_std: float = Field(
        0.1, gt=0, description="of the first scores' scale: factors start at N(0, init_std^2 / embedding_dim)"
    )


class IALS(nn.Module):
    """s(u, i) = <w_u, h_i>, the factors of `least_squares.factorize`.

    They are solved for here, from factors that the seed gives, unless `init_weights` is false: saved ones are loaded
    next. There is nothing to train by gradient.
    """

    users: Tensor
    items: Tensor

    def __init__(
        self, config: IALSConfig, train: Interactions, features: ItemFeatures, init_weights: bool = True
    ) -> None:
        super().__init__()
        if init_weights:
            users, items = factorize(
                train,
                config.embedding_dim,
                config.unobserved_multiple * len(train) / (train.n_users * train.n_items) or config.unobserved_weight,
                config.reg,
                reg_exponent=config.reg_exponent,
                init_std=config.init_std,
                num_sweeps=config.num_sweeps,
            )
        else:
            users, items = (
                torch.zeros(train.n_users, config.embedding_dim),
                torch.zeros(train.n_items, config.embedding_dim),
            )
        self.register_buffer("users", users)
        self.register_buffer("items", items)

    def vectors(self) -> tuple[Tensor, Tensor]:
        return self.users, self.items

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())


SPEC = ModelSpec(
    name="ials",
    model=IALS,
    config=IALSConfig,
    uses_content=False,
    paper="Rendle et al. 2022, arXiv 2110.14037",
    search_space={
        "embedding_dim": EMBEDDING_DIM,
        "unobserved_multiple": (0.0, *UNOBSERVED_WEIGHT),  # 0 is the default, a weight that does not know the data
        "reg": LEAST_SQUARES_REG,
    },
    supports_deferred_init=True,
)
