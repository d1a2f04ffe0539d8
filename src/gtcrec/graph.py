"""Graphs over users and items: adjacency, content neighbours, co-liked users, and the sparse product.

Matrices are built with scipy in blocks and multiplied by torch. Nothing here forms a dense matrix of
items x items or users x users.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, vstack
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.types import Floats, Interactions, Ints, ItemFeatures, Masks

__all__ = [
    "Adjacency",
    "PrunableGraph",
    "PrunedGraph",
    "Search",
    "SparseMatrix",
    "bipartite",
    "co_liked_users",
    "content_neighbours",
    "content_propagation",
    "cosine_graph",
    "csr",
    "item_graph",
    "light_propagation",
    "nearest_rows",
    "product",
    "similar_items",
    "strongest",
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
        counts, entries = self.entries(some)
        columns, values = self.a_columns[entries], self.a_values[entries]
        row = torch.arange(len(some), device=some.device).repeat_interleave(counts)
        order = columns.argsort()
        each = torch.bincount(columns, minlength=self.shape[1])
        at = csr(each, row[order], values[order], (self.shape[1], len(some)))
        return product(x, csr(counts, columns, values, (len(some), self.shape[1])), at)

    def entries(self, some: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many entries each of A's rows int64 [b] has, [b], and the places of them all in `a_columns`."""
        start = self.a_rows[some]
        counts = self.a_rows[some + 1] - start
        first = (counts.cumsum(0) - counts - start).repeat_interleave(counts)
        return counts, torch.arange(len(first), device=some.device) - first

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


