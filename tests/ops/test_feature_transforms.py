"""Content: its projection and its directions in closed form, in blocks and from disk, and the denoisers' error."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gtcrec.errors import DataError
from gtcrec.models.gtc.config import GTCConfig, noise_levels
from gtcrec.models.gtc.embedding.denoising import denoising_errors, denoising_terms, sample_pairs
from gtcrec.ops import feature_transforms as content
from gtcrec.ops.feature_transforms import ContentProjection, directions


def projection(x, present, dim=4):
    torch.manual_seed(0)
    return ContentProjection(x, present, dim)


def turned(x, present, width):
    return directions(x, present, width)(x, present)


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(3.0, 5.0, size=(9, 6)).astype(np.float32)


@pytest.fixture
def present():
    return np.array([True] * 7 + [False] * 2)


def test_projected_content_is_the_standardised_content_in_closed_form(x, present, monkeypatch):
    x[:, 2] = 7.0  # a constant column counts as 0
    items = torch.tensor([4, 0, 8, 0, 6])
    model = projection(x, present)
    have = x[present].astype(np.float64)
    spread = have.std(axis=0)
    spread[2] = np.inf
    weight, bias = (p.detach().double().numpy() for p in (model.linear.weight, model.linear.bias))
    expected = ((x - have.mean(axis=0)) / spread) @ weight.T + bias
    expected = (expected - expected.mean(axis=1, keepdims=True)) / np.sqrt(expected.var(axis=1, keepdims=True) + 1e-5)
    expected[~present] = 0
    for numbers in (1 << 20, 12):  # all at once, and two rows at a time
        monkeypatch.setattr(content, "_BLOCK_NUMBERS", numbers)
        np.testing.assert_allclose(model(items).detach(), expected[items], atol=2e-5)


def test_its_gradient_is_that_of_a_plain_linear_layer(x, present, monkeypatch):
    monkeypatch.setattr(content, "_BLOCK_NUMBERS", 12)
    model = projection(x, present)
    items = torch.tensor([1, 3, 3, 5, 8])
    model(items).pow(3).sum().backward()
    found = [p.grad.clone() for p in (model.linear.weight, model.linear.bias)]
    model.zero_grad()
    scaled = (model.x[items] - model.mean) * model.inverse
    h = torch.nn.functional.layer_norm(model.linear(scaled), (4,))
    h[model.present[items]].pow(3).sum().backward()
    for one, expected in zip(found, (model.linear.weight.grad, model.linear.bias.grad), strict=True):
        torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-4)


def test_a_memory_mapped_matrix_is_used_where_it_lies(x, present, tmp_path: Path):
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="c")
    model = projection(mapped, present)
    assert model.x.data_ptr() == mapped.ctypes.data
    torch.testing.assert_close(model(torch.arange(9)), projection(x, present)(torch.arange(9)))


def test_content_of_no_item_at_all_is_zero(x):
    model = projection(x, np.zeros(9, dtype=bool))
    assert model(torch.arange(9)).abs().sum() == 0


@pytest.mark.parametrize("width", [4, 6, 9])
def test_directions_are_whitened_over_the_present_items_and_zero_elsewhere(width, present):
    x = np.random.default_rng(0).normal(3.0, 5.0, size=(9, 6)).astype(np.float32)
    x[7:] = 99.0  # absent
    y = turned(x, present, width).numpy()
    assert y.shape == (9, min(width, 6))
    assert np.abs(y[~present]).max() == 0
    np.testing.assert_allclose(y[present].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose((y[present] ** 2).mean(axis=0), 1, atol=1e-4)
    if width < 6:  # principal components are uncorrelated too
        np.testing.assert_allclose(y[present].T @ y[present] / 7, np.eye(width), atol=1e-3)


def test_content_no_wider_than_asked_keeps_its_columns(x, present):
    have = x[present].astype(np.float64)
    expected = (x - have.mean(axis=0)) / have.std(axis=0)
    np.testing.assert_allclose(turned(x, present, 6)[present], expected[present], atol=1e-5)


def spectrum(n=300, d=40, seed=0):
    """Content whose standardised columns have clearly different principal variances; 250 of 300 items are present."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 10)) * 2.0 ** -np.arange(10)
    x = hidden @ rng.normal(size=(10, d)) + 0.02 * rng.normal(size=(n, d)) + 7.0
    return x.astype(np.float32), np.arange(n) < 250


def test_wider_content_becomes_its_principal_components(monkeypatch):
    x, present = spectrum()
    have = x[present].astype(np.float64)
    z = (have - have.mean(axis=0)) / have.std(axis=0)
    left = np.linalg.svd(z, full_matrices=False)[0][:, :5] * np.sqrt(250)  # [250, 5]
    for numbers in (1 << 20, 100):  # all at once, and two rows at a time
        monkeypatch.setattr(content, "_BLOCK_NUMBERS", numbers)
        y = turned(x, present, 5)[present].numpy()
        np.testing.assert_allclose(y * np.sign((y * left).sum(axis=0)), left, atol=1e-3)


