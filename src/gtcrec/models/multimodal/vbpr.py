"""VBPR: matrix factorisation with factors of content (He & McAuley 2016, arXiv 1510.01784)."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.base import CONTENT_SCALING, EMBEDDING_DIM, ContentModelConfig, ModelSpec, RegForm
from gtcrec.models.modalities import module_keys
from gtcrec.ops import losses
from gtcrec.ops.scorers import dot_scorer
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer, TrainableModel

__all__ = ["SPEC", "VBPR", "VBPRConfig"]


class VBPRConfig(ContentModelConfig):
    """Settings of VBPR; lengths and form as the field compares it (MMRec, Zhou 2023, arXiv 2302.03497).

    The paper has 10 + 10 factors, and both it and MMRec tune `reg` per data set. Of MMRec's values, 1 serves the
    validation part of `tiktok`; of half squares it was 0.1.
    """

    earlier_settings: ClassVar[Mapping[str, Any]] = {"content_projection": "separate", "reg_form": "half_squares"}

    embedding_dim: int = Field(64, ge=1, description="length of the identity factors")
    content_dim: int = Field(64, ge=1, description="length of the factors of content")
    content_projection: Literal["joined", "separate"] = Field(
        "joined", description="joined: one of all modalities side by side (MMRec); separate: factors of each modality"
    )
    biases: bool = Field(True, description="of items and of content, as in the paper; MMRec has none")
    reg: float = Field(1.0, ge=0, description="lambda: of the L2 term on the factors and biases, content's among them")
    reg_form: RegForm = Field("norms", description="of the L2 term: norms (MMRec) or half_squares")


class VBPR(nn.Module, TrainableModel):
    """s(u, i) = b_i + <g_u, g_i> + <t_u, E x_i + a> + <b, x_i>, eq. 4; x_i is item i's content as it was given.

    The offset and the users' biases are left out: they cancel in BPR and in a user's ranking. The paper has one
    modality. Of several, x_i has all side by side, as in MMRec; or each has its own E, b and user factors, without a.

    Differs from the paper in the L2 term, which is MMRec's: it weighs what content adds to an item, E x_i + a and
    <b, x_i>. The paper leaves both alone (lambda_E = 0), and then E learns the training pairs by heart: no model found
    so was ahead of the popular items on `tiktok`. A modality that an item lacks adds nothing to its scores.
    """

    def __init__(self, config: VBPRConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.config = config
        self.keys = module_keys(features.names)
        self.joined = bool(self.keys) and config.content_projection == "joined"
        groups = ["joined"] if self.joined else list(self.keys.values())
        widths = [config.embedding_dim, *(config.content_dim for _ in groups)]
        table = nn.init.xavier_uniform_(torch.empty(train.n_users, sum(widths)))
        users, *tastes = torch.split(table, widths, dim=1)
        self.users = nn.Parameter(users.clone())
        self.tastes = nn.ParameterDict({key: nn.Parameter(t.clone()) for key, t in zip(groups, tastes, strict=True)})
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(train.n_items, config.embedding_dim)))
        if config.biases:
            self.bias = nn.Parameter(torch.zeros(train.n_items))
        if self.joined:
            self.offset = nn.Parameter(torch.zeros(config.content_dim))  # a
        self.projections = nn.ModuleDict()
        total = sum(features.values[m].shape[1] for m in features.names)
        for m, key in self.keys.items():
            self.register_buffer(f"x_{key}", _zero_absent(features, m), persistent=False)
            width = features.values[m].shape[1]
            self.projections[key] = self._start_projection(width, total if self.joined else width)

    def _start_projection(self, width: int, inputs: int) -> nn.Linear:
        """Weights of one modality: E's, xavier-normal as part of a layer of so many inputs, then b's, which are 0."""
        dim = self.config.content_dim
        both = nn.Linear(width, dim + self.config.biases, bias=False)
        nn.init.zeros_(both.weight)
        nn.init.normal_(both.weight.data[:dim], std=math.sqrt(2 / (inputs + dim)))
        return both

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        factors, biases = self._encode_items(None)
        one = torch.ones_like(self.users[:, :1])
        users = torch.cat([self.users, *self.tastes.values(), one], dim=1)
        return users, torch.cat([factors, biases.sum(dim=1, keepdim=True)], dim=1)

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        u = torch.cat([F.embedding(batch.users, table) for table in (self.users, *self.tastes.values())], dim=1)
        (i, bias_i), (j, bias_j) = (self._encode_items(side) for side in (batch.positives, batch.negatives))
        gap = (u * (i - j)).sum(dim=1) + (bias_i - bias_j).sum(dim=1)  # [b]
        rows = u, torch.cat([i, bias_i], dim=1), torch.cat([j, bias_j], dim=1)
        return {"bpr": F.softplus(-gap).mean(), "reg": self.config.reg * losses.L2_FORMS[self.config.reg_form](*rows)}

    def _encode_items(self, items: Tensor | None) -> tuple[Tensor, Tensor]:
        """Factors [n, .] and biases [n, .] of items int64 [n], or of all: their own, then those of their content."""

        def rows(table: Tensor) -> Tensor:
            return table if items is None else F.embedding(items, table)

        dim = self.config.content_dim
        added = [self.projections[key](rows(getattr(self, f"x_{key}"))) for key in self.keys.values()]
        if self.joined:
            added = [torch.stack(added).sum(dim=0) + F.pad(self.offset, (0, int(self.config.biases)))]
        own = rows(self.items)
        bias = rows(self.bias[:, None]) if self.config.biases else own[:, :0]
        factors = torch.cat([own, *(one[:, :dim] for one in added)], dim=1)
        return factors, torch.cat([bias, *(one[:, dim:] for one in added)], dim=1)


def _zero_absent(features: ItemFeatures, m: str) -> Tensor:
    """A modality's content with absent items at 0, which adds nothing; it is copied only where it is not so already."""
    x, absent = features.values[m], ~features.present[m]
    return torch.from_numpy(np.where(absent[:, None], np.float32(0), x) if x[absent].any() else x)


SPEC = ModelSpec(
    name="vbpr",
    model=VBPR,
    config=VBPRConfig,
    paper="He & McAuley 2016, arXiv 1510.01784",
    # The values of `reg` are those of MMRec.
    search_space={
        "embedding_dim": EMBEDDING_DIM,
        "content_scaling": CONTENT_SCALING,
        "train.learning_rate": (5e-4, 1e-3, 2e-3, 5e-3),
        "reg": (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 2.0),
    },
    small={"embedding_dim": 8, "content_dim": 8},
)
