"""MGCN's own claims: views, purifier, fuser and contrast as the paper's formulas, over what items and users have."""

import math

import numpy as np
import pytest
import torch

from gtcrec import models
from gtcrec.errors import ConfigError
from gtcrec.ops.losses import cosine_info_nce
from gtcrec.ops.neighbors import cosine_graph
from gtcrec.types import ItemFeatures, Split
from helpers.training import a_batch


def make(split, seed=0, **given):
    config = models.make_config("mgcn", {"embedding_dim": 8, **given})
    return models.build_model("mgcn", split.train, split.features, config, seed)


def few(split):
    """Text of three items alone and image of ten of one colour, so that some users and items have one, or neither."""
    present = {"image": np.isin(np.arange(40), np.arange(0, 20, 2)), "text": np.isin(np.arange(40), [0, 4, 31])}
    values = {m: np.where(has[:, None], split.features.values[m], np.float32(0)) for m, has in present.items()}
    return Split(split.train, split.valid, split.final_test(), ItemFeatures(40, values, present), split.how)


def dense_view(x, present, k):
    """The symmetric-normalised graph of each item's k nearest, itself among them, from all cosines."""
    n = len(x)
    s = np.zeros((n, n))
    for i in np.flatnonzero(present):
        cosine = {j: x[i] @ x[j] / (np.linalg.norm(x[i]) * np.linalg.norm(x[j])) for j in np.flatnonzero(present)}
        cosine[i] = 1.0
        for j in sorted(cosine, key=lambda j: -cosine[j])[:k]:
            s[i, j] = max(cosine[j], 0.0)
    root = np.array([1 / math.sqrt(d) if d else 0.0 for d in s.sum(axis=1)])
    return root[:, None] * s * root


def parts_by_hand(model, split):
    """Weights, and z and c of users then items [n_users + n_items, dim], with who has any modality, in float64."""
    config, n_users = model.config, split.train.n_users
    p = {name: one.detach().double().requires_grad_() for name, one in model.named_parameters()}
    r = torch.zeros(n_users, split.train.n_items, dtype=torch.float64)
    r[split.train.users, split.train.items] = 1
    liked = r.bool()
    r = r / (r.sum(1, keepdim=True).clamp(min=1) * r.sum(0).clamp(min=1)).sqrt()
    a = torch.zeros(n_users + r.shape[1], n_users + r.shape[1], dtype=torch.float64)
    a[:n_users, n_users:], a[n_users:, :n_users] = r, r.T
    e = torch.cat([p["users"], p["items"]])
    z = sum(torch.linalg.matrix_power(a, hop) @ e for hop in range(config.num_layers + 1)) / (config.num_layers + 1)
    h, have = {}, {}
    for m, key in model.keys.items():
        x = split.features.values[m].astype(np.float64)
        y = torch.from_numpy(x)
        for part in ("projections", "gates"):
            y = y @ p[f"{part}.{key}.weight"].T + p[f"{part}.{key}.bias"]
        purified = p["items"] * torch.sigmoid(y)
        s = torch.from_numpy(dense_view(x, split.features.present[m], config.num_item_neighbors))
        items = torch.linalg.matrix_power(s, config.num_item_layers) @ purified
        h[m] = torch.cat([r @ items, items])
        on_items = torch.from_numpy(split.features.present[m])
        have[m] = torch.cat([(liked & on_items).any(1), on_items])
    rows = [fused(model, p, z[row], {m: h[m][row] for m in h if have[m][row]}) for row in range(len(z))]
    return p, z, torch.stack(rows), torch.stack(list(have.values())).any(0)


def fused(model, p, z, h):
    """c of one row with behaviour z [dim] and the modalities h {m: [dim]} that it has."""
    if not h:
        return torch.zeros_like(z)
    asked = {
        m: torch.exp(
            p["fuser.query.2.weight"][0] @ torch.tanh(p["fuser.query.0.weight"] @ one + p["fuser.query.0.bias"])
        )
        for m, one in h.items()
    }
    shared = sum(asked[m] * one for m, one in h.items()) / sum(asked.values())
    own = torch.zeros_like(z)
    for place, m in enumerate(model.keys):
        if m in h:
            rows = slice(place * len(z), (place + 1) * len(z))
            own = own + torch.sigmoid(p["fuser.preference.weight"][rows] @ z + p["fuser.preference.bias"][rows]) * (
                h[m] - shared
            )
    return (shared + own) / (1 + len(h))


def info_nce(content, behaviour, temperature):
    """Over all rows, repeated ones too, as the paper sums over the pairs of a batch."""
    a, b = (one / one.norm(dim=1, keepdim=True) for one in (content, behaviour))
    mass = torch.exp(a @ b.T / temperature)
    return -(torch.diagonal(mass) / mass.sum(1)).log().mean()


