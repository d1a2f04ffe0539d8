"""The user-aware filter of content by a user's history (condition `user_history`): method equations 1 to 11.

Content y_i is standardised, wide, and constant. For each user and each direction of content a Gaussian N(mu_u, s_u^2)
says what the user looks for: s_ud is small where the contents of the user's history lie close together. It is the
posterior predictive of the user's next content under K learned interest prototypes:

- prototype k has a spread v_kd in (0, 1) for each direction; its users' centres spread by the rest, 1 - v_kd;
- pi_uk is the softmax over k of -1/2 sum_d [(n - 1) ln v_kd + S_ud / v_kd], the restricted likelihood of the user's n
  contents with scatter S about their mean, times a learned temperature, plus a learned prior;
- 1 / v_u = sum_k pi_uk / v_k; then, with mean m and b = n (1 - v) / (n (1 - v) + v), mu = b m and s^2 = v + b v / n.
  A user without history has mu = 0 and s = 1, the population.

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
from gtcrec.models.gtc.content_directions import ContentDirections
from gtcrec.models.gtc.embedding.denoising import denoising_errors, denoising_terms, sample_pairs
from gtcrec.models.gtc.embedding.graph_encoder import UserItemEmbeddings, unit_scale
from gtcrec.models.gtc.explain import FilteredContent
from gtcrec.ops import diffusion
from gtcrec.runtime.process_group import ProcessGroup
from gtcrec.types import Floats, Interactions, ItemFeatures, Masks

__all__ = ["Interest", "InterestFilter", "ModalityInterestFilter"]

_BLOCK_USERS = 8192
_TEMPERATURE = 0.1  # before training: directions of real content repeat each other, and so does their evidence

_Coefficients = tuple[Tensor, Tensor, Tensor]  # p, q [b, W] and c [b]: the score of content y is p y + q y^2 + c


class Interest(NamedTuple):
    """What b users look for in one modality."""

    mean: Tensor  # [b, W] mu
    spread: Tensor  # [b, W] s^2, 1 where the user is like the population
    mix: Tensor  # [b, K] pi


class ModalityInterestFilter(nn.Module):
    """One modality: its content y [n_items, W], the sums over each user's history, and the interest prototypes."""

    y: Tensor
    present: Tensor
    count: Tensor
    total: Tensor
    squares: Tensor

    def __init__(
        self,
        config: GTCConfig,
        train: Interactions,
        x: Floats,
        present: Masks,
        with_denoiser: bool = True,
        fit_directions: bool = True,
    ) -> None:
        super().__init__()
        self.config, self.train_pairs, self.x = config, train, (x, present)
        self.directions = ContentDirections(x, present, config.content_dim, fit_directions)
        self.used_basis = self.directions.basis.clone()
        for name, value in self._contents().items():
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("present", torch.from_numpy(present), persistent=False)
        self.register_load_state_dict_post_hook(_renew_contents)  # type: ignore[no-untyped-call]
        width = self.directions.width
        self.strength = nn.Parameter(torch.zeros(()))
        if config.alignment != "none" or config.attention_refinement:
            self.project = nn.Linear(width, config.embedding_dim)  # to the length of the identity view
        if config.filter == "off":
            return
        self.schedule = noise_levels(config)
        if with_denoiser:
            conditions = (config.embedding_dim,) if config.pair_diffusion_weight else ()
            self.denoiser = diffusion.ConditionalDenoiser(width, conditions, config.hidden_dim)
        self.spreads = nn.Parameter(1.5 + 0.3 * torch.randn(config.num_prototypes, width))
        if config.num_prototypes > 1:
            self.prior = nn.Parameter(torch.zeros(config.num_prototypes))
            self.temperature = nn.Parameter(torch.tensor(math.log(_TEMPERATURE)))
        if config.filter == "noise_only":
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(name.startswith(("project.", "strength")))

    def _contents(self) -> dict[str, Tensor]:
        """y of all items, and of each user's history the count of contents, their sum and the sum of their squares."""
        y, has = self.directions(*self.x), torch.from_numpy(self.x[1])
        history = self.train_pairs.matrix()
        sums = (torch.from_numpy(history @ one.numpy()) for one in (has[:, None].float(), y, y.square()))
        return dict(zip(("y", "count", "total", "squares"), (y, *sums), strict=True))

    def interest(self, users: Tensor, left_out: Tensor | None = None) -> Interest:
        """Return what users int64 [b] look for, equations 2 and 3; items `left_out` int64 [b] do not count."""
        n, total, squares = (F.embedding(users, sums) for sums in (self.count, self.total, self.squares))
        if left_out is not None:
            y = F.embedding(left_out, self.y)
            n, total, squares = n - self.present[left_out, None].float(), total - y, squares - y.square()
        return self.interest_of_history(n, total, squares)

    def interest_of_history(self, n: Tensor, total: Tensor, squares: Tensor) -> Interest:
        """Return what users look for whose n [b, 1] contents have this sum and this sum of squares, [b, W] each."""
        mean = total / n.clamp(min=1)
        if self.config.filter == "off":
            return Interest(mean * n / (n + 1), torch.ones_like(mean), mean.new_ones(len(mean), 1))
        v = self.spreads.sigmoid()  # [K, W]
        mix = self._prototype_mix(n, (squares - total * mean).clamp(min=0), v)
        v = 1 / (mix @ (1 / v))  # [b, W]
        between = n * (1 - v)
        share = between / (between + v)
        spread = torch.where(n > 0, v + share * v / n.clamp(min=1), 1.0)
        return Interest(share * mean, spread, mix)

    def _prototype_mix(self, n: Tensor, scatter: Tensor, v: Tensor) -> Tensor:
        """pi [b, K], equation 2."""
        if self.config.num_prototypes == 1:
            return n.new_ones(len(n), 1)
        evidence = (n - 1).clamp(min=0) * v.log().sum(dim=1) + scatter @ (1 / v).T  # [b, K]
        return (self.prior - 0.5 * self.temperature.exp() * evidence).softmax(dim=1)

    def score_coefficients(self, interest: Interest) -> _Coefficients:
        """Return p, q [b, W] and c [b] of the score sum_d (p_d y_d + q_d y_d^2) + c, equations 5 and 8.

        ln rho_t = sum_d [r mu y - (r - a^2) y^2 / 2] - sum_d [r mu^2 - ln(r / a^2)] / 2, r = a^2 / (a^2 s^2 + b^2),
        times a learned strength. Without a filter the score is the inner product of y and the history's mean.
        """
        weight = self.strength.exp() / math.sqrt(self.y.shape[1])
        if self.config.filter == "off":
            zeros = torch.zeros_like(interest.mean)
            return weight * interest.mean, zeros, zeros[:, 0]
        level = self.config.filter_level
        a, b = self.schedule.signal[level], self.schedule.noise[level]
        r = a**2 / (a**2 * interest.spread + b**2)
        slope = r * interest.mean
        constant = -0.5 * (slope * interest.mean - (r / a**2).log()).sum(dim=1)
        return weight * slope, -0.5 * weight * (r - a**2), weight * constant

    def user_columns(self, interest: Interest) -> list[Tensor]:
        """Return the user's side of the score as an inner product, columns [b, .]."""
        p, q, c = self.score_coefficients(interest)
        return [p, c[:, None]] if self.config.filter == "off" else [p, q, c[:, None]]

    def item_columns(self, y: Tensor, present: Tensor) -> list[Tensor]:
        """Return the item's side, for content y [n, W] and its mask [n]."""
        squares = [] if self.config.filter == "off" else [y.square()]
        return [y, *squares, present[:, None].float()]

    def score(self, coefficients: _Coefficients, items: Tensor) -> Tensor:
        """Return the scores [b] of users with one item each; 0 for an item that lacks the modality."""
        p, q, c = coefficients
        y = F.embedding(items, self.y)
        return (y * (p + q * y)).sum(dim=1) + c * self.present[items]

    def conditioned_scores(self, users: Tensor, embeddings: Tensor, items: Tensor) -> Tensor:
        """Return the scores [b, n] of users [b] with items [b, n], plus the network's gain by the user, equation 11.

        The gain is (|y - x_0()|^2 - |y - x_0(user)|^2) a^2 / 2 b^2, x_0 the network's estimate of y at the filter's
        level without and with the user's `embeddings` [b, dim]: the part of ln rho that a Gaussian does not have.
        """
        p, q, c = (part[:, None] for part in self.score_coefficients(self.interest(users)))
        y, has, level = F.embedding(items, self.y), self.present[items], self.config.filter_level
        score = (y * (p + q * y)).sum(dim=2) + c * has
        t, xt = torch.full((1, 1), level, device=y.device), self.schedule.signal[level] * y
        without, conditioned = self.predict(xt, t), self.predict(xt, t, embeddings[:, None])
        gain = 0.5 * (without.square() - conditioned.square()).sum(dim=2)  # y - x_0 = eps b / a at x_t = a y
        return score + self.strength.exp() / math.sqrt(self.y.shape[1]) * gain * has

    def denoise(self, xt: Tensor, t: Tensor, interest: Interest) -> Tensor:
        """Return eps_theta - b_t grad ln rho_t, the noise in x_t [b, W] guided by the users' interest, equation 6."""
        a, b = self.schedule.signal[t, None], self.schedule.noise[t, None]
        gradient = xt - (xt - a * interest.mean) / (a**2 * interest.spread + b**2)  # of ln rho_t
        return self.predict(xt, t) + -b * gradient

    def predict(self, xt: Tensor, t: Tensor, user: Tensor | None = None) -> Tensor:
        """Return the network's noise in x_t [b, W]; with a pair term, `user` [b, dim] conditions it directly."""
        conditions = []
        if self.config.pair_diffusion_weight:
            conditions = [xt.new_zeros(*[1] * (xt.ndim - 1), self.config.embedding_dim) if user is None else user]
        return self.denoiser(xt, t, *conditions)  # type: ignore[no-any-return]

    def filtered(self, items: Tensor) -> Tensor:
        """Return what of the items' content survives at the filter's noise level, [n, W]."""
        y = F.embedding(items, self.y)
        if self.config.filter == "off":
            return y
        return diffusion.ddim_filter(self.schedule, self.predict, y, self.config.filter_level)

    def aligned(self, items: Tensor) -> Tensor:
        """Return the items' filtered content, projected to [n, dim] of root-mean-square 1, equation 9."""
        h = F.layer_norm(self.project(self.filtered(items)), (self.config.embedding_dim,))
        return torch.where(self.present[items, None], h, 0.0)


