"""External ids: from columns to indices, and from MMRec's mapping files to names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gtcrec.data.formats.columns import find_column, read_dense, read_ids, vocabulary
from gtcrec.data.formats.tables import Table, read_table
from gtcrec.errors import DataError
from gtcrec.types import Ints

__all__ = ["ExternalIds", "name_ids", "read_external", "refuse_twice"]


@dataclass(frozen=True, eq=False)
class ExternalIds:
    """Indices of each row's user and item, the ids by index, and the source row of each item.

    `order[i]` is the row of the items table that describes item i, or i itself without a table.
    """

    users: Ints
    items: Ints
    user_ids: NDArray[Any]
    item_ids: NDArray[Any]
    order: Ints


def read_external(table: Table, user: str, item: str, described: Table | None) -> ExternalIds:
    """Return the ids of an interactions table; the items are those of the items table where there is one.

    Raises `DataError` for an item that is missing from the items table or stands there twice.
    """
    user_column, item_column = read_ids(table, user), read_ids(table, item)
    known_users, user_ids = vocabulary(user_column)
    users = _numpy(pc.index_in(user_column, value_set=known_users))
    if described is None:
        known, item_ids = vocabulary(item_column)
        return ExternalIds(
            users,
            _numpy(pc.index_in(item_column, value_set=known)),
            user_ids,
            item_ids,
            np.arange(len(known)),
        )
    key = item if item in described.names else find_column(described, "item", None, True)
    catalogue = read_ids(described, key)
    if catalogue.type != item_column.type:  # one side has ids that are no whole numbers
        catalogue, item_column = pc.cast(catalogue, pa.string()), pc.cast(item_column, pa.string())
    known, item_ids = vocabulary(catalogue)
    index = _numpy(pc.index_in(catalogue, value_set=known))
    refuse_twice(described, key, index)
    place = pc.index_in(item_column, value_set=known)
    if place.null_count:
        row = int(np.argmax(pc.is_null(place).to_numpy(zero_copy_only=False)))
        raise DataError(
            f"item {item_column[row].as_py()!r} ({table.place(row)}) is missing from {described.path.name}, "
            f"which has {len(known)} items"
        )
    return ExternalIds(users, _numpy(place), user_ids, item_ids, np.argsort(index))


def refuse_twice(table: Table, name: str, ids: Ints) -> None:
    """Raise `DataError` when an id stands in two rows of a table that must have one row an id."""
    order = np.argsort(ids, kind="stable")
    again = np.flatnonzero(np.diff(ids[order]) == 0)
    if len(again):
        one, two = (int(order[again[0] + k]) for k in (0, 1))
        value = table.columns[name][two].as_py()
        raise DataError(f"{name} {value!r} stands twice: {table.place(one)} and {table.place(two)}")


def name_ids(path: Path, dense: str, n: int) -> tuple[NDArray[Any], dict[str, int]]:
    """Return the external ids of the dense ids 0..n-1 from a mapping file, or these numbers where none is.

    The file is tab-separated, whatever its ending: a column of dense ids, called as in the interactions, and
    one of external ids. Also return notes. Raises `DataError` for a dense id that has no row.
    """
    if not path.is_file():
        return np.arange(n), {}
    table = read_table(path, separator="\t")
    if dense not in table.names or len(table.names) < 2:
        raise DataError(f"{path}: wanted tab-separated columns {dense!r} and an external id, found {list(table.names)}")
    index = read_dense(table, dense)
    name = next(column for column in table.names if column != dense)
    ids = read_ids(table, name)
    refuse_twice(table, dense, index)
    known, _ = vocabulary(ids)
    refuse_twice(table, name, _numpy(pc.index_in(ids, value_set=known)))
    missing = np.setdiff1d(np.arange(n), index)
    if len(missing):
        raise DataError(f"{path}: no row for {dense} {missing[0]}, wanted all from 0 to {n - 1}")
    inside = np.flatnonzero(index < n)
    chosen = ids.take(pa.array(inside[np.argsort(index[inside])]))
    outside = len(index) - n
    text = pa.types.is_string(chosen.type)
    array = np.array(chosen.to_pylist(), dtype=np.str_ if text else np.int64)
    return array, {f"rows of {path.name} outside the data": outside} if outside else {}


def _numpy(index: Any) -> Ints:
    return np.array(index.to_numpy(zero_copy_only=False), dtype=np.int64)
