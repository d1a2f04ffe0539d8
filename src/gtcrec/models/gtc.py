"""GTC: user-aware filtering of content by conditional diffusion, and total correlation of the views.

After "User-Aware Conditional Generative Total Correlation Learning for Multi-Modal Recommendation"
(arXiv 2604.03014). Views of an item are its identity (a learned embedding) and each modality. The score is one
inner product of a user and an item vector, with the filter's dependence on the user inside it.

What content adds to the score, and how it is filtered, is `gtc_liked.LikedContent` (condition `liked`, the default) or
`gtc_projected.ProjectedContent` (conditions `identity` and `audience`, as in the paper).
"""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec import diffusion, losses
from gtcrec.errors import ConfigError
from gtcrec.models.content import noise_levels
from gtcrec.models.gtc_liked import LikedContent
from gtcrec.models.gtc_projected import ProjectedContent
from gtcrec.models.gtc_views import Sides, Views
from gtcrec.models.names import module_keys
from gtcrec.models.vectors import DotScorer, Reranked
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
    condition: Literal["liked", "identity", "audience"] = Field(
        "liked", description="what guides the filter: the set of contents that the user liked, or the item's own"
    )
    prototypes: int = Field(8, ge=1, description="interest prototypes; 1: the filter does not depend on the user")
    width: int = Field(128, ge=1, description="directions of content that the filter sees (liked)")
    hidden: int = Field(64, ge=2, description="width of the denoiser")
    diffusion_steps: int = Field(600, ge=2, description="noise levels T (paper)")
    beta_start: float = Field(1e-4, gt=0, lt=1, description="smallest beta (paper)")
    beta_end: float = Field(0.01, gt=0, lt=1, description="largest beta (paper)")
    schedule: Literal["linear", "cosine"] = Field("linear", description="of the noise levels; cosine needs no betas")
    prediction: diffusion.Prediction = Field("noise", description="what the denoiser predicts")
    min_snr: float = Field(0.0, ge=0, description="gamma of the denoising loss's min-SNR weights; 0: none")
    guidance: float = Field(1.0, ge=0, description="how strongly the condition guides the denoiser; 1: as it says")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the average of the denoiser that predicts; 0: none")
    level: float = Field(0.25, ge=0, lt=1, description="noise level of the filter, as a share of T")
    filter_steps: int = Field(1, ge=1, description="DDIM steps of the filter")
    alignment: Literal["none", "pairwise", "n", "n_squared", "chain"] = Field(
        "n", description="what ties the views of an item together"
    )
    aligned_items: int = Field(512, ge=0, description="items in the alignment of a step; 0: the whole catalogue")
    taste: Literal["content", "own"] = Field(
        "content", description="user's side of content; own: plus a learned vector"
    )
    refine: bool = Field(False, description="add attention over the filtered content to the identity view")
    echo: bool = Field(False, description="in training, let a liked item's own content count in its user's taste")
    content_weight: float = Field(0.3, gt=0, description="of each content view in the score, before training")
    content_layers: int = Field(1, ge=0, description="hops of content over the graph (identity, audience)")
    content_refresh: Literal["step", "epoch"] = Field(
        "epoch", description="when content goes over the graph: each step, with its gradient, or once before an epoch"
    )
    propagation: Literal["full", "sampled"] = Field(
        "full", description="sampled: a step looks at walks from its own users and items, whatever the catalogue's size"
    )
    walks: int = Field(4, ge=1, description="walks from each user and item of a step, if sampled")
    denoised_pairs: int = Field(1024, ge=0, description="liked pairs in the denoising loss of a step; 0: all")
    diffusion_weight: float = Field(0.7, ge=0, description="of the denoising loss (paper)")
    pair_weight: float = Field(0.0, ge=0, description="of the denoising loss that is told the user's embedding")
    rerank: int = Field(0, ge=0, description="best items of a user to filter once more, pair by pair; 0: none")
    alignment_weight: float = Field(0.01, ge=0, description="of the alignment loss")
    reg: float = Field(1e-4, ge=0, description="of the L2 term on the embeddings")

    @property
    def filter_level(self) -> int:
        """The noise level of the filter, 0 to T - 1."""
        return round(self.level * (self.diffusion_steps - 1))

    @model_validator(mode="after")
    def _what_is_liked_is_no_learned_taste(self) -> "GTCConfig":
        if self.condition == "liked" and self.taste == "own":
            raise ValueError("taste=own needs condition=identity or audience, found condition=liked")
        return self

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "GTCConfig":
        if self.rerank and not (self.pair_weight and self.filter == "trained"):
            raise ValueError("rerank needs filter=trained and pair_weight > 0, which trains what it asks")
        if self.ema and self.filter != "trained":
            raise ValueError(f"ema needs filter=trained, whose weights move, found filter={self.filter}")
        if self.filter_steps > self.filter_level + 1:
            raise ValueError(
                f"filter_steps must be at most {self.filter_level + 1}, the noise levels up to level={self.level}, "
                f"found {self.filter_steps}"
            )
        noise_levels(self)  # says which betas leave no signal or no noise
        return self

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
    # The paper's words: each item filtered for its audience, the denoiser trained, the user told it pair by pair.
    "paper": (
        {
            "condition": "audience",
            "prototypes": 1,
            "pair_weight": 0.7,
            "user_neighbours": 40,
            "alignment_weight": 0.4,
        },
        {},
    ),
    # The arithmetic of the published code: its settings, the filter for the item's identity alone, full-catalogue TC.
    "released": (
        {
            "condition": "identity",
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

    items: Tensor  # [a] which items
    identity: Sides
    content: Any  # of the content side's own making


class GTC(nn.Module):
    """s(u, i) = <z_u, z_i> + sum_m w_um s_m(u, i); s_m is the content side's."""

    def __init__(self, config: GTCConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.config = config
        self.keys = module_keys(features.names)
        self.n_users, self.n_items = train.n_users, train.n_items
        self._need_few_combinations()
        self.views = Views(config, train, features)
        self.content: LikedContent | ProjectedContent | None = None
        if not self.keys:
            return
        if config.condition == "liked":
            self.content = LikedContent(config, train, features, self.keys)
        else:
            self.content = ProjectedContent(config, train, features, self.keys, self.views.r)
        self.weights = nn.Parameter(torch.zeros(train.n_users, len(self.keys)))
        if config.alignment != "none":
            self.log_scale = nn.Parameter(torch.tensor(math.log(5.0)))

    def _need_few_combinations(self) -> None:
        """Raise `ConfigError` if a step's alignment could be refused for its size."""
        n, others = min(self.config.aligned_items or self.n_items, self.n_items), len(self.keys)
        if self.config.alignment != "n_squared" or n**others <= losses.MOST_COMBINATIONS:
            return
        most = round(losses.MOST_COMBINATIONS ** (1 / others))
        most -= most**others > losses.MOST_COMBINATIONS
        raise ConfigError(
            f"gtc: alignment=n_squared of {others + 1} views needs aligned_items from 1 to {most}, "
            f"found {self.config.aligned_items}, which is {n} items and {n}^{others} combinations of the other views"
        )

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        """Return user vectors [n_users, d] and item vectors [n_items, d] whose inner product is the score.

        d = dim + the content side's widths: the filter's dependence on the user folds into the user vector.
        """
        every = [torch.arange(n, device=self.views.users.device) for n in (self.n_users, self.n_items)]
        v = self._exact(*every) if self.config.refine else _Rows(every[1], self.views.exact(*every), None)
        widths = [self.config.dim, *(self.content.widths() if self.content else [])]
        users, items = (v.identity.user.new_empty(n, sum(widths)) for n in (self.n_users, self.n_items))
        (user, *theirs), (item, *its) = (torch.split(side, widths, dim=1) for side in (users, items))
        user.copy_(v.identity.user)
        item.copy_(self._identity(v))
        if self.content:
            self.content.fold(v.identity, theirs, its)
            for block, weight in zip(theirs, self.view_weights(self.weights), strict=True):
                block.mul_(weight[:, None])
        return users, items

    def scorer(self) -> Scorer:
        folded = DotScorer(*self.vectors())  # which are its own already
        if not (self.config.rerank and self.content):
            return folded
        return Reranked(folded, self._told(), self.views.r.sides()[0], self.config.rerank)

    def pair_scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the scores [b] of pairs, each item filtered for its own user: the sum over views written out."""
        return self._pair_scores(self._exact(users, items), users, torch.arange(len(items), device=items.device))

    @torch.no_grad()
    def _told(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return a snapshot of the scores [b, n] of users [b] with items [b, n] each, filtered pair by pair."""
        every = [torch.arange(n, device=self.views.users.device) for n in (self.n_users, self.n_items)]
        v, weights, content = self._exact(*every), self.weights.clone(), copy.deepcopy(self.content)
        assert content is not None
        content.refresh()
        item = self._identity(v)

        @torch.no_grad()
        def told(users: Tensor, items: Tensor) -> Tensor:
            score = torch.einsum("bd,bnd->bn", F.embedding(users, v.identity.user), F.embedding(items, item))
            for weight, one in zip(
                self.view_weights(weights[users]), content.told(v.identity, users, items), strict=True
            ):
                score += weight[:, None] * one
            return score

        return told

    def refresh(self) -> None:
        """Recompute what the steps hold fixed; training calls it before an epoch."""
        if self.config.propagation == "sampled":
            self.views.refresh()
        if self.content and self.config.content_refresh == "epoch":
            self.content.refresh()

    def after_step(self) -> None:
        """Let the average of the denoiser's weights follow them, if one is kept; training calls it after a step."""
        if self.content and self.config.ema:
            self.content.after_step()

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
        identity = self.views.step(batch.users, asked, rng)
        content = self.content.step(identity, batch.users, asked, liked) if self.content else None
        v = _Rows(asked, identity, content)
        liked_at, others_at = torch.searchsorted(asked, liked), torch.searchsorted(asked, others)
        better = self._pair_scores(v, batch.users, liked_at, liked=True)
        worse = self._pair_scores(v, batch.users, others_at)
        embeddings = [identity.own_user, *(F.embedding(at, identity.own_item) for at in (liked_at, others_at))]
        embeddings += self.content.learned(batch.users) if self.content else []
        terms = {"bpr": losses.bpr(better, worse), "reg": config.reg * losses.squared_norm(*embeddings)}
        if self.keys and config.alignment != "none":
            aligned = (
                torch.arange(len(asked), device=asked.device)
                if every
                else torch.searchsorted(asked, torch.unique(liked))
            )
            if len(aligned) > 1:  # an epoch's last batch may hold one pair, and one item has nothing to differ from
                loss, about = self._alignment(v, aligned, rng)
                terms |= {"alignment": config.alignment_weight * loss, **about}
        if self.content and config.filter == "trained" and (config.diffusion_weight or config.pair_weight):
            terms |= self.content.denoising(v.content, batch.users, liked_at, rng)
        return terms

    def _exact(self, users: Tensor, items: Tensor) -> _Rows:
        identity = self.views.exact(users, items)
        return _Rows(items, identity, self.content.exact(identity, users, items) if self.content else None)

    def _pair_scores(self, v: _Rows, users: Tensor, places: Tensor, liked: bool = False) -> Tensor:
        """Scores [b] of the users asked for, in their order, with the items at `places` of those asked for."""
        score = (v.identity.user * F.embedding(places, self._identity(v))).sum(dim=1)
        if self.content:
            own = F.embedding(users, self.weights, sparse=self.config.propagation == "sampled")
            for weight, one in zip(
                self.view_weights(own), self.content.scores(v.content, users, places, liked), strict=True
            ):
                score = score + weight * one
        return score

    def view_weights(self, weights: Tensor) -> tuple[Tensor, ...]:
        """Return the users' own weight of each modality, [b] each, from rows of `weights`."""
        return (2 * self.config.content_weight * torch.sigmoid(weights)).unbind(1)

    def _identity(self, v: _Rows) -> Tensor:
        """The identity view of the items asked for, [a, dim]."""
        item = v.identity.item
        if not self.config.refine or not self.content:
            return item
        every = torch.arange(len(v.items), device=item.device)
        return item + _attend(item, self.content.aligned(v.content, every))

    def _alignment(self, v: _Rows, places: Tensor, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The alignment loss over a sample of items; the bound on their total correlation, its ceiling, the scale."""
        assert self.content is not None
        drawn = torch.randperm(len(places), generator=rng)[: self.config.aligned_items or None]
        places = places[drawn.to(places.device)]
        # Entries of root-mean-square 1, so that the neutral element 1 of an absent view has their scale.
        rows = [F.embedding(places, self._identity(v)), *self.content.aligned(v.content, places)]
        views = [F.normalize(view, dim=1) * math.sqrt(self.config.dim) for view in rows]
        scale = self.log_scale.exp().clamp(max=100.0) / self.config.dim
        items = v.items[places]
        has = [torch.ones_like(items, dtype=torch.bool), *self.content.present(items)]
        kind = self.config.alignment
        if kind == "n":
            orders = [losses.derangement(len(items), rng).to(items.device) for _ in views]
            loss = losses.total_correlation(views, scale, orders, has)
        else:
            loss = {"pairwise": losses.pairwise, "n_squared": losses.n_squared, "chain": losses.chain}[kind](
                views, scale, has
            )
        ceiling = torch.tensor(losses.ceiling(kind, len(items), len(views), has))
        bound = ceiling.to(loss.device) - loss.detach()
        return loss, {"log.tc_bound_nats": bound, "log.tc_ceiling_nats": ceiling, "log.tc_scale": scale.detach()}


def _attend(query: Tensor, keys: list[Tensor]) -> Tensor:
    """Softmax attention of each item's query [n, d] over its own keys."""
    stacked = torch.stack(keys, dim=1)  # [n, S, d]
    weights = torch.einsum("nd,nsd->ns", query, stacked).div(math.sqrt(query.shape[1])).softmax(dim=1)
    return torch.einsum("ns,nsd->nd", weights, stacked)
