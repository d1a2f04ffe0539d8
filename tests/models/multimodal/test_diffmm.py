"""DiffMM's own claims: score, loss and generated graphs are the paper's; a missing modality adds nothing."""

import numpy as np
import pytest
import torch

from gtcrec import models
from gtcrec.errors import ConfigError
from gtcrec.models.multimodal.diffmm import DiffMMConfig, interaction_schedule, step_weights
from gtcrec.types import Interactions, ItemFeatures
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
    """Symmetric-normalised adjacency over users and items of a dense user-item matrix."""
    n_users, n_items = rows.shape
    whole = np.block([[np.zeros((n_users, n_users)), rows], [rows.T, np.zeros((n_items, n_items))]])
    root = 1 / np.sqrt(np.maximum(whole.sum(axis=1), 1))
    return root[:, None] * whole * root


def levels(steps=5):
    """Signal a_t and noise s_t of the published schedule."""
    variance = 0.1 * np.linspace(1e-4, 0.02, steps)
    return np.sqrt(1 - variance), np.sqrt(variance)


def denoised(model, key, xt, t):
    """The network's x_0 for rows at levels t [b]."""
    net = model.denoisers[key]
    angles = t[:, None] * 10_000.0 ** -(np.arange(5) / 5)
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    h = np.tanh(xt @ array(net.enter.weight).T + array(net.enter.bias) + waves @ array(net.level.weight).T)
    return h @ array(net.leave.weight).T + array(net.leave.bias)


def rebuilt(model, key, x0, steps=1):
    """DDIM from the last level, on which x_0 has no noise; its levels are every fifth share of those five."""
    (a, s), x = levels(), levels()[0][4] * x0
    visited = {1: [4], 2: [4, 2], 5: [4, 3, 2, 1, 0]}[steps]
    for place, t in enumerate(visited):
        clean = denoised(model, key, x, np.full(len(x), t))
        if place + 1 < len(visited):
            after = visited[place + 1]
            x = a[after] * clean + s[after] * (x - a[t] * clean) / s[t]
    return clean


def contents(model, split):
    found = []
    for m, key in model.keys.items():
        h = split.features.values[m] @ array(model.projections[key].weight).T
        found.append(norm(np.where(h > 0, h, 0.2 * h)) * split.features.present[m][:, None])
    return found


def generated(model, x0, steps=1):
    blocks = []
    for key in model.keys.values():
        best = np.argsort(-rebuilt(model, key, x0, steps), axis=1)[:, : model.config.num_generated_items]
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
        told = a @ np.concatenate([e[:N], f])
        again = a @ np.concatenate([told[:N], e[N:]])
        y += k * (told + again + lam * own @ e)
        v.append(powers @ own @ np.concatenate([e[:N], f]))
    return powers @ y + omega * norm(y), v


@pytest.mark.parametrize("layers", [1, 2])
def test_the_score_is_the_paper_s_formula_from_dense_matrices(layers, checkerboard):
    split = checkerboard(missing=0.3)
    model = make(split, num_layers=layers, generated_graph_weight=0.4, residual_weight=0.7)
    with torch.no_grad():
        model.mix.copy_(torch.tensor([0.5, -0.5]))
    z, _ = by_hand(model, split, layers, lam=0.4, omega=0.7)
    np.testing.assert_allclose(model.scorer()(torch.arange(N)).numpy(), z[:N] @ z[N:].T, atol=1e-5)


def test_the_noise_grows_evenly_and_the_weights_are_those_of_the_bound():
    schedule = interaction_schedule(DiffMMConfig())
    a, s = levels()
    np.testing.assert_allclose(schedule.signal.numpy(), a, rtol=1e-6)
    np.testing.assert_allclose(schedule.noise.numpy(), s, rtol=1e-5)
    snr = a**2 / s**2
    np.testing.assert_allclose(step_weights(schedule).numpy(), [1, *(snr[:-1] - snr[1:]) / 2], rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_refresh_keeps_the_items_that_rebuilt_rows_hold_the_most_of(steps, checkerboard):
    split = checkerboard()
    model = make(split, generation_steps=steps)
    model.refresh()
    x0 = split.train.matrix().toarray().astype(float)
    for m, key in enumerate(model.keys.values()):
        wanted = np.argsort(-rebuilt(model, key, x0, steps), axis=1)[:, :3]
        np.testing.assert_array_equal(np.sort(model.chosen[m].numpy()), np.sort(wanted))


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


def log_mass(a, b):
    """Mean over rows of -log softmax at the row itself, cosines over tau = 0.5."""
    logits = norm(a) @ norm(b).T / 0.5
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))


