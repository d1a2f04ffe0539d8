"""Adam over the rows of a table that a step touched, so that a step costs the same for any number of rows."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["RowwiseAdam"]


class RowwiseAdam(torch.optim.Optimizer):
    """Adam (Kingma & Ba 2015) with beta1 = 0 and one second moment a row, of row-sparse gradients.

    The moment is of the row's mean squared gradient: a row keeps its gradient's direction, and there is one number to
    fetch and keep for each row, not one for each of its numbers. Exact for rows that have a gradient now and then as
    well: where there is none nothing moves, and the moment's decay over the steps between is made up for when the next
    one comes. With a first moment a row would move on for steps after its gradient. A gradient may name a row more than
    once; what it says of it is summed.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, beta: float = 0.999, eps: float = 1e-8) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the rows that have a gradient. Raises `ValueError` for a gradient that is not row-sparse."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    if not p.grad.is_sparse or p.grad.sparse_dim() != 1:
                        raise ValueError(f"expected a row-sparse gradient, found a {p.grad.layout} one")
                    self._update(p, *_summed(p.grad), group)

    def _update(self, p: Tensor, rows: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, beta = self.state[p], group["beta"]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg_sq"] = p.new_zeros(len(p))
            state["last"] = p.new_zeros(len(p))  # the step of each row's last gradient
        state["step"] += 1
        t = state["step"].item()
        for index, g in zip(torch.split(rows, _ROWS), torch.split(grad, _ROWS), strict=True):
            decay = beta ** (t - state["last"].index_select(0, index))
            square = state["exp_avg_sq"].index_select(0, index).mul_(decay)
            square += (1 - beta) / g.shape[1] * torch.linalg.vecdot(g, g)
            state["exp_avg_sq"].index_copy_(0, index, square)
            scale = square.sqrt_().div_((1 - beta**t) ** 0.5).add_(group["eps"])
            moved = p.index_select(0, index).addcdiv_(g, scale[:, None], value=-group["lr"])
            p.index_copy_(0, index, moved)  # index_add_ takes seven times as long
        state["last"].index_fill_(0, rows, t)


_ROWS = 1 << 11  # updated at once: what they need stays in the cache


def _summed(grad: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows [r] of a row-sparse gradient and the sum of its values over each, [r, d]."""
    values, rows = grad._values(), grad._indices()[0]
    if (rows[1:] > rows[:-1]).all():
        return rows, values
    rows, inverse = torch.unique(rows, return_inverse=True)
    return rows, values.new_zeros(len(rows), values.shape[1]).index_add_(0, inverse, values)
