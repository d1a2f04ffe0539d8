"""The history diffusion: masked diffusion of users' histories that content guides, method equations 25 to 29.

The forward process hides each item of a history with a probability that grows with time (the absorbing state of D3PM,
Austin et al. 2021, arXiv 2107.03006). The reverse network sees what is left of the history, its content among it, and
says which items were hidden.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.gtc.config import GTCConfig
from gtcrec.models.gtc.content_directions import ContentDirections
from gtcrec.models.gtc.item_draws import draw_items
from gtcrec.ops.losses import partial_log_sum_exp
from gtcrec.types import Interactions, ItemFeatures

__all__ = ["HistoryDiffusion"]

_START_SCALE = 0.1  # of the first item vectors: scores of the first step differ by about 1
_LEAST_HIDDEN, _MOST_HIDDEN = 0.1, 0.9  # the earliest and the latest time of the diffusion
_START_LINEAR = 0.3  # of the profile, in the network's first answers
_BLOCK_USERS = 4096


class _HiddenHistories(NamedTuple):
    """n histories of which some items are hidden: row and item int64 of each entry, what is hidden, bool."""

    row: Tensor
    item: Tensor
    hidden: Tensor
    n: int


class HistoryDiffusion(nn.Module):
    """s(u, i) = <f(x_u), v_i> + b_i.

    v_i = [e_i; y_i] has the item's identity vector and its content, y_i the whitened directions of each modality. The
    network f sees the same of the history, v_u = sum_{j in u} v_j / sqrt(n_u), and the share t of it that is hidden;
    its answer is linear in v_u plus one hidden layer. What it says of y is the user's filter of content: one weight a
    direction. At t = 0 nothing is hidden.

    The loss is the cross-entropy of the hidden items over all items that are not left in the history, h_u^-1/2 of each
    of h_u hidden items. Of more than `history_items` items as many are drawn for a step, and stand for all. e_i starts
    at `start`, the factors of least squares over all pairs in a GTC, b_i at the log of an item's count.
    """

    content: Tensor

    def __init__(
        self,
        config: GTCConfig,
        train: Interactions,
        features: ItemFeatures,
        start: Tensor | None = None,
        fit_directions: bool = True,
    ) -> None:
        """`start` [n_items, embedding_dim] are the vectors that the items start at, but for their scale.

        Without `fit_directions` those of content are loaded next.
        """
        super().__init__()
        self.config, self.histories, dim = config, train.matrix(), config.embedding_dim
        self.features = features
        self.directions = nn.ModuleList()
        for m in features.names:
            content = features.values[m], features.present[m], config.history_content_dim
            self.directions.append(ContentDirections(*content, fit_directions))
        self.register_buffer("content", self._content(features), persistent=False)
        self.register_load_state_dict_post_hook(_renew_content)  # type: ignore[no-untyped-call]
        width = dim + self.content.shape[1]
        self.items = nn.Parameter(_START_SCALE * torch.randn(train.n_items, dim))
        self.targets = nn.Parameter(self.items.data.clone())
        self.bias = nn.Parameter(torch.from_numpy(np.log1p(train.item_counts)).float())
        self.keep = nn.Linear(width, width, bias=False)
        self.hide = nn.Linear(width + 1, config.history_hidden_dim)
        self.answer = nn.Linear(config.history_hidden_dim, width)
        with torch.no_grad():
            self.keep.weight.copy_(_START_LINEAR * torch.eye(width))
            self.answer.weight.mul_(0.1)
        if start is not None:
            for table in (self.items, self.targets):
                table.data.copy_(_START_SCALE * start / start.std().clamp(min=1e-6))

    def blocks(self) -> list[tuple[str, int]]:
        """Return the name and width of each block of the vectors: identity, the modalities, the items' bias."""
        both = zip(self.features.names, self.directions, strict=True)
        widths = [(m, len(own.spread)) for m, own in both]  # type: ignore[arg-type]
        return [("identity", self.config.embedding_dim), *widths, ("count", 1)]

    def loss(self, users: Tensor, rng: torch.Generator) -> Tensor:
        """Return the cross-entropy of hidden items of at most `history_users` of the users int64 [b]."""
        users = torch.unique(users.cpu())
        users = users[torch.randperm(len(users), generator=rng)[: self.config.history_users]]
        row, item = _entries(self.histories[users.numpy()])
        share = _LEAST_HIDDEN + (_MOST_HIDDEN - _LEAST_HIDDEN) * torch.rand(len(users), generator=rng)
        draw = torch.rand(len(item), generator=rng) - share[row]  # hidden where it is below 0
        lowest = torch.full((len(users),), torch.inf).scatter_reduce_(0, row, draw, "amin")
        hidden = (draw < 0) | (draw == lowest[row])  # at least one of each history
        return self.cross_entropy(_HiddenHistories(row, item, hidden, len(users)), rng)

    def cross_entropy(self, batch: _HiddenHistories, rng: torch.Generator) -> Tensor:
        """Return the weighted mean of -ln p(item | what is left) over the hidden items."""
        row, item, hidden, n = batch
        counts, left = torch.bincount(row, minlength=n), torch.bincount(row[~hidden], minlength=n)
        device = self.bias.device
        lost_row, lost = row[hidden].to(device), item[hidden].to(device)
        profiles = self._profiles(item[~hidden].to(device), left.to(device))
        answers = self._denoise(profiles, (1 - left / counts).to(device), rng)
        own = (F.embedding(lost_row, answers) * self._sides(lost)).sum(dim=1) + self.bias[lost]
        weights = (counts - left).to(device)[lost_row].float().rsqrt()
        by_row = torch.zeros(n, device=device).index_add_(0, lost_row, weights)
        return (self._log_sums(answers, by_row, batch, rng) - torch.dot(own.float(), weights)) / weights.sum()

    def _log_sums(self, answers: Tensor, weights: Tensor, batch: _HiddenHistories, rng: torch.Generator) -> Tensor:
        """The sum, by weights [n], of the log of the sum of exp(score) over the items not left in each history.

        Of a large catalogue it is estimated: the hidden items of all histories count once, of the rest some are drawn
        and count n_rest / n_drawn times.
        """
        device, n_items = self.bias.device, len(self.bias)
        if n_items <= self.config.history_items:
            left = (batch.row * n_items + batch.item)[~batch.hidden].to(device)
            return partial_log_sum_exp(answers, self.targets, self.content, self.bias, weights, left)
        certain = torch.unique(batch.item[batch.hidden])
        items, offset = draw_items(certain, n_items, self.config.history_items, rng)
        at, left = items.to(device), _entry_places(batch, items).to(device)
        targets, content = F.embedding(at, self.targets), F.embedding(at, self.content)
        return partial_log_sum_exp(answers, targets, content, self.bias[at] + offset.to(device), weights, left)

    def _sides(self, items: Tensor) -> Tensor:
        """v_i of some items with which answers are multiplied, [n, width]."""
        return torch.cat([F.embedding(items, self.targets), F.embedding(items, self.content)], dim=1)

    def _profiles(self, items: Tensor, counts: Tensor) -> Tensor:
        """v_u of histories whose items stand one after the other, counts int64 [b] of them, [b, width]."""
        starts = counts.cumsum(0) - counts
        weights = counts.clamp(min=1).float().rsqrt().repeat_interleave(counts)
        sides = (
            F.embedding_bag(items, side, starts, mode="sum", per_sample_weights=weights)
            for side in (self.items, self.content)
        )
        return torch.cat(list(sides), dim=1)

    def _denoise(self, profiles: Tensor, hidden_share: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """f [b, width] of profiles [b, width] of which a share [b] is hidden; with `rng`, units are dropped."""
        inner = torch.tanh(self.hide(torch.cat([profiles, hidden_share[:, None]], dim=1)))
        if rng is not None and self.config.history_dropout:
            keep = torch.rand(inner.shape, generator=rng).to(inner.device) >= self.config.history_dropout
            inner = inner * keep / (1 - self.config.history_dropout)
        answers: Tensor = self.keep(profiles) + self.answer(inner)
        return answers

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        """Return user vectors [n_users, width + 1] and item vectors [n_items, width + 1]: their products are s."""
        starts = range(0, self.histories.shape[0], _BLOCK_USERS)
        users = [self.new_users(self.histories[start : start + _BLOCK_USERS]) for start in starts]
        return torch.cat(users), self.item_vectors()

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """Return the item vectors [n_items, width + 1] alone."""
        return torch.cat([self.targets, self.content, self.bias[:, None]], dim=1)

    @torch.no_grad()
    def new_users(self, history: csr_array) -> Tensor:
        """Return [f(x), 1] of whole histories, binary [b, n_items]."""
        row, items = (side.to(self.bias.device) for side in _entries(history))
        counts = torch.bincount(row, minlength=history.shape[0])
        answers = self._denoise(self._profiles(items, counts), self.bias.new_zeros(len(counts)))
        return torch.cat([answers, answers.new_ones(len(answers), 1)], dim=1)

    @torch.no_grad()
    def add_items(self, features: ItemFeatures) -> Tensor:
        """Return the vectors [n, width + 1] of items by their content: no identity, and the least known bias."""
        content = self._content(features).to(self.bias.device)
        identity = content.new_zeros(len(content), self.config.embedding_dim)
        return torch.cat([identity, content, self.bias.min().expand(len(content), 1)], dim=1)

    def _content(self, features: ItemFeatures) -> Tensor:
        """y of items, [n, W], 0 where an item lacks a modality."""
        both = zip(features.names, self.directions, strict=True)
        parts = [own(features.values[m], features.present[m]) for m, own in both]
        parts = [part / math.sqrt(part.shape[1]) for part in parts]
        return torch.cat(parts, dim=1) if parts else torch.zeros(features.n_items, 0)


def _renew_content(model: HistoryDiffusion, keys: Any) -> None:
    model.content.copy_(model._content(model.features))


def _entries(rows: csr_array) -> tuple[Tensor, Tensor]:
    """Row and column int64 of each entry."""
    counts = torch.from_numpy(np.diff(rows.indptr).astype(np.int64))
    return torch.arange(len(counts)).repeat_interleave(counts), torch.from_numpy(rows.indices.astype(np.int64))


def _entry_places(batch: _HiddenHistories, items: Tensor) -> Tensor:
    """Where `items` int64 [m] that are left in a history stand in a matrix [n, m] laid end to end, ascending."""
    order = torch.argsort(items, stable=True)
    ordered = items[order].contiguous()
    row, item = batch.row[~batch.hidden], batch.item[~batch.hidden]
    first, last = torch.searchsorted(ordered, item), torch.searchsorted(ordered, item, right=True)
    times = last - first  # an item may have been drawn more than once
    places = torch.arange(int(times.sum())) - (times.cumsum(0) - times - first).repeat_interleave(times)
    return (row.repeat_interleave(times) * len(items) + order[places]).sort().values
