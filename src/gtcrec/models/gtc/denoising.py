"""What GTC's denoisers of content share: their losses, and the average of their weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gtcrec.models.gtc.config import GTCConfig
from gtcrec.ops import diffusion

__all__ = ["averaged", "denoised_pairs", "denoising_errors", "denoising_terms"]


def denoised_pairs(config: GTCConfig, n: int, rng: torch.Generator) -> Tensor:
    """Return which of a step's n liked pairs its denoising loss is over."""
    if 0 < config.denoised_pairs < n:
        return torch.randperm(n, generator=rng)[: config.denoised_pairs]
    return torch.arange(n)


def denoising_errors(
    config: GTCConfig,
    schedule: diffusion.Schedule,
    x0: Tensor,
    present: Tensor,
    rng: torch.Generator,
    *denoisers: diffusion.Predict,
) -> list[Tensor]:
    """Return each denoiser's E w_t |prediction - target|^2 / d over the present rows (bool [n]) of x0 [n, d].

    All of them see the same level and noise, drawn for each row; w_t is the min-SNR weight if there is one.
    """
    t = torch.randint(len(schedule), (len(x0),), generator=rng).to(x0.device)
    eps = torch.randn(x0.shape, generator=rng).to(x0.device)
    xt, target = schedule.add_noise(x0, t, eps), schedule.target(config.prediction, x0, t, eps)
    errors = []
    for predict in denoisers:
        error = (predict(xt, t) - target).square().mean(dim=1)  # [n]
        if config.min_snr:
            error = error * diffusion.min_snr_weights(schedule, config.prediction, config.min_snr)[t]
        errors.append((error * present).sum() / present.sum().clamp(min=1))
    return errors


def denoising_terms(config: GTCConfig, errors: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
    """Return the weighted loss terms, means over the modalities, of each one's error and its error when told the user.

    Without a pair term no error is told.
    """
    weights = {"diffusion": config.diffusion_weight, "pair": config.pair_weight}
    columns = zip(weights.items(), zip(*errors, strict=True), strict=False)
    return {name: weight * torch.stack(column).mean() for (name, weight), column in columns if weight}


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of a network that keeps the exponential average of its weights (`update_parameters`)."""
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
    average.requires_grad_(False)
    return average
