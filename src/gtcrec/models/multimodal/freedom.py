"""FREEDOM: LightGCN on a denoised user-item graph, and a frozen item-item graph of content.

After "A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal Recommendation" (Zhou & Shen 2023,
arXiv 2211.06924).
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar

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
from gtcrec.models.embeddings import xavier_embeddings
from gtcrec.models.modalities import modality_weights, register_content
from gtcrec.models.sampled_propagation import SampledPropagation, Walks, mean_of_hops
from gtcrec.ops import graph, losses
from gtcrec.ops import neighbors as similarity
from gtcrec.ops.graph import PrunedGraph, SparseMatrix, _csr_tensor, bipartite
from gtcrec.ops.scorers import dot_scorer, gather_batch
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer, TrainableModel

__all__ = ["FREEDOM", "SPEC", "FREEDOMConfig", "PrunableGraph"]


class FREEDOMConfig(ContentModelConfig):
    """Settings of FREEDOM; the paper's, but for `edge_dropout` and `content_weight`, which it tunes per data set.

    The paper weighs image 0.1 and text 0.9 in the item graph. Modalities here have any names, so the default is equal.
    """

    earlier_settings: ClassVar[Mapping[str, Any]] = {"self_neighbor": False}

    embedding_dim: int = Field(64, ge=1, description="length of the embeddings")
    num_layers: int = Field(2, ge=0, description="hops over the user-item graph")
    num_item_layers: int = Field(1, ge=1, description="hops over the item graph")
    num_item_neighbors: int = Field(10, ge=1, description="content neighbours per item and modality")
    self_neighbor: bool = Field(
        True, description="an item is the first of its own content neighbours, as in the published code"
    )
    modality_weights: Mapping[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict, description="of each modality in the item graph, by name; empty: equal"
    )
    edge_dropout: float = Field(0.8, ge=0, lt=1, description="rho: share of the user-item edges left out in training")
    content_weight: float = Field(1e-3, ge=0, description="lambda: of the modalities' ranking loss")
    train_content: bool = Field(False, description="train the raw content too, as the published code does")
    propagation: Propagation = "full"
    num_walks: NumWalks = 4

    @model_validator(mode="after")
    def _check_sampled(self) -> "FREEDOMConfig":
        check_sampled(self, num_item_layers=1, train_content=False)
        return self


class FREEDOM(nn.Module, TrainableModel):
    """s(u, i) = <z_u, z_i + S^L e_i>, z from LightGCN, S the frozen item graph.

    The loss adds to BPR of this score lambda sum_m BPR of <z_u, W_m x_im>; a triple of which an item lacks m adds
    nothing to m's sum. W_m has no bias: it cancels in BPR. The user-item graph is pruned in training only, and the item
    graph is of the content as it was given, also if content is trained. There is no L2 term.

    Edges are drawn once an epoch, from the random stream of its first step: so a resumed run draws what the unbroken
    one would have drawn. Of several workers each draws its own. `train.refresh_every=1` draws anew at each step.

    Differs from the paper: a modality that an item lacks leaves its share of the item graph to the others.
    """

    def __init__(self, config: FREEDOMConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.config = config
        self.names = features.names
        self.users, self.items = xavier_embeddings(train, config.embedding_dim)
        self.graph = PrunableGraph(train)
        self.projections = nn.ModuleDict()
        self._pruned: PrunedGraph | None = None  # since the last refresh
        self.sampled: SampledPropagation | None = None
        if config.propagation == "sampled":
            self.sampled = SampledPropagation(self, self.users, self.items, self._propagate_pruned)
        weights = modality_weights("freedom", config.modality_weights, self.names)
        if self.names:
            near = similarity.item_graph(
                features, config.num_item_neighbors, weights, include_self=config.self_neighbor
            )
            self.item_graph = graph.SparseMatrix(near)
        self.keys = register_content(self, features, config.train_content) if config.content_weight > 0 else {}
        for m, key in self.keys.items():
            self.projections[key] = nn.Linear(features.values[m].shape[1], config.embedding_dim, bias=False)

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        return self._propagate_both_graphs(self.graph.full)

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())

    def refresh(self) -> None:
        """Let the next step draw the edges that are kept; training calls it before an epoch."""
        self._pruned = None
        if self.sampled:
            self.sampled.forget()

    def sparse_parameters(self) -> list[nn.Parameter]:
        """Return the tables of which a sampled step touches few rows."""
        return self.sampled.parameters() if self.sampled else []

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        if self._pruned is None:
            self._pruned = self.graph.part(self.graph.draw(1 - self.config.edge_dropout, rng))
        if self.sampled:
            _, (u, i, j) = self.sampled.estimate_batch(batch, partial(self._walk, rng))
        else:
            u, i, j = gather_batch(batch, *self._propagate_pruned())
        terms = {"bpr": losses.bpr((u * i).sum(dim=1), (u * j).sum(dim=1))}
        if self.projections:
            content = torch.stack([self._modality_bpr(key, u, batch) for key in self.keys.values()]).sum()
            terms["content"] = self.config.content_weight * content
        return terms

    def _propagate_both_graphs(self, r: graph.Adjacency) -> tuple[Tensor, Tensor]:
        """Users [n_users, dim] and items [n_items, dim] over both graphs."""
        users, items = graph.light_propagation(r, self.users, self.items, self.config.num_layers)
        if not self.names:
            return users, items
        similar = self.items
        for _ in range(self.config.num_item_layers):
            similar = self.item_graph(similar)
        return users, items + similar

    def _propagate_pruned(self) -> tuple[Tensor, Tensor]:
        """The same over the edges that are kept since the last refresh."""
        return self._propagate_both_graphs(self._pruned or self.graph.full)

    def _walk(self, rng: torch.Generator, users: Tensor, items: Tensor) -> Walks:
        """Walks over the kept edges, and draws of content neighbours."""
        config, r = self.config, self._pruned or self.graph.full
        near = self.item_graph if self.names else None
        return mean_of_hops(r, users, items, config.num_layers, config.num_walks, rng, near)

    def _modality_bpr(self, key: str, u: Tensor, batch: Batch) -> Tensor:
        """BPR of <u, W x_i> against <u, W x_j>, from one projection of x_i - x_j; 0 where an item lacks it."""
        i, j = batch.positives, batch.negatives
        x, present = getattr(self, f"x_{key}"), getattr(self, f"present_{key}")
        gap = (u * self.projections[key](F.embedding(i, x) - F.embedding(j, x))).sum(dim=1)  # [b]
        loss: Tensor = (F.softplus(-gap) * (present[i] & present[j])).mean()
        return loss


class PrunableGraph(nn.Module):
    """The user-item graph, whole (`full`) and in parts that are drawn anew; edges are in the order of the pairs.

    Degree-sensitive edge pruning (Zhou & Shen 2023, arXiv 2211.06924). No part of the saved weights.
    """

    order: Tensor

    def __init__(self, train: Interactions) -> None:
        super().__init__()
        self.full = SparseMatrix(bipartite(train))
        order = np.argsort(train.items, kind="stable")  # edge of each entry of the transpose
        self.register_buffer("order", torch.from_numpy(order.astype(np.int32)), persistent=False)

    def draw(self, share: float, rng: torch.Generator) -> Tensor:
        """Return which edges are kept, bool [edges]: int(share * edges) of them, drawn without replacement.

        The chance of each draw is proportional to 1 / sqrt(deg(u) deg(i)) among the edges that are left. The n
        smallest of Exp(1) / weight have this distribution (Efraimidis & Spirakis 2006), and need no sorting.
        """
        weights = self.full.a_values
        keys = torch.empty(len(weights), device=rng.device).exponential_(generator=rng).to(weights.device) / weights
        chosen = keys.topk(int(share * len(keys)), largest=False, sorted=False).indices
        return torch.zeros_like(keys, dtype=torch.bool).index_fill_(0, chosen, True)

    def part(self, kept: Tensor) -> PrunedGraph:
        """Return the graph of the edges at which `kept` (bool [edges]) is true, normalised by its own degrees."""
        full = self.full
        rows, columns = _select_edges(full.a_rows, full.a_columns, kept)
        rows_t, columns_t = _select_edges(full.at_rows, full.at_columns, kept.index_select(0, self.order))
        by_user, by_item = rows.diff(), rows_t.diff()  # degrees
        n_users, n_items = full.shape
        return PrunedGraph(
            _csr_tensor(rows, columns, _symmetric_weights(by_user, by_item, columns), (n_users, n_items)),
            _csr_tensor(rows_t, columns_t, _symmetric_weights(by_item, by_user, columns_t), (n_items, n_users)),
        )


def _select_edges(rows: Tensor, columns: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """CSR row ends and columns of the kept entries; their order stays."""
    before = F.pad(kept.cumsum(0, dtype=torch.int32), (1, 0))  # [entries + 1]
    return before.index_select(0, rows), columns[kept]


def _symmetric_weights(by_row: Tensor, by_column: Tensor, columns: Tensor) -> Tensor:
    """1 / sqrt(deg(row) deg(column)) of each entry, from the degrees."""
    return by_row.rsqrt().repeat_interleave(by_row) * by_column.rsqrt().index_select(0, columns)


SPEC = ModelSpec(
    name="freedom",
    model=FREEDOM,
    config=FREEDOMConfig,
    presets={"default": ({}, {}), "sampled": ({"propagation": "sampled"}, {})},
    paper="Zhou & Shen 2023, arXiv 2211.06924",
    search_space={
        "embedding_dim": EMBEDDING_DIM,
        "content_scaling": CONTENT_SCALING,
        "train.learning_rate": (5e-4, 1e-3, 2e-3, 5e-3),
        "num_layers": (1, 2, 3),
        "num_item_layers": (1, 2),
        "num_item_neighbors": (5, 10, 20),
        "edge_dropout": (0.5, 0.8, 0.9),
        "content_weight": (0.0, 1e-5, 1e-4, 1e-3, 1e-2),
    },
    small={"embedding_dim": 8},
)
