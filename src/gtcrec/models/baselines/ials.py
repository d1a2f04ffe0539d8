"""iALS: matrix factorisation by alternating least squares over all user-item pairs.

After "Collaborative Filtering for Implicit Feedback Datasets" (Hu et al. 2008), with the objective, the scaled
regularisation and the advice of "Revisiting the Performance of iALS on Item Recommendation Benchmarks" (Rendle et al.
2022, arXiv 2110.14037).
"""

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from gtcrec.models.base import Space
from gtcrec.models.baselines import als
from gtcrec.ops.scorers import dot_scorer
from gtcrec.types import Interactions, ItemFeatures, Scorer

__all__ = ["IALS", "SPACE", "IALSConfig"]


class IALSConfig(BaseModel):
    """Settings of iALS; `sweeps`, `frequency` and `deviation` are the paper's.

    It tunes the others per data set; here they are chosen on the validation parts of `baby` and `tiktok`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(128, ge=1, description="length of the factors; the paper has up to 2,048")
    sweeps: int = Field(16, ge=1, description="times that all users, then all items are solved for")
    unobserved: float = Field(3e-3, gt=0, description="alpha_0: weight of each pair's squared score")
    reg: float = Field(0.05, gt=0, description="lambda: of the squared factors")
    frequency: float = Field(1.0, ge=0, le=1, description="nu: power of a user's or item's weight in the loss")
    deviation: float = Field(
        0.1, gt=0, description="of the first scores' scale: factors start at N(0, deviation^2 / dim)"
    )


SPACE: Space = {
    "dim": (64, 128, 256, 512),
    "unobserved": (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3),
    "reg": (3e-3, 0.01, 0.03, 0.05, 0.1),
}


class IALS(nn.Module):
    """s(u, i) = <w_u, h_i>, the factors of `als.factorise`.

    It is solved when it is made, from factors that the seed gives; they are part of the saved weights. There is nothing
    to train by gradient.
    """

    users: Tensor
    items: Tensor

    def __init__(self, config: IALSConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        settings = config.model_dump(exclude={"dim"})
        users, items = als.factorise(train, config.dim, **settings)
        self.register_buffer("users", users)
        self.register_buffer("items", items)

    def vectors(self) -> tuple[Tensor, Tensor]:
        return self.users, self.items

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())
