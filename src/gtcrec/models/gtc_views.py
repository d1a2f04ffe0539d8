"""GTC's identity views: what users and items are over the graphs, all of them or the few that a step asks for."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec import graph
from gtcrec.types import Interactions, ItemFeatures
from gtcrec.walks import neighbours, reach, walk

if TYPE_CHECKING:
    from gtcrec.models.gtc import GTCConfig

__all__ = ["Sides", "Views", "scaled"]


class Sides(NamedTuple):
    """The identity view of b users and a items."""

    own_user: Tensor  # [b, dim] the embeddings
    own_item: Tensor  # [a, dim]
    user: Tensor  # [b, dim] over the graphs
    item: Tensor  # [a, dim]
    condition: Tensor  # [a, dim] c: what each item is filtered for

    def rows(self, users: Tensor, items: Tensor) -> "Sides":
        """Those of some users and items."""
        return Sides(
            F.embedding(users, self.own_user),
            F.embedding(items, self.own_item),
            F.embedding(users, self.user),
            F.embedding(items, self.item),
            F.embedding(items, self.condition),
        )


class Views(nn.Module):
    """Embeddings over the graphs. `exact` computes all; `step` what a step of training needs."""

    def __init__(self, config: "GTCConfig", train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.config = config
        self.users = nn.Parameter(nn.init.xavier_uniform_(torch.empty(train.n_users, config.dim)))
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(train.n_items, config.dim)))
        self.r = graph.SparseMatrix(graph.bipartite(train))
        if config.condition == "audience":
            self.audience = graph.SparseMatrix(_mean_of_users(train))
        if config.item_neighbours and features.names:
            near = graph.item_graph(features, config.item_neighbours, search=_search(config.item_search))
            self.item_graph = graph.SparseMatrix(near)
        if config.user_neighbours:
            self.user_graph = graph.SparseMatrix(graph.co_liked_users(train, config.user_neighbours))
        self._held: Sides | None = None  # of all users and items, as they were at the last refresh
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def exact(self, users: Tensor, items: Tensor) -> Sides:
        """Return the views of `users` int64 [b] and `items` int64 [a], from the weights as they are now."""
        return self._whole().rows(users, items)

    def step(self, users: Tensor, items: Tensor, rng: torch.Generator) -> Sides:
        """Return the views as training sees them, with gradient."""
        if self.config.propagation == "full":
            return self.exact(users, items)
        return self._sampled(self._held or self.refresh(), users, items, rng)

    @torch.no_grad()
    def refresh(self) -> Sides:
        """Recompute what sampled steps hold fixed, from the weights as they are now."""
        self._held = self._whole()._replace(own_user=self.users.clone(), own_item=self.items.clone())
        return self._held

    def _whole(self) -> Sides:
        user, item = graph.light_propagation(self.r, self.users, self.items, self.config.layers)
        if hasattr(self, "item_graph"):
            item = item + self.item_graph(self.items)
        if hasattr(self, "user_graph"):
            user = user + self.user_graph(user)
        chosen = self.audience.transposed(user) if self.config.condition == "audience" else self.items
        return Sides(self.users, self.items, user, item, scaled(chosen))

    def _sampled(self, old: Sides, users: Tensor, items: Tensor, rng: torch.Generator) -> Sides:
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
            parts[1].append((starts[1], *neighbours(self.item_graph, items, self.config.walks, rng)))
        drift, own_rows = torch.zeros(()), []
        for table, before, part, wanted in zip(
            (self.users, self.items), (old.own_user, old.own_item), parts, (users, items), strict=True
        ):
            reached = reach(b + len(items), *part)
            now = F.embedding(reached.nodes, table, sparse=True)
            drift = drift + reached(now - before[reached.nodes])
            own_rows.append(F.embedding(reached.places(wanted), now))
        user, item = drift[:b], drift[b:]
        condition = old.condition[items] if self.config.condition == "audience" else scaled(own_rows[1])
        return Sides(own_rows[0], own_rows[1], old.user[users] + user, old.item[items] + item, condition)


def _search(how: str) -> graph.Search:
    if how == "exact":
        return graph.nearest_rows
    from gtcrec.index import approximate_neighbours  # needs an extra

    return approximate_neighbours


def _forget(views: Views, keys: Any) -> None:
    views._held = None


def scaled(rows: Tensor) -> Tensor:
    """Return rows [n, d] scaled to root-mean-square 1."""
    return F.normalize(rows, dim=1) * math.sqrt(rows.shape[1])


def _mean_of_users(train: Interactions) -> Any:
    """[n_users, n_items], columns summing to one: its transpose averages an item's training users."""
    matrix = train.matrix()
    matrix.data /= np.maximum(train.item_counts, 1)[train.items].astype(np.float32)
    return matrix
