"""GTC: user-aware filtering of content by conditional diffusion, and total correlation of the views.

After "User-Aware Conditional Generative Total Correlation Learning for Multi-Modal Recommendation"
(arXiv 2604.03014). Views of an item are its identity (a learned embedding) and each modality. The score is one
inner product of a user and an item vector, with the filter's dependence on the user inside it.

What content adds to the score, and how it is filtered, is `interest_filter.InterestFilter` (condition `liked`, the
default) or `latent_filter.LatentFilter` (conditions `identity` and `audience`, as in the paper).
"""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.errors import ConfigError, DataError
from gtcrec.models.gtc.cold_items import ColdItemRegressor
from gtcrec.models.gtc.config import PRESETS, SPACE, GTCConfig
from gtcrec.models.gtc.graph_encoder import GraphEncoder, UserItemEmbeddings
from gtcrec.models.gtc.interest_filter import InterestFilter
from gtcrec.models.gtc.latent_filter import LatentFilter
from gtcrec.models.modalities import module_keys
from gtcrec.ops import losses
from gtcrec.ops.fold_in import torch_csr
from gtcrec.ops.scorers import DotScorer, RerankingScorer, ShardedScorer
from gtcrec.ops.sharded import RowShardedEmbedding, local_rows
from gtcrec.runtime.process_group import ProcessGroup
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer

__all__ = ["GTC", "PRESETS", "SPACE", "GTCConfig"]


class _Rows(NamedTuple):
    """What a step computes, for b users and a items."""

    items: Tensor  # [a] which items
    identity: UserItemEmbeddings
    content: Any  # of the content side's own making


