"""LGMRec's own claims: its score and loss are the published formulas, and a missing modality adds nothing."""

import itertools

import numpy as np
import pytest
import torch

from gtcrec import models
from gtcrec.errors import ConfigError
from gtcrec.models.multimodal import lgmrec
from gtcrec.types import ItemFeatures
from helpers.training import a_batch, check_bfloat16_terms, stream

A, DIM, TAU = 3, 4, 0.2


def make(split, features=None, seed=0, **given):
    config = models.make_config("lgmrec", {"embedding_dim": DIM, "num_hyperedges": A, **given})
    return models.build_model("lgmrec", split.train, features or split.features, config, seed)


def norm(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def adjacency(split):
    """Symmetric-normalised adjacency over users and items, dense."""
    n = split.train.n_users
    whole = np.zeros((n + split.train.n_items,) * 2)
    whole[split.train.users, n + split.train.items] = 1
    whole += whole.T
    root = 1 / np.sqrt(np.maximum(whole.sum(axis=1), 1))
    return root[:, None] * whole * root


def weights(model, key):
    """The projection and the hyperedges of a modality."""
    both = model.projections[key].weight.detach().double().numpy()
    return both[:DIM], both[DIM:]


def by_hand(model, split, layers=2, hops=2, hyper=1, alpha=0.3, rng=None, dropout=0.0):
    """z of users and items, and each modality's global embeddings, from dense matrices in float64.

    Training draws noise and what is dropped of all modalities at once, the users' before the items'.
    """
    n, a = split.train.n_users, adjacency(split)
    r = split.train.matrix().toarray()
    e0 = np.concatenate([model.users.detach().double().numpy(), model.items.detach().double().numpy()])
    e = sum(np.linalg.matrix_power(a, hop) @ e0 for hop in range(layers + 1)) / (layers + 1)
    x = [np.where(split.features.present[m][:, None], split.features.values[m], 0) for m in split.features.names]
    has = [split.features.present[m] for m in split.features.names]
    keys = list(model.keys.values())
    item_logits = np.stack([c @ weights(model, key)[1].T for c, key in zip(x, keys, strict=True)])
    sides = []
    for logits, some in ((r @ item_logits, [r @ h > 0 for h in has]), (item_logits, has)):
        if rng is not None:
            logits = logits - np.log(torch.empty(logits.shape).exponential_(generator=rng).double().numpy())
        on = softmax(logits / TAU) * np.stack(some)[:, :, None]
        if rng is not None and dropout:
            on = on * (torch.rand(on.shape, generator=rng).numpy() >= dropout) / (1 - dropout)
        sides.append(on)
    z, glob = e.copy(), []
    for m, key in enumerate(keys):
        h = x[m] @ weights(model, key)[0].T
        means = (r @ h) / np.maximum(r @ has[m], 1)[:, None]
        z += norm(np.linalg.matrix_power(a, hops) @ np.concatenate([means, h]))
        items = e[n:]
        for _ in range(hyper):
            edges = sides[1][m].T @ items
            users, items = sides[0][m] @ edges, sides[1][m] @ edges
        glob.append(np.concatenate([users, items]))
    z += alpha * norm(sum(glob))
    return z[:n], z[n:], [(g[:n], g[n:]) for g in glob]


@pytest.mark.parametrize("hyper", [1, 3])
def test_the_score_is_the_paper_s_formula_from_dense_matrices(hyper, checkerboard):
    split = checkerboard(missing=0.3)
    model = make(split, num_hyper_layers=hyper, num_layers=3, num_content_layers=1, global_weight=0.7)
    users, items, _ = by_hand(model, split, layers=3, hops=1, hyper=hyper, alpha=0.7)
    found = model.scorer()(torch.arange(40)).double().numpy()
    np.testing.assert_allclose(found, users @ items.T, atol=2e-5)


def contrast_by_hand(globals_, has, rows, tau=TAU):
    """Sum over rows, repeated ones too, of -ln softmax over all who have the later modality; mean over pairs."""
    terms = []
    for m, other in itertools.combinations(range(len(globals_)), 2):
        logits = norm(globals_[m]) @ norm(globals_[other]).T / tau
        mass = np.log(np.exp(logits[:, has[other]]).sum(axis=1))
        both = rows[(has[m] & has[other])[rows]]
        terms.append((mass[both] - logits[both, both]).sum())
    return np.mean(terms)


@pytest.mark.parametrize("widths", [{"image": 6, "text": 5}, {"audio": 3, "image": 6, "text": 5}])
def test_the_loss_is_bpr_norms_and_the_contrast_of_the_global_embeddings_among_all(widths, checkerboard):
    split = checkerboard(widths, missing=0.3)
    model, batch = make(split, dropout=0.4, contrast_weight=0.5, reg=0.1), a_batch(split)
    found = model.loss(batch, stream(3))
    users, items, globals_ = by_hand(model, split, rng=stream(3), dropout=0.4)
    u, i, j = users[batch.users], items[batch.positives], items[batch.negatives]
    assert found["bpr"].item() == pytest.approx(np.log1p(np.exp((u * j - u * i).sum(axis=1))).mean(), abs=1e-5)
    has = np.stack(list(split.features.present.values()))
    assert not has.all(axis=0)[np.unique(batch.positives)].all()
    assert len(np.unique(batch.users)) < len(batch.users)
    some = (split.train.matrix() @ has.T.astype(float) > 0).T
    contrast = contrast_by_hand([g for g, _ in globals_], some, batch.users.numpy())
    contrast += contrast_by_hand([g for _, g in globals_], has, batch.positives.numpy())
    assert found["contrast"].item() == pytest.approx(0.5 * contrast, rel=1e-5)
    norms = sum(np.linalg.norm(rows) for rows in (u, i, j))
    assert found["reg"].item() == pytest.approx(0.1 * norms / len(batch.users), rel=1e-5)


def test_in_bfloat16_the_terms_are_nearly_the_same(checkerboard):
    split = checkerboard(missing=0.3)
    check_bfloat16_terms(make(split, contrast_weight=0.5, reg=0.1), a_batch(split))


def test_the_noise_is_gumbel_s():
    """Of logits with such noise the largest is drawn by their softmax."""
    noise = lgmrec._gumbel_noise(torch.Size([20_000, 3]), stream())
    logits = torch.tensor([0.0, 1.0, -1.0])
    shares = torch.bincount((logits + noise).argmax(dim=1), minlength=3) / len(noise)
    torch.testing.assert_close(shares, logits.softmax(dim=0), atol=0.01, rtol=0)
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)


