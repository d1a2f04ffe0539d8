"""Nearest neighbors of items and of users, as sparse matrices: by content, by common users, by common items.

Built in blocks; nothing here forms a dense matrix of items x items or users x users.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, diags_array, vstack
from torch import Tensor

from gtcrec.ops.feature_transforms import unit_rows
from gtcrec.runtime.result_cache import ResultCache
from gtcrec.types import Floats, Interactions, Ints, ItemFeatures, Masks

__all__ = [
    "Search",
    "co_interaction_users",
    "content_neighbors",
    "cosine_graph",
    "empty_csr",
    "find_search",
    "item_graph",
    "largest_of_rows",
    "mean_rows",
    "nearest_neighbors",
    "nearest_rows",
    "similar_items",
    "strongest",
]


_NEAREST = ResultCache(max_bytes=1 << 27)  # 10 neighbors of 1.6 million rows

Search = Callable[[Floats, int], Ints]
"""Unit rows float32 [n, d], k -> each row's k nearest other rows by inner product, int64 [n, k]."""


def nearest_rows(unit: Floats, k: int, block: int = 1024) -> Ints:
    """Return each row's k nearest other rows by inner product, int64 [n, k]; see `nearest_neighbors`.

    The last results are kept, since the content of a data set stays the same from trial to trial and seed to seed.
    """

    def search() -> tuple[Ints]:
        rows = torch.from_numpy(unit)
        return (nearest_neighbors(rows, rows, k, skip_self=True, block=block)[1].numpy(),)

    return _NEAREST.get(search, unit, k, block)[0]


def find_search(name: Literal["exact", "approximate"]) -> Search:
    """Return the search of that name. Raises `ConfigError` for the approximate one without faiss."""
    if name == "exact":
        return nearest_rows
    from gtcrec.ops.ann import approximate_neighbors  # needs an extra

    return approximate_neighbors


def nearest_neighbors(
    queries: Tensor, rows: Tensor, k: int, skip_self: bool = False, block: int = 1024
) -> tuple[Tensor, Tensor]:
    """Return the k largest inner products of each query with the rows, and which rows these are, [q, k] each.

    `queries` [q, d], `rows` [n, d]; best first, exact, memory O(block * n). With `skip_self` row i is not a neighbor of
    query i.
    """
    values, places = [], []
    for start in range(0, len(queries), block):
        products = queries[start : start + block] @ rows.T  # [block, n]
        if skip_self:
            products.diagonal(start).fill_(-torch.inf)
        best = products.topk(k, dim=1)
        values.append(best.values)
        places.append(best.indices)
    return torch.cat(values), torch.cat(places)


def content_neighbors(
    x: Floats, present: Masks, k: int, search: Search = nearest_rows, include_self: bool = False
) -> csr_array:
    """Return the k nearest items by cosine, each with weight 1 / (their number), float32 [n_items, n_items].

    With `include_self` an item is the first of its own k, else none of them. Items without content have no neighbors
    and are nobody's.
    """
    have = np.flatnonzero(present)
    k = min(k, len(have) - (not include_self))
    if k < 1:
        return empty_csr(len(x), len(x))
    unit = unit_rows(torch.from_numpy(x[have])).numpy()  # [h, d]
    columns = have[_nearest_with_self(unit, k, search) if include_self else search(unit, k)]  # [h, k]
    indptr = np.concatenate([[0], np.cumsum(present * k)])
    values = np.full(columns.size, 1.0 / k, dtype=np.float32)
    graph = csr_array((values, columns.ravel(), indptr), shape=(len(x), len(x)))
    graph.sort_indices()
    return graph


