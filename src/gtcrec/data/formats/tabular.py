"""Interactions whose ids are of any kind, and the items table beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from gtcrec.data.formats.columns import find_item_column, first_row, read_ids
from gtcrec.data.formats.ids import IdMap, index_ids, refuse_repeated_ids, sort_ids
from gtcrec.data.formats.item_metadata import read_item_metadata
from gtcrec.data.formats.npy import count_rows
from gtcrec.data.formats.tables import Table
from gtcrec.errors import DataError
from gtcrec.types import ItemMetadata

__all__ = ["read_tabular"]


def read_tabular(
    table: Table, columns: Mapping[str, str], files: Mapping[str, Path], items: Table | None
) -> tuple[IdMap, ItemMetadata | None, dict[str, int]]:
    """Return the ids of an interactions table, the items' metadata and notes; `columns` are names by role.

    The items are those of the items table where there is one. Raises `DataError` for an empty id, an item that the
    items table misses or has twice, and content with another number of rows.
    """
    ids = _map_ids(table, columns["user"], columns["item"], items)
    n_rows, n_items = count_rows(files), len(ids.item_ids)
    if files and n_rows != n_items:
        source = f"rows in {items.path.name}" if items else f"distinct items in {table.path.name}"
        raise DataError(f"{next(iter(files.values()))} has {n_rows} rows, expected {n_items}, the number of {source}")
    if items is None:
        return ids, None, {}
    key = find_item_column(items, columns["item"])
    return ids, *read_item_metadata(items, key, np.argsort(ids.feature_rows), n_items)


def _map_ids(table: Table, user: str, item: str, items: Table | None) -> IdMap:
    users, user_ids = index_ids(_all_ids(table, user))
    row_items = _all_ids(table, item)
    if items is None:
        indices, item_ids = index_ids(row_items)
        return IdMap(users, indices, user_ids, item_ids, np.arange(len(item_ids)))
    key = find_item_column(items, item)
    listed = _all_ids(items, key)
    places = listed.indices.to_numpy()
    refuse_repeated_ids(items, key, places)
    item_ids, ranks = sort_ids(listed.dictionary)
    found = pc.index_in(row_items.dictionary, value_set=listed.dictionary).take(row_items.indices)
    if found.null_count:
        row = first_row(pc.is_null(found))
        raise DataError(
            f"item {row_items[row].as_py()!r} ({table.place(row)}) is missing from {items.path.name}, "
            f"which has {len(item_ids)} items"
        )
    return IdMap(users, ranks[found.to_numpy()], user_ids, item_ids, np.argsort(ranks[places]))


def _all_ids(table: Table, name: str) -> Any:
    """Return ids as `read_ids` does; raises `DataError` for a row without one."""
    ids = read_ids(table, name)
    if ids.null_count:
        place = table.place(first_row(pc.is_null(ids)))
        raise DataError(f"{name} is empty in {place}: each row needs a user id and an item id")
    return ids
