"""Small product images and texts with known attributes, and plain features of both."""

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gtcrec.types import Floats, Ints, Masks

__all__ = [
    "ATTRIBUTES",
    "SIZE",
    "draw_images",
    "encode_png",
    "image_features",
    "text_features",
    "write_texts",
]

SIZE = 48  # pixels a side

_COLOURS = {
    "red": (205, 45, 50),
    "orange": (235, 140, 35),
    "yellow": (225, 205, 50),
    "green": (50, 150, 70),
    "cyan": (50, 180, 190),
    "blue": (50, 80, 195),
    "purple": (135, 60, 165),
    "brown": (120, 80, 50),
}
_SHAPES: dict[str, Callable[[Floats, Floats], Masks]] = {
    "disc": lambda x, y: x**2 + y**2 <= 1,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 0.85,
    "triangle": lambda x, y: (y <= 0.8) & (abs(x) <= (y + 1) / 1.8),
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 1),
    "ring": lambda x, y: (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.3),
    "diamond": lambda x, y: abs(x) + abs(y) <= 1,
}
_KINDS = {
    "mug": ("coffee", "tea", "handle", "dishwasher", "hot"),
    "lamp": ("light", "bulb", "bedside", "switch", "glow"),
    "bag": ("strap", "zip", "shoulder", "pocket", "travel"),
    "clock": ("hands", "wall", "battery", "hour", "quiet"),
    "notebook": ("pages", "ruled", "pen", "cover", "notes"),
    "bottle": ("water", "lid", "litre", "sport", "leakproof"),
    "blanket": ("warm", "sofa", "soft", "winter", "fringe"),
    "chair": ("seat", "legs", "desk", "back", "stackable"),
}
_MATERIALS = ("wood", "steel", "cotton", "glass", "leather")
_BRANDS = ("Alder", "Birk", "Corvo", "Dalen", "Estra", "Fjell", "Gorm", "Hestia")
_FILLERS = ("classic", "daily", "new", "gift", "home", "light", "popular", "simple", "small", "sturdy")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": tuple(_COLOURS),
    "shape": tuple(_SHAPES),
    "kind": tuple(_KINDS),
    "material": _MATERIALS,
}
"""The values of each attribute. Images show colour and shape, texts name kind and material."""


def draw_images(attributes: Mapping[str, Ints], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one coloured shape an item on a grey ground, place and size at random, uint8 [n, 48, 48, 3]."""
    n = len(attributes["shape"])
    centre = SIZE / 2 + rng.uniform(-2, 2, (n, 2, 1, 1))
    radius = rng.uniform(14, 17, (n, 1, 1))
    y, x = np.mgrid[:SIZE, :SIZE]
    shaped = np.zeros((n, SIZE, SIZE), dtype=np.bool_)
    for value, covers in enumerate(_SHAPES.values()):
        chosen = attributes["shape"] == value
        at = centre[chosen]
        shaped[chosen] = covers((x - at[:, 0]) / radius[chosen], (y - at[:, 1]) / radius[chosen])
    palette = np.array(list(_COLOURS.values()), dtype=np.float64)
    ink = palette[attributes["colour"]] + rng.normal(0, 8, (n, 3))
    ground = np.repeat(rng.uniform(215, 240, (n, 1)), 3, axis=1)
    images = np.where(shaped[..., None], ink[:, None, None], ground[:, None, None])
    images += rng.normal(0, 6, images.shape)
    return np.clip(images, 0, 255).astype(np.uint8)


def image_features(images: NDArray[np.uint8]) -> Floats:
    """Return thumbnail (6x6x3), silhouette (12x12) and colour histogram (4x4x4), float32 [n, 316]."""
    n = len(images)
    thumbnails = images.reshape(n, 6, 8, 6, 8, 3).mean(axis=(2, 4)) / 255  # [n, 6, 6, 3]
    corner = images[:, :3, :3].mean(axis=(1, 2))  # the ground's colour, [n, 3]
    contrast = abs(images - corner[:, None, None]).max(axis=-1)  # [n, 48, 48]
    silhouettes = (contrast > 50).reshape(n, 12, 4, 12, 4).mean(axis=(2, 4))  # [n, 12, 12]
    bins = (images.astype(np.int64) // 64) @ np.array([16, 4, 1])  # [n, 48, 48], 0 to 63
    cells = (np.arange(n)[:, None] * 64 + bins.reshape(n, -1)).ravel()
    histograms = np.bincount(cells, minlength=64 * n).reshape(n, 64) / SIZE**2
    parts = (thumbnails.reshape(n, -1), silhouettes.reshape(n, -1), histograms)
    return np.concatenate(parts, axis=1).astype(np.float32)


def write_texts(attributes: Mapping[str, Ints], rng: np.random.Generator) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Write a title and a short description of each item; they say nothing about colour and shape."""
    kinds, titles, texts = list(_KINDS.items()), [], []
    for kind_index, material_index in zip(attributes["kind"], attributes["material"], strict=True):
        kind, words = kinds[kind_index]
        brand, adjective = rng.choice(_BRANDS), rng.choice(_FILLERS)
        details = rng.choice(words, 3, replace=False)
        filler = rng.choice(_FILLERS, 3, replace=False)
        titles.append(f"{brand} {adjective} {kind}")
        texts.append(f"{' '.join(details)}, {' '.join(filler)}; made of {_MATERIALS[material_index]}")
    return tuple(titles), tuple(texts)


def text_features(texts: tuple[str, ...]) -> Floats:
    """Return TF-IDF of the words of texts, rows of length 1, float32 [n, distinct words]."""
    words = [text.lower().replace(",", " ").replace(";", " ").split() for text in texts]
    vocabulary = {word: k for k, word in enumerate(sorted({word for one in words for word in one}))}
    rows = np.repeat(np.arange(len(texts)), [len(one) for one in words])
    columns = np.array([vocabulary[word] for one in words for word in one], dtype=np.int64)
    counts = np.zeros((len(texts), len(vocabulary)))
    np.add.at(counts, (rows, columns), 1)
    x = counts * np.log((1 + len(texts)) / (1 + (counts > 0).sum(axis=0)))
    unit: Floats = x / np.sqrt((x**2).sum(axis=1, keepdims=True)).clip(1e-12)
    return unit.astype(np.float32)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Return an RGB image, uint8 [height, width, 3], as the bytes of a PNG file."""
    height, width, _ = image.shape
    lines = np.concatenate([np.zeros((height, 1), dtype=np.uint8), image.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks: Any = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)
