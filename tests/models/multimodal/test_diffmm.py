"""DiffMM's own claims: score, loss and generated graphs are the formulas; a missing modality adds nothing.

That the formulas are those of its authors' code is shown in tests/parity.
"""

import numpy as np
import pytest
import torch

from gtcrec import models
from gtcrec.errors import ConfigError
from gtcrec.types import Interactions, ItemFeatures, Split
from helpers.training import a_batch, stream

DIM, N = 6, 40


def make(split, features=None, seed=0, **given):
    config = models.make_config("diffmm", {"embedding_dim": DIM, "hidden_dim": 16, "num_generated_items": 3, **given})
    return models.build_model("diffmm", split.train, features or split.features, config, seed)


def array(parameter):
    return parameter.detach().double().numpy()


def norm(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def adjacency(rows):
    """Symmetric-normalised adjacency with self-loops over users and items of a dense user-item matrix."""
    n_users, n_items = rows.shape
    whole = np.block([[np.eye(n_users), rows], [rows.T, np.eye(n_items)]])
    root = 1 / np.sqrt(whole.sum(axis=1))
    return root[:, None] * whole * root


def levels(steps=5):
    """The noise that grows evenly, but for a first beta of 1e-4: signal a_t and noise s_t, from betas."""
    kept = 1 - 0.1 * np.linspace(1e-4, 0.02, steps)
    betas = np.array([1e-4, *(1 - kept[1:] / kept[:-1])])
    return np.sqrt(np.cumprod(1 - betas)), np.sqrt(1 - np.cumprod(1 - betas)), betas


def level_weights():
    a, s, _ = levels()
    snr = a**2 / s**2
    return np.array([1, *(snr[:-1] - snr[1:])])


def denoised(model, key, xt, t):
    """The network's x_0 for rows at levels t [b]."""
    net = model.denoisers[key]
    angles = t[:, None] * 10_000.0 ** -(np.arange(5) / 5)
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    h = np.tanh(xt @ array(net.enter.weight).T + array(net.enter.bias) + waves @ array(net.level.weight).T)
    return h @ array(net.leave.weight).T + array(net.leave.bias)


def rebuilt(model, key, x):
    """The posterior's mean from the last level to the first, which starts at the rows themselves."""
    _, _, betas = levels(model.config.diffusion_steps)
    kept = np.cumprod(1 - betas)
    before = np.concatenate([[1], kept[:-1]])
    for t in reversed(range(len(betas))):
        clean = denoised(model, key, x, np.full(len(x), t))
        x = (
            betas[t] * np.sqrt(before[t]) / (1 - kept[t]) * clean
            + (1 - before[t]) * np.sqrt(1 - betas[t]) / (1 - kept[t]) * x
        )
    return x


def contents(model, split):
    """f_m, which the injection takes as it is and the rest normalised."""
    found = []
    for m, key in model.keys.items():
        h = split.features.values[m] @ array(model.projections[key].weight).T
        found.append(np.where(h > 0, h, 0.2 * h) * split.features.present[m][:, None])
    return found


def generated(model, x0):
    blocks = []
    for key in model.keys.values():
        best = np.argsort(-rebuilt(model, key, x0), axis=1)[:, : model.config.num_generated_items]
        rows = np.zeros_like(x0)
        np.put_along_axis(rows, best, 1, axis=1)
        blocks.append(adjacency(rows))
    return blocks


def by_hand(model, split, layers=1, lam=0.2, omega=0.5):
    """z and each modality's v, over users and items, from dense matrices in float64."""
    x0 = split.train.matrix().toarray().astype(float)
    a, e = adjacency(x0), np.concatenate([array(model.users), array(model.items)])
    powers = sum(np.linalg.matrix_power(a, hop) for hop in range(layers + 1))
    kappa = np.exp(array(model.mix)) / np.exp(array(model.mix)).sum()
    y, v = np.zeros_like(e), []
    for k, f, own in zip(kappa, contents(model, split), generated(model, x0), strict=True):
        told = a @ np.concatenate([e[:N], norm(f)])
        again = a @ np.concatenate([told[:N], e[N:]])
        y += k * (told + again + lam * own @ e)
        v.append(powers @ own @ np.concatenate([e[:N], norm(f)]))
    return powers @ y + omega * norm(y), v


@pytest.mark.parametrize("layers", [1, 2])
def test_the_score_is_the_paper_s_formula_from_dense_matrices(layers, checkerboard):
    split = checkerboard(missing=0.3)
    model = make(split, num_layers=layers, generated_graph_weight=0.4, residual_weight=0.7)
    with torch.no_grad():
        model.mix.copy_(torch.tensor([0.5, -0.5]))
    z, _ = by_hand(model, split, layers, lam=0.4, omega=0.7)
    np.testing.assert_allclose(model.scorer()(torch.arange(N)).numpy(), z[:N] @ z[N:].T, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_refresh_keeps_the_items_that_rebuilt_rows_hold_the_most_of(steps, checkerboard):
    split = checkerboard()
    model = make(split, diffusion_steps=steps)
    model.refresh()
    x0 = split.train.matrix().toarray().astype(float)
    for m, key in enumerate(model.keys.values()):
        expected = np.argsort(-rebuilt(model, key, x0), axis=1)[:, :3]
        np.testing.assert_array_equal(np.sort(model.chosen[m].numpy()), np.sort(expected))


def test_a_refresh_leaves_out_a_share_of_the_directed_edges_and_scales_up_the_rest(checkerboard):
    model = make(checkerboard(), edge_dropout=0.25)
    model.refresh()
    scales = model.edge_scales
    assert scales.shape == (2, 2 * N * 3 + 2 * N)  # there and back, and a self-loop for each user and item
    assert sorted(scales.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert (scales == 0).float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert not torch.equal(scales[:, : 3 * N], scales[:, 3 * N : 6 * N])
    before = scales.clone()
    model.refresh()
    assert not torch.equal(before, scales)


def test_a_model_with_loaded_weights_draws_the_edges_that_the_saved_one_would_have_drawn(checkerboard):
    model, other = make(checkerboard()), make(checkerboard(), seed=5)
    model.refresh()
    other.load_state_dict(model.state_dict())
    model.refresh()
    other.refresh()
    assert torch.equal(model.edge_scales, other.edge_scales)


def test_weights_of_version_0_1_load_with_whole_generated_graphs(checkerboard):
    model, other = make(checkerboard(), edge_dropout=0.0), make(checkerboard(), seed=5)
    model.refresh()
    other.refresh()
    weights = model.state_dict()
    del weights["edge_scales"], weights["next_draw"]
    other.load_state_dict(weights)
    assert torch.equal(model.scorer()(torch.arange(N)), other.scorer()(torch.arange(N)))


def test_scores_use_the_graphs_of_the_last_refresh_and_these_are_saved(checkerboard):
    split = checkerboard()
    model, other = make(split), make(split, seed=5)
    model.refresh()
    held = model.scorer()(torch.arange(N))
    with torch.no_grad():
        for key in model.keys.values():
            model.denoisers[key].leave.weight.mul_(-1)
    assert torch.equal(held, model.scorer()(torch.arange(N)))
    other.load_state_dict(model.state_dict())
    assert torch.equal(held, other.scorer()(torch.arange(N)))
    model.refresh()
    assert not torch.equal(held, model.scorer()(torch.arange(N)))


def log_mass(a, b, rows, among):
    """Mean over rows of -log softmax at the row itself among those of `among`, cosines over tau = 0.5."""
    logits = norm(a[rows]) @ norm(b).T / 0.5
    return np.mean(np.log(np.exp(logits[:, among]).sum(axis=1)) - logits[np.arange(len(rows)), rows])


@pytest.mark.parametrize("contrast", ["modalities", "main"])
def test_the_loss_is_bpr_and_the_contrast_of_the_views(contrast, checkerboard):
    split = checkerboard(missing=0.3)
    model, batch = make(split, contrast_views=contrast, contrast_weight=0.5, reg=0.1), a_batch(split)
    found = model.loss(batch, stream())
    z, (image, text) = by_hand(model, split)
    u, i, j = z[batch.users], z[N + batch.positives], z[N + batch.negatives]
    assert found["bpr"].item() == pytest.approx(np.log1p(np.exp((u * j - u * i).sum(axis=1))).mean(), abs=1e-5)
    has, everyone = split.features.present, np.ones(N, dtype=bool)
    pairs = [(image, text, has["image"], has["text"])]
    if contrast == "main":
        pairs = [(z, image, everyone, has["image"]), (z, text, everyone, has["text"])]
    users, positives = batch.users.numpy(), batch.positives.numpy()
    assert len(np.unique(users)) < len(users)  # repeats count
    total = 0
    for a, b, anchored, some in pairs:
        total += log_mass(a[:N], b[:N], users, everyone)
        total += log_mass(a[N:], b[N:], positives[(anchored & some)[positives]], some)
    assert found["contrast"].item() == pytest.approx(0.5 * total, abs=1e-4)
    squares = sum(e.detach().double().square().sum().item() for e in (model.users, model.items))
    assert found["reg"].item() == pytest.approx(0.1 * squares, rel=1e-5)


def test_without_an_item_of_two_modalities_the_contrast_is_over_users(checkerboard):
    split, half = checkerboard(), np.arange(N) < N // 2
    features = ItemFeatures(N, split.features.values, {"image": half, "text": ~half})
    split = Split(split.train, split.valid, split.final_test(), features, split.how)
    model, batch = make(split, contrast_weight=0.5), a_batch(split)
    _, (image, text) = by_hand(model, split)
    expected = 0.5 * log_mass(image[:N], text[:N], batch.users.numpy(), np.ones(N, dtype=bool))
    assert model.loss(batch, stream())["contrast"].item() == pytest.approx(expected, abs=1e-4)


def test_three_modalities_have_three_pairs_of_contrast(checkerboard):
    split = checkerboard({"a": 3, "b": 4, "c": 5})
    model, batch = make(split, contrast_weight=1.0), a_batch(split)
    _, views = by_hand(model, split)
    everyone, total = np.ones(N, dtype=bool), 0
    for one, other in ((0, 1), (0, 2), (1, 2)):
        for side, rows in enumerate((batch.users.numpy(), batch.positives.numpy())):
            a, b = (views[m][side * N : (side + 1) * N] for m in (one, other))
            total += log_mass(a, b, rows, everyone)
    assert model.loss(batch, stream())["contrast"].item() == pytest.approx(total, abs=1e-4)


def test_the_denoisers_loss_is_the_bound_and_the_injected_signal(checkerboard):
    split = checkerboard(missing=0.3)
    model = make(split, injection_weight=30.0, denoiser_dropout=0.25)
    users = torch.tensor([3, 1, 4, 15, 9, 2, 6])
    found = model.denoising_loss(users, stream(2))

    rng = stream(2)
    x0 = split.train.matrix().toarray()[users].astype(float)
    diffusion = injection = 0
    for key, f in zip(model.keys.values(), contents(model, split), strict=True):
        t = torch.randint(5, (7,), generator=rng).numpy()
        eps = torch.randn(7, N, generator=rng).double().numpy()
        kept = (torch.rand(7, N, generator=rng) >= 0.25).numpy()
        a, s, _ = levels()
        clean = denoised(model, key, (a[t, None] * x0 + s[t, None] * eps) * kept / 0.75, t)
        diffusion += (level_weights()[t] * ((clean - x0) ** 2).mean(axis=1)).mean()
        injection += 30 * ((clean @ f - x0 @ array(model.items)) ** 2).mean()
    assert found["diffusion"].item() == pytest.approx(diffusion, rel=1e-4)
    assert found["injection"].item() == pytest.approx(injection, rel=1e-4)


@pytest.mark.parametrize("most", [1024, 3])
def test_a_step_diffuses_as_large_a_share_of_the_users_as_it_has_of_the_pairs(most, checkerboard):
    split = checkerboard()
    model, batch, asked = make(split, denoising_batch_size=most), a_batch(split), []
    model.denoising_loss = lambda users, rng: asked.append(users) or {}
    model.loss(batch, stream(1))
    model.loss(batch, stream(2))
    expected = min(most, -(-len(batch.users) * N // len(split.train)))
    assert [len(users.unique()) for users in asked] == [expected, expected]
    assert not torch.equal(*asked)


def test_denoisers_start_as_the_published_ones(checkerboard):
    """Xavier-normal, the row and the level's ten numbers entering one layer; biases of deviation .001."""
    net = make(checkerboard(), hidden_dim=1000).denoisers["0_image"]
    for weight, std in ((net.enter.weight, (2 / 1050) ** 0.5), (net.leave.weight, (2 / 1040) ** 0.5)):
        assert weight.std().item() == pytest.approx(std, rel=0.02)
    assert net.level.weight.std().item() == pytest.approx((2 / 1050) ** 0.5, rel=0.05)
    assert net.enter.bias.std().item() == pytest.approx(1e-3, rel=0.1)


def test_training_teaches_the_denoiser_whose_items_are_liked(checkerboard):
    split = checkerboard()
    model = make(split, diffusion_steps=2)
    optimizer = torch.optim.Adam(model.denoisers.parameters(), lr=0.01)
    for step in range(150):
        optimizer.zero_grad()
        sum(model.denoising_loss(torch.arange(N), stream(step)).values()).backward()
        optimizer.step()
    model.refresh()
    own_color = (model.chosen + torch.arange(N)[:, None]) % 2 == 0
    assert own_color.float().mean() > 0.95


def test_what_stands_in_an_absent_row_changes_nothing(checkerboard):
    split = checkerboard(missing=0.5)
    x, has = split.features.values, split.features.present
    other = {m: np.where(has[m][:, None], x[m], np.float32(9)) for m in x}
    one, two = (make(split, features) for features in (split.features, ItemFeatures(N, other, has)))
    assert torch.equal(one.scorer()(torch.arange(N)), two.scorer()(torch.arange(N)))
    batch = a_batch(split)
    assert {k: v.item() for k, v in one.loss(batch, stream()).items()} == {
        k: v.item() for k, v in two.loss(batch, stream()).items()
    }


def test_without_modalities_it_is_propagation_and_its_start(checkerboard):
    split = checkerboard({})
    model = make(split)
    e = np.concatenate([array(model.users), array(model.items)])
    a = adjacency(split.train.matrix().toarray().astype(float))
    z = e + a @ e + 0.5 * norm(e)
    np.testing.assert_allclose(model.scorer()(torch.arange(N)).numpy(), z[:N] @ z[N:].T, atol=1e-5)
    assert set(model.loss(a_batch(split), stream())) == {"bpr", "reg"}


def test_a_user_keeps_no_more_items_than_there_are():
    pairs = Interactions(np.array([0, 1, 1]), np.array([0, 0, 1]), 2, 3)
    features = ItemFeatures(3, {"text": np.eye(3, dtype=np.float32)}, {"text": np.ones(3, dtype=bool)})
    model = models.build_model(
        "diffmm", pairs, features, models.make_config("diffmm", {"hidden_dim": 4, "num_generated_items": 9}), 0
    )
    model.refresh()
    assert model.chosen.sort().values.tolist() == [[[0, 1, 2], [0, 1, 2]]]


def test_a_catalogue_whose_denoisers_need_too_much_memory_is_refused_with_the_need(checkerboard):
    # 4 bytes * 40 items * (2 modalities * 4 * 2 layers * 1000 + 40 users * 13) = 2.64e6 bytes
    expected = (
        r"diffmm: 2 denoisers of hidden_dim=1000 for 40 items and their rows need 0.00246 GiB, "
        "max_memory_gib allows 0.001; lower hidden_dim or denoising_batch_size, or raise it"
    )
    with pytest.raises(ConfigError, match=expected):
        make(checkerboard(), hidden_dim=1000, max_memory_gib=0.001)


@pytest.mark.parametrize("preset", ["published", "tiktok", "baby", "sports"])
def test_the_published_presets_have_wide_denoisers(preset):
    config = models.make_config("diffmm", {}, preset)
    assert (config.hidden_dim, config.diffusion_steps, config.num_generated_items) == (1000, 5, 1)


def test_noise_that_falls_is_refused():
    with pytest.raises(ConfigError, match=r"diffmm: noise_max must be at least noise_min=0\.5, found 0\.02"):
        models.make_config("diffmm", {"noise_min": 0.5})


def test_settings_of_version_0_1_are_read():
    config = models.make_config("diffmm", {"generation_steps": 1, "denoised_users": 128, "contrast": "main"})
    assert (config.denoising_batch_size, config.contrast_views) == (128, "main")
