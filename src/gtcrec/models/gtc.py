"""GTC: user-aware filtering of content by conditional diffusion, and total correlation of the views.

After "User-Aware Conditional Generative Total Correlation Learning for Multi-Modal Recommendation"
(arXiv 2604.03014). Views of an item are its identity (a learned embedding) and each modality. The score is one
inner product of a user and an item vector, with the filter's dependence on the user inside it.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec import diffusion, graph, losses
from gtcrec.models.vectors import dot_scorer
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer

__all__ = ["GTC", "PRESETS", "GTCConfig"]


class GTCConfig(BaseModel):
    """Settings of GTC; where a default is the paper's, section 5 of it says so, the rest is chosen on validation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(64, ge=1, description="length of each view's vectors")
    layers: int = Field(3, ge=0, description="hops over the user-item graph")
    item_neighbours: int = Field(10, ge=0, description="content neighbours per item; 0: no item graph")
    user_neighbours: int = Field(40, ge=0, description="co-liked users per user; 0: no user graph")
    filter: Literal["off", "noise_only", "trained"] = Field("trained", description="noise_only: an untrained denoiser")
    condition: Literal["identity", "audience"] = Field("audience", description="what an item is filtered for")
    prototypes: int = Field(4, ge=1, description="interest prototypes; 1: the filter does not depend on the user")
    hidden: int = Field(128, ge=2, description="width of the denoiser")
    diffusion_steps: int = Field(600, ge=2, description="noise levels T (paper)")
    beta_start: float = Field(1e-4, gt=0, lt=1, description="smallest beta (paper)")
    beta_end: float = Field(0.01, gt=0, lt=1, description="largest beta (paper)")
    level: float = Field(0.25, ge=0, lt=1, description="noise level of the filter, as a share of T")
    filter_steps: int = Field(2, ge=1, description="DDIM steps of the filter")
    alignment: Literal["none", "pairwise", "n"] = Field("n", description="what ties the views of an item together")
    aligned_items: int = Field(2048, ge=0, description="items in the alignment of a step; 0: the whole catalogue")
    refine: bool = Field(False, description="add attention over the filtered content to the identity view")
    content_layers: int = Field(1, ge=0, description="hops of the content views over the user-item graph")
    diffusion_weight: float = Field(0.7, ge=0, description="of the denoising loss (paper)")
    alignment_weight: float = Field(0.05, ge=0, description="of the alignment loss")
    reg: float = Field(1e-4, ge=0, description="of the L2 term on the embeddings")


PRESETS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "default": ({}, {}),
    # The arithmetic of the published code: its settings, the filter for the item's identity alone, full-catalogue TC.
    "released": (
        {
            "layers": 2,
            "condition": "identity",
            "prototypes": 1,
            "filter_steps": 1,
            "aligned_items": 0,
            "refine": True,
            "content_layers": 2,
            "alignment_weight": 0.4,
            "reg": 1e-3,
        },
        {"learning_rate": 1e-4, "batch_size": 2048},
    ),
}


class _Views(NamedTuple):
    """All representations of one pass; S content views, K prototypes."""

    user: Tensor  # [n_users, dim] identity
    item: Tensor  # [n_items, dim] identity
    content: Mapping[str, Tensor]  # modality -> projected content [n_items, dim], zero where absent
    filtered: Mapping[str, Tensor]  # modality -> filtered content [K, n_items, dim], zero where absent
    taste: Mapping[str, Tensor]  # modality -> the user's side [n_users, dim]
    common: Mapping[str, Tensor]  # modality -> the item's propagated content [n_items, dim]
    mix: Tensor  # [n_users, K] the user's prototypes


