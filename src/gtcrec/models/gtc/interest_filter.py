"""GTC's content as this project filters it: whole, for each user, told by the set of contents that the user liked.

Content y_i is standardised, wide, and constant. For each user a Gaussian N(mu_u, s_u^2), one direction of the content
at a time, says what the user looks for: s_ud is small where the contents that the user liked lie close together. It is
the posterior predictive of a user's next liked content under K learned interest prototypes:

- prototype k has a spread v_kd in (0, 1) for each direction; what it leaves of the population's variance 1 is the
  spread of its users' centres, 1 - v_kd;
- pi_uk, softmax over k of the restricted likelihood of the user's liked contents under k, -1/2 sum_d [(n - 1) ln v_kd
  + S_ud / v_kd] with S the scatter about their mean, times a learned temperature, plus a learned prior;
- 1 / v_u = sum_k pi_uk / v_k; then, with n liked contents of mean m and b = n (1 - v) / (n (1 - v) + v), mu = b m and
  s^2 = v + b v / n. Who liked nothing has mu = 0 and s = 1, the population.

The user guides the diffusion: at noise level t the density of a user's content over the population's is
rho_t = N(a y; a mu, a^2 s^2 + b^2) / N(a y; 0, 1), a and b the level's signal and noise. Classifier guidance
(Dhariwal & Nichol 2021) with it gives the user's denoiser, and ln rho_t at the filter's level is the score: quadratic
in y, hence one inner product of 2 W + 1 numbers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.gtc.config import GTCConfig, noise_levels
from gtcrec.models.gtc.denoising import averaged, denoised_pairs, denoising_errors, denoising_terms
from gtcrec.models.gtc.graph_encoder import UserItemEmbeddings, scaled
from gtcrec.ops import diffusion
from gtcrec.ops.feature_transforms import directions
from gtcrec.runtime.process_group import ProcessGroup
from gtcrec.types import Interactions, ItemFeatures

__all__ = ["Interest", "InterestFilter", "ModalityInterestFilter"]

_ALONE = ProcessGroup()
_BLOCK_USERS = 8192
_TEMPERATURE = 0.1  # before training: directions of real content repeat each other, and so does their evidence


class Interest(NamedTuple):
    """What b users look for in one modality."""

    mean: Tensor  # [b, W] mu
    spread: Tensor  # [b, W] s^2, 1 where the user is like the population
    mix: Tensor  # [b, K] pi


class ModalityInterestFilter(nn.Module):
    """One modality: its content y [n_items, W], what each user liked of it, and the prototypes of interest."""

    y: Tensor
    present: Tensor
    count: Tensor
    total: Tensor
    squares: Tensor

    def __init__(self, config: GTCConfig, train: Interactions, x: Any, present: Any) -> None:
        super().__init__()
        self.config = config
        self.directions = directions(x, present, config.width)
        y = self.directions(x, present)
        has = torch.from_numpy(present)
        liked = train.matrix()
        sums = (has[:, None].float(), y, y.square())
        for name, value in zip(("count", "total", "squares"), sums, strict=True):
            self.register_buffer(name, torch.from_numpy(liked @ value.numpy()), persistent=False)
        self.register_buffer("y", y, persistent=False)
        self.register_buffer("present", has, persistent=False)
        width = y.shape[1]
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(width)) if config.content_bias else None
        if config.alignment != "none" or config.refine:
            self.project = nn.Linear(width, config.dim)  # to the length of the identity view
        if config.filter == "off":
            return
        self.schedule = noise_levels(config)
        self.denoiser = diffusion.ConditionalDenoiser(width, (config.dim,) if config.pair_weight else (), config.hidden)
        if config.ema:
            self.average = averaged(self.denoiser, config.ema)
        self.spreads = nn.Parameter(1.5 + 0.3 * torch.randn(config.prototypes, width))
        if config.prototypes > 1:
            self.prior = nn.Parameter(torch.zeros(config.prototypes))
            self.temperature = nn.Parameter(torch.tensor(math.log(_TEMPERATURE)))
        if config.filter == "noise_only":
            for name, one in self.named_parameters():
                one.requires_grad_(name.startswith(("project.", "strength", "bias")))

    def interest(self, users: Tensor, without: Tensor | None = None) -> Interest:
        """Return what users int64 [b] look for; `without` int64 [b] is an item of each that counts as not liked."""
        n, total, squares = (F.embedding(users, one) for one in (self.count, self.total, self.squares))
        if without is not None:
            y = F.embedding(without, self.y)
            n, total, squares = n - self.present[without, None].float(), total - y, squares - y.square()
        return self.interest_in(n, total, squares)

    def interest_in(self, n: Tensor, total: Tensor, squares: Tensor) -> Interest:
        """Return what users look for who liked n [b, 1] contents of this sum and sum of squares, [b, W] each."""
        mean = total / n.clamp(min=1)
        if self.config.filter == "off":
            return Interest(mean * n / (n + 1), torch.ones_like(mean), mean.new_ones(len(mean), 1))
        v = self.spreads.sigmoid()  # [K, W]
        mix = self._mix(n, (squares - total * mean).clamp(min=0), v)
        v = 1 / (mix @ (1 / v))  # [b, W]
        between = n * (1 - v)
        share = between / (between + v)
        spread = torch.where(n > 0, v + share * v / n.clamp(min=1), 1.0)
        return Interest(share * mean, spread, mix)

    def _mix(self, n: Tensor, scatter: Tensor, v: Tensor) -> Tensor:
        if self.config.prototypes == 1:
            return n.new_ones(len(n), 1)
        evidence = (n - 1).clamp(min=0) * v.log().sum(dim=1) + scatter @ (1 / v).T  # [b, K]
        return (self.prior - 0.5 * self.temperature.exp() * evidence).softmax(dim=1)

    def guide(self, interest: Interest, signal: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and r = a^2 / (a^2 s^2 + b^2) at a level, [b, W] each: ln rho_t is quadratic in y with these."""
        return interest.mean, signal**2 / (signal**2 * interest.spread + noise**2)

    def folded(self, interest: Interest) -> tuple[Tensor, Tensor, Tensor]:
        """Return p, q [b, W] and c [b]: the score of content y is sum_d (p_d y_d + q_d y_d^2) + c.

        ln rho_t = sum_d [r mu y - (r - a^2) y^2 / 2] - sum_d [r mu^2 - ln(r / a^2)] / 2 times a learned strength;
        without a filter, the inner product of y and the mean of what the user liked. A content bias adds to p.
        """
        weight = self.strength.exp() / math.sqrt(self.y.shape[1])
        common = 0.0 if self.bias is None else self.bias
        if self.config.filter == "off":
            nothing = torch.zeros_like(interest.mean)
            return weight * interest.mean + common, nothing, nothing[:, 0]
        level = self.config.filter_level
        signal, noise = self.schedule.signal[level], self.schedule.noise[level]
        mean, r = self.guide(interest, signal, noise)
        slope = r * mean
        base = -0.5 * (slope * mean - (r / signal**2).log()).sum(dim=1)
        return weight * slope + common, -0.5 * weight * (r - signal**2), weight * base

    def user_columns(self, interest: Interest) -> list[Tensor]:
        """Return the user's side of the score as an inner product, columns [b, .]."""
        p, q, c = self.folded(interest)
        return [p, c[:, None]] if self.config.filter == "off" else [p, q, c[:, None]]

    def item_columns(self, y: Tensor, present: Tensor) -> list[Tensor]:
        """Return the item's side, for content y [n, W] and its mask [n]."""
        squares = [] if self.config.filter == "off" else [y.square()]
        return [y, *squares, present[:, None].float()]

    def score(self, folded: tuple[Tensor, Tensor, Tensor], items: Tensor) -> Tensor:
        """Return the scores [b] of users, as `folded`, with one item each; 0 for an item that lacks the modality."""
        p, q, c = folded
        y = F.embedding(items, self.y)
        return (y * (p + q * y)).sum(dim=1) + c * self.present[items]

    def told(self, users: Tensor, user: Tensor, items: Tensor) -> Tensor:
        """Return the scores [b, n] of users [b] with items [b, n], and how much telling the network the user helps.

        That is (|y - x_0()|^2 - |y - x_0(user)|^2) a^2 / 2 b^2, x_0 the content that the network sees in a y at the
        filter's level: what of ln rho a Gaussian does not see. `user` is [b, dim].
        """
        p, q, c = (one[:, None] for one in self.folded(self.interest(users)))
        y, has, level = F.embedding(items, self.y), self.present[items], self.config.filter_level
        score = (y * (p + q * y)).sum(dim=2) + c * has
        t, xt = torch.full((1, 1), level, device=y.device), self.schedule.signal[level] * y
        outs = (self.predict(xt, t, one) for one in (None, user[:, None]))
        blank, told = (self.schedule.to_noise(self.config.prediction, xt, level, out) for out in outs)
        gain = 0.5 * (blank.square() - told.square()).sum(dim=2)  # y - x_0 = eps b / a at x_t = a y
        return score + self.strength.exp() / math.sqrt(self.y.shape[1]) * gain * has

    def denoise(self, xt: Tensor, t: Tensor, interest: Interest) -> Tensor:
        """Return the network's prediction for x_t [b, W] as guided by the users: that of eps_theta - b_t grad ln rho_t.

        The setting `guidance` multiplies the gradient.
        """
        a, b = self.schedule.signal[t, None], self.schedule.noise[t, None]
        pull = xt - (xt - a * interest.mean) / (a**2 * interest.spread + b**2)  # grad ln rho_t
        eps = -b * (self.config.guidance * pull)  # what is added to the noise, which takes b / a of it from x_0
        return self.predict(xt, t) + self.schedule.target(self.config.prediction, -b / a * eps, t, eps)

    def predict(self, xt: Tensor, t: Tensor, user: Tensor | None = None) -> Tensor:
        """Return the network's prediction for x_t [b, W]; `user` [b, dim] conditions it directly.

        Where no gradient is asked for, the network is the average of its weights if one is kept.
        """
        network = self.average if self.config.ema and not torch.is_grad_enabled() else self.denoiser
        if not self.config.pair_weight:
            return network(xt, t)  # type: ignore[no-any-return]
        if user is None:
            user = xt.new_zeros(*[1] * (xt.ndim - 1), self.config.dim)
        return network(xt, t, user)  # type: ignore[no-any-return]

    def filtered(self, items: Tensor) -> Tensor:
        """Return what of the items' content survives at the filter's noise level, [n, W]."""
        y = F.embedding(items, self.y)
        if self.config.filter == "off":
            return y
        level, steps, kind = self.config.filter_level, self.config.filter_steps, self.config.prediction
        return diffusion.ddim_filter(self.schedule, self.predict, y, level, steps, kind=kind)

    def aligned(self, items: Tensor) -> Tensor:
        """Return the items' filtered content at the identity view's length, root-mean-square 1, [n, dim]."""
        h = F.layer_norm(self.project(self.filtered(items)), (self.config.dim,))
        return torch.where(self.present[items, None], h, 0.0)


