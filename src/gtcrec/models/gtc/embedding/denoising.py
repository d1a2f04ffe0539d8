"""The denoising loss that both content filters share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gtcrec.models.gtc.config import GTCConfig
from gtcrec.ops import diffusion

__all__ = ["denoising_errors", "denoising_terms", "sample_pairs"]


def sample_pairs(config: GTCConfig, n: int, rng: torch.Generator) -> Tensor:
    """Return which of a step's n positive pairs its denoising loss is over, int64."""
    if 0 < config.denoising_batch_size < n:
        return torch.randperm(n, generator=rng)[: config.denoising_batch_size]
    return torch.arange(n)


def denoising_errors(
    schedule: diffusion.Schedule,
    x0: Tensor,
    present: Tensor,
    rng: torch.Generator,
    *denoisers: diffusion.Predict,
) -> list[Tensor]:
    """Return each denoiser's E |eps - eps_theta|^2 / d over the present rows (bool [n]) of x0 [n, d].

    All denoisers see the same level and noise, drawn for each row.
    """
    t = torch.randint(len(schedule), (len(x0),), generator=rng).to(x0.device)
    eps = torch.randn(x0.shape, generator=rng).to(x0.device)
    xt = schedule.add_noise(x0, t, eps)
    errors = [(predict(xt, t) - eps).square().mean(dim=1) for predict in denoisers]  # [n] each
    return [(error * present).sum() / present.sum().clamp(min=1) for error in errors]


def denoising_terms(config: GTCConfig, errors: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
    """Return the weighted loss terms, means over the modalities.

    `errors` holds for each modality the denoiser's error and, with a pair term, its error given the user.
    """
    weights = {"diffusion": config.diffusion_weight, "pair": config.pair_diffusion_weight}
    columns = zip(weights.items(), zip(*errors, strict=True), strict=False)
    return {name: weight * torch.stack(column).mean() for (name, weight), column in columns if weight}
