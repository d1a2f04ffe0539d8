"""Diffusion against closed forms."""

import itertools
import math

import pytest
import torch

from gtcrec.ops import diffusion

KINDS = ("noise", "clean", "velocity")


def test_the_linear_schedule_equals_the_product_written_out():
    schedule = diffusion.linear_schedule(600, 1e-4, 0.01)
    kept = 1.0
    for t in range(600):
        kept *= 1 - (1e-4 + (0.01 - 1e-4) * t / 599)
        if t in (0, 300, 599):
            assert schedule.signal[t].item() == pytest.approx(math.sqrt(kept), abs=1e-6)
            assert schedule.noise[t].item() == pytest.approx(math.sqrt(1 - kept), abs=1e-6)


def test_the_cosine_schedule_equals_the_formula_written_out():
    def f(r):
        return math.cos((r / 200 + 0.008) / 1.008 * math.pi / 2) ** 2

    schedule = diffusion.cosine_schedule(200)
    kept = [f(t + 1) / f(0) for t in range(199)]
    kept.append(kept[-1] * 0.001)  # the last beta would be 1 and is cut at .999
    torch.testing.assert_close(
        schedule.signal.double(), torch.tensor(kept, dtype=torch.float64).sqrt(), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(schedule.noise.double(), (1 - torch.tensor(kept).double()).sqrt(), atol=1e-6, rtol=0)


def test_the_cosine_schedule_takes_another_offset_and_another_largest_beta():
    schedule = diffusion.cosine_schedule(4, offset=0.1, largest=0.5)
    angles = [(r / 4 + 0.1) / 1.1 * math.pi / 2 for r in range(5)]
    kept = [math.cos(angles[1]) ** 2 / math.cos(angles[0]) ** 2]  # beta .25, .45, and then .68 and 1, which are cut
    kept.append(math.cos(angles[2]) ** 2 / math.cos(angles[0]) ** 2)
    kept += [kept[-1] / 2, kept[-1] / 4]
    torch.testing.assert_close(schedule.signal.square(), torch.tensor(kept), atol=1e-6, rtol=0)


SCHEDULES = [
    pytest.param(diffusion.linear_schedule(600, 1e-4, 0.01), id="linear"),
    pytest.param(diffusion.cosine_schedule(100), id="cosine"),
]


def check_close(schedule, found, expected):
    """To 1e-5 at each level, save where dividing by hardly any signal or noise magnifies float32's rounding."""
    allowed = (1e-6 / torch.minimum(schedule.signal, schedule.noise)).clamp(min=1e-5)
    assert ((found - expected).abs().amax(dim=1) <= allowed).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_target_of_each_kind_gives_back_the_clean_and_the_noise_at_all_levels(schedule, kind):
    rng, n = torch.Generator().manual_seed(0), len(schedule)
    x0, eps = torch.randn(2, n, 4, generator=rng)
    t = torch.arange(n)
    xt, out = schedule.add_noise(x0, t, eps), schedule.target(kind, x0, t, eps)
    check_close(schedule, schedule.to_clean(kind, xt, t, out), x0)
    check_close(schedule, schedule.to_noise(kind, xt, t, out), eps)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("kind", "other"), list(itertools.permutations(KINDS, 2)))
def test_conversions_invert_each_other_at_all_levels(schedule, kind, other):
    """Whatever was predicted: the prediction need not fit x_t as a target does."""
    rng, n = torch.Generator().manual_seed(0), len(schedule)
    xt, out = torch.randn(2, n, 4, generator=rng)
    t = torch.arange(n)

    def convert(given, one, two):
        return schedule.target(two, schedule.to_clean(one, xt, t, given), t, schedule.to_noise(one, xt, t, given))

    check_close(schedule, convert(convert(out, kind, other), other, kind), out)


def test_the_velocity_is_minus_the_clean_where_all_is_noise_and_the_noise_where_none_is():
    """v is the derivative of x_t by the angle whose cosine is a_t (Salimans & Ho 2022)."""
    schedule = diffusion.cosine_schedule(1000)
    x0, eps = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0])
    torch.testing.assert_close(schedule.target("velocity", x0, 999, eps), torch.tensor([-2.0, 0.0]), atol=1e-3, rtol=0)
    turn = 1e-3
    for t in (100, 500, 900):
        angle = math.acos(schedule.signal[t])
        ahead, behind = (math.cos(angle + d) * x0 + math.sin(angle + d) * eps for d in (turn, -turn))
        slope = (ahead - behind) / (2 * turn)
        torch.testing.assert_close(schedule.target("velocity", x0, t, eps), slope, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_one_level_for_all_rows_equals_that_level_for_each(kind):
    schedule, rng = diffusion.cosine_schedule(20), torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 5, 3, generator=rng)
    each = torch.full((5,), 7)
    for convert in (schedule.to_clean, schedule.to_noise, schedule.target):
        torch.testing.assert_close(convert(kind, one, 7, two), convert(kind, one, each, two), atol=0, rtol=0)
    torch.testing.assert_close(schedule.add_noise(one, 7, two), schedule.add_noise(one, each, two), atol=0, rtol=0)


