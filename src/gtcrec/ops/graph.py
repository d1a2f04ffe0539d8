"""The graph of users and items, and the product with a constant sparse matrix: all of it, some rows, or hop after hop.

Matrices are built with scipy and multiplied by torch; those of like items and of like users are in `similarity`.
"""

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.types import Interactions

__all__ = [
    "Adjacency",
    "PropagatedRows",
    "PrunedGraph",
    "SparseMatrix",
    "bipartite",
    "content_propagation",
    "csr",
    "csr_sides",
    "light_propagation",
    "light_propagation_rows",
    "product",
    "times",
]


class SparseMatrix(nn.Module):
    """A constant sparse matrix A [rows, columns] to multiply dense tensors with: `A(x)` and `A.transposed(x)`.

    Both A and its transpose are stored as int32 CSR, so that the backward pass is a CSR product too. The
    matrix is derived from the data and is not part of the saved weights.
    """

    a_rows: Tensor
    a_columns: Tensor
    a_values: Tensor
    at_rows: Tensor
    at_columns: Tensor

    def __init__(self, matrix: csr_array) -> None:
        super().__init__()
        self.shape: tuple[int, int] = matrix.shape
        for side, one in (("a", matrix.tocsr()), ("at", matrix.T.tocsr())):
            one.sort_indices()
            self.register_buffer(f"{side}_rows", torch.from_numpy(one.indptr.astype(np.int32)), persistent=False)
            self.register_buffer(f"{side}_columns", torch.from_numpy(one.indices.astype(np.int32)), persistent=False)
            self.register_buffer(f"{side}_values", torch.from_numpy(one.data.astype(np.float32)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return A x for x [columns, d]."""
        return product(x, *self.sides())

    def transposed(self, x: Tensor) -> Tensor:
        """Return A^T x for x [rows, d]."""
        a, at = self.sides()
        return product(x, at, a)

    def rows(self, some: Tensor, x: Tensor) -> Tensor:
        """Return (A x)[some] [b, d] for rows int64 [b] and x [columns, d], without the products of the other rows."""
        part = _some_rows(self.sides()[0], some)
        return product(x, part, _transposed(part))

    def entries(self, some: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many entries each of A's rows int64 [b] has, [b], and the places of them all in `a_columns`."""
        return _entries(self.a_rows, some)

    def sides(self) -> tuple[Tensor, Tensor]:
        """Return A and A^T as torch CSR tensors."""
        return self._csr("a"), self._csr("at")

    def _csr(self, side: str) -> Tensor:
        rows, columns, values = (getattr(self, f"{side}_{part}") for part in ("rows", "columns", "values"))
        return _csr_tensor(rows, columns, values, self.shape if side == "a" else (self.shape[1], self.shape[0]))


def csr(counts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return a torch CSR tensor from the number of entries of each row, and their columns and values row by row."""
    rows = F.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
    return _csr_tensor(rows, columns.int(), values, shape)


def csr_sides(counts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the matrix that `csr` returns, and its transpose."""
    rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    order = columns.argsort(stable=True)
    by_column = columns.bincount(minlength=shape[1])
    return csr(counts, columns, values, shape), csr(by_column, rows[order], values[order], (shape[1], shape[0]))


def _csr_tensor(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():  # torch calls its CSR layout a beta once per process
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(rows, columns, values, size=shape, check_invariants=False)


def product(x: Tensor, a: Tensor, at: Tensor) -> Tensor:
    """Return A x for constant torch CSR tensors A and A^T, with which the gradient of x is a CSR product too."""
    with torch.autocast(x.device.type, enabled=False):  # sums over many neighbors want float32
        found: Tensor = _Product.apply(x.float(), a, at)  # type: ignore[no-untyped-call]
        return found


class _Product(torch.autograd.Function):
    """a @ x with a constant; autograd's own backward would sort and transpose `a` at every step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, at: Tensor) -> Tensor:
        ctx.at = at
        return times(a, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return times(ctx.at, grad), None, None


def times(a: Tensor, x: Tensor) -> Tensor:
    """Return A x for a torch CSR tensor A [n, m] of int32 indices and x [m, d]; no gradient goes through it.

    On a CPU a row is an embedding bag: torch's kernel for those (FBGEMM) fetches rows ahead of their use.
    """
    x = x.contiguous()
    if x.device.type != "cpu":
        return a @ x
    ends, columns, values = a.crow_indices(), a.col_indices(), a.values()
    return F.embedding_bag(columns, x, ends, mode="sum", per_sample_weights=values, include_last_offset=True)


def bipartite(train: Interactions) -> csr_array:
    """Return the user-item block of the symmetric-normalised adjacency, float32 [n_users, n_items].

    R_ui / sqrt(deg(u) deg(i)), LightGCN (He et al. 2020), eq. 3. The whole adjacency is [[0, R], [R^T, 0]].
    """
    by_user, by_item = (_inverse_root(count) for count in (train.user_counts, train.item_counts))
    values = (by_user[train.users] * by_item[train.items]).astype(np.float32)
    return csr_array((values, train.items, train.indptr), shape=(train.n_users, train.n_items))


class Adjacency(Protocol):
    """The user-item block R [n_users, n_items] of an adjacency."""

    def sides(self) -> tuple[Tensor, Tensor]:
        """Return R and R^T as torch CSR tensors."""
        ...


@dataclass(frozen=True, eq=False)
class PrunedGraph:
    """The normalised user-item block of a part of the edges: torch CSR R [n_users, n_items] and its transpose."""

    r: Tensor
    rt: Tensor

    def sides(self) -> tuple[Tensor, Tensor]:
        return self.r, self.rt


def light_propagation(
    r: Adjacency, users: Tensor, items: Tensor, layers: int, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Average of x, A x, ..., A^layers x over the bipartite graph; users [n_users, d], items [n_items, d].

    LightGCN (He et al. 2020), eq. 4 with equal layer weights. With a `scale` their sum times it: 1 gives the sum.
    """
    scale = 1 / (layers + 1) if scale is None else scale
    with torch.autocast(items.device.type, enabled=False):  # sums over many neighbors want float32
        inputs = users.float(), items.float(), *r.sides(), layers, scale
        both: tuple[Tensor, Tensor] = _LightPropagation.apply(*inputs)  # type: ignore[no-untyped-call]
        return both


class _LightPropagation(torch.autograd.Function):
    """By Horner's rule, x + A (x + A (x + ...)); the operator is symmetric, so its backward pass is itself."""

    @staticmethod
    def forward(
        ctx: Any, users: Tensor, items: Tensor, r: Tensor, rt: Tensor, layers: int, scale: float
    ) -> tuple[Tensor, Tensor]:
        ctx.r, ctx.rt, ctx.layers, ctx.scale = r, rt, layers, scale
        if not layers:
            return scale * users, scale * items
        user, item = users, items
        for hop in range(1, layers + 1):
            last = scale if hop == layers else 1.0  # entries are fewer than what they make
            a, at = (r, rt) if last == 1 else (_scale_values(r, last), _scale_values(rt, last))
            user, item = times(a, item).add_(users, alpha=last), times(at, user).add_(items, alpha=last)
        return user, item

    @staticmethod
    def backward(ctx: Any, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        inputs = user.contiguous(), item.contiguous(), ctx.r, ctx.rt, ctx.layers, ctx.scale
        return (*_LightPropagation.forward(ctx, *inputs), None, None, None, None)


class PropagatedRows(NamedTuple):
    """Some users' and items' own embeddings and what propagation makes of them, [b, d] and [a, d] each."""

    ego_users: Tensor
    ego_items: Tensor
    users: Tensor
    items: Tensor


def light_propagation_rows(
    r: SparseMatrix,
    users: Tensor,
    items: Tensor,
    layers: int,
    some: tuple[Tensor, Tensor],
    near: SparseMatrix | None = None,
) -> PropagatedRows:
    """Return what `light_propagation` gives for some users int64 [b] and items int64 [a], computing no other last hop.

    To these items `near` [n_items, n_items] adds its product with all items. The same sums, so the same gradients but
    for rounding. There is at least one layer; with one, nothing goes over the whole graph.
    """
    with torch.autocast(items.device.type, enabled=False):
        inputs = users.float(), items.float(), r, near, layers, *some
        return PropagatedRows(*_LightPropagationRows.apply(*inputs))  # type: ignore[no-untyped-call]


class _LightPropagationRows(torch.autograd.Function):
    """The inner hops as in `_LightPropagation`; the last by some rows of A, and backwards by their transpose.

    All that the step says of a table comes in one gradient: a second one of its size would cost as much as all sums.
    """

    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, r: SparseMatrix, near: Any, layers: int, *some: Tensor) -> Any:
        ctx.inner, ctx.some, ctx.scale = (*r.sides(), layers - 1), some, 1 / (layers + 1)
        user, item = _hops(users, items, *ctx.inner)
        ctx.parts = tuple(map(_some_rows, r.sides(), some))  # the rows of A, users' and items'
        ego = [F.embedding(rows, table) for rows, table in zip(some, (users, items), strict=True)]
        over = [
            times(part, other).add_(own).mul_(ctx.scale)
            for part, other, own in zip(ctx.parts, (item, user), ego, strict=True)
        ]
        ctx.near = None if near is None else _some_rows(near.sides()[0], some[1])
        if ctx.near is not None:
            over[1] += times(ctx.near, items)
        return *ego, *over

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ego, over = grads[:2], [ctx.scale * grad for grad in grads[2:]]
        user, item = (
            times(_transposed(part), grad) for part, grad in zip(reversed(ctx.parts), reversed(over), strict=True)
        )
        user, item = _hops(user, item, *ctx.inner)
        for whole, rows, own, grad in zip((user, item), ctx.some, ego, over, strict=True):
            whole.index_add_(0, rows, own + grad)
        if ctx.near is not None:
            counts, values = ctx.near.crow_indices().diff(), ctx.near.values()[:, None]
            item.index_add_(0, ctx.near.col_indices(), values * grads[3].repeat_interleave(counts, dim=0))
        return user, item, None, None, None, *(None for _ in ctx.some)


def _hops(users: Tensor, items: Tensor, r: Tensor, rt: Tensor, hops: int) -> tuple[Tensor, Tensor]:
    """x + A (x + A (x + ...)) with so many products."""
    user, item = users, items
    for _ in range(hops):
        user, item = times(r, item).add_(users), times(rt, user).add_(items)
    return user, item


def _some_rows(a: Tensor, rows: Tensor) -> Tensor:
    """The rows int64 [b] of a CSR tensor, as one."""
    counts, entries = _entries(a.crow_indices(), rows)
    columns, values = (part.index_select(0, entries) for part in (a.col_indices(), a.values()))
    return csr(counts, columns, values, (len(rows), a.shape[1]))


def _entries(ends: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """How many entries the rows int64 [b] of a CSR matrix with these row ends have, and the places of them all."""
    start = ends.index_select(0, rows)
    counts = ends.index_select(0, rows + 1) - start
    first = (counts.cumsum(0) - counts - start).repeat_interleave(counts)
    return counts, torch.arange(len(first), device=rows.device) - first


def _transposed(a: Tensor) -> Tensor:
    """The transpose of a CSR tensor, as one. On a CPU by counting, which is faster than to sort."""
    shape = (a.shape[0], a.shape[1])
    if a.device.type != "cpu":
        return csr_sides(a.crow_indices().diff(), a.col_indices(), a.values(), shape)[1]
    parts = a.values().numpy(), a.col_indices().numpy(), a.crow_indices().numpy()
    other = csr_array(parts, shape=shape).T.tocsr()
    rows, columns, values = (torch.from_numpy(part) for part in (other.indptr, other.indices, other.data))
    return _csr_tensor(rows, columns, values, (shape[1], shape[0]))


def _scale_values(a: Tensor, by: float) -> Tensor:
    return _csr_tensor(a.crow_indices(), a.col_indices(), by * a.values(), (a.shape[0], a.shape[1]))


def content_propagation(r: SparseMatrix, items: Tensor, layers: int) -> tuple[Tensor, Tensor]:
    """Return `light_propagation` of items [n_items, d] and users of zeros, without the products that would be zero."""
    user_sum, item_sum, x = items.new_zeros(r.shape[0], items.shape[1]), items, items
    for hop in range(layers):
        if hop % 2 == 0:
            x = r(x)
            user_sum = user_sum + x
        else:
            x = r.transposed(x)
            item_sum = item_sum + x
    return user_sum / (layers + 1), item_sum / (layers + 1)


def _inverse_root(degree: NDArray[Any]) -> NDArray[Any]:
    return np.where(degree > 0, 1.0 / np.sqrt(np.maximum(degree, 1)), 0.0)
