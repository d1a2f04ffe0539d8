"""Rows of the graphs for new items and new users, by which a trained model scores them."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array
from torch import Tensor

from gtcrec.errors import DataError
from gtcrec.ops.feature_transforms import unit_rows
from gtcrec.ops.graph import Adjacency, csr, light_propagation, times
from gtcrec.ops.neighbors import empty_csr, mean_rows, nearest_neighbors
from gtcrec.types import Floats, Ints, ItemFeatures

__all__ = ["fold_in_users", "history_matrix", "new_item_rows", "new_user_rows", "torch_csr"]


def history_matrix(histories: Sequence[Ints], n_items: int) -> csr_array:
    """Return users' histories, items int64 [.] each, as a binary matrix, float32 CSR [histories, n_items].

    An item that a history names twice counts once. Raises `DataError` for an item out of range.

    >>> history_matrix([np.array([2, 0, 2])], n_items=3).toarray().tolist()
    [[1.0, 0.0, 1.0]]
    """
    distinct = [np.unique(np.asarray(one, dtype=np.int64)) for one in histories]
    for number, items in enumerate(distinct):
        for wrong in items[(items < 0) | (items >= n_items)][:1]:
            raise DataError(f"history items must lie in [0, {n_items}), found {wrong} in history {number}")
    ends = np.cumsum([0, *(len(items) for items in distinct)])
    items = np.concatenate([*distinct, np.zeros(0, dtype=np.int64)])
    return csr_array((np.ones(len(items), dtype=np.float32), items, ends), shape=(len(distinct), n_items))


def new_user_rows(history: csr_array, item_counts: Ints) -> csr_array:
    """Return rows of `graph.bipartite` for new users by their history, a binary matrix [b, n_items].

    1 / sqrt(deg(u) deg(i)): deg(i) is that of training, deg(u) counts the warm items of the history; cold items have no
    weight.
    """
    warm = history @ diags_array((item_counts > 0).astype(np.float32))
    warm.eliminate_zeros()
    by_user, by_item = (1 / np.sqrt(np.maximum(degree, 1)) for degree in (np.diff(warm.indptr), item_counts))
    rows: csr_array = (diags_array(by_user) @ warm @ diags_array(by_item)).tocsr().astype(np.float32)
    return rows


def fold_in_users(rows: csr_array, r: Adjacency, users: Tensor, items: Tensor, layers: int) -> Tensor:
    """Return LightGCN's vectors of new users, [b, d], by their rows of the graph.

    sum_{l=1..L} R_new x^(l-1) / (L + 1), x^(l) the items after l hops over the training graph; a new user's own
    embedding is 0, and the graph stays as it is.
    """
    if not layers:
        return items.new_zeros(rows.shape[0], items.shape[1])
    mean = light_propagation(r, users, items, layers - 1)[1]  # of x^(0) to x^(L-1)
    return times(torch_csr(rows).to(items.device), mean) * (layers / (layers + 1))


def new_item_rows(features: ItemFeatures, known: ItemFeatures, k: int, block: int = 1024) -> csr_array:
    """Return rows of `neighbors.item_graph` for new items: their k nearest known items, float32 [n, known items].

    `features` has the modalities of `known`. As there, a modality that an item lacks takes no part in its mean.
    """
    shape = features.n_items, known.n_items
    total = empty_csr(*shape)
    for m in known.names:
        new, old = np.flatnonzero(features.present[m]), np.flatnonzero(known.present[m])
        count = min(k, len(old))
        if not count or not len(new):
            continue
        queries, rows = _unit_rows(features.values[m][new]), _unit_rows(known.values[m][old])
        neighbors = nearest_neighbors(queries, rows, count, block=block)[1].numpy()
        places = np.repeat(new, count), old[neighbors.ravel()]
        total = total + csr_array((np.full(neighbors.size, 1.0 / count, dtype=np.float32), places), shape=shape)
    return mean_rows(total)


def _unit_rows(x: Floats) -> Tensor:
    return unit_rows(torch.from_numpy(np.asarray(x)))


def torch_csr(matrix: csr_array) -> Tensor:
    """Return a scipy matrix as a torch CSR tensor."""
    counts = torch.from_numpy(np.diff(matrix.indptr).astype(np.int32))
    columns, values = (torch.from_numpy(side.copy()) for side in (matrix.indices, matrix.data))
    return csr(counts, columns, values, matrix.shape)
