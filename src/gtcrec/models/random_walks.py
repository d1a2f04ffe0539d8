"""Propagation over the user-item graph for a few nodes at a time, by random walks from them.

A^l x at a node v, A the symmetric-normalised adjacency, is a sum over all walks of l hops. A walk that goes to a
uniformly drawn neighbor at each hop has probability prod 1/deg, and its weights prod 1/sqrt(deg deg')
telescope, so that E[sqrt(deg(v) / deg(v_l)) x(v_l)] = (A^l x)(v). Nothing here grows with the number of nodes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gtcrec.ops.graph import Adjacency, SparseMatrix, csr, times

__all__ = ["WalkSums", "collect_walks", "random_walks", "sample_neighbors"]


def random_walks(
    r: Adjacency, start: Tensor, from_users: bool, walks: int, hops: int, rng: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, hop by hop, where walks from each start node [n] are, int64 [n, walks], and their weights [n, walks].

    The sum over a node's walks of weight * x(place) is an unbiased estimate of A^l x; hop 1 leads to the side
    opposite to the start's, hop 2 back. `r` is the user-item block of A. The walks of a node leave by evenly spread
    edges; where there are as many walks as edges, equally often by each, so that hop 1 is exact, and the walks that are
    left over weigh 0. From a node without edges every weight is 0. `rng` is a CPU generator.
    """
    at, (side, opposite) = start[:, None].expand(-1, walks), r.sides() if from_users else r.sides()[::-1]
    slot = torch.arange(walks, device=start.device)
    first = _degree(side, start)[:, None]  # [n, 1]
    rounds = (walks / first.clamp(min=1)).floor()  # by each edge
    used = torch.where(rounds > 0, rounds * first, walks)
    share = torch.where(slot < used, 1 / used.clamp(min=1), 0.0)  # [n, walks]
    for hop in range(hops):
        u = torch.rand(len(start), walks, generator=rng).to(start.device)
        if hop == 0:
            by_turns = (slot % first.clamp(min=1) + 0.5) / first.clamp(min=1)
            u = torch.where(rounds > 0, torch.where(slot < used, by_turns, 0.0), (slot + u) / walks)
        at = _follow_edges(side, at, u)
        side, opposite = opposite, side
        yield at, (first / _degree(side, at).clamp(min=1)).sqrt() * share


def sample_neighbors(a: SparseMatrix, rows: Tensor, draws: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw columns of rows int64 [n] of A: int64 [n, draws] and weights, sum_w weight * x(column) estimating A x."""
    side, _ = a.sides()
    if not len(side.values()):
        empty = torch.zeros(len(rows), 1, dtype=torch.int64, device=rows.device)
        return empty, empty.float()
    u = torch.rand(len(rows), draws, generator=rng).to(rows.device)
    u = (torch.arange(draws, device=rows.device) + u) / draws
    at = rows[:, None].expand(-1, draws)
    place, degree = _edge_at(side, at, u)
    return _gather(side.col_indices(), place).long(), _gather(side.values(), place) * degree / draws


@dataclass(frozen=True, eq=False)
class WalkSums:
    """Weighted sums over the distinct `nodes` [u] of a table, ascending: a CSR matrix [n, u] and its transpose."""

    nodes: Tensor
    matrix: Tensor
    transposed: Tensor

    def drift(self, now: Tensor, before: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums of now - before, [n, d], and the rows of `now` of the nodes `targets` [w].

        `now` and `before` are rows [u, d] of the nodes; `before` is a constant and used up.
        """
        places = torch.searchsorted(self.nodes, targets)
        with torch.autocast(now.device.type, enabled=False):  # sums over many nodes want float32
            return _Drift.apply(now, before, self.matrix, self.transposed, places)  # type: ignore[no-untyped-call, no-any-return]


class _Drift(torch.autograd.Function):
    """Sums and single rows of one tensor [u, d] of many rows, whose gradient is made but once."""

    @staticmethod
    def forward(
        ctx: Any, now: Tensor, before: Tensor, matrix: Tensor, transposed: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.transposed, ctx.places = transposed, places
        change = torch.sub(now, before, out=before)
        return times(matrix, change), now.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, grad_sums: Tensor, grad_rows: Tensor) -> tuple[Tensor, None, None, None, None]:
        return times(ctx.transposed, grad_sums).index_add_(0, ctx.places, grad_rows), None, None, None, None


def collect_walks(n: int, *parts: tuple[Tensor, Tensor, Tensor]) -> WalkSums:
    """Return n sums from their parts: rows int64 [r] of the sums, nodes int64 [r, s] and weights [r, s] in them."""
    rows = torch.cat([row[:, None].expand_as(nodes).flatten() for row, nodes, _ in parts])
    nodes, order = torch.sort(torch.cat([nodes.flatten() for _, nodes, _ in parts]))
    weights = torch.cat([weight.flatten() for *_, weight in parts])
    distinct, inverse, counts = torch.unique_consecutive(nodes, return_inverse=True, return_counts=True)
    place = torch.empty_like(inverse)
    place[order] = inverse  # of each entry among the distinct nodes
    by_row = torch.argsort(rows, stable=True)
    matrix = csr(torch.bincount(rows, minlength=n), place[by_row], weights[by_row], (n, len(distinct)))
    transposed = csr(counts, rows[order], weights[order], (len(distinct), n))
    return WalkSums(distinct, matrix, transposed)


def _follow_edges(side: Tensor, at: Tensor, u: Tensor) -> Tensor:
    """Where the edges at shares u of the nodes' lists lead to, [n, walks]."""
    return _gather(side.col_indices(), _edge_at(side, at, u)[0]).long()


def _edge_at(side: Tensor, at: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The entry at share u of each row's list, and the row's length; the first entry of all for an empty row."""
    first, degree = _gather(side.crow_indices(), at).long(), _degree(side, at)
    offset = torch.minimum((u * degree).long(), (degree - 1).long())
    return torch.where(degree > 0, first + offset, 0), degree


def _degree(side: Tensor, at: Tensor) -> Tensor:
    rows = side.crow_indices()
    return (_gather(rows, at + 1) - _gather(rows, at)).float()


def _gather(x: Tensor, index: Tensor) -> Tensor:
    """x[index] for x [n], in a third of the time of indexing."""
    return x.index_select(0, index.flatten()).view(index.shape)
