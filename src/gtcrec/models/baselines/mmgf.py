"""MM-GF: a polynomial filter on the item graph of interactions plus linear ones on those of content; no training.

After "Training-free Adjustable Polynomial Graph Filtering for Ultra-fast Multimodal Recommendation" (Roh et al. 2025,
arXiv 2503.04406).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_array, eye_array
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from gtcrec.models.base import CONTENT_SCALING, ContentModelConfig, ModelSpec
from gtcrec.models.modalities import modality_weights
from gtcrec.ops import graph
from gtcrec.ops import neighbors as similarity
from gtcrec.types import Floats, Interactions, ItemFeatures, Masks, Scorer

__all__ = ["MMGF", "SPEC", "MMGFConfig"]

_Coefficient = Annotated[float, Field(allow_inf_nan=False)]


class MMGFConfig(ContentModelConfig):
    """Settings of MM-GF, which the paper tunes per data set; checked on the validation parts of `baby` and `tiktok`.

    The paper weighs text and image apart. Modalities here have any names, so the default is equal.
    """

    asymmetry: float = Field(0.7, ge=0, le=1, description="alpha: power of the users' degrees; 1 - alpha of the items'")
    power: float = Field(0.6, gt=0, description="s: of each entry of an item graph")
    coefficients: tuple[_Coefficient, ...] = Field(
        (-0.1, 1.1, -0.7), min_length=1, description="a_1, a_2, ...: of the powers of the interactions' graph"
    )
    num_item_neighbors: int = Field(
        20, ge=1, description="content neighbours per item and modality, itself one of them"
    )
    content_weight: float = Field(0.1, ge=0, description="of the modalities' graphs")
    modality_weights: Mapping[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict, description="of each modality in content's part, by name; empty: 1 each"
    )


class MMGF(nn.Module):
    """s_u = r_u (f(P) + sum_m w_m (P_m - min(P_m) I)), r_u the user's items, P and P_m graphs over the items.

    P = (R~^T R~)^(s), each entry to the power s, R~ = D_U^-alpha R D_I^(alpha - 1), D the degrees. P_m comes so from
    S_m, in which an item has ones at itself and at its nearest by cosine in m: P_m = (S~ S~^T)^(s). f(P) = sum_k a_k
    M^k / range^(k - 1), M = P - min(P) I; min, max and range = max - min are of eigenvalues, so that a filter's
    frequencies start at 0. What lacks m has no part in P_m: nothing comes from m for it.

    f(P) is a matrix of items x items that is never formed: it is applied to a block of users at a time, by sparse
    products. Held are P, an entry for each two items that a user has both, and the sparse P_m. They are derived from
    the data, so no part of the saved weights.
    """

    def __init__(self, config: MMGFConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        weights = modality_weights("mmgf", config.modality_weights, features.names)
        history = train.matrix()
        p = _item_similarity(history.T.tocsr(), 1 - config.asymmetry, config.asymmetry, config.power)
        least, most = _extreme_eigenvalues(p)
        span = (most - least) or 1.0  # 0 without any interaction
        first, *others = (a / span**k for k, a in enumerate(config.coefficients))
        shifted = p - least * eye_array(train.n_items, format="csr")
        linear = first * shifted
        for m in features.names if config.content_weight > 0 else ():
            weight = config.content_weight * weights[m]
            linear = linear + weight * _content_graph(features.values[m], features.present[m], config)
        self._filter = _PolynomialFilter(history, _to_float32(linear), _to_float32(shifted), tuple(others))

    def fold_in(self, history: csr_array) -> Tensor:
        return self._filter.of(history)

    def scorer(self) -> Scorer:
        return self._filter  # nothing changes it


@dataclass(frozen=True, eq=False)
class _PolynomialFilter:
    """Users -> r (L + b_2 M^2 + b_3 M^3 + ...) of their rows r of `history`; L and M are symmetric, never changed."""

    history: csr_array
    linear: csr_array  # L
    shifted: csr_array  # M
    others: tuple[float, ...]  # b_2, b_3, ...

    @cached_property
    def _m(self) -> Tensor:
        m = self.shifted
        counts, columns, values = (torch.from_numpy(one) for one in (np.diff(m.indptr), m.indices, m.data))
        return graph.csr(counts, columns, values, m.shape)

    def __call__(self, users: Tensor) -> Tensor:
        """Return the scores [b, n_items] of users int64 [b]."""
        return self.of(self.history[users.cpu().numpy()])

    def of(self, history: csr_array) -> Tensor:
        """Return the scores [b, n_items] of users with these rows [b, n_items] of `history`."""
        found = torch.empty(history.shape)
        for start in range(0, history.shape[0], _USERS):
            found[start : start + _USERS] = self._scores(history[start : start + _USERS])
        return found

    def _scores(self, likes: csr_array) -> Tensor:
        """By Horner's rule, L r + M (b_2 M r + M (b_3 M r + ...)), where M r is of few entries."""
        linear = torch.from_numpy((likes @ self.linear).toarray())  # [b, n_items]
        if not self.others:
            return linear
        mr = torch.from_numpy((likes @ self.shifted).toarray()).T.contiguous()  # [n_items, b]
        y = self.others[-1] * mr
        for b in reversed(self.others[:-1]):
            y = graph.times(self._m, y).add_(mr, alpha=b)
        return linear.add_(graph.times(self._m, y).T)