def _renew_contents(model: ModalityInterestFilter, keys: Any) -> None:
    if torch.equal(model.directions.basis, model.used_basis):
        return
    model.used_basis = model.directions.basis.clone()
    for name, value in model._contents().items():
        model.get_buffer(name).copy_(value)


class _InterestBatch(NamedTuple):
    """What is computed for b users and a items."""

    items: Tensor  # [a] which items
    users: Tensor  # [b, dim] the users' identity views
    interests: Mapping[str, Interest]
    coefficients: Mapping[str, _Coefficients]


class InterestFilter(nn.Module):
    """s_m(u, i) = ln rho_u(y_im), for each modality m, equation 8."""

    def __init__(
        self,
        config: GTCConfig,
        train: Interactions,
        features: ItemFeatures,
        keys: Mapping[str, str],
        workers: ProcessGroup,
        with_denoisers: bool = True,
        fit_directions: bool = True,
    ) -> None:
        super().__init__()
        self.config, self.keys = config, keys
        self.local_rows = slice(workers.rank, None, workers.size)  # whose vectors `fold` writes
        self.filters = nn.ModuleDict(
            {
                key: ModalityInterestFilter(
                    config, train, features.values[m], features.present[m], with_denoisers, fit_directions
                )
                for m, key in keys.items()
            }
        )

    def __getitem__(self, modality: str) -> ModalityInterestFilter:
        return self.filters[self.keys[modality]]  # type: ignore[return-value]

    def refresh(self) -> None:
        """Nothing: content is constant here."""

    def encode(
        self, identity: UserItemEmbeddings, users: Tensor, items: Tensor, left_out: Tensor | None = None
    ) -> _InterestBatch:
        """Return users int64 [b] and items int64 [a] by the users' history, without the items `left_out` [b]."""
        interests = {m: self[m].interest(users, left_out) for m in self.keys}
        coefficients = {m: self[m].score_coefficients(interest) for m, interest in interests.items()}
        return _InterestBatch(items, identity.users, interests, coefficients)

    def encode_step(
        self, identity: UserItemEmbeddings, users: Tensor, items: Tensor, positives: Tensor
    ) -> _InterestBatch:
        """Return the same as training sees it: the pair's positive int64 [b] is left out of its user's history."""
        return self.encode(identity, users, items, positives if self.config.leave_one_out else None)

    def regularized(self, users: Tensor) -> list[Tensor]:
        """Nothing that the L2 term counts."""
        return []

    def scores(self, batch: _InterestBatch, users: Tensor, places: Tensor, positive: bool = False) -> Iterator[Tensor]:
        """Yield for each modality the scores [b] of the batch's users with the items at `places`."""
        for m in self.keys:
            yield self[m].score(batch.coefficients[m], batch.items[places])

    def widths(self) -> list[int]:
        """Return how many numbers of a folded vector belong to each modality."""
        return [(1 if self.config.filter == "off" else 2) * self[m].y.shape[1] + 1 for m in self.keys]

    def conditioned_scores(self, identity: UserItemEmbeddings, users: Tensor, items: Tensor) -> Iterator[Tensor]:
        """Yield for each modality the scores [b, n] of users [b] with items [b, n], filtered pair by pair."""
        embeddings = unit_scale(F.embedding(users, identity.users))
        for m in self.keys:
            yield self[m].conditioned_scores(users, embeddings, items)

    def fold(
        self, identity: UserItemEmbeddings | None, user_blocks: Sequence[Tensor], item_blocks: Sequence[Tensor]
    ) -> None:
        """Write the users' and items' vectors of each modality, whose inner product is its score.

        Those of all users and items; of several workers, those whose rows lie here. `identity` is not read.
        """
        self.fold_known_items(item_blocks)
        for m, user_block in zip(self.keys, user_blocks, strict=True):
            one = self[m]
            users = torch.arange(len(one.count), device=user_block.device)[self.local_rows]
            parts = torch.split(users, _BLOCK_USERS), torch.split(user_block, _BLOCK_USERS)
            for part, rows in zip(*parts, strict=True):
                torch.cat(one.user_columns(one.interest(part)), dim=1, out=rows)

    def fold_known_items(self, item_blocks: Sequence[Tensor]) -> None:
        """Write the items' vectors alone."""
        for m, item_block in zip(self.keys, item_blocks, strict=True):
            one = self[m]
            torch.cat(one.item_columns(one.y[self.local_rows], one.present[self.local_rows]), dim=1, out=item_block)

    def fold_items(self, features: ItemFeatures) -> Tensor:
        """Return the item vectors [n, widths] of new items by their content."""
        y, columns = self.item_contents(features), []
        for m in self.keys:
            columns += self[m].item_columns(y[m], torch.from_numpy(features.present[m]).to(y[m].device))
        return torch.cat(columns, dim=1)

    def item_contents(self, features: ItemFeatures) -> dict[str, Tensor]:
        """Return the content y [n, W] of each modality of new items."""
        return {m: self[m].directions(features.values[m], features.present[m]).to(self[m].y.device) for m in self.keys}

    def fold_users(self, history: Tensor) -> list[Tensor]:
        """Return for each modality the user vectors of new users by their history, sparse CSR [b, n_items]."""
        parts = []
        for m in self.keys:
            one = self[m]
            sums = [history @ part for part in (one.present[:, None].float(), one.y, one.y.square())]
            parts.append(torch.cat(one.user_columns(one.interest_of_history(*sums)), dim=1))
        return parts

    def aligned(self, batch: _InterestBatch, places: Tensor) -> list[Tensor]:
        """Return each modality's filtered content of the items at `places`, [n, dim]."""
        return [self[m].aligned(batch.items[places]) for m in self.keys]

    def present(self, items: Tensor) -> list[Tensor]:
        """Return which of the items have each modality, bool [n]."""
        return [self[m].present[items] for m in self.keys]

    def explain(self, batch: _InterestBatch, user: Tensor) -> Iterator[FilteredContent]:
        """Yield for each modality what the filter does to the batch's items for `user` int64 [1]."""
        for m in self.keys:
            interest, y = self[m].interest(user), F.embedding(batch.items, self[m].y)
            matters = y if self.config.filter == "off" else (1 - interest.spread) * y  # s is 1 without a filter
            yield FilteredContent(interest.mix[0], y, self[m].filtered(batch.items), matters)

    def denoising_loss(
        self, batch: _InterestBatch, users: Tensor, places: Tensor, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Return E |eps - eps_u(x_t, t)|^2 over positive pairs, and the pair term: the network given the user."""
        pairs = sample_pairs(self.config, len(places), rng).to(places.device)
        items, embeddings = batch.items[places[pairs]], unit_scale(batch.users[pairs].detach())
        errors = []
        for m in self.keys:
            one, interest = self[m], Interest(*(part[pairs] for part in batch.interests[m]))
            denoisers: list[diffusion.Predict] = [partial(one.denoise, interest=interest)]
            if self.config.pair_diffusion_weight:
                denoisers.append(partial(one.predict, user=embeddings))
            y, has = F.embedding(items, one.y), one.present[items]
            errors.append(denoising_errors(one.schedule, y, has, rng, *denoisers))
        return denoising_terms(self.config, errors)
