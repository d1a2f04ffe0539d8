"""MGCN: content that behaviour purifies, propagated in views of its own and fused by behaviour.

After "Multi-View Graph Convolutional Network for Multimedia Recommendation" (Yu et al. 2023, arXiv 2308.03588).
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.base import (
    CONTENT_SCALING,
    EMBEDDING_DIM,
    ContentModelConfig,
    ModelSpec,
    NumWalks,
    Propagation,
    check_sampled,
)
from gtcrec.models.embeddings import init_from_als, xavier_embeddings
from gtcrec.models.modalities import linear_of, register_content
from gtcrec.models.random_walks import collect_walks, random_walks, sample_neighbors
from gtcrec.models.sampled_propagation import WALKS_PER_NEIGHBOR, SampledPropagation, mean_of_hops
from gtcrec.ops import graph, losses
from gtcrec.ops import neighbors as similarity
from gtcrec.ops.scorers import dot_scorer
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer, TrainableModel

__all__ = ["MGCN", "SPEC", "MGCNConfig"]


class MGCNConfig(ContentModelConfig):
    """Settings of MGCN, as its authors publish them; the start from least squares (`init`) is GTC's."""

    embedding_dim: int = Field(64, ge=1, description="length of the embeddings")
    num_layers: int = Field(2, ge=0, description="hops over the user-item graph")
    num_item_layers: int = Field(1, ge=1, description="hops over a modality's item graph")
    num_item_neighbors: int = Field(
        10, ge=1, description="nearest items by a modality's content, the item itself included"
    )
    contrast_weight: float = Field(0.01, ge=0, description="lambda_C: of the contrast of content and behaviour")
    temperature: float = Field(0.2, ge=0.03, description="tau: of the contrast")
    reg: float = Field(1e-4, ge=0, description="lambda: of the L2 term on the scored vectors")
    init: Literal["random", "als"] = Field(
        "random", description="of the embeddings; als: the factors of alternating least squares over all pairs"
    )
    unobserved_weight: float = Field(
        4.0, gt=0, description="of all pairs' squared scores, as a multiple of the observed pairs' (init=als)"
    )
    als_reg: float = Field(0.05, gt=0, description="of the squared factors (init=als)")
    train_content: bool = Field(False, description="train the raw content too, as the published code does")
    propagation: Propagation = "full"
    num_walks: NumWalks = 4

    @model_validator(mode="after")
    def _check_sampled(self) -> "MGCNConfig":
        check_sampled(self, num_item_layers=1, train_content=False)
        return self


class _PropagatedContent(NamedTuple):
    """Content as it was at the last refresh."""

    purified: dict[str, Tensor]  # of each modality, [n_items, dim]
    users: Tensor  # h, [n_users, M * dim]
    items: Tensor


