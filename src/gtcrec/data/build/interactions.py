"""The interactions of a build: merged, cut to the k-core, numbered, divided and written."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from gtcrec.data.build.gather import Gathered
from gtcrec.data.build.items import Catalogue
from gtcrec.data.build.report import Drops
from gtcrec.data.core import core_pairs
from gtcrec.data.filters import Rows, merge_duplicates
from gtcrec.data.formats.streaming import Source
from gtcrec.data.splits import SplitConfig, assign
from gtcrec.errors import DataError
from gtcrec.runtime.files import atomic_path
from gtcrec.types import Dataset, Interactions, ItemFeatures, Vocabulary

__all__ = ["Pairs", "filter_pairs", "write_interactions"]

_GROUP = 1 << 20  # rows of a row group that is written


@dataclass(frozen=True, eq=False)
class Pairs:
    """What stays: distinct pairs sorted by user and item, ids by code (Arrow text), rows of the items table."""

    rows: Rows
    user_ids: Any
    item_ids: Any
    chosen: NDArray[np.bool_]
    labels: NDArray[np.int8]

    def counts(self) -> dict[str, Any]:
        n_train, n_valid, n_test = np.bincount(self.labels, minlength=3).tolist()
        return {
            "interactions": len(self.rows),
            "items": len(self.item_ids),
            "users": len(self.user_ids),
            "training interactions": n_train,
            "validation interactions": n_valid,
            "test interactions": n_test,
        }


def filter_pairs(
    found: Gathered, catalogue: Catalogue, source: Source, core: int, config: SplitConfig, drops: Drops
) -> Pairs:
    """Merge repeated pairs, keep the k-core (0: all), number what stays and divide it.

    Raises `DataError` when the core is empty or nothing is left to train on, and for a pair with two labels.
    """
    n_before = len(found.rows)
    rows, _ = merge_duplicates(found.rows, source.head.place)
    drops.add("interactions", "that repeat a user and an item (the earliest is kept)", n_before - len(rows))
    user_ids, item_ids, chosen = found.user_ids, catalogue.ids, catalogue.chosen
    if core:
        rows, user_ids, kept = _core(rows, user_ids, len(item_ids), core, source, drops)
        chosen = chosen.copy()
        chosen[np.flatnonzero(chosen)[~kept]] = False
        item_ids = item_ids.filter(pa.array(kept))
    labels = _divide(rows, len(user_ids), len(item_ids), config)
    return Pairs(rows, user_ids, item_ids, chosen, labels)


def _core(
    rows: Rows, user_ids: Any, n_items: int, k: int, source: Source, drops: Drops
) -> tuple[Rows, Any, NDArray[np.bool_]]:
    """Return the rows of the k-core with new codes, the ids of its users, and which items are in it."""
    n_users = len(user_ids)
    keep = core_pairs(rows.users, rows.items, n_users, n_items, k)
    if not keep.any():
        raise DataError(f"{source.path}: --core {k} leaves none of {len(rows):,} interactions; choose a smaller one")
    drops.add("interactions", f"outside the {k}-core", int((~keep).sum()))
    rows = rows.at(keep)
    some_users, some_items = (
        np.bincount(side, minlength=n) > 0 for side, n in ((rows.users, n_users), (rows.items, n_items))
    )
    drops.add("users", f"outside the {k}-core", int((~some_users).sum()))
    drops.add("items", f"outside the {k}-core, or without an interaction", int((~some_items).sum()))
    users, items = (np.cumsum(some, dtype=np.int32) - 1 for some in (some_users, some_items))
    rows = replace(rows, users=users[rows.users], items=items[rows.items])
    return rows, user_ids.filter(pa.array(some_users)), some_items


def _divide(rows: Rows, n_users: int, n_items: int, config: SplitConfig) -> NDArray[np.int8]:
    """Return the part of each row, as `split` divides a data set of these pairs."""
    dataset = Dataset(
        "built",
        Interactions(rows.users, rows.items, n_users, n_items),
        ItemFeatures(n_items),
        Vocabulary(np.arange(n_users)),
        Vocabulary(np.arange(n_items)),
        rows.labels,
        rows.times,
    )
    labels = assign(dataset, config)
    if not (labels == 0).any():
        raise DataError(f"split {config.strategy!r} leaves no training interaction of {len(labels)}")
    return labels


def write_interactions(pairs: Pairs, folder: Path) -> None:
    """Write `interactions.parquet`: user_id, item_id, what there is of rating and timestamp, and x_label."""
    rows = pairs.rows
    columns = {"rating": rows.ratings, "timestamp": rows.times, "x_label": pairs.labels}
    there = {name: array for name, array in columns.items() if array is not None}
    fields = [("user_id", pa.string()), ("item_id", pa.string())]
    fields += [(name, pa.from_numpy_dtype(array.dtype)) for name, array in there.items()]
    with (
        atomic_path(folder / "interactions.parquet") as temporary,
        pa.parquet.ParquetWriter(temporary, pa.schema(fields), compression="zstd") as writer,
    ):
        for start in range(0, len(rows), _GROUP):
            part = slice(start, start + _GROUP)
            made = {
                "user_id": pairs.user_ids.take(pa.array(rows.users[part])),
                "item_id": pairs.item_ids.take(pa.array(rows.items[part])),
            }
            # A rating may be missing where none is asked for.
            made |= {name: pa.array(array[part], from_pandas=True) for name, array in there.items()}
            writer.write_table(pa.table(made))