@pytest.mark.parametrize("contrast", ["modalities", "main"])
def test_the_loss_is_bpr_and_the_contrast_of_the_views(contrast, checkerboard):
    split = checkerboard(missing=0.3)
    model, batch = make(split, contrast_views=contrast, contrast_weight=0.5, reg=0.1), a_batch(split)
    found = model.loss(batch, stream())
    z, (image, text) = by_hand(model, split)
    u, i, j = z[batch.users], z[N + batch.positives], z[N + batch.negatives]
    assert found["bpr"].item() == pytest.approx(np.log1p(np.exp((u * j - u * i).sum(axis=1))).mean(), abs=1e-5)
    has = split.features.present
    who, liked = np.unique(batch.users.numpy()), np.unique(batch.positives.numpy())
    pairs = [(image, text, has["image"] & has["text"])]
    if contrast == "main":
        pairs = [(z, image, has["image"]), (z, text, has["text"])]
    total = 0
    for a, b, some in pairs:
        for rows in (who, N + liked[some[liked]]):
            total += (log_mass(a[rows], b[rows]) + log_mass(b[rows], a[rows])) / 2 / len(pairs)
    assert found["contrast"].item() == pytest.approx(0.5 * total, abs=1e-4)
    rows = model.users[batch.users], model.items[batch.positives], model.items[batch.negatives]
    squares = sum(row.detach().double().square().sum().item() for row in rows)
    assert found["reg"].item() == pytest.approx(0.1 * squares / 2 / len(batch.users), rel=1e-5)


def test_the_diffusion_loss_is_the_bound_and_the_injected_signal(checkerboard):
    split = checkerboard(missing=0.3)
    model, batch = make(split, denoising_batch_size=7, injection_weight=30.0), a_batch(split)
    found = model.loss(batch, stream(2))["diffusion"].item()

    rng = stream(2)
    users = batch.users.unique()
    users = users[torch.randperm(len(users), generator=rng)[:7]].numpy()
    t = torch.randint(5, (7,), generator=rng).numpy()
    eps = torch.randn(7, N, generator=rng).double().numpy()
    a, s = levels()
    x0 = split.train.matrix().toarray()[users].astype(float)
    xt = a[t, None] * x0 + s[t, None] * eps
    snr = a**2 / s**2
    w = np.array([1, *(snr[:-1] - snr[1:]) / 2])[t]
    total = 0
    for key, f in zip(model.keys.values(), contents(model, split), strict=True):
        clean = denoised(model, key, xt, t)
        total += (w * ((clean - x0) ** 2).mean(axis=1)).mean()
        total += 30 * ((clean @ f - x0 @ array(model.items)) ** 2).mean()
    assert found == pytest.approx(total, rel=1e-4)


def test_the_diffusion_loss_moves_the_denoisers_alone(checkerboard):
    split = checkerboard()
    model = make(split)
    model.loss(a_batch(split), stream())["diffusion"].backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved == {name for name, _ in model.named_parameters() if name.startswith("denoisers.")}


def test_training_teaches_the_denoiser_whose_items_are_liked(checkerboard):
    split = checkerboard()
    model = make(split, denoising_batch_size=40, diffusion_steps=2)
    optimizer = torch.optim.Adam(model.denoisers.parameters(), lr=0.01)
    users, f = torch.arange(N), [one.detach() for one in model._modality_content()]
    for step in range(150):
        optimizer.zero_grad()
        model._diffusion_loss(users, f, stream(step)).backward()
        optimizer.step()
    model.refresh()
    own_colour = (model.chosen + torch.arange(N)[:, None]) % 2 == 0
    assert own_colour.float().mean() > 0.95


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
    # 4 bytes * 40 items * (2 modalities * 4 * 2 layers * 1000 + 128 rows * 9) = 2.62e6 bytes
    wanted = (
        r"diffmm: 2 denoisers of hidden_dim=1000 for 40 items and their rows need 0.00256 GiB, "
        "max_memory_gib allows 0.001; lower hidden_dim or denoising_batch_size, or raise it"
    )
    with pytest.raises(ConfigError, match=wanted):
        make(checkerboard(), hidden_dim=1000, max_memory_gib=0.001)


def test_the_published_preset_rebuilds_rows_in_all_steps_with_wide_denoisers():
    config = models.make_config("diffmm", {}, "published")
    assert (config.hidden_dim, config.generation_steps, config.diffusion_steps) == (1000, 5, 5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"noise_min": 0.5}, "diffmm: noise_max must be at least noise_min=0.5, found 0.02"),
        ({"generation_steps": 6}, "diffmm: generation_steps must be at most diffusion_steps=5, found 6"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        models.make_config("diffmm", given)
