"""Propagation over the user-item graph for a few nodes at a time, by random walks from them.

A^l x at a node v, A the symmetric-normalised adjacency, is a sum over all walks of l hops. A walk that goes to a
uniformly drawn neighbour at each hop is met with probability prod 1/deg, and its weights prod 1/sqrt(deg deg')
telescope, so that E[sqrt(deg(v) / deg(v_l)) x(v_l)] = (A^l x)(v). Nothing here grows with the number of nodes.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from gtcrec.graph import SparseMatrix

__all__ = ["drift", "neighbours", "walk"]


def walk(
    r: SparseMatrix, start: Tensor, from_users: bool, walks: int, hops: int, rng: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, hop by hop, where walks from each start node [n] are, int64 [n, walks], and their weights [n, walks].

    The sum over a node's walks of weight * x(place) is an unbiased estimate of A^l x; hop 1 leads to the side
    opposite to the start's, hop 2 back. `r` is the user-item block of A. The walks of a node leave by evenly spread
    edges. From a node without edges every weight is 0. `rng` is a CPU generator.
    """
    at, on_users = start[:, None].expand(-1, walks), from_users
    first, weight = torch.ones(()), torch.ones(())
    for hop in range(hops):
        u = torch.rand(len(start), walks, generator=rng).to(start.device)
        if hop == 0:
            u = (torch.arange(walks, device=start.device) + u) / walks
        at, degree = _step(r, "a" if on_users else "at", at, u)
        if hop == 0:
            first = degree
        on_users = not on_users
        weight = (first / _degree(r, "a" if on_users else "at", at).clamp(min=1)).sqrt() / walks
        yield at, weight


def neighbours(a: SparseMatrix, rows: Tensor, draws: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw columns of rows int64 [n] of A: int64 [n, draws] and weights, sum_w weight * x(column) estimating A x."""
    if not len(a.a_columns):
        nowhere = torch.zeros(len(rows), 1, dtype=torch.int64, device=rows.device)
        return nowhere, nowhere.float()
    u = torch.rand(len(rows), draws, generator=rng).to(rows.device)
    u = (torch.arange(draws, device=rows.device) + u) / draws
    at = rows[:, None].expand(-1, draws)
    place, degree = _place(a, "a", at, u)
    return a.a_columns[place].long(), a.a_values[place] * degree / draws


def drift(table: Tensor, held: Tensor, nodes: Tensor, weights: Tensor) -> Tensor:
    """Return sum_s weights[:, s] * (table - held)[nodes[:, s]], [n, d]; the table's gradient is row-sparse."""
    now = F.embedding_bag(nodes, table, mode="sum", per_sample_weights=weights, sparse=True)
    with torch.no_grad():
        before = F.embedding_bag(nodes, held, mode="sum", per_sample_weights=weights)
    return now - before


def _step(r: SparseMatrix, side: str, at: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Where the edges at shares u of the nodes' lists lead to, and the nodes' degrees; both [n, walks]."""
    place, degree = _place(r, side, at, u)
    return getattr(r, f"{side}_columns")[place].long(), degree


def _place(r: SparseMatrix, side: str, at: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The entry at share u of each row's list, and the row's length; the first entry of all for an empty row."""
    rows = getattr(r, f"{side}_rows")
    first, degree = rows[at].long(), _degree(r, side, at)
    offset = torch.minimum((u * degree).long(), (degree - 1).long())
    return torch.where(degree > 0, first + offset, 0), degree


def _degree(r: SparseMatrix, side: str, at: Tensor) -> Tensor:
    rows: Tensor = getattr(r, f"{side}_rows")
    return (rows[at + 1] - rows[at]).float()
