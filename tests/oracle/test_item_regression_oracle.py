"""EASE and L3AE, whole and local, against ridge regressions of each item on the others, one by one."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from gtcrec import models
from gtcrec.errors import ConfigError
from gtcrec.models.item_regression import ContentRegression, solve_item_weights
from gtcrec.models.local_regression import LocalRegression
from gtcrec.testing import random_features
from gtcrec.types import Interactions, ItemFeatures

N = 14


@pytest.fixture
def pairs():
    users, items = np.nonzero(np.random.default_rng(3).random((40, N)) < 0.25)
    kept = items != N - 1  # the last item has no interaction
    return Interactions(users[kept], items[kept], 41, N)  # nor has the last user


@pytest.fixture
def features():
    return random_features(N, {"image": 5, "text": 4}, missing=0.3)


def ridges(x, weights, reg, prior, pull):
    """Each item's weights on the others: argmin |x_j - X b|^2_weights + reg |b|^2 + pull |b - prior_j|^2."""
    n = x.shape[1]
    b = np.zeros((n, n))
    for j in range(n):
        others = np.delete(np.arange(n), j)
        z = x[:, others] * weights[:, None]
        system = z.T @ x[:, others] + (reg + pull) * np.eye(n - 1)
        b[others, j] = np.linalg.solve(system, z.T @ x[:, j] + pull * prior[others, j])
    return b


def content_matrix(features):
    """Standardised content, each modality's row of length 1 or 0, side by side."""
    parts = []
    for m in features.names:
        x, has = features.values[m].astype(np.float64), features.present[m]
        z = np.where(has[:, None], (x - x[has].mean(axis=0)) / x[has].std(axis=0), 0)
        parts.append(z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12))
    return np.hstack(parts)


def expected(pairs, features, reg, pull, content_reg, exponent):
    e, x = content_matrix(features), pairs.matrix().toarray().astype(np.float64)
    none = np.zeros((N, N))
    c = ridges(e.T, np.ones(e.shape[1]), content_reg, none, 0.0)
    return ridges(x, np.maximum(x.sum(axis=1), 1) ** -exponent, reg, c, pull)


def build(pairs, features, **settings):
    return models.build_model("l3ae", pairs, features, models.make_config("l3ae", settings), 0)


@pytest.mark.parametrize(("reg", "pull", "content_reg", "exponent"), [(0.0, 4.0, 0.7, 0.5), (2.0, 1.0, 3.0, 0.0)])
def test_l3ae_equals_the_regression_of_each_item_on_the_others(pairs, features, reg, pull, content_reg, exponent):
    b = expected(pairs, features, reg, pull, content_reg, exponent)
    settings = {"reg": reg, "content_weight": pull, "content_reg": content_reg, "user_exponent": exponent}
    scores = build(pairs, features, **settings).scorer()(torch.arange(41)).numpy()
    np.testing.assert_allclose(scores, pairs.matrix().toarray() @ b, atol=1e-5)


def test_ease_weighs_users_by_their_number_of_items(pairs):
    x = pairs.matrix().toarray().astype(np.float64)
    b = ridges(x, np.maximum(x.sum(axis=1), 1) ** -1.0, 3.0, np.zeros((N, N)), 0.0)
    config = models.make_config("ease", {"reg": 3.0, "user_exponent": 1.0})
    model = models.build_model("ease", pairs, ItemFeatures(N), config, 0)
    np.testing.assert_allclose(model.b.numpy(), b, atol=1e-5)


def test_without_content_l3ae_is_ease_with_the_ridges_together(pairs):
    found = build(pairs, ItemFeatures(N), reg=1.0, content_weight=2.0, user_exponent=0.0)
    ease = models.build_model("ease", pairs, ItemFeatures(N), models.make_config("ease", {"reg": 3.0}), 0)
    np.testing.assert_allclose(found.b.numpy(), ease.b.numpy(), atol=1e-6)


def test_the_local_form_with_all_candidates_equals_the_inverse(pairs, features):
    content = ContentRegression.fit(features, 0.7)
    exact = solve_item_weights(pairs, 0.3, 0.5, content, 4.0).b.numpy()
    local = LocalRegression.prepare(pairs, content, 0.3, 4.0, 0.5, N - 1)
    local = replace(local, near=np.tile(np.arange(N), (N, 1)))  # every item is near in content
    for parts in (1, 5):  # whatever the parts that are solved for together
        found = np.zeros((N, N))
        for items in np.array_split(np.arange(N), parts):
            candidates, weights = local.solve(items)
            for j, own, values in zip(items, candidates, weights, strict=True):
                found[own[own >= 0], j] = values[own >= 0]
        np.testing.assert_allclose(found, exact, atol=1e-6)


