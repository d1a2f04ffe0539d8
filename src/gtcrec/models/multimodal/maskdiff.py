"""MaskDiff: a linear item-item part, and a masked diffusion of users' histories that content guides.

The forward process of the diffusion hides each item of a history with a probability that grows with time (the
absorbing state of D3PM, Austin et al. 2021, arXiv 2107.03006). The reverse network is told what is left of the history,
its content among it, and says which items were hidden.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.base import EMBEDDING_DIM, LEAST_SQUARES_REG, UNOBSERVED_WEIGHT, ModelConfig, ModelSpec
from gtcrec.models.baselines.l3ae import L3AE, L3AEConfig
from gtcrec.ops.feature_transforms import directions
from gtcrec.ops.least_squares import factorize
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer, TrainableModel

__all__ = ["SPEC", "MaskDiff", "MaskDiffConfig"]

_START_SCALE = 0.1  # of the first item vectors: scores of the first step differ by about 1
_LEAST_HIDDEN, _MOST_HIDDEN = 0.1, 0.9  # the earliest and the latest time of the diffusion
_START_LINEAR = 0.3  # of the profile, in the network's first answers
_BLOCK_USERS = 4096


class MaskDiffConfig(ModelConfig):
    """Settings of MaskDiff; the defaults served the validation parts of `ml100k` and `sports`."""

    embedding_dim: int = Field(128, ge=1, description="length of the items' identity vectors")
    content_dim: int = Field(64, ge=1, description="directions of each modality's content")
    hidden_dim: int = Field(256, ge=1, description="width of the reverse network")
    dropout: float = Field(0.2, ge=0, lt=1, description="of the network's hidden layer")
    diffusion_users: int = Field(256, ge=1, description="users of a step's batch whose histories are hidden")
    diffusion_weight: float = Field(
        2.0, ge=0, description="of the network's scores beside the linear part's, both standardised by user; 0: none"
    )
    unobserved_weight: float = Field(
        4.0, gt=0, description="of all pairs' squared scores, as a multiple of the observed pairs', in the start"
    )
    als_reg: float = Field(0.05, gt=0, description="of the squared factors of the start")
    content_weight: float = Field(40.0, gt=0, description="beta of the linear part: the pull to the weights of content")
    content_reg: float = Field(1.0, gt=0, description="gamma of the linear part: of the squared weights of content")
    user_exponent: float = Field(0.5, ge=0, description="a of the linear part: a user of n items weighs n^-a")
    num_candidates: int = Field(200, ge=1, description="items that each item is regressed on in the linear part")


class MaskDiff(nn.Module, TrainableModel):
    """s(u, i) = z(x_u B) + w z(<f(x_u), v_i> + b_i), z the standard score over all items of the user.

    B are the item weights of `L3AE` in its local form. v_i = [e_i; y_i] has the item's identity vector and its
    content, y_i the whitened directions of each modality. The network f is told the same of the history, v_u =
    sum_{j in u} v_j / sqrt(n_u), and the share t of it that is hidden; its answer is linear in v_u plus one hidden
    layer. What it says of y is the user's filter of content: one weight a direction. At t = 0 nothing is hidden.

    The loss is the cross-entropy of the hidden items over all items that are not left in the history, h_u^-1/2 of each
    of h_u hidden items. e_i starts at the factors of least squares over all pairs, b_i at the log of an item's count.
    """

    content: Tensor

    def __init__(
        self, config: MaskDiffConfig, train: Interactions, features: ItemFeatures, init_weights: bool = True
    ) -> None:
        super().__init__()
        self.config, self.histories = config, train.matrix()
        self.linear = L3AE(
            L3AEConfig(
                candidates="local",
                content_weight=config.content_weight,
                content_reg=config.content_reg,
                user_exponent=config.user_exponent,
                num_candidates=config.num_candidates,
            ),
            train,
            features,
            init_weights,
        )
        self.scales = {
            m: directions(features.values[m], features.present[m], config.content_dim) for m in features.names
        }
        self.register_buffer("content", self._content(features), persistent=False)
        width = config.embedding_dim + self.content.shape[1]
        self.items = nn.Parameter(_START_SCALE * torch.randn(train.n_items, config.embedding_dim))
        self.targets = nn.Parameter(self.items.data.clone())
        self.bias = nn.Parameter(torch.from_numpy(np.log1p(train.item_counts)).float())
        self.keep = nn.Linear(width, width, bias=False)
        self.hide = nn.Linear(width + 1, config.hidden_dim)
        self.answer = nn.Linear(config.hidden_dim, width)
        with torch.no_grad():
            self.keep.weight.copy_(_START_LINEAR * torch.eye(width))
            self.answer.weight.mul_(0.1)
        if init_weights:
            unobserved = config.unobserved_weight * len(train) / (train.n_users * train.n_items)
            factors = factorize(train, config.embedding_dim, unobserved, config.als_reg)[1]
            for table in (self.items, self.targets):
                table.data.copy_(_START_SCALE * factors / factors.std().clamp(min=1e-6))

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the cross-entropy of hidden items, of at most `diffusion_users` users of the batch."""
        users = torch.unique(batch.users.cpu())
        users = users[torch.randperm(len(users), generator=rng)[: self.config.diffusion_users]]
        row, item = _entries(self.histories[users.numpy()])
        share = _LEAST_HIDDEN + (_MOST_HIDDEN - _LEAST_HIDDEN) * torch.rand(len(users), generator=rng)
        draw = torch.rand(len(item), generator=rng) - share[row]  # hidden where it is below 0
        lowest = torch.full((len(users),), torch.inf).scatter_reduce_(0, row, draw, "amin")
        hidden = (draw < 0) | (draw == lowest[row])  # at least one of each history
        seed = int(torch.randint(1 << 31, (1,), generator=rng))
        return {"diffusion": self._cross_entropy(row, item, hidden, len(users), seed)}

    def _cross_entropy(self, row: Tensor, item: Tensor, hidden: Tensor, n: int, seed: int) -> Tensor:
        counts = torch.bincount(row, minlength=n)
        left = torch.bincount(row[~hidden], minlength=n)
        device = self.bias.device
        kept_row, kept, lost_row, lost = (
            one.to(device) for one in (row[~hidden], item[~hidden], row[hidden], item[hidden])
        )
        profiles = self._profiles(kept, left.to(device))
        answers = self._denoise(profiles, (1 - left / counts).to(device), torch.Generator().manual_seed(seed))
        scores = answers @ self._vectors().T + self.bias
        scores = scores.index_put((kept_row, kept), scores.new_full((), -torch.inf))
        weights = (counts - left).to(device)[lost_row].float().rsqrt()
        errors = scores.logsumexp(dim=1)[lost_row] - scores[lost_row, lost]
        return (errors * weights).sum() / weights.sum()

    def _vectors(self) -> Tensor:
        """v_i of what the network's answers are multiplied with, [n_items, width]."""
        return torch.cat([self.targets, self.content], dim=1)

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
        if rng is not None and self.config.dropout:
            keep = torch.rand(inner.shape, generator=rng).to(inner.device) >= self.config.dropout
            inner = inner * keep / (1 - self.config.dropout)
        answers: Tensor = self.keep(profiles) + self.answer(inner)
        return answers

    @torch.no_grad()
    def scorer(self) -> Scorer:
        vectors, bias = self._vectors(), self.bias.detach().clone()
        linear, weight = self.linear.scorer(), self.config.diffusion_weight
        starts = range(0, self.histories.shape[0], _BLOCK_USERS)
        answers = torch.cat([self._answers(self.histories[start : start + _BLOCK_USERS]) for start in starts])
        return _MaskDiffScorer(answers, vectors, bias, linear, weight)

    @torch.no_grad()
    def fold_in(self, history: csr_array) -> Tensor:
        """Return the scores [b, n_items] of users by their histories, binary [b, n_items]."""
        linear = self.linear.fold_in(history).to(self.bias.device)
        network = self._answers(history) @ self._vectors().T + self.bias
        return _standard_scores(linear, linear) + self.config.diffusion_weight * _standard_scores(network, network)

    @torch.no_grad()
    def score_new_items(self, history: csr_array, features: ItemFeatures) -> Tensor:
        """Return the scores [b, n] of items that came after training, by histories [b, n_items] and their content.

        Such an item has no identity vector, and the bias of the item that training saw least.
        """
        answers, device = self._answers(history), self.bias.device
        content = self._content(features).to(device)
        network = answers[:, self.config.embedding_dim :] @ content.T + self.bias.min()
        known = answers @ self._vectors().T + self.bias
        linear = self.linear.score_new_items(history, features).to(device)
        first = _standard_scores(linear, self.linear.fold_in(history).to(device))
        return first + self.config.diffusion_weight * _standard_scores(network, known)

    def _answers(self, history: csr_array) -> Tensor:
        """f of whole histories, [b, width]."""
        counts = torch.from_numpy(np.diff(history.indptr).astype(np.int64)).to(self.bias.device)
        items = torch.from_numpy(history.indices.astype(np.int64)).to(self.bias.device)
        return self._denoise(self._profiles(items, counts), torch.zeros(len(counts), device=self.bias.device))

    def _content(self, features: ItemFeatures) -> Tensor:
        """y of items, [n, W], 0 where an item lacks a modality."""
        parts = [scale(features.values[m], features.present[m]) for m, scale in self.scales.items()]
        parts = [part / math.sqrt(part.shape[1]) for part in parts]
        return torch.cat(parts, dim=1) if parts else torch.zeros(features.n_items, 0)