_USERS = 256  # at once: more leave the cache
_SMALL = 64  # items for which eigenvalues are computed densely: Lanczos wants a few dimensions


def _to_float32(matrix: csr_array) -> csr_array:
    found: csr_array = matrix.tocsr().astype(np.float32)
    return found


def _item_similarity(edges: csr_array, own: float, through: float, power: float) -> csr_array:
    """(E~ E~^T)^(power), E~ = D_rows^-own E D_columns^-through of binary edges E [n, m], float64 [n, n]."""
    edges = edges.astype(np.float64)
    rows, columns = (np.maximum(edges.sum(axis=axis), 1) for axis in (1, 0))  # where 1 is 0, there is nothing to scale
    edges.data *= np.repeat(rows**-own, np.diff(edges.indptr)) * (columns**-through)[edges.indices]
    similar: csr_array = (edges @ edges.T).tocsr()
    similar.data **= power
    return similar


def _content_graph(x: Floats, present: Masks, config: MMGFConfig) -> csr_array:
    """P_m - min(P_m) I over the present items, float64 [n_items, n_items], from x float32 [n_items, d]."""
    nearest = similarity.content_neighbors(x, present, config.num_item_neighbors - 1)
    nearest.data[:] = 1.0
    here = np.flatnonzero(present)
    edges = (nearest + eye_array(len(x), format="csr"))[here][:, here]
    p = _item_similarity(edges.tocsr(), config.asymmetry, 1 - config.asymmetry, config.power)
    moved = (p - _extreme_eigenvalues(p)[0] * eye_array(len(here))).tocoo()
    return csr_array((moved.data, (here[moved.row], here[moved.col])), shape=nearest.shape)


def _extreme_eigenvalues(p: csr_array) -> tuple[float, float]:
    """The least and the largest eigenvalue of a symmetric matrix of any size, (0, 0) of an empty one."""
    n = p.shape[0]
    if not p.nnz:
        return 0.0, 0.0
    if n <= _SMALL:
        values = np.linalg.eigvalsh(p.toarray())
        return float(values[0]), float(values[-1])
    start = np.random.default_rng(0).random(n)  # else ARPACK's own would change from call to call
    most = _largest_eigenvalue(p, start)
    least = most - _largest_eigenvalue((most * eye_array(n) - p).tocsr(), start)  # near 0, Lanczos may miss it
    return least, most


def _largest_eigenvalue(p: csr_array, start: Floats) -> float:
    return float(eigsh(p, k=1, which="LA", v0=start, tol=1e-6, return_eigenvectors=False)[0])


SPEC = ModelSpec(
    name="mmgf",
    model=MMGF,
    config=MMGFConfig,
    paper="Roh et al. 2025, arXiv 2503.04406",
    search_space={
        "content_scaling": CONTENT_SCALING,
        "asymmetry": (0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        "power": (0.4, 0.5, 0.6, 0.8, 1.0),
        "coefficients": ((1.0,), (-0.1, 1.1, -0.7), (0.0, 1.0, 0.0), (-0.1, 0.7, 1.9), (1.5, 1.8, 0.7)),
        "num_item_neighbors": (5, 10, 20, 40),
        "content_weight": (0.0, 0.1, 0.3, 0.5, 1.0, 2.0),
    },
)