class GTC(nn.Module):
    """s(u, i) = <z_u, z_i> + sum_m w_um sum_k pi_uk <q_um, D_m(h_im | p_k, c_i) + g_im>."""

    def __init__(self, config: GTCConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.config = config
        self.names = features.names
        dim, n_users, n_items = config.dim, train.n_users, train.n_items
        self.users = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_users, dim)))
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_items, dim)))
        self.r = graph.SparseMatrix(graph.bipartite(train))
        self.audience = graph.SparseMatrix(_mean_of_users(train))
        if config.item_neighbours and self.names:
            self.item_graph = graph.SparseMatrix(graph.item_graph(features, config.item_neighbours))
        if config.user_neighbours:
            self.user_graph = graph.SparseMatrix(graph.co_liked_users(train, config.user_neighbours))
        self.log_scale = nn.Parameter(torch.tensor(math.log(5.0)))
        if self.names:
            self._add_content(features, n_users)

    def _add_content(self, features: ItemFeatures, n_users: int) -> None:
        config = self.config
        self.weights = nn.Parameter(torch.zeros(n_users, len(self.names)))  # w = 2 sigmoid, so 1 at first
        self.projections, self.tastes, self.denoisers = nn.ModuleDict(), nn.ParameterDict(), nn.ModuleDict()
        for m in self.names:
            x, present = torch.from_numpy(features.values[m]), torch.from_numpy(features.present[m])
            self.register_buffer(f"x_{m}", _standardised(x, present), persistent=False)
            self.register_buffer(f"present_{m}", present, persistent=False)
            self.projections[m] = nn.Linear(x.shape[1], config.dim)
            self.tastes[m] = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_users, config.dim)))
        if config.filter == "off":
            return
        self.schedule = diffusion.linear_schedule(config.diffusion_steps, config.beta_start, config.beta_end)
        self.prototypes = nn.Parameter(torch.randn(config.prototypes, config.dim))
        for m in self.names:
            self.denoisers[m] = diffusion.ConditionalDenoiser(config.dim, config.dim, config.hidden)
        if config.filter == "noise_only":
            self.denoisers.requires_grad_(False)

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Return user vectors [n_users, d] and item vectors [n_items, d] whose inner product is the score.

        d = dim (1 + modalities * prototypes): the filter's dependence on the user folds into the user vector.
        """
        with torch.no_grad():
            v = self._views()
            users, items = [v.user], [v.item]
            for m, weight in zip(self.names, self._view_weights().unbind(1) if self.names else (), strict=True):
                for k, kept in enumerate(v.filtered[m]):
                    users.append(weight[:, None] * v.mix[:, k, None] * v.taste[m])
                    items.append(kept + v.common[m])
            return torch.cat(users, dim=1), torch.cat(items, dim=1)

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())

    def pair_scores(self, v: "_Views", users: Tensor, items: Tensor) -> Tensor:
        """Return the scores [b] of pairs (users, items), each filtered for its own user: eq. (3) written out."""
        score = (F.embedding(users, v.user) * F.embedding(items, v.item)).sum(dim=1)
        for m, weight in zip(self.names, self._view_weights(users).unbind(1) if self.names else (), strict=True):
            kept = torch.einsum("bk,kbd->bd", F.embedding(users, v.mix), v.filtered[m][:, items])
            score = score + weight * (F.embedding(users, v.taste[m]) * (kept + v.common[m][items])).sum(dim=1)
        return score

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        config, v = self.config, self._views()
        better, worse = (self.pair_scores(v, batch.users, side) for side in batch[1:])
        embeddings = [F.embedding(batch.users, self.users), *(F.embedding(side, self.items) for side in batch[1:])]
        embeddings += [F.embedding(batch.users, self.tastes[m]) for m in self.names]
        terms = {"bpr": losses.bpr(better, worse), "reg": config.reg * losses.squared_norm(*embeddings)}
        if self.names and config.alignment != "none":
            loss, bound = self._alignment(v, batch, rng)
            terms |= {"alignment": config.alignment_weight * loss, "log.tc_bound_nats": bound.detach()}
        if self.names and config.filter == "trained" and config.diffusion_weight > 0:
            terms["diffusion"] = config.diffusion_weight * self._denoising(v, batch, rng)
        return terms

    def _views(self) -> _Views:
        user, item = graph.light_propagation(self.r, self.users, self.items, self.config.layers)
        if hasattr(self, "item_graph"):
            item = item + self.item_graph(self.items)
        if hasattr(self, "user_graph"):
            user = user + self.user_graph(user)
        condition = self._condition(user)
        content = {m: self._content(m) for m in self.names}
        mix = self._mix(user)
        filtered, taste, common = {}, {}, {}
        for m in self.names:
            filtered[m] = self._filtered(m, content[m], condition)
            users, items = self.tastes[m], filtered[m].mean(dim=0)
            taste[m], propagated = graph.light_propagation(self.r, users, items, self.config.content_layers)
            common[m] = propagated - items / (self.config.content_layers + 1)
        if self.config.refine and self.names:
            item = item + _attend(item, [filtered[m].mean(dim=0) for m in self.names])
        return _Views(user, item, content, filtered, taste, common, mix)

    def _content(self, m: str) -> Tensor:
        """h = W x, scaled to unit variance per item, as the noise schedule expects; zero where absent."""
        h = F.layer_norm(self.projections[m](getattr(self, f"x_{m}")), (self.config.dim,))
        return torch.where(getattr(self, f"present_{m}")[:, None], h, 0.0)

    def _condition(self, user: Tensor) -> Tensor:
        """What the items [n_items, dim] are filtered for: their identity, or the mean of their training users."""
        chosen = self.items if self.config.condition == "identity" else self.audience.transposed(user)
        return F.normalize(chosen, dim=1) * math.sqrt(self.config.dim)

    def _mix(self, user: Tensor) -> Tensor:
        """pi_u, softmax over prototypes of the user's representation, [n_users, K]."""
        if not hasattr(self, "prototypes"):
            return user.new_ones(len(user), 1)
        return (F.normalize(user, dim=1) @ self.prototypes.T).softmax(dim=1)

    def _filtered(self, m: str, content: Tensor, condition: Tensor) -> Tensor:
        """D(h | p_k, c) for each prototype, [K, n_items, dim]; deterministic."""
        config = self.config
        if config.filter == "off":
            return content[None] / math.sqrt(config.dim)
        conditions = self.prototypes[:, None, :] + condition  # [K, n_items, dim]
        level = round(config.level * (config.diffusion_steps - 1))
        predict = lambda xt, t: self.denoisers[m](xt, t, conditions)  # noqa: E731
        kept = diffusion.ddim_filter(self.schedule, predict, content, level, config.filter_steps)
        return torch.where(getattr(self, f"present_{m}")[:, None], kept, 0.0) / math.sqrt(config.dim)

    def _denoising(self, v: _Views, batch: Batch, rng: torch.Generator) -> Tensor:
        """E |eps - eps_theta(x_t, t, p_k, c)|^2 over the batch's liked items and their users' prototypes.

        Content and condition are held fixed: else the projection could shrink to what the condition predicts.
        """
        condition = F.embedding(batch.positives, self._condition(v.user.detach()).detach())
        weights = F.embedding(batch.users, v.mix)  # [b, K]
        terms = []
        for m in self.names:
            h = F.embedding(batch.positives, v.content[m].detach())  # [b, dim]
            t = torch.randint(len(self.schedule), (len(h),), generator=rng)
            eps = torch.randn(h.shape, generator=rng)
            guess = self.denoisers[m](self.schedule.add_noise(h, t, eps), t, self.prototypes[:, None, :] + condition)
            error = (guess - eps).square().mean(dim=2)  # [K, b]
            has = getattr(self, f"present_{m}")[batch.positives]
            terms.append(((weights.T * error).sum(dim=0) * has).sum() / has.sum().clamp(min=1))
        return torch.stack(terms).mean()

    def _alignment(self, v: _Views, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The alignment loss over a sample of items, and the bound on their total correlation in nats."""
        items = torch.arange(len(self.items)) if not self.config.aligned_items else batch.positives.unique()
        items = items[torch.randperm(len(items), generator=rng)[: self.config.aligned_items or None]]
        rows = [v.item, *(v.filtered[m].mean(dim=0) for m in self.names)]
        # Entries of root-mean-square 1, so that the neutral element 1 of an absent view has their scale.
        views = [F.normalize(F.embedding(items, row), dim=1) * math.sqrt(self.config.dim) for row in rows]
        present = [torch.ones_like(items, dtype=torch.bool), *(getattr(self, f"present_{m}")[items] for m in self.names)]
        scale = self.log_scale.exp().clamp(max=100.0) / self.config.dim
        orders = [losses.derangement(len(items), rng) for _ in views]
        loss = losses.total_correlation(views, scale, orders, present)
        return loss, math.log(len(items)) - loss

    def _view_weights(self, users: Tensor | None = None) -> Tensor:
        weights = self.weights if users is None else F.embedding(users, self.weights)
        return 2 * torch.sigmoid(weights)


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
