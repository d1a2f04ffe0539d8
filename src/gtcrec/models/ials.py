"""iALS: matrix factorisation by alternating least squares over all user-item pairs.

After "Collaborative Filtering for Implicit Feedback Datasets" (Hu et al. 2008), with the objective, the scaled
regularisation and the advice of "Revisiting the Performance of iALS on Item Recommendation Benchmarks" (Rendle et al.
2022, arXiv 2110.14037).
"""

from collections.abc import Iterator

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.spaces import Space
from gtcrec.models.vectors import dot_scorer
from gtcrec.types import Interactions, Ints, ItemFeatures, Scorer

__all__ = ["IALS", "SPACE", "IALSConfig"]


class IALSConfig(BaseModel):
    """Settings of iALS; `sweeps`, `frequency` and `deviation` are the paper's.

    It tunes the others per data set; here they are chosen on the validation parts of `baby` and `tiktok`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(128, ge=1, description="length of the factors; the paper has up to 2,048")
    sweeps: int = Field(16, ge=1, description="times that all users, then all items are solved for")
    unobserved: float = Field(3e-3, gt=0, description="alpha_0: weight of each pair's squared score")
    reg: float = Field(0.05, gt=0, description="lambda: of the squared factors")
    frequency: float = Field(1.0, ge=0, le=1, description="nu: power of a user's or item's weight in the loss")
    deviation: float = Field(
        0.1, gt=0, description="of the first scores' scale: factors start at N(0, deviation^2 / dim)"
    )


SPACE: Space = {
    "dim": (64, 128, 256, 512),
    "unobserved": (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3),
    "reg": (3e-3, 0.01, 0.03, 0.05, 0.1),
}


class IALS(nn.Module):
    """s(u, i) = <w_u, h_i>, the factors near a minimum of (section 2)

    sum over likes (s - 1)^2 + alpha_0 sum over all pairs s^2 + sum_u lambda_u |w_u|^2 + sum_i lambda_i |h_i|^2,
    lambda_u = lambda (|items of u| + alpha_0 n_items)^nu, and lambda_i so with users.

    It is solved when it is made, from factors that the seed gives; they are part of the saved weights. There is nothing
    to train by gradient.
    """

    users: Tensor
    items: Tensor

    def __init__(self, config: IALSConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        liked = train.matrix()
        sides = _Side(liked, config), _Side(liked.T.tocsr(), config)
        start = config.deviation / config.dim**0.5
        users, items = (torch.randn(n, config.dim) * start for n in (train.n_users, train.n_items))
        for _ in range(config.sweeps):
            users, items = sides[0].solve(items)
            items, users = sides[1].solve(users)
        self.register_buffer("users", users)
        self.register_buffer("items", items)

    def vectors(self) -> tuple[Tensor, Tensor]:
        return self.users, self.items

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())


_BLOCK_NUMBERS = 1 << 21  # numbers of one block's factors and of its matrices


class _Side:
    """The least squares of one side's factors, given the other's."""

    def __init__(self, liked: csr_array, config: IALSConfig) -> None:
        """`liked` is binary [n_rows, n_columns]; its rows are solved for."""
        self.config, self.n_columns = config, liked.shape[1]
        self.counts = np.diff(liked.indptr).astype(np.int64)  # [n_rows]
        self.starts, self.columns = liked.indptr[:-1].astype(np.int64), torch.from_numpy(liked.indices.astype(np.int64))
        weight = torch.from_numpy(self.counts + config.unobserved * liked.shape[1])
        self.reg = (config.reg * weight**config.frequency).float()  # [n_rows]

    def solve(self, others: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows' factors [n_rows, dim], and the others' [n_columns, dim] turned as these are.

        The others are first turned to the axes of their Gram matrix, which changes no score. Then the matrix of row r,
        X^T X + diag(g), X the factors of its columns and g = alpha_0 eigenvalues + lambda_r, is diagonal but for X. So
        a row with fewer columns than dimensions needs a system of the size of its columns only: w = D X^T (I + X D
        X^T)^-1 1, D = diag(1 / g), by Woodbury.
        """
        eigenvalues, axes = torch.linalg.eigh((others.T @ others).double())
        turned = others @ axes.float()
        common = self.config.unobserved * eigenvalues.clamp(min=0).float()  # [dim]
        padded = F.pad(turned, (0, 0, 0, 1))  # the last row, of zeros, fills up short lists
        found = torch.zeros(len(self.counts), others.shape[1])
        for rows in self._blocks():
            x = F.embedding(self._lists(rows), padded)  # [b, longest, dim]
            at = torch.from_numpy(rows)
            found[at] = _least_squares(x, common + self.reg[at, None])
        return found, turned

    def _blocks(self) -> Iterator[Ints]:
        """Rows of about the same number of columns, which is not 0, by number."""
        dim = self.config.dim
        order = np.argsort(self.counts, kind="stable")
        start, lengths = int((self.counts == 0).sum()), self.counts[order]
        while start < len(order):
            end = min(start + _BLOCK_NUMBERS // (dim * int(lengths[start])) + 1, len(order))
            longest = int(lengths[end - 1])  # of the most rows that could be taken
            size = longest * dim + min(longest, dim) ** 2
            end = min(end, start + max(1, _BLOCK_NUMBERS // size))
            yield order[start:end]
            start = end

    def _lists(self, rows: Ints) -> Tensor:
        """The columns of rows with any, int64 [b, longest]; short lists end with the number of columns."""
        counts = torch.from_numpy(self.counts[rows])
        place = torch.arange(int(counts.max()))
        entry = torch.from_numpy(self.starts[rows])[:, None] + place
        here = place < counts[:, None]
        return torch.where(here, self.columns[entry.clamp(max=len(self.columns) - 1)], self.n_columns)


def _least_squares(x: Tensor, diagonal: Tensor) -> Tensor:
    """(X^T X + diag(g))^-1 X^T 1 of each X [b, n, dim], g [b, dim]; the smaller of the two systems is solved."""
    n, dim = x.shape[1:]
    if n < dim:
        scaled = x / diagonal[:, None, :]  # X D
        ones = x.new_ones(len(x), n, 1)
        dual = torch.cholesky_solve(ones, torch.linalg.cholesky(torch.baddbmm(torch.eye(n), scaled, x.mT)))
        return (scaled.mT @ dual)[:, :, 0]
    gram = torch.baddbmm(torch.diag_embed(diagonal), x.mT, x)
    return torch.cholesky_solve(x.sum(dim=1)[:, :, None], torch.linalg.cholesky(gram))[:, :, 0]
