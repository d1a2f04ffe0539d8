"""L3AE: a linear item-item model whose weights content pulls (CIKM 2025, arXiv 2508.13500)."""

from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor, nn

from gtcrec.models.base import ModelConfig, ModelSpec
from gtcrec.models.item_regression import ContentRegression, check_memory, score_histories, solve_item_weights
from gtcrec.models.local_regression import LocalRegression
from gtcrec.ops.neighbors import find_search
from gtcrec.ops.scorers import SparseScorer
from gtcrec.types import Floats, Interactions, Ints, ItemFeatures, Scorer

__all__ = ["L3AE", "SPEC", "L3AEConfig"]

_BLOCK = 16  # items solved for at once: a matrix of all their candidates is held


class L3AEConfig(ModelConfig):
    """Settings of L3AE; the defaults are untuned, from the middle of what served on sparse data elsewhere."""

    reg: float = Field(0.0, ge=0, description="lambda: of the squared weights")
    content_weight: float = Field(40.0, gt=0, description="beta: of the squared distance to the weights of content")
    content_reg: float = Field(1.0, gt=0, description="gamma: of the squared weights of content")
    user_exponent: float = Field(0.5, ge=0, description="a: a user of n items weighs n^-a")
    candidates: Literal["all", "local"] = Field(
        "all", description="items that an item is regressed on: all others by one inverse, or num_candidates of its own"
    )
    num_candidates: int = Field(200, ge=1, description="local: candidates per item; at most half for content alone")
    neighbor_search: Literal["exact", "approximate"] = Field(
        "exact", description="local: of near content; approximate needs the extra index"
    )
    max_items: int = Field(40_000, ge=1, description="all: larger catalogues are refused, for items x items numbers")


class L3AE(nn.Module):
    """s(u, .) = x_u B, B the minimum of |X - X B|^2_Omega + lambda |B|^2 + beta |B - C|^2 with a diagonal of zeros.

    C is the like regression of items on each other by their content alone. The model is EASE (Steck 2019) whose ridge
    pulls to C in place of 0: the optimum of linear denoising of histories with a content prior. Without content C is 0.

    An item without interactions has its column of C as weights. So have items that are added later: no inverse is
    needed for them. With `candidates=local` each item is regressed on its own candidates (`LocalRegression`), and the
    weights are part of the saved model; else they are derived from the data.

    Differs from the paper: a user of n items weighs n^-a in the loss (a = 0 in the paper), there are any number of
    modalities, of which items may lack some, and each modality's standardised content is normalised per item.
    Raises `ConfigError` for more than `max_items` items without `candidates=local`.
    """

    b: Tensor
    profiles: Tensor
    chosen: Tensor
    weights: Tensor

    def __init__(
        self, config: L3AEConfig, train: Interactions, features: ItemFeatures, init_weights: bool = True
    ) -> None:
        super().__init__()
        self.config, self._train, self._features = config, train, features
        self._histories = train.matrix()
        if config.candidates == "all":
            way_out = ", or candidates=local"
            check_memory("l3ae", train.n_items, config.max_items, way_out)
            found = solve_item_weights(train, config.reg, config.user_exponent, self.content, config.content_weight)
            self.register_buffer("b", found.b, persistent=False)
            self.register_buffer("profiles", found.profiles, persistent=False)
            return
        self._kept: csr_array | None = None  # the weights as a matrix, until others come
        self.register_load_state_dict_post_hook(_drop_kept)  # type: ignore[no-untyped-call]
        shape = train.n_items, min(config.num_candidates, train.n_items - 1)
        self.register_buffer("chosen", torch.full(shape, -1, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(shape))
        if init_weights:
            self.take_items(*self.solve_items(np.arange(train.n_items)))

    @property
    def n_items(self) -> int:
        """How many items there are to solve for; 0 when the model has its weights."""
        unsolved = self.config.candidates == "local" and not (self.chosen >= 0).any()
        return self._train.n_items if unsolved else 0

    def solve_items(self, items: Ints) -> tuple[Ints, Floats]:
        """Return the candidates of items int64 [b] and their weights, [b, num_candidates] each."""
        parts = [self.local.solve(items[start : start + _BLOCK]) for start in range(0, len(items), _BLOCK)]
        return np.concatenate([chosen for chosen, _ in parts]), np.concatenate([weights for _, weights in parts])

    def take_items(self, chosen: Ints, weights: Floats) -> None:
        """Take over the candidates and weights of all items."""
        self.chosen.copy_(torch.from_numpy(chosen))
        self.weights.copy_(torch.from_numpy(weights))
        self._kept = None

    @cached_property
    def content(self) -> ContentRegression:
        """The regression of items on each other by content alone."""
        return ContentRegression.fit(self._features, self.config.content_reg)

    @cached_property
    def local(self) -> LocalRegression:
        """The regressions of items on their own candidates."""
        config, search = self.config, find_search(self.config.neighbor_search)
        numbers = config.reg, config.content_weight, config.user_exponent, config.num_candidates
        return LocalRegression.prepare(self._train, self.content, *numbers, search)

    def scorer(self) -> Scorer:
        if self.config.candidates == "all":
            return lambda users: self.fold_in(self._histories[users.cpu().numpy()])  # nothing changes B
        return SparseScorer(self._histories, self.local_weights())

    def fold_in(self, history: csr_array) -> Tensor:
        if self.config.candidates == "all":
            return score_histories(self.b, history)
        return SparseScorer(history, self.local_weights()).of(history)

    def score_new_items(self, history: csr_array, features: ItemFeatures) -> Tensor:
        """Return the scores [b, n] of items that came after training, by histories [b, n_items] and their content."""
        if self.config.candidates == "all":
            return score_histories(self.profiles, history) @ self.content.new_targets(features).T.to(self.profiles)
        return SparseScorer(history, self._sparse_weights(*self.local.solve_new(features))).of(history)

    def local_weights(self) -> csr_array:
        """B of the local form, [n_items, n_items]; not to be changed."""
        if self._kept is None:
            self._kept = self._sparse_weights(self.chosen.cpu().numpy(), self.weights.cpu().numpy())
        return self._kept

    def _sparse_weights(self, chosen: Ints, weights: Floats) -> csr_array:
        """B as a matrix [n_items, m] from the candidates of m items and their weights, [m, k] each."""
        columns, places = (chosen >= 0).nonzero()
        entries = weights[columns, places], (chosen[columns, places], columns)
        return csr_array(entries, shape=(self._train.n_items, len(chosen)))


def _drop_kept(model: L3AE, keys: Any) -> None:
    model._kept = None


SPEC = ModelSpec(
    name="l3ae",
    model=L3AE,
    config=L3AEConfig,
    paper="Moon et al. 2025, arXiv 2508.13500",
    search_space={
        "content_weight": (5.0, 10.0, 20.0, 40.0, 80.0, 160.0),
        "content_reg": (0.1, 0.3, 1.0, 3.0, 10.0),
        "user_exponent": (0.0, 0.25, 0.5, 0.75, 1.0),
        "reg": (0.0, 5.0, 20.0, 80.0),
    },
    supports_deferred_init=True,
    small={"content_weight": 2.0},  # forty users pull less than thousands do
)
