"""What is to be encoded: texts, or files that an items table names or holds, each with the sum of its content."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from gtcrec.data.formats.columns import decode_cells, read_texts
from gtcrec.data.formats.item_metadata import image_path, is_file
from gtcrec.data.formats.tables import Table
from gtcrec.runtime.files import sha256

__all__ = ["Contents", "read_files", "read_joined"]


@dataclass(frozen=True)
class Contents:
    """A content an item, each list as long as the table."""

    values: Sequence[Any]
    """A text, the path of a file, or its bytes."""

    sums: Sequence[bytes]
    """sha256 of a content."""

    reasons: Sequence[str | None]
    """Why there is none: "" for an empty cell; None where there is one."""


def read_joined(table: Table, names: Sequence[str]) -> Contents:
    """Return the texts of some columns, joined by a blank. A cell that is not UTF-8 makes its row unreadable."""
    columns = [decode_cells(table, name) for name in names]
    values, reasons = [], []
    for cells in zip(*columns, strict=True):
        wrong = [name for name, cell in zip(names, cells, strict=True) if cell is None]
        values.append("" if wrong else " ".join(filter(None, (cell.strip() for cell in cells))))
        reasons.append(f"{wrong[0]} is not UTF-8" if wrong else None if values[-1] else "")
    return Contents(values, [hashlib.sha256(text.encode()).digest() for text in values], reasons)


def read_files(table: Table, name: str) -> Contents:
    """Return the files of a column of paths, which are relative to the table's folder, or of one that holds bytes.

    Raises `DataError` for a path that leads out of the folder.
    """
    column = table.columns.column(name)
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        values = column.to_pylist()
        reasons = ["" if value is None else None if value else "the file is empty" for value in values]
        return Contents(values, [hashlib.sha256(value or b"").digest() for value in values], reasons)
    places = [image_path(table, row, path) for row, path in enumerate(read_texts(table, name))]
    found = [_file_sum(place) if place else (b"", "") for place in places]
    paths = [str(place.absolute()) if place else "" for place in places]
    return Contents(paths, [one for one, _ in found], [reason for _, reason in found])


def _file_sum(place: Path) -> tuple[bytes, str | None]:
    try:
        if not is_file(place):
            return b"", "no such file"
        if not place.stat().st_size:
            return b"", "the file is empty"
        return bytes.fromhex(sha256(place)), None
    except OSError as error:
        return b"", f"cannot be read: {error.strerror}"
