"""MMRec folders: tab-separated interactions with dense integer ids, and files that map these to external ids."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gtcrec.data.formats.columns import find_item_column, first_row, read_ids
from gtcrec.data.formats.ids import IdMap, refuse_repeated_ids, whole_numbers
from gtcrec.data.formats.item_metadata import read_item_metadata
from gtcrec.data.formats.npy import count_rows
from gtcrec.data.formats.tables import Table, find_table, read_table
from gtcrec.errors import DataError
from gtcrec.types import Ints, ItemMetadata

__all__ = ["read_dense_ids", "read_mmrec"]


def read_mmrec(
    table: Table, columns: Mapping[str, str], files: Mapping[str, Path], sizes: Mapping[str, Any]
) -> tuple[IdMap, ItemMetadata | None, dict[str, int]]:
    """Return the ids of an MMRec folder's interactions, its items' metadata and notes; `columns` are names by role.

    `sizes` says how many `users` and `items` there are at least. Raises `DataError` for an id that is no dense number
    and an item without a row of content.
    """
    users, items = read_dense_ids(table, columns["user"]), read_dense_ids(table, columns["item"])
    n_rows = count_rows(files)
    if files and items.max() >= n_rows:
        row = first_row(items >= n_rows)
        raise DataError(
            f"item {items[row]} ({table.place(row)}) lies beyond {next(iter(files.values())).name}, "
            f"which has {n_rows} rows (items 0 to {n_rows - 1})"
        )
    n_users = max(int(users.max()) + 1, sizes.get("users", 0))
    n_items = max(int(items.max()) + 1, n_rows, sizes.get("items", 0))
    folder = table.path.parent
    user_ids, user_notes = _read_mapping(folder / "u_id_mapping.csv", columns["user"], n_users)
    item_ids, item_notes = _read_mapping(folder / "i_id_mapping.csv", columns["item"], n_items)
    metadata, notes = _read_items(folder, columns["item"], n_items)
    ids = IdMap(users, items, user_ids, item_ids, np.arange(n_items))
    return ids, metadata, {**user_notes, **item_notes, **notes}


def read_dense_ids(table: Table, name: str) -> Ints:
    """Return dense integer ids, int64 [n]; raises `DataError` naming the first that is none."""
    ids = read_ids(table, name)
    is_whole = pc.fill_null(pc.match_substring_regex(ids.dictionary, r"^[0-9]{1,18}$").take(ids.indices), False)
    if not pc.all(is_whole).as_py():
        row = first_row(pc.invert(is_whole))
        raise DataError(
            f"{name} must be a whole number from 0, found {(ids[row].as_py() or '')[:60]!r} ({table.place(row)}); "
            "for other ids name the file interactions.tsv"
        )
    dense: Ints = pc.cast(ids.dictionary, pa.int64()).to_numpy()[ids.indices.to_numpy()]
    if dense.max() > 10 * len(dense) + 1000:
        row = int(dense.argmax())
        raise DataError(
            f"{name} must count from 0 without large gaps, found {dense[row]} ({table.place(row)}) "
            f"in {len(dense)} rows; for other ids name the file interactions.tsv"
        )
    return dense


def _read_items(folder: Path, item: str, n_items: int) -> tuple[ItemMetadata | None, dict[str, int]]:
    path = find_table(folder, "items")
    if path is None:
        return None, {}
    table = read_table(path)
    key = find_item_column(table, item)
    index = read_dense_ids(table, key)
    refuse_repeated_ids(table, key, index)
    metadata, notes = read_item_metadata(table, key, np.where(index < n_items, index, -1), n_items)
    outside = int((index >= n_items).sum())
    return metadata, notes | ({f"rows of {path.name} outside the catalogue": outside} if outside else {})


def _read_mapping(path: Path, dense: str, n: int) -> tuple[NDArray[Any], dict[str, int]]:
    """Return the external ids of the dense ids 0..n-1 from a mapping file, or these numbers where none is.

    The file is tab-separated, whatever its ending: a column of dense ids, called as in the interactions, and
    one of external ids. Also return notes. Raises `DataError` for a dense id that has no row.
    """
    if not path.is_file():
        return np.arange(n), {}
    table = read_table(path, separator="\t")
    if dense not in table.names or len(table.names) < 2:
        raise DataError(
            f"{path}: expected tab-separated columns {dense!r} and an external id, found {list(table.names)}"
        )
    index = read_dense_ids(table, dense)
    name = next(column for column in table.names if column != dense)
    ids = read_ids(table, name)
    refuse_repeated_ids(table, dense, index)
    if ids.null_count:
        raise DataError(f"{name} is empty in {table.place(first_row(pc.is_null(ids)))}: each row needs an id")
    refuse_repeated_ids(table, name, ids.indices.to_numpy())
    missing = np.setdiff1d(np.arange(n), index)
    if len(missing):
        raise DataError(f"{path}: no row for {dense} {missing[0]}, expected all from 0 to {n - 1}")
    inside = np.flatnonzero(index < n)
    chosen = whole_numbers(ids.cast(pa.string())).take(pa.array(inside[np.argsort(index[inside])]))
    kind = np.str_ if pa.types.is_string(chosen.type) else np.int64
    outside = len(index) - n
    notes = {f"rows of {path.name} outside the data": outside} if outside else {}
    return np.array(chosen.to_pylist(), dtype=kind), notes
