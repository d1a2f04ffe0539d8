"""The models that count neighbours, and EASE, against dense brute force on the whole matrix."""

import numpy as np
import pytest
import torch

from gtcrec import models
from gtcrec.errors import ConfigError
from gtcrec.types import Interactions, ItemFeatures


@pytest.fixture
def pairs():
    rng = np.random.default_rng(3)
    users, items = np.nonzero(rng.random((12, 9)) < 0.35)
    return Interactions(users, items, 13, 10)  # the last user and the last item have no pair


@pytest.fixture
def content():
    """Three modalities; items 2 and 7 lack two of them, item 5 lacks all."""
    rng = np.random.default_rng(4)
    present = {m: np.ones(10, dtype=bool) for m in "abc"}
    present["a"][[2, 5, 7]] = present["b"][[2, 5, 7]] = present["c"][[5, 8]] = False
    values = {m: np.where(present[m][:, None], 3 + rng.normal(size=(10, 4)), 0).astype(np.float32) for m in "abc"}
    return ItemFeatures(10, values, present)


def dense(pairs):
    x = np.zeros((pairs.n_users, pairs.n_items))
    x[pairs.users, pairs.items] = 1
    return x


def scores(name, pairs, features=None, **settings):
    features = ItemFeatures(pairs.n_items) if features is None else features
    model = models.build_model(name, pairs, features, models.make_config(name, settings), 0)
    assert model.state_dict() == {}  # the data gives it again
    return model.scorer()(torch.arange(pairs.n_users)).numpy()


def largest(similarity, k):
    """The k largest positive numbers of each row off the diagonal, ties to the lower column."""
    similarity = similarity.copy()
    np.fill_diagonal(similarity, 0)
    kept = np.zeros_like(similarity)
    for row, own in enumerate(similarity):
        best = [j for j in np.argsort(-own.round(12), kind="stable")[:k] if own[j] > 0]
        kept[row, best] = own[best]
    return kept


@pytest.mark.parametrize("popularity", [0.0, 0.7])
def test_userknn_equals_a_brute_force(pairs, popularity):
    x = dense(pairs)
    common = (x * np.maximum(x.sum(0), 1) ** -popularity) @ x.T
    norms = np.sqrt(x.sum(1))
    wanted = largest(common / (np.outer(norms, norms) + 2.0), 4) @ x
    found = scores("userknn", pairs, num_neighbors=4, shrink=2.0, popularity_discount=popularity)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert not found[12].any()  # a user without likes resembles nobody


def transitions(x):
    """P_ui and P_iu."""
    return x / np.maximum(x.sum(1, keepdims=True), 1), x.T / np.maximum(x.sum(0)[:, None], 1)


@pytest.mark.parametrize(("alpha", "beta", "k"), [(1.0, 0.0, 0), (0.7, 0.4, 0), (1.3, 0.8, 3)])
def test_rp3beta_equals_a_brute_force(pairs, alpha, beta, k):
    x = dense(pairs)
    p_ui, p_iu = (p**alpha for p in transitions(x))
    wanted = p_ui @ largest(p_iu @ p_ui / np.maximum(x.sum(0), 1) ** beta, k or 10)
    np.testing.assert_allclose(scores("rp3beta", pairs, alpha=alpha, beta=beta, num_neighbors=k), wanted, atol=1e-6)


def test_rp3beta_without_powers_scores_new_items_by_the_chance_that_a_walk_of_three_steps_ends_there(pairs):
    x = dense(pairs)
    p_ui, p_iu = transitions(x)
    found = scores("rp3beta", pairs, alpha=1.0, beta=0.0)
    new = x == 0
    np.testing.assert_allclose(found[new], (p_ui @ p_iu @ p_ui)[new], atol=1e-6)


