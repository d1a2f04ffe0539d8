"""EASE: a linear item-item model without self-similarity, in closed form (Steck 2019, arXiv 1905.03375)."""

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.errors import ConfigError
from gtcrec.models.base import ModelConfig, ModelSpec
from gtcrec.types import Interactions, ItemFeatures, Scorer

__all__ = ["EASE", "SPEC", "EASEConfig"]


class EASEConfig(ModelConfig):
    """Settings of EASE; `reg` is the paper's for ML-20M (it has 1000 for Netflix, 200 for MSD)."""

    reg: float = Field(500.0, gt=0, description="lambda: of the squared weights")
    max_items: int = Field(40_000, ge=1, description="larger catalogues are refused: two matrices of items x items")


class EASE(nn.Module):
    """s(u, .) = x_u B, B the minimum of |X - X B|^2 + lambda |B|^2 with a diagonal of zeros (eq. 8).

    B = I - P diag(1 / diag P), P = (X^T X + lambda I)^-1. Derived from the data, so no part of the saved weights.
    Raises `ConfigError` for more than `max_items` items.
    """

    b: Tensor

    def __init__(self, config: EASEConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        if train.n_items > config.max_items:
            need = _COPIES * 8 * train.n_items**2 / 2**30
            raise ConfigError(
                f"ease: {train.n_items} items need {need:.1f} GiB of memory; "
                f"expected at most {config.max_items} items, or a larger max_items"
            )
        self._histories = train.matrix()
        self.register_buffer("b", _solve_item_weights(train, config.reg), persistent=False)

    def fold_in(self, history: csr_array) -> Tensor:
        items, starts = (torch.from_numpy(side.astype(np.int64)) for side in (history.indices, history.indptr[:-1]))
        return F.embedding_bag(items.to(self.b.device), self.b, starts.to(self.b.device), mode="sum")  # sums of rows

    def scorer(self) -> Scorer:
        return lambda users: self.fold_in(self._histories[users.cpu().numpy()])  # nothing changes B


_COPIES = 2  # matrices of float64 held at once


def _solve_item_weights(train: Interactions, reg: float, block: int = 2048) -> Tensor:
    """B, float32 [n_items, n_items]; inverted in float64, for a small lambda leaves X^T X ill-conditioned."""
    x = train.matrix()
    xt = x.T.tocsr()
    gram = np.empty((train.n_items, train.n_items))
    for start in range(0, train.n_items, block):
        gram[start : start + block] = (xt[start : start + block] @ x).toarray()
    gram[np.diag_indices_from(gram)] += reg
    factor = torch.linalg.cholesky(torch.from_numpy(gram))
    del gram
    p = torch.cholesky_inverse(factor)
    del factor
    b = p.div_(-p.diagonal().clone()).float()  # columns over their -P_jj
    b.fill_diagonal_(0.0)
    return b


SPEC = ModelSpec(
    name="ease",
    model=EASE,
    config=EASEConfig,
    uses_content=False,
    paper="Steck 2019, arXiv 1905.03375",
    search_space={
        "reg": (10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0),
    },
)
