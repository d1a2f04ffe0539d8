"""The interactions of a build: read as codes, merged, cut to the k-core, numbered, divided and written.

Codes in memory take some 30 bytes a row, whatever the ids look like. Rows that may come in once more is known, since
their item is not in the items table or they lie outside the k-core, are written beside those that stay.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
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

__all__ = [
    "INTERACTIONS",
    "LEFT_OUT",
    "EncodedInteractions",
    "InteractionSource",
    "KeptPairs",
    "filter_pairs",
    "read_interactions",
    "write_interactions",
]

INTERACTIONS, LEFT_OUT = "interactions.parquet", "left_out_interactions.parquet"

_GROUP = 1 << 20  # rows of a row group that is written
_PART = 1 << 20  # rows of Parquet at a time
_INTERACTIONS = "interactions"


@dataclass(frozen=True, eq=False)
class InteractionSource:
    """An interactions table and the names of its columns by role, "" for none."""

    file: TableFile
    columns: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class EncodedInteractions:
    """Rows as codes: user u is `user_ids[u]` (sorted Arrow text), item i the i-th of the catalogue.

    `unknown` are rows, as a table, whose items the catalogue lacks. `place` says where a row stands.
    """

    rows: Rows
    user_ids: Any
    n_read: int
    unknown: pa.Table
    place: Callable[[int], str]


def read_interactions(
    sources: Sequence[InteractionSource],
    item_ids: Any,
    min_rating: float | None,
    dropped: FilterReport,
    on_rows: Callable[[int], None] = lambda done: None,
) -> EncodedInteractions:
    """Read interactions tables part by part, one after the other.

    `item_ids` (Arrow text) is the catalogue. Left out and counted are rows without an id, of items that the catalogue
    lacks, without a rating or rated below `min_rating`, and without a time. Raises `DataError` for cells that are not
    what they should be, and when no row is left.
    """
    users, n_read, starts = IdCoder(), 0, [0]
    kept: dict[str, list[Any]] = {one.name: [] for one in fields(Rows)}
    unknown = []
    for source in sources:
        for part in source.file.batches(source.columns.values(), _PART):
            rows, waiting = _read_batch(part, source.columns, users, item_ids, min_rating, dropped, starts[-1])
            for name, arrays in kept.items():
                arrays.append(getattr(rows, name))
            unknown.append(waiting)
            n_read += len(part)
            on_rows(n_read)
        starts.append(n_read)
    path = sources[-1].file.path
    if not n_read:
        raise DataError(f"{path}: has no rows")
    # Each column's parts go when it is whole, so that no more than one is there twice.
    rows = Rows(**{name: _concat_parts(kept.pop(name)) for name in list(kept)})
    if not len(rows):
        known = ", ".join(repr(one) for one in item_ids[:3].to_pylist())
        raise DataError(f"{path}: no interaction is left of {n_read:,}: {dropped}; the items' ids are {known}, ...")

    def place(row: int) -> str:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        return sources[number].file.place(row - starts[number])

    user_ids, ranks = users.sort()
    rows = replace(rows, users=ranks[rows.users])
    return EncodedInteractions(rows, user_ids, n_read, pa.concat_tables(unknown), place)


def _read_batch(
    part: Table,
    columns: Mapping[str, str],
    users: IdCoder,
    item_ids: Any,
    min_rating: float | None,
    dropped: FilterReport,
    start: int,
) -> tuple[Rows, pa.Table]:
    """Return the rows of a part that stay, and as a table those that only their item's absence leaves out."""
    user, item = read_ids(part, columns["user"]), read_ids(part, columns["item"])
    labels = read_labels(part, columns["label"]) if columns["label"] else None
    rating = read_numbers(part, columns["rating"], blanks=True) if columns["rating"] else None
    time = read_times(part, columns["time"], blanks=True) if columns["time"] else None
    found = pc.index_in(item.dictionary, value_set=item_ids).take(item.indices)
    no_user, no_item, unknown = (np.asarray(one.is_null()) for one in (user, item, found))
    alive, others = np.ones(len(part), dtype=np.bool_), np.zeros(len(part), dtype=np.bool_)
    for reason, wrong in _drop_reasons(no_user, no_item, unknown, rating, min_rating, time):
        alive = dropped.drop_invalid(
            _INTERACTIONS,
            reason,
            alive,
            wrong,
            lambda row: f"row {part.first + row + 1:,}: user {user[row].as_py()!r}, item {item[row].as_py()!r}",
        )
        others |= wrong if wrong is not unknown else False
    chosen, waiting = pa.array(alive), unknown & ~others
    rows = Rows(
        users.encode(user.filter(chosen)),
        found.filter(chosen).to_numpy(),
        _row_places(part, alive, start),
        None if labels is None else labels[alive],
        None if time is None else time[alive],
        None if rating is None else rating[alive],
    )
    ids = [side.filter(pa.array(waiting)).dictionary_decode().cast(pa.string()) for side in (user, item)]
    more = (None if column is None else column[waiting] for column in (rating, time, labels))
    return rows, _tabulate(*ids, *more)


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


