"""GTC's content as the paper filters it: projected to the embedding's length, then filtered for the item's condition.

What a user keeps of item i is sum_k pi_uk D(h_i | p_k, c_i): K learned interest prototypes p_k, of which the user's
representation chooses, and the item's condition c_i (its identity, or its audience) condition the denoiser.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.gtc.config import GTCConfig, noise_levels
from gtcrec.models.gtc.denoising import averaged, denoised_pairs, denoising_errors, denoising_terms
from gtcrec.models.gtc.graph_encoder import UserItemEmbeddings, scaled
from gtcrec.ops import diffusion, graph
from gtcrec.ops.feature_transforms import ContentProjection
from gtcrec.types import Interactions, ItemFeatures

__all__ = ["LatentFilter"]

_DROPPED = 0.1  # share of the denoised pairs without their condition, if the filter is guided (Ho & Salimans 2022)


class _Spread(NamedTuple):
    """Content of all items and what it adds up to over the user-item graph."""

    content: Mapping[str, Tensor]  # modality -> h, [n_items, dim]
    taste: Mapping[str, Tensor]  # modality -> q, [n_users, dim]
    common: Mapping[str, Tensor]  # modality -> g, what an item's content neighbours give it, [n_items, dim]


class _Rows(NamedTuple):
    """What a step computes, for b users and a items."""

    items: Tensor  # [a] which items
    content: Mapping[str, Tensor]  # modality -> h, [a, dim]
    echo: Mapping[str, Tensor]  # modality -> h as it went into the users' taste, [a, dim]
    taste: Mapping[str, Tensor]  # modality -> q, [b, dim]
    common: Mapping[str, Tensor]  # modality -> g, [a, dim]
    user: Tensor  # [b, dim] the users' identity views
    condition: Tensor  # [a, dim] c
    mix: Tensor  # [b, K] pi: the users' prototypes
    filtered: Mapping[str, Tensor]  # modality -> D(h | p_k, c), [a, K, dim]


class LatentFilter(nn.Module):
    """s_m(u, i) = sum_k pi_uk <q_um, D_m(h_im | p_k, c_i) + g_im>."""

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
        self.whole = {m: bool(features.present[m].all()) for m in keys}  # modalities that no item lacks
        self.projections, self.tastes, self.denoisers = nn.ModuleDict(), nn.ParameterDict(), nn.ModuleDict()
        for m, key in keys.items():
            self.projections[key] = ContentProjection(features.values[m], features.present[m], config.dim)
            if config.taste == "own":
                self.tastes[key] = nn.Parameter(nn.init.xavier_uniform_(torch.empty(train.n_users, config.dim)))
        if config.filter != "off":
            self._add_filter()
        self._held: _Spread | None = None
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def _add_filter(self) -> None:
        config = self.config
        self.schedule = noise_levels(config)
        self.prototypes = nn.Parameter(torch.randn(config.prototypes, config.dim))
        for key in self.keys.values():
            self.denoisers[key] = diffusion.ConditionalDenoiser(config.dim, (config.dim, config.dim), config.hidden)
        if config.filter == "noise_only":
            self.denoisers.requires_grad_(False)
        if config.ema:
            self.average = averaged(self.denoisers, config.ema)

    @torch.no_grad()
    def refresh(self) -> _Spread:
        """Recompute what the steps hold fixed, from the weights as they are now."""
        self._held = self._spread()
        return self._held

    def after_step(self) -> None:
        """Let the average of the denoisers' weights follow them."""
        self.average.update_parameters(self.denoisers)

    def exact(self, identity: UserItemEmbeddings, users: Tensor, items: Tensor) -> _Rows:
        """Return the content of `items` int64 [a] and the tastes of `users` int64 [b], from the weights as they are."""
        now = self._spread()
        h = {m: F.embedding(items, one) for m, one in now.content.items()}
        return self._rows(identity, now, users, items, h, h)

    def step(self, identity: UserItemEmbeddings, users: Tensor, items: Tensor, liked: Tensor) -> _Rows:
        """Return the same as training sees it: with gradient, some parts as they were at the last refresh."""
        if self.config.content_refresh == "step":
            return self.exact(identity, users, items)
        old = self._held or self.refresh()
        h = {m: self.projections[key](items) for m, key in self.keys.items()}
        return self._rows(identity, old, users, items, h, {m: old.content[m][items] for m in self.keys})

    def scores(self, rows: _Rows, users: Tensor, places: Tensor, liked: bool = False) -> Iterator[Tensor]:
        """Yield for each modality the scores [b] of the users asked for with the items at `places` of those asked for.

        For `liked` pairs the item's own content is taken out of the user's taste: no item that will be recommended
        is among those that formed the taste, and training must not live on that echo.
        """
        for m in self.keys:
            taste = rows.taste[m]
            if liked and self.config.content_layers and not self.config.echo:
                taste = taste - self._share(users, rows.items[places])[:, None] * F.embedding(places, rows.echo[m])
            kept = F.embedding(places, rows.filtered[m].flatten(1)).view(len(places), -1, taste.shape[1])  # [b, K, dim]
            content = F.embedding(places, rows.common[m])
            content = content + (rows.mix[:, :, None] / math.sqrt(self.config.dim) * kept).sum(dim=1)
            yield (taste * content).sum(dim=1)

    def widths(self) -> list[int]:
        """How many numbers of a folded vector belong to each modality."""
        return [self.config.dim * (1 if self.config.filter == "off" else self.config.prototypes)] * len(self.keys)

    def fold(self, identity: UserItemEmbeddings, users: Sequence[Tensor], items: Sequence[Tensor]) -> None:
        """Write all users' and items' vectors, whose inner product is a modality's score, into the columns of each."""
        every = (torch.arange(len(side), device=side.device) for side in (identity.user, identity.item))
        rows, dim = self.exact(identity, *every), self.config.dim
        for m, user, item in zip(self.keys, users, items, strict=True):
            for k, kept in enumerate(rows.filtered[m].unbind(1)):
                columns = slice(k * dim, (k + 1) * dim)
                torch.mul(rows.mix[:, k, None], rows.taste[m], out=user[:, columns])
                torch.add(rows.common[m], kept, alpha=1 / math.sqrt(dim), out=item[:, columns])

    def learned(self, users: Tensor) -> list[Tensor]:
        """The users' learned vectors, [b, dim] each, which the L2 term counts."""
        return [F.embedding(users, taste) for taste in self.tastes.values()]

    def aligned(self, rows: _Rows, places: Tensor) -> list[Tensor]:
        """Each modality's filtered content of the items at `places`, averaged over prototypes, [n, dim]."""
        return [F.embedding(places, rows.filtered[m].mean(dim=1)) / math.sqrt(self.config.dim) for m in self.keys]

    def present(self, items: Tensor) -> list[Tensor]:
        """Which of the items have each modality, bool [n]."""
        return [self.projections[key].present[items] for key in self.keys.values()]  # type: ignore[index]

    def denoising(self, rows: _Rows, users: Tensor, places: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """E |eps - eps_theta(x_t, t, p_k, c)|^2 over liked items, each with a prototype drawn from its user's mix.

        The pair term is the same with the user in the prototype's place.

        Content and condition are held fixed: else the projection could shrink to what the condition predicts. If the
        filter is guided, some pairs lack their condition, so that the network knows what it is guided away from.
        """
        device = places.device
        some = denoised_pairs(self.config, len(places), rng).to(device)
        places, mix, user = places[some], rows.mix.detach()[some], scaled(rows.user.detach())[some]
        condition = F.embedding(places, rows.condition.detach())
        drawn = torch.multinomial(mix.cpu(), 1, generator=rng)[:, 0].to(device)
        if self.config.guidance != 1:
            kept = torch.rand(len(places), 1, generator=rng).to(device) >= _DROPPED
            condition = torch.where(kept, condition, 0.0)
        tastes = [F.embedding(drawn, self.prototypes), *([user] if self.config.pair_weight else [])]  # [b, dim] each
        errors = []
        for (m, key), has in zip(self.keys.items(), self.present(rows.items[places]), strict=True):
            h = F.embedding(places, rows.content[m].detach())  # [b, dim]
            denoisers = [self._predict(key, condition, taste) for taste in tastes]
            errors.append(denoising_errors(self.config, self.schedule, h, has, rng, *denoisers))
        return denoising_terms(self.config, errors)

    def told(self, identity: UserItemEmbeddings, users: Tensor, items: Tensor) -> Iterator[Tensor]:
        """Yield for each modality the scores [b, n] of users [b] with items [b, n], the user in the prototype's place.

        `identity` is that of all users and items; content is as at the last refresh.
        """
        around, dim = self._held or self.refresh(), self.config.dim
        condition, user = F.embedding(items, identity.condition), F.embedding(users, scaled(identity.user))[:, None]
        for m, key in self.keys.items():
            h = F.embedding(items, around.content[m])  # [b, n, dim]
            kept = self._kept(key, h, condition, user)
            kept = torch.where((h != 0).any(dim=2, keepdim=True), kept, 0.0)
            content = F.embedding(items, around.common[m]) + kept / math.sqrt(dim)
            yield torch.einsum("bd,bnd->bn", F.embedding(users, around.taste[m]), content)

    def _rows(
        self,
        identity: UserItemEmbeddings,
        around: _Spread,
        users: Tensor,
        items: Tensor,
        content: Mapping[str, Tensor],
        echo: Mapping[str, Tensor],
    ) -> _Rows:
        return _Rows(
            items,
            content,
            echo,
            {m: F.embedding(users, q) for m, q in around.taste.items()},
            {m: F.embedding(items, g) for m, g in around.common.items()},
            identity.user,
            identity.condition,
            self._mix(identity.user),
            {m: self._filter(m, content[m], identity.condition) for m in self.keys},
        )

    def _spread(self) -> _Spread:
        layers, dim = self.config.content_layers, self.config.dim
        content, taste, common = {}, {}, {}
        every = torch.arange(self.n_items, device=self.item_counts.device)
        for m, key in self.keys.items():
            content[m] = self.projections[key](every)
            scaled = content[m] / math.sqrt(dim)
            if self.config.taste == "own":
                taste[m], around = graph.light_propagation(self.r, self.tastes[key], scaled, layers)
            else:
                taste[m], around = graph.content_propagation(self.r, scaled, layers)
            common[m] = around - scaled / (layers + 1)
        return _Spread(content, taste, common)

    def _share(self, users: Tensor, items: Tensor) -> Tensor:
        """What of an item's content reaches its user's taste over their edge, [b]."""
        edges = (self.user_counts[users] * self.item_counts[items]).rsqrt()
        return edges / ((self.config.content_layers + 1) * math.sqrt(self.config.dim))

    def _mix(self, user: Tensor) -> Tensor:
        """pi_u, softmax over prototypes of the user's representation, [b, K]."""
        if self.config.filter == "off":
            return user.new_ones(len(user), 1)
        return (scaled(user) @ self.prototypes.T / math.sqrt(self.config.dim)).softmax(dim=1)

    def _filter(self, m: str, content: Tensor, condition: Tensor) -> Tensor:
        """D(h | p_k, c) for each row and prototype, [a, K, dim]; deterministic; zero where content is."""
        if self.config.filter == "off":
            return content[:, None]
        kept = self._kept(self.keys[m], content[:, None], condition[:, None], self.prototypes)
        if self.whole[m]:
            return kept
        return torch.where((content != 0).any(dim=1)[:, None, None], kept, 0.0)

    def _kept(self, key: str, h: Tensor, condition: Tensor, taste: Tensor) -> Tensor:
        """What of content h survives at the filter's level, [..., dim]; `taste` is a prototype or a user."""
        level, steps, kind = self.config.filter_level, self.config.filter_steps, self.config.prediction
        predict = self._predict(key, condition, taste)
        if self.config.guidance != 1:
            blank = self._predict(key, torch.zeros_like(condition[:1]), taste)
            predict = diffusion.guided(predict, blank, self.config.guidance)
        return diffusion.ddim_filter(self.schedule, predict, h, level, steps, kind=kind)

    def _predict(self, key: str, condition: Tensor, taste: Tensor) -> diffusion.Predict:
        """The denoiser for conditions; where no gradient is asked for, by the average of its weights if one is kept."""
        of_average = self.config.ema and not torch.is_grad_enabled()
        networks: Any = self.average.module if of_average else self.denoisers
        return lambda xt, t: networks[key](xt, t, condition, taste)


def _forget(content: LatentFilter, keys: Any) -> None:
    content._held = None
