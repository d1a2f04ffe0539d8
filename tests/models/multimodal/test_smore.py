"""SMORE's own claims: its graphs, score and loss are the published formulas, and a missing modality adds nothing."""

import numpy as np
import pytest
import torch

from gtcrec import models
from gtcrec.errors import ConfigError
from gtcrec.ops.neighbors import cosine_graph
from gtcrec.types import ItemFeatures
from helpers.training import a_batch, check_bfloat16_terms, stream

DIM = 6


def make(split, features=None, seed=0, **given):
    config = models.make_config("smore", {"embedding_dim": DIM, "num_item_neighbors": 4, **given})
    return models.build_model("smore", split.train, features or split.features, config, seed)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def norm(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def linear(module, x):
    bias = 0 if module.bias is None else module.bias.detach().double().numpy()
    return x @ module.weight.detach().double().numpy().T + bias


def dense_graph(x, present, k):
    """D^-1/2 S D^-1/2 with each present row's k largest cosines, by sorting whole rows."""
    cosines = norm(np.where(present[:, None], x, 1)) @ norm(np.where(present[:, None], x, 1)).T
    s = np.zeros((len(x),) * 2)
    for a in np.flatnonzero(present):
        order = [b for b in np.argsort(-cosines[a]) if present[b]][:k]
        s[a, order] = np.maximum(cosines[a, order], 0)
    root = np.array([1 / np.sqrt(d) if d > 0 else 0 for d in s.sum(axis=1)])
    return root[:, None] * s * root


def by_hand(model, split, layers=3, item_layers=1, k=4):
    """Behaviour and side embeddings of users and items from dense matrices in float64."""
    n = split.train.n_users
    whole = np.zeros((n + split.train.n_items,) * 2)
    whole[split.train.users, n + split.train.items] = 1
    whole += whole.T
    root = 1 / np.sqrt(np.maximum(whole.sum(axis=1), 1))
    a = root[:, None] * whole * root
    items = model.items.detach().double().numpy()
    e0 = np.concatenate([model.users.detach().double().numpy(), items])
    e = sum(np.linalg.matrix_power(a, hop) @ e0 for hop in range(layers + 1)) / (layers + 1)

    def spread(key, spectrum, s):
        w = torch.view_as_complex(model.filters[key].detach()).numpy()
        c = np.fft.irfft(w * spectrum, n=DIM, norm="ortho")
        h = items * sigmoid(linear(model.content_gates[key], c))
        h = np.linalg.matrix_power(s, item_layers) @ h
        return np.concatenate([a[:n, n:] @ h, h])

    fused, s_fused, h = np.ones((split.train.n_items, DIM // 2 + 1), dtype=complex), 0, {}
    for m, key in model.keys.items():
        x, has = split.features.values[m].astype(float), split.features.present[m]
        spectrum = np.fft.rfft(linear(model.projections[key], x), norm="ortho")
        fused[has] *= spectrum[has]
        s = dense_graph(x, has, k)
        s_fused = np.maximum(s_fused, s)
        h[key] = spread(key, spectrum, s)
    h_fused = spread("fused", fused, s_fused)
    side = sigmoid(linear(model.behaviour_gates["fused"], e)) * h_fused
    for key in model.keys.values():
        first, _, second = model.queries[key]
        attention = softmax(linear(second, np.tanh(linear(first, h_fused))))
        side = side + sigmoid(linear(model.behaviour_gates[key], e)) * attention * h[key]
    side = side / (len(h) + 1)
    return (e[:n], e[n:]), (side[:n], side[n:])


def test_the_item_graph_is_the_dense_formula():
    rng = np.random.default_rng(3)
    x, present = rng.normal(size=(30, 7)).astype(np.float32) + 0.5, rng.random(30) < 0.7
    found = cosine_graph(x, present, 5).toarray()
    np.testing.assert_allclose(found, dense_graph(x, present, 5), atol=1e-6)
    assert not found[~present].any()
    assert not found[:, ~present].any()


@pytest.mark.parametrize(("layers", "item_layers"), [(3, 1), (1, 2)])
@pytest.mark.parametrize("widths", [{"image": 6, "text": 5}, {"a": 3, "b": 4, "c": 5}])
def test_the_score_is_the_paper_s_formula_from_dense_matrices(layers, item_layers, widths, checkerboard):
    split = checkerboard(widths, missing=0.3)
    model = make(split, num_layers=layers, num_item_layers=item_layers)
    e, side = by_hand(model, split, layers, item_layers)
    users, items = (one + other for one, other in zip(e, side, strict=True))
    found = model.scorer()(torch.arange(40)).double().numpy()
    np.testing.assert_allclose(found, users @ items.T, atol=1e-5)


def log_mass(a, b):
    """Mean over rows of -log softmax at the row itself, cosines over tau = 0.2."""
    logits = norm(a) @ norm(b).T / 0.2
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))


def test_the_loss_is_bpr_l2_and_the_contrast_of_all_rows_of_the_batch(checkerboard):
    split = checkerboard(missing=0.3)
    model, batch = make(split, contrast_weight=0.5, reg=0.1), a_batch(split)
    found = model.loss(batch, stream())
    e, side = by_hand(model, split)
    users, items = (one + other for one, other in zip(e, side, strict=True))
    u, i, j = users[batch.users], items[batch.positives], items[batch.negatives]
    assert found["bpr"].item() == pytest.approx(np.log1p(np.exp((u * j - u * i).sum(axis=1))).mean(), abs=1e-5)
    contrast = 0
    for k in (0, 1):
        rows = batch[k].numpy()
        assert len(np.unique(rows)) < len(rows)
        assert side[k][rows].any(axis=1).all() == (k == 0)
        rows = rows[side[k][rows].any(axis=1)]  # an item without content has nothing to contrast
        contrast += log_mass(side[k][rows], e[k][rows])
    assert found["contrast"].item() == pytest.approx(0.5 * contrast, abs=1e-4)
    squares = sum((rows**2).sum() for rows in (u, i, j))
    assert found["reg"].item() == pytest.approx(0.1 * squares / 2 / len(batch.users), rel=1e-5)


def test_in_bfloat16_the_terms_are_nearly_the_same(checkerboard):
    split = checkerboard(missing=0.3)
    check_bfloat16_terms(make(split, contrast_weight=0.5, reg=0.1), a_batch(split))


@pytest.mark.parametrize("temperature", [0.004, 0.2])
def test_the_contrast_is_finite_at_any_temperature(temperature, checkerboard):
    split = checkerboard()
    found = make(split, temperature=temperature).loss(a_batch(split), stream())["contrast"]
    assert 0 < found.item() < 1e3


def test_dropout_is_for_training_alone_and_its_stream_alone_decides(checkerboard):
    split = checkerboard()
    model, plain, batch = make(split, dropout=0.5), make(split), a_batch(split)
    assert torch.equal(model.scorer()(torch.arange(40)), plain.scorer()(torch.arange(40)))
    one, again, other = (model.loss(batch, stream(seed))["bpr"].item() for seed in (1, 1, 2))
    assert one == again
    assert len({one, other, plain.loss(batch, stream(1))["bpr"].item()}) == 3


def test_what_stands_in_an_absent_row_changes_nothing(checkerboard):
    split = checkerboard(missing=0.5)
    x, has = split.features.values, split.features.present
    other = {m: np.where(has[m][:, None], x[m], np.float32(9)) for m in x}
    one, two = (make(split, features) for features in (split.features, ItemFeatures(40, other, has)))
    assert torch.equal(one.scorer()(torch.arange(40)), two.scorer()(torch.arange(40)))
    batch = a_batch(split)
    assert {k: v.item() for k, v in one.loss(batch, stream()).items()} == {
        k: v.item() for k, v in two.loss(batch, stream()).items()
    }


def test_an_item_without_any_content_keeps_its_behaviour_alone(checkerboard):
    split = checkerboard(missing=0.6)
    has = np.any(list(split.features.present.values()), axis=0)
    assert not has.all()
    model = make(split)
    _, items = model.vectors()
    bare = torch.from_numpy(~has)
    assert torch.equal(items[bare], model._behavior_vectors().items[bare])
    assert not torch.equal(items, model._behavior_vectors().items)


def test_without_modalities_it_is_lightgcn(checkerboard):
    split = checkerboard({})
    light = models.build_model(
        "lightgcn", split.train, split.features, models.make_config("lightgcn", {"embedding_dim": DIM}), 4
    )
    model = make(split, seed=4)
    assert set(model.loss(a_batch(split), stream())) == {"bpr", "reg"}
    assert torch.equal(model.scorer()(torch.arange(40)), light.scorer()(torch.arange(40)))


def test_a_dim_without_a_spectrum_is_refused():
    with pytest.raises(ConfigError, match="smore: embedding_dim: Input should be greater than or equal to 2, found 1"):
        models.make_config("smore", {"embedding_dim": 1})