@dataclass(frozen=True, eq=False)
class _MaskDiffScorer:
    """A snapshot: the network's answers [n_users, width], the items' vectors and biases, and the linear part."""

    answers: Tensor
    vectors: Tensor
    bias: Tensor
    linear: Scorer
    weight: float

    def __call__(self, index: Tensor) -> Tensor:
        """Return the scores [b, n_items] of users int64 [b]."""
        linear = self.linear(index).to(self.bias.device)
        network = self.answers[index.to(self.bias.device)] @ self.vectors.T + self.bias
        return _standard_scores(linear, linear) + self.weight * _standard_scores(network, network)


def _standard_scores(scores: Tensor, known: Tensor) -> Tensor:
    """Scores [b, n] less the mean of the known items' scores [b, n_items], over their standard deviation."""
    spread = known.std(dim=1, correction=0, keepdim=True)
    return (scores - known.mean(dim=1, keepdim=True)) / spread.clamp(min=1e-12)


def _entries(rows: csr_array) -> tuple[Tensor, Tensor]:
    """Row and column int64 of each entry."""
    counts = torch.from_numpy(np.diff(rows.indptr).astype(np.int64))
    return torch.arange(len(counts)).repeat_interleave(counts), torch.from_numpy(rows.indices.astype(np.int64))


SPEC = ModelSpec(
    name="maskdiff",
    model=MaskDiff,
    config=MaskDiffConfig,
    search_space={
        "train.learning_rate": (3e-4, 1e-3),
        "embedding_dim": EMBEDDING_DIM,
        "unobserved_weight": UNOBSERVED_WEIGHT,
        "als_reg": LEAST_SQUARES_REG,
        "diffusion_weight": (0.5, 1.0, 2.0, 4.0),
        "dropout": (0.0, 0.2, 0.5),
        "content_weight": (5.0, 10.0, 20.0, 40.0, 80.0, 160.0),
        "content_reg": (0.1, 0.3, 1.0, 3.0, 10.0),
        "user_exponent": (0.0, 0.25, 0.5, 0.75, 1.0),
    },
    supports_deferred_init=True,
    small={"embedding_dim": 8, "hidden_dim": 16, "content_weight": 2.0, "num_candidates": 20},
)
