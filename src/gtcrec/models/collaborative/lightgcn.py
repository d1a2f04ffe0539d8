"""LightGCN: embeddings averaged over a few hops of the user-item graph (He et al. 2020, arXiv 2002.02126)."""

import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.sparse import csr_array
from torch import Tensor, nn

from gtcrec.models.base import Space
from gtcrec.ops import graph, losses
from gtcrec.ops.fold_in import folded_user, new_user_rows
from gtcrec.ops.scorers import dot_scorer, gather_batch
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer

__all__ = ["SPACE", "LightGCN", "LightGCNConfig"]


class LightGCNConfig(BaseModel):
    """Settings of LightGCN; the paper's, section 4.1.2."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(64, ge=1, description="length of the embeddings")
    layers: int = Field(3, ge=0, description="hops of propagation")
    reg: float = Field(1e-4, ge=0, description="weight of the L2 term on the unpropagated embeddings")


SPACE: Space = {
    "train.learning_rate": (5e-4, 1e-3, 2e-3, 5e-3),
    "layers": (1, 2, 3, 4),
    "reg": (1e-6, 1e-5, 1e-4, 1e-3, 1e-2),
}


class LightGCN(nn.Module):
    """s(u, i) = <z_u, z_i>, z the mean of an embedding's first hops."""

    def __init__(self, config: LightGCNConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.layers, self.reg = config.layers, config.reg
        self.users = nn.Parameter(nn.init.xavier_uniform_(torch.empty(train.n_users, config.dim)))
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(train.n_items, config.dim)))
        self.item_counts = train.item_counts
        self.r = graph.SparseMatrix(graph.bipartite(train))

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        return graph.light_propagation(self.r, self.users, self.items, self.layers)

    @torch.no_grad()
    def fold_in(self, liked: csr_array) -> Tensor:
        """Return the scores [b, n_items] of users whom the training did not have, by their likes [b, n_items]."""
        rows = new_user_rows(liked, self.item_counts)
        return folded_user(rows, self.r, self.users, self.items, self.layers) @ self.vectors()[1].T

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        users, items = graph.light_propagation(self.r, self.users, self.items, self.layers)
        u, i, j = gather_batch(batch, users, items)
        return {
            "bpr": losses.bpr((u * i).sum(dim=1), (u * j).sum(dim=1)),
            "reg": self.reg * losses.squared_norm(*gather_batch(batch, self.users, self.items)),
        }
