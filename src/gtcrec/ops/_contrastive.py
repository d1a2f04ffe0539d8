"""Parts of the contrastive losses, whose gradients are computed with the values, in blocks of logits."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "SPREAD",
    "FusedCombinationsLogSumExp",
    "FusedInfoNCE",
    "FusedLogSumExp",
    "FusedPartialLogSumExp",
    "FusedSymmetricInfoNCE",
    "view_product",
]

BLOCK = 1 << 19  # logits worked on at once
HELD = 1 << 24  # logits held at once
SPREAD = 40.0  # the furthest from 0 that logits may be if exp(-80), the least share of the largest, is still a float32


def view_product(views: Sequence[Tensor]) -> Tensor:
    """Return the product of the views, entry by entry."""
    return torch.stack(list(views)).prod(dim=0) if len(views) > 1 else views[0]


class FusedInfoNCE(torch.autograd.Function):
    """sum_i w_i (logsumexp_j L_ij - L_ii), L_ij = scale <a_i, b_j> off the diagonal and scale <a_i, o_i> on it.

    The gradient is computed with the value, in blocks of rows: the n x n logits are never held whole, nor kept for the
    backward pass.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, o: Tensor, b: Tensor, scale: Tensor, weights: Tensor) -> Tensor:
        n, diagonal = len(a), scale * (a * o).sum(dim=1)  # [n]
        total = a.new_zeros(())
        grad_a, grad_o, grad_b = torch.empty_like(a), torch.empty_like(o), torch.zeros_like(b)
        block = max(64, BLOCK // n)
        for start in range(0, n, block):
            rows = slice(start, min(start + block, n))
            w, x = weights[rows, None], a[rows]
            at = torch.arange(len(x), device=a.device)
            p = (scale * x) @ b.T  # [block, n]
            p[at, at + start] = diagonal[rows]
            top = p.amax(dim=1, keepdim=True)
            mass = p.sub_(top).exp_().sum(dim=1, keepdim=True)
            total += torch.dot(top[:, 0] + mass[:, 0].log() - diagonal[rows], weights[rows])
            p.div_(mass)  # softmax over the row
            p[at, at + start] -= 1.0
            p.mul_(w)  # d total / d logits
            grad_diagonal = p[at, at + start][:, None]
            p[at, at + start] = 0.0
            torch.addmm(grad_diagonal * o[rows], p, b, out=grad_a[rows])
            grad_b.addmm_(p.T, x)
            torch.mul(grad_diagonal, x, out=grad_o[rows])
        grad_scale = (grad_a * a).sum()
        ctx.save_for_backward(scale * grad_a, scale * grad_o, scale * grad_b, grad_scale)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        grad_a, grad_o, grad_b, grad_scale = ctx.saved_tensors
        return grad * grad_a, grad * grad_o, grad * grad_b, grad * grad_scale, None


class FusedSymmetricInfoNCE(torch.autograd.Function):
    """mean_i (logsumexp_j L_ij / 2 + logsumexp_j L_ji / 2 - L_ii), L_ij = scale <a_i, b_j>, |L| <= `bound`.

    Both directions share one exponential, which the bound keeps from overflow. The gradient is computed with the value,
    in blocks of rows, recomputed for it when they are too many to be held.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, scale: Tensor, bound: Tensor) -> Tensor:
        n, x = len(a), scale * a
        block = max(64, BLOCK // n)
        parts = [slice(start, min(start + block, n)) for start in range(0, n, block)]

        def masses(rows: slice) -> Tensor:
            return torch.addmm(-bound, x[rows], b.T).exp_()  # [block, n]

        by_row, by_column, held = torch.empty_like(a[:, 0]), torch.zeros_like(b[:, 0]), []
        for rows in parts:
            mass = masses(rows)
            by_row[rows] = mass.sum(dim=1)
            by_column += mass.sum(dim=0)
            if n * n <= HELD:
                held.append(mass)
        diagonal = (x * b).sum(dim=1)  # [n]
        total = ((by_row.log() + by_column.log()) / 2 + bound - diagonal).mean()
        grad_a, grad_b = torch.empty_like(a), torch.zeros_like(b)
        per_row, per_column = 0.5 / n / by_row[:, None], 0.5 / n / by_column
        for k, rows in enumerate(parts):
            p = held[k] if held else masses(rows)
            p.mul_(per_row[rows] + per_column)  # d total / d logits, but for the diagonal's -1 / n
            torch.mm(p, b, out=grad_a[rows])
            grad_b.addmm_(p.T, a[rows])
        grad_a -= b / n
        grad_b -= a / n
        grad_scale = (grad_a * a).sum()
        ctx.save_for_backward(scale * grad_a, scale * grad_b, grad_scale)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        grad_a, grad_b, grad_scale = ctx.saved_tensors
        return grad * grad_a, grad * grad_b, grad * grad_scale, None


class FusedLogSumExp(torch.autograd.Function):
    """sum_i w_i log sum_j exp(s_j + <a_i, b_j>) for a [k, d], b [n, d] and s [n], which may be -inf.

    The gradient of a and b is computed with the value, in blocks of rows of a.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, shift: Tensor, weights: Tensor) -> Tensor:
        total, least = a.new_zeros(()), torch.finfo(a.dtype)
        bt = b.T.contiguous()  # products over many short rows are four times slower
        grad_a, grad_bt = torch.empty_like(a), torch.zeros_like(bt)
        logits = BLOCK if a.device.type == "cpu" else HELD  # what fits a cache, or keeps a GPU busy
        block = max(16, logits // max(len(b), 1))
        for start in range(0, len(a), block):
            rows = slice(start, min(start + block, len(a)))
            x, w = a[rows], weights[rows]
            p = torch.addmm(shift, x, bt)  # [block, n]
            top = p.amax(dim=1).clamp_(min=least.min)  # a row may have nothing but -inf
            mass = p.sub_(top[:, None]).exp_().sum(dim=1).clamp_(min=least.tiny)
            total += torch.dot(top + mass.log(), w)
            share = (w / mass)[:, None]  # d total / d logits = share * p
            torch.mul(torch.mm(p, bt.T), share, out=grad_a[rows])
            grad_bt.addmm_((share * x).T, p)
        ctx.save_for_backward(grad_a, grad_bt)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_a, grad_bt = ctx.saved_tensors
        return grad * grad_a, (grad * grad_bt).T, None, None


class FusedPartialLogSumExp(torch.autograd.Function):
    """sum_i w_i log sum_j exp(s_j + <a_i, [b_j, c_j]>), each row i over the j that are not left out of it.

    a [k, d + e], b [n, d], a constant c [n, e] and s [n]; `left_out` int64 names places of the matrix [k, n] laid end
    to end, ascending. The gradient of a, b and s is computed with the value, in blocks of rows of a.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, c: Tensor, shift: Tensor, weights: Tensor, left_out: Tensor) -> Tensor:
        (n, d), least, both = b.shape, torch.finfo(a.dtype), torch.cat([b, c], dim=1)
        total, grad_a, grad_b, grad_shift = a.new_zeros(()), torch.empty_like(a), torch.zeros_like(b), 0 * shift
        block = max(16, (BLOCK if a.device.type == "cpu" else HELD) // n)
        for start in range(0, len(a), block):
            rows = slice(start, min(start + block, len(a)))
            x, w = a[rows], weights[rows]
            p = torch.addmm(shift, x, both.T)  # [block, n]
            first, last = torch.searchsorted(left_out, left_out.new_tensor([start * n, rows.stop * n])).tolist()
            p.view(-1).index_fill_(0, left_out[first:last] - start * n, -torch.inf)
            top = p.amax(dim=1).clamp_(min=least.min)  # a row may have nothing but -inf
            mass = p.sub_(top[:, None]).exp_().sum(dim=1).clamp_(min=least.tiny)
            total += torch.dot(top + mass.log(), w)
            p.mul_((w / mass)[:, None])  # d total / d logits
            torch.mm(p, both, out=grad_a[rows])
            grad_b.addmm_(p.T, x[:, :d])
            grad_shift += p.sum(dim=0)
        ctx.save_for_backward(grad_a, grad_b, grad_shift)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_a, grad_b, grad_shift = ctx.saved_tensors
        return grad * grad_a, grad * grad_b, None, grad * grad_shift, None, None


class FusedCombinationsLogSumExp(torch.autograd.Function):
    """log sum_c exp(scale <a_i, prod_m v_m[c_m]>) over all combinations c of rows of the other views, for each i [n].

    Value and gradient go through the combinations in blocks; between them only the result is kept.
    """

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, scale: Tensor, *others: Tensor) -> Tensor:
        total = torch.full_like(anchor[:, 0], -torch.inf)  # [n]
        for combination in _combination_blocks(anchor, len(others)):
            logits = _combination_logits(combination, anchor, scale, *others)  # [n, block]
            total = torch.logaddexp(total, logits.logsumexp(dim=1))
        ctx.save_for_backward(total, anchor, scale, *others)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        total, *inputs = ctx.saved_tensors
        inputs = [x.detach().requires_grad_() for x in inputs]
        grads = [torch.zeros_like(x) for x in inputs]
        for combination in _combination_blocks(total, len(inputs) - 2):
            with torch.enable_grad():
                logits = _combination_logits(combination, *inputs)
            p = (logits.detach() - total[:, None]).exp_().mul_(grad[:, None])  # [n, block]
            for sum_, part in zip(grads, torch.autograd.grad(logits, inputs, p), strict=True):
                sum_ += part
        return tuple(grads)


def _combination_blocks(rows: Tensor, others: int) -> Iterator[list[Tensor]]:
    """Yield all combinations of one row of each other view, in blocks: row numbers [block] of each."""
    n = len(rows)
    block = max(64, BLOCK // n)
    for start in range(0, n**others, block):
        flat = torch.arange(start, min(start + block, n**others), device=rows.device)
        yield [flat // n**m % n for m in range(others)]


def _combination_logits(combination: Sequence[Tensor], anchor: Tensor, scale: Tensor, *others: Tensor) -> Tensor:
    with torch.autocast(anchor.device.type, enabled=False):
        rows = view_product([F.embedding(at, v) for at, v in zip(combination, others, strict=True)])  # [block, d]
        return anchor @ (scale * rows).T  # [n, block]
