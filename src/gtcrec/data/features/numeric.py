"""Columns of numbers as content: standardised, each with a mark that says where there is one."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gtcrec.data.formats.columns import decode_cells, number_cells
from gtcrec.data.formats.tables import Table
from gtcrec.types import Floats

__all__ = ["number_vectors"]


def number_vectors(table: Table, names: Sequence[str]) -> tuple[Floats, list[str | None], dict[str, Any]]:
    """Return float64 [rows, 2 columns], why a cell cannot be read ("": the row has no number), and the facts.

    A column becomes two: (value - mean) / standard deviation over the values there are, 0 where there is none; and 1
    where there is one, else 0. So a missing value is not taken for the mean, and no row with a number is zero. A row
    may have a vector and a reason: some of its cells could be read.
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
    return np.where(invalid, np.nan, values), wrong
