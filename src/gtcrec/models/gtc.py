"""GTC: user-aware filtering of content by conditional diffusion, and total correlation of the views.

After "User-Aware Conditional Generative Total Correlation Learning for Multi-Modal Recommendation"
(arXiv 2604.03014). Views of an item are its identity (a learned embedding) and each modality. The score is one
inner product of a user and an item vector, with the filter's dependence on the user inside it.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec import diffusion, losses
from gtcrec.models.gtc_views import ViewRows, Views
from gtcrec.models.names import module_keys
from gtcrec.models.vectors import DotScorer
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer

__all__ = ["GTC", "PRESETS", "GTCConfig"]


class GTCConfig(BaseModel):
    """Settings of GTC; where a default is the paper's, section 5 of it says so, the rest is chosen on validation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(64, ge=1, description="length of each view's vectors")
    layers: int = Field(3, ge=0, description="hops over the user-item graph")
    item_neighbours: int = Field(10, ge=0, description="content neighbours per item; 0: no item graph")
    item_search: Literal["exact", "approximate"] = Field("exact", description="approximate: for 10^5 items and more")
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
    aligned_items: int = Field(512, ge=0, description="items in the alignment of a step; 0: the whole catalogue")
    taste: Literal["content", "own"] = Field(
        "content", description="user's side of content; own: plus a learned vector"
    )
    refine: bool = Field(False, description="add attention over the filtered content to the identity view")
    echo: bool = Field(False, description="in training, let a liked item's own content count in its user's taste")
    content_weight: float = Field(0.3, gt=0, description="of each content view in the score, before training")
    content_layers: int = Field(1, ge=0, description="hops of the content views over the user-item graph")
    content_refresh: Literal["step", "epoch"] = Field(
        "epoch", description="when content goes over the graph: each step, with its gradient, or once before an epoch"
    )
    propagation: Literal["full", "sampled"] = Field(
        "full", description="sampled: a step looks at walks from its own users and items, whatever the catalogue's size"
    )
    walks: int = Field(4, ge=1, description="walks from each user and item of a step, if sampled")
    denoised_pairs: int = Field(1024, ge=0, description="liked pairs in the denoising loss of a step; 0: all")
    diffusion_weight: float = Field(0.7, ge=0, description="of the denoising loss (paper)")
    alignment_weight: float = Field(0.01, ge=0, description="of the alignment loss")
    reg: float = Field(1e-4, ge=0, description="of the L2 term on the embeddings")

    @model_validator(mode="after")
    def _a_sampled_step_sees_no_whole(self) -> "GTCConfig":
        if self.propagation == "sampled":
            wanted = {"content_refresh": "epoch", "taste": "content"}
            for key, value in wanted.items():
                if getattr(self, key) != value:
                    raise ValueError(f"propagation=sampled needs {key}={value}, found {key}={getattr(self, key)}")
            if not self.aligned_items and self.alignment != "none":
                raise ValueError("propagation=sampled needs aligned_items > 0, found 0: the whole catalogue")
        return self


PRESETS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "default": ({}, {}),
    # For catalogues that a step must not look through. Its gradients are noisy, which Adam answers with short steps.
    "sampled": ({"propagation": "sampled"}, {"learning_rate": 3e-3}),
    # The arithmetic of the published code: its settings, the filter for the item's identity alone, full-catalogue TC.
    "released": (
        {
            "layers": 2,
            "user_neighbours": 40,
            "prototypes": 1,
            "filter_steps": 1,
            "aligned_items": 0,
            "denoised_pairs": 0,
            "taste": "own",
            "content_refresh": "step",
            "echo": True,
            "refine": True,
            "content_layers": 2,
            "alignment_weight": 0.4,
            "reg": 1e-3,
        },
        {"learning_rate": 1e-4, "batch_size": 2048},
    ),
}


class _Rows(NamedTuple):
    """What a step computes, for b users and a items."""

    views: ViewRows
    mix: Tensor  # [b, K] pi: the users' prototypes
    filtered: Mapping[str, Tensor]  # modality -> D(h | p_k, c), [a, K, dim]


