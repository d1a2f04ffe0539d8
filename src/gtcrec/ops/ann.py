"""Approximate nearest vectors by inner product, through faiss: for catalogues that are too large to score whole.

For models whose score is one inner product (`vectors()`). Exact ranking, `gtcrec.ops.topk`, is the default everywhere;
what an index misses is measured by `recall_against_exact`. Needs the extra `index`.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from gtcrec.errors import ConfigError, DataError
from gtcrec.ops.topk import seen_places
from gtcrec.runtime.memory import require_memory
from gtcrec.types import Floats, Interactions, Ints, TopK

__all__ = ["Index", "IndexConfig", "approximate_neighbors", "build", "estimate_index", "recall_against_exact"]

_SAMPLED, _GROWN = 256, 1.6  # rows a cell that faiss draws for k-means; how much longer its lists are than full
_BLOCK = 4096  # queries at once: their lists stay small, and faiss has work for every thread


class IndexConfig(BaseModel):
    """Settings of an index, chosen by recall against time on the vectors of benchmarks/index.py and on trained ones.

    BPR's and LightGCN's on `clothing` have a recall@20 of 0.98 and 1.00 with cells, of 0.98 and 0.98 with a graph.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["ivf", "hnsw"] = Field("ivf", description="cells of k-means, or a graph of near items")
    cells: int = Field(0, ge=0, description="ivf: cells; 0 = 4 sqrt(items), the fewest that faiss advises")
    probes: int = Field(128, ge=1, description="ivf: cells nearest to the query that are searched")
    links: int = Field(32, ge=2, description="hnsw: edges an item (M)")
    build_width: int = Field(40, ge=1, description="hnsw: candidates held while building (efConstruction), faiss' own")
    search_width: int = Field(128, ge=1, description="hnsw: candidates held while searching (efSearch)")
    seed: int = Field(0, ge=0, description="of k-means, or of the levels of the graph")


_DEFAULT = IndexConfig()
# Each row is near its own cell's centre, so fewer cells will do: recall@10 is 0.97 to 1.00 on the content of tiktok and
# sports (0.95 where many rows are equal), against 0.99 to 1.00 with twice as many.
_NEIGHBORS = IndexConfig(probes=32)


@dataclass(frozen=True, eq=False)
class Index:
    """Item vectors, ready to be searched; made by `build`.

    `dataclasses.replace` with a config of other `probes` or `search_width` gives an index that searches as they say.
    """

    config: IndexConfig
    n_items: int
    dim: int
    _faiss: Any

    def search(self, vectors: Tensor, users: Ints, k: int, exclude: Sequence[Interactions] = ()) -> TopK:
        """Return about the best k items of each user, without the pairs in `exclude`.

        `vectors` float [n_users, dim] are those of all users, `users` int64 [b] says which to search for. A user with
        s excluded items asks for the k + s best. Places that stay empty because the index reaches too few items hold
        item -1, score -inf. Ties by ascending item among what was reached. Raises `ConfigError` for k < 1, `DataError`
        for vectors of another length or with NaN, and for users who are unknown.
        """
        if k < 1:
            raise ConfigError(f"k must be at least 1, found {k}")
        if vectors.dim() != 2 or vectors.shape[1] != self.dim:
            raise DataError(f"expected user vectors [n_users, {self.dim}], found {list(vectors.shape)}")
        for user in users[(users < 0) | (users >= len(vectors))][:1]:
            raise DataError(f"users must lie in [0, {len(vectors)}), found {user}")
        for pairs in exclude:
            if (pairs.n_users, pairs.n_items) != (len(vectors), self.n_items):
                raise DataError(
                    f"excluded pairs must be over {len(vectors)} users and {self.n_items} items, "
                    f"found {pairs.n_users} and {pairs.n_items}"
                )
        queries = _finite_rows(vectors[torch.tensor(users, dtype=torch.int64).to(vectors.device)], "user")
        if self.config.kind == "ivf":
            queries = np.pad(queries, ((0, 0), (0, 1)))  # see _equal_lengths
        seen = sum((pairs.user_counts[users] for pairs in exclude), np.zeros(len(users), dtype=np.int64))
        order = np.argsort(seen, kind="stable")  # those who ask for about as many together
        items = np.full((len(users), k), -1, dtype=np.int64)
        scores = np.full((len(users), k), -np.inf, dtype=np.float32)
        width = self._width(_faiss())
        for rows in (order[start : start + _BLOCK] for start in range(0, len(order), _BLOCK)):
            asked = min(self.n_items, k + int(seen[rows].max()))
            values, found = self._faiss.search(queries[rows], asked, params=width)
            values[_excluded_mask(found, users[rows], exclude)] = -np.inf
            values, found = _sort_candidates(values, found, k)
            items[rows, : found.shape[1]] = np.where(values > -np.inf, found, -1)
            scores[rows, : found.shape[1]] = values
        return TopK(users, items, scores)

    def _width(self, faiss: Any) -> Any:
        if self.config.kind == "ivf":
            return faiss.SearchParametersIVF(nprobe=self.config.probes)
        return faiss.SearchParametersHNSW(efSearch=self.config.search_width)


