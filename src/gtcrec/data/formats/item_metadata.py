"""Titles and images of items, for people to look at, and their other columns, from the items table."""

from pathlib import Path

import numpy as np

from gtcrec.data.formats.columns import read_texts
from gtcrec.data.formats.item_columns import read_item_columns
from gtcrec.data.formats.tables import Table
from gtcrec.errors import DataError, shortened
from gtcrec.types import Ints, ItemMetadata

__all__ = ["find_inside", "image_path", "is_file", "read_item_metadata"]


def read_item_metadata(table: Table, key: str, index: Ints, n_items: int) -> tuple[ItemMetadata | None, dict[str, int]]:
    """Return the metadata of `n_items` items and notes; None for a table of nothing but `key`, the column of ids.

    Row r of the table belongs to item `index[r]`, -1 for none. Image paths are relative to the table's
    folder; raises `DataError` for one that leads out of it.
    """
    row_of = np.full(n_items, -1, dtype=np.int64)
    row_of[index[index >= 0]] = np.flatnonzero(index >= 0)
    columns, notes = read_item_columns(table, key, row_of)
    if not {"title", "image"} & set(table.names):
        shown = ", ".join(table.names)
        notes[f"{table.path.name}: no column called title or image, found {shown}"] = len(table)
    if not columns.column_names:
        return None, notes
    blank = [""] * len(table)
    titles = read_texts(table, "title") if "title" in table.names else blank
    paths = read_texts(table, "image") if "image" in table.names else blank
    places = [image_path(table, row, path) for row, path in enumerate(paths)]
    images = [place if place and is_file(place) else None for place in places]
    rows = row_of.tolist()
    item_metadata = ItemMetadata(
        tuple(titles[row] if row >= 0 else "" for row in rows),
        tuple(images[row] if row >= 0 else None for row in rows),
        columns,
    )
    lost = sum(path != "" and image is None for path, image in zip(paths, images, strict=True))
    return item_metadata, notes | ({"image files not found": lost} if lost else {})


def image_path(table: Table, row: int, path: str) -> Path | None:
    """Return the place of an image that `path`, relative to the table's folder, names; None for "".

    Raises `DataError` for a path that leads out of the folder.
    """
    if not path:
        return None
    folder = table.path.parent
    place = find_inside(folder, path)
    if place is None:
        raise DataError(f"image {shortened(path)} ({table.place(row)}) must be a path inside {folder}")
    return place


def find_inside(folder: Path, path: str) -> Path | None:
    """Return where a path of a table lies, None outside the folder; backslashes of Windows part folders as well."""
    if "\\" in path and not is_file(folder / path):
        path = path.replace("\\", "/")
    place = folder / path
    try:
        return place if place.resolve().is_relative_to(folder.resolve()) else None
    except (OSError, RuntimeError):  # too long a name, a link to itself: inside, but no file
        return None if ".." in place.parts or place.is_absolute() != folder.is_absolute() else place
    except ValueError:  # NUL
        return None


def is_file(place: Path) -> bool:
    """Return whether a path is that of a file; one that the system does not take is none."""
    try:
        return place.is_file()
    except (OSError, ValueError, RuntimeError):
        return False
