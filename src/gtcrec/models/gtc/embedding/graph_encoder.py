"""GTC's identity view: embeddings of users and items over the graphs, all of them or the few that a step asks for.

Method equations 15, 22 and 23.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.embeddings import UserItemVectors, init_from_als
from gtcrec.models.gtc.config import GTCConfig
from gtcrec.models.sampled_propagation import Propagated, estimate_propagation, mean_of_hops
from gtcrec.ops import graph
from gtcrec.ops.fold_in import fold_in_users, new_item_rows, new_user_rows, torch_csr
from gtcrec.ops.neighbors import co_interaction_users, find_search, item_graph
from gtcrec.ops.sharded import RowShardedEmbedding, ShardedMatrix, xavier_rows
from gtcrec.runtime.process_group import ProcessGroup
from gtcrec.types import Interactions, ItemFeatures

__all__ = ["GraphEncoder", "UserItemEmbeddings", "unit_scale"]


_ROWS_PAY = 8  # times as many nodes as a step names, from which on their rows alone cost less than all


class UserItemEmbeddings(NamedTuple):
    """The identity view of b users and a items."""

    ego_users: Tensor  # [b, dim] the embeddings themselves
    ego_items: Tensor  # [a, dim]
    users: Tensor  # [b, dim] over the graphs
    items: Tensor  # [a, dim]
    conditions: Tensor  # [a, dim] c: what each item is filtered for
    has_id_embedding: Tensor | None = None  # bool [a]; None: all have one

    def rows(self, users: Tensor, items: Tensor) -> "UserItemEmbeddings":
        """Return those of users int64 [b] and items int64 [a]."""
        return UserItemEmbeddings(
            F.embedding(users, self.ego_users),
            F.embedding(items, self.ego_items),
            F.embedding(users, self.users),
            F.embedding(items, self.items),
            F.embedding(items, self.conditions),
            None if self.has_id_embedding is None else self.has_id_embedding[items],
        )


class GraphEncoder(nn.Module):
    """Embeddings over the graphs. `encode` computes all; `encode_step` what a step of training needs.

    With `id_dropout`, items without a training pair have no embedding of their own, only what their content
    neighbors give them. A step takes it from that share of its items, so that training sees items like these. Of
    several `workers` each holds its own rows of the embeddings and of what `refresh` computes.
    """

    warm: Tensor

    def __init__(
        self,
        config: GTCConfig,
        train: Interactions,
        features: ItemFeatures,
        workers: ProcessGroup,
        init_weights: bool = True,
    ) -> None:
        super().__init__()
        self.config = config
        self.users = xavier_rows(train.n_users, config.embedding_dim, workers)
        self.items = xavier_rows(train.n_items, config.embedding_dim, workers)
        if config.init == "als" and init_weights:
            init_from_als(train, self.users, self.items, config.unobserved_weight, config.als_reg)
        self.user_table = RowShardedEmbedding(self.users, train.n_users, workers)
        self.item_table = RowShardedEmbedding(self.items, train.n_items, workers)
        self.r = graph.SparseMatrix(graph.bipartite(train))
        self.item_counts, self.features = train.item_counts, features
        self.register_buffer("warm", torch.from_numpy(train.item_counts > 0), persistent=False)
        if config.condition == "item_audience":
            self.audience = graph.SparseMatrix(_user_means(train))
        if config.num_item_neighbors and features.names:
            near = item_graph(features, config.num_item_neighbors, search=find_search(config.neighbor_search))
            self.item_graph = graph.SparseMatrix(near * config.item_graph_weight)
        if config.num_user_neighbors:
            self.user_graph = graph.SparseMatrix(co_interaction_users(train, config.num_user_neighbors))
        self.sharded = nn.ModuleDict()  # the graphs as they are multiplied where the embeddings are sharded
        if workers.size > 1:
            for name in ("r", "item_graph", "user_graph"):
                if hasattr(self, name):
                    self.sharded[name] = ShardedMatrix(getattr(self, name).sides()[0], workers)
            self.sharded["rt"] = ShardedMatrix(self.r.sides()[1], workers)
        self._cached: UserItemEmbeddings | None = None  # of all users and items, as they were at the last refresh
        self.register_load_state_dict_post_hook(_clear_cache)  # type: ignore[no-untyped-call]

    def encode(self, users: Tensor, items: Tensor) -> UserItemEmbeddings:
        """Return the views of `users` int64 [b] and `items` int64 [a], from the current weights."""
        return self.encode_local().rows(users, items)

    def encode_local(self, dropped: Tensor | None = None) -> UserItemEmbeddings:
        """Return the views of the users and items whose rows lie with this worker; of one worker, of all.

        Items int64 [.] that are `dropped` count as new.
        """
        if self.sharded:
            return self._encode_shard()
        user, item = graph.light_propagation(self.r, self.users, self.items, self.config.num_layers)
        has_id = None
        if self.config.id_dropout:
            has_id = self.warm if dropped is None else self.warm.index_fill(0, dropped, False)
            item = torch.where(has_id[:, None], item, 0.0)
        if hasattr(self, "item_graph"):
            item = item + self.item_graph(self.items)
        if hasattr(self, "user_graph"):
            user = user + self.user_graph(user)
        condition = unit_scale(
            self.audience.transposed(user) if self.config.condition == "item_audience" else self.items
        )
        if has_id is not None:
            condition = torch.where(has_id[:, None], condition, 0.0)
        return UserItemEmbeddings(self.users, self.items, user, item, condition, has_id)

    def encode_step(self, users: Tensor, items: Tensor, rng: torch.Generator) -> UserItemEmbeddings:
        """Return the views as training sees them, with gradient."""
        if self.config.propagation == "sampled":
            return self._estimate(self._cached or self.refresh(), users, items, rng)
        share, dropped = self.config.id_dropout, None
        if share:
            dropped = (torch.rand(len(items), generator=rng) < share).to(items.device)
        if self._has_rows() and _ROWS_PAY * (len(users) + len(items)) <= len(self.users) + len(self.items):
            return self._encode_rows(users, items, dropped)
        return self.encode_local(None if dropped is None else items[dropped]).rows(users, items)

    def _has_rows(self) -> bool:
        """Whether some users and items can be encoded without all others' last hop."""
        needs_all = self.config.condition == "item_audience" or hasattr(self, "user_graph")
        return self.config.num_layers > 0 and not self.sharded and not needs_all

    def _encode_rows(self, users: Tensor, items: Tensor, dropped: Tensor | None) -> UserItemEmbeddings:
        """`encode_local` of some users int64 [b] and distinct items int64 [a], some of which count as new, bool [a]."""
        near = self.item_graph if hasattr(self, "item_graph") and dropped is None else None
        found = graph.light_propagation_rows(
            self.r, self.users, self.items, self.config.num_layers, (users, items), near
        )
        item, condition, has_id = found.items, unit_scale(found.ego_items), None
        if dropped is not None:
            has_id = self.warm[items] & ~dropped
            item, condition = (torch.where(has_id[:, None], one, 0.0) for one in (item, condition))
            if hasattr(self, "item_graph"):
                item = item + self.item_graph.rows(items, self.items)
        return UserItemEmbeddings(found.ego_users, found.ego_items, found.users, item, condition, has_id)

    @torch.no_grad()
    def refresh(self) -> UserItemEmbeddings:
        """Recompute what sampled steps hold fixed, from the current weights."""
        self._cached = self.encode_local()._replace(ego_users=self.users.clone(), ego_items=self.items.clone())
        return self._cached

    def encode_new_items(self, features: ItemFeatures) -> Tensor:
        """Return what new items take from their content neighbors, [n, dim]."""
        if not hasattr(self, "item_graph"):
            return self.items.new_zeros(features.n_items, self.config.embedding_dim)
        rows = new_item_rows(features, self.features, self.config.num_item_neighbors)
        return self.config.item_graph_weight * graph.times(torch_csr(rows).to(self.items.device), self.items)

    def encode_new_users(self, history: csr_array) -> Tensor:
        """Return what new users take from the items of their history, a binary matrix [b, n_items], [b, dim]."""
        rows = new_user_rows(history, self.item_counts)
        return fold_in_users(rows, self.r, self.users, self.items, self.config.num_layers)

    @torch.no_grad()
    def _encode_shard(self) -> UserItemEmbeddings:
        """`encode_local` of several workers, which show each other their rows in turn."""
        user, item, layers = self.users.clone(), self.items.clone(), self.config.num_layers
        for left in reversed(range(layers)):
            share = 1.0 if left else 1 / (layers + 1)  # as `graph.light_propagation`
            user, item = (
                share * (self.users + self.sharded["r"](item)),
                share * (self.items + self.sharded["rt"](user)),
            )
        if "item_graph" in self.sharded:
            item = item + self.sharded["item_graph"](self.items)
        if "user_graph" in self.sharded:
            user = user + self.sharded["user_graph"](user)
        return UserItemEmbeddings(self.users, self.items, user, item, unit_scale(self.items))

    def _estimate(
        self, cached: UserItemEmbeddings, users: Tensor, items: Tensor, rng: torch.Generator
    ) -> UserItemEmbeddings:
        """Unbiased estimates of `encode`: the cached views, and how far walks have drifted from them.

        Of the user graph only the cached part counts.
        """
        before = Propagated(
            UserItemVectors(cached.ego_users, cached.ego_items), UserItemVectors(cached.users, cached.items)
        )
        near = self.item_graph if hasattr(self, "item_graph") else None
        walks = mean_of_hops(self.r, users, items, self.config.num_layers, self.config.num_walks, rng, near)
        ego, found = estimate_propagation(before, (self.user_table, self.item_table), walks, users, items)
        audience = self.config.condition == "item_audience"
        condition = self.item_table.of(cached.conditions, items) if audience else unit_scale(ego.items)
        return UserItemEmbeddings(*ego, *found, condition)


def unit_scale(rows: Tensor) -> Tensor:
    """Return rows [n, d] scaled to root-mean-square 1."""
    return F.normalize(rows, dim=1) * math.sqrt(rows.shape[1])


def _clear_cache(encoder: GraphEncoder, keys: Any) -> None:
    encoder._cached = None


def _user_means(train: Interactions) -> csr_array:
    """[n_users, n_items], columns summing to one: its transpose averages an item's training users."""
    matrix = train.matrix()
    matrix.data /= np.maximum(train.item_counts, 1)[train.items].astype(np.float32)
    return matrix