class GTC(nn.Module):
    """s(u, i) = <z_u, z_i> + sum_m w_um sum_k pi_uk <q_um, D_m(h_im | p_k, c_i) + g_im>."""

    user_counts: Tensor
    item_counts: Tensor

    def __init__(self, config: GTCConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.config = config
        self.keys = module_keys(features.names)
        self.n_users, self.n_items = train.n_users, train.n_items
        self.views = Views(config, train, features, self.keys)
        self.register_buffer("user_counts", torch.from_numpy(train.user_counts).float(), persistent=False)
        self.register_buffer("item_counts", torch.from_numpy(train.item_counts).float(), persistent=False)
        self.denoisers = nn.ModuleDict()
        if not self.keys:
            return
        self.weights = nn.Parameter(torch.zeros(train.n_users, len(self.keys)))
        if config.alignment != "none":
            self.log_scale = nn.Parameter(torch.tensor(math.log(5.0)))
        if config.filter != "off":
            self._add_filter()

    def _add_filter(self) -> None:
        config = self.config
        self.schedule = diffusion.linear_schedule(config.diffusion_steps, config.beta_start, config.beta_end)
        self.prototypes = nn.Parameter(torch.randn(config.prototypes, config.dim))
        for key in self.keys.values():
            self.denoisers[key] = diffusion.ConditionalDenoiser(config.dim, (config.dim, config.dim), config.hidden)
        if config.filter == "noise_only":
            self.denoisers.requires_grad_(False)

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Return user vectors [n_users, d] and item vectors [n_items, d] whose inner product is the score.

        d = dim (1 + modalities * prototypes): the filter's dependence on the user folds into the user vector.
        """
        with torch.no_grad():
            v = self._exact(*(torch.arange(n, device=self.user_counts.device) for n in (self.n_users, self.n_items)))
            dim, blocks = self.config.dim, sum(kept.shape[1] for kept in v.filtered.values())
            users, items = (v.mix.new_empty(n, dim * (1 + blocks)) for n in (self.n_users, self.n_items))
            users[:, :dim], items[:, :dim] = v.views.identity.user, self._identity(v)
            start = dim
            for m, weight in self._weighted(self.weights if self.keys else None):
                for k, kept in enumerate(v.filtered[m].unbind(1)):
                    columns = slice(start, start + dim)
                    torch.mul(weight[:, None] * v.mix[:, k, None], v.views.taste[m], out=users[:, columns])
                    torch.add(v.views.common[m], kept, alpha=1 / math.sqrt(dim), out=items[:, columns])
                    start += dim
            return users, items

    def scorer(self) -> Scorer:
        return DotScorer(*self.vectors())  # which are its own already

    def pair_scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the scores [b] of pairs, each item filtered for its own user: the sum over views written out."""
        return self._pair_scores(self._exact(users, items), users, torch.arange(len(items), device=items.device))

    def filtered(self, modality: str) -> Tensor:
        """Return what the filter keeps of each item's content for each prototype, [n_items, K, dim]."""
        every = torch.arange(self.n_items, device=self.user_counts.device)
        return self._exact(every[:0], every).filtered[modality]

    def refresh(self) -> None:
        """Recompute what the steps hold fixed; training calls it before an epoch."""
        if self.config.content_refresh == "epoch":
            self.views.refresh()

    def sparse_parameters(self) -> list[nn.Parameter]:
        """The tables of which a step touches few rows and gives their gradient alone."""
        if self.config.propagation == "full":
            return []
        return [self.views.users, self.views.items, *([self.weights] if self.keys else [])]

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        config = self.config
        liked, others = batch.positives, batch.negatives
        every = self.keys and config.alignment != "none" and not config.aligned_items
        asked = torch.arange(self.n_items, device=liked.device) if every else torch.unique(torch.cat([liked, others]))
        v = self._with_filter(self.views.step(batch.users, asked, rng))
        liked_at, others_at = torch.searchsorted(asked, liked), torch.searchsorted(asked, others)
        better = self._pair_scores(v, batch.users, liked_at, liked=True)
        worse = self._pair_scores(v, batch.users, others_at)
        own = v.views.identity
        embeddings = [own.own_user, F.embedding(liked_at, own.own_item), F.embedding(others_at, own.own_item)]
        embeddings += [F.embedding(batch.users, taste) for taste in self.views.tastes.values()]
        terms = {"bpr": losses.bpr(better, worse), "reg": config.reg * losses.squared_norm(*embeddings)}
        if self.keys and config.alignment != "none":
            aligned = (
                torch.arange(len(asked), device=asked.device)
                if every
                else torch.searchsorted(asked, torch.unique(liked))
            )
            if len(aligned) > 1:  # an epoch's last batch may hold one pair, and one item has nothing to differ from
                loss, bound = self._alignment(v, aligned, rng)
                terms |= {"alignment": config.alignment_weight * loss, "log.tc_bound_nats": bound.detach()}
        if self.keys and config.filter == "trained" and config.diffusion_weight > 0:
            terms["diffusion"] = config.diffusion_weight * self._denoising(v, liked_at, rng)
        return terms

    def _exact(self, users: Tensor, items: Tensor) -> _Rows:
        return self._with_filter(self.views.exact(users, items))

    def _with_filter(self, views: ViewRows) -> _Rows:
        filtered = {m: self._filter(m, views.content[m], views.identity.condition) for m in self.keys}
        return _Rows(views, self._mix(views.identity.user), filtered)

    def _pair_scores(self, v: _Rows, users: Tensor, places: Tensor, liked: bool = False) -> Tensor:
        """Scores [b] of the users asked for, in their order, with the items at `places` of those asked for.

        For `liked` pairs the item's own content is taken out of the user's taste: no item that will be recommended
        is among those that formed the taste, and training must not live on that echo.
        """
        views = v.views
        score = (views.identity.user * F.embedding(places, self._identity(v))).sum(dim=1)
        for m, weight in self._weighted(self._looked_up(users) if self.keys else None):
            taste = views.taste[m]
            if liked and self.config.content_layers and not self.config.echo:
                taste = taste - self._share(users, views.items[places])[:, None] * F.embedding(places, views.echo[m])
            content = F.embedding(places, views.common[m])
            kept = F.embedding(places, v.filtered[m].flatten(1)).view(len(places), -1, content.shape[1])  # [b, K, dim]
            content = content + (v.mix[:, :, None] / math.sqrt(self.config.dim) * kept).sum(dim=1)
            score = score + weight * (taste * content).sum(dim=1)
        return score

    def _looked_up(self, users: Tensor) -> Tensor:
        """The users' rows of `weights`, [b, modalities]."""
        return F.embedding(users, self.weights, sparse=self.config.propagation == "sampled")

    def _share(self, users: Tensor, items: Tensor) -> Tensor:
        """What of an item's content reaches its user's taste over their edge, [b]."""
        edges = (self.user_counts[users] * self.item_counts[items]).rsqrt()
        return edges / ((self.config.content_layers + 1) * math.sqrt(self.config.dim))

    def _identity(self, v: _Rows) -> Tensor:
        """The identity view of the items asked for, [a, dim]."""
        item = v.views.identity.item
        return item + _attend(item, self._averages(v)) if self.config.refine and self.keys else item

    def _averages(self, v: _Rows) -> list[Tensor]:
        """Each modality's filtered content, averaged over prototypes, [a, dim]."""
        return [v.filtered[m].mean(dim=1) / math.sqrt(self.config.dim) for m in self.keys]

    def _present(self, m: str, items: Tensor) -> Tensor:
        """Which items have the modality, bool [n]."""
        present: Tensor = self.views.projections[self.keys[m]].present  # type: ignore[assignment]
        return present[items]

    def _mix(self, user: Tensor) -> Tensor:
        """pi_u, softmax over prototypes of the user's representation, [n_users, K]."""
        if not hasattr(self, "prototypes"):
            return user.new_ones(len(user), 1)
        return (F.normalize(user, dim=1) @ self.prototypes.T).softmax(dim=1)

    def _filter(self, m: str, content: Tensor, condition: Tensor) -> Tensor:
        """D(h | p_k, c) for each row and prototype, [a, K, dim]; deterministic; zero where content is."""
        config = self.config
        if config.filter == "off":
            return content[:, None]

        def predict(xt: Tensor, t: Tensor) -> Tensor:
            noise: Tensor = self.denoisers[self.keys[m]](xt, t, condition[:, None], self.prototypes)
            return noise

        level = round(config.level * (config.diffusion_steps - 1))
        kept = diffusion.ddim_filter(self.schedule, predict, content[:, None], level, config.filter_steps)
        if self.views.whole[m]:
            return kept
        return torch.where((content != 0).any(dim=1)[:, None, None], kept, 0.0)

    def _denoising(self, v: _Rows, places: Tensor, rng: torch.Generator) -> Tensor:
        """E |eps - eps_theta(x_t, t, p_k, c)|^2 over liked items, each with a prototype drawn from its user's mix.

        Content and condition are held fixed: else the projection could shrink to what the condition predicts.
        """
        device, mix = places.device, v.mix.detach()
        if 0 < self.config.denoised_pairs < len(places):
            some = torch.randperm(len(places), generator=rng)[: self.config.denoised_pairs].to(device)
            places, mix = places[some], mix[some]
        condition = F.embedding(places, v.views.identity.condition.detach())
        drawn = torch.multinomial(mix.cpu(), 1, generator=rng)[:, 0].to(device)
        prototype = F.embedding(drawn, self.prototypes)  # [b, dim]
        terms = []
        for m in self.keys:
            h = F.embedding(places, v.views.content[m].detach())  # [b, dim]
            t = torch.randint(len(self.schedule), (len(h),), generator=rng).to(device)
            eps = torch.randn(h.shape, generator=rng).to(device)
            xt = self.schedule.add_noise(h, t, eps)
            error = (self.denoisers[self.keys[m]](xt, t, condition, prototype) - eps).square().mean(dim=1)
            has = self._present(m, v.views.items[places])
            terms.append((error * has).sum() / has.sum().clamp(min=1))
        return torch.stack(terms).mean()

    def _alignment(self, v: _Rows, places: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The alignment loss over a sample of items, and the bound on their total correlation in nats."""
        drawn = torch.randperm(len(places), generator=rng)[: self.config.aligned_items or None]
        places = places[drawn.to(places.device)]
        # Entries of root-mean-square 1, so that the neutral element 1 of an absent view has their scale.
        rows = [F.embedding(places, view) for view in (self._identity(v), *self._averages(v))]
        views = [F.normalize(view, dim=1) * math.sqrt(self.config.dim) for view in rows]
        scale = self.log_scale.exp().clamp(max=100.0) / self.config.dim
        items = v.views.items[places]
        has = [torch.ones_like(items, dtype=torch.bool), *(self._present(m, items) for m in self.keys)]
        if self.config.alignment == "pairwise":
            loss = losses.pairwise(views, scale, has)
        else:
            orders = [losses.derangement(len(items), rng).to(items.device) for _ in views]
            loss = losses.total_correlation(views, scale, orders, has)
        return loss, math.log(len(places)) - loss

    def _weighted(self, weights: Tensor | None) -> Iterator[tuple[str, Tensor]]:
        """Each modality with its users' own weights of it, [b], from rows of `weights`; at first `content_weight`."""
        if weights is not None:
            yield from zip(self.keys, (2 * self.config.content_weight * torch.sigmoid(weights)).unbind(1), strict=True)


def _attend(query: Tensor, keys: list[Tensor]) -> Tensor:
    """Softmax attention of each item's query [n, d] over its own keys."""
    stacked = torch.stack(keys, dim=1)  # [n, S, d]
    weights = torch.einsum("nd,nsd->ns", query, stacked).div(math.sqrt(query.shape[1])).softmax(dim=1)
    return torch.einsum("ns,nsd->nd", weights, stacked)