def test_levels_fall_evenly_and_can_be_all():
    schedule = diffusion.cosine_schedule(100)
    assert schedule.levels(90, 3) == [90, 60, 30]
    assert schedule.levels(90, 1) == [90]
    assert schedule.levels(99, 100) == list(range(99, -1, -1))
    assert schedule.levels(99, 99) == list(range(99, 0, -1))
    for steps in range(1, 101):
        levels = schedule.levels(99, steps)
        assert len(set(levels)) == steps
        assert levels == sorted(levels, reverse=True)


@pytest.mark.parametrize(
    ("start", "steps", "message"),
    [
        (10, 1, r"the start must be a level in \[0, 10\), found 10"),
        (-1, 1, r"the start must be a level in \[0, 10\), found -1"),
        (4, 6, "from level 4 there are 1 to 5 steps down, found 6"),
        (4, 0, "from level 4 there are 1 to 5 steps down, found 0"),
    ],
)
def test_levels_that_the_schedule_does_not_have_are_refused(start, steps, message):
    with pytest.raises(ValueError, match=message):
        diffusion.cosine_schedule(10).levels(start, steps)


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        ([0.1, 0.0], "found beta 0 at level 1"),
        ([0.1, 1.0, 0.1], "found beta 1 at level 1"),
        ([-0.1], "found beta -0.1 at level 0"),
        ([1e-20, 0.1], "found beta 1e-20 at level 0: signal 1, noise 0"),  # no noise in float64
        ([1 - 1e-12] * 8, "leave signal and noise at each level, found beta 1 at level 7: signal 0, noise 1"),
    ],
)
def test_betas_that_leave_no_signal_or_no_noise_are_refused(betas, message):
    with pytest.raises(ValueError, match=message):
        diffusion.Schedule(torch.tensor(betas, dtype=torch.float64))


def test_a_schedule_without_levels_is_refused():
    with pytest.raises(ValueError, match="a schedule needs at least 1 level, found 0"):
        diffusion.linear_schedule(0, 1e-4, 0.01)


@pytest.mark.parametrize("name", ["target", "to_clean", "to_noise"])
def test_an_unknown_kind_of_prediction_is_refused(name):
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="of the kind noise, clean or velocity, found 'eps'"):
        getattr(diffusion.cosine_schedule(3), name)("eps", x, 0, x)


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


def test_the_denoiser_equals_adaptive_layer_norm_written_out():
    """out = L silu(z (1 + sum of scales) + sum of shifts), z the normalised hidden layer (Peebles & Xie 2023)."""
    torch.manual_seed(0)
    net = diffusion.ConditionalDenoiser(3, (2, 4), 8)
    xt, t, one, two = torch.randn(5, 3), torch.arange(5), torch.randn(5, 2), torch.randn(5, 4)
    rates = torch.tensor([1.0, 0.1, 0.01, 0.001])  # 10,000^(-j / 4)
    waves = torch.cat([torch.sin(t[:, None] * rates), torch.cos(t[:, None] * rates)], dim=1)
    given = sum(small(c) for small, c in zip(net.modulate, (waves, one, two), strict=True))
    scale, shift = given[:, :8], given[:, 8:]
    h = xt @ net.enter.weight.T + net.enter.bias
    z = (h - h.mean(dim=1, keepdim=True)) / (h.var(dim=1, keepdim=True, correction=0) + 1e-5).sqrt()
    bent = z * (1 + scale) + shift
    expected = (bent * bent.sigmoid()) @ net.leave.weight.T + net.leave.bias
    torch.testing.assert_close(net(xt, t, one, two), expected, atol=1e-5, rtol=0)


def test_several_conditions_of_one_input_equal_one_at_a_time():
    torch.manual_seed(0)
    net = diffusion.ConditionalDenoiser(3, (2, 4), 8)
    x, t, own, shared = torch.randn(5, 3), torch.arange(5), torch.randn(5, 2), torch.randn(4, 1, 4)
    together = net(x, t, own, shared)
    torch.testing.assert_close(together, torch.stack([net(x, t, own, one.expand(5, 4)) for one in shared]))