def loss_by_hand(model, split, batch):
    p, z, c, has = parts_by_hand(model, split)
    u, i, j = batch.users, 40 + batch.positives, 40 + batch.negatives
    full = z + c
    gap = (full[u] * full[i]).sum(1) - (full[u] * full[j]).sum(1)
    contrasts = [info_nce(c[side[has[side]]], z[side[has[side]]], model.config.temperature) for side in (u, i)]
    terms = {
        "bpr": -torch.log(torch.sigmoid(gap)).mean(),
        "contrast": model.config.contrast_weight * sum(contrasts),
        "reg": model.config.reg * sum(full[side].square().sum() for side in (u, i, j)) / (2 * len(u)),
    }
    return terms, p


@pytest.mark.parametrize("given", [{}, {"num_layers": 1, "num_item_layers": 2, "num_item_neighbors": 4}])
def test_the_score_is_behaviour_and_fused_content(given, checkerboard):
    split = few(checkerboard())
    model = make(split, **given)
    _, z, c, has = parts_by_hand(model, split)
    assert 0 < has[:40].sum() < 40
    assert 0 < has[40:].sum() < 40
    wanted = ((z + c)[:40] @ (z + c)[40:].T).detach().float()
    torch.testing.assert_close(model.scorer()(torch.arange(40)), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sparse_content", [False, True])
def test_loss_and_gradients_are_those_of_every_pair_s_own_rows(sparse_content, checkerboard):
    split = few(checkerboard()) if sparse_content else checkerboard()
    model, batch = make(split, contrast_weight=0.5, reg=0.1), a_batch(split)
    assert len(batch.users.unique()) < len(batch.users)
    found = model.loss(batch, torch.Generator())
    wanted, p = loss_by_hand(model, split, batch)
    assert set(found) == set(wanted)
    for term, value in found.items():
        assert value.item() == pytest.approx(wanted[term].item(), abs=1e-5), term
    sum(found.values()).backward()
    sum(wanted.values()).backward()
    for name, one in model.named_parameters():
        torch.testing.assert_close(one.grad, p[name].grad.float(), atol=2e-6, rtol=1e-3)


def test_an_item_without_content_is_scored_by_behaviour_alone(checkerboard):
    split = few(checkerboard())
    model = make(split)
    _, items = model.vectors()
    _, behaviour = model._behavior_vectors()
    assert torch.equal(items[35], behaviour[35])
    assert not torch.allclose(items[0], behaviour[0])


def test_one_modality_is_shared_whole_and_halved(checkerboard):
    split = checkerboard({"text": 5})
    model = make(split)
    h, z = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(6, 8)
    torch.testing.assert_close(model.fuser(z, h, torch.ones(6, 1, dtype=torch.bool)), h / 2)


def test_without_modalities_it_is_lightgcn(checkerboard):
    split = checkerboard({})
    light = models.build_model(
        "lightgcn",
        split.train,
        split.features,
        models.make_config("lightgcn", {"embedding_dim": 8, "num_layers": 2}),
        4,
    )
    model = make(split, seed=4)
    assert set(model.loss(a_batch(split), torch.Generator())) == {"bpr", "reg"}
    assert torch.equal(model.scorer()(torch.arange(40)), light.scorer()(torch.arange(40)))


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_an_item_view_is_the_dense_formula_s(missing, checkerboard):
    features = checkerboard(missing=missing).features
    for m in features.names:
        for k in (1, 5, 100):
            found = cosine_graph(features.values[m], features.present[m], k)
            wanted = dense_view(features.values[m].astype(np.float64), features.present[m], k)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found.toarray(), wanted, atol=1e-6)


def test_opposite_contents_are_no_neighbours_and_an_empty_one_keeps_itself():
    x = np.array([[1, 0], [-1, 0], [0, 0], [3, 4]], dtype=np.float32)
    present = np.array([True, True, True, False])
    assert cosine_graph(x, present, 3).toarray().tolist() == np.diag([1.0, 1.0, 1.0, 0.0]).tolist()
    assert cosine_graph(x, np.zeros(4, dtype=bool), 3).nnz == 0


def test_contrast_without_any_row_is_nothing_with_a_gradient_of_nothing():
    content, behaviour = (torch.ones(2, 3, requires_grad=True) for _ in range(2))
    loss = cosine_info_nce(content, behaviour, 0.2, torch.zeros(2, dtype=torch.int64))
    loss.backward()
    assert loss == 0
    assert torch.equal(content.grad, torch.zeros(2, 3))


def test_contrast_of_equal_rows_is_the_log_of_their_number():
    rows = torch.ones(3, 4)
    assert cosine_info_nce(rows, rows, 0.03, torch.tensor([5, 2, 1])).item() == pytest.approx(math.log(8), abs=1e-5)


@pytest.mark.parametrize("temperature", [0.03, 0.2])
def test_contrast_is_finite_at_any_cosine(temperature):
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    worst = cosine_info_nce(rows, -rows, temperature)
    assert worst.item() == pytest.approx(2 / temperature, rel=1e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 0.02}, "mgcn: temperature: .* greater than or equal to 0.03, found 0.02"),
        ({"num_item_neighbors": 0}, "mgcn: num_item_neighbors: .* greater than or equal to 1, found 0"),
    ],
)
def test_settings_out_of_range_are_refused(given, message, checkerboard):
    with pytest.raises(ConfigError, match=message):
        make(checkerboard(), **given)
