"""Embeddings over a graph of a step's users and items alone, so that a step costs the same for any number of nodes.

What a whole propagation gave at the last refresh is kept. A step adds to it how far the embeddings have drifted since,
estimated by random walks from its own users and items: unbiased, exact right after a refresh, and with little noise
while weights move slowly. Only the rows that walks reach have a gradient.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.embeddings import UserItemVectors
from gtcrec.models.random_walks import collect_walks, random_walks, sample_neighbors
from gtcrec.ops.graph import Adjacency, SparseMatrix
from gtcrec.ops.sharded import RowShardedEmbedding
from gtcrec.types import Batch

__all__ = [
    "WALKS_PER_NEIGHBOR",
    "Propagated",
    "SampledPropagation",
    "StepVectors",
    "Walks",
    "estimate_propagation",
    "mean_of_hops",
]

WALKS_PER_NEIGHBOR = 4  # content neighbours count less than the graph, and each draw is one more row to move

Walks = tuple[list[Any], list[Any]]
"""Parts of the sums over users and over items: rows [r] of the sums, nodes [r, s] and their weights [r, s]."""


class Propagated(NamedTuple):
    """Embeddings of all nodes, as they were, and what propagation made of them."""

    ego: UserItemVectors
    over_graph: UserItemVectors


class StepVectors(NamedTuple):
    """The same of a step's b users and a items, with gradient."""

    ego: UserItemVectors  # [b, dim], [a, dim]
    over_graph: UserItemVectors


def mean_of_hops(
    r: Adjacency,
    users: Tensor,
    items: Tensor,
    layers: int,
    num_walks: int,
    rng: torch.Generator,
    near: SparseMatrix | None = None,
) -> Walks:
    """Return walks for the mean of x, A x, ..., A^layers x at users int64 [b] and items int64 [a], sums 0 to b + a - 1.

    It is what `graph.light_propagation` computes. To the items `near` [n_items, n_items] adds draws that stand for its
    product with all items, a quarter as many.
    """
    rows = torch.arange(len(users) + len(items), device=users.device)
    parts: Walks = [], []
    for from_users, sums, start in ((True, rows[: len(users)], users), (False, rows[len(users) :], items)):
        stay = start[:, None], torch.ones(len(start), 1, device=start.device)
        hops = random_walks(r, start, from_users, num_walks, layers, rng)
        for hop, (nodes, weights) in enumerate((stay, *hops)):
            parts[(hop % 2 == 0) != from_users].append((sums, nodes, weights / (layers + 1)))
    if near is not None:
        parts[1].append((rows[len(users) :], *sample_neighbors(near, items, -(-num_walks // WALKS_PER_NEIGHBOR), rng)))
    return parts


def estimate_propagation(
    before: Propagated,
    tables: tuple[RowShardedEmbedding, RowShardedEmbedding],
    walks: Walks,
    users: Tensor,
    items: Tensor,
) -> StepVectors:
    """Return what was propagated of users int64 [b] and items int64 [a], and how far `walks` have drifted from it.

    `tables` hold the embeddings of users and of items as they are now.
    """
    b, drift, ego = len(users), torch.zeros(()), []
    for table, old, parts, ids in zip(tables, before.ego, walks, (users, items), strict=True):
        sums = collect_walks(b + len(items), *parts)
        change, rows = sums.drift(table(sums.nodes), table.of(old, sums.nodes), ids)
        drift = drift + change
        ego.append(rows)
    user, item = (table.of(old, ids) for table, old, ids in zip(tables, before.over_graph, (users, items), strict=True))
    return StepVectors(UserItemVectors(*ego), UserItemVectors(user + drift[:b], item + drift[b:]))


class SampledPropagation:
    """The embeddings of a model and what `propagate` made of them at the last refresh, for steps by walks.

    `users` and `items` get row-sparse gradients. The model's `refresh` is to call `forget`; loading weights calls it.
    """

    def __init__(
        self,
        model: nn.Module,
        users: nn.Parameter,
        items: nn.Parameter,
        propagate: Callable[[], tuple[Tensor, Tensor]],
    ) -> None:
        self.tables = RowShardedEmbedding(users, len(users)), RowShardedEmbedding(items, len(items))
        self._propagate = propagate
        self._before: Propagated | None = None
        model.register_load_state_dict_post_hook(_refresh)  # type: ignore[no-untyped-call]

    def parameters(self) -> list[nn.Parameter]:
        """Return the tables of which a step touches few rows."""
        return [table.local for table in self.tables]

    def forget(self) -> None:
        """Let the next step propagate the embeddings anew."""
        self._before = None

    def estimate(self, walks: Walks, users: Tensor, items: Tensor) -> StepVectors:
        """Return the embeddings of users int64 [b] and items int64 [a], and what propagation makes of them."""
        return estimate_propagation(self.before(), self.tables, walks, users, items)

    def estimate_batch(
        self, batch: Batch, walk: Callable[[Tensor, Tensor], Walks]
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
        """Return a batch's embeddings and what propagation makes of them: users, positives and negatives [b, dim].

        `walk(users, items)` draws the walks from the batch's users and its distinct items.
        """
        items, at = torch.unique(torch.cat([batch.positives, batch.negatives]), return_inverse=True)
        found = self.estimate(walk(batch.users, items), batch.users, items)
        (ego, *ego_items), (user, *over_items) = ((one.users, *F.embedding(at, one.items).chunk(2)) for one in found)
        return (ego, ego_items[0], ego_items[1]), (user, over_items[0], over_items[1])

    @torch.no_grad()
    def before(self) -> Propagated:
        """Return what was propagated last."""
        if self._before is None:
            ego = UserItemVectors(*(table.local.detach().clone() for table in self.tables))
            self._before = Propagated(ego, UserItemVectors(*self._propagate()))
        return self._before


def _refresh(model: Any, keys: Any) -> None:
    model.refresh()
