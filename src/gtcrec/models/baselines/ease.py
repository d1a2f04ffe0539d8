"""EASE: a linear item-item model without self-similarity, in closed form (Steck 2019, arXiv 1905.03375)."""

from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor, nn

from gtcrec.models.base import ModelConfig, ModelSpec
from gtcrec.models.item_regression import check_memory, score_histories, solve_item_weights
from gtcrec.types import Interactions, ItemFeatures, Scorer

__all__ = ["EASE", "SPEC", "EASEConfig"]


class EASEConfig(ModelConfig):
    """Settings of EASE; `reg` is the paper's for ML-20M (it has 1000 for Netflix, 200 for MSD)."""

    reg: float = Field(500.0, gt=0, description="lambda: of the squared weights")
    user_exponent: float = Field(0.0, ge=0, description="a: a user of n items weighs n^-a; 0 in the paper")
    max_items: int = Field(40_000, ge=1, description="larger catalogues are refused, for items x items numbers")


class EASE(nn.Module):
    """s(u, .) = x_u B, B the minimum of |X - X B|^2_Omega + lambda |B|^2 with a diagonal of zeros (eq. 8).

    B = I - P diag(1 / diag P), P = (X^T Omega X + lambda I)^-1. Derived from the data, so no part of the saved weights.
    Raises `ConfigError` for more than `max_items` items.
    """

    b: Tensor

    def __init__(self, config: EASEConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        check_memory("ease", train.n_items, config.max_items)
        self._histories = train.matrix()
        found = solve_item_weights(train, config.reg, config.user_exponent)
        self.register_buffer("b", found.b, persistent=False)

    def fold_in(self, history: csr_array) -> Tensor:
        return score_histories(self.b, history)

    def scorer(self) -> Scorer:
        return lambda users: self.fold_in(self._histories[users.cpu().numpy()])  # nothing changes B


SPEC = ModelSpec(
    name="ease",
    model=EASE,
    config=EASEConfig,
    uses_content=False,
    paper="Steck 2019, arXiv 1905.03375",
    search_space={
        "reg": (10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0),
        "user_exponent": (0.0, 0.5, 1.0),
    },
)