class MGCN(nn.Module, TrainableModel):
    """s(u, i) = <z_u + c_u, z_i + c_i>: behaviour z from LightGCN, content c fused from one view for each modality.

    Purifier: e_i * sigmoid(V_m (W_m x_im + b_m)), e_i the item's embedding. Item view: S_m^L of it; a user has the sum
    over its items as in LightGCN's hop, h_um = sum_i h_im / sqrt(deg(u) deg(i)). Fuser, of a user or an item: shared =
    sum_m a_m h_m, a = softmax_m q^T tanh(Q h_m), and c = (shared + sum_m sigmoid(P_m z) * (h_m - shared)) / (1 + M).
    The loss is BPR + lambda_C InfoNCE(c -> z) of the batch's users and positive items + L2.

    The mean over 1 + M is the published code's; the paper adds the shared part to the mean of the others (eq. 15).
    Content x is as it was given, or trained; item graphs are of the given one. Of a modality that an item lacks, or
    none of a user's items has, nothing takes part; M then counts the others, and who has no modality is in no contrast.
    Without modalities it is LightGCN.
    """

    items_have: Tensor
    users_have: Tensor

    def __init__(
        self, config: MGCNConfig, train: Interactions, features: ItemFeatures, init_weights: bool = True
    ) -> None:
        super().__init__()
        self.config = config
        self.keys = register_content(self, features, config.train_content)
        self.users, self.items = xavier_embeddings(train, config.embedding_dim)
        if config.init == "als" and init_weights:
            init_from_als(train, self.users, self.items, config.unobserved_weight, config.als_reg)
        self.r = graph.SparseMatrix(graph.bipartite(train))
        self.projections, self.gates, self.views = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for m, key in self.keys.items():
            x, present = features.values[m], features.present[m]
            self.projections[key] = nn.Linear(x.shape[1], config.embedding_dim)
            self.gates[key] = nn.Linear(config.embedding_dim, config.embedding_dim)
            self.views[key] = graph.SparseMatrix(similarity.cosine_graph(x, present, config.num_item_neighbors))
        if self.keys:
            self.fuser = Fuser(config.embedding_dim, len(self.keys))
            has = np.stack([features.present[m] for m in self.keys], axis=1)  # [n_items, M]
            self.register_buffer("items_have", torch.from_numpy(has), persistent=False)
            some = train.matrix() @ has.astype(np.float32) > 0  # [n_users, M]
            self.register_buffer("users_have", torch.from_numpy(some), persistent=False)

        self.sampled: SampledPropagation | None = None
        self._content: _PropagatedContent | None = None  # since the last refresh
        if config.propagation == "sampled":
            self.sampled = SampledPropagation(self, self.users, self.items, self._behavior_vectors)

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        behaviours = self._behavior_vectors()
        if not self.keys:
            return behaviours
        users, items = (
            z + self.fuser(z, h, have)
            for z, h, have in zip(behaviours, self._content_vectors(), (self.users_have, self.items_have), strict=True)
        )
        return users, items

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        places, at, counts = _distinct_nodes(batch)
        z = self._step_behaviors(places, rng)
        scored, terms = z, {}
        if self.keys:
            contents, apart = [], []
            views = zip(self._step_contents(places, rng), (self.users_have, self.items_have), strict=True)
            for side, (h, have) in enumerate(views):
                has = have[places[side]]  # [n, M]
                contents.append(self.fuser(z[side], h, has))
                times = counts[side] * has.any(dim=1)
                apart.append(losses.cosine_info_nce(contents[side], z[side], self.config.temperature, times))
            scored = [one + content for one, content in zip(z, contents, strict=True)]
            terms["contrast"] = self.config.contrast_weight * torch.stack(apart).sum()
        u = F.embedding(at[0], scored[0])  # [b, dim]
        i, j = F.embedding(at[1], scored[1]).chunk(2)
        terms["bpr"] = losses.bpr((u * i).sum(dim=1), (u * j).sum(dim=1))
        terms["reg"] = self.config.reg * losses.squared_norm(u, i, j)
        return terms

    def refresh(self) -> None:
        """Let sampled steps start from the current weights; training calls it before an epoch."""
        self._content = None
        if self.sampled:
            self.sampled.forget()

    def sparse_parameters(self) -> list[nn.Parameter]:
        """Return the tables of which a sampled step touches few rows."""
        return self.sampled.parameters() if self.sampled else []

    def _step_behaviors(self, places: list[Tensor], rng: torch.Generator) -> list[Tensor]:
        """z of some users and items, [n, dim] each."""
        if self.sampled is None:
            return [F.embedding(one, all_) for one, all_ in zip(places, self._behavior_vectors(), strict=True)]
        users, items = places
        walks = mean_of_hops(self.r, users, items, self.config.num_layers, self.config.num_walks, rng)
        return list(self.sampled.estimate(walks, users, items).over_graph)

    def _step_contents(self, places: list[Tensor], rng: torch.Generator) -> list[Tensor]:
        """h of some users and items, [n, M * dim] each."""
        users, items = places
        if self.sampled is None:
            of_users, of_items = self._content_vectors(users)
            return [of_users, F.embedding(items, of_items)]
        before = self._content or self._keep_content()
        drift = torch.cat([self._drift(key, before.purified[key], places, rng) for key in self.keys.values()], dim=1)
        return [
            F.embedding(users, before.users) + drift[: len(users)],
            F.embedding(items, before.items) + drift[len(users) :],
        ]

    def _drift(self, key: str, before: Tensor, places: list[Tensor], rng: torch.Generator) -> Tensor:
        """Estimate how far a modality's h of some users and items is from the kept one, [n_users + n_items, dim].

        A user is one hop and one content neighbour away from what is purified, an item one content neighbour.
        """
        (users, items), near, walks = places, self.views[key], self.config.num_walks
        assert self.sampled is not None
        assert isinstance(near, graph.SparseMatrix)
        [(at, weights)] = random_walks(self.r, users, True, walks, 1, rng)
        nodes, times = sample_neighbors(near, at.flatten(), 1, rng)
        rows = torch.arange(len(users) + len(items), device=users.device)
        of_users = rows[: len(users)], nodes.view_as(at), weights * times.view_as(at)
        of_items = rows[len(users) :], *sample_neighbors(near, items, -(-walks // WALKS_PER_NEIGHBOR), rng)
        sums = collect_walks(len(rows), of_users, of_items)
        now = self._purify(key, self.sampled.tables[1](sums.nodes), F.embedding(sums.nodes, getattr(self, f"x_{key}")))
        found, _ = sums.drift(now, F.embedding(sums.nodes, before), sums.nodes[:0])
        return found

    @torch.no_grad()
    def _keep_content(self) -> _PropagatedContent:
        keys = self.keys.values()
        purified = {key: self._purify(key, self.items, getattr(self, f"x_{key}")) for key in keys}
        self._content = _PropagatedContent(purified, *self._content_vectors())
        return self._content

    def _purify(self, key: str, embeddings: Tensor, x: Tensor) -> Tensor:
        """e * sigmoid(V (W x + b)) of items with embeddings [n, dim] and content x [n, width]."""
        projection, gate = linear_of(key, self.projections), linear_of(key, self.gates)
        with torch.autocast(x.device.type, enabled=False):
            gates = F.linear(x, gate.weight @ projection.weight, gate(projection.bias))  # of the projected x
        return embeddings * torch.sigmoid(gates)

    def _behavior_vectors(self) -> tuple[Tensor, Tensor]:
        """z of users [n_users, dim] and items [n_items, dim]."""
        return graph.light_propagation(self.r, self.users, self.items, self.config.num_layers)

    def _content_vectors(self, users: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """h of users [n, M * dim], all or some, and of all items [n_items, M * dim], the modalities side by side."""
        views = []
        for key in self.keys.values():
            h = self._purify(key, self.items, getattr(self, f"x_{key}"))  # [n_items, dim]
            for _ in range(self.config.num_item_layers):
                h = self.views[key](h)  # absent items are in no row and no column
            views.append(h)
        items = torch.cat(views, dim=1)
        return self.r(items) if users is None else self.r.rows(users, items), items


class Fuser(nn.Module):
    """c = (shared + sum_m sigmoid(P_m z) * (h_m - shared)) / (1 + M) over the modalities m that a row has."""

    def __init__(self, dim: int, modalities: int) -> None:
        super().__init__()
        self.query = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1, bias=False))
        self.preference = nn.Linear(dim, modalities * dim)

    def forward(self, z: Tensor, h: Tensor, have: Tensor) -> Tensor:
        """Return c [n, dim] for z [n, dim], h [n, M * dim] and `have` bool [n, M]; 0 where a row has no modality."""
        h = h.view(len(h), have.shape[1], -1)  # [n, M, dim], 0 where absent
        attention = self.query(h)[:, :, 0].masked_fill(~have, torch.finfo(h.dtype).min)
        shared = (attention.softmax(dim=1)[:, :, None] * h).sum(dim=1)  # [n, dim]
        gate = torch.sigmoid(self.preference(z)).view_as(h)
        specific = ((h - shared[:, None]) * gate * have[:, :, None]).sum(dim=1)
        c: Tensor = (shared + specific) / (1 + have.sum(dim=1, keepdim=True))
        return c


def _distinct_nodes(batch: Batch) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The batch's distinct users and items, and for either side its place among them and its number of positive pairs.

    Items are those of the positives, then the negatives. Nothing is computed twice for a user or item of many pairs.
    """
    users, at_users, pairs = torch.unique(batch.users, return_inverse=True, return_counts=True)
    items, at_items = torch.unique(torch.cat(batch[1:]), return_inverse=True)
    positives = torch.bincount(at_items[: len(batch.users)], minlength=len(items))
    return [users, items], [at_users, at_items], [pairs, positives]


SPEC = ModelSpec(
    name="mgcn",
    model=MGCN,
    config=MGCNConfig,
    paper="Yu et al. 2023, arXiv 2308.03588",
    presets={
        "default": ({}, {"lr_decay": "exponential"}),
        "sampled": ({"propagation": "sampled"}, {"lr_decay": "exponential"}),
    },
    # The grid of `contrast_weight` is that of MMRec (Zhou 2023, arXiv 2302.03497).
    search_space={
        "embedding_dim": EMBEDDING_DIM,
        "content_scaling": CONTENT_SCALING,
        "train.learning_rate": (5e-4, 1e-3, 2e-3, 5e-3),
        "num_layers": (1, 2, 3),
        "contrast_weight": (1e-3, 1e-2, 0.1),
    },
    supports_deferred_init=True,
    small={"embedding_dim": 8},
)
