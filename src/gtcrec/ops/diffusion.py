"""Diffusion of item content: noise levels, kinds of prediction, the conditional denoiser, samplers and the filter.

Forward process (Ho et al. 2020): x_t = a_t x_0 + s_t eps with a_t^2 = prod_{r<=t} (1 - beta_r) and s_t^2 = 1 - a_t^2.
A denoiser predicts one of three things, and x_t and any of them give the other two (Salimans & Ho 2022): the noise
eps, the clean x_0, or the velocity v = a_t eps - s_t x_0.
"""

import math
import reprlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "ConditionalDenoiser",
    "Predict",
    "Prediction",
    "Schedule",
    "cosine_schedule",
    "ddim",
    "ddim_filter",
    "ddpm",
    "linear_schedule",
]

Prediction = Literal["noise", "clean", "velocity"]  # what a denoiser returns
Predict = Callable[[Tensor, Tensor], Tensor]  # x_t [..., d] and levels int64 -> a prediction [..., d]


class Schedule(nn.Module):
    """The noise levels: `signal[t]` = a_t and `noise[t]` = s_t for t = 0 .. steps - 1, from betas [steps].

    Where a method takes levels t, they are int64 [n], one for each row of [n, d], or one int for all rows.
    """

    signal: Tensor
    noise: Tensor

    def __init__(self, betas: Tensor) -> None:
        super().__init__()
        kept = torch.cumprod(1.0 - betas.double(), dim=0)
        self.register_buffer("signal", kept.sqrt().float(), persistent=False)
        self.register_buffer("noise", (1.0 - kept).sqrt().float(), persistent=False)
        if not len(betas):
            raise ValueError("a schedule needs at least 1 level, found 0")
        usable = (betas > 0) & (betas < 1) & (self.signal > 0) & (self.noise > 0)  # the conversions divide by both
        if not usable.all():
            t = int(usable.int().argmin())
            found = f"beta {betas[t]:g} at level {t}: signal {self.signal[t]:g}, noise {self.noise[t]:g}"
            raise ValueError(f"betas must lie in (0, 1) and leave signal and noise at each level, found {found}")

    def __len__(self) -> int:
        return len(self.signal)

    def add_noise(self, x0: Tensor, t: Tensor | int, eps: Tensor) -> Tensor:
        """Return x_t = a_t x_0 + s_t eps for x0, eps [n, d]."""
        a, s = self._signal_and_noise(t)
        return a * x0 + s * eps

    def target(self, kind: Prediction, x0: Tensor, t: Tensor | int, eps: Tensor) -> Tensor:
        """Return what a denoiser of this kind should predict for x0, eps [n, d]: eps, x_0 or v = a_t eps - s_t x_0."""
        a, s = self._signal_and_noise(t)
        match kind:
            case "noise":
                return eps
            case "clean":
                return x0
            case "velocity":
                return a * eps - s * x0
            case _:
                raise _unknown_kind(kind)

    def to_clean(self, kind: Prediction, xt: Tensor, t: Tensor | int, out: Tensor) -> Tensor:
        """Return the x_0 that x_t and a prediction imply, [n, d]: (x_t - s_t eps) / a_t, x_0 or a_t x_t - s_t v."""
        a, s = self._signal_and_noise(t)
        match kind:
            case "noise":
                return torch.addcmul(xt / a, out, -s / a)  # x_t may be smaller than what comes out: one pass over that
            case "clean":
                return out
            case "velocity":
                return torch.addcmul(a * xt, out, -s)
            case _:
                raise _unknown_kind(kind)

    def to_noise(self, kind: Prediction, xt: Tensor, t: Tensor | int, out: Tensor) -> Tensor:
        """Return the eps that x_t and a prediction imply, [n, d]: eps, (x_t - a_t x_0) / s_t or s_t x_t + a_t v."""
        a, s = self._signal_and_noise(t)
        match kind:
            case "noise":
                return out
            case "clean":
                return torch.addcmul(xt / s, out, -a / s)
            case "velocity":
                return torch.addcmul(s * xt, out, a)
            case _:
                raise _unknown_kind(kind)

    def levels(self, start: int, steps: int) -> list[int]:
        """Return `steps` levels for a sampler, evenly spaced from `start` down; all of them if steps = start + 1.

        >>> linear_schedule(600, 1e-4, 0.01).levels(500, 5)
        [500, 400, 300, 200, 100]
        """
        if not 0 <= start < len(self):
            raise ValueError(f"the start must be a level in [0, {len(self)}), found {start}")
        if not 1 <= steps <= start + 1:
            raise ValueError(f"from level {start} there are 1 to {start + 1} steps down, found {steps}")
        end = 0 if steps <= start else -1  # the step from the last level to the clean x_0 is one of them
        levels: list[int] = torch.linspace(start, end, steps + 1).round().long()[:-1].tolist()
        return levels

    def _signal_and_noise(self, t: Tensor | int) -> tuple[Tensor, Tensor]:
        """a_t and s_t, [n, 1]; [] for one level of all rows."""
        place = t if isinstance(t, int) else (t, None)
        return self.signal[place], self.noise[place]


def linear_schedule(steps: int, beta_start: float, beta_end: float) -> Schedule:
    """Return the schedule whose betas grow evenly from `beta_start` to `beta_end` (Ho et al. 2020)."""
    return Schedule(torch.linspace(beta_start, beta_end, steps, dtype=torch.float64))


def cosine_schedule(steps: int, offset: float = 0.008, largest: float = 0.999) -> Schedule:
    """Return the schedule whose signal falls as a cosine (Nichol & Dhariwal 2021).

    a_t^2 = f(t + 1) / f(0) with f(r) = cos^2((r / steps + offset) / (1 + offset) pi / 2), its betas cut at `largest`.
    """
    share = torch.arange(steps + 1, dtype=torch.float64) / steps  # [steps + 1]
    f = torch.cos((share + offset) / (1 + offset) * math.pi / 2).square()
    return Schedule((1 - f[1:] / f[:-1]).clamp(max=largest))


