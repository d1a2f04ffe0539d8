"""DiffMM's contrast: rows of a batch, each told from all rows of another view."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["info_nce_among_all"]


def info_nce_among_all(
    anchors: Tensor, candidates: Tensor, own: Tensor, counts: Tensor, present: Tensor, temperature: float
) -> Tensor:
    """Return the mean of -ln (exp(cos(a_r, c_own(r)) / tau) / sum_j exp(cos(a_r, c_j) / tau)), one way.

    Parameters
    ----------
    anchors
        a [b, d].
    candidates
        c [n, d]: all users or all items.
    own
        The candidate that each anchor should find, int64 [b]; it must be present.
    counts
        How often each anchor counts in the mean, [b]; 0 leaves it out.
    present
        Which candidates there are, bool [n].
    temperature
        tau > 0.

    Returns
    -------
    Tensor
        A scalar; 0 when no anchor counts.
    """
    if not counts.any():
        return anchors.sum() * 0.0
    with torch.autocast(anchors.device.type, enabled=False):  # exponentials want float32
        a, c = F.normalize(anchors.float(), dim=1), F.normalize(candidates.float(), dim=1)
        weights = counts.float() / counts.sum()
        loss: Tensor = _AmongAll.apply(a, c, own, weights, present, 1 / temperature)  # type: ignore[no-untyped-call]
        return loss


class _AmongAll(torch.autograd.Function):
    """sum_r w_r (logsumexp_j L_rj - L_r,own(r)), L = scale <a_r, c_j>; its gradient is computed with it, in blocks."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, c: Tensor, own: Tensor, weights: Tensor, present: Tensor, scale: float) -> Tensor:
        found = F.embedding(own, c)
        total = -scale * torch.dot((a * found).sum(dim=1), weights)
        grad_a, grad_c = -weights[:, None] * found, torch.zeros_like(c)
        grad_c.index_add_(0, own, -weights[:, None] * a)
        complete = bool(present.all())
        for rows in torch.split(torch.arange(len(a), device=a.device), max(64, _BLOCK // len(c))):
            x, w = a[rows], weights[rows]
            p = (scale * x) @ c.T  # [block, n]
            if not complete:
                p.masked_fill_(~present, -torch.inf)
            top = p.amax(dim=1, keepdim=True)
            mass = p.sub_(top).exp_().sum(dim=1)
            total += torch.dot(mass.log() + top[:, 0], w)
            share = (w / mass)[:, None]
            grad_a[rows] += share * (p @ c)
            grad_c.addmm_(p.T, share * x)
        ctx.save_for_backward(scale * grad_a, scale * grad_c)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        grad_a, grad_c = ctx.saved_tensors
        return grad * grad_a, grad * grad_c, None, None, None, None


_BLOCK = 1 << 21  # logits held at once
