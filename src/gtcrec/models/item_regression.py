"""Regressions of every item on all others in closed form: by interactions, by content, one pulled to the other.

The item weights B of a linear model score a user by x_u B. `solve_item_weights` finds those of EASE (Steck 2019, arXiv
1905.03375) and of L3AE (arXiv 2508.13500), whose ridge pulls them to what content says.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg.lapack import spotrf, spotri
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from gtcrec.errors import ConfigError
from gtcrec.ops.feature_transforms import Standardization, standardization
from gtcrec.types import Floats, Interactions, ItemFeatures

__all__ = ["ContentRegression", "ItemWeights", "check_memory", "score_histories", "solve_item_weights", "weigh_users"]

_BLOCK = 2048  # rows of items x items at once


@dataclass(frozen=True, eq=False)
class ContentRegression:
    """EASE among items by content alone: C = argmin |E^T - E^T C|^2 + gamma |C|^2, diag C = 0.

    E [n_items, W] has the standardised content of all modalities side by side, each modality's row of length 1, and 0
    where an item lacks it. By Woodbury C_ij = <e_i, t_j> off the diagonal, t_j = S e_j / (1 - e_j^T S e_j),
    S = (E^T E + gamma I)^-1: C is never formed.
    """

    scales: dict[str, Standardization]
    rows: Tensor  # E
    inverse: Tensor  # S [W, W]

    @classmethod
    def fit(cls, features: ItemFeatures, reg: float) -> "ContentRegression":
        """Fit the regression; `reg` is gamma."""
        scales = {m: standardization(features.values[m], features.present[m]) for m in features.names}
        rows = _unit_rows(features, scales)
        gram = (rows.T @ rows).double()
        gram.diagonal().add_(reg)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram)).float()
        return cls(scales, rows, inverse)

    def targets(self) -> Tensor:
        """Return t_j of all items, [n_items, W]."""
        smooth = self.rows @ self.inverse
        return smooth / (1 - (smooth * self.rows).sum(dim=1, keepdim=True))

    def encode(self, features: ItemFeatures) -> Tensor:
        """Return e_j of items that the regression does not have, [n, W]."""
        return _unit_rows(features, self.scales)

    def new_targets(self, features: ItemFeatures) -> Tensor:
        """Return t_j of items that the regression does not have, [n, W]: S e_j."""
        return self.encode(features) @ self.inverse


def _unit_rows(features: ItemFeatures, scales: dict[str, Standardization]) -> Tensor:
    """Standardised content of all modalities side by side, each of length 1 or 0, float32 [n, W]."""
    parts = [F.normalize(scale(features.values[m], features.present[m])) for m, scale in scales.items()]
    return torch.cat(parts, dim=1) if parts else torch.zeros(features.n_items, 0)


@dataclass(frozen=True, eq=False)
class ItemWeights:
    """B float32 [n_items, n_items], and beta P E [n_items, W] by which new items are scored (W may be 0)."""

    b: Tensor
    profiles: Tensor


def solve_item_weights(
    train: Interactions,
    reg: float,
    user_exponent: float = 0.0,
    content: ContentRegression | None = None,
    content_weight: float = 0.0,
) -> ItemWeights:
    """Return the minimum of |X - X B|^2_Omega + lambda |B|^2 + beta |B - C|^2 over B with a diagonal of zeros.

    Omega weighs user u by n_u^-a, a = `user_exponent`; lambda is `reg`, beta `content_weight`, C that of `content`.
    With P = (X^T Omega X + (lambda + beta) I)^-1 and T the targets of C,

        B = beta (P E) T^T - P diag((1 + beta <(P E)_j, t_j>) / P_jj) off the diagonal,

    which is EASE for beta = 0. One matrix of items x items is held; it is inverted in place.
    """
    ridge = reg + (content_weight if content is not None else 0.0)
    p = _invert_gram(train, ridge, user_exponent)
    matrix = torch.from_numpy(p)
    diagonal = matrix.diagonal().clone()
    if content is None:
        matrix.div_(-diagonal).fill_diagonal_(0.0)
        return ItemWeights(matrix, torch.zeros(train.n_items, 0))
    profiles, targets = content_weight * (matrix @ content.rows), content.targets()
    scale = (1 + (profiles * targets).sum(dim=1)) / diagonal  # [n_items]
    for rows in torch.split(torch.arange(train.n_items), _BLOCK):
        block = matrix[rows[0] : rows[-1] + 1]
        block.mul_(-scale).addmm_(profiles[rows], targets.T)
    matrix.fill_diagonal_(0.0)
    return ItemWeights(matrix, profiles)


def weigh_users(train: Interactions, user_exponent: float) -> csr_array:
    """Return Omega^1/2 X, float32 CSR [n_users, n_items]: each user's row times n_u^(-a / 2)."""
    x = train.matrix()
    if user_exponent:
        x.data = (np.maximum(train.user_counts, 1)[train.users] ** (-user_exponent / 2)).astype(np.float32)
    return x


def _invert_gram(train: Interactions, ridge: float, user_exponent: float) -> Floats:
    """(X^T Omega X + ridge I)^-1, float32 [n_items, n_items]: LAPACK overwrites the one matrix that is held.

    A ridge that counts keeps it well-conditioned: of `tiktok` and `ml100k` it is exact to 1e-6 at a ridge of 20.
    """
    x = weigh_users(train, user_exponent)
    xt = x.T.tocsr()
    gram = np.empty((train.n_items, train.n_items), dtype=np.float32)
    for start in range(0, train.n_items, _BLOCK):
        gram[start : start + _BLOCK] = (xt[start : start + _BLOCK] @ x).toarray()
    gram[np.diag_indices_from(gram)] += ridge
    factor, failed = spotrf(gram.T, lower=1, clean=0, overwrite_a=1)  # of the transpose, which is the same matrix
    if failed:
        raise ConfigError(f"reg={ridge:g} is too small: the items' Gram matrix has no inverse")
    inverse, _ = spotri(factor, lower=1, overwrite_c=1)
    full: Floats = inverse.T  # LAPACK filled the upper triangle of this view
    for start in range(0, train.n_items, _BLOCK):
        end = min(start + _BLOCK, train.n_items)
        corner = full[start:end, start:end]
        corner[:] = np.triu(corner) + np.triu(corner, 1).T
        full[end:, start:end] = full[start:end, end:].T
    return full


def score_histories(b: Tensor, history: csr_array) -> Tensor:
    """Return x B of histories [b, n_items], float32 [b, n_items]: sums of the rows of their items."""
    items, starts = (torch.from_numpy(side.astype(np.int64)).to(b.device) for side in (history.indices, history.indptr))
    return F.embedding_bag(items, b, starts[:-1], mode="sum")


def check_memory(model: str, n_items: int, max_items: int, way_out: str = "") -> None:
    """Raise `ConfigError` with the memory that a matrix of items x items needs, if there are too many items."""
    if n_items > max_items:
        raise ConfigError(
            f"{model}: {n_items} items need {4 * n_items**2 / 2**30:.1f} GiB of memory; "
            f"expected at most {max_items} items, or a larger max_items{way_out}"
        )