def test_wide_contents_that_are_spread_in_every_step_give_the_same(checkerboard, monkeypatch):
    split = checkerboard({"image": 6, "text": 5}, missing=0.3)
    batch, found = a_batch(split), []
    for widest in (1024, 5, 0):  # none, one of two, both
        monkeypatch.setattr(lgmrec, "_WIDE", widest)
        model = make(split)
        sum(model.loss(batch, stream()).values()).backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
        found.append((len(model._embeddings(None).content), model.scorer()(torch.arange(40)), gradients))
    assert [wide for wide, _, _ in found] == [0, 1, 2]
    for _, scores, gradients in found[1:]:
        torch.testing.assert_close(scores, found[0][1])
        torch.testing.assert_close(gradients, found[0][2])


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


def test_an_item_without_a_modality_depends_on_none_of_its_hyperedges(checkerboard):
    split = checkerboard({"image": 6}, missing=0.5)
    model = make(split)
    on = model._embeddings(None).dependency.items[0]
    has = torch.from_numpy(split.features.present["image"])
    assert torch.equal(on[~has], torch.zeros(int((~has).sum()), A))
    torch.testing.assert_close(on[has].sum(dim=1), torch.ones(int(has.sum())))


def test_without_modalities_it_is_lightgcn(checkerboard):
    split = checkerboard({})
    light = models.build_model(
        "lightgcn",
        split.train,
        split.features,
        models.make_config("lightgcn", {"embedding_dim": DIM, "num_layers": 2}),
        4,
    )
    model = make(split, seed=4)
    assert set(model.loss(a_batch(split), stream())) == {"bpr", "reg"}
    assert torch.equal(model.scorer()(torch.arange(40)), light.scorer()(torch.arange(40)))


def test_one_modality_has_nothing_to_be_told_from(checkerboard):
    split = checkerboard({"image": 6})
    assert set(make(split).loss(a_batch(split), stream())) == {"bpr", "reg"}


def test_a_dropout_of_everything_is_refused():
    with pytest.raises(ConfigError, match="lgmrec: dropout: Input should be less than 1, found 1"):
        models.make_config("lgmrec", {"dropout": 1})
