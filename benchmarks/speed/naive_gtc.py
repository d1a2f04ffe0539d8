"""GTC's published arithmetic written down plainly: the stand-in that the package's own GTC is timed against.

What the preset `released` stands for, from the equations in docs/method.md, as one would write it first: every step
projects the content of all items, denoises all of it for the items' identities, sends each view over the user-item
graph by gather and scatter, gathers each user's co-liked users, and contrasts all items with all items. Nothing is made
slow on purpose: graphs are built once and by sparse products, and nothing that a step reads twice is computed twice.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.ops import neighbors as similarity
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer

DIM, HOPS, ITEM_NEIGHBOURS, USER_NEIGHBOURS = 64, 2, 10, 40
STEPS, BETA_START, BETA_END, SCORING_LEVEL = 600, 1e-4, 0.01, 150
DIFFUSION_WEIGHT, ALIGNMENT_WEIGHT, REG = 0.7, 0.4, 1e-3
LEARNING_RATE = 1e-4


class Denoiser(nn.Module):
    """Predicts the noise in x_t [n, dim] at level t for a condition [n, dim]: one hidden layer over all three."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3 * DIM, DIM), nn.Linear(DIM, DIM)

    def forward(self, xt: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        rates = torch.exp(-math.log(10_000.0) * torch.arange(DIM // 2, device=t.device) / (DIM // 2))
        angles = t[:, None] * rates
        inputs = torch.cat([xt, angles.sin(), angles.cos(), condition], dim=1)
        noise: Tensor = self.leave(F.silu(self.enter(inputs)))
        return noise


class NaiveGTC(nn.Module):
    """s(u, i) = <z_u, z_i>, z the concatenation of the views, those of a user weighted by the user."""

    def __init__(self, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.names = features.names
        self.n_users, self.n_items = train.n_users, train.n_items
        self.users = nn.ParameterDict({v: _embedding(train.n_users) for v in ("identity", *self.names)})
        self.items = _embedding(train.n_items)
        self.weights = nn.Parameter(torch.zeros(train.n_users, 1 + len(self.names)))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.projections, self.denoisers = nn.ModuleDict(), nn.ModuleDict()
        for m in self.names:
            x = torch.from_numpy(features.values[m])
            self.register_buffer(f"x_{m}", (x - x.mean(dim=0)) / x.std(dim=0).clamp(min=1e-6))
            self.projections[m] = nn.Linear(x.shape[1], DIM)
            self.denoisers[m] = Denoiser()
        kept = torch.cumprod(1 - torch.linspace(BETA_START, BETA_END, STEPS), dim=0)
        self.register_buffer("signal", kept.sqrt())
        self.register_buffer("noise", (1 - kept).sqrt())
        self._add_graphs(train, features)

    def _add_graphs(self, train: Interactions, features: ItemFeatures) -> None:
        users, items = torch.from_numpy(train.users), torch.from_numpy(train.items) + train.n_users
        self.register_buffer("source", torch.cat([users, items]))  # [2 edges]
        self.register_buffer("target", torch.cat([items, users]))
        degree = torch.bincount(self.target, minlength=train.n_users + train.n_items).float()
        self.register_buffer("edge_weight", (degree[self.source] * degree[self.target]).rsqrt()[:, None])
        near = similarity.item_graph(features, ITEM_NEIGHBOURS).tocoo()
        places = torch.stack([torch.from_numpy(near.row).long(), torch.from_numpy(near.col).long()])
        item_graph = torch.sparse_coo_tensor(places, torch.from_numpy(near.data), near.shape, check_invariants=True)
        self.register_buffer("item_graph", item_graph.coalesce())
        alike = similarity.co_interaction_users(train, USER_NEIGHBOURS)
        count = torch.from_numpy(alike.indptr).long().diff()
        row = torch.arange(train.n_users).repeat_interleave(count)
        place = torch.arange(len(row)) - torch.from_numpy(alike.indptr).long()[row]
        neighbours = torch.zeros(train.n_users, USER_NEIGHBOURS, dtype=torch.int64)  # places left over weigh nothing
        weights = torch.zeros(train.n_users, USER_NEIGHBOURS)
        neighbours[row, place] = torch.from_numpy(alike.indices).long()
        weights[row, place] = torch.from_numpy(alike.data)
        self.register_buffer("neighbours", neighbours)
        self.register_buffer("neighbour_weights", weights)

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        filtered, diffusion = {}, []
        for m in self.names:
            h = self.projections[m](getattr(self, f"x_{m}"))  # [n_items, dim]
            t = torch.randint(STEPS, (self.n_items,), generator=rng)
            eps = torch.randn(h.shape, generator=rng)
            filtered[m], predicted = self._denoised(m, h, t, eps)
            diffusion.append(F.mse_loss(predicted, eps))
        identity = self._refined(filtered)
        users, items = self._represent(identity, filtered)
        u, i, j = (F.embedding(side, x) for side, x in zip(batch, (users, items, items), strict=True))
        plain = [F.embedding(batch.users, rows) for rows in self.users.values()]
        plain += [F.embedding(side, self.items) for side in batch[1:]]
        norms = torch.stack([rows.square().sum() for rows in plain]).sum()
        return {
            "bpr": -F.logsigmoid((u * i).sum(dim=1) - (u * j).sum(dim=1)).mean(),
            "diffusion": DIFFUSION_WEIGHT * torch.stack(diffusion).mean(),
            "alignment": ALIGNMENT_WEIGHT * self._alignment([identity, *filtered.values()], rng),
            "reg": REG * norms / (2 * len(batch.users)),
        }

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        """Users and items [n, dim * views], the content denoised from a fixed level without random noise."""
        filtered = {}
        for m in self.names:
            h = self.projections[m](getattr(self, f"x_{m}"))
            t = torch.full((self.n_items,), SCORING_LEVEL)
            filtered[m], _ = self._denoised(m, h, t, torch.zeros_like(h))
        return self._represent(self._refined(filtered), filtered)

    def scorer(self) -> Scorer:
        users, items = self.vectors()
        return lambda index: users[index] @ items.T

    def _denoised(self, m: str, h: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """The one-step estimate of x_0 from x_t and the predicted noise, both [n_items, dim]."""
        signal, noise = self.signal[t][:, None], self.noise[t][:, None]
        xt = signal * h + noise * eps
        predicted = self.denoisers[m](xt, t, self.items)
        return (xt - noise * predicted) / signal, predicted

    def _refined(self, filtered: dict[str, Tensor]) -> Tensor:
        """The identity view plus its softmax attention over the item's filtered content, [n_items, dim]."""
        content = torch.stack(list(filtered.values()), dim=1)  # [n_items, modalities, dim]
        attention = ((content * self.items[:, None]).sum(dim=2) / math.sqrt(DIM)).softmax(dim=1)
        return self.items + (attention[:, :, None] * content).sum(dim=1)

    def _represent(self, identity: Tensor, filtered: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Users and items over all graphs, [n_users, dim * views] and [n_items, dim * views]."""
        weights = self.weights.softmax(dim=1)  # [n_users, views]
        users, items = [], []
        for place, (view, content) in enumerate({"identity": identity, **filtered}.items()):
            nodes = self._propagated(torch.cat([self.users[view], content]))
            users.append(weights[:, place : place + 1] * nodes[: self.n_users])
            items.append(nodes[self.n_users :])
        user, item = torch.cat(users, dim=1), torch.cat(items, dim=1)
        around = self.neighbour_weights[:, None, :] @ F.embedding(self.neighbours, user)  # gathers [n_users, 40, d]
        return user + around[:, 0], item + torch.sparse.mm(self.item_graph, item)

    def _propagated(self, nodes: Tensor) -> Tensor:
        """x + A x + A^2 x of the rows of length one, [n_users + n_items, dim]."""
        x = F.normalize(nodes, dim=1)
        total = x
        for _ in range(HOPS):
            messages = x.index_select(0, self.source) * self.edge_weight  # [2 edges, dim]
            x = torch.zeros_like(x).index_add_(0, self.target, messages)
            total = total + x
        return total

    def _alignment(self, views: list[Tensor], rng: torch.Generator) -> Tensor:
        """Each item's own tuple of views against tuples with permuted views, for each view as the anchor."""
        views = [F.normalize(view, dim=1) for view in views]
        own = torch.arange(self.n_items)
        terms = []
        for anchor, view in enumerate(views):
            others = [views[m] for m in range(len(views)) if m != anchor]
            mixed = [others[0], *(other[torch.randperm(self.n_items, generator=rng)] for other in others[1:])]
            positive = (view * torch.stack(others).prod(dim=0)).sum(dim=1)  # [n_items]
            scaled = self.log_scale.exp() * view  # on the small side of the product
            logits = scaled @ torch.stack(mixed).prod(dim=0).T  # [n_items, n_items]
            logits.diagonal().copy_(self.log_scale.exp() * positive)
            terms.append(F.cross_entropy(logits, own))
        return torch.stack(terms).mean()


def _embedding(n: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(n, DIM)))
