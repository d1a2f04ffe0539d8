"""A shop that grows: raw tables as they are on a first day and on each night after it, and all of them together."""

import csv
import os
from pathlib import Path

from gtcrec.data import write_catalog
from gtcrec.data.build.pipeline import BuildConfig
from gtcrec.data.splits import SplitConfig
from gtcrec.data.synthetic.catalog import make_catalog
from gtcrec.data.synthetic.rendering import encode_png

CONFIG = BuildConfig(
    items_item="sku",
    image="photo",
    category=("kind", "shape"),
    numbers=("price",),
    keep=("material",),
    core=3,
    split=SplitConfig(strategy="leave_one_out"),
)
_NEW_USERS, _NEW_ITEMS, _CHANGED = 15, 2, 2
Row = dict[str, str]


class GrowingShop:
    """Writes `items.csv` and `events.csv` of a night into folders of their own; images lie in `images/`.

    Every night has events, of new users and of items that come later too, two new items and two changed ones, one of
    whose images is another. `whole(n)` writes the tables that a build from scratch after night n would read.
    """

    def __init__(self, folder: Path, nights: int = 7, n_users: int = 70, n_items: int = 60) -> None:
        self.folder, self.nights, self._n_users = folder, nights, n_users
        drawn = write_catalog(folder / "drawn", n_users=n_users, n_items=n_items, seed=3)
        os.rename(drawn / "images", folder / "images")
        items = [_renamed(row) for row in _read(drawn / "items.csv")]
        events = [self._delayed(row) for row in _read(drawn / "interactions.csv")]
        events.sort(key=lambda row: int(row["timestamp"]))
        n_first = len(items) - nights * _NEW_ITEMS
        half = len(events) // 2
        per_night = -(-(len(events) - half) // nights)
        self.items = [items[:n_first]]
        self.events = [events[:half]]
        for night in range(nights):
            new = items[n_first + night * _NEW_ITEMS :][:_NEW_ITEMS]
            changed = [self._changed(items[(5 * night + k) % n_first], night) for k in range(_CHANGED)]
            self.items.append([*changed, *new])
            self.events.append(events[half + night * per_night :][:per_night])
        self._images = make_catalog(n_users=20, n_items=20, seed=9, per_user=4).images

    def day(self, night: int) -> tuple[Path, Path]:
        """Write the tables of a night, 0 for the first day, and its images; return items and events."""
        if night:
            changed = self.items[night][0]["photo"]
            if changed:  # another file of the same name, as a shop replaces a picture
                (self.folder / "fresh.png").write_bytes(encode_png(self._images[night]))
                os.replace(self.folder / "fresh.png", self.folder / changed)
        return self._write(f"night{night}", self.items[night], self.events[night])

    def whole(self, night: int) -> tuple[Path, Path]:
        """Write the tables of all nights up to one, together."""
        rows: dict[str, Row] = {}
        for items in self.items[: night + 1]:
            rows |= {row["sku"]: row for row in items}
        events = [row for some in self.events[: night + 1] for row in some]
        return self._write(f"whole{night}", list(rows.values()), events)

    def _write(self, name: str, items: list[Row], events: list[Row]) -> tuple[Path, Path]:
        paths = self.folder / f"{name}_items.csv", self.folder / f"{name}_events.csv"
        for path, rows in zip(paths, (items, events), strict=True):
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)
        return paths

    def _delayed(self, row: Row) -> Row:
        """Let the last users come in the second half of the time alone."""
        user, time = int(row["user_id"][1:]), int(row["timestamp"])
        late = user >= self._n_users - _NEW_USERS
        return {"user": row["user_id"], "item": row["item_id"], "timestamp": str(time + 60_000_000 * late)}

    def _changed(self, row: Row, night: int) -> Row:
        return {**row, "price": f"{float(row['price']) + 1 + night:.2f}", "title": f"{row['title']}, edition {night}"}


def _renamed(row: Row) -> Row:
    names = {"sku": "item_id", "title": "title", "photo": "image", "kind": "kind", "shape": "shape"}
    names |= {"material": "material", "price": "price"}
    return {new: row[old] for new, old in names.items()}


def _read(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
