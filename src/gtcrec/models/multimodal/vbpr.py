"""VBPR: matrix factorisation with factors of content (He & McAuley 2016, arXiv 1510.01784)."""

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.base import CONTENT_SCALING, EMBEDDING_DIM, ContentModelConfig, ModelSpec
from gtcrec.models.embeddings import xavier_embeddings
from gtcrec.models.modalities import module_keys
from gtcrec.ops import losses
from gtcrec.ops.scorers import dot_scorer, gather_batch
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer, TrainableModel

__all__ = ["SPEC", "VBPR", "VBPRConfig"]


class VBPRConfig(ContentModelConfig):
    """Settings of VBPR; lengths as the field compares it (MMRec, Zhou 2023, arXiv 2302.03497), `reg` by validation.

    The paper has 10 + 10 factors, and both it and MMRec tune `reg` per data set.
    """

    embedding_dim: int = Field(64, ge=1, description="length of the identity factors")
    content_dim: int = Field(64, ge=1, description="length of each modality's factors")
    reg: float = Field(0.1, ge=0, description="lambda: of the L2 term on the factors and biases, content's among them")


class VBPR(nn.Module, TrainableModel):
    """s(u, i) = b_i + <g_u, g_i> + sum_m <t_um, E_m x_im> + <b_m, x_im>, eq. 4; x is content as it was given.

    The offset and the users' biases are left out: they cancel in BPR and in a user's ranking.

    Differs from the paper in two points. There are any number of modalities, each with its own E_m, b_m and user
    factors; with one modality it is the paper's model. (Others project all modalities at once, joined end to end, to
    one set of factors.) And the L2 term is of what content adds to an item, E_m x_im and <b_m, x_im>, as MMRec has it;
    the paper leaves both alone (lambda_E = 0), and then E_m learns the training pairs by heart: no model found so was
    ahead of the popular items on `tiktok`. A modality that an item lacks adds nothing to its scores.
    """

    def __init__(self, config: VBPRConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.config = config
        self.keys = module_keys(features.names)
        self.users, self.items = xavier_embeddings(train, config.embedding_dim)
        self.bias = nn.Parameter(torch.zeros(train.n_items))
        self.tastes = nn.ParameterDict()
        self.projections = nn.ModuleDict()
        for m, key in self.keys.items():
            self.register_buffer(f"x_{key}", _zero_absent(features, m), persistent=False)
            tastes = torch.empty(train.n_users, config.content_dim)
            self.tastes[key] = nn.Parameter(nn.init.xavier_uniform_(tastes))
            both = nn.Linear(features.values[m].shape[1], config.content_dim + 1, bias=False)  # E_m, then b_m
            nn.init.zeros_(both.weight.data[-1])
            self.projections[key] = both

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        users: list[Tensor] = [self.users]
        items: list[Tensor] = [self.items]
        bias: Tensor = self.bias
        for key in self.keys.values():
            factors, content_bias = self._project_content(key, getattr(self, f"x_{key}"))
            users.append(self.tastes[key])
            items.append(factors)
            bias = bias + content_bias
        one = torch.ones_like(self.users[:, :1])
        return torch.cat([*users, one], dim=1), torch.cat([*items, bias[:, None]], dim=1)

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        u, i, j = gather_batch(batch, self.users, self.items)
        bias_i, bias_j = (self.bias.index_select(0, side) for side in batch[1:])  # [b]
        gap, moved = (u * (i - j)).sum(dim=1) + bias_i - bias_j, [u, i, j, bias_i, bias_j]
        for key in self.keys.values():
            t, i, j = gather_batch(batch, self.tastes[key], getattr(self, f"x_{key}"))
            (factors_i, bias_i), (factors_j, bias_j) = self._project_content(key, i), self._project_content(key, j)
            gap = gap + (t * (factors_i - factors_j)).sum(dim=1) + bias_i - bias_j
            moved += [t, factors_i, factors_j, bias_i, bias_j]
        return {"bpr": F.softplus(-gap).mean(), "reg": self.config.reg * losses.squared_norm(*moved)}

    def _project_content(self, key: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """E_m x [n, content_dim] and <b_m, x> [n] of content x [n, d_m]."""
        both: Tensor = self.projections[key](x)
        return both[:, :-1], both[:, -1]


def _zero_absent(features: ItemFeatures, m: str) -> Tensor:
    """A modality's content with absent items at 0, which adds nothing; it is copied only where it is not so already."""
    x, absent = features.values[m], ~features.present[m]
    return torch.from_numpy(np.where(absent[:, None], np.float32(0), x) if x[absent].any() else x)


SPEC = ModelSpec(
    name="vbpr",
    model=VBPR,
    config=VBPRConfig,
    paper="He & McAuley 2016, arXiv 1510.01784",
    # The values of `reg` are those of MMRec, whose L2 term is of norms that are not squared.
    search_space={
        "embedding_dim": EMBEDDING_DIM,
        "content_scaling": CONTENT_SCALING,
        "train.learning_rate": (5e-4, 1e-3, 2e-3, 5e-3),
        "reg": (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 2.0),
    },
    small={"embedding_dim": 8, "content_dim": 8},
)