def test_blocks_of_rows_change_no_direction_beyond_rounding(monkeypatch):
    x, present = spectrum()
    whole = turned(x, present, 5)
    monkeypatch.setattr(content, "_BLOCK_NUMBERS", 100)
    torch.testing.assert_close(turned(x, present, 5), whole, atol=1e-4, rtol=0)


def test_constant_columns_are_zero_directions(x, present):
    x[:, 2] = 7.0
    assert turned(x, present, 6)[:, 2].abs().max() == 0
    assert turned(x, present, 6)[:, 3].abs().max() > 0
    everywhere = np.full((9, 6), 3.0, dtype=np.float32)
    assert turned(everywhere, present, 4).abs().max() == 0


def test_fewer_items_than_directions_give_as_many_as_they_can(x, present):
    wide = np.random.default_rng(1).normal(size=(9, 30)).astype(np.float32)
    y = turned(wide, present, 20)[present]
    assert y.shape == (7, 7)  # seven items have no more directions
    assert y.isfinite().all()
    whole = (y[:, :6].T @ y[:, :6] / 7).numpy()  # and differ in six
    np.testing.assert_allclose(whole, np.eye(6), atol=1e-3)


def test_directions_of_no_item_are_zero(x):
    assert turned(x, np.zeros(9, dtype=bool), 4).abs().sum() == 0


def test_the_schedule_is_the_one_asked_for():
    linear = noise_levels(GTCConfig(diffusion_steps=7, beta_start=0.01, beta_end=0.5))
    torch.testing.assert_close(linear.signal[0], torch.tensor(0.99).sqrt())
    torch.testing.assert_close(linear.signal[1], torch.tensor(0.99 * (1 - 0.01 - 0.49 / 6)).sqrt())


@pytest.mark.parametrize(("most", "n", "expected"), [(3, 10, 3), (0, 10, 10), (10, 10, 10), (20, 10, 10)])
def test_the_denoising_loss_is_over_some_of_the_pairs_once_each(most, n, expected):
    drawn = sample_pairs(GTCConfig(denoised_pairs=most), n, torch.Generator().manual_seed(0))
    assert len(drawn.unique()) == len(drawn) == expected
    assert set(drawn.tolist()) <= set(range(n))


def test_the_denoising_error_is_the_mean_over_present_rows():
    """Of a denoiser that always says one, against loops over rows."""
    schedule = noise_levels(GTCConfig())
    x0, has = torch.randn(50, 3, generator=torch.Generator().manual_seed(1)), torch.arange(50) % 3 != 0
    seen = []

    def one(xt, t):
        seen.append((xt, t))
        return torch.ones_like(xt)

    found = denoising_errors(schedule, x0, has, torch.Generator().manual_seed(0), one, lambda xt, t: one(xt, t))
    assert torch.equal(found[0], found[1])
    (xt, t), (same, level) = seen
    assert torch.equal(xt, same)
    assert torch.equal(t, level)
    rows = []
    for i in has.nonzero().flatten().tolist():
        a, s = schedule.signal[t[i]].double(), schedule.noise[t[i]].double()
        eps = (xt[i] - a * x0[i]) / s
        rows.append(float((1 - eps).square().mean()))
    assert found[0].item() == pytest.approx(np.mean(rows), rel=1e-4)


def test_denoising_without_present_rows_costs_nothing():
    nobody = torch.zeros(4, dtype=torch.bool)
    errors = denoising_errors(
        noise_levels(GTCConfig()), torch.ones(4, 3), nobody, torch.Generator().manual_seed(0), lambda xt, t: xt
    )
    assert [error.item() for error in errors] == [0.0]


def test_the_denoising_terms_are_weighted_means_over_modalities():
    errors = [[torch.tensor(1.0), torch.tensor(10.0)], [torch.tensor(3.0), torch.tensor(30.0)]]
    config = GTCConfig(diffusion_weight=0.5, pair_diffusion_weight=0.25)
    assert denoising_terms(config, errors) == {"diffusion": 1.0, "pair": 5.0}
    assert denoising_terms(config, [one[:1] for one in errors]) == {"diffusion": 1.0}
    assert denoising_terms(GTCConfig(diffusion_weight=0, pair_diffusion_weight=0.25), errors) == {"pair": 5.0}


def test_new_content_turns_into_directions_as_the_content_that_they_were_made_of(x, present):
    made = directions(x, present, 4)
    whole = made(x, present)
    torch.testing.assert_close(made(x[2:5], present[2:5]), whole[2:5], atol=1e-6, rtol=0)
    assert made(x[:2], np.array([True, False]))[1].abs().sum() == 0


def test_new_content_of_another_width_is_refused(x, present):
    with pytest.raises(DataError, match="expected content of width 6, found 3"):
        directions(x, present, 4)(x[:, :3], present)
