"""Columns of numbers as content: standardised, each with a mark that says where there is one."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from gtcrec.data.features.inputs import read_raw
from gtcrec.data.formats.columns import read_numbers
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
        values, wrong = _read(table, name)
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


def _read(table: Table, name: str) -> tuple[Floats, dict[int, str]]:
    """Return the numbers of a column, NaN where there is none, and what is wrong with cells that are not empty."""
    if not pa.types.is_string(table.columns.column(name).type):
        return read_numbers(table, name, blanks=True), {}
    values, wrong = np.full(len(table), np.nan), {}
    for row, cell in enumerate(read_raw(table, name)):
        if cell is None or cell.strip():
            try:
                values[row] = _number(cell or "")
            except ValueError:
                wrong[row] = f"{name} is not a number: {str(cell)[:40]!r}" if cell else f"{name} is not UTF-8"
    return values, wrong


def _number(cell: str) -> float:
    value = float(cell.replace("_", "x"))  # Python would read 1_000
    if not math.isfinite(value):
        raise ValueError
    return value