def _csr_tensor(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():  # torch calls its CSR layout a beta once per process
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(rows, columns, values, size=shape, check_invariants=False)


def product(x: Tensor, a: Tensor, at: Tensor) -> Tensor:
    """Return A x for constant torch CSR tensors A and A^T, with which the gradient of x is a CSR product too."""
    with torch.autocast(x.device.type, enabled=False):  # sums over many neighbours want float32
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


class PrunableGraph(nn.Module):
    """The user-item graph, whole (`full`) and in parts that are drawn anew; edges are in the order of the pairs.

    Degree-sensitive edge pruning (Zhou & Shen 2023, arXiv 2211.06924). No part of the saved weights.
    """

    order: Tensor

    def __init__(self, train: Interactions) -> None:
        super().__init__()
        self.full = SparseMatrix(bipartite(train))
        order = np.argsort(train.items, kind="stable")  # edge of each entry of the transpose
        self.register_buffer("order", torch.from_numpy(order.astype(np.int32)), persistent=False)

    def draw(self, share: float, rng: torch.Generator) -> Tensor:
        """Return which edges are kept, bool [edges]: round(share * edges) of them, drawn without replacement.

        The chance of each draw is proportional to 1 / sqrt(deg(u) deg(i)) among the edges that are left. The n
        smallest of Exp(1) / weight have this distribution (Efraimidis & Spirakis 2006), and need no sorting.
        """
        weights = self.full.a_values
        keys = torch.empty(len(weights), device=rng.device).exponential_(generator=rng).to(weights.device) / weights
        chosen = keys.topk(round(share * len(keys)), largest=False, sorted=False).indices
        return torch.zeros_like(keys, dtype=torch.bool).index_fill_(0, chosen, True)

    def part(self, kept: Tensor) -> PrunedGraph:
        """Return the graph of the edges at which `kept` (bool [edges]) is true, normalised by its own degrees."""
        full = self.full
        rows, columns = _kept(full.a_rows, full.a_columns, kept)
        rows_t, columns_t = _kept(full.at_rows, full.at_columns, kept.index_select(0, self.order))
        by_user, by_item = rows.diff(), rows_t.diff()  # degrees
        n_users, n_items = full.shape
        return PrunedGraph(
            _csr_tensor(rows, columns, _normalised(by_user, by_item, columns), (n_users, n_items)),
            _csr_tensor(rows_t, columns_t, _normalised(by_item, by_user, columns_t), (n_items, n_users)),
        )


def _kept(rows: Tensor, columns: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """CSR row ends and columns of the kept entries; their order stays."""
    before = F.pad(kept.cumsum(0, dtype=torch.int32), (1, 0))  # [entries + 1]
    return before.index_select(0, rows), columns[kept]


def _normalised(by_row: Tensor, by_column: Tensor, columns: Tensor) -> Tensor:
    """1 / sqrt(deg(row) deg(column)) of each entry, from the degrees."""
    return by_row.rsqrt().repeat_interleave(by_row) * by_column.rsqrt().index_select(0, columns)


def light_propagation(
    r: Adjacency, users: Tensor, items: Tensor, layers: int, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Average of x, A x, ..., A^layers x over the bipartite graph; users [n_users, d], items [n_items, d].

    LightGCN (He et al. 2020), eq. 4 with equal layer weights. With a `scale` their sum times it: 1 gives the sum.
    """
    scale = 1 / (layers + 1) if scale is None else scale
    with torch.autocast(items.device.type, enabled=False):  # sums over many neighbours want float32
        given = users.float(), items.float(), *r.sides(), layers, scale
        both: tuple[Tensor, Tensor] = _LightPropagation.apply(*given)  # type: ignore[no-untyped-call]
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
            a, at = (r, rt) if last == 1 else (_scaled(r, last), _scaled(rt, last))
            user, item = times(a, item).add_(users, alpha=last), times(at, user).add_(items, alpha=last)
        return user, item

    @staticmethod
    def backward(ctx: Any, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        given = user.contiguous(), item.contiguous(), ctx.r, ctx.rt, ctx.layers, ctx.scale
        return (*_LightPropagation.forward(ctx, *given), None, None, None, None)


def _scaled(a: Tensor, by: float) -> Tensor:
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


Search = Callable[[Floats, int], Ints]
"""Unit rows float32 [n, d], k -> each row's k nearest other rows by inner product, int64 [n, k]."""


def nearest_rows(unit: Floats, k: int, block: int = 1024) -> Ints:
    """Return each row's k nearest other rows by inner product, int64 [n, k]; exact, memory O(block * n)."""
    every = torch.from_numpy(unit)
    nearest = []
    for start in range(0, len(unit), block):
        product = every[start : start + block] @ every.T  # [block, n]
        own = torch.arange(len(product))
        product[own, own + start] = -torch.inf
        nearest.append(product.topk(k, dim=1).indices)
    return torch.cat(nearest).numpy()


def content_neighbours(x: Floats, present: Masks, k: int, search: Search = nearest_rows) -> csr_array:
    """Return the k nearest items by cosine, each with weight 1 / (their number), float32 [n_items, n_items].

    An item is not its own neighbour. Items without content have no neighbours and are nobody's.
    """
    have = np.flatnonzero(present)
    k = min(k, len(have) - 1)
    if k < 1:
        return _empty(len(x))
    unit = F.normalize(torch.from_numpy(x[have]), dim=1).numpy()  # [h, d]
    columns = have[search(unit, k)]  # [h, k]
    indptr = np.concatenate([[0], np.cumsum(present * k)])
    values = np.full(columns.size, 1.0 / k, dtype=np.float32)
    graph = csr_array((values, columns.ravel(), indptr), shape=(len(x), len(x)))
    graph.sort_indices()
    return graph


def item_graph(
    features: ItemFeatures, k: int, weights: Mapping[str, float] | None = None, search: Search = nearest_rows
) -> csr_array:
    """Return the mean of the modalities' neighbour graphs, rows summing to one, float32 [n_items, n_items].

    `weights` has a weight >= 0 for each modality; without it they are equal. A modality that an item lacks takes no
    part in that item's mean, and an item without content of any weight has an empty row.
    """
    given = dict.fromkeys(features.names, 1.0) if weights is None else weights
    total = _empty(features.n_items)
    for m in features.names:
        if given[m] > 0:
            total = total + given[m] * content_neighbours(features.values[m], features.present[m], k, search)
    parts = np.maximum(total.sum(axis=1), 1e-12)
    scale = csr_array((1.0 / parts, (np.arange(features.n_items),) * 2))
    mean: csr_array = (scale @ total).tocsr().astype(np.float32)
    return mean


def cosine_graph(x: Floats, present: Masks, k: int, search: Search = nearest_rows, block: int = 256) -> csr_array:
    """Return D^-1/2 S D^-1/2, float32 [n_items, n_items]: S_ij the cosine of i's k nearest j, D the row sums of S.

    An item is the nearest of its own k. Cosines below 0 are no edges, so that D has a root. Absent items have no edge.
    """
    have = np.flatnonzero(present)
    unit = F.normalize(torch.from_numpy(x[have]), dim=1).numpy()  # [h, d]
    others = max(min(k, len(have)) - 1, 0)
    near = search(unit, others) if others else np.zeros((len(have), 0), dtype=np.int64)
    blocks = [slice(start, start + block) for start in range(0, len(have), block)]
    cosines = [np.einsum("hd,hkd->hk", unit[s], unit[near[s]]) for s in blocks]
    values = np.concatenate([np.zeros((0, others), dtype=np.float32), *cosines])
    values = np.concatenate([np.ones((len(have), 1), dtype=np.float32), values.clip(min=0)], axis=1)  # [h, k]
    columns = np.concatenate([np.arange(len(have))[:, None], near], axis=1)
    root = 1 / np.sqrt(values.sum(axis=1))  # [h]
    values = (root[:, None] * values * root[columns]).astype(np.float32)
    rows = np.repeat(have, columns.shape[1])
    view = csr_array((values.ravel(), (rows, have[columns].ravel())), shape=(len(x), len(x)))
    view.eliminate_zeros()
    return view


def co_liked_users(train: Interactions, top: int, block: int = 4096) -> csr_array:
    """Return each user's `top` users by number of co-liked items, softmax weights, float32 [n_users, n_users].

    weight(u, v) = exp(c_uv) / sum over the kept v, c_uv = |liked(u) & liked(v)|. One sparse product, in blocks
    of users; ties go to the lower user index.
    """
    blocks = []
    for start, counts in _co_counts(train.matrix(), block):
        rows, columns, values = strongest(counts, top, own=start)
        best = np.zeros(counts.shape[0])
        np.maximum.at(best, rows, values)
        weights = np.exp(values - best[rows])  # the largest count becomes 0, so that exp stays small
        weights /= np.bincount(rows, weights, minlength=counts.shape[0])[rows]
        blocks.append(csr_array((weights.astype(np.float32), (rows, columns)), shape=counts.shape))
    return vstack(blocks, format="csr")


def similar_items(train: Interactions, k: int, shrink: float, activity: float, block: int = 2048) -> csr_array:
    """Return each item's k nearest by c_ij / (|i| |j| + shrink), float32 [n_items, n_items].

    c_ij sums over common training users u the weight deg(u)^-activity, |i| is the root of the item's count; ties go to
    the lower item.
    """
    norms = np.sqrt(train.item_counts)
    blocks = []
    by_item = train.matrix()
    by_item.data = np.maximum(train.user_counts, 1)[train.users] ** (-activity / 2.0)
    for start, counts in _co_counts(by_item.T.tocsr(), block):
        counts.data = counts.data / (norms[counts.row + start] * norms[counts.col] + shrink)
        rows, columns, values = strongest(counts, k, own=start)
        blocks.append(csr_array((values.astype(np.float32), (rows, columns)), shape=counts.shape))
    similar: csr_array = vstack(blocks, format="csr")
    similar.sort_indices()
    return similar


def strongest(block: coo_array, k: int, own: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return (rows, columns, values) of the k largest entries of each row, without the diagonal that starts at `own`.

    Ordered by row, then by falling value, then by column.
    """
    keep = block.row + own != block.col
    rows, columns, values = block.row[keep], block.col[keep], block.data[keep]
    order = np.lexsort((columns, -values, rows))
    rows = rows[order]
    first = np.searchsorted(rows, np.arange(block.shape[0]))
    kept = np.arange(len(rows)) - first[rows] < k
    return rows[kept], columns[order][kept], values[order][kept]


def _co_counts(r: csr_array, block: int) -> Iterator[tuple[int, coo_array]]:
    """Blocks of rows of r r^T with the number of their first row."""
    rt = r.T.tocsr()
    for start in range(0, r.shape[0], block):
        yield start, (r[start : start + block] @ rt).tocoo()


def _empty(n: int) -> csr_array:
    return csr_array(
        (np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int32), np.zeros(n + 1, dtype=np.int32)), (n, n)
    )


def _inverse_root(degree: NDArray[Any]) -> NDArray[Any]:
    return np.where(degree > 0, 1.0 / np.sqrt(np.maximum(degree, 1)), 0.0)
