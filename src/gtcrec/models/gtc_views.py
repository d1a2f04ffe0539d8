"""What GTC's users and items are over the graphs: whole, or for the few that a step asks for."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec import graph
from gtcrec.models.content import ContentProjection
from gtcrec.types import Interactions, ItemFeatures
from gtcrec.walks import drift, neighbours, walk

if TYPE_CHECKING:
    from gtcrec.models.gtc import GTCConfig

__all__ = ["ViewRows", "Views"]


class ViewRows(NamedTuple):
    """The views of b users and of a items."""

    items: Tensor  # [a] which items
    user: Tensor  # [b, dim] identity view
    item: Tensor  # [a, dim] identity view
    condition: Tensor  # [a, dim] c: what each item is filtered for
    content: Mapping[str, Tensor]  # modality -> h, [a, dim]
    echo: Mapping[str, Tensor]  # modality -> h as it went into the users' taste, [a, dim]
    taste: Mapping[str, Tensor]  # modality -> q, [b, dim]
    common: Mapping[str, Tensor]  # modality -> g, what an item's content neighbours give it, [a, dim]


class _Identity(NamedTuple):
    user: Tensor  # [n_users, dim]
    item: Tensor  # [n_items, dim]
    condition: Tensor  # [n_items, dim]


class _Content(NamedTuple):
    content: Mapping[str, Tensor]  # modality -> h, [n_items, dim]
    taste: Mapping[str, Tensor]  # modality -> q, [n_users, dim]
    common: Mapping[str, Tensor]  # modality -> g, [n_items, dim]


class _Held(NamedTuple):
    """What the steps between two refreshes hold fixed: embeddings as they were, and what followed from them."""

    users: Tensor  # [n_users, dim]
    items: Tensor  # [n_items, dim]
    identity: _Identity
    content: _Content


class Views(nn.Module):
    """Embeddings, content projections and graphs. `exact` computes all; `step` what a step of training needs."""

    def __init__(
        self, config: "GTCConfig", train: Interactions, features: ItemFeatures, keys: Mapping[str, str]
    ) -> None:
        super().__init__()
        self.config, self.keys = config, keys
        self.users = nn.Parameter(nn.init.xavier_uniform_(torch.empty(train.n_users, config.dim)))
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(train.n_items, config.dim)))
        self.r = graph.SparseMatrix(graph.bipartite(train))
        if config.condition == "audience":
            self.audience = graph.SparseMatrix(_mean_of_users(train))
        if config.item_neighbours and keys:
            self.item_graph = graph.SparseMatrix(graph.item_graph(features, config.item_neighbours))
        if config.user_neighbours:
            self.user_graph = graph.SparseMatrix(graph.co_liked_users(train, config.user_neighbours))
        self.projections, self.tastes = nn.ModuleDict(), nn.ParameterDict()
        for m, key in keys.items():
            self.projections[key] = ContentProjection(features.values[m], features.present[m], config.dim)
            if config.taste == "own":
                self.tastes[key] = nn.Parameter(nn.init.xavier_uniform_(torch.empty(train.n_users, config.dim)))
        self._held: _Held | None = None
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def look(self, table: Tensor, index: Tensor) -> Tensor:
        """Rows of a table, its gradient row-sparse where a step must not cost more the longer the table is."""
        return F.embedding(index, table, sparse=self.config.propagation == "sampled")

    def exact(self, users: Tensor, items: Tensor) -> ViewRows:
        """Return the views of `users` int64 [b] and `items` int64 [a], from the weights as they are now."""
        return _rows(self._identity(), self._content(), users, items)

    def step(self, users: Tensor, items: Tensor, rng: torch.Generator) -> ViewRows:
        """Return the views as training sees them: with gradient, some parts as they were at the last refresh."""
        config = self.config
        if config.content_refresh == "step":
            return self.exact(users, items)
        held = self._held or self.refresh()
        if config.propagation == "sampled":
            user, item, condition = self._sampled(held, users, items, rng)
        else:
            whole = self._identity()
            user = F.embedding(users, whole.user)
            item, condition = F.embedding(items, whole.item), F.embedding(items, whole.condition)
        old = held.content
        return ViewRows(
            items,
            user,
            item,
            condition,
            {m: self.projections[key](items) for m, key in self.keys.items()},
            {m: old.content[m][items] for m in self.keys},
            {m: old.taste[m][users] for m in self.keys},
            {m: old.common[m][items] for m in self.keys},
        )

    @torch.no_grad()
    def refresh(self) -> _Held:
        """Recompute what the steps hold fixed, from the weights as they are now."""
        self._held = _Held(self.users.clone(), self.items.clone(), self._identity(), self._content())
        return self._held

    def _identity(self) -> _Identity:
        user, item = graph.light_propagation(self.r, self.users, self.items, self.config.layers)
        if hasattr(self, "item_graph"):
            item = item + self.item_graph(self.items)
        if hasattr(self, "user_graph"):
            user = user + self.user_graph(user)
        chosen = self.items if self.config.condition == "identity" else self.audience.transposed(user)
        return _Identity(user, item, _scaled(chosen))

    def _content(self) -> _Content:
        layers, dim = self.config.content_layers, self.config.dim
        content, taste, common = {}, {}, {}
        every = torch.arange(len(self.items), device=self.items.device)
        for m, key in self.keys.items():
            content[m] = self.projections[key](every)
            scaled = content[m] / math.sqrt(dim)
            if self.config.taste == "own":
                taste[m], around = graph.light_propagation(self.r, self.tastes[key], scaled, layers)
            else:
                taste[m], around = graph.content_propagation(self.r, scaled, layers)
            common[m] = around - scaled / (layers + 1)
        return _Content(content, taste, common)

    def _sampled(
        self, held: _Held, users: Tensor, items: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Unbiased estimates of `_identity` at users and items: the held one, and how far walks have drifted from it.

        Of the user graph only the held part counts.
        """
        old = held.identity
        user = old.user[users] + self._drift(held, users, True, rng)
        item = old.item[items] + self._drift(held, items, False, rng)
        if hasattr(self, "item_graph"):
            near = neighbours(self.item_graph, items, self.config.walks, rng)
            item = item + drift(self.items, held.items, *near)
        if self.config.condition == "identity":
            return user, item, _scaled(self.look(self.items, items))
        return user, item, old.condition[items]

    def _drift(self, held: _Held, start: Tensor, from_users: bool, rng: torch.Generator) -> Tensor:
        """Estimate P (e - e_held) at start nodes, P the mean of A^0 to A^layers, [n, dim]."""
        tables = [(self.users, held.users), (self.items, held.items)]
        if not from_users:
            tables.reverse()
        hops = walk(self.r, start, from_users, self.config.walks, self.config.layers, rng)
        places = [(start[:, None], torch.ones_like(start[:, None], dtype=torch.float32)), *hops]
        total = torch.zeros(())
        for side, (now, before) in enumerate(tables):
            if side < len(places):
                nodes, weights = (torch.cat(part, dim=1) for part in zip(*places[side::2], strict=True))
                total = total + drift(now, before, nodes, weights)
        return total / (self.config.layers + 1)


def _forget(views: Views, keys: Any) -> None:
    views._held = None


def _rows(identity: _Identity, content: _Content, users: Tensor, items: Tensor) -> ViewRows:
    picked = {m: F.embedding(items, h) for m, h in content.content.items()}
    return ViewRows(
        items,
        F.embedding(users, identity.user),
        F.embedding(items, identity.item),
        F.embedding(items, identity.condition),
        picked,
        picked,
        {m: F.embedding(users, q) for m, q in content.taste.items()},
        {m: F.embedding(items, g) for m, g in content.common.items()},
    )


def _scaled(condition: Tensor) -> Tensor:
    """Rows of root-mean-square 1."""
    return F.normalize(condition, dim=1) * math.sqrt(condition.shape[1])


def _mean_of_users(train: Interactions) -> Any:
    """[n_users, n_items], columns summing to one: its transpose averages an item's training users."""
    matrix = train.matrix()
    matrix.data /= np.maximum(train.item_counts, 1)[train.items].astype(np.float32)
    return matrix
