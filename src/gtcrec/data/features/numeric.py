"""Columns of numbers as content: standardised, each with a mark that says where there is one."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gtcrec.data.formats.columns import decode_cells, number_cells
from gtcrec.data.formats.tables import Table
from gtcrec.types import Floats, Masks

__all__ = ["number_vectors"]


def number_vectors(table: Table, names: Sequence[str]) -> tuple[Floats, list[str | None], dict[str, Any]]:
    """Return float64 [rows, 2 columns], why a cell cannot be read ("": the row has no number), and the facts.

    A column becomes two: (value - mean) / standard deviation over the values there are, 0 where there is none; and 1
    where there is one, else 0. So a missing value is not taken for the mean, and no row with a number is zero. A row
    may have a vector and a reason: some of its cells could be read. A value 10^6 times further out than the middle half
    of the column is wide cannot: the others would not differ beside it.
    """
    parts, facts = [], []
    reasons: list[str | None] = [None] * len(table)
    for name in names:
        values, wrong = _read_column(table, name)
        for row, reason in wrong.items():
            reasons[row] = "; ".join(filter(None, (reasons[row], reason)))
        known = ~np.isnan(values)
        there = values[known] if known.any() else np.zeros(1)
        mean, std = float(there.mean()), float(there.std())
        standard = np.where(known, values - mean, 0) / (std or 1)
        parts += [standard, known.astype(np.float64)]
        facts.append({"name": name, "mean": mean, "std": std, "missing": int((~known).sum())})
    x = np.stack(parts, axis=1)
    found = [reason if reason or row.any() else "" for reason, row in zip(reasons, x, strict=True)]
    return x, found, {"name": "standardised", "columns": facts}


def _read_column(table: Table, name: str) -> tuple[Floats, dict[int, str]]:
    """Return the numbers of a column, NaN where there is none, and what is wrong with cells that are not empty."""
    values, invalid = number_cells(table, name)
    cells = decode_cells(table, name) if invalid.any() else []
    reasons = ("is not UTF-8" if cell is None else f"is not a number: {cell[:40]!r}" for cell in cells)
    wrong = {row: f"{name} {reason}" for row, reason in enumerate(reasons) if invalid[row]}
    far = _far_out(np.where(invalid, np.nan, values))
    wrong |= {
        row: f"{name} is more than 10^6 times further out than others: {values[row]:g}"
        for row in np.flatnonzero(far).tolist()
    }
    return np.where(invalid | far, np.nan, values), wrong


def _far_out(values: Floats) -> Masks:
    """Return which numbers lie 10^6 times further from the median than the middle half is wide, bool [n]."""
    known = values[~np.isnan(values)]
    if len(known) < 3:
        return np.zeros(len(values), dtype=np.bool_)
    low, middle, high = np.quantile(known, (0.25, 0.5, 0.75))
    narrow = high - low <= 1e-6 * abs(middle)
    width = abs(middle) if narrow else high - low
    with np.errstate(invalid="ignore"):
        far: Masks = np.abs(values - middle) > 1e6 * (width or np.inf)
        return far
