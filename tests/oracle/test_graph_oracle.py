"""Graphs, and what is alike, against their dense formulas."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from gtcrec.models.multimodal.freedom import PrunableGraph
from gtcrec.ops import graph
from gtcrec.ops import neighbors as similarity
from gtcrec.types import Interactions, ItemFeatures


@pytest.fixture
def pairs():
    rng = np.random.default_rng(3)
    users, items = np.nonzero(rng.random((12, 9)) < 0.3)
    return Interactions(users, items, 13, 10)  # the last user and the last item have no pair


def dense(pairs):
    r = np.zeros((pairs.n_users, pairs.n_items))
    r[pairs.users, pairs.items] = 1
    return r


def test_the_bipartite_block_equals_the_dense_formula(pairs):
    r = dense(pairs)
    with np.errstate(divide="ignore"):
        left, right = (np.where(d > 0, d**-0.5, 0) for d in (r.sum(1), r.sum(0)))
    np.testing.assert_allclose(graph.bipartite(pairs).toarray(), left[:, None] * r * right, atol=1e-7)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_propagation_equals_powers_of_the_whole_adjacency(pairs, layers):
    n, m = pairs.n_users, pairs.n_items
    block = graph.bipartite(pairs).toarray()
    a = np.block([[np.zeros((n, n)), block], [block.T, np.zeros((m, m))]])
    x = np.random.default_rng(0).normal(size=(n + m, 4))
    wanted = sum(np.linalg.matrix_power(a, hop) @ x for hop in range(layers + 1)) / (layers + 1)
    sparse = graph.SparseMatrix(graph.bipartite(pairs))
    users, items = graph.light_propagation(sparse, *torch.tensor(x, dtype=torch.float32).split([n, m]), layers)
    np.testing.assert_allclose(torch.cat([users, items]), wanted, atol=1e-5)


def test_the_sparse_product_and_its_gradient_equal_the_dense_ones(pairs):
    matrix = graph.bipartite(pairs)
    sparse, full = graph.SparseMatrix(matrix), torch.tensor(matrix.toarray())
    for product, a, n in ((sparse, full, pairs.n_items), (sparse.transposed, full.T, pairs.n_users)):
        x, y = (torch.randn(n, 3, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
        product(x).square().sum().backward()
        (a @ y).square().sum().backward()
        torch.testing.assert_close(product(x), a @ y)
        torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("some", [[7, 0, 12, 7], [12], []])  # row 12 has no entry
def test_the_product_s_rows_and_their_gradient_equal_the_dense_ones(pairs, some):
    matrix, rows = graph.bipartite(pairs), torch.tensor(some, dtype=torch.int64)
    x, y = (torch.randn(10, 3, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    found, wanted = graph.SparseMatrix(matrix).rows(rows, x), (torch.tensor(matrix.toarray()) @ y)[rows]
    torch.testing.assert_close(found, wanted)
    found.square().sum().backward()
    wanted.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_a_matrix_without_entries_gives_zeros_and_a_gradient_of_zeros():
    sparse = graph.SparseMatrix(csr_array((3, 2), dtype=np.float32))
    x = torch.ones(2, 4, requires_grad=True)
    sparse(x).sum().backward()
    assert sparse(x).tolist() == [[0.0] * 4] * 3
    assert x.grad.tolist() == [[0.0] * 4] * 2


def test_a_sparse_matrix_is_no_part_of_the_weights(pairs):
    assert graph.SparseMatrix(graph.bipartite(pairs)).state_dict() == {}


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_a_part_of_the_graph_equals_the_dense_formula_on_its_edges(pairs, share):
    prunable = PrunableGraph(pairs)
    kept = prunable.draw(share, torch.Generator().manual_seed(4))
    r = dense(pairs.where(kept.numpy()))
    assert r.sum() == int(share * len(pairs))
    with np.errstate(divide="ignore"):
        left, right = (np.where(d > 0, d**-0.5, 0) for d in (r.sum(1), r.sum(0)))
    wanted = torch.tensor(left[:, None] * r * right, dtype=torch.float32)
    part = prunable.part(kept)
    torch.testing.assert_close(part.r.to_dense(), wanted)
    torch.testing.assert_close(part.rt.to_dense(), wanted.T)


def test_the_gradient_of_light_propagation_equals_the_dense_one(pairs):
    r = graph.SparseMatrix(graph.bipartite(pairs))
    block = torch.from_numpy(graph.bipartite(pairs).toarray())
    n, rng = pairs.n_users, torch.Generator().manual_seed(1)
    a = torch.zeros(n + pairs.n_items, n + pairs.n_items)
    a[:n, n:], a[n:, :n] = block, block.T
    users, items = (torch.randn(k, 3, generator=rng).requires_grad_() for k in (n, pairs.n_items))
    both = torch.cat([users, items]).detach().requires_grad_()
    found = torch.cat(graph.light_propagation(r, users, items, 3))
    wanted = (both + a @ both + a @ a @ both + a @ a @ a @ both) / 4
    torch.testing.assert_close(found, wanted)
    found.square().sum().backward()
    wanted.square().sum().backward()
    torch.testing.assert_close(torch.cat([users.grad, items.grad]), both.grad)


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_propagation_of_content_equals_that_of_users_of_zeros(pairs, layers):
    r = graph.SparseMatrix(graph.bipartite(pairs))
    items = torch.randn(pairs.n_items, 3, generator=torch.Generator().manual_seed(1))
    found = graph.content_propagation(r, items, layers)
    for one, wanted in zip(
        found, graph.light_propagation(r, torch.zeros(pairs.n_users, 3), items, layers), strict=True
    ):
        torch.testing.assert_close(one, wanted)


def test_all_edges_kept_give_the_full_graph_and_drawing_leaves_it_as_it_was(pairs):
    prunable = PrunableGraph(pairs)
    before = prunable.full(torch.eye(pairs.n_items))
    prunable.part(prunable.draw(0.3, torch.Generator().manual_seed(0)))
    whole = prunable.part(torch.ones(len(pairs), dtype=torch.bool))
    assert torch.equal(prunable.full(torch.eye(pairs.n_items)), before)
    torch.testing.assert_close(whole.r.to_dense(), before)
    assert prunable.state_dict() == {}


@pytest.mark.parametrize("block", [3, 100])
def test_content_neighbors_equal_a_brute_force(block):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(11, 4)).astype(np.float32)
    present = np.ones(11, dtype=bool)
    present[[2, 7]] = False
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    cosine[:, ~present] = -np.inf
    wanted = np.zeros((11, 11))
    for i in np.flatnonzero(present):
        wanted[i, np.argsort(-cosine[i])[:3]] = 1 / 3
    np.testing.assert_allclose(
        similarity.content_neighbors(x, present, 3, lambda unit, k: similarity.nearest_rows(unit, k, block)).toarray(),
        wanted,
        atol=1e-7,
    )


@pytest.mark.parametrize("k", [1, 3, 20])
def test_an_item_among_its_own_neighbours_takes_the_place_of_the_farthest(k):
    rng = np.random.default_rng(2)
    x, present = rng.normal(size=(9, 4)).astype(np.float32), np.arange(9) != 4
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = np.where(present, unit @ unit.T, -np.inf)
    wanted = np.zeros((9, 9), dtype=np.float32)
    for i in np.flatnonzero(present):  # its own cosine, 1, is the largest
        wanted[i, np.argsort(-cosine[i])[: min(k, 8)]] = 1 / min(k, 8)
    found = similarity.content_neighbors(x, present, k, include_self=True).toarray()
    np.testing.assert_allclose(found, wanted)


def test_too_few_items_with_content_have_no_neighbours():
    found = similarity.content_neighbors(np.ones((3, 2), dtype=np.float32), np.array([True, False, False]), 2)
    assert found.nnz == 0


def test_the_item_graph_averages_the_modalities_that_an_item_has():
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    whole = np.ones(6, dtype=bool)
    part = np.array([True, True, True, True, False, True])
    features = ItemFeatures(6, {"a": x, "b": x * np.float32([1, 0, 2])}, {"a": whole, "b": part})
    a, b = (similarity.content_neighbors(features.values[m], features.present[m], 2).toarray() for m in "ab")
    found = similarity.item_graph(features, 2).toarray()
    np.testing.assert_allclose(found[:4], (a[:4] + b[:4]) / 2, atol=1e-7)
    np.testing.assert_allclose(found[4], a[4], atol=1e-7)


def test_weights_of_the_item_graph_are_shared_among_the_modalities_that_an_item_has():
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    whole = np.ones(6, dtype=bool)
    part = np.array([True, True, True, True, False, True])
    features = ItemFeatures(6, {"a": x, "b": x * np.float32([1, 0, 2])}, {"a": whole, "b": part})
    a, b = (similarity.content_neighbors(features.values[m], features.present[m], 2).toarray() for m in "ab")
    found = similarity.item_graph(features, 2, {"a": 0.2, "b": 0.6}).toarray()
    np.testing.assert_allclose(found[:4], 0.25 * a[:4] + 0.75 * b[:4], atol=1e-6)
    np.testing.assert_allclose(found[4], a[4], atol=1e-6)
    np.testing.assert_allclose(similarity.item_graph(features, 2, {"a": 0, "b": 3}).toarray(), b, atol=1e-6)


@pytest.mark.parametrize("block", [2, 100])
def test_co_liked_users_equal_a_brute_force(pairs, block):
    r = dense(pairs)
    counts = r @ r.T
    np.fill_diagonal(counts, 0)
    wanted = np.zeros_like(counts)
    for u in range(pairs.n_users):
        best = [v for v in np.argsort(-counts[u], kind="stable")[:3] if counts[u, v] > 0]
        wanted[u, best] = np.exp(counts[u, best]) / np.exp(counts[u, best]).sum() if best else 0
    np.testing.assert_allclose(similarity.co_interaction_users(pairs, 3, block).toarray(), wanted, atol=1e-6)


@pytest.mark.parametrize("activity", [0.0, 0.7])
@pytest.mark.parametrize("block", [2, 100])
def test_similar_items_equal_a_brute_force(pairs, block, activity):
    r = dense(pairs)
    weighted = np.maximum(r.sum(1, keepdims=True), 1) ** -activity * r
    norms = np.sqrt(r.sum(0))
    alike = r.T @ weighted / (np.outer(norms, norms) + 5.0)
    np.fill_diagonal(alike, 0)
    wanted = np.zeros_like(alike)
    for i in range(pairs.n_items):
        best = np.argsort(-alike[i].astype(np.float64), kind="stable")[:4]
        wanted[i, best] = alike[i, best]
    np.testing.assert_allclose(similarity.similar_items(pairs, 4, 5.0, activity, block).toarray(), wanted, atol=1e-7)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_rows_of_the_last_hop_and_their_gradient_equal_those_of_the_whole_propagation(pairs, layers):
    r, rng = graph.SparseMatrix(graph.bipartite(pairs)), torch.Generator().manual_seed(layers)
    users, items = (torch.randn(n, 6, generator=rng).requires_grad_() for n in (pairs.n_users, pairs.n_items))
    some = torch.tensor([2, 0, 2]), torch.tensor([1, 3])  # a user twice, as in a batch
    weights = [torch.randn(len(rows), 6, generator=rng) for rows in some * 2]
    found, expected = [], []
    near = graph.SparseMatrix(csr_array(np.random.default_rng(0).random((pairs.n_items, pairs.n_items)) > 0.5) * 0.3)
    user, item = graph.light_propagation(r, users, items, layers)
    whole = users, items, user, item + near(items)
    for into, views in (
        (found, graph.light_propagation_rows(r, users, items, layers, some, near)),
        (expected, [view[rows] for view, rows in zip(whole, some * 2, strict=True)]),
    ):
        total = sum((view * weight).sum() for view, weight in zip(views, weights, strict=True))
        into += [*views, *torch.autograd.grad(total, (users, items), retain_graph=True)]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