def _row_places(part: Table, alive: Masks, start: int) -> NDArray[Any]:
    first = start + part.first
    kind = np.int32 if first + len(part) < 2**31 else np.int64
    return (first + np.flatnonzero(alive)).astype(kind)


def _concat_parts(arrays: list[Any]) -> Any:
    return None if arrays[0] is None else np.concatenate(arrays)


@dataclass(frozen=True, eq=False)
class KeptPairs:
    """What stays: distinct pairs sorted by user and item, ids by code (Arrow text), rows of the items table.

    `left_out` are tables, to be gone through once, of what may come in later.
    """

    rows: Rows
    user_ids: Any
    item_ids: Any
    chosen: NDArray[np.bool_]
    labels: NDArray[np.int8]
    left_out: Iterable[pa.Table]

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
    path: Path,
    core: int,
    config: SplitConfig,
    dropped: FilterReport,
) -> KeptPairs:
    """Merge repeated pairs, keep the k-core (0: all), number what stays and divide it.

    `path` is the table that errors name. Raises `DataError` when the core is empty or nothing is left to train on, and
    for a pair with two labels.
    """
    n_before = len(found.rows)
    rows, _ = merge_duplicates(found.rows, found.place)
    dropped.add("interactions", "that repeat a user and an item (the earliest is kept)", n_before - len(rows))
    user_ids, item_ids, chosen = found.user_ids, catalogue.ids, catalogue.chosen
    left_out: Iterable[pa.Table] = [found.unknown]
    if core:
        keep = _core_rows(rows, user_ids, item_ids, core, path, dropped)
        outside = rows.at(~keep)
        left_out = chain(left_out, _tables_of(outside, user_ids, item_ids, outside.labels))
        rows, user_ids, kept = _renumber(rows.at(keep), user_ids, len(item_ids), core, dropped)
        chosen = chosen.copy()
        chosen[np.flatnonzero(chosen)[~kept]] = False
        item_ids = item_ids.filter(pa.array(kept))
    labels = _assign_parts(rows, len(user_ids), len(item_ids), config)
    return KeptPairs(rows, user_ids, item_ids, chosen, labels, left_out)


def _core_rows(rows: Rows, user_ids: Any, item_ids: Any, k: int, path: Path, dropped: FilterReport) -> Masks:
    keep = k_core(rows.users, rows.items, len(user_ids), len(item_ids), k)
    if not keep.any():
        raise DataError(f"{path}: --core {k} leaves none of {len(rows):,} interactions; choose a smaller one")
    dropped.add("interactions", f"outside the {k}-core", int((~keep).sum()))
    return keep


def _renumber(
    rows: Rows, user_ids: Any, n_items: int, k: int, dropped: FilterReport
) -> tuple[Rows, Any, NDArray[np.bool_]]:
    """Return the rows of the k-core with new codes, the ids of its users, and which items are in it."""
    n_users = len(user_ids)
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
    """Write `interactions.parquet`: user_id, item_id, what there is of rating and timestamp, and x_label.

    `left_out_interactions.parquet` has the same columns, x_label only where the source has it.
    """
    _write_tables(folder / INTERACTIONS, _tables_of(pairs.rows, pairs.user_ids, pairs.item_ids, pairs.labels))
    _write_tables(folder / LEFT_OUT, iter(pairs.left_out))


def _write_tables(path: Path, tables: Iterator[pa.Table]) -> None:
    """Write tables of one schema, of which there is at least one, a row group each."""
    first = next(tables)
    with (
        atomic_path(path) as temporary,
        pa.parquet.ParquetWriter(temporary, first.schema, compression="zstd") as writer,
    ):
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _tables_of(rows: Rows, user_ids: Any, item_ids: Any, labels: NDArray[np.int8] | None) -> Iterator[pa.Table]:
    for start in range(0, max(len(rows), 1), _GROUP):
        part = slice(start, start + _GROUP)
        ids = user_ids.take(pa.array(rows.users[part])), item_ids.take(pa.array(rows.items[part]))
        columns = (rows.ratings, rows.times, labels)
        yield _tabulate(*ids, *(None if column is None else column[part] for column in columns))


def _tabulate(user_ids: Any, item_ids: Any, *more: Any) -> pa.Table:
    """Return rows as a table; `more` are ratings, times and labels, None for what there is not."""
    columns = {"user_id": user_ids, "item_id": item_ids}
    for name, array in zip(("rating", "timestamp", "x_label"), more, strict=True):
        if array is not None:
            columns[name] = pa.array(array, from_pandas=True)  # a rating may be missing where none is asked for
    return pa.table(columns)
