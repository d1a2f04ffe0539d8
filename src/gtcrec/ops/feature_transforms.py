"""Content of items, projected to one length or turned into directions.

Content is read a few items at a time, straight from the matrix that was read.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.errors import DataError
from gtcrec.types import Floats, ItemFeatures, Masks

__all__ = [
    "ContentProjection",
    "Directions",
    "Standardization",
    "column_means",
    "directions",
    "standardization",
    "standardize_features",
    "unit_rows",
]

_BLOCK_NUMBERS = 1 << 20  # numbers of content held at once: 4 MiB stay in the cache, fresh memory is dear


class ContentProjection(nn.Module):
    """h = LN(W (x - mean) / std + b): items' content x [n_items, width] as vectors of root-mean-square 1.

    Mean and spread are those of the present items; a constant column counts as 0. Absent items get 0. The matrix is
    used where it lies, which may be a memory-mapped file: no standardised copy is made of it.
    """

    x: Tensor
    present: Tensor
    mean: Tensor
    inverse: Tensor

    def __init__(self, x: Floats, present: Masks, dim: int) -> None:
        super().__init__()
        self.register_buffer("x", torch.from_numpy(x), persistent=False)
        self.register_buffer("present", torch.from_numpy(present), persistent=False)
        mean, inverse = _mean_and_inverse_std(self.x, self.present)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("inverse", inverse, persistent=False)
        self.linear = nn.Linear(x.shape[1], dim)

    def forward(self, items: Tensor) -> Tensor:
        """Return the vectors of items int64 [n], [n, dim]."""
        with torch.autocast(self.x.device.type, enabled=False):
            weight = self.linear.weight * self.inverse  # [dim, width]
            h: Tensor = _Project.apply(weight, self.x, self.mean, items)  # type: ignore[no-untyped-call]
            h = F.layer_norm(h + self.linear.bias, (h.shape[1],))
            return torch.where(self.present[items, None], h, 0.0)


class _Project(torch.autograd.Function):
    """(x[items] - mean) weight^T in blocks of rows; the rows are gathered again for the backward pass."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: Tensor, mean: Tensor, items: Tensor) -> Tensor:
        ctx.save_for_backward(x, mean, items)
        h = weight.new_empty(len(items), len(weight))
        for rows, block in _centered_blocks(x, mean, items):
            torch.mm(block, weight.T, out=h[rows])
        return h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, mean, items = ctx.saved_tensors
        total = grad.new_zeros(grad.shape[1], x.shape[1])
        for rows, block in _centered_blocks(x, mean, items):
            total.addmm_(grad[rows].T, block)
        return total, None, None, None