def build(items: Tensor, config: IndexConfig = _DEFAULT) -> Index:
    """Return an index of item vectors, float [n_items, d]; as many threads as torch.

    The same vectors and settings give the same index; a graph that several threads build may differ a little from time
    to time. Raises `ConfigError` without faiss or memory enough, `DataError` for no vectors, or NaN.
    """
    _faiss()
    if items.dim() != 2 or not items.numel():
        raise DataError(f"expected item vectors [n_items, d], found {list(items.shape)}")
    n_items, dim = items.shape
    with _index_memory(n_items, dim, config):
        return Index(config, n_items, dim, _make_index(_finite_rows(items, "item"), config))


def _make_index(rows: Floats, config: IndexConfig) -> Any:
    """The index of faiss that a config says."""
    if config.kind == "ivf":
        return _kmeans_cells(_equal_lengths(rows), config)
    faiss, dim = _faiss(), rows.shape[1]
    graph = faiss.IndexHNSWFlat(dim, config.links, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction, graph.hnsw.rng = config.build_width, faiss.RandomGenerator(config.seed)
    graph.add(rows)
    return graph


def approximate_neighbors(x: Floats, k: int, config: IndexConfig = _NEIGHBORS) -> Ints:
    """Return about the k nearest other rows of each row by inner product, best first, int64 [n, k].

    `x` float32 [n, d], unit rows. Searches cells of k-means, whatever the config's kind; the few rows whose cells hold
    too little search all cells. Raises `ConfigError` without faiss or memory enough and for a k that is not in [1, n),
    `DataError` for NaN.
    """
    if not 1 <= k < len(x):
        raise ConfigError(f"k must lie in [1, {len(x)}), the number of rows, found {k}")
    rows, faiss = _finite_rows(x, "item"), _faiss()
    with _index_memory(len(rows), rows.shape[1], config):
        index = _kmeans_cells(rows, config)
    few, all_cells = (faiss.SearchParametersIVF(nprobe=n) for n in (config.probes, index.nlist))
    nearest = np.empty((len(x), k), dtype=np.int64)
    for start in range(0, len(x), _BLOCK):
        queries = rows[start : start + _BLOCK]
        _, found = index.search(queries, k + 1, params=few)  # the row itself is among its nearest
        short = np.flatnonzero(found[:, -1] < 0)
        if len(short):
            _, found[short] = index.search(queries[short], k + 1, params=all_cells)
        is_self = found == start + np.arange(len(queries))[:, None]
        is_self[~is_self.any(axis=1), -1] = True  # where k + 1 equal rows came first
        nearest[start : start + _BLOCK] = found[~is_self].reshape(-1, k)
    return nearest


def estimate_index(n_items: int, dim: int, config: IndexConfig = _DEFAULT) -> int:
    """Return about how many bytes an index takes while it is built, beyond the vectors that it is built of.

    >>> estimate_index(1_000_000, 64) // 2**20
    652
    """
    row = 4 * dim
    if config.kind == "hnsw":
        return n_items * (2 * row + 4 * 2 * config.links + 24)  # faiss grows its arrays, and marks what it has visited
    cells = min(n_items, config.cells or math.ceil(4 * math.sqrt(n_items)))
    sample = _SAMPLED * cells if n_items > _SAMPLED * cells else 0
    lists = int(_GROWN * n_items * (row + 8))
    return n_items * (row + 4) + lists + (2 * cells + sample) * row


def recall_against_exact(found: TopK, exact: TopK) -> float:
    """Return the mean share of the users' exact lists that `found` holds; users with an empty exact list do not count.

    Raises `DataError` when the two are not of the same users, or all exact lists are empty.
    """
    if not np.array_equal(found.users, exact.users):
        raise DataError(f"the lists are of different users: {len(found.users)} and {len(exact.users)}")
    filled = exact.items >= 0  # [b, k]
    if not filled.any():
        raise DataError(f"all {len(exact.users)} exact lists are empty")
    held = np.stack([np.isin(a, b) for a, b in zip(exact.items, found.items, strict=True)]) & filled
    shares = held.sum(axis=1)[filled.any(axis=1)] / filled.sum(axis=1)[filled.any(axis=1)]
    return float(shares.mean())


def _index_memory(n_items: int, dim: int, config: IndexConfig) -> AbstractContextManager[None]:
    """A context that raises `ConfigError` unless an index fits into the free memory."""
    what = f"an index of {n_items:,} vectors of {dim} numbers"
    return require_memory(what, estimate_index(n_items, dim, config), "expected fewer items or shorter vectors")


def _faiss() -> Any:
    """faiss, with as many threads as torch has now."""
    try:
        import faiss
    except ImportError as error:
        raise ConfigError('faiss is not installed; pip install "gtcrec[index]"') from error
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def _finite_rows(x: Tensor | Floats, word: str) -> Floats:
    """The vectors as contiguous float32 rows on the CPU."""
    rows = np.ascontiguousarray(x.detach().float().cpu() if isinstance(x, Tensor) else x, dtype=np.float32)
    for row in np.flatnonzero(~np.isfinite(rows).all(axis=1))[:1]:
        raise DataError(f"{word} vectors must be finite, found NaN or infinity in row {row}")
    return rows


def _equal_lengths(items: Floats) -> Floats:
    """Give all vectors one length by one more coordinate, in which queries are 0: inner products stay as they are.

    Bachrach et al. 2014. Without it, few cells hold the long vectors of popular items, and the cell nearest to a query
    is not where its best items lie.
    """
    squares = np.einsum("nd,nd->n", items, items)
    return np.hstack([items, np.sqrt(np.maximum(squares.max() - squares, 0))[:, None]], dtype=np.float32)


def _kmeans_cells(rows: Floats, config: IndexConfig) -> Any:
    """The rows in cells of k-means, by inner product."""
    faiss = _faiss()
    n, dim = rows.shape
    centres = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFFlat(
        centres, dim, min(n, config.cells or math.ceil(4 * math.sqrt(n))), faiss.METRIC_INNER_PRODUCT
    )
    index.cp.seed, index.cp.min_points_per_centroid = config.seed, 1  # below its minimum faiss prints a warning
    index.train(rows)
    index.add(rows)
    return index


def _excluded_mask(items: Ints, users: Ints, exclude: Sequence[Interactions]) -> Any:
    """Which places [b, asked] hold no item or an excluded one."""
    gone = items < 0
    for pairs in exclude:
        places = np.arange(len(users))[:, None] * pairs.n_items + items
        gone |= np.isin(places, seen_places(pairs, users))
    return gone


def _sort_candidates(values: Floats, items: Ints, k: int) -> tuple[Floats, Ints]:
    """The k best places of each row, ties by ascending item."""
    by_item = np.argsort(items, axis=1)
    values, items = (np.take_along_axis(part, by_item, axis=1) for part in (values, items))
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(items, order, axis=1)
