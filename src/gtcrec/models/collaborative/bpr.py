"""BPR: matrix factorisation trained on pairs (Rendle et al. 2009)."""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from gtcrec.errors import ConfigError
from gtcrec.models.base import Space
from gtcrec.ops import losses
from gtcrec.ops.scorers import ShardedScorer, dot_scorer, gather_batch
from gtcrec.ops.sharded import RowShardedEmbedding, xavier_rows
from gtcrec.runtime.process_group import ProcessGroup
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer

__all__ = ["BPR", "SPACE", "BPRConfig"]


class BPRConfig(BaseModel):
    """Settings of BPR; dim as in LightGCN's comparison (He et al. 2020), reg by validation on tiktok and baby."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(64, ge=1, description="length of the embeddings")
    reg: float = Field(0.1, ge=0, description="weight of the L2 term")
    sparse: bool = Field(False, description="a step changes only the rows that its batch names, whatever their number")


SPACE: Space = {
    "train.learning_rate": (5e-4, 1e-3, 2e-3, 5e-3),
    "reg": (1e-3, 1e-2, 3e-2, 0.1, 0.3),
}


class BPR(nn.Module):
    """s(u, i) = <e_u, e_i>; of several `workers` each holds its own rows of the two tables."""

    def __init__(
        self, config: BPRConfig, train: Interactions, features: ItemFeatures, workers: ProcessGroup | None = None
    ) -> None:
        super().__init__()
        if workers and not config.sparse:
            raise ConfigError("bpr: train.tables=sharded needs sparse=true, found sparse=false")
        workers = workers or ProcessGroup()
        self.reg = config.reg
        self.users = xavier_rows(train.n_users, config.dim, workers)
        self.items = xavier_rows(train.n_items, config.dim, workers)
        self.tables: list[RowShardedEmbedding] = []
        if config.sparse:
            self.tables.append(RowShardedEmbedding(self.users, train.n_users, workers))
            self.tables.append(RowShardedEmbedding(self.items, train.n_items, workers))

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Return the user and item vectors that this worker holds: all of them, unless the tables are sharded."""
        return self.users.detach(), self.items.detach()

    def scorer(self) -> Scorer:
        alone = dot_scorer(*self.vectors())
        if not self.tables or self.tables[0].workers.size == 1:
            return alone
        users, items = self.tables
        return ShardedScorer(alone.users, alone.items, users.n, items.n, users.workers)

    def sparse_parameters(self) -> list[nn.Parameter]:
        """The tables of which a step touches few rows and gives their gradient alone."""
        return [table.own for table in self.tables]

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        u, i, j = self._rows(batch)
        return {
            "bpr": losses.bpr((u * i).sum(dim=1), (u * j).sum(dim=1)),
            "reg": self.reg * losses.squared_norm(u, i, j),
        }

    def _rows(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The embeddings of users, liked and other items, [b, dim] each."""
        if self.tables:
            users, items = self.tables
            i, j = items(torch.cat([batch.positives, batch.negatives])).chunk(2)
            return users(batch.users), i, j
        return gather_batch(batch, self.users, self.items)
