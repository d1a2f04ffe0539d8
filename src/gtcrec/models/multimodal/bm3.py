"""BM3: views made by dropout and pulled together, without negatives.

After "Bootstrap Latent Representations for Multi-modal Recommendation" (Zhou et al. 2023, arXiv 2207.05969).
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.base import ModelConfig, ModelSpec
from gtcrec.models.embeddings import xavier_embeddings
from gtcrec.models.modalities import register_content
from gtcrec.ops import graph
from gtcrec.ops.scorers import dot_scorer
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer, TrainableModel

__all__ = ["BM3", "SPEC", "BM3Config"]


class BM3Config(ModelConfig):
    """Settings of BM3, as its authors publish them in MMRec (Zhou 2023, arXiv 2302.03497).

    They tune `num_layers`, `dropout` and `reg` per data set; each default is one of their candidates.
    """

    embedding_dim: int = Field(64, ge=1, description="length of the embeddings")
    num_layers: int = Field(1, ge=0, description="hops over the user-item graph")
    dropout: float = Field(0.3, ge=0, lt=1, description="share of a target view's numbers that are set to 0")
    content_weight: float = Field(2.0, ge=0, description="of the alignment losses between and within modalities")
    reg: float = Field(0.1, ge=0, description="lambda: of the norms of the propagated embeddings")
    train_content: bool = Field(False, description="train the raw content too, as the published code does")


class BM3(nn.Module, TrainableModel):
    """s(u, i) = <P h_u, P h_i>, P a linear predictor, h from LightGCN, to whose items the embeddings are added again.

    A positive pair's loss, with t(.) a target view: dropout of a representation, without gradient; C = 1 - cosine:
    reconstruction C(P h_u, t(h_i)) + C(P h_i, t(h_u)), and for each modality's h_im = W_m x_im + b_m between modalities
    C(P h_im, t(h_i)) and within them C(P h_im, t(h_im)). Content x is as it was given, or trained. A modality that an
    item lacks adds nothing to its pairs' losses. Content shapes the embeddings in training alone: no score reads it.

    Differs from the paper: targets are dropped for each pair of the batch, not once for all users and items, which are
    not needed. The L2 term is the published code's; of squared norms in its place, a weight of 0.1 undoes the
    reconstruction (validation recall@20 on tiktok falls to a quarter of its best within 30 epochs).
    """

    def __init__(self, config: BM3Config, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.config = config
        self.users, self.items = xavier_embeddings(train, config.embedding_dim)
        self.predictor = _xavier_linear(config.embedding_dim, config.embedding_dim)
        self.r = graph.SparseMatrix(graph.bipartite(train))
        self.keys = register_content(self, features, config.train_content) if config.content_weight > 0 else {}
        self.projections = nn.ModuleDict()
        for m, key in self.keys.items():
            self.projections[key] = _xavier_linear(features.values[m].shape[1], config.embedding_dim)

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        users, items = self._propagate()
        return self.predictor(users), self.predictor(items)

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        users, items = self._propagate()
        u, i = F.embedding(batch.users, users), F.embedding(batch.positives, items)  # [b, dim]
        target_u, target_i = self._dropped_target(u, rng), self._dropped_target(i, rng)
        distance = _cosine_distance(self.predictor(u), target_i) + _cosine_distance(self.predictor(i), target_u)  # [b]
        terms = {"reconstruction": distance.mean(), "reg": self.config.reg * self._embedding_norm(users, items)}
        between, within = [], []
        for key in self.keys.values():
            present = getattr(self, f"present_{key}")[batch.positives]  # [b]
            h = self.projections[key](F.embedding(batch.positives, getattr(self, f"x_{key}")))  # [b, dim]
            online = self.predictor(h)
            between.append((_cosine_distance(online, target_i) * present).mean())
            within.append((_cosine_distance(online, self._dropped_target(h, rng)) * present).mean())
        if self.keys:
            terms["between"] = self.config.content_weight * torch.stack(between).sum()
            terms["within"] = self.config.content_weight * torch.stack(within).sum()
        return terms

    def _propagate(self) -> tuple[Tensor, Tensor]:
        """Users [n_users, dim] and items [n_items, dim], before the predictor."""
        users, items = graph.light_propagation(self.r, self.users, self.items, self.config.num_layers)
        return users, items + self.items

    def _embedding_norm(self, users: Tensor, items: Tensor) -> Tensor:
        """(|H_users| + |H_items|) / n_items, norms of the whole matrices: what the published values of `reg` weigh."""
        size: Tensor = (users.norm() + items.norm()) / len(items)
        return size

    def _dropped_target(self, h: Tensor, rng: torch.Generator) -> Tensor:
        """Dropout of h [b, dim] without gradient; what is kept is not scaled, which the cosine would not see."""
        kept = torch.rand(h.shape, generator=rng, device=rng.device) >= self.config.dropout
        return h.detach() * kept.to(h.device)


def _xavier_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer whose weights start xavier-normal, as in the published code; its bias starts as torch has it."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_normal_(layer.weight)
    return layer


def _cosine_distance(online: Tensor, target: Tensor) -> Tensor:
    """1 - cosine of each row, [b]."""
    return 1 - F.cosine_similarity(online, target, dim=1)


SPEC = ModelSpec(
    name="bm3",
    model=BM3,
    config=BM3Config,
    paper="Zhou et al. 2023, arXiv 2207.05969",
    # The authors' grid of all but the learning rate.
    search_space={
        "train.learning_rate": (5e-4, 1e-3, 2e-3, 5e-3),
        "num_layers": (1, 2),
        "dropout": (0.3, 0.5),
        "reg": (1e-2, 0.1),
    },
    small={"embedding_dim": 8},
)
