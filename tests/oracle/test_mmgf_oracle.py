"""MM-GF against a dense transcription of its formulas."""

import numpy as np
import pytest
import torch

from gtcrec import models
from gtcrec.types import Interactions, ItemFeatures


def draw(n_users=40, n_items=90, share=0.1, seed=0, missing=0.3):
    rng = np.random.default_rng(seed)
    liked = rng.random((n_users, n_items)) < share
    liked[4], liked[:, 7] = False, False  # a user and an item without anything
    values, present = {}, {}
    for name, width in (("a", 5), ("b", 7)):
        present[name] = rng.random(n_items) >= missing
        values[name] = np.where(present[name][:, None], rng.normal(size=(n_items, width)), 0).astype(np.float32)
    return Interactions(*np.nonzero(liked), n_users, n_items), ItemFeatures(n_items, values, present)


def scores(pairs, features, **given):
    model = models.build_model("mmgf", pairs, features, models.make_config("mmgf", given), 0)
    return model.scorer()(torch.arange(pairs.n_users)).numpy()


def normalised(edges, rows, columns):
    by_row, by_column = edges.sum(1), edges.sum(0)
    with np.errstate(divide="ignore"):
        left = np.where(by_row > 0, by_row**-rows, 0)
        right = np.where(by_column > 0, by_column**-columns, 0)
    return np.diag(left) @ edges @ np.diag(right)


def content(features, m, alpha, power, k):
    has = np.flatnonzero(features.present[m])
    unit = features.values[m][has].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T
    near = np.zeros_like(cosine)
    for i, row in enumerate(cosine):
        near[i, np.argsort(-row)[:k]] = 1  # itself first
    s = normalised(near, alpha, 1 - alpha)
    p = (s @ s.T) ** power
    whole = np.zeros((features.n_items, features.n_items))
    whole[np.ix_(has, has)] = p - np.linalg.eigvalsh(p)[0] * np.eye(len(has))
    return whole


def by_hand(pairs, features, coefficients, weights, alpha=0.7, power=0.6, k=20):
    r = pairs.matrix().toarray().astype(np.float64)
    rt = normalised(r, alpha, 1 - alpha)
    p = (rt.T @ rt) ** power
    least, *_, most = np.linalg.eigvalsh(p)
    m = p - least * np.eye(len(p))
    f = sum(a / (most - least) ** n * np.linalg.matrix_power(m, n + 1) for n, a in enumerate(coefficients))
    return r @ (f + sum(w * content(features, name, alpha, power, k) for name, w in weights.items()))


@pytest.mark.parametrize("coefficients", [(0.5,), (1.0, -0.5), (-0.1, 1.1, -0.7), (1.5, 1.8, 0.7, -0.2)])
@pytest.mark.parametrize(("alpha", "power"), [(0.7, 0.6), (0.5, 1.0), (0.2, 1.3)])
def test_scores_equal_the_dense_formula(coefficients, alpha, power):
    pairs, features = draw()
    given = {"coefficients": coefficients, "asymmetry": alpha, "power": power, "content_weight": 0.3}
    wanted = by_hand(pairs, features, coefficients, {"a": 0.3, "b": 0.3}, alpha, power)
    np.testing.assert_allclose(scores(pairs, features, **given), wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("k", [1, 4, 500], ids=["itself alone", "a few", "more than there are"])
def test_modalities_add_by_their_weights(k):
    pairs, features = draw()
    given = {"num_item_neighbors": k, "content_weight": 2.0, "modality_weights": {"a": 0.1, "b": 0.7}}
    wanted = by_hand(pairs, features, (-0.1, 1.1, -0.7), {"a": 0.2, "b": 1.4}, k=k)
    np.testing.assert_allclose(scores(pairs, features, **given), wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("n", [20, 64, 65, 300], ids=["dense", "most dense", "fewest by Lanczos", "by Lanczos"])
def test_frequencies_come_from_the_same_ends_of_the_spectrum_at_any_size(n):
    pairs, features = draw(n_users=30, n_items=n, share=0.3)
    wanted = by_hand(pairs, features, (-0.1, 1.1, -0.7), {"a": 0.1, "b": 0.1})
    np.testing.assert_allclose(scores(pairs, features), wanted, atol=1e-5 * np.abs(wanted).max())


def test_users_in_blocks_score_as_all_at_once(monkeypatch):
    pairs, features = draw()
    whole = scores(pairs, features)
    monkeypatch.setattr("gtcrec.models.baselines.mmgf._USERS", 7)
    np.testing.assert_allclose(scores(pairs, features), whole, atol=1e-6 * np.abs(whole).max())


@pytest.mark.parametrize("given", [{}, {"content_weight": 0.0}], ids=["no modality", "no weight"])
def test_without_content_only_interactions_are_filtered(given):
    pairs, features = draw()
    features = features if given else ItemFeatures(pairs.n_items)
    wanted = by_hand(pairs, features, (-0.1, 1.1, -0.7), {})
    np.testing.assert_allclose(scores(pairs, features, **given), wanted, atol=1e-5 * np.abs(wanted).max())


def test_nothing_comes_from_a_modality_that_an_item_lacks():
    pairs, features = draw()
    alone, mixed = scores(pairs, features, content_weight=0.0), scores(pairs, features, content_weight=1.0)
    lacking = ~features.present["a"] & ~features.present["b"]
    assert lacking.any()
    np.testing.assert_allclose(mixed[:, lacking], alone[:, lacking], atol=1e-6 * np.abs(alone).max())
    assert not np.allclose(mixed, alone)


def test_without_interactions_all_scores_are_zero():
    _, features = draw()
    none = Interactions(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), 3, 90)
    assert not scores(none, features).any()


def test_a_modality_that_no_item_has_adds_nothing():
    pairs, features = draw(missing=1.1)
    alone = scores(pairs, features, content_weight=0.0)
    assert np.array_equal(scores(pairs, features, content_weight=1.0), alone)