def _centered_blocks(x: Tensor, mean: Tensor, items: Tensor) -> Any:
    """Slices of `items` with their centred rows of x, in one buffer that is overwritten from block to block."""
    size = max(1, min(_BLOCK_NUMBERS // x.shape[1], len(items)))
    buffer = x.new_empty(size, x.shape[1])
    for start in range(0, len(items), size):
        rows = slice(start, min(start + size, len(items)))
        block = buffer[: rows.stop - start]
        yield rows, torch.index_select(x, 0, items[rows], out=block).sub_(mean)


def standardize_features(features: ItemFeatures) -> ItemFeatures:
    """Return content whose columns have mean 0 and variance 1 over the items that have the modality.

    Constant columns and the rows of absent items become 0. The content is copied.
    """
    both = {m: (features.values[m], features.present[m]) for m in features.names}
    values = {m: standardization(x, present)(x, present).numpy() for m, (x, present) in both.items()}
    return ItemFeatures(features.n_items, values, {m: features.present[m] for m in features.names})


def column_means(x: Tensor, items: Tensor) -> Tensor:
    """Return the mean of each column of x [n, d] over the rows `items` int64 [m], [d]; 0 without rows."""
    nothing = x.new_zeros(x.shape[1])
    total = nothing.double()
    for _, block in _centered_blocks(x, nothing, items):
        total += block.sum(dim=0, dtype=torch.float64)
    return (total / max(len(items), 1)).float()


def _mean_and_inverse_std(x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each column over the present rows and the inverse of its standard deviation, 0 where it is constant."""
    items = present.nonzero().flatten()
    mean = column_means(x, items)
    squares = x.new_zeros(x.shape[1]).double()
    for _, block in _centered_blocks(x, mean, items):
        squares += block.double().square_().sum(dim=0)  # squares beyond 1e38 would be infinite in float32
    spread = (squares / max(len(items), 1)).sqrt()
    return mean, torch.where(spread > 1e-6 * mean.double().abs() + _SMALLEST, 1.0 / spread, 0.0).float()


def unit_rows(x: Tensor) -> Tensor:
    """Return the rows of x [n, d] at length 1, rows of zeros as they are, whatever their scale.

    A row is first divided by a power of two, which rounds nothing: its squares then fit into float32.

    >>> unit_rows(torch.tensor([[3e30, 4e30], [3e-30, 4e-30]]))
    tensor([[0.6000, 0.8000],
            [0.6000, 0.8000]])
    """
    exponents = torch.frexp(x.detach().abs().amax(dim=1, keepdim=True)).exponent.clamp(min=-120)
    return F.normalize(torch.ldexp(x, -exponents), dim=1)


@dataclass(frozen=True, eq=False)
class Standardization:
    """How content x becomes (x - mean) / std: `mean` [d], `inverse` [d] 1 / std, or 0 where a column is constant."""

    mean: Tensor
    inverse: Tensor

    def __call__(self, x: Floats, present: Masks) -> Tensor:
        """Return the standardised content of x [n, d], float32 [n, d]; absent rows are 0.

        Raises `DataError` for content of another width.
        """
        if x.shape[1] != len(self.mean):
            raise DataError(f"expected content of width {len(self.mean)}, found {x.shape[1]}")
        y = (torch.from_numpy(x) - self.mean).mul_(self.inverse)
        return y.masked_fill_(~torch.from_numpy(present)[:, None], 0.0)


def standardization(x: Floats, present: Masks) -> Standardization:
    """Return how to give content x [n, d] mean 0 and variance 1 over the present rows."""
    return Standardization(*_mean_and_inverse_std(torch.from_numpy(x), torch.from_numpy(present)))


@dataclass(frozen=True, eq=False)
class Directions:
    """How content x becomes its directions y = (x - mean) basis / spread: `mean` [d], `basis` [d, W], `spread` [W]."""

    mean: Tensor
    basis: Tensor
    spread: Tensor

    def __call__(self, x: Floats, present: Masks) -> Tensor:
        """Return the directions of content x [n, d], float32 [n, W]; absent rows and directions without variance are 0.

        Raises `DataError` for content of another width.
        """
        if x.shape[1] != len(self.mean):
            raise DataError(f"expected content of width {len(self.mean)}, found {x.shape[1]}")
        y = _project_rows(torch.from_numpy(x), self.mean, torch.from_numpy(present).nonzero().flatten(), self.basis)
        return torch.where(self.spread > 1e-6, y / self.spread.clamp(min=1e-6), 0.0)


def directions(x: Floats, present: Masks, width: int) -> Directions:
    """Return how to turn content into at most `width` directions of mean 0 and variance 1 over the present rows.

    Content no wider than that keeps its own columns, standardised; wider content becomes its first principal
    components, whitened (by subspace iteration, in blocks of rows).
    """
    content, has = torch.from_numpy(x), torch.from_numpy(present)
    mean, inverse = _mean_and_inverse_std(content, has)
    items = has.nonzero().flatten()
    basis = torch.diag(inverse)
    if x.shape[1] > width:
        basis = inverse[:, None] * _principal_axes(content, mean, inverse, items, min(width, len(items)))
    y = _project_rows(content, mean, items, basis)[items]
    return Directions(mean, basis, y.square().mean(dim=0).sqrt() if len(items) else y.new_zeros(basis.shape[1]))


def _project_rows(x: Tensor, mean: Tensor, items: Tensor, basis: Tensor) -> Tensor:
    y = torch.zeros(len(x), basis.shape[1])
    for rows, block in _centered_blocks(x, mean, items):
        y[items[rows]] = block @ basis
    return y


def _principal_axes(x: Tensor, mean: Tensor, inverse: Tensor, items: Tensor, width: int) -> Tensor:
    """The first principal axes of standardised content, [d, width], largest variance first."""
    rng = torch.Generator().manual_seed(0)
    axes = torch.randn(x.shape[1], min(width + 16, x.shape[1]), generator=rng)
    for _ in range(_ITERATIONS):
        axes = torch.linalg.qr(axes).Q
        image = torch.zeros_like(axes)  # X^T X axes
        for _, block in _centered_blocks(x, mean, items):
            z = block * inverse
            image.addmm_(z.T, z @ axes)
        axes, before = image, axes
    small = before.T @ image
    variance, turn = torch.linalg.eigh((small + small.T) / 2)
    found: Tensor = before @ turn[:, variance.argsort(descending=True)[:width]]
    largest = found.gather(0, found.abs().argmax(dim=0, keepdim=True))
    return found * largest.sign()  # else rounding would choose the sign, which a reloaded model's weights rely on


_ITERATIONS = 8
_SMALLEST = 1e-36  # of spreads: the inverse of a smaller one does not fit into float32
