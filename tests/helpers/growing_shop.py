"""Raw tables of a shop with column names of its own, and three items that come later."""

import csv
from pathlib import Path

import gtcrec
from gtcrec.data import write_catalog
from gtcrec.data.build.pipeline import BuildConfig, build

__all__ = ["CONFIG", "NAMES", "NEW", "build_shop"]

NAMES = {"item_id": "sku", "title": "name", "image": "picture", "price": "price", "kind": "kind", "shape": "shape"}
NEW = ["p0047", "p0048", "p0049"]
CONFIG = BuildConfig(
    items_item="sku", title="name", image="picture", category=("kind", "shape"), numbers=("price",), core=0
)


def build_shop(folder: Path) -> Path:
    """Write a shop to `folder`, build its data and train `l3ae` on them; `new.csv` has items that `items.csv` lacks."""
    shop = write_catalog(folder, n_users=60, n_items=50)
    with (shop / "items.csv").open(newline="") as file:
        rows = [{new: row[old] for old, new in NAMES.items()} for row in csv.DictReader(file)]
    for name, chosen in (("items", False), ("new", True)):
        with (shop / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(NAMES.values()))
            writer.writeheader()
            writer.writerows(row for row in rows if (row["sku"] in NEW) == chosen)
    build(shop / "items.csv", shop / "interactions.csv", shop / "built", CONFIG)
    gtcrec.train(shop / "built", "l3ae", shop / "l3ae")
    return shop
