"""GTC: user-aware filtering of content by conditional diffusion, and total correlation of the views.

After "User-Aware Conditional Generative Total Correlation Learning for Multi-Modal Recommendation"
(arXiv 2604.03014). Views of an item are its identity (a learned embedding) and each modality. The score is one
inner product of a user and an item vector, with the filter's dependence on the user inside it.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec import diffusion, graph, losses
from gtcrec.models.names import module_keys
from gtcrec.models.vectors import dot_scorer
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer

__all__ = ["GTC", "PRESETS", "GTCConfig"]


class GTCConfig(BaseModel):
    """Settings of GTC; where a default is the paper's, section 5 of it says so, the rest is chosen on validation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(64, ge=1, description="length of each view's vectors")
    layers: int = Field(3, ge=0, description="hops over the user-item graph")
    item_neighbours: int = Field(10, ge=0, description="content neighbours per item; 0: no item graph")
    user_neighbours: int = Field(0, ge=0, description="co-liked users per user; 0: no user graph")
    filter: Literal["off", "noise_only", "trained"] = Field("trained", description="noise_only: an untrained denoiser")
    condition: Literal["identity", "audience"] = Field("identity", description="what an item is filtered for")
    prototypes: int = Field(4, ge=1, description="interest prototypes; 1: the filter does not depend on the user")
    hidden: int = Field(64, ge=2, description="width of the denoiser")
    diffusion_steps: int = Field(600, ge=2, description="noise levels T (paper)")
    beta_start: float = Field(1e-4, gt=0, lt=1, description="smallest beta (paper)")
    beta_end: float = Field(0.01, gt=0, lt=1, description="largest beta (paper)")
    level: float = Field(0.25, ge=0, lt=1, description="noise level of the filter, as a share of T")
    filter_steps: int = Field(1, ge=1, description="DDIM steps of the filter")
    alignment: Literal["none", "pairwise", "n"] = Field("n", description="what ties the views of an item together")
    aligned_items: int = Field(1024, ge=0, description="items in the alignment of a step; 0: the whole catalogue")
    taste: Literal["content", "own"] = Field(
        "content", description="user's side of content; own: plus a learned vector"
    )
    refine: bool = Field(False, description="add attention over the filtered content to the identity view")
    echo: bool = Field(False, description="in training, let a liked item's own content count in its user's taste")
    content_weight: float = Field(0.3, gt=0, description="of each content view in the score, before training")
    content_layers: int = Field(1, ge=0, description="hops of the content views over the user-item graph")
    diffusion_weight: float = Field(0.7, ge=0, description="of the denoising loss (paper)")
    alignment_weight: float = Field(0.01, ge=0, description="of the alignment loss")
    reg: float = Field(1e-4, ge=0, description="of the L2 term on the embeddings")


PRESETS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "default": ({}, {}),
    # The arithmetic of the published code: its settings, the filter for the item's identity alone, full-catalogue TC.
    "released": (
        {
            "layers": 2,
            "user_neighbours": 40,
            "prototypes": 1,
            "filter_steps": 1,
            "aligned_items": 0,
            "taste": "own",
            "echo": True,
            "refine": True,
            "content_layers": 2,
            "alignment_weight": 0.4,
            "reg": 1e-3,
        },
        {"learning_rate": 1e-4, "batch_size": 2048},
    ),
}


class _Pass(NamedTuple):
    """What one pass computes: users and items over the graphs, and the filter for the items that are asked for."""

    user: Tensor  # [n_users, dim] identity view
    item: Tensor  # [n_items, dim] identity view
    mix: Tensor  # [n_users, K] pi: the user's prototypes
    condition: Tensor  # [n_items, dim] c: what each item is filtered for
    content: Mapping[str, Tensor]  # modality -> h, [n_items, dim]
    taste: Mapping[str, Tensor]  # modality -> q, [n_users, dim]
    common: Mapping[str, Tensor]  # modality -> g, [n_items, dim]
    asked: Tensor  # [a] the items that were filtered
    filtered: Mapping[str, Tensor]  # modality -> D(h | p_k, c), [K, a, dim]


