"""BPR: matrix factorisation trained on pairs (Rendle et al. 2009)."""

import torch
from pydantic import Field
from torch import Tensor, nn

from gtcrec.errors import ConfigError
from gtcrec.models.base import EMBEDDING_DIM, ModelConfig, ModelSpec, RegForm
from gtcrec.ops import losses
from gtcrec.ops.scorers import ShardedScorer, dot_scorer, gather_batch
from gtcrec.ops.sharded import RowShardedEmbedding, xavier_rows
from gtcrec.runtime.process_group import SINGLE_PROCESS, ProcessGroup
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer, TrainableModel

__all__ = ["BPR", "SPEC", "BPRConfig"]


class BPRConfig(ModelConfig):
    """Settings of BPR; dim as in LightGCN's comparison (He et al. 2020), reg by validation on tiktok and baby.

    The paper's L2 term is of squares; MMRec (Zhou 2023, arXiv 2302.03497), whose figures the field compares, has norms.
    """

    embedding_dim: int = Field(64, ge=1, description="length of the embeddings")
    reg: float = Field(0.1, ge=0, description="weight of the L2 term")
    reg_form: RegForm = Field("half_squares", description="of the L2 term: half_squares (paper) or norms (MMRec)")
    sparse: bool = Field(False, description="a step changes only the rows that its batch names, whatever their number")


class BPR(nn.Module, TrainableModel):
    """s(u, i) = <e_u, e_i>; of several `workers` each holds its own rows of the two tables."""

    def __init__(
        self, config: BPRConfig, train: Interactions, features: ItemFeatures, workers: ProcessGroup | None = None
    ) -> None:
        super().__init__()
        if workers and not config.sparse:
            raise ConfigError("bpr: train.embedding_sharding=row_wise needs sparse=true, found sparse=false")
        workers = workers or SINGLE_PROCESS
        self.reg, self.l2 = config.reg, losses.L2_FORMS[config.reg_form]
        self.users = xavier_rows(train.n_users, config.embedding_dim, workers)
        self.items = xavier_rows(train.n_items, config.embedding_dim, workers)
        self.tables: list[RowShardedEmbedding] = []
        if config.sparse:
            self.tables.append(RowShardedEmbedding(self.users, train.n_users, workers))
            self.tables.append(RowShardedEmbedding(self.items, train.n_items, workers))

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Return the user and item vectors that this worker holds: all of them, unless the tables are sharded."""
        return self.users.detach(), self.items.detach()

    def scorer(self) -> Scorer:
        scorer = dot_scorer(*self.vectors())
        if not self.tables or self.tables[0].workers.size == 1:
            return scorer
        users, items = self.tables
        return ShardedScorer(scorer.users, scorer.items, users.n, items.n, users.workers)

    def sharded_tables(self) -> list[RowShardedEmbedding]:
        """Return the tables of which each worker holds its own rows."""
        return self.tables

    def sparse_parameters(self) -> list[nn.Parameter]:
        """Return the tables of which a step touches few rows, with row-sparse gradients."""
        return [table.local for table in self.tables]

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        u, i, j = self._batch_embeddings(batch)
        return {
            "bpr": losses.bpr((u * i).sum(dim=1), (u * j).sum(dim=1)),
            "reg": self.reg * self.l2(u, i, j),
        }

    def _batch_embeddings(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The embeddings of users, positive and negative items, [b, dim] each."""
        if self.tables:
            users, items = self.tables
            i, j = items(torch.cat([batch.positives, batch.negatives])).chunk(2)
            return users(batch.users), i, j
        return gather_batch(batch, self.users, self.items)


SPEC = ModelSpec(
    name="bpr",
    model=BPR,
    config=BPRConfig,
    uses_content=False,
    paper="Rendle et al. 2009, arXiv 1205.2618",
    search_space={
        "embedding_dim": EMBEDDING_DIM,
        "train.learning_rate": (5e-4, 1e-3, 2e-3, 5e-3),
        "reg": (1e-3, 1e-2, 3e-2, 0.1, 0.3),
    },
    supports_sharding=True,
    small={"embedding_dim": 8},
)
