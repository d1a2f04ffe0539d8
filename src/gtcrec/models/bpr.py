"""BPR: matrix factorisation trained on pairs (Rendle et al. 2009)."""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec import losses
from gtcrec.models.vectors import dot_scorer
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer

__all__ = ["BPR", "BPRConfig"]


class BPRConfig(BaseModel):
    """Settings of BPR; dim as in LightGCN's comparison (He et al. 2020), reg by validation on tiktok and baby."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(64, ge=1, description="length of the embeddings")
    reg: float = Field(0.1, ge=0, description="weight of the L2 term")


class BPR(nn.Module):
    """s(u, i) = <e_u, e_i>."""

    def __init__(self, config: BPRConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.reg = config.reg
        self.users = nn.Parameter(nn.init.xavier_uniform_(torch.empty(train.n_users, config.dim)))
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(train.n_items, config.dim)))

    def vectors(self) -> tuple[Tensor, Tensor]:
        return self.users.detach(), self.items.detach()

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        u = F.embedding(batch.users, self.users)  # [b, dim]
        i, j = (F.embedding(side, self.items) for side in (batch.positives, batch.negatives))
        return {
            "bpr": losses.bpr((u * i).sum(dim=1), (u * j).sum(dim=1)),
            "reg": self.reg * losses.squared_norm(u, i, j),
        }
