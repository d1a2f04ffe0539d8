"""Tables whose rows lie spread over the workers, for catalogues that exceed one machine.

Row r of a table lies with worker r % W, as its row r // W; so do its gradient and Adam's moment of it. A step asks the
owners for the few rows that it needs, and sends what the loss says of them back to the owners, who alone change them.
Every function that communicates is called by all workers, in the same order; with one worker nothing communicates.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.errors import ConfigError
from gtcrec.ops.graph import csr, times
from gtcrec.runtime.process_group import SINGLE_PROCESS, ProcessGroup, all_to_all, broadcast, gather_equal

__all__ = [
    "RowShardedEmbedding",
    "ShardedMatrix",
    "combine_rows",
    "join_rows",
    "local_rows",
    "lookup",
    "shard_rows",
    "xavier_rows",
]

_BLOCK = 1 << 14  # rows drawn at once


def local_rows(n: int, workers: ProcessGroup) -> range:
    """Return which of n rows lie with this worker. Raises `ConfigError` when a worker would have none.

    >>> [list(local_rows(7, ProcessGroup(rank, 3))) for rank in range(3)]
    [[0, 3, 6], [1, 4], [2, 5]]
    """
    if n < workers.size:
        raise ConfigError(f"a table of {n} rows cannot be spread over {workers.size} workers; expected a row for each")
    return range(workers.rank, n, workers.size)


def xavier_rows(n: int, dim: int, workers: ProcessGroup) -> nn.Parameter:
    """Return this worker's rows [local, dim] of what `nn.init.xavier_uniform_` draws for the whole table [n, dim].

    All rows are drawn, block by block, from the global random state, so that no worker ever holds the whole.
    """
    bound = math.sqrt(3.0) * math.sqrt(2.0 / float(dim + n))
    mine = local_rows(n, workers)
    rows = torch.empty(len(mine), dim)
    for start in range(0, n, _BLOCK):
        block = torch.empty(min(_BLOCK, n - start), dim).uniform_(-bound, bound)
        first = (workers.rank - start) % workers.size
        some = block[first :: workers.size]
        place = (start + first) // workers.size
        rows[place : place + len(some)] = some
    return nn.Parameter(rows)


def lookup(local: Tensor, n: int, index: Tensor, workers: ProcessGroup) -> Tensor:
    """Return the rows [m, dim] at `index` int64 [m] of a table [n, dim]; each worker holds its `local` rows."""
    if workers.size == 1:
        return F.embedding(index, local)
    keys, inverse = torch.unique(_owner_keys(index, n, workers), return_inverse=True)
    return F.embedding(inverse, _fetch_rows(local, n, keys, workers))


class RowShardedEmbedding:
    """A table [n, dim] to look rows up in, with gradient; `local` are the rows that lie with this worker.

    Between a loss and `combine_rows` it remembers which rows the loss asked for. With one worker it is an embedding
    with row-sparse gradients. All workers must ask the same tables equally often, for whatever rows.
    """

    def __init__(self, local: nn.Parameter, n: int, workers: ProcessGroup = SINGLE_PROCESS) -> None:
        self.local = local
        self.n = n
        self.workers = workers
        self._asked: list[tuple[Tensor, Tensor]] = []

    def __call__(self, index: Tensor) -> Tensor:
        """Return the rows [m, dim] at `index` int64 [m]."""
        if self.workers.size == 1:
            return F.embedding(index, self.local, sparse=True)
        keys, inverse = torch.unique(_owner_keys(index, self.n, self.workers), return_inverse=True)
        rows = _fetch_rows(self.local, self.n, keys, self.workers)
        if torch.is_grad_enabled():
            self._asked.append((keys, rows.requires_grad_()))
        return F.embedding(inverse, rows)

    def of(self, other: Tensor, index: Tensor) -> Tensor:
        """Return the rows at `index` int64 [m] of another table [n, d] that is spread in the same way, as constants."""
        return lookup(other, self.n, index, self.workers)

    def take_gradient(self, share: float) -> tuple[Tensor, Tensor]:
        """Return keys [m], ascending, and `share` times the gradients [m, dim] of the rows asked for; forget both."""
        parts = [(keys, rows.grad) for keys, rows in self._asked if rows.grad is not None]
        self._asked.clear()
        none = self.local.new_zeros(0, self.local.shape[1])
        asked = torch.cat([none[:, 0].long(), *(keys for keys, _ in parts)])
        keys, inverse = torch.unique(asked, return_inverse=True)
        grads = torch.cat([none, *(grad for _, grad in parts)])
        return keys, grads.new_zeros(len(keys), grads.shape[1]).index_add_(0, inverse, grads) * share


def combine_rows(tables: Sequence[RowShardedEmbedding], share: float, workers: ProcessGroup) -> None:
    """Give each worker the gradient of its own rows: the sum over the workers of `share` times theirs, row-sparse.

    A row that several workers asked for stands in the gradient several times. A table that no worker asked has none.
    """
    taken = [table.take_gradient(share) for table in tables]
    sent = torch.stack([_keys_per_owner(keys, t.n, workers) for t, (keys, _) in zip(tables, taken, strict=True)])
    counts = torch.stack(gather_equal(sent, workers))  # [from, tables, to]
    for place, (table, (keys, grads)) in enumerate(zip(tables, taken, strict=True)):
        table.local.grad = None
        if counts[:, place].any():
            out, into = counts[workers.rank, place].tolist(), counts[:, place, workers.rank].tolist()
            rows = all_to_all(keys % _max_local_rows(table.n, workers), out, into)
            values, shape = all_to_all(grads, out, into), table.local.shape
            table.local.grad = torch.sparse_coo_tensor(rows[None], values, shape, check_invariants=False)


class ShardedMatrix(nn.Module):
    """A constant sparse matrix A [rows, columns] for products A x in which x and the result are spread over workers.

    Each worker holds its own rows of A, split by who holds the columns, and receives the parts of x in turn.
    """

    def __init__(self, a: Tensor, workers: ProcessGroup) -> None:
        super().__init__()
        self.workers = workers
        parts = a.values().numpy(), a.col_indices().numpy(), a.crow_indices().numpy()
        matrix = csr_array(parts, shape=(a.shape[0], a.shape[1]))
        mine = matrix[workers.rank :: workers.size].tocsc()
        for rank in range(workers.size):
            part = mine[:, rank :: workers.size].tocsr()
            columns, values = torch.from_numpy(part.indices), torch.from_numpy(part.data)
            one = csr(torch.from_numpy(np.diff(part.indptr)), columns, values, part.shape)
            self.register_buffer(f"part_{rank}", one, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return this worker's rows [local, d] of A x from its rows of x [local, d]; without gradient."""
        total = x.new_zeros(())
        for rank in range(self.workers.size):
            part: Tensor = getattr(self, f"part_{rank}")
            some = x.detach() if rank == self.workers.rank else x.new_empty(part.shape[1], x.shape[1])
            total = total + times(part, broadcast(some, rank))
        return total


