"""The raw tables that the README speaks of: clicks.csv, items.csv and pictures, with ids such as ann and mug-7."""

import csv
import shutil
from pathlib import Path

from gtcrec.data import write_catalog

NAMES = {"u0000": "ann", "u0001": "bob", "p0000": "mug-7", "p0001": "tea-2"}


def write_raw_shop(folder: Path, n_users: int = 80, n_items: int = 40) -> None:
    """Write the tables and pictures of a drawn catalog to `folder`, under other names for ids and columns."""
    drawn = write_catalog(folder / "drawn", n_users=n_users, n_items=n_items, seed=0)
    shutil.move(drawn / "images", folder / "images")
    clicks = [(row["user_id"], row["item_id"], row["timestamp"]) for row in _read(drawn / "interactions.csv")]
    items = [(row["item_id"], row["title"], row["description"], row["image"]) for row in _read(drawn / "items.csv")]
    _write(folder / "clicks.csv", ("user", "item", "timestamp"), clicks)
    _write(folder / "items.csv", ("item", "title", "description", "photo"), items)
    shutil.rmtree(drawn)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(path: Path, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([NAMES.get(cell, cell) for cell in row] for row in rows)
