"""Random walks estimate the products that they stand for: exact expectations over all draws, or many draws."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from gtcrec.models.random_walks import collect_walks, random_walks, sample_neighbors
from gtcrec.ops import graph
from gtcrec.training.rowwise_adam import RowwiseAdam
from gtcrec.types import Interactions


@pytest.fixture
def pairs():
    chosen = np.random.default_rng(1).random((7, 5)) < 0.4
    chosen[0, :], chosen[:, 4] = False, False  # a user and an item without edges
    return Interactions(*np.nonzero(chosen), 7, 5)


def adjacency(pairs):
    r = torch.from_numpy(graph.bipartite(pairs).toarray()).double()
    return torch.cat([torch.cat([torch.zeros(7, 7), r], dim=1), torch.cat([r.T, torch.zeros(5, 5)], dim=1)]).double()


@pytest.mark.parametrize("walks", [1, 2, 3])
@pytest.mark.parametrize("from_users", [True, False])
def test_the_mean_of_many_draws_of_few_walks_is_the_power_of_the_adjacency(pairs, from_users, walks):
    r = graph.SparseMatrix(graph.bipartite(pairs))
    n, offset, other, draws = (7, 0, 7, 40_000) if from_users else (5, 7, 0, 40_000)
    a, power = adjacency(pairs), torch.eye(12, dtype=torch.float64)
    start = torch.arange(n).repeat_interleave(draws)
    hops = random_walks(r, start, from_users, walks, 3, torch.Generator().manual_seed(0))
    for hop, (at, weight) in enumerate(hops, start=1):
        power = power @ a
        found = torch.zeros(n, 12, dtype=torch.float64)
        places = (at + (other if hop % 2 else offset)).reshape(n, -1)
        found.scatter_add_(1, places, weight.reshape(n, -1).double() / draws)
        torch.testing.assert_close(found, power[offset : offset + n], atol=0.02, rtol=0)


@pytest.mark.parametrize("more", [0, 1, 7])
def test_with_as_many_walks_as_neighbours_or_more_the_first_hop_is_exact(pairs, more):
    r = graph.SparseMatrix(graph.bipartite(pairs))
    walks = int(pairs.user_counts.max()) + more
    [(at, weight)] = random_walks(r, torch.arange(7), True, walks, 1, torch.Generator().manual_seed(3))
    found = torch.zeros(7, 5).scatter_add_(1, at, weight)
    torch.testing.assert_close(found, torch.from_numpy(graph.bipartite(pairs).toarray()))


def test_drawn_neighbours_estimate_a_weighted_product():
    dense = np.array([[0, 0.5, 0.25], [0, 0, 0], [2, 0, 0]], dtype=np.float32)
    a = graph.SparseMatrix(csr_array(dense))
    at, weight = sample_neighbors(a, torch.arange(3), 20_000, torch.Generator().manual_seed(0))
    found = torch.zeros(3, 3).scatter_add_(1, at, weight)
    torch.testing.assert_close(found, torch.from_numpy(dense), atol=0.02, rtol=0)
    nothing = graph.SparseMatrix(csr_array((3, 3), dtype=np.float32))
    assert sample_neighbors(nothing, torch.arange(3), 4, torch.Generator())[1].abs().sum() == 0


def test_sums_over_what_walks_reach_and_their_gradient_equal_the_dense_ones():
    parts = [
        (torch.tensor([0, 2]), torch.tensor([[7, 3], [7, 7]]), torch.tensor([[2.0, 1.0], [0.5, 0.25]])),
        (torch.tensor([2, 1]), torch.tensor([[5], [3]]), torch.tensor([[4.0], [1.0]])),
    ]
    found = collect_walks(3, *parts)
    assert found.nodes.tolist() == [3, 5, 7]
    dense = torch.tensor([[1.0, 0, 2], [1, 0, 0], [0, 4, 0.75]])
    torch.testing.assert_close(found.matrix.to_dense(), dense)
    x = torch.arange(6.0).reshape(3, 2).requires_grad_()
    before = torch.tensor([[1.0, -1], [0, 2], [5, 0.5]])
    sums, rows = found.drift(x, before.clone(), torch.tensor([7, 3, 7]))
    change = dense @ (x.detach() - before)
    torch.testing.assert_close(sums, change)
    torch.testing.assert_close(rows, x[[2, 0, 2]])
    (sums.square().sum() + (rows * torch.tensor([[1.0], [10], [100]])).sum()).backward()
    torch.testing.assert_close(x.grad, 2 * dense.T @ change + torch.tensor([[10.0], [0], [101]]))


def test_row_adam_equals_adam_without_first_moment_where_a_rows_gradients_have_one_size():
    rng = torch.Generator().manual_seed(0)
    dense, sparse = (torch.nn.Parameter(torch.ones(5, 3)) for _ in range(2))
    adam, rows = torch.optim.Adam([dense], lr=0.1, betas=(0.0, 0.999)), RowwiseAdam([sparse], lr=0.1)
    for index in ([0, 1, 2, 3, 4], [1, 3], [1], [4, 0, 1], [0, 2]):
        dense.grad = torch.zeros(5, 3)
        signs = torch.randint(2, (len(index), 3), generator=rng) * 2 - 1
        dense.grad[index] = torch.randn(len(index), 1, generator=rng) * signs
        halves = torch.cat([dense.grad[index] / 2] * 2)  # each row named twice
        sparse.grad = torch.sparse_coo_tensor(torch.tensor([index * 2]), halves, (5, 3), check_invariants=True)
        adam.step()
        rows.step()
    torch.testing.assert_close(sparse, dense)


def test_row_adam_keeps_the_direction_of_a_rows_gradient():
    p = torch.nn.Parameter(torch.zeros(2, 2))
    p.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.tensor([[3.0, -4]]), (2, 2), check_invariants=True)
    RowwiseAdam([p], lr=0.1).step()
    wanted = -0.1 * torch.tensor([[0.0, 0], [3, -4]]) / 12.5**0.5
    torch.testing.assert_close(p.detach(), wanted)


def test_row_adam_leaves_rows_without_a_gradient_and_refuses_a_dense_one():
    p = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = RowwiseAdam([p], lr=0.1)
    p.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 2), (3, 2), check_invariants=True)
    for _ in range(2):
        optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([[1.0], [0.8], [1.0]]).expand(3, 2))
    p.grad = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"expected a row-sparse gradient, found a torch\.strided one"):
        optimizer.step()
