"""The paper's filter of content (conditions `item_id` and `item_audience`): method equations 12 to 17.

Content is projected to the embedding's length, then filtered for the item's condition. What a user keeps of item i is
sum_k pi_uk D(h_i | p_k, c_i): the denoiser is conditioned by K learned interest prototypes p_k, of which the user's
representation chooses, and by the item's condition c_i, its identity or its audience.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.gtc.config import GTCConfig, noise_levels
from gtcrec.models.gtc.embedding.denoising import denoising_errors, denoising_terms, sample_pairs
from gtcrec.models.gtc.embedding.graph_encoder import UserItemEmbeddings, unit_scale
from gtcrec.models.gtc.explain import FilteredContent
from gtcrec.ops import diffusion, graph
from gtcrec.ops.feature_transforms import ContentProjection
from gtcrec.types import Interactions, ItemFeatures

__all__ = ["LatentFilter"]


class _PropagatedContent(NamedTuple):
    """Content of all items and its sums over the user-item graph, by modality."""

    content: Mapping[str, Tensor]  # h, [n_items, dim]
    preference: Mapping[str, Tensor]  # q, the content of a user's items, [n_users, dim]
    neighbors: Mapping[str, Tensor]  # g, what an item's neighbours give it, [n_items, dim]


class _LatentBatch(NamedTuple):
    """What is computed for b users and a items; mappings are by modality."""

    items: Tensor  # [a] which items
    content: Mapping[str, Tensor]  # h, [a, dim]
    propagated: Mapping[str, Tensor]  # h as it went into the users' preference, [a, dim]
    preference: Mapping[str, Tensor]  # q, [b, dim]
    neighbors: Mapping[str, Tensor]  # g, [a, dim]
    users: Tensor  # [b, dim] the users' identity views
    conditions: Tensor  # [a, dim] c
    mix: Tensor  # [b, K] pi: the users' prototypes
    filtered: Mapping[str, Tensor]  # D(h | p_k, c), [a, K, dim]


class LatentFilter(nn.Module):
    """s_m(u, i) = sum_k pi_uk <q_um, D_m(h_im | p_k, c_i) + g_im>, equation 17."""

    user_counts: Tensor
    item_counts: Tensor

    def __init__(
        self,
        config: GTCConfig,
        train: Interactions,
        features: ItemFeatures,
        keys: Mapping[str, str],
        r: graph.SparseMatrix,
    ) -> None:
        super().__init__()
        self.config, self.keys, self.r = config, keys, r
        self.n_items = train.n_items
        self.register_buffer("user_counts", torch.from_numpy(train.user_counts).float(), persistent=False)
        self.register_buffer("item_counts", torch.from_numpy(train.item_counts).float(), persistent=False)
        self.complete = {m: bool(features.present[m].all()) for m in keys}  # modalities that every item has
        self.projections, self.tastes, self.denoisers = nn.ModuleDict(), nn.ParameterDict(), nn.ModuleDict()
        for m, key in keys.items():
            self.projections[key] = ContentProjection(features.values[m], features.present[m], config.embedding_dim)
            if config.modality_preference == "learned":
                self.tastes[key] = nn.Parameter(
                    nn.init.xavier_uniform_(torch.empty(train.n_users, config.embedding_dim))
                )
        if config.filter != "off":
            self.schedule = noise_levels(config)
            self.prototypes = nn.Parameter(torch.randn(config.num_prototypes, config.embedding_dim))
            for key in keys.values():
                self.denoisers[key] = diffusion.ConditionalDenoiser(
                    config.embedding_dim, (config.embedding_dim, config.embedding_dim), config.hidden_dim
                )
            if config.filter == "noise_only":
                self.denoisers.requires_grad_(False)
        self._cached: _PropagatedContent | None = None  # as it was at the last refresh
        self.register_load_state_dict_post_hook(_clear_cache)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def refresh(self) -> _PropagatedContent:
        """Recompute what the steps hold fixed, from the current weights."""
        self._cached = self._propagate()
        return self._cached

    def encode(self, identity: UserItemEmbeddings, users: Tensor, items: Tensor) -> _LatentBatch:
        """Return the content of `items` int64 [a] and the preferences of `users` int64 [b], current weights."""
        return self._batch(identity, self._propagate(), users, items)

    def encode_step(
        self, identity: UserItemEmbeddings, users: Tensor, items: Tensor, positives: Tensor
    ) -> _LatentBatch:
        """Return the same as training sees it: with gradient, some parts as they were at the last refresh."""
        if self.config.content_refresh == "step":
            return self.encode(identity, users, items)
        h = {m: self.projections[key](items) for m, key in self.keys.items()}
        return self._batch(identity, self._cached or self.refresh(), users, items, h)

    def scores(self, batch: _LatentBatch, users: Tensor, places: Tensor, positive: bool = False) -> Iterator[Tensor]:
        """Yield for each modality the scores [b] of the batch's users with the items at `places`.

        Of `positive` pairs the item's own content is taken out of the user's preference: an item to be recommended is
        never among those that formed it, and training must not live on that echo.
        """
        for m in self.keys:
            preference = batch.preference[m]
            if positive and self.config.num_content_layers and self.config.leave_one_out:
                share = self._edge_share(users, batch.items[places])[:, None]
                preference = preference - share * F.embedding(places, batch.propagated[m])
            filtered = F.embedding(places, batch.filtered[m].flatten(1))
            filtered = filtered.view(len(places), -1, preference.shape[1])  # [b, K, dim]
            content = F.embedding(places, batch.neighbors[m])
            content = content + (batch.mix[:, :, None] / math.sqrt(self.config.embedding_dim) * filtered).sum(dim=1)
            yield (preference * content).sum(dim=1)

    def widths(self) -> list[int]:
        """Return how many numbers of a folded vector belong to each modality."""
        return [self.config.embedding_dim * (1 if self.config.filter == "off" else self.config.num_prototypes)] * len(
            self.keys
        )

    def fold(self, identity: UserItemEmbeddings, user_blocks: Sequence[Tensor], item_blocks: Sequence[Tensor]) -> None:
        """Write all users' and items' vectors of each modality, whose inner product is its score."""
        ids = (torch.arange(len(side), device=side.device) for side in (identity.users, identity.items))
        batch, dim = self.encode(identity, *ids), self.config.embedding_dim
        for m, user_block, item_block in zip(self.keys, user_blocks, item_blocks, strict=True):
            for k, filtered in enumerate(batch.filtered[m].unbind(1)):
                columns = slice(k * dim, (k + 1) * dim)
                torch.mul(batch.mix[:, k, None], batch.preference[m], out=user_block[:, columns])
                torch.add(batch.neighbors[m], filtered, alpha=1 / math.sqrt(dim), out=item_block[:, columns])

    def regularized(self, users: Tensor) -> list[Tensor]:
        """Return the users' learned vectors, [b, dim] each, which the L2 term counts."""
        return [F.embedding(users, vectors) for vectors in self.tastes.values()]

    def aligned(self, batch: _LatentBatch, places: Tensor) -> list[Tensor]:
        """Return each modality's filtered content of the items at `places`, averaged over prototypes, [n, dim]."""
        return [
            F.embedding(places, batch.filtered[m].mean(dim=1)) / math.sqrt(self.config.embedding_dim) for m in self.keys
        ]

    def present(self, items: Tensor) -> list[Tensor]:
        """Return which of the items have each modality, bool [n]."""
        return [self.projections[key].present[items] for key in self.keys.values()]  # type: ignore[index]

    def explain(self, batch: _LatentBatch, user: Tensor) -> Iterator[FilteredContent]:
        """Yield for each modality what the filter does to the batch's items, each with `user` int64 [1]."""
        for m in self.keys:
            filtered = torch.einsum("nk,nkd->nd", batch.mix, batch.filtered[m])
            yield FilteredContent(batch.mix[0], batch.content[m], filtered, None)

    def denoising_loss(
        self, batch: _LatentBatch, users: Tensor, places: Tensor, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Return E |eps - eps_theta(x_t, t, p_k, c)|^2 over positive items, p_k drawn from the user's mix, equation 13.

        The pair term has the user in the prototype's place. Content and condition are held fixed: else the projection
        could shrink to what the condition predicts.
        """
        pairs = sample_pairs(self.config, len(places), rng).to(places.device)
        places, mix = places[pairs], batch.mix.detach()[pairs]
        embeddings = unit_scale(batch.users.detach())[pairs]
        condition = F.embedding(places, batch.conditions.detach())
        drawn = torch.multinomial(mix.cpu(), 1, generator=rng)[:, 0].to(places.device)
        interests = [
            F.embedding(drawn, self.prototypes),
            *([embeddings] if self.config.pair_diffusion_weight else []),
        ]  # [b, dim]
        errors = []
        for (m, key), has in zip(self.keys.items(), self.present(batch.items[places]), strict=True):
            h = F.embedding(places, batch.content[m].detach())  # [b, dim]
            denoisers = [self._denoiser(key, condition, interest) for interest in interests]
            errors.append(denoising_errors(self.schedule, h, has, rng, *denoisers))
        return denoising_terms(self.config, errors)

    def conditioned_scores(self, identity: UserItemEmbeddings, users: Tensor, items: Tensor) -> Iterator[Tensor]:
        """Yield for each modality the scores [b, n] of users [b] with items [b, n], the user in the prototype's place.

        `identity` is that of all users and items; content is as at the last refresh.
        """
        cached, dim = self._cached or self.refresh(), self.config.embedding_dim
        condition = F.embedding(items, identity.conditions)
        embeddings = F.embedding(users, unit_scale(identity.users))[:, None]
        for m, key in self.keys.items():
            h = F.embedding(items, cached.content[m])  # [b, n, dim]
            filtered = self._ddim(key, h, condition, embeddings)
            filtered = torch.where((h != 0).any(dim=2, keepdim=True), filtered, 0.0)
            content = F.embedding(items, cached.neighbors[m]) + filtered / math.sqrt(dim)
            yield torch.einsum("bd,bnd->bn", F.embedding(users, cached.preference[m]), content)

    def _batch(
        self,
        identity: UserItemEmbeddings,
        around: _PropagatedContent,
        users: Tensor,
        items: Tensor,
        h: Mapping[str, Tensor] | None = None,
    ) -> _LatentBatch:
        """Users and items with their rows of `around`; `h` is the items' content where it has a gradient."""
        propagated = {m: F.embedding(items, rows) for m, rows in around.content.items()}
        content = h or propagated
        return _LatentBatch(
            items,
            content,
            propagated,
            {m: F.embedding(users, q) for m, q in around.preference.items()},
            {m: F.embedding(items, g) for m, g in around.neighbors.items()},
            identity.users,
            identity.conditions,
            self._prototype_mix(identity.users),
            {m: self._filter(m, content[m], identity.conditions) for m in self.keys},
        )

    def _propagate(self) -> _PropagatedContent:
        layers, dim = self.config.num_content_layers, self.config.embedding_dim
        content, preference, neighbors = {}, {}, {}
        items = torch.arange(self.n_items, device=self.item_counts.device)
        for m, key in self.keys.items():
            content[m] = self.projections[key](items)
            h = content[m] / math.sqrt(dim)
            if self.config.modality_preference == "learned":
                preference[m], around = graph.light_propagation(self.r, self.tastes[key], h, layers)
            else:
                preference[m], around = graph.content_propagation(self.r, h, layers)
            neighbors[m] = around - h / (layers + 1)
        return _PropagatedContent(content, preference, neighbors)

    def _edge_share(self, users: Tensor, items: Tensor) -> Tensor:
        """The share of an item's content that reaches its user's preference over their edge, [b]."""
        edges = (self.user_counts[users] * self.item_counts[items]).rsqrt()
        return edges / ((self.config.num_content_layers + 1) * math.sqrt(self.config.embedding_dim))

    def _prototype_mix(self, users: Tensor) -> Tensor:
        """pi_u, softmax over prototypes of the users' representations [b, dim], [b, K], equation 16."""
        if self.config.filter == "off":
            return users.new_ones(len(users), 1)
        return (unit_scale(users) @ self.prototypes.T / math.sqrt(self.config.embedding_dim)).softmax(dim=1)

    def _filter(self, m: str, content: Tensor, conditions: Tensor) -> Tensor:
        """D(h | p_k, c) for each row and prototype, [a, K, dim], equation 14; deterministic; zero where content is."""
        if self.config.filter == "off":
            return content[:, None]
        filtered = self._ddim(self.keys[m], content[:, None], conditions[:, None], self.prototypes)
        if self.complete[m]:
            return filtered
        return torch.where((content != 0).any(dim=1)[:, None, None], filtered, 0.0)

    def _ddim(self, key: str, h: Tensor, condition: Tensor, interest: Tensor) -> Tensor:
        """What of content h survives at the filter's level, [..., dim]; `interest` is a prototype or a user."""
        return diffusion.ddim_filter(
            self.schedule, self._denoiser(key, condition, interest), h, self.config.filter_level
        )

    def _denoiser(self, key: str, condition: Tensor, interest: Tensor) -> diffusion.Predict:
        return lambda xt, t: self.denoisers[key](xt, t, condition, interest)


def _clear_cache(content: LatentFilter, keys: Any) -> None:
    content._cached = None
