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
from gtcrec.walks import neighbours, reach, walk

if TYPE_CHECKING:
    from gtcrec.models.gtc import GTCConfig

__all__ = ["ViewRows", "Views"]


class ViewRows(NamedTuple):
    """The views of b users and of a items."""

    items: Tensor  # [a] which items
    identity: "_Sides"
    content: Mapping[str, Tensor]  # modality -> h, [a, dim]
    echo: Mapping[str, Tensor]  # modality -> h as it went into the users' taste, [a, dim]
    taste: Mapping[str, Tensor]  # modality -> q, [b, dim]
    common: Mapping[str, Tensor]  # modality -> g, what an item's content neighbours give it, [a, dim]


class _Sides(NamedTuple):
    """The identity view of users and items."""

    own_user: Tensor  # [b, dim] the embeddings
    own_item: Tensor  # [a, dim]
    user: Tensor  # [b, dim] over the graphs
    item: Tensor  # [a, dim]
    condition: Tensor  # [a, dim] c: what each item is filtered for

    def rows(self, users: Tensor, items: Tensor) -> "_Sides":
        """Those of some users and items."""
        return _Sides(
            F.embedding(users, self.own_user),
            F.embedding(items, self.own_item),
            F.embedding(users, self.user),
            F.embedding(items, self.item),
            F.embedding(items, self.condition),
        )


class _Content(NamedTuple):
    content: Mapping[str, Tensor]  # modality -> h, [n_items, dim]
    taste: Mapping[str, Tensor]  # modality -> q, [n_users, dim]
    common: Mapping[str, Tensor]  # modality -> g, [n_items, dim]


class _Held(NamedTuple):
    """What the steps between two refreshes hold fixed, from the weights as they were."""

    identity: _Sides | None  # of no use to steps that go over the whole graph
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
            near = graph.item_graph(features, config.item_neighbours, search=_search(config.item_search))
            self.item_graph = graph.SparseMatrix(near)
        if config.user_neighbours:
            self.user_graph = graph.SparseMatrix(graph.co_liked_users(train, config.user_neighbours))
        self.whole = {m: bool(features.present[m].all()) for m in keys}  # modalities that no item lacks
        self.projections, self.tastes = nn.ModuleDict(), nn.ParameterDict()
        for m, key in keys.items():
            self.projections[key] = ContentProjection(features.values[m], features.present[m], config.dim)
            if config.taste == "own":
                self.tastes[key] = nn.Parameter(nn.init.xavier_uniform_(torch.empty(train.n_users, config.dim)))
        self._held: _Held | None = None
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def exact(self, users: Tensor, items: Tensor) -> ViewRows:
        """Return the views of `users` int64 [b] and `items` int64 [a], from the weights as they are now."""
        return _rows(self._identity(), self._content(), users, items)

    def step(self, users: Tensor, items: Tensor, rng: torch.Generator) -> ViewRows:
        """Return the views as training sees them: with gradient, some parts as they were at the last refresh."""
        config = self.config
        if config.content_refresh == "step":
            return self.exact(users, items)
        held = self._held or self.refresh()
        whole, old = held.identity, held.content
        return ViewRows(
            items,
            self._identity().rows(users, items) if whole is None else self._sampled(whole, users, items, rng),
            {m: self.projections[key](items) for m, key in self.keys.items()},
            {m: old.content[m][items] for m in self.keys},
            {m: old.taste[m][users] for m in self.keys},
            {m: old.common[m][items] for m in self.keys},
        )

    @torch.no_grad()
    def refresh(self) -> _Held:
        """Recompute what the steps hold fixed, from the weights as they are now."""
        identity = None
        if self.config.propagation == "sampled":
            identity = self._identity()._replace(own_user=self.users.clone(), own_item=self.items.clone())
        self._held = _Held(identity, self._content())
        return self._held

    def _identity(self) -> _Sides:
        user, item = graph.light_propagation(self.r, self.users, self.items, self.config.layers)
        if hasattr(self, "item_graph"):
            item = item + self.item_graph(self.items)
        if hasattr(self, "user_graph"):
            user = user + self.user_graph(user)
        chosen = self.items if self.config.condition == "identity" else self.audience.transposed(user)
        return _Sides(self.users, self.items, user, item, _scaled(chosen))

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

    def _sampled(self, old: _Sides, users: Tensor, items: Tensor, rng: torch.Generator) -> _Sides:
        """Unbiased estimates of `_identity` at users and items: the held one, and how far walks have drifted from it.

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
        condition = _scaled(own_rows[1]) if self.config.condition == "identity" else old.condition[items]
        return _Sides(own_rows[0], own_rows[1], old.user[users] + user, old.item[items] + item, condition)


def _search(how: str) -> graph.Search:
    if how == "exact":
        return graph.nearest_rows
    from gtcrec.index import approximate_neighbours  # needs an extra

    return approximate_neighbours


def _forget(views: Views, keys: Any) -> None:
    views._held = None


def _rows(identity: _Sides, content: _Content, users: Tensor, items: Tensor) -> ViewRows:
    picked = {m: F.embedding(items, h) for m, h in content.content.items()}
    return ViewRows(
        items,
        identity.rows(users, items),
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