class GTC(nn.Module):
    """s(u, i) = <z_u, z_i> + sum_m w_um sum_k pi_uk <q_um, D_m(h_im | p_k, c_i) + g_im>."""

    user_counts: Tensor
    item_counts: Tensor

    def __init__(self, config: GTCConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.config = config
        self.keys = module_keys(features.names)
        dim, n_users, n_items = config.dim, train.n_users, train.n_items
        self.users = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_users, dim)))
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_items, dim)))
        self.r = graph.SparseMatrix(graph.bipartite(train))
        self.register_buffer("user_counts", torch.from_numpy(train.user_counts).float(), persistent=False)
        self.register_buffer("item_counts", torch.from_numpy(train.item_counts).float(), persistent=False)
        self.audience = graph.SparseMatrix(_mean_of_users(train))
        if config.item_neighbours and self.keys:
            self.item_graph = graph.SparseMatrix(graph.item_graph(features, config.item_neighbours))
        if config.user_neighbours:
            self.user_graph = graph.SparseMatrix(graph.co_liked_users(train, config.user_neighbours))
        if self.keys:
            self._add_content(features, n_users)
            if config.alignment != "none":
                self.log_scale = nn.Parameter(torch.tensor(math.log(5.0)))

    def _add_content(self, features: ItemFeatures, n_users: int) -> None:
        config = self.config
        self.weights = nn.Parameter(torch.zeros(n_users, len(self.keys)))
        self.projections, self.tastes, self.denoisers = nn.ModuleDict(), nn.ParameterDict(), nn.ModuleDict()
        for m in self.keys:
            x, present = torch.from_numpy(features.values[m]), torch.from_numpy(features.present[m])
            self.register_buffer(f"x_{self.keys[m]}", _standardised(x, present), persistent=False)
            self.register_buffer(f"present_{self.keys[m]}", present, persistent=False)
            self.projections[self.keys[m]] = nn.Linear(x.shape[1], config.dim)
            if config.taste == "own":
                self.tastes[self.keys[m]] = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_users, config.dim)))
        if config.filter == "off":
            return
        self.schedule = diffusion.linear_schedule(config.diffusion_steps, config.beta_start, config.beta_end)
        self.prototypes = nn.Parameter(torch.randn(config.prototypes, config.dim))
        for m in self.keys:
            self.denoisers[self.keys[m]] = diffusion.ConditionalDenoiser(
                config.dim, (config.dim, config.dim), config.hidden
            )
        if config.filter == "noise_only":
            self.denoisers.requires_grad_(False)

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Return user vectors [n_users, d] and item vectors [n_items, d] whose inner product is the score.

        d = dim (1 + modalities * prototypes): the filter's dependence on the user folds into the user vector.
        """
        with torch.no_grad():
            v = self._pass(torch.arange(len(self.items), device=self.items.device))
            users, items = [v.user], [self._identity(v)]
            for m, weight in self._weighted():
                for k, kept in enumerate(v.filtered[m]):
                    users.append(weight[:, None] * v.mix[:, k, None] * v.taste[m])
                    items.append(kept + v.common[m])
            return torch.cat(users, dim=1), torch.cat(items, dim=1)

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())

    def pair_scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the scores [b] of pairs, each item filtered for its own user: the sum over views written out."""
        return self._pair_scores(self._pass(items), users, torch.arange(len(items), device=items.device))

    def filtered(self, modality: str) -> Tensor:
        """Return what the filter keeps of each item's content for each prototype, [K, n_items, dim]."""
        return self._pass(torch.arange(len(self.items), device=self.items.device)).filtered[modality]

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        config = self.config
        liked, others = batch.positives, batch.negatives
        every = self.keys and config.alignment != "none" and not config.aligned_items
        asked = (
            torch.arange(len(self.items), device=liked.device) if every else torch.unique(torch.cat([liked, others]))
        )
        v = self._pass(asked)
        better = self._pair_scores(v, batch.users, torch.searchsorted(asked, liked), liked=True)
        worse = self._pair_scores(v, batch.users, torch.searchsorted(asked, others))
        embeddings = [
            F.embedding(batch.users, self.users),
            *(F.embedding(side, self.items) for side in batch[1:]),
        ]
        if config.taste == "own":
            embeddings += [F.embedding(batch.users, self.tastes[self.keys[m]]) for m in self.keys]
        terms = {"bpr": losses.bpr(better, worse), "reg": config.reg * losses.squared_norm(*embeddings)}
        if self.keys and config.alignment != "none":
            aligned = torch.arange(len(asked)) if every else torch.searchsorted(asked, torch.unique(liked))
            if len(aligned) > 1:  # an epoch's last batch may hold one pair, and one item has nothing to differ from
                loss, bound = self._alignment(v, aligned, rng)
                terms |= {"alignment": config.alignment_weight * loss, "log.tc_bound_nats": bound.detach()}
        if self.keys and config.filter == "trained" and config.diffusion_weight > 0:
            terms["diffusion"] = config.diffusion_weight * self._denoising(v, batch, rng)
        return terms

    def _pass(self, asked: Tensor) -> _Pass:
        config = self.config
        user, item = graph.light_propagation(self.r, self.users, self.items, config.layers)
        if hasattr(self, "item_graph"):
            item = item + self.item_graph(self.items)
        if hasattr(self, "user_graph"):
            user = user + self.user_graph(user)
        condition = self._condition(user)
        content, taste, common, filtered = {}, {}, {}, {}
        for m in self.keys:
            content[m] = self._content(m)
            scaled = content[m] / math.sqrt(config.dim)
            start = self.tastes[self.keys[m]] if config.taste == "own" else torch.zeros_like(self.users)
            taste[m], around = graph.light_propagation(self.r, start, scaled, config.content_layers)
            common[m] = around - scaled / (config.content_layers + 1)
            filtered[m] = self._filter(m, F.embedding(asked, content[m]), F.embedding(asked, condition)) / math.sqrt(
                config.dim
            )
        return _Pass(user, item, self._mix(user), condition, content, taste, common, asked, filtered)

    def _pair_scores(self, v: _Pass, users: Tensor, places: Tensor, liked: bool = False) -> Tensor:
        """Scores [b] of users with the items at `places` of those asked for.

        For `liked` pairs the item's own content is taken out of the user's taste: no item that will be recommended
        is among those that formed the taste, and training must not live on that echo.
        """
        items = v.asked[places]
        score = (F.embedding(users, v.user) * F.embedding(places, self._identity(v))).sum(dim=1)
        mix = F.embedding(users, v.mix)  # [b, K]
        for m, weight in self._weighted(users):
            taste = F.embedding(users, v.taste[m])
            if liked and self.config.content_layers and not self.config.echo:
                taste = taste - self._share(users, items)[:, None] * F.embedding(items, v.content[m])
            kept = sum(mix[:, k, None] * F.embedding(places, one) for k, one in enumerate(v.filtered[m]))
            score = score + weight * (taste * (kept + F.embedding(items, v.common[m]))).sum(dim=1)
        return score

    def _share(self, users: Tensor, items: Tensor) -> Tensor:
        """What of an item's content reaches its user's taste over their edge, [b]."""
        edges = (self.user_counts[users] * self.item_counts[items]).rsqrt()
        return edges / ((self.config.content_layers + 1) * math.sqrt(self.config.dim))

    def _identity(self, v: _Pass) -> Tensor:
        """The identity view of the items asked for, [a, dim]."""
        item = F.embedding(v.asked, v.item)
        return item + _attend(item, self._averages(v)) if self.config.refine and self.keys else item

    def _averages(self, v: _Pass) -> list[Tensor]:
        """Each modality's filtered content, averaged over prototypes, [a, dim]."""
        return [v.filtered[m].mean(dim=0) for m in self.keys]

    def _content(self, m: str) -> Tensor:
        """h = W x, scaled to unit variance per item, as the noise schedule expects; zero where absent."""
        h = F.layer_norm(self.projections[self.keys[m]](getattr(self, f"x_{self.keys[m]}")), (self.config.dim,))
        return torch.where(getattr(self, f"present_{self.keys[m]}")[:, None], h, 0.0)

    def _condition(self, user: Tensor) -> Tensor:
        """What the items [n_items, dim] are filtered for: their identity, or the mean of their training users."""
        chosen = self.items if self.config.condition == "identity" else self.audience.transposed(user)
        return F.normalize(chosen, dim=1) * math.sqrt(self.config.dim)

    def _mix(self, user: Tensor) -> Tensor:
        """pi_u, softmax over prototypes of the user's representation, [n_users, K]."""
        if not hasattr(self, "prototypes"):
            return user.new_ones(len(user), 1)
        return (F.normalize(user, dim=1) @ self.prototypes.T).softmax(dim=1)

    def _filter(self, m: str, content: Tensor, condition: Tensor) -> Tensor:
        """D(h | p_k, c) for each prototype and row, [K, a, dim]; deterministic; zero where content is."""
        config = self.config
        if config.filter == "off":
            return content[None]

        def predict(xt: Tensor, t: Tensor) -> Tensor:
            noise: Tensor = self.denoisers[self.keys[m]](xt, t, condition, self.prototypes[:, None, :])
            return noise

        level = round(config.level * (config.diffusion_steps - 1))
        kept = diffusion.ddim_filter(self.schedule, predict, content, level, config.filter_steps)
        return torch.where((content != 0).any(dim=1, keepdim=True), kept, 0.0)

    def _denoising(self, v: _Pass, batch: Batch, rng: torch.Generator) -> Tensor:
        """E |eps - eps_theta(x_t, t, p_k, c)|^2 over liked items, each with a prototype drawn from its user's mix.

        Content and condition are held fixed: else the projection could shrink to what the condition predicts.
        """
        condition = F.embedding(batch.positives, v.condition.detach())
        drawn = torch.multinomial(F.embedding(batch.users, v.mix.detach()), 1, generator=rng)[:, 0]
        prototype = F.embedding(drawn, self.prototypes)  # [b, dim]
        terms = []
        for m in self.keys:
            h = F.embedding(batch.positives, v.content[m].detach())  # [b, dim]
            t = torch.randint(len(self.schedule), (len(h),), generator=rng)
            eps = torch.randn(h.shape, generator=rng)
            error = (
                (self.denoisers[self.keys[m]](self.schedule.add_noise(h, t, eps), t, condition, prototype) - eps)
                .square()
                .mean(dim=1)
            )
            has = getattr(self, f"present_{self.keys[m]}")[batch.positives]
            terms.append((error * has).sum() / has.sum().clamp(min=1))
        return torch.stack(terms).mean()

    def _alignment(self, v: _Pass, places: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The alignment loss over a sample of items, and the bound on their total correlation in nats."""
        places = places[torch.randperm(len(places), generator=rng)[: self.config.aligned_items or None]]
        # Entries of root-mean-square 1, so that the neutral element 1 of an absent view has their scale.
        rows = [F.embedding(places, view) for view in (self._identity(v), *self._averages(v))]
        views = [F.normalize(row, dim=1) * math.sqrt(self.config.dim) for row in rows]
        scale = self.log_scale.exp().clamp(max=100.0) / self.config.dim
        items = v.asked[places]
        has = [
            torch.ones_like(items, dtype=torch.bool),
            *(getattr(self, f"present_{self.keys[m]}")[items] for m in self.keys),
        ]
        if self.config.alignment == "pairwise":
            loss = losses.pairwise(views, scale, has)
        else:
            loss = losses.total_correlation(views, scale, [losses.derangement(len(items), rng) for _ in views], has)
        return loss, math.log(len(places)) - loss

    def _weighted(self, users: Tensor | None = None) -> Iterator[tuple[str, Tensor]]:
        """Each modality with the users' own weights of it, [b]; at first `content_weight`."""
        if self.keys:
            weights = self.weights if users is None else F.embedding(users, self.weights)
            yield from zip(self.keys, (2 * self.config.content_weight * torch.sigmoid(weights)).unbind(1), strict=True)


def _attend(query: Tensor, keys: list[Tensor]) -> Tensor:
    """Softmax attention of each item's query [n, d] over its own keys."""
    stacked = torch.stack(keys, dim=1)  # [n, S, d]
    weights = torch.einsum("nd,nsd->ns", query, stacked).div(math.sqrt(query.shape[1])).softmax(dim=1)
    return torch.einsum("ns,nsd->nd", weights, stacked)


def _mean_of_users(train: Interactions) -> Any:
    """[n_users, n_items], columns summing to one: its transpose averages an item's training users."""
    matrix = train.matrix()
    matrix.data /= np.maximum(train.item_counts, 1)[train.items].astype(np.float32)
    return matrix


def _standardised(x: Tensor, present: Tensor) -> Tensor:
    """Zero mean and unit variance per column over the present rows; constant columns and absent rows are 0."""
    have = x[present]
    mean, spread = have.mean(dim=0), have.std(dim=0, correction=0)
    scaled = (x - mean) / torch.where(spread > 1e-6 * (mean.abs() + 1e-12), spread, torch.inf)
    return torch.where(present[:, None], scaled, 0.0)
