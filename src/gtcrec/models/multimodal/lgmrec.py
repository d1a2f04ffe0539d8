"""LGMRec: local embeddings of identity and content over the user-item graph, global ones over learned hyperedges.

After "LGMRec: Local and Global Graph Learning for Multimodal Recommendation" (Guo et al. 2024, arXiv 2312.16400).
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.base import CONTENT_SCALING, EMBEDDING_DIM, ContentModelConfig, ModelSpec
from gtcrec.models.embeddings import UserItemVectors, xavier_embeddings
from gtcrec.models.modalities import linear_of, register_content
from gtcrec.ops import graph, losses
from gtcrec.ops.scorers import dot_scorer, gather_batch
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer, TrainableModel

__all__ = ["SPEC", "LGMRec", "LGMRecConfig"]


class LGMRecConfig(ContentModelConfig):
    """Settings of LGMRec; those that the paper publishes for `baby`."""

    embedding_dim: int = Field(64, ge=1, description="length of the embeddings")
    num_layers: int = Field(2, ge=0, description="hops of the identity over the user-item graph")
    num_content_layers: int = Field(2, ge=0, description="K: hops of content over the user-item graph")
    num_hyperedges: int = Field(4, ge=1, description="A: hyperedges per modality")
    num_hyper_layers: int = Field(1, ge=1, description="H: hops over the hypergraph")
    temperature: float = Field(0.2, gt=0, description="tau of the dependencies and of the contrast")
    dropout: float = Field(0.5, ge=0, lt=1, description="share of the dependencies that a step leaves out")
    global_weight: float = Field(0.3, ge=0, description="alpha: of the global embeddings")
    contrast_weight: float = Field(1e-4, ge=0, description="lambda_1: of the hypergraph contrast, a sum over the batch")
    reg: float = Field(1e-6, ge=0, description="lambda_2: of the norms of the scored vectors")


class _Embeddings(NamedTuple):
    """All users and items: identity [n, dim], dependency [M, n, A]; `edges` [M, A, dim].

    `content` has e_m [n, dim] of the modalities that are wide.
    """

    identity: UserItemVectors
    content: Mapping[str, UserItemVectors]
    dependency: UserItemVectors
    edges: Tensor


class LGMRec(nn.Module, TrainableModel):
    """s(u, i) = <z_u, z_i>, z = e + sum_m norm(e_m) + alpha norm(sum_m g_m).

    e is LightGCN's embedding; e_m = (A^K [P W_m x_m; W_m x_m]), A the user-item graph and P the mean over the user's
    items (section "local graph embedding"). Items depend on hyperedges by D_m = softmax((V_m x_m + noise) / tau), users
    by the sum of their items' V_m x_m, and the global embedding is g_m = D_m (D_m^T e) with the items' D_m and e, H
    times ("global hypergraph embedding").

    The loss is BPR, the norms of the batch's scored rows by the batch's size, and a contrast of the modalities' g_m:
    of each user and positive item of the batch, every time that it stands there, -ln of the softmax over all users or
    items v of cos(g_m(u), g_m'(v)) / tau at itself. It is a sum over the batch, not a mean, as in the published code,
    whose lambda_1 is small for that. m comes before m' by name: image is contrasted with text. Of more than two
    modalities the pairs are averaged. Of several workers each sums its own part, which weighs as many times less.

    An item that lacks a modality depends on none of its hyperedges, has no part in P and does not take part in the
    contrast; nor does a user all of whose items lack it.

    As A^K and P are linear, a content goes over the graph once, before it is projected, if it is at most 1,024 wide:
    e_m is then projected for the rows of a step alone. Of wider ones the users' share would take much memory.

    Differs from the published code: the noise, Gumbel's, is for training alone, so that scores repeat. Differs from the
    paper with it: the noise is not logistic, one draw of the dropout serves all hops of a step, the contrast goes one
    way, and the norms are not squared and not of the unpropagated embeddings.
    """

    present: Tensor
    user_counts: Tensor

    def __init__(self, config: LGMRecConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.config = config
        self.names = features.names
        self.keys = register_content(self, features)
        self.users, self.items = xavier_embeddings(train, config.embedding_dim)
        self.r = graph.SparseMatrix(graph.bipartite(train))
        if not self.names:
            return
        self.interactions = graph.SparseMatrix(train.matrix())
        present = np.stack([features.present[m] for m in self.names]).astype(np.float32)  # [M, n_items]
        self.register_buffer("present", torch.from_numpy(present), persistent=False)
        user_counts = (train.matrix() @ present.T).T.astype(
            np.float32
        )  # the user's items with the modality, [M, n_users]
        self.register_buffer("user_counts", torch.from_numpy(user_counts), persistent=False)
        self.projections = nn.ModuleDict()
        for number, m in enumerate(self.names):
            width = features.values[m].shape[1]
            linear = nn.Linear(width, config.embedding_dim + config.num_hyperedges, bias=False)  # W_m above V_m
            for part in torch.split(linear.weight.data, [config.embedding_dim, config.num_hyperedges]):
                nn.init.xavier_uniform_(part)
            self.projections[self.keys[m]] = linear
            if width <= _WIDE:
                x = getattr(self, f"x_{self.keys[m]}")
                for name, side in self._propagate_content(number, x * self.present[number, :, None])._asdict().items():
                    self.register_buffer(f"{name}_{self.keys[m]}", side, persistent=False)

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        if not self.names:
            return graph.light_propagation(self.r, self.users, self.items, self.config.num_layers)
        e = self._embeddings(None)
        every = [torch.arange(len(side), device=side.device) for side in (self.users, self.items)]
        return self._fuse_local_and_global(e, 0, every[0]), self._fuse_local_and_global(e, 1, every[1])

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        config, contrast = self.config, {}
        if self.names:
            e = self._embeddings(rng)
            i, j = self._fuse_local_and_global(e, 1, torch.cat(batch[1:])).chunk(2)
            u = self._fuse_local_and_global(e, 0, batch.users)
            if len(self.names) > 1 and config.contrast_weight > 0:
                users, items = (self._contrast_modalities(e, side, batch[side]) for side in (0, 1))
                contrast["contrast"] = config.contrast_weight * (users + items)
        else:
            users, items = graph.light_propagation(self.r, self.users, self.items, config.num_layers)
            u, i, j = gather_batch(batch, users, items)
        bpr = losses.bpr((u * i).sum(dim=1), (u * j).sum(dim=1))
        return {"bpr": bpr, **contrast, "reg": config.reg * losses.summed_norm(u, i, j)}

    def _embeddings(self, rng: torch.Generator | None) -> _Embeddings:
        """Identity, content, and what users and items depend on; noise and dropout if there is an `rng`."""
        identity = UserItemVectors(*graph.light_propagation(self.r, self.users, self.items, self.config.num_layers))
        logits, content = self._project_content()
        by_user = torch.stack(self.interactions(logits.flatten(1)).chunk(len(self.names), dim=1))  # [M, n_users, A]
        by_item = logits.transpose(0, 1)
        on = UserItemVectors(
            self._hyperedge_dependency(by_user, self.user_counts > 0, rng),
            self._hyperedge_dependency(by_item, self.present > 0, rng),
        )
        edges = on.items.mT @ identity.items  # [M, A, dim]
        for _ in range(self.config.num_hyper_layers - 1):
            edges = (on.items.mT @ on.items) @ edges
        return _Embeddings(identity, content, on, edges)

    def _project_content(self) -> tuple[Tensor, dict[str, UserItemVectors]]:
        """V_m x of all modalities, [n_items, M, A], 0 for items that lack m, and e_m of the wide ones."""
        logits, content = [], {}
        for number, key in enumerate(self.keys.values()):
            x, has, both = (
                getattr(self, f"x_{key}"),
                self.present[number, :, None],
                linear_of(key, self.projections).weight,
            )
            wide = x.shape[1] > _WIDE
            with torch.autocast(x.device.type, enabled=False):
                found = F.linear(x, both if wide else both[self.config.embedding_dim :]) * has
            if wide:
                h, found = torch.split(found, [self.config.embedding_dim, self.config.num_hyperedges], dim=1)
                content[key] = self._propagate_content(number, h)
            logits.append(found)
        return torch.stack(logits, dim=1), content

    def _propagate_content(self, number: int, h: Tensor) -> UserItemVectors:
        """The last of K hops from a modality's content h [n_items, d] and its mean over the users' items."""
        users, items = self.interactions(h) / self.user_counts[number, :, None].clamp(min=1), h
        for _ in range(self.config.num_content_layers):
            users, items = self.r(items), self.r.transposed(users)
        return UserItemVectors(users, items)

    def _hyperedge_dependency(self, logits: Tensor, some: Tensor, rng: torch.Generator | None) -> Tensor:
        """Softmax over hyperedges of logits [M, n, A] with Gumbel noise; 0 where `some` [M, n] is not."""
        if rng is not None:
            logits = logits + _gumbel_noise(logits.shape, rng).to(logits.device)
        on = (logits / self.config.temperature).softmax(dim=2) * some[:, :, None]
        if rng is not None and self.config.dropout > 0:
            kept = torch.rand(on.shape, generator=rng) >= self.config.dropout
            on = on * (kept / (1 - self.config.dropout)).to(on.device)
        return on

    def _fuse_local_and_global(self, e: _Embeddings, side: int, rows: Tensor) -> Tensor:
        """z [b, dim] of the users (side 0) or items (side 1) at `rows`."""
        local = F.embedding(rows, e.identity[side])
        for key in self.keys.values():
            local = local + F.normalize(self._local_vectors(e, side, rows, key), dim=1)
        return local + self.config.global_weight * F.normalize(self._global_vectors(e, side, rows).sum(dim=0), dim=1)

    def _local_vectors(self, e: _Embeddings, side: int, rows: Tensor, key: str) -> Tensor:
        """e_m of the users or items at `rows`, [b, dim]."""
        if key in e.content:
            return F.embedding(rows, e.content[key][side])
        spread = getattr(self, f"{UserItemVectors._fields[side]}_{key}")
        with torch.autocast(spread.device.type, enabled=False):
            return F.linear(
                F.embedding(rows, spread), linear_of(key, self.projections).weight[: self.config.embedding_dim]
            )

    def _global_vectors(self, e: _Embeddings, side: int, rows: Tensor) -> Tensor:
        """g_m of the users or items at `rows`, [M, b, dim]."""
        return e.dependency[side].index_select(1, rows) @ e.edges

    def _contrast_modalities(self, e: _Embeddings, side: int, batch_rows: Tensor) -> Tensor:
        """Sum over the batch's users or items of the contrast among all; the mean over the pairs of modalities."""
        rows, counts = torch.unique(batch_rows, return_counts=True)
        has = (self.user_counts if side == 0 else self.present) > 0  # [M, n]
        terms = []
        with torch.autocast(e.edges.device.type, enabled=False):  # exponentials want float32
            on, edges = e.dependency[side].float(), e.edges.float()
            anchors = F.normalize(on.index_select(1, rows) @ edges, dim=2) / self.config.temperature  # [M, k, dim]
            for m, other in itertools.combinations(range(len(self.names)), 2):
                weights = (counts * (has[m] & has[other])[rows]).float()  # [k]
                sizes = (on[other] @ edges[other]).norm(dim=1, keepdim=True).clamp(min=_TINY)  # [n, 1]
                # Cosines by way of the few hyperedges: <a, D E / |D E|> = <a E^T, D / |D E|>.
                to, among = anchors[m] @ edges[other].T, on[other] / sizes  # [k, A], [n, A]
                own = (to * F.embedding(rows, among)).sum(dim=1)
                terms.append(losses.log_sum_exp(to, among, weights, has[other]) - torch.dot(own, weights))
        return torch.stack(terms).mean()


def _gumbel_noise(shape: torch.Size, rng: torch.Generator) -> Tensor:
    """Draws of -ln E, E ~ Exp(1): the largest of logits with such noise is drawn by their softmax."""
    return torch.empty(shape, device=rng.device).exponential_(generator=rng).log_().neg_()


_TINY = 1e-12  # the least norm that is divided by, as in F.normalize
_WIDE = 1024  # numbers of a content that is spread anew in every step, after it is projected


SPEC = ModelSpec(
    name="lgmrec",
    model=LGMRec,
    config=LGMRecConfig,
    paper="Guo et al. 2024, arXiv 2312.16400",
    search_space={
        "embedding_dim": EMBEDDING_DIM,
        "content_scaling": CONTENT_SCALING,
        "train.learning_rate": (5e-4, 1e-3, 2e-3, 5e-3),
        "num_hyperedges": (1, 2, 4, 8, 16, 32, 64),
        "num_hyper_layers": (1, 2),
        "dropout": (0.2, 0.4, 0.5, 0.6, 0.8),
        "global_weight": (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0),
        "contrast_weight": (1e-6, 1e-5, 1e-4, 1e-3, 1e-2),
        "reg": (1e-6, 1e-5, 1e-4, 1e-3),
    },
    small={"embedding_dim": 8},
)
