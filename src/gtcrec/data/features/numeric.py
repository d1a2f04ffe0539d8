"""Columns of numbers as content: standardised, each with a mark that says where there is one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gtcrec.data.formats.columns import decode_cells, number_cells
from gtcrec.data.formats.tables import Table
from gtcrec.types import Floats, Masks

__all__ = ["ColumnScale", "number_vectors"]

_Quartiles = tuple[float, float, float] | None


@dataclass(frozen=True)
class ColumnScale:
    """What standardises a column: mean and deviation of its numbers, and their quartiles, which say what is far out.

    The quartiles are None where there are fewer than three numbers.
    """

    name: str
    mean: float
    std: float
    quartiles: tuple[float, float, float] | None


def number_vectors(
    table: Table, names: Sequence[str], fitted: Sequence[ColumnScale] | None = None
) -> tuple[Floats, list[str | None], dict[str, Any], tuple[ColumnScale, ...]]:
    """Return float64 [rows, 2 columns], why a cell cannot be read ("": the row has no number), facts and the scales.

    A column becomes two: (value - mean) / standard deviation over the values there are, 0 where there is none; and 1
    where there is one, else 0. So a missing value is not taken for the mean, and no row with a number is zero. A row
    may have a vector and a reason: some of its cells could be read. A value 10^6 times further out than the middle half
    of the column is wide cannot: the others would not differ beside it. With `fitted` the scales are those of an
    earlier table.
    """
    parts, facts, scales = [], [], []
    reasons: list[str | None] = [None] * len(table)
    known_scales = {scale.name: scale for scale in fitted or ()}
    for name in names:
        values, wrong, quartiles = _read_column(table, name, known_scales.get(name))
        for row, reason in wrong.items():
            reasons[row] = "; ".join(filter(None, (reasons[row], reason)))
        known = ~np.isnan(values)
        scale = known_scales.get(name) or _fit(name, values[known], quartiles)
        standard = np.where(known, values - scale.mean, 0) / (scale.std or 1)
        parts += [standard, known.astype(np.float64)]
        facts.append({"name": name, "mean": scale.mean, "std": scale.std, "missing": int((~known).sum())})
        scales.append(scale)
    x = np.stack(parts, axis=1)
    found = [reason if reason or row.any() else "" for reason, row in zip(reasons, x, strict=True)]
    return x, found, {"name": "standardised", "columns": facts}, tuple(scales)


def _fit(name: str, there: Floats, quartiles: _Quartiles) -> ColumnScale:
    there = there if len(there) else np.zeros(1)
    return ColumnScale(name, float(there.mean()), float(there.std()), quartiles)


def _read_column(table: Table, name: str, scale: ColumnScale | None) -> tuple[Floats, dict[int, str], _Quartiles]:
    """Return the numbers of a column, NaN where there is none, what is wrong with cells, and the quartiles."""
    values, invalid = number_cells(table, name)
    cells = decode_cells(table, name) if invalid.any() else []
    reasons = ("is not UTF-8" if cell is None else f"is not a number: {cell[:40]!r}" for cell in cells)
    wrong = {row: f"{name} {reason}" for row, reason in enumerate(reasons) if invalid[row]}
    read = np.where(invalid, np.nan, values)
    quartiles = scale.quartiles if scale else _quartiles(read)
    far = _far_out(read, quartiles)
    wrong |= {
        row: f"{name} is more than 10^6 times further out than others: {values[row]:g}"
        for row in np.flatnonzero(far).tolist()
    }
    return np.where(invalid | far, np.nan, values), wrong, quartiles


def _quartiles(values: Floats) -> _Quartiles:
    known = values[~np.isnan(values)]
    if len(known) < 3:
        return None
    low, middle, high = np.quantile(known, (0.25, 0.5, 0.75)).tolist()
    return low, middle, high


def _far_out(values: Floats, quartiles: _Quartiles) -> Masks:
    """Return which numbers lie 10^6 times further from the median than the middle half is wide, bool [n]."""
    if quartiles is None:
        return np.zeros(len(values), dtype=np.bool_)
    low, middle, high = quartiles
    narrow = high - low <= 1e-6 * abs(middle)
    width = abs(middle) if narrow else high - low
    with np.errstate(invalid="ignore"):
        far: Masks = np.abs(values - middle) > 1e6 * (width or np.inf)
        return far