class ConditionalDenoiser(nn.Module):
    """Predicts eps, x_0 or v from x_t [n, dim], the level t and any number of conditions.

    One hidden layer; level and conditions enter as scale and shift of its normalised activations (adaptive layer
    norm, Peebles & Xie 2023). Their effects add up, so that K conditions for each of n inputs cost K + n small
    networks and not K * n. `widths` are the conditions' lengths.
    """

    def __init__(self, dim: int, widths: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.waves = hidden // 2
        self.enter = nn.Linear(dim, hidden)
        self.modulate = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, 2 * hidden))
            for width in (2 * self.waves, *widths)
        )
        self.leave = nn.Linear(hidden, dim)

    def forward(self, xt: Tensor, t: Tensor, *conditions: Tensor) -> Tensor:
        """Return the prediction [..., dim].

        The conditions must broadcast with x_t's rows, and t must, which is int64 of their number of axes less one.
        """
        activity = F.layer_norm(self.enter(xt), (self.enter.out_features,))  # [..., hidden]
        shifted = activity
        for layer, condition in zip(self.modulate, (self._level_features(t), *conditions), strict=True):
            scale, shift = layer(condition).chunk(2, dim=-1)  # [..., hidden]
            shifted = torch.addcmul(shifted + shift, activity, scale)  # few passes over what is as large as the output
        out: Tensor = self.leave(F.silu(shifted))
        return out

    def _level_features(self, t: Tensor) -> Tensor:
        """Sinusoidal features of the level, [..., 2 * waves]."""
        steps = torch.arange(self.waves, device=t.device) / self.waves
        angles = t[..., None] * torch.exp(-math.log(10_000.0) * steps)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


def ddim(
    schedule: Schedule, predict: Predict, xt: Tensor, levels: Sequence[int], *, kind: Prediction = "noise"
) -> Tensor:
    """Return the x_0 [..., d] that the deterministic sampler reaches from x_t [..., d] at level `levels[0]`.

    x_r = a_r x_0 + s_r eps from each level t to the next r, with the denoiser's x_0 and eps, and x_0 itself at last
    (DDIM with eta = 0, Song et al. 2021). `levels` fall, as `Schedule.levels` gives them. `predict` is given a t of
    length 1: all rows are at one level.
    """
    levels = _check_levels(schedule, levels)
    for now, after in pairwise(levels):
        clean, eps = _clean_and_noise(schedule, predict, xt, now, kind)
        xt = schedule.add_noise(clean, after, eps)
    return _clean_and_noise(schedule, predict, xt, levels[-1], kind)[0]


def ddpm(
    schedule: Schedule,
    predict: Predict,
    xt: Tensor,
    levels: Sequence[int],
    rng: torch.Generator,
    *,
    kind: Prediction = "noise",
) -> Tensor:
    """Return an x_0 [..., d] drawn by the ancestral sampler from x_t [..., d] at level `levels[0]`.

    From level t to the next r it draws from the posterior q(x_r | x_t, x_0) at the denoiser's x_0 (Ho et al. 2020,
    equation 7, for levels any distance apart): x_r = a_r x_0 + s_r (c eps + sqrt(1 - c^2) z) with z normal and
    c = (a_t / s_t) / (a_r / s_r), which is DDIM's step with part of the noise renewed. `levels` and `predict` are as
    for `ddim`.
    """
    levels = _check_levels(schedule, levels)
    ratio = schedule.signal / schedule.noise
    for now, after in pairwise(levels):
        clean, eps = _clean_and_noise(schedule, predict, xt, now, kind)
        c = ratio[now] / ratio[after]  # never above 1: the ratio falls with the level, rounded too
        z = torch.randn(eps.shape, generator=rng, device=rng.device, dtype=eps.dtype).to(eps.device)
        xt = schedule.add_noise(clean, after, c * eps + (1 - c.square()).sqrt() * z)
    return _clean_and_noise(schedule, predict, xt, levels[-1], kind)[0]


def ddim_filter(
    schedule: Schedule, predict: Predict, x: Tensor, level: int, steps: int = 1, *, kind: Prediction = "noise"
) -> Tensor:
    """Return what of x [..., d] survives at noise level `level`: the denoiser's clean x.

    Places x on the forward process without noise, x_t = a_t x, and follows `steps` deterministic steps (`ddim`) from
    `level` down. No randomness is involved.
    """
    levels = schedule.levels(level, steps)
    return ddim(schedule, predict, schedule.signal[level] * x, levels, kind=kind)


def _check_levels(schedule: Schedule, levels: Sequence[int]) -> Sequence[int]:
    """Return the levels; raise `ValueError` unless they fall and lie in the schedule."""
    falling = all(now > after for now, after in pairwise(levels))
    if not levels or not falling or levels[0] >= len(schedule) or levels[-1] < 0:
        found = reprlib.repr(list(levels))
        raise ValueError(f"levels must be one or more, fall, and lie in [0, {len(schedule)}), found {found}")
    return levels


def _clean_and_noise(
    schedule: Schedule, predict: Predict, xt: Tensor, level: int, kind: Prediction
) -> tuple[Tensor, Tensor]:
    """The denoiser's x_0 and eps."""
    out = predict(xt, torch.full((1,), level, device=xt.device))
    return schedule.to_clean(kind, xt, level, out), schedule.to_noise(kind, xt, level, out)


def _unknown_kind(kind: str) -> ValueError:
    return ValueError(f"a prediction is of the kind noise, clean or velocity, found {kind!r}")
