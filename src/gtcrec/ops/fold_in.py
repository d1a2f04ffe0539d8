"""Rows of the graphs for items and users whom the training did not have: what lets a trained model take them in."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array
from torch import Tensor
from torch.nn import functional as F

from gtcrec.errors import DataError
from gtcrec.ops.graph import Adjacency, csr, light_propagation, times
from gtcrec.types import Floats, Ints, ItemFeatures

__all__ = ["folded_user", "history_matrix", "new_item_rows", "new_user_rows", "torch_csr"]


def history_matrix(lists: Sequence[Ints], n_items: int) -> csr_array:
    """Return lists of liked items, int64 [.] each, as a binary matrix, float32 CSR [lists, n_items].

    An item that a list names twice counts once. Raises `DataError` for an item out of range.

    >>> liked_matrix([np.array([2, 0, 2])], n_items=3).toarray().tolist()
    [[1.0, 0.0, 1.0]]
    """
    distinct = [np.unique(np.asarray(one, dtype=np.int64)) for one in lists]
    for number, items in enumerate(distinct):
        for wrong in items[(items < 0) | (items >= n_items)][:1]:
            raise DataError(f"liked items must lie in [0, {n_items}), found {wrong} in list {number}")
    ends = np.cumsum([0, *(len(items) for items in distinct)])
    items = np.concatenate([*distinct, np.zeros(0, dtype=np.int64)])
    return csr_array((np.ones(len(items), dtype=np.float32), items, ends), shape=(len(distinct), n_items))


def new_user_rows(liked: csr_array, item_counts: Ints) -> csr_array:
    """Return rows of `graph.bipartite` for users who like the items of a binary matrix [b, n_items].

    1 / sqrt(deg(u) deg(i)): deg(i) stays what it was in training, deg(u) counts the liked items that have a training
    pair; the others have no weight.
    """
    known = liked @ diags_array((item_counts > 0).astype(np.float32))
    known.eliminate_zeros()
    by_user, by_item = (1 / np.sqrt(np.maximum(degree, 1)) for degree in (np.diff(known.indptr), item_counts))
    rows: csr_array = (diags_array(by_user) @ known @ diags_array(by_item)).tocsr().astype(np.float32)
    return rows


def folded_user(rows: csr_array, r: Adjacency, users: Tensor, items: Tensor, layers: int) -> Tensor:
    """Return LightGCN's vectors of new users, [b, d], by their rows of the graph: what they have of their items.

    sum_{l=1..L} R_new x^(l-1) / (L + 1), x^(l) the items after l hops over the training graph; a new user's own
    embedding is 0, and the graph stays as it is.
    """
    if not layers:
        return items.new_zeros(rows.shape[0], items.shape[1])
    mean = light_propagation(r, users, items, layers - 1)[1]  # of x^(0) to x^(L-1)
    return times(torch_csr(rows).to(items.device), mean) * (layers / (layers + 1))


def new_item_rows(features: ItemFeatures, known: ItemFeatures, k: int, block: int = 1024) -> csr_array:
    """Return rows of `similarity.item_graph` for other items: their k nearest known items, float32 [n, known items].

    `features` has the modalities of `known`. As there, a modality that an item lacks takes no part in its mean.
    """
    shape = features.n_items, known.n_items
    total = csr_array(shape, dtype=np.float32)
    for m in known.names:
        own, have = np.flatnonzero(features.present[m]), np.flatnonzero(known.present[m])
        near = min(k, len(have))
        if not near or not len(own):
            continue
        unit, theirs = _unit(features.values[m][own]), _unit(known.values[m][have])
        found = torch.cat([(rows @ theirs.T).topk(near, dim=1).indices for rows in torch.split(unit, block)]).numpy()
        places = np.repeat(own, near), have[found.ravel()]
        total = total + csr_array((np.full(found.size, 1.0 / near, dtype=np.float32), places), shape=shape)
    rows: csr_array = (diags_array(1.0 / np.maximum(total.sum(axis=1), 1e-12)) @ total).tocsr().astype(np.float32)
    return rows


def _unit(x: Floats) -> Tensor:
    return F.normalize(torch.from_numpy(np.asarray(x)), dim=1)


def torch_csr(matrix: csr_array) -> Tensor:
    """Return a scipy matrix as a torch CSR tensor."""
    counts = torch.from_numpy(np.diff(matrix.indptr).astype(np.int32))
    columns, values = (torch.from_numpy(side.copy()) for side in (matrix.indices, matrix.data))
    return csr(counts, columns, values, matrix.shape)
