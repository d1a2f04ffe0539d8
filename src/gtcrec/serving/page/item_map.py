"""A map of the items: alike ones lie near each other, and a column of the items table colours them."""

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gtcrec.serving.page.catalog import Catalog, shown_value
from gtcrec.serving.recommender import Recommender
from gtcrec.types import Floats, Ints

__all__ = ["Coloring", "color_columns", "group_by", "map_items", "project", "telling_column"]

MAP_ITEMS = 1_000  # the memory and time of the projection grow with its square
_GROUPS = 8  # colours of the style sheet
_PERPLEXITY = 20.0
_STEPS, _EARLY = 350, 80  # of descent, and those in which likes are drawn together first


@dataclass(frozen=True)
class Coloring:
    """The groups of items by a column: their names and each item's place among these, -1 for none."""

    names: tuple[str, ...]
    groups: tuple[int, ...]
    ordered: bool


def project(cosines: Floats) -> Floats:
    """Return places of items in the plane, float [n, 2] in [0, 1], from how alike they are.

    t-SNE (van der Maaten and Hinton 2008) with exact gradients, on the squared distances 2 - 2 cos, from the first two
    principal axes: the same items give the same map.

    Parameters
    ----------
    cosines : numpy.ndarray
        Floats [n, n].

    Examples
    --------
    >>> project(np.eye(5)).shape
    (5, 2)
    """
    n = len(cosines)
    if n < 3:
        return np.linspace(0.5, 1.0, max(n, 1))[:n, None] * np.ones(2)
    distances = np.maximum(2 - 2 * np.asarray(cosines, dtype=np.float64), 0.0)
    target = _neighbor_probabilities(distances, min(_PERPLEXITY, (n - 1) / 3)).astype(np.float32)
    place = _principal_axes(cosines) * 1e-4
    move, gain = np.zeros_like(place), np.ones_like(place)
    for step in range(_STEPS):
        pull = target * 12 if step < _EARLY else target
        slope = _gradient(pull, place)
        gain = np.maximum(np.where(np.sign(slope) == np.sign(move), gain * 0.8, gain + 0.2), 0.01)
        move = (0.5 if step < _EARLY else 0.8) * move - max(n / 12, 50) * gain * slope
        place = place + move
    low, high = place.min(axis=0), place.max(axis=0)
    found: Floats = (place - (low + high) / 2) / (float((high - low).max()) or 1.0) + 0.5
    return found


def _gradient(target: Floats, place: Floats) -> Floats:
    """The slope of KL(target ‖ near) at places [n, 2]; near are Student's t of the distances in the plane."""
    squares = (place**2).sum(axis=1)
    weight = 1 / (1 + np.maximum(squares[:, None] + squares - 2 * (place @ place.T), 0))  # [n, n]
    np.fill_diagonal(weight, 0)
    force = (target - weight / weight.sum()) * weight
    found: Floats = 4 * (force.sum(axis=1)[:, None] * place - force @ place)
    return found


def _neighbor_probabilities(distances: Floats, perplexity: float) -> Floats:
    """Return symmetric probabilities [n, n] that sum to 1; each row's width is found by bisection."""
    n = len(distances)
    low, high = np.full(n, 1e-4), np.full(n, 1e5)
    others = distances - np.where(np.eye(n, dtype=bool), np.inf, distances).min(axis=1)[:, None]
    np.fill_diagonal(others, 0)
    for _ in range(40):
        sharpness = np.sqrt(low * high)
        weight = np.exp(-others * sharpness[:, None])
        np.fill_diagonal(weight, 0)
        share = weight / weight.sum(axis=1, keepdims=True)
        entropy = -(share * np.log(np.maximum(share, 1e-300))).sum(axis=1)
        wide = entropy > math.log(perplexity)
        low, high = np.where(wide, sharpness, low), np.where(wide, high, sharpness)
    joint: Floats = (share + share.T) / (2 * n)
    return joint


def _principal_axes(cosines: Floats) -> Floats:
    centered = cosines - cosines.mean(axis=0) - cosines.mean(axis=1)[:, None] + cosines.mean()
    axes = np.linalg.eigh(centered.astype(np.float64))[1][:, -2:]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])  # else their signs are the library's choice
    found: Floats = (axes / (axes.std(axis=0) + 1e-12)).astype(np.float32)
    return found


def color_columns(catalog: Catalog) -> list[str]:
    """Return the columns that part the items into a few groups."""
    names = [name for name in catalog.columns.column_names if name not in ("item_id", "title", "image")]
    return [name for name in names if _is_telling(catalog.columns[name])]


def group_by(catalog: Catalog, name: str) -> Coloring:
    """Return the groups of all items by a column: its most frequent values, or five ranges of many numbers."""
    column = catalog.columns[name]
    if _is_number(column.type) and pc.count_distinct(column).as_py() > _GROUPS:
        return _ranges(column)
    values = _first_words(column)
    counts = Counter(value for value in values if value)
    names = sorted(counts, key=lambda value: (-counts[value], value))[:_GROUPS]
    place = {value: index for index, value in enumerate(names)}
    return Coloring(tuple(names), tuple(place.get(value, -1) for value in values), ordered=False)


def telling_column(catalog: Catalog, items: list[str], places: Floats) -> str:
    """Return the column whose groups neighbors on the map share most, against chance; "" if there is none."""
    if len(items) < 3:
        return ""
    near = np.argsort(((places[:, None] - places) ** 2).sum(axis=2), axis=1)[:, 1:6]
    row = {item: index for index, item in enumerate(catalog.item_ids)}
    rows = [row[item] for item in items]
    gains = {}
    for name in color_columns(catalog):
        groups = np.array(group_by(catalog, name).groups)[rows]
        shares = np.bincount(groups + 1) / len(groups)
        gains[name] = float((groups[near] == groups[:, None]).mean() - (shares**2).sum())
    return max(gains, key=gains.__getitem__, default="")


def map_items(recommender: Recommender, catalog: Catalog) -> tuple[list[str], Floats]:
    """Return the items of the map, the most popular if there are many, and their places."""
    items = catalog.popular_items(MAP_ITEMS)
    return items, project(recommender.item_cosines(items))


def _ranges(column: pa.ChunkedArray) -> Coloring:
    values = np.array([np.nan if cell is None else float(cell) for cell in column.to_pylist()])
    edges = np.unique(np.nanquantile(values, np.linspace(0, 1, 6)))
    groups: Ints = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    whole = pa.types.is_integer(column.type)
    ends = [f"{edge:.0f}" if whole else shown_value(float(edge)) for edge in edges]
    names = tuple(f"{low} – {high}" for low, high in pairwise(ends))
    return Coloring(names, tuple(np.where(np.isnan(values), -1, groups).tolist()), ordered=True)


def _first_words(column: pa.ChunkedArray) -> list[str]:
    """Return cells as text, of lists such as "Drama|Comedy" the first word."""
    return [shown_value(cell).split(", ")[0] for cell in column.to_pylist()]


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_telling(column: pa.ChunkedArray) -> bool:
    """Whether at least two groups hold half of the items."""
    if _is_number(column.type):
        return bool(pc.count_distinct(column).as_py() > 1)
    values = _first_words(column)
    counts = Counter(value for value in values if value)
    return len(counts) > 1 and 2 * sum(count for _, count in counts.most_common(_GROUPS)) >= len(values)
