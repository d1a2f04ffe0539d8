"""DiffMM's diffusion of users' interactions: noise levels, the network that denoises a row, and rows rebuilt by it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.ops import diffusion

__all__ = ["InteractionDiffusion", "RowDenoiser", "denoise", "noise_betas", "rebuild"]


class InteractionDiffusion(nn.Module):
    """The noise levels t = 0 .. T - 1, from betas float64 [T], and what training and rebuilding take from them.

    `weights[t]` is snr_(t-1) - snr_t with snr_t = a_t^2 / s_t^2, and 1 at t = 0. The mean of the posterior
    q(x_(t-1) | x_t, x_0) is `clean[t]` x_0 + `noisy[t]` x_t (Ho et al. 2020, eq. 7).
    """

    weights: Tensor

    def __init__(self, betas: Tensor) -> None:
        super().__init__()
        self.schedule = diffusion.Schedule(betas)
        kept = torch.cumprod(1 - betas, dim=0)  # a_t^2
        before = torch.cat([kept.new_ones(1), kept[:-1]])
        snr = kept / (1 - kept)
        weights = torch.cat([snr.new_ones(1), snr[:-1] - snr[1:]])
        self.register_buffer("weights", weights.float(), persistent=False)
        self.clean: Sequence[float] = (betas * before.sqrt() / (1 - kept)).tolist()
        self.noisy: Sequence[float] = ((1 - before) * (1 - betas).sqrt() / (1 - kept)).tolist()

    def __len__(self) -> int:
        return len(self.weights)


def noise_betas(steps: int, scale: float, smallest: float, largest: float) -> Tensor:
    """Return betas float64 [steps] whose noise s_t^2 grows evenly from scale * smallest to scale * largest.

    But for the first, which is 1e-4 whatever the settings: so has it the published code, and all later s_t^2 hold it.
    """
    kept = 1 - scale * torch.linspace(smallest, largest, steps, dtype=torch.float64)
    return torch.cat([kept.new_tensor([_FIRST_BETA]), 1 - kept[1:] / kept[:-1]])


class RowDenoiser(nn.Module):
    """Predicts interactions x_0 from x_t [b, n_items] and the level: one hidden layer with tanh, as in the paper.

    The published code passes the level through two linear maps; their product is one here.
    """

    def __init__(self, n_items: int, hidden: int) -> None:
        super().__init__()
        self.enter = nn.Linear(n_items, hidden)
        self.level = nn.Linear(2 * _WAVES, hidden, bias=False)
        self.leave = nn.Linear(hidden, n_items)
        std = math.sqrt(2 / (n_items + 2 * _WAVES + hidden))  # x_t and the level enter one layer there
        for linear, spread in ((self.enter, std), (self.level, std), (self.leave, math.sqrt(2 / (n_items + hidden)))):
            nn.init.normal_(linear.weight, std=spread)
        for linear in (self.enter, self.leave):
            nn.init.normal_(linear.bias, std=1e-3)

    def activate(self, entered: Tensor, t: Tensor) -> Tensor:
        """Return the hidden layer [b, hidden] from W x_t [b, hidden], W the first layer's weights.

        The level t is int64 [b], or [1] for all rows.
        """
        angles = t[:, None] * torch.exp(-torch.arange(_WAVES, device=t.device) * (_SLOWEST / _WAVES))
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        return torch.tanh(entered + (self.level(waves) + self.enter.bias))

    def decode(self, hidden: Tensor) -> Tensor:
        """Return x_0 [b, n_items] from the hidden layer [b, hidden]."""
        clean: Tensor = self.leave(hidden)
        return clean


def denoise(
    process: InteractionDiffusion, denoiser: RowDenoiser, x0: Tensor, dropout: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return x_0' [b, n_items], predicted from rows x_0 at drawn levels, and w_t [b]; x_t loses a share `dropout`."""
    t = torch.randint(len(process), (len(x0),), generator=rng).to(x0.device)
    eps = torch.randn(x0.shape, generator=rng).to(x0.device)
    xt = process.schedule.add_noise(x0, t, eps)
    if dropout:
        xt.masked_fill_((torch.rand(x0.shape, generator=rng) < dropout).to(x0.device), 0)
    entered = F.linear(xt, denoiser.enter.weight) / (1 - dropout)  # what is kept is scaled up
    return denoiser.decode(denoiser.activate(entered, t)), process.weights[t]


@torch.no_grad()
def rebuild(process: InteractionDiffusion, denoiser: RowDenoiser, entered: Tensor) -> Tensor:
    """Return the rows [b, n_items] that the posterior's mean reaches, level after level, from rows x.

    It starts at x itself, as if that were at the last level. `entered` is W x [b, hidden], W the first layer's weights:
    of the rows between, the network sees W x_t alone, and this is computed among hidden units.
    """
    w, v, c = denoiser.enter.weight, denoiser.leave.weight, denoiser.leave.bias
    inner, shift = w @ v, w @ c  # [hidden, hidden], [hidden]
    for t in range(len(process) - 1, 0, -1):
        hidden = denoiser.activate(entered, torch.full((1,), t, device=w.device))
        entered = process.clean[t] * torch.addmm(shift, hidden, inner.T) + process.noisy[t] * entered
    return denoiser.decode(denoiser.activate(entered, torch.zeros(1, dtype=torch.int64, device=w.device)))


_FIRST_BETA = 1e-4
_WAVES = 5  # pairs of waves that tell the level
_SLOWEST = 9.210340371976184  # ln 10,000, as in Ho et al. 2020
