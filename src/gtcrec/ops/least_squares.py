"""Alternating least squares over all user-item pairs, in closed form from side to side.

After "Collaborative Filtering for Implicit Feedback Datasets" (Hu et al. 2008), with the objective, the scaled
regularisation and the advice of "Revisiting the Performance of iALS on Item Recommendation Benchmarks" (Rendle et al.
2022, arXiv 2110.14037).
"""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from gtcrec.runtime.result_cache import ResultCache
from gtcrec.types import Floats, Interactions, Ints

__all__ = ["factorize"]


def factorize(
    train: Interactions,
    dim: int,
    unobserved_weight: float,
    reg: float,
    reg_exponent: float = 1.0,
    init_std: float = 0.1,
    num_sweeps: int = 16,
) -> tuple[Tensor, Tensor]:
    """Return user factors w [n_users, dim] and item factors h [n_items, dim] near a minimum of (section 2)

    sum over interactions (s - 1)^2 + alpha_0 sum over all pairs s^2 + sum_u lambda_u |w_u|^2 + sum_i lambda_i |h_i|^2,
    s = <w_u, h_i>, lambda_u = lambda (|items of u| + alpha_0 n_items)^nu, and lambda_i so with users; alpha_0 is
    `unobserved_weight`, lambda `reg`, nu `reg_exponent`.

    `num_sweeps` times all users, then all items are solved for. Users and items without interactions are 0. The factors
    start at N(0, init_std^2 / dim), drawn from the global random state. The last results are kept by all that they
    depend on: trials that differ in nothing else share them.
    """
    start = [torch.randn(n, dim) * (init_std / dim**0.5) for n in (train.n_users, train.n_items)]

    def solve() -> tuple[Floats, Floats]:
        matrix = train.matrix()
        weights = unobserved_weight, reg, reg_exponent
        sides = _Side(matrix, *weights), _Side(matrix.T.tocsr(), *weights)
        users, items = start
        for _ in range(num_sweeps):
            users, items = sides[0].solve(items)
            items, users = sides[1].solve(users)
        return users.numpy(), items.numpy()

    given = unobserved_weight, reg, reg_exponent, num_sweeps
    found = _FACTORS.get(solve, train.users, train.items, *(side.numpy() for side in start), *given)
    users, items = map(torch.from_numpy, found)
    return users, items


_FACTORS = ResultCache(max_bytes=1 << 27)  # 128 factors of 260,000 users and items
_BLOCK_NUMBERS = 1 << 21  # numbers of one block's factors and of its matrices


class _Side:
    """The least squares of one side's factors, given the other's."""

    def __init__(self, matrix: csr_array, unobserved_weight: float, reg: float, reg_exponent: float) -> None:
        """`matrix` is binary [n_rows, n_columns]; its rows are solved for."""
        self.unobserved_weight, self.n_columns = unobserved_weight, matrix.shape[1]
        self.counts = np.diff(matrix.indptr).astype(np.int64)  # [n_rows]
        self.starts = matrix.indptr[:-1].astype(np.int64)
        self.columns = torch.from_numpy(matrix.indices.astype(np.int64))
        weight = torch.from_numpy(self.counts + unobserved_weight * matrix.shape[1])
        self.reg = (reg * weight**reg_exponent).float()  # [n_rows]

    def solve(self, others: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows' factors [n_rows, dim], and the others' [n_columns, dim] turned as these are.

        The others are first turned to the axes of their Gram matrix, which changes no score. Then the matrix of row r,
        X^T X + diag(g), X the factors of its columns and g = alpha_0 eigenvalues + lambda_r, is diagonal but for X. So
        a row with fewer columns than dimensions needs a system of the size of its columns only: w = D X^T (I + X D
        X^T)^-1 1, D = diag(1 / g), by Woodbury.
        """
        eigenvalues, axes = torch.linalg.eigh((others.T @ others).double())
        turned = others @ axes.float()
        common = self.unobserved_weight * eigenvalues.clamp(min=0).float()  # [dim]
        padded = F.pad(turned, (0, 0, 0, 1))  # the last row, of zeros, fills up short lists
        solved = torch.zeros(len(self.counts), others.shape[1])
        for rows in self._row_blocks(others.shape[1]):
            x = F.embedding(self._padded_columns(rows), padded)  # [b, longest, dim]
            at = torch.from_numpy(rows)
            solved[at] = _solve_rows(x, common + self.reg[at, None])
        return solved, turned

    def _row_blocks(self, dim: int) -> Iterator[Ints]:
        """Rows of about the same number of columns, which is not 0, by number."""
        order = np.argsort(self.counts, kind="stable")
        start, lengths = int((self.counts == 0).sum()), self.counts[order]
        while start < len(order):
            end = min(start + _BLOCK_NUMBERS // (dim * int(lengths[start])) + 1, len(order))
            longest = int(lengths[end - 1])  # of the most rows that could be taken
            size = longest * dim + min(longest, dim) ** 2
            end = min(end, start + max(1, _BLOCK_NUMBERS // size))
            yield order[start:end]
            start = end

    def _padded_columns(self, rows: Ints) -> Tensor:
        """The columns of rows with any, int64 [b, longest]; short lists end with the number of columns."""
        counts = torch.from_numpy(self.counts[rows])
        place = torch.arange(int(counts.max()))
        entry = torch.from_numpy(self.starts[rows])[:, None] + place
        here = place < counts[:, None]
        return torch.where(here, self.columns[entry.clamp(max=len(self.columns) - 1)], self.n_columns)


def _solve_rows(x: Tensor, diagonal: Tensor) -> Tensor:
    """(X^T X + diag(g))^-1 X^T 1 of each X [b, n, dim], g [b, dim]; the smaller of the two systems is solved."""
    n, dim = x.shape[1:]
    if n < dim:
        scaled = x / diagonal[:, None, :]  # X D
        ones = x.new_ones(len(x), n, 1)
        dual = torch.cholesky_solve(ones, torch.linalg.cholesky(torch.baddbmm(torch.eye(n), scaled, x.mT)))
        return (scaled.mT @ dual)[:, :, 0]
    gram = torch.baddbmm(torch.diag_embed(diagonal), x.mT, x)
    return torch.cholesky_solve(x.sum(dim=1)[:, :, None], torch.linalg.cholesky(gram))[:, :, 0]