def test_rp3beta_in_blocks_of_items_equals_the_dense_walk():
    rng, n = np.random.default_rng(0), 2500  # more items than a block of 2048
    keys = np.unique(rng.integers(50 * n, size=3000))
    pairs = Interactions(keys // n, keys % n, 50, n)
    p_ui, p_iu = transitions(dense(pairs))
    walk = p_iu @ p_ui
    np.fill_diagonal(walk, 0)
    np.testing.assert_allclose(scores("rp3beta", pairs, alpha=1.0, beta=0.0), p_ui @ walk, atol=1e-6)


def test_ease_in_blocks_of_items_equals_the_formula():
    rng, n = np.random.default_rng(0), 2100
    keys = np.unique(rng.integers(20 * n, size=2000))
    pairs = Interactions(keys // n, keys % n, 20, n)
    x = dense(pairs)
    # (X^T X + r I)^-1 = (I - X^T (X X^T + r I)^-1 X) / r, by Woodbury
    p = (np.eye(n) - x.T @ np.linalg.solve(x @ x.T + 3.0 * np.eye(20), x)) / 3.0
    np.testing.assert_allclose(scores("ease", pairs, reg=3.0), x @ (np.eye(n) - p / p.diagonal()), atol=1e-5)


@pytest.mark.parametrize("reg", [0.01, 5.0])
def test_ease_equals_ridge_regressions_of_each_item_on_the_others(pairs, reg):
    x = dense(pairs)
    b = np.zeros((10, 10))
    for j in range(10):
        others = np.delete(np.arange(10), j)
        z = x[:, others]
        b[others, j] = np.linalg.solve(z.T @ z + reg * np.eye(9), z.T @ x[:, j])
    np.testing.assert_allclose(scores("ease", pairs, reg=reg), x @ b, atol=1e-5)


def similar_content(features, weights, k):
    """The k nearest items by the weighted mean cosine of standardised content, 0 where an item lacks a modality."""
    total = np.zeros((features.n_items, features.n_items))
    for m, weight in weights.items():
        has = features.present[m]
        x = features.values[m].astype(np.float64)
        z = np.where(has[:, None], (x - x[has].mean(0)) / x[has].std(0), 0)
        unit = z / np.where(has, np.linalg.norm(z, axis=1), 1)[:, None]
        total += weight * unit @ unit.T
    return largest(total / sum(weights.values()), k)


def of_one_size(similarity):
    return similarity * len(similarity) / similarity.sum()


@pytest.mark.parametrize("weights", [{}, {"a": 0.5, "b": 2.0, "c": 0.0}])
def test_contentknn_equals_a_brute_force(pairs, content, weights):
    similarity = similar_content(content, weights or dict.fromkeys("abc", 1.0), 3)
    wanted = dense(pairs) @ of_one_size(similarity).T
    found = scores("contentknn", pairs, content, num_neighbors=3, modality_weights=weights, interaction_weight=0.0)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert not found[:, 5].any()  # it lacks all content


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_contentknn_mixes_both_similarities_by_their_shares(pairs, content, share):
    x = dense(pairs)
    norms = np.sqrt(x.sum(0))
    weighted = np.maximum(x.sum(1, keepdims=True), 1) ** -0.5 * x
    co_liked = largest(x.T @ weighted / (np.outer(norms, norms) + 5.0), 4)
    near = similar_content(content, dict.fromkeys("abc", 1.0), 3)
    wanted = x @ (share * of_one_size(co_liked) + (1 - share) * of_one_size(near)).T
    given = {
        "num_neighbors": 3,
        "num_interaction_neighbors": 4,
        "shrink": 5.0,
        "activity_discount": 0.5,
        "interaction_weight": share,
    }
    np.testing.assert_allclose(scores("contentknn", pairs, content, **given), wanted, atol=1e-5)


def test_contentknn_without_content_ranks_as_itemknn_or_scores_all_items_zero(pairs):
    alone, mixed = (scores("contentknn", pairs, interaction_weight=share) for share in (0.0, 0.5))
    assert not alone.any()
    itemknn = models.build_model("itemknn", pairs, ItemFeatures(10), models.make_config("itemknn", {}), 0)
    plain = itemknn.scorer()(torch.arange(13)).numpy()
    np.testing.assert_allclose(mixed / mixed.max(), plain / plain.max(), atol=1e-6)


@pytest.mark.parametrize("shows", [False, True], ids=["random content", "content that shows the colour"])
def test_content_alone_learns_a_checkerboard_only_if_it_shows_the_colour(shows, checkerboard):
    split = checkerboard({"text": 5})
    x = split.features.values["text"] + (4.0 * (np.arange(40) % 2)[:, None] if shows else 0.0)
    features = ItemFeatures(40, {"text": x.astype(np.float32)}, split.features.present)
    s, test = scores("contentknn", split.train, features, interaction_weight=0.0), split.final_test()
    other = [s[u, np.arange((u + 1) % 2, 40, 2)] for u in test.users]
    auc = np.mean([(s[u, i] > o).mean() for u, i, o in zip(test.users, test.items, other, strict=True)])
    assert auc > 0.95 if shows else 0.3 < auc < 0.7


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1, "b": 1, "cc": 1}, r"contentknn: modality_weights names 'cc'.*; the data's modalities: a, b, c"),
        ({"a": 1, "b": 1}, "contentknn: modality_weights lacks 'c'; expected a weight for each of a, b, c"),
        ({"a": 0, "b": 0, "c": 0}, "contentknn: modality_weights must not all be 0, found"),
    ],
)
def test_contentknn_refuses_modality_weights_that_are_not_the_datas(pairs, content, weights, message):
    with pytest.raises(ConfigError, match=message):
        scores("contentknn", pairs, content, modality_weights=weights)
