"""Training that diverges is stopped where it does, and the loss term is named."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gtcrec.errors import GtcrecError

__all__ = ["require_finite_loss", "require_finite_weights"]


def require_finite_loss(terms: Mapping[str, Tensor]) -> None:
    """Raise `GtcrecError` when the sum of the loss terms, "total", is not finite; it names the term to blame."""
    if torch.isfinite(terms["total"]):  # one look a step, as each waits for the device
        return
    values = {
        name: float(value.detach()) for name, value in terms.items() if name != "total" and not name.startswith("log.")
    }
    largest = max(values, key=lambda name: abs(values[name]))  # to blame where the sum alone overflows
    name = next((name for name, value in values.items() if not math.isfinite(value)), largest)
    raise GtcrecError(f"loss term {name!r} is {values[name]:g}, the sum must be finite; try a lower learning_rate")


def require_finite_weights(model: nn.Module) -> None:
    """Raise `GtcrecError` for weights that are not finite, as a finite loss with an infinite gradient leaves them."""
    for name, weights in model.named_parameters():
        if not torch.isfinite(weights).all():
            raise GtcrecError(f"weights {name!r} are no longer finite; try a lower learning_rate")
