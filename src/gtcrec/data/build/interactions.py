"""The interactions of a build: read as codes, merged, cut to the k-core, numbered, divided and written.

Codes in memory take some 30 bytes a row, whatever the ids look like.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from numpy.typing import NDArray

from gtcrec.data.build.items import ItemCatalog
from gtcrec.data.build.report import FilterReport
from gtcrec.data.filters import Rows, k_core, merge_duplicates
from gtcrec.data.formats.columns import read_ids, read_labels, read_numbers, read_times
from gtcrec.data.formats.ids import IdCoder
from gtcrec.data.formats.tables import Table, TableFile
from gtcrec.data.splits import SplitConfig, assign
from gtcrec.errors import DataError
from gtcrec.runtime.files import atomic_path
from gtcrec.types import Dataset, Floats, Interactions, ItemFeatures, Masks, Vocabulary

__all__ = ["EncodedInteractions", "KeptPairs", "filter_pairs", "read_interactions", "write_interactions"]

_GROUP = 1 << 20  # rows of a row group that is written
_PART = 1 << 20  # rows of Parquet at a time
_INTERACTIONS = "interactions"


@dataclass(frozen=True, eq=False)
class EncodedInteractions:
    """Rows as codes: user u is `user_ids[u]` (sorted Arrow text), item i the i-th of the catalogue."""

    rows: Rows
    user_ids: Any
    n_read: int


def read_interactions(
    source: TableFile,
    columns: Mapping[str, str],
    item_ids: Any,
    min_rating: float | None,
    dropped: FilterReport,
    on_rows: Callable[[int], None] = lambda done: None,
) -> EncodedInteractions:
    """Read an interactions table part by part; `columns` are names by role, "" for none.

    `item_ids` (Arrow text) is the catalogue. Left out and counted are rows without an id, of items that the catalogue
    lacks, without a rating or rated below `min_rating`, and without a time. Raises `DataError` for cells that are not
    what they should be, and when no row is left.
    """
    users, n_read = IdCoder(), 0
    kept: dict[str, list[Any]] = {one.name: [] for one in fields(Rows)}
    for part in source.batches(columns.values(), _PART):
        rows = _read_batch(part, columns, users, item_ids, min_rating, dropped)
        for name, arrays in kept.items():
            arrays.append(getattr(rows, name))
        n_read += len(part)
        on_rows(n_read)
    if not n_read:
        raise DataError(f"{source.path}: has no rows")
    # Each column's parts go when it is whole, so that no more than one is there twice.
    rows = Rows(**{name: _concat_parts(kept.pop(name)) for name in list(kept)})
    if not len(rows):
        known = ", ".join(repr(one) for one in item_ids[:3].to_pylist())
        raise DataError(
            f"{source.path}: no interaction is left of {n_read:,}: {dropped}; the items' ids are {known}, ..."
        )
    user_ids, ranks = users.sort()
    return EncodedInteractions(replace(rows, users=ranks[rows.users]), user_ids, n_read)


def _read_batch(
    part: Table,
    columns: Mapping[str, str],
    users: IdCoder,
    item_ids: Any,
    min_rating: float | None,
    dropped: FilterReport,
) -> Rows:
    user, item = read_ids(part, columns["user"]), read_ids(part, columns["item"])
    rating = read_numbers(part, columns["rating"], blanks=True) if columns["rating"] else None
    time = read_times(part, columns["time"], blanks=True) if columns["time"] else None
    found = pc.index_in(item.dictionary, value_set=item_ids).take(item.indices)
    no_user, no_item, unknown = (np.asarray(one.is_null()) for one in (user, item, found))
    alive = np.ones(len(part), dtype=np.bool_)
    for reason, wrong in _drop_reasons(no_user, no_item, unknown, rating, min_rating, time):
        alive = dropped.drop_invalid(
            _INTERACTIONS,
            reason,
            alive,
            wrong,
            lambda row: f"row {part.first + row + 1:,}: user {user[row].as_py()!r}, item {item[row].as_py()!r}",
        )
    chosen = pa.array(alive)
    return Rows(
        users.encode(user.filter(chosen)),
        found.filter(chosen).to_numpy(),
        _row_places(part, alive),
        read_labels(part, columns["label"])[alive] if columns["label"] else None,
        None if time is None else time[alive],
        None if rating is None else rating[alive],
    )


def _drop_reasons(
    no_user: Masks, no_item: Masks, unknown: Masks, rating: Floats | None, least: float | None, time: Floats | None
) -> Iterator[tuple[str, Masks]]:
    yield "without a user id", no_user
    yield "without an item id", no_item
    yield "of an item that the items table lacks", unknown
    if rating is not None and least is not None:
        yield "without a rating", np.isnan(rating)
        with np.errstate(invalid="ignore"):
            yield f"rated below {least:g}", rating < least
    if time is not None:
        yield "without a time", np.isnan(time)


def _row_places(part: Table, alive: Masks) -> NDArray[Any]:
    kind = np.int32 if part.first + len(part) < 2**31 else np.int64
    return (part.first + np.flatnonzero(alive)).astype(kind)


def _concat_parts(arrays: list[Any]) -> Any:
    return None if arrays[0] is None else np.concatenate(arrays)


@dataclass(frozen=True, eq=False)
class KeptPairs:
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
    found: EncodedInteractions,
    catalogue: ItemCatalog,
    source: TableFile,
    core: int,
    config: SplitConfig,
    dropped: FilterReport,
) -> KeptPairs:
    """Merge repeated pairs, keep the k-core (0: all), number what stays and divide it.

    Raises `DataError` when the core is empty or nothing is left to train on, and for a pair with two labels.
    """
    n_before = len(found.rows)
    rows, _ = merge_duplicates(found.rows, source.place)
    dropped.add("interactions", "that repeat a user and an item (the earliest is kept)", n_before - len(rows))
    user_ids, item_ids, chosen = found.user_ids, catalogue.ids, catalogue.chosen
    if core:
        rows, user_ids, kept = _keep_core(rows, user_ids, len(item_ids), core, source, dropped)
        chosen = chosen.copy()
        chosen[np.flatnonzero(chosen)[~kept]] = False
        item_ids = item_ids.filter(pa.array(kept))
    labels = _assign_parts(rows, len(user_ids), len(item_ids), config)
    return KeptPairs(rows, user_ids, item_ids, chosen, labels)


def _keep_core(
    rows: Rows, user_ids: Any, n_items: int, k: int, source: TableFile, dropped: FilterReport
) -> tuple[Rows, Any, NDArray[np.bool_]]:
    """Return the rows of the k-core with new codes, the ids of its users, and which items are in it."""
    n_users = len(user_ids)
    keep = k_core(rows.users, rows.items, n_users, n_items, k)
    if not keep.any():
        raise DataError(f"{source.path}: --core {k} leaves none of {len(rows):,} interactions; choose a smaller one")
    dropped.add("interactions", f"outside the {k}-core", int((~keep).sum()))
    rows = rows.at(keep)
    some_users, some_items = (
        np.bincount(side, minlength=n) > 0 for side, n in ((rows.users, n_users), (rows.items, n_items))
    )
    dropped.add("users", f"outside the {k}-core", int((~some_users).sum()))
    dropped.add("items", f"outside the {k}-core, or without an interaction", int((~some_items).sum()))
    users, items = (np.cumsum(some, dtype=np.int32) - 1 for some in (some_users, some_items))
    rows = replace(rows, users=users[rows.users], items=items[rows.items])
    return rows, user_ids.filter(pa.array(some_users)), some_items


def _assign_parts(rows: Rows, n_users: int, n_items: int, config: SplitConfig) -> NDArray[np.int8]:
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


def write_interactions(pairs: KeptPairs, folder: Path) -> None:
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
