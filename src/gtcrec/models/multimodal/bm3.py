"""BM3: views made by dropout and pulled together, without negatives.

After "Bootstrap Latent Representations for Multi-modal Recommendation" (Zhou et al. 2023, arXiv 2207.05969).
"""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.base import Space
from gtcrec.models.modalities import module_keys
from gtcrec.ops import graph
from gtcrec.ops.scorers import dot_scorer
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer

__all__ = ["BM3", "SPACE", "BM3Config"]


class BM3Config(BaseModel):
    """Settings of BM3, as its authors publish them in MMRec (Zhou 2023, arXiv 2302.03497).

    They tune `layers`, `dropout` and `reg` per data set; each default is one of their candidates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(64, ge=1, description="length of the embeddings")
    layers: int = Field(1, ge=0, description="hops over the user-item graph")
    dropout: float = Field(0.3, ge=0, lt=1, description="share of a target view's numbers that are set to 0")
    content_weight: float = Field(2.0, ge=0, description="of the alignment losses between and within modalities")
    reg: float = Field(0.1, ge=0, description="lambda: of the norms of the propagated embeddings")


SPACE: Space = {
    "train.learning_rate": (5e-4, 1e-3, 2e-3, 5e-3),
    "layers": (1, 2),
    "dropout": (0.3, 0.5),
    "reg": (1e-2, 0.1),
}
"""The authors' grid of all but the learning rate."""


class BM3(nn.Module):
    """s(u, i) = <P h_u, P h_i>, P a linear predictor, h from LightGCN, to whose items the embeddings are added again.

    A liked pair's loss, with t(.) a target view: dropout of a representation, without gradient; C = 1 - cosine:
    reconstruction C(P h_u, t(h_i)) + C(P h_i, t(h_u)), and for each modality's h_im = W_m x_im + b_m between modalities
    C(P h_im, t(h_i)) and within them C(P h_im, t(h_im)). Content x is as it was given; a modality that an item lacks
    adds nothing to its pairs' losses. Content shapes the embeddings in training alone: no score reads it.

    Differs from the paper: targets are dropped for each pair of the batch, not once for all users and items, which are
    not needed. The L2 term is the published code's; of squared norms in its place, a weight of 0.1 undoes the
    reconstruction (validation recall@20 on tiktok falls to a quarter of its best within 30 epochs).
    """

    def __init__(self, config: BM3Config, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.config = config
        self.users = nn.Parameter(nn.init.xavier_uniform_(torch.empty(train.n_users, config.dim)))
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(train.n_items, config.dim)))
        self.predictor = nn.Linear(config.dim, config.dim)
        self.r = graph.SparseMatrix(graph.bipartite(train))
        self.keys = module_keys(features.names) if config.content_weight > 0 else {}
        self.projections = nn.ModuleDict()
        for m, key in self.keys.items():
            self.register_buffer(f"x_{key}", torch.from_numpy(features.values[m]), persistent=False)
            self.register_buffer(f"present_{key}", torch.from_numpy(features.present[m]), persistent=False)
            self.projections[key] = nn.Linear(features.values[m].shape[1], config.dim)

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        users, items = self._propagated()
        return self.predictor(users), self.predictor(items)

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        users, items = self._propagated()
        u, i = F.embedding(batch.users, users), F.embedding(batch.positives, items)  # [b, dim]
        target_u, target_i = self._target(u, rng), self._target(i, rng)
        apart = _apart(self.predictor(u), target_i) + _apart(self.predictor(i), target_u)  # [b]
        terms = {"reconstruction": apart.mean(), "reg": self.config.reg * self._size(users, items)}
        between, within = [], []
        for key in self.keys.values():
            present = getattr(self, f"present_{key}")[batch.positives]  # [b]
            h = self.projections[key](F.embedding(batch.positives, getattr(self, f"x_{key}")))  # [b, dim]
            online = self.predictor(h)
            between.append((_apart(online, target_i) * present).mean())
            within.append((_apart(online, self._target(h, rng)) * present).mean())
        if self.keys:
            terms["between"] = self.config.content_weight * torch.stack(between).sum()
            terms["within"] = self.config.content_weight * torch.stack(within).sum()
        return terms

    def _propagated(self) -> tuple[Tensor, Tensor]:
        """Users [n_users, dim] and items [n_items, dim], before the predictor."""
        users, items = graph.light_propagation(self.r, self.users, self.items, self.config.layers)
        return users, items + self.items

    def _size(self, users: Tensor, items: Tensor) -> Tensor:
        """(|H_users| + |H_items|) / n_items, norms of the whole matrices: what the published values of `reg` weigh."""
        size: Tensor = (users.norm() + items.norm()) / len(items)
        return size

    def _target(self, h: Tensor, rng: torch.Generator) -> Tensor:
        """Dropout of h [b, dim] without gradient; what is kept is not scaled, which the cosine would not see."""
        kept = torch.rand(h.shape, generator=rng, device=rng.device) >= self.config.dropout
        return h.detach() * kept.to(h.device)


def _apart(online: Tensor, target: Tensor) -> Tensor:
    """1 - cosine of each row, [b]."""
    return 1 - F.cosine_similarity(online, target, dim=1)