def item_graph(
    features: ItemFeatures,
    k: int,
    weights: Mapping[str, float] | None = None,
    search: Search = nearest_rows,
    include_self: bool = False,
) -> csr_array:
    """Return the mean of the modalities' neighbor graphs, rows summing to one, float32 [n_items, n_items].

    `weights` has a weight >= 0 for each modality; without it they are equal. A modality that an item lacks takes no
    part in that item's mean, and an item without content of any weight has an empty row. `include_self` is as for
    `content_neighbors`.
    """
    weights = dict.fromkeys(features.names, 1.0) if weights is None else weights
    total = empty_csr(features.n_items, features.n_items)
    for m in features.names:
        if weights[m] > 0:
            near = content_neighbors(features.values[m], features.present[m], k, search, include_self)
            total = total + weights[m] * near
    return mean_rows(total)


def _nearest_with_self(unit: Floats, k: int, search: Search) -> Ints:
    """Each row's own number, then its k - 1 nearest others, [n, k]."""
    own = np.arange(len(unit))[:, None]
    return np.concatenate([own, search(unit, k - 1)], axis=1) if k > 1 else own


def empty_csr(rows: int, columns: int) -> csr_array:
    """Return a matrix without entries, float32."""
    return csr_array((rows, columns), dtype=np.float32)  # type: ignore[return-value]


def mean_rows(total: csr_array) -> csr_array:
    """Return a matrix with each row divided by its sum, float32; empty rows stay empty."""
    mean: csr_array = (diags_array(1.0 / np.maximum(total.sum(axis=1), 1e-12)) @ total).tocsr().astype(np.float32)
    return mean


def cosine_graph(x: Floats, present: Masks, k: int, search: Search = nearest_rows, block: int = 256) -> csr_array:
    """Return D^-1/2 S D^-1/2, float32 [n_items, n_items]: S_ij the cosine of i's k nearest j, D the row sums of S.

    An item is the nearest of its own k. Cosines below 0 are no edges, so that D has a root. Absent items have no edge.
    """
    have = np.flatnonzero(present)
    unit = unit_rows(torch.from_numpy(x[have])).numpy()  # [h, d]
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


def co_interaction_users(train: Interactions, top: int, block: int = 4096) -> csr_array:
    """Return each user's `top` users by number of common items, softmax weights, float32 [n_users, n_users].

    weight(u, v) = exp(c_uv) / sum over the kept v, c_uv = |items(u) & items(v)|. One sparse product, in blocks
    of users; ties go to the lower user index.
    """
    blocks = []
    for start, counts in _co_counts(train.matrix(), block):
        rows, columns, values = strongest(counts, top, first_row=start)
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
        rows, columns, values = strongest(counts, k, first_row=start)
        blocks.append(csr_array((values.astype(np.float32), (rows, columns)), shape=counts.shape))
    similar: csr_array = vstack(blocks, format="csr")
    similar.sort_indices()
    return similar


def strongest(block: coo_array, k: int, first_row: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return (rows, columns, values) of the k largest entries of each row, without the diagonal.

    `block` holds the rows from `first_row` on. Ordered by row, then by falling value, then by column.
    """
    keep = block.row + first_row != block.col
    rows, columns, values = block.row[keep], block.col[keep], block.data[keep]
    kept = largest_of_rows(rows, values, k, columns)
    return rows[kept], columns[kept], values[kept]


def largest_of_rows(
    rows: NDArray[Any], values: NDArray[Any], k: int, ties: NDArray[Any] | None = None
) -> NDArray[np.int64]:
    """Return the places of each row's k largest entries, [.] each, by row, then by falling value.

    Of equal values those with the lower number in `ties` come first, without `ties` those that stand first.
    """
    order = np.lexsort((-values, rows) if ties is None else (ties, -values, rows))
    ordered = rows[order]
    first = np.searchsorted(ordered, ordered)  # where each entry's row begins
    kept: NDArray[np.int64] = order[np.arange(len(order)) - first < k]
    return kept


def _co_counts(r: csr_array, block: int) -> Iterator[tuple[int, coo_array]]:
    """Blocks of rows of r r^T with the number of their first row."""
    rt = r.T.tocsr()
    for start in range(0, r.shape[0], block):
        yield start, (r[start : start + block] @ rt).tocoo()
