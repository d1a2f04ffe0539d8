"""LightGCN: embeddings averaged over a few hops of the user-item graph (He et al. 2020, arXiv 2002.02126)."""

from functools import partial
from typing import Literal

import torch
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor, nn

from gtcrec.models.base import EMBEDDING_DIM, ModelConfig, ModelSpec, NumWalks, Propagation, RegForm
from gtcrec.models.embeddings import init_from_als, xavier_embeddings
from gtcrec.models.sampled_propagation import SampledPropagation, Walks, mean_of_hops
from gtcrec.ops import graph, losses
from gtcrec.ops.fold_in import fold_in_users, new_user_rows
from gtcrec.ops.scorers import dot_scorer, gather_batch
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer, TrainableModel

__all__ = ["SPEC", "LightGCN", "LightGCNConfig"]


class LightGCNConfig(ModelConfig):
    """Settings of LightGCN; the paper's, section 4.1.2. MMRec (Zhou 2023, arXiv 2302.03497) has an L2 term of norms.

    The start from least squares is GTC's, with its defaults: so one sees what a lead owes to the start.
    """

    embedding_dim: int = Field(64, ge=1, description="length of the embeddings")
    num_layers: int = Field(3, ge=0, description="hops of propagation")
    reg: float = Field(1e-4, ge=0, description="weight of the L2 term on the unpropagated embeddings")
    reg_form: RegForm = Field("half_squares", description="of the L2 term: half_squares (paper) or norms (MMRec)")
    init: Literal["random", "als"] = Field(
        "random", description="of the embeddings; als: the factors of alternating least squares over all pairs"
    )
    unobserved_weight: float = Field(
        4.0, gt=0, description="of all pairs' squared scores, as a multiple of the observed pairs' (init=als)"
    )
    als_reg: float = Field(0.05, gt=0, description="of the squared factors (init=als)")
    propagation: Propagation = "full"
    num_walks: NumWalks = 4


class LightGCN(nn.Module, TrainableModel):
    """s(u, i) = <z_u, z_i>, z the mean of an embedding's first hops.

    With `init_weights` false, nothing is solved for: saved weights are loaded next.
    """

    def __init__(
        self, config: LightGCNConfig, train: Interactions, features: ItemFeatures, init_weights: bool = True
    ) -> None:
        super().__init__()
        self.config, self.layers = config, config.num_layers
        self.reg, self.l2 = config.reg, losses.L2_FORMS[config.reg_form]
        self.users, self.items = xavier_embeddings(train, config.embedding_dim)
        if config.init == "als" and init_weights:
            init_from_als(train, self.users, self.items, config.unobserved_weight, config.als_reg)
        self.item_counts = train.item_counts
        self.r = graph.SparseMatrix(graph.bipartite(train))
        self.sampled: SampledPropagation | None = None
        if config.propagation == "sampled":
            self.sampled = SampledPropagation(self, self.users, self.items, self.vectors)

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        return graph.light_propagation(self.r, self.users, self.items, self.layers)

    @torch.no_grad()
    def fold_in(self, history: csr_array) -> Tensor:
        rows = new_user_rows(history, self.item_counts)
        return fold_in_users(rows, self.r, self.users, self.items, self.layers) @ self.vectors()[1].T

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())

    def refresh(self) -> None:
        """Let sampled steps start from the current weights; training calls it before an epoch."""
        if self.sampled:
            self.sampled.forget()

    def sparse_parameters(self) -> list[nn.Parameter]:
        """Return the tables of which a sampled step touches few rows."""
        return self.sampled.parameters() if self.sampled else []

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        if self.sampled:
            ego, (u, i, j) = self.sampled.estimate_batch(batch, partial(self._walk, rng))
        else:
            users, items = graph.light_propagation(self.r, self.users, self.items, self.layers)
            u, i, j = gather_batch(batch, users, items)
            ego = gather_batch(batch, self.users, self.items)
        return {"bpr": losses.bpr((u * i).sum(dim=1), (u * j).sum(dim=1)), "reg": self.reg * self.l2(*ego)}

    def _walk(self, rng: torch.Generator, users: Tensor, items: Tensor) -> Walks:
        return mean_of_hops(self.r, users, items, self.layers, self.config.num_walks, rng)


SPEC = ModelSpec(
    name="lightgcn",
    model=LightGCN,
    config=LightGCNConfig,
    uses_content=False,
    presets={"default": ({}, {}), "sampled": ({"propagation": "sampled"}, {})},
    paper="He et al. 2020, arXiv 2002.02126",
    search_space={
        "embedding_dim": EMBEDDING_DIM,
        "train.learning_rate": (5e-4, 1e-3, 2e-3, 5e-3),
        "num_layers": (1, 2, 3, 4),
        "reg": (1e-6, 1e-5, 1e-4, 1e-3, 1e-2),
    },
    supports_deferred_init=True,
    small={"embedding_dim": 8},
)