class _Rows(NamedTuple):
    """What a step computes, for b users and a items."""

    items: Tensor  # [a] which items
    users: Tensor  # [b, dim] the users' identity views
    interests: Mapping[str, Interest]
    folded: Mapping[str, tuple[Tensor, Tensor, Tensor]]


class InterestFilter(nn.Module):
    """s_m(u, i) = ln rho_u(y_im), for each modality m."""

    def __init__(
        self,
        config: GTCConfig,
        train: Interactions,
        features: ItemFeatures,
        keys: Mapping[str, str],
        workers: ProcessGroup = _ALONE,
    ) -> None:
        super().__init__()
        self.config, self.keys = config, keys
        self.here = slice(workers.rank, None, workers.size)  # whose vectors `fold` writes
        self.filters = nn.ModuleDict(
            {
                key: ModalityInterestFilter(config, train, features.values[m], features.present[m])
                for m, key in keys.items()
            }
        )

    def __getitem__(self, modality: str) -> ModalityInterestFilter:
        found: ModalityInterestFilter = self.filters[self.keys[modality]]  # type: ignore[assignment]
        return found

    def refresh(self) -> None:
        """Nothing: content is constant here."""

    def after_step(self) -> None:
        """Let the averages of the denoisers' weights follow them."""
        for m in self.keys:
            self[m].average.update_parameters(self[m].denoiser)

    def exact(self, identity: UserItemEmbeddings, users: Tensor, items: Tensor) -> _Rows:
        """Return users int64 [b] and items int64 [a] as they will be met: all that users liked counts."""
        return self._rows(identity, users, items, None)

    def step(self, identity: UserItemEmbeddings, users: Tensor, items: Tensor, liked: Tensor) -> _Rows:
        """Return the same as training sees it: each user as one who has not met the item of `liked` int64 [b] yet."""
        return self._rows(identity, users, items, None if self.config.echo else liked)

    def _rows(self, identity: UserItemEmbeddings, users: Tensor, items: Tensor, without: Tensor | None) -> _Rows:
        interests = {m: self[m].interest(users, without) for m in self.keys}
        return _Rows(items, identity.user, interests, {m: self[m].folded(one) for m, one in interests.items()})

    def learned(self, users: Tensor) -> list[Tensor]:
        """Nothing that the L2 term counts."""
        return []

    def scores(self, rows: _Rows, users: Tensor, places: Tensor, liked: bool = False) -> Iterator[Tensor]:
        """Yield for each modality the scores [b] of the users asked for with the items at `places`."""
        for m in self.keys:
            yield self[m].score(rows.folded[m], rows.items[places])

    def widths(self) -> list[int]:
        """How many numbers of a folded vector belong to each modality."""
        return [(1 if self.config.filter == "off" else 2) * self[m].y.shape[1] + 1 for m in self.keys]

    def told(self, identity: UserItemEmbeddings, users: Tensor, items: Tensor) -> Iterator[Tensor]:
        """Yield for each modality the scores [b, n] of users [b] with items [b, n], filtered pair by pair."""
        user = scaled(F.embedding(users, identity.user))
        for m in self.keys:
            yield self[m].told(users, user, items)

    def fold(self, identity: UserItemEmbeddings, users: Sequence[Tensor], items: Sequence[Tensor]) -> None:
        """Write users' and items' vectors, whose inner product is a modality's score, into the columns of each.

        Those of all users and items, or of several workers, of those who lie here.
        """
        for m, theirs, its in zip(self.keys, users, items, strict=True):
            one = self[m]
            torch.cat(one.item_columns(one.y[self.here], one.present[self.here]), dim=1, out=its)
            every = torch.arange(len(one.count), device=theirs.device)[self.here]
            for some, rows in zip(torch.split(every, _BLOCK_USERS), torch.split(theirs, _BLOCK_USERS), strict=True):
                torch.cat(one.user_columns(one.interest(some)), dim=1, out=rows)

    def fold_new(self, features: ItemFeatures) -> Tensor:
        """Return what `fold` writes for items, [n, widths], of items with this content that the model never saw."""
        y, parts = self.new_content(features), []
        for m in self.keys:
            parts += self[m].item_columns(y[m], torch.from_numpy(features.present[m]).to(y[m].device))
        return torch.cat(parts, dim=1)

    def new_content(self, features: ItemFeatures) -> dict[str, Tensor]:
        """Return the content y [n, W] of each modality of items that the model never saw."""
        return {m: self[m].directions(features.values[m], features.present[m]).to(self[m].y.device) for m in self.keys}

    def fold_liked(self, liked: Tensor) -> list[Tensor]:
        """Return what `fold` writes for users, by modality, of users who like these items: sparse CSR [b, n_items]."""
        parts = []
        for m in self.keys:
            one = self[m]
            sums = [liked @ part for part in (one.present[:, None].float(), one.y, one.y.square())]
            parts.append(torch.cat(one.user_columns(one.interest_in(*sums)), dim=1))
        return parts

    def aligned(self, rows: _Rows, places: Tensor) -> list[Tensor]:
        """Each modality's filtered content of the items at `places`, [n, dim]."""
        return [self[m].aligned(rows.items[places]) for m in self.keys]

    def present(self, items: Tensor) -> list[Tensor]:
        """Which of the items have each modality, bool [n]."""
        return [self[m].present[items] for m in self.keys]

    def denoising(self, rows: _Rows, users: Tensor, places: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """E |eps - eps_u(x_t, t)|^2 over liked pairs, and the pair term: the same with the network told the user."""
        some = denoised_pairs(self.config, len(places), rng).to(places.device)
        items, user = rows.items[places[some]], scaled(rows.users[some].detach())
        errors = []
        for m in self.keys:
            one, interest = self[m], Interest(*(part[some] for part in rows.interests[m]))
            denoisers: list[diffusion.Predict] = [partial(one.denoise, interest=interest)]
            if self.config.pair_weight:
                denoisers.append(partial(one.predict, user=user))
            y, has = F.embedding(items, one.y), one.present[items]
            errors.append(denoising_errors(self.config, one.schedule, y, has, rng, *denoisers))
        return denoising_terms(self.config, errors)
