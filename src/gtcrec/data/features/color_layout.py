"""A descriptor of an image's colours and layout: content of images without a model.

The image is laid on a grid of 4 x 4 cells. A cell is described by the first three moments of its colours (Stricker and
Orengo, "Similarity of color images", 1995) in CIELAB, where distances are about as large as they look, and by a
histogram of the directions of its edges (after Dalal and Triggs, "Histograms of oriented gradients for human
detection", 2005).
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np

from gtcrec.data.features.encoders import Encoder
from gtcrec.types import Floats

__all__ = ["ABOUT", "descriptor", "descriptor_encoder", "lab"]

GRID = 4  # cells a side
CELL = 16  # pixels a side of a cell
BINS = 8  # directions of edges over half a turn
EDGE = 0.05  # change of lightness a pixel, of 1 in all, that counts as a whole edge
_SIDE = GRID * CELL
WIDTH = GRID * GRID * (3 * 3 + BINS + 1) + 1

ABOUT = {
    "name": "colour-layout",
    "version": 1,
    "preprocessing": {"size": _SIDE, "grid": GRID, "directions": BINS, "jpeg_draft": 2 * _SIDE},
}
"""What a record says of this encoder; the version is that of its arithmetic."""

_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])  # IEC 61966-2-1
_WHITE = _TO_XYZ.sum(axis=1)


def descriptor_encoder() -> Encoder:
    """Return the encoder of images that needs no model."""

    def encode(images: Iterable[Any]) -> Floats:
        return np.stack([descriptor(image) for image in images])

    return Encoder(encode, {}, draft=2 * _SIDE)


def descriptor(image: Any) -> Floats:
    """Return an RGB image (PIL) as float32 [289]: 18 numbers for each of 16 cells, then log(width / height).

    Cells follow row by row. A cell has mean, standard deviation and cube root of the third central moment of L, a and
    b, each / 100, in this order; then the shares of its pixels in edges of 8 directions, and the share in none. These
    nine sum to 1, so that no image is all zeros, not even a black one.
    """
    from PIL import Image

    small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    x = lab(np.asarray(small)) / 100  # [side, side, 3]
    cells = np.concatenate([_moments(x), _edges(x[:, :, 0])], axis=1)  # [cells, 18]
    return np.append(cells.ravel(), np.log(image.width / image.height)).astype(np.float32)


def lab(rgb: Any) -> Floats:
    """Return 8-bit sRGB [..., 3] in CIELAB for its white D65 (ISO/CIE 11664-4), L from 0 to 100."""
    xyz = _linear()[rgb] @ (_TO_XYZ / _WHITE[:, None]).T
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@cache
def _linear() -> Floats:
    """The light of each of the 256 values of a channel (IEC 61966-2-1)."""
    c = np.arange(256) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def _moments(x: Floats) -> Floats:
    split = x.reshape(GRID, CELL, GRID, CELL, 3).transpose(0, 2, 1, 3, 4)
    cells = split.reshape(GRID * GRID, CELL * CELL, 3)
    mean = cells.mean(axis=1)
    away = cells - mean[:, None]
    square = away * away
    return np.concatenate([mean, np.sqrt(square.mean(axis=1)), np.cbrt((square * away).mean(axis=1))], axis=1)


def _edges(lightness: Floats) -> Floats:
    """Return the shares of edges by direction, each split between the two nearest, and of no edge, [cells, 9]."""
    dy, dx = np.gradient(lightness)
    weight = np.minimum(np.hypot(dx, dy) / EDGE, 1)
    turn = (np.arctan2(dy, dx) / np.pi % 1) * BINS  # of the gradient; edges of both polarities are one
    low = np.floor(turn)
    row, column = np.indices(lightness.shape) // CELL
    first = (row * GRID + column) * BINS
    bins = np.stack([first + low % BINS, first + (low + 1) % BINS]).astype(np.int64)
    votes = np.stack([weight * (1 - (turn - low)), weight * (turn - low)])
    shares = np.bincount(bins.ravel(), votes.ravel(), GRID * GRID * BINS).reshape(-1, BINS) / CELL**2
    return np.concatenate([shares, 1 - shares.sum(axis=1, keepdims=True)], axis=1)
