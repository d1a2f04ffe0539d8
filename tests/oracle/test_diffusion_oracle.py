"""Diffusion against closed forms."""

import math

import pytest
import torch

from gtcrec import diffusion


def test_the_linear_schedule_equals_the_product_written_out():
    schedule = diffusion.linear_schedule(600, 1e-4, 0.01)
    kept = 1.0
    for t in range(600):
        kept *= 1 - (1e-4 + (0.01 - 1e-4) * t / 599)
        if t in (0, 300, 599):
            assert schedule.signal[t].item() == pytest.approx(math.sqrt(kept), abs=1e-6)
            assert schedule.noise[t].item() == pytest.approx(math.sqrt(1 - kept), abs=1e-6)


def test_clean_undoes_add_noise():
    schedule, rng = diffusion.linear_schedule(100, 1e-4, 0.02), torch.Generator().manual_seed(0)
    x0, eps = torch.randn(50, 4, generator=rng), torch.randn(50, 4, generator=rng)
    t = torch.randint(100, (50,), generator=rng)
    torch.testing.assert_close(schedule.clean(schedule.add_noise(x0, t, eps), t, eps), x0, atol=1e-5, rtol=0)


def ideal(schedule, mean, spread):
    """The noise that is expected given x_t when x_0 is normal with this mean and spread."""

    def predict(xt, t):
        a, s = schedule.signal[t, None], schedule.noise[t, None]
        return s * (xt - a * mean) / (a**2 * spread**2 + s**2)

    return predict


@pytest.mark.parametrize("steps", [1, 50, 599])
def test_the_filter_with_the_ideal_denoiser_shrinks_towards_the_mean_as_ddim_does(steps):
    """Along DDIM's path for normal x_0 the distance to the mean scales with the standard deviation of x_t."""
    schedule, mean, spread = diffusion.linear_schedule(600, 1e-4, 0.01), torch.tensor([2.0, -1.0]), 0.3
    x = torch.tensor([[3.0, 0.0], [2.0, -1.0]])
    a, s = schedule.signal[599], schedule.noise[599]
    found = diffusion.ddim_filter(schedule, ideal(schedule, mean, spread), x, 599, steps)
    if steps == 1:
        shrink = a**2 * spread**2 / (a**2 * spread**2 + s**2)
    else:
        shrink = a * spread / (a**2 * spread**2 + s**2).sqrt()
    torch.testing.assert_close(found, mean + shrink * (x - mean), atol=1e-5 if steps == 1 else 0.02, rtol=0)


def test_a_denoiser_learns_the_conditional_mean():
    """Content is its condition plus a little noise: the trained denoiser must beat every unconditional one."""
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(1)
    schedule, net = diffusion.linear_schedule(600, 1e-4, 0.01), diffusion.ConditionalDenoiser(2, (2,), 32)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    spread = 0.3
    for _ in range(1500):
        c = torch.randn(256, 2, generator=rng)
        x0 = c + spread * torch.randn(256, 2, generator=rng)
        t, eps = torch.randint(600, (256,), generator=rng), torch.randn(256, 2, generator=rng)
        xt = schedule.add_noise(x0, t, eps)
        loss = (net(xt, t, c) - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    best = ((schedule.signal * spread) ** 2 / ((schedule.signal * spread) ** 2 + schedule.noise**2)).mean()
    blind = (schedule.signal**2 * (1 + spread**2) / (schedule.signal**2 * (1 + spread**2) + schedule.noise**2)).mean()
    c = torch.randn(20_000, 2, generator=rng)
    x0 = c + spread * torch.randn(20_000, 2, generator=rng)
    t, eps = torch.randint(600, (20_000,), generator=rng), torch.randn(20_000, 2, generator=rng)
    error = (net(schedule.add_noise(x0, t, eps), t, c) - eps).square().mean()
    assert best < error < best + 0.15 * (blind - best)


def test_several_conditions_of_one_input_equal_one_at_a_time():
    torch.manual_seed(0)
    net = diffusion.ConditionalDenoiser(3, (2, 4), 8)
    x, t, own, shared = torch.randn(5, 3), torch.arange(5), torch.randn(5, 2), torch.randn(4, 1, 4)
    together = net(x, t, own, shared)
    torch.testing.assert_close(together, torch.stack([net(x, t, own, one.expand(5, 4)) for one in shared]))