def test_local_candidates_are_those_that_lower_the_loss_most_alone(pairs, features):
    content = ContentRegression.fit(features, 0.7)
    local = LocalRegression.prepare(pairs, content, 0.3, 4.0, 0.5, 3)
    local = replace(local, near=np.tile(np.arange(N), (N, 1)))
    x = pairs.matrix().toarray().astype(np.float64)
    gram = x.T @ (np.maximum(x.sum(axis=1), 1) ** -0.5 * x.T).T
    c = ridges(content_matrix(features).T, np.ones(9), 0.7, np.zeros((N, N)), 0.0)
    gain = (gram + 4.0 * c) ** 2 / (gram.diagonal()[:, None] + 4.3)
    np.fill_diagonal(gain, -1)
    candidates, _ = local.solve(np.arange(N))
    for j, own in enumerate(candidates):
        best = max(itertools.combinations(range(N), 3), key=lambda some: gain[list(some), j].sum())
        assert sorted(own) == sorted(best)


@pytest.mark.parametrize("settings", [{}, {"candidates": "local", "num_candidates": 4}])
def test_new_items_get_the_weights_of_a_cold_item_that_is_regressed_with_them(pairs, features, settings):
    """One cold item more, standardised as the known items are, has the same column of C and of B."""
    known = rows(features, slice(0, N - 1))
    train = Interactions(pairs.users, pairs.items, pairs.n_users, N - 1)
    model = build(train, known, reg=1.0, content_weight=2.0, content_reg=0.7, **settings)
    history = csr_array(np.eye(N - 1, dtype=np.float32))
    found = model.score_new_items(history, rows(features, slice(N - 1, N)))  # [N - 1, 1]
    e, e_new = model.content.rows.numpy(), model.content.encode(rows(features, slice(N - 1, N))).numpy()
    c = np.linalg.solve(e @ e.T + 0.7 * np.eye(N - 1), e @ e_new[0])  # the new item regressed on the known ones
    x = train.matrix().toarray().astype(np.float64)
    gram = x.T @ (np.maximum(x.sum(axis=1), 1)[:, None] ** -0.5 * x)
    own = np.flatnonzero(found[:, 0]) if settings else np.arange(N - 1)
    assert len(own) == settings.get("num_candidates", N - 1)
    expected = np.linalg.solve((gram + 3.0 * np.eye(N - 1))[np.ix_(own, own)], 2.0 * c[own])
    np.testing.assert_allclose(found[own, 0], expected, atol=1e-5)


def rows(features, which):
    n = len(range(*which.indices(features.n_items)))
    values = {m: features.values[m][which] for m in features.names}
    return ItemFeatures(n, values, {m: features.present[m][which] for m in features.names})


@pytest.mark.parametrize("name", ["ease", "l3ae"])
def test_a_catalogue_that_would_not_fit_into_memory_is_refused(name):
    many = Interactions(np.array([0]), np.array([0]), 1, 50_000)
    wanted = rf"{name}: 50000 items need 9\.3 GiB of memory; expected at most 40000 items, or a larger max_items"
    with pytest.raises(ConfigError, match=wanted):  # 4 * 50000^2 bytes / 2^30
        models.build_model(name, many, ItemFeatures(50_000), models.make_config(name, {}), 0)


def test_the_local_form_has_no_limit_of_items(pairs, features):
    model = build(pairs, features, max_items=2, candidates="local", num_candidates=5)
    assert model.weights.shape == (N, 5)


def test_the_local_form_scores_by_the_weights_that_it_got_last(pairs, features):
    model = build(pairs, features, candidates="local", num_candidates=5)
    history = csr_array(np.eye(N, dtype=np.float32))
    first = model.fold_in(history)
    model.take_items(model.chosen.numpy(), 2 * model.weights.numpy())
    torch.testing.assert_close(model.fold_in(history), 2 * first)
    model.load_state_dict({**model.state_dict(), "weights": 3 * model.weights})
    torch.testing.assert_close(model.fold_in(history), 6 * first)