def shard_rows(shard: Tensor, number: int, of: int, workers: ProcessGroup) -> tuple[Tensor, Tensor]:
    """Return which of this worker's rows are in shard `number` of a table that lay with `of` workers, and those rows.

    >>> shard_rows(torch.tensor([[1], [4], [7]]), 1, 3, ProcessGroup(1, 2))  # rows 1 and 7, of its rows 1, 3, 5, 7
    (tensor([0, 3]), tensor([[1],
            [7]]))
    """
    rows = torch.arange(len(shard)) * of + number
    mine = rows % workers.size == workers.rank
    return rows[mine] // workers.size, shard[mine]


def join_rows(pieces: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the rows whose places and values `shard_rows` gave, from all shards."""
    table = pieces[0][1].new_empty(sum(len(places) for places, _ in pieces), *pieces[0][1].shape[1:])
    for places, rows in pieces:
        table[places] = rows
    return table


def _fetch_rows(local: Tensor, n: int, keys: Tensor, workers: ProcessGroup) -> Tensor:
    """The rows [m, dim] that distinct, ascending keys int64 [m] name, from their owners."""
    sent = _keys_per_owner(keys, n, workers)
    out, into = sent.tolist(), all_to_all(sent, [1] * workers.size, [1] * workers.size).tolist()
    asked = all_to_all(keys % _max_local_rows(n, workers), out, into)
    return all_to_all(F.embedding(asked, local.detach()), into, out)


def _max_local_rows(n: int, workers: ProcessGroup) -> int:
    """The most rows of a table of n that a worker holds."""
    return -(-n // workers.size)


def _owner_keys(index: Tensor, n: int, workers: ProcessGroup) -> Tensor:
    """Rows, numbered so that they are in order of their owners, and there as their owners hold them."""
    return index % workers.size * _max_local_rows(n, workers) + index // workers.size


def _keys_per_owner(keys: Tensor, n: int, workers: ProcessGroup) -> Tensor:
    """The number of keys that each worker owns, int64 [W]."""
    return torch.bincount(keys // _max_local_rows(n, workers), minlength=workers.size)
