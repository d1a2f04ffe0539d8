"""Diffusion of item content: the noise schedule, the conditional denoiser, and the deterministic filter.

Forward process (Ho et al. 2020): x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps with a_t = prod_{s<=t} (1 - beta_s).
Deterministic sampling is DDIM (Song et al. 2021) with eta = 0.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ConditionalDenoiser", "Schedule", "ddim_filter", "linear_schedule"]


class Schedule(nn.Module):
    """The noise levels: `signal[t]` = sqrt(a_t) and `noise[t]` = sqrt(1 - a_t) for t = 0 .. steps - 1."""

    signal: Tensor
    noise: Tensor

    def __init__(self, betas: Tensor) -> None:
        super().__init__()
        kept = torch.cumprod(1.0 - betas.double(), dim=0)
        self.register_buffer("signal", kept.sqrt().float(), persistent=False)
        self.register_buffer("noise", (1.0 - kept).sqrt().float(), persistent=False)

    def __len__(self) -> int:
        return len(self.signal)

    def add_noise(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return x_t for x0, eps [n, d] and levels t int64 [n]."""
        return self.signal[t, None] * x0 + self.noise[t, None] * eps

    def clean(self, xt: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return the estimate of x_0 that x_t and a predicted noise imply; the inverse of `add_noise`."""
        return (xt - self.noise[t, None] * eps) / self.signal[t, None]


def linear_schedule(steps: int, beta_start: float, beta_end: float) -> Schedule:
    """Return the schedule whose betas grow evenly from `beta_start` to `beta_end`."""
    return Schedule(torch.linspace(beta_start, beta_end, steps, dtype=torch.float64))


class ConditionalDenoiser(nn.Module):
    """Predicts the noise in x_t [n, dim] from x_t, the level t and any number of conditions.

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
        """Return the predicted noise [..., dim].

        The conditions must broadcast with x_t's rows, and t must, which is int64 of their number of axes less one.
        """
        activity = F.layer_norm(self.enter(xt), (self.enter.out_features,))  # [..., hidden]
        shifted = activity
        for one, given in zip(self.modulate, (self._waves(t), *conditions), strict=True):
            scale, shift = one(given).chunk(2, dim=-1)  # [..., hidden]
            shifted = torch.addcmul(shifted + shift, activity, scale)  # few passes over what is as large as the output
        noise: Tensor = self.leave(F.silu(shifted))
        return noise

    def _waves(self, t: Tensor) -> Tensor:
        """Sinusoidal features of the level, [..., 2 * waves]."""
        steps = torch.arange(self.waves, device=t.device) / self.waves
        angles = t[..., None] * torch.exp(-math.log(10_000.0) * steps)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


def ddim_filter(
    schedule: Schedule, predict: Callable[[Tensor, Tensor], Tensor], x: Tensor, level: int, steps: int
) -> Tensor:
    """Return x [..., d] as the denoiser `predict(xt, t) -> eps` sees it: what of it survives at noise level `level`.

    Places x on the forward process without noise, x_t = sqrt(a_t) x, and follows `steps` deterministic DDIM
    steps from `level` down; the last one returns the estimate of x_0. No randomness is involved. `predict` is given
    a t of length 1: all rows are at one level.
    """
    levels = torch.linspace(level, 0, steps + 1).round().long()[:-1].tolist()
    xt, clean = schedule.signal[level] * x, x
    for now, after in zip(levels, [*levels[1:], None], strict=True):
        t = torch.full((1,), now, device=x.device)
        eps = predict(xt, t)
        clean = torch.add(xt / schedule.signal[now], eps, alpha=-float(schedule.noise[now] / schedule.signal[now]))
        if after is not None:
            xt = schedule.signal[after] * clean + schedule.noise[after] * eps
    return clean