class GTC(nn.Module):
    """s(u, i) = <z_u, z_i> + sum_m w_um s_m(u, i); s_m is the content side's.

    Of several `workers` each holds its own rows of what is learned of users and items.
    """

    def __init__(
        self, config: GTCConfig, train: Interactions, features: ItemFeatures, workers: ProcessGroup | None = None
    ) -> None:
        super().__init__()
        if workers:
            _need_shardable(config)
        self.workers = workers = workers or ProcessGroup()
        self.config = config
        self.keys = module_keys(features.names)
        self.n_users, self.n_items = train.n_users, train.n_items
        self._need_few_combinations()
        self.views = GraphEncoder(config, train, features, workers)
        self.tables: list[RowShardedEmbedding] = []
        if config.propagation == "sampled":
            self.tables += [self.views.user_table, self.views.item_table]
        self.content: InterestFilter | LatentFilter | None = None
        if not self.keys:
            return
        if config.condition == "liked":
            self.content = content = InterestFilter(config, train, features, self.keys, workers)
            if config.identity_dropout and config.start == "als":
                self.content_map = ColdItemRegressor(features, train.item_counts > 0, config.dim)
                if self.views.items.any():  # else weights are loaded next
                    self.content_map.solve(config.new_item_weight * self.views.items.data)
            elif config.identity_dropout:
                widths = {key: content[m].y.shape[1] for m, key in self.keys.items()}
                self.stand_ins = nn.ModuleDict({key: nn.Linear(w, config.dim, False) for key, w in widths.items()})
        else:
            self.content = LatentFilter(config, train, features, self.keys, self.views.r)
        self.weights = nn.Parameter(torch.zeros(len(local_rows(train.n_users, workers)), len(self.keys)))
        if config.propagation == "sampled":
            self.tables.append(RowShardedEmbedding(self.weights, train.n_users, workers))
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

        d = dim + the content side's widths: the filter's dependence on the user folds into the user vector. Of several
        workers each returns the rows that lie with it.
        """
        every = [torch.arange(n, device=self.views.users.device) for n in (self.n_users, self.n_items)]
        v = self._exact(*every) if self.config.refine else _Rows(every[1], self.views.own(), None)
        widths = [self.config.dim, *(self.content.widths() if self.content else [])]
        users, items = (side.new_empty(len(side), sum(widths)) for side in (v.identity.user, v.identity.item))
        (user, *theirs), (item, *its) = (torch.split(side, widths, dim=1) for side in (users, items))
        user.copy_(v.identity.user)
        item.copy_(self._identity(v))
        if self.content:
            self.content.fold(v.identity, theirs, its)
            for block, weight in zip(theirs, self.view_weights(self.weights), strict=True):
                block.mul_(weight[:, None])
        return users, items

    @torch.no_grad()
    def add_items(self, features: ItemFeatures) -> Tensor:
        """Return the vectors [n, d] of items that the training did not have, from their content alone.

        Their inner products with the user vectors of `vectors()` are the scores. They have no identity of their own but
        what their content neighbours give them and, with `identity_dropout`, a map of their content. Raises
        `ConfigError` unless the model has content, condition=liked and no refine, `DataError` for content of other
        modalities or widths.
        """
        if not isinstance(self.content, InterestFilter) or self.config.refine:
            found = f"condition={self.config.condition}, refine={self.config.refine}" if self.content else "no content"
            raise ConfigError(f"add_items needs a gtc with content, condition=liked and refine=False, found {found}")
        wanted = sorted(self.keys)
        if list(features.names) != wanted:
            raise DataError(f"new items need the modalities {wanted}, found {list(features.names)}")
        identity = self.views.new_items(features)
        if self.config.identity_dropout:
            if self.config.start == "als":
                identity = identity + self.content_map(features)
            else:
                identity = identity + self._stand_in(self.content.new_content(features))
        return torch.cat([identity, self.content.fold_new(features)], dim=1)

    @torch.no_grad()
    def fold_in(self, liked: csr_array) -> Tensor:
        """Return the scores [b, n_items] of users whom the training did not have, by the items that they like.

        `liked` is a binary matrix [b, n_items]. Their weights of the modalities are the mean of the training users'.
        `rerank` does not apply. Raises `ConfigError` with content and another condition than liked.
        """
        return self.new_users(liked) @ self.vectors()[1].T

    @torch.no_grad()
    def new_users(self, liked: csr_array) -> Tensor:
        """Return the user vectors [b, d] of `fold_in`."""
        if not self.content:
            return self.views.new_users(liked)
        if not isinstance(self.content, InterestFilter):
            raise ConfigError(f"fold_in needs a gtc with condition=liked, found condition={self.config.condition}")
        lists = torch_csr(liked).to(self.views.users.device)
        weights = self.view_weights(self.weights.mean(dim=0, keepdim=True))
        parts = [one * weight for one, weight in zip(self.content.fold_liked(lists), weights, strict=True)]
        return torch.cat([self.views.new_users(liked), *parts], dim=1)

    def scorer(self) -> Scorer:
        if self.workers.size > 1:
            return ShardedScorer(*self.vectors(), self.n_users, self.n_items, self.workers)
        folded = DotScorer(*self.vectors())  # which are its own already
        if not (self.config.rerank and self.content):
            return folded
        return RerankingScorer(folded, self._told(), self.views.r.sides()[0], self.config.rerank)

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
        return [table.own for table in self.tables]

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
            own = self.tables[-1](users) if self.tables else F.embedding(users, self.weights)
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
        if v.identity.own is not None and isinstance(self.content, InterestFilter):
            if self.config.start == "als":
                given = F.embedding(v.items, self.content_map.of_items)
            else:
                given = self._stand_in({m: F.embedding(v.items, self.content[m].y) for m in self.keys})
            item = item + torch.where(v.identity.own[:, None], 0.0, given)
        if not self.config.refine or not self.content:
            return item
        every = torch.arange(len(v.items), device=item.device)
        return item + _attend(item, self.content.aligned(v.content, every))

    def _stand_in(self, y: Mapping[str, Tensor]) -> Tensor:
        """What stands for the identity of items without one, [a, dim], by their content y of each modality [a, W]."""
        return torch.stack([self.stand_ins[key](y[m]) for m, key in self.keys.items()]).sum(dim=0)

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


def _need_shardable(config: GTCConfig) -> None:
    """Raise `ConfigError` for settings that need all rows of a table in one place."""
    needs = {"propagation": "sampled", "start": "random", "condition": "liked", "refine": False, "rerank": 0}
    for key, wanted in needs.items():
        if getattr(config, key) != wanted:
            raise ConfigError(f"gtc: train.tables=sharded needs {key}={wanted}, found {key}={getattr(config, key)}")


def _attend(query: Tensor, keys: list[Tensor]) -> Tensor:
    """Softmax attention of each item's query [n, d] over its own keys."""
    stacked = torch.stack(keys, dim=1)  # [n, S, d]
    weights = torch.einsum("nd,nsd->ns", query, stacked).div(math.sqrt(query.shape[1])).softmax(dim=1)
    return torch.einsum("ns,nsd->nd", weights, stacked)
