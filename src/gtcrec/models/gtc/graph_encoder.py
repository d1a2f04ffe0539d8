"""GTC's identity views: what users and items are over the graphs, all of them or the few that a step asks for."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.baselines import als
from gtcrec.models.gtc.config import GTCConfig
from gtcrec.models.gtc.random_walks import neighbours, reach, walk
from gtcrec.ops import graph
from gtcrec.ops import neighbors as similarity
from gtcrec.ops.fold_in import folded_user, new_item_rows, new_user_rows, torch_csr
from gtcrec.ops.sharded import RowShardedEmbedding, ShardedMatrix, xavier_rows
from gtcrec.runtime.process_group import ProcessGroup
from gtcrec.types import Interactions, ItemFeatures

__all__ = ["GraphEncoder", "UserItemEmbeddings", "scaled"]

_ALONE = ProcessGroup()
_WALKS_A_NEIGHBOUR = 4  # content neighbours count less than the graph, and each draw is one more row to move
_START_SCALE = 4.0  # of factors whose inner products are 1 at most: now log odds of up to 16


class UserItemEmbeddings(NamedTuple):
    """The identity view of b users and a items."""

    own_user: Tensor  # [b, dim] the embeddings
    own_item: Tensor  # [a, dim]
    user: Tensor  # [b, dim] over the graphs
    item: Tensor  # [a, dim]
    condition: Tensor  # [a, dim] c: what each item is filtered for
    own: Tensor | None = None  # [a] which items have an identity of their own, bool; None: all

    def rows(self, users: Tensor, items: Tensor) -> "UserItemEmbeddings":
        """Those of some users and items."""
        return UserItemEmbeddings(
            F.embedding(users, self.own_user),
            F.embedding(items, self.own_item),
            F.embedding(users, self.user),
            F.embedding(items, self.item),
            F.embedding(items, self.condition),
            None if self.own is None else self.own[items],
        )


class GraphEncoder(nn.Module):
    """Embeddings over the graphs. `exact` computes all; `step` what a step of training needs.

    With `identity_dropout`, items without a training pair have no identity of their own, only what their content
    neighbours give them, and a step takes it from that share of its items, so that training meets items like these. Of
    several `workers` each holds its own rows of the embeddings and of what `refresh` computes.
    """

    met: Tensor

    def __init__(
        self, config: GTCConfig, train: Interactions, features: ItemFeatures, workers: ProcessGroup = _ALONE
    ) -> None:
        super().__init__()
        self.config = config
        self.users = xavier_rows(train.n_users, config.dim, workers)
        self.items = xavier_rows(train.n_items, config.dim, workers)
        if config.start == "als":
            unobserved = config.als_unobserved * len(train) / (train.n_users * train.n_items)
            factors = als.factorise(train, config.dim, unobserved, config.als_reg)
            for table, rows in zip((self.users, self.items), factors, strict=True):
                table.data = _START_SCALE * rows
        self.user_table = RowShardedEmbedding(self.users, train.n_users, workers)
        self.item_table = RowShardedEmbedding(self.items, train.n_items, workers)
        self.r = graph.SparseMatrix(graph.bipartite(train))
        self.item_counts, self.features = train.item_counts, features
        self.register_buffer("met", torch.from_numpy(train.item_counts > 0), persistent=False)
        if config.condition == "audience":
            self.audience = graph.SparseMatrix(_mean_of_users(train))
        if config.item_neighbours and features.names:
            near = similarity.item_graph(features, config.item_neighbours, search=_search(config.item_search))
            self.item_graph = graph.SparseMatrix(near * config.item_graph_weight)
        if config.user_neighbours:
            self.user_graph = graph.SparseMatrix(similarity.co_interaction_users(train, config.user_neighbours))
        self.sharded = nn.ModuleDict()  # the graphs as they are multiplied where the embeddings are sharded
        if workers.size > 1:
            for name in ("r", "item_graph", "user_graph"):
                if hasattr(self, name):
                    self.sharded[name] = ShardedMatrix(getattr(self, name).sides()[0], workers)
            self.sharded["rt"] = ShardedMatrix(self.r.sides()[1], workers)
        self._held: UserItemEmbeddings | None = None  # of all users and items, as they were at the last refresh
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def exact(self, users: Tensor, items: Tensor) -> UserItemEmbeddings:
        """Return the views of `users` int64 [b] and `items` int64 [a], from the weights as they are now."""
        return self._whole().rows(users, items)

    def own(self) -> UserItemEmbeddings:
        """Return the views of the users and items that lie with this worker; alone, of all."""
        return self._whole()

    def step(self, users: Tensor, items: Tensor, rng: torch.Generator) -> UserItemEmbeddings:
        """Return the views as training sees them, with gradient."""
        if self.config.propagation == "full":
            share = self.config.identity_dropout
            if not share:
                return self.exact(users, items)
            dropped = (torch.rand(len(items), generator=rng) < share).to(items.device)
            return self._whole(items[dropped]).rows(users, items)
        return self._sampled(self._held or self.refresh(), users, items, rng)

    @torch.no_grad()
    def refresh(self) -> UserItemEmbeddings:
        """Recompute what sampled steps hold fixed, from the weights as they are now."""
        self._held = self._whole()._replace(own_user=self.users.clone(), own_item=self.items.clone())
        return self._held

    def _whole(self, dropped: Tensor | None = None) -> UserItemEmbeddings:
        """The views of all; items int64 [.] that are `dropped` count as new."""
        if self.sharded:
            return self._whole_of_own()
        user, item = graph.light_propagation(self.r, self.users, self.items, self.config.layers)
        own = None
        if self.config.identity_dropout:
            own = self.met if dropped is None else self.met.index_fill(0, dropped, False)
            item = torch.where(own[:, None], item, 0.0)
        if hasattr(self, "item_graph"):
            item = item + self.item_graph(self.items)
        if hasattr(self, "user_graph"):
            user = user + self.user_graph(user)
        chosen = self.audience.transposed(user) if self.config.condition == "audience" else self.items
        condition = scaled(chosen) if own is None else torch.where(own[:, None], scaled(chosen), 0.0)
        return UserItemEmbeddings(self.users, self.items, user, item, condition, own)

    def new_items(self, features: ItemFeatures) -> Tensor:
        """Return what items that the training did not have take from their content neighbours, [n, dim]."""
        if not hasattr(self, "item_graph"):
            return self.items.new_zeros(features.n_items, self.config.dim)
        rows = new_item_rows(features, self.features, self.config.item_neighbours)
        return self.config.item_graph_weight * graph.times(torch_csr(rows).to(self.items.device), self.items)

    def new_users(self, liked: csr_array) -> Tensor:
        """Return what users who like the items of a binary matrix [b, n_items] have of them, [b, dim]."""
        rows = new_user_rows(liked, self.item_counts)
        return folded_user(rows, self.r, self.users, self.items, self.config.layers)

    @torch.no_grad()
    def _whole_of_own(self) -> UserItemEmbeddings:
        """`_whole` at the users and items that lie here; for this the workers show each other their rows in turn."""
        user, item, layers = self.users.clone(), self.items.clone(), self.config.layers
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
        return UserItemEmbeddings(self.users, self.items, user, item, scaled(self.items))

    def _sampled(
        self, old: UserItemEmbeddings, users: Tensor, items: Tensor, rng: torch.Generator
    ) -> UserItemEmbeddings:
        """Unbiased estimates of `_whole` at users and items: the held one, and how far walks have drifted from it.

        Of the user graph only the held part counts.
        """
        b, layers = len(users), self.config.layers
        rows = torch.arange(b + len(items), device=users.device)
        starts = rows[:b], rows[b:]
        parts: tuple[list[Any], list[Any]] = [], []  # of the sums over the users' table and over the items' table
        for from_users, sums, start in ((True, starts[0], users), (False, starts[1], items)):
            own = start[:, None], torch.ones(len(start), 1, device=start.device)
            hops = walk(self.r, start, from_users, self.config.walks, layers, rng)
            for hop, (nodes, weights) in enumerate((own, *hops)):
                parts[(hop % 2 == 0) != from_users].append((sums, nodes, weights / (layers + 1)))
        if hasattr(self, "item_graph"):
            draws = -(-self.config.walks // _WALKS_A_NEIGHBOUR)
            parts[1].append((starts[1], *neighbours(self.item_graph, items, draws, rng)))
        drift, local_rows = torch.zeros(()), []
        for table, before, part, wanted in zip(
            (self.user_table, self.item_table), (old.own_user, old.own_item), parts, (users, items), strict=True
        ):
            reached = reach(b + len(items), *part)
            change, single = reached.drift(table(reached.nodes), table.of(before, reached.nodes), wanted)
            drift = drift + change
            local_rows.append(single)
        user, item = drift[:b], drift[b:]
        audience = self.config.condition == "audience"
        condition = self.item_table.of(old.condition, items) if audience else scaled(local_rows[1])
        user = self.user_table.of(old.user, users) + user
        return UserItemEmbeddings(
            local_rows[0], local_rows[1], user, self.item_table.of(old.item, items) + item, condition
        )


def _search(how: str) -> similarity.Search:
    if how == "exact":
        return similarity.nearest_rows
    from gtcrec.ops.ann import approximate_neighbours  # needs an extra

    return approximate_neighbours


def _forget(views: GraphEncoder, keys: Any) -> None:
    views._held = None


def scaled(rows: Tensor) -> Tensor:
    """Return rows [n, d] scaled to root-mean-square 1."""
    return F.normalize(rows, dim=1) * math.sqrt(rows.shape[1])


def _mean_of_users(train: Interactions) -> Any:
    """[n_users, n_items], columns summing to one: its transpose averages an item's training users."""
    matrix = train.matrix()
    matrix.data /= np.maximum(train.item_counts, 1)[train.items].astype(np.float32)
    return matrix
