"""RP3beta: where a walk of three steps from the user ends, divided by a power of the item's popularity.

After "Updatable, Accurate, Diverse, and Scalable Recommendations for Interactive Applications" (Paudel et al. 2017),
which extends "Blockbusters and Wallflowers" (Christoffel et al. 2015).
"""

import numpy as np
from pydantic import Field
from scipy.sparse import csr_array, diags_array, vstack
from torch import Tensor, nn

from gtcrec.models.base import ModelConfig, ModelSpec
from gtcrec.ops import neighbors as similarity
from gtcrec.ops.scorers import SparseScorer
from gtcrec.types import Floats, Interactions, Ints, ItemFeatures

__all__ = ["SPEC", "RP3beta", "RP3betaConfig"]


class RP3betaConfig(ModelConfig):
    """Settings of RP3beta, chosen on the validation part of `baby`.

    The paper has alpha = 1 and tunes beta per data set; other alpha are P3alpha's (Cooper et al. 2014). With alpha = 1,
    `baby` finds half as much.
    """

    alpha: float = Field(0.3, ge=0, description="power of the transition probabilities")
    beta: float = Field(0.1, ge=0, description="power of the popularity that a score is divided by")
    num_neighbors: int = Field(0, ge=0, description="items kept per item; 0: all that a walk can reach")


class RP3beta(nn.Module):
    """s(u, j) = (P_ui P_iu P_ui)_uj / deg(j)^beta, each probability to the power alpha.

    P_ui = 1 / deg(u) from a user to each of its items, P_iu = 1 / deg(i) back. A walk does not end at the item that it
    came by, which could only score what the user has. The last two steps are item-item weights, made in blocks of items
    and derived from the data, so no part of the saved weights.
    """

    def __init__(self, config: RP3betaConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self._weights = _item_transitions(train, config)
        self._alpha = config.alpha
        self._first = train.matrix()
        self._first.data = _raise_counts(train.user_counts[train.users], -config.alpha).astype(np.float32)

    def fold_in(self, history: csr_array) -> Tensor:
        counts = np.maximum(np.diff(history.indptr), 1)
        return self.scorer().of(diags_array(_raise_counts(counts, -self._alpha).astype(np.float32)) @ history)

    def scorer(self) -> SparseScorer:
        return SparseScorer(self._first, self._weights)


def _raise_counts(counts: Ints, power: float) -> Floats:
    return counts.astype(np.float64) ** power


def _item_transitions(train: Interactions, config: RP3betaConfig, block: int = 2048) -> csr_array:
    """(P_iu^alpha P_ui^alpha)_ij / deg(j)^beta, each row's largest off the diagonal, float32 [n_items, n_items]."""
    by_user, by_item = train.user_counts[train.users], train.item_counts[train.items]  # of each pair
    back, on = train.matrix(), train.matrix()
    back.data = _raise_counts(by_item, -config.alpha)
    on.data = _raise_counts(by_user, -config.alpha) * _raise_counts(by_item, -config.beta)
    back = back.T.tocsr()
    blocks = []
    for start in range(0, train.n_items, block):
        reached = (back[start : start + block] @ on).tocoo()
        rows, columns, values = similarity.strongest(reached, config.num_neighbors or train.n_items, first_row=start)
        blocks.append(csr_array((values.astype(np.float32), (rows, columns)), shape=reached.shape))
    weights: csr_array = vstack(blocks, format="csr")
    return weights


SPEC = ModelSpec(
    name="rp3beta",
    model=RP3beta,
    config=RP3betaConfig,
    uses_content=False,
    paper="Paudel et al. 2017, Updatable, Accurate, Diverse, and Scalable Recommendations for Interactive Applications",
    search_space={
        "alpha": (0.2, 0.3, 0.5, 0.7, 1.0),
        "beta": (0.0, 0.1, 0.2, 0.4, 0.6, 0.8),
        "num_neighbors": (50, 100, 200, 500, 0),
    },
)
