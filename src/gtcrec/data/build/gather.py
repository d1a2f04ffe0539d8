"""From an interactions table of any size to codes in memory: some 30 bytes a row, whatever the ids look like."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gtcrec.data.build.report import Drops
from gtcrec.data.filters import Rows
from gtcrec.data.formats.columns import read_keys, read_labels, read_numbers
from gtcrec.data.formats.streaming import Source
from gtcrec.data.formats.tables import Table
from gtcrec.errors import DataError
from gtcrec.types import Floats, Masks

__all__ = ["Gathered", "gather"]

_PART = 1 << 20  # rows of Parquet at a time
_INTERACTIONS = "interactions"


@dataclass(frozen=True, eq=False)
class Gathered:
    """Rows as codes: user u is `user_ids[u]` (sorted Arrow text), item i the i-th of the catalogue."""

    rows: Rows
    user_ids: Any
    n_read: int


def gather(
    source: Source,
    columns: Mapping[str, str],
    item_ids: Any,
    min_rating: float | None,
    drops: Drops,
    on_rows: Callable[[int], None] = lambda done: None,
) -> Gathered:
    """Read an interactions table part by part; `columns` are names by role, "" for none.

    `item_ids` (Arrow text) is the catalogue. Left out and counted are rows without an id, of items that the catalogue
    lacks, without a rating or rated below `min_rating`, and without a time. Raises `DataError` for cells that are not
    what they should be, and when no row is left.
    """
    users, n_read = _Codes(), 0
    kept: dict[str, list[Any]] = {one.name: [] for one in fields(Rows)}
    for part in source.parts(list(filter(None, columns.values())), _PART):
        rows = _read_part(part, columns, users, item_ids, min_rating, drops)
        for name, arrays in kept.items():
            arrays.append(getattr(rows, name))
        n_read += len(part)
        on_rows(n_read)
    if not n_read:
        raise DataError(f"{source.path}: has no rows")
    # Each column's parts go when it is whole, so that no more than one is there twice.
    rows = Rows(**{name: _joined(kept.pop(name)) for name in list(kept)})
    if not len(rows):
        known = ", ".join(repr(one) for one in item_ids[:3].to_pylist())
        raise DataError(
            f"{source.path}: no interaction is left of {n_read:,}: {drops}; the items' ids are {known}, ..."
        )
    order = pc.sort_indices(users.ids)
    rank = np.empty(len(order), dtype=np.int32)
    rank[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    return Gathered(replace(rows, users=rank[rows.users]), users.ids.take(order), n_read)


def _read_part(
    part: Table, columns: Mapping[str, str], users: "_Codes", item_ids: Any, min_rating: float | None, drops: Drops
) -> Rows:
    user, no_user = read_keys(part, columns["user"])
    item, no_item = read_keys(part, columns["item"])
    rating = read_numbers(part, columns["rating"], blanks=True) if columns["rating"] else None
    time = _read_times(part, columns["time"]) if columns["time"] else None
    found = pc.index_in(item, value_set=item_ids)
    unknown = np.array(pc.is_null(found).to_numpy(zero_copy_only=False), dtype=np.bool_)
    alive = np.ones(len(part), dtype=np.bool_)
    for reason, wrong in _reasons(no_user, no_item, unknown, rating, min_rating, time):
        alive = drops.keep(
            _INTERACTIONS,
            reason,
            alive,
            wrong,
            lambda row: f"row {part.first + row + 1:,}: user {user[row].as_py()!r}, item {item[row].as_py()!r}",
        )
    chosen = pa.array(alive)
    return Rows(
        users.code(user.filter(chosen)),
        found.filter(chosen).to_numpy(),
        _places(part, alive),
        read_labels(part, columns["label"])[alive] if columns["label"] else None,
        None if time is None else time[alive],
        None if rating is None else rating[alive],
    )


def _reasons(
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


def _places(part: Table, alive: Masks) -> NDArray[Any]:
    kind = np.int32 if part.first + len(part) < 2**31 else np.int64
    return (part.first + np.flatnonzero(alive)).astype(kind)


def _read_times(part: Table, name: str) -> Floats:
    """Return times as seconds, NaN for none; text may be numbers or dates, 2024-05-01 or 2024-05-01T10:00:00Z."""
    column = part.columns.column(name)
    if pa.types.is_string(column.type) and len(column):
        filled = pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
        for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
            try:
                dates = pc.cast(filled, kind)
            except pa.ArrowInvalid:
                continue
            if dates.null_count < len(dates):
                dated = pa.table({name: pc.cast(dates, pa.timestamp("us"))})
                return read_numbers(replace(part, columns=dated), name, blanks=True)
    return read_numbers(part, name, blanks=True)


def _joined(arrays: list[Any]) -> Any:
    return None if arrays[0] is None else np.concatenate(arrays)


class _Codes:
    """Numbers ids in the order in which they come."""

    def __init__(self) -> None:
        self.ids: Any = pa.array([], pa.string())

    def code(self, ids: Any) -> NDArray[np.int32]:
        """Return the number of each id (Arrow text without nulls), int32 [n]."""
        encoded = ids.dictionary_encode()
        distinct = encoded.dictionary
        known = pc.index_in(distinct, value_set=self.ids)
        new = distinct.filter(pc.is_null(known))
        numbers = np.array(pc.fill_null(known, -1).to_numpy(zero_copy_only=False), dtype=np.int32)
        numbers[numbers < 0] = len(self.ids) + np.arange(len(new), dtype=np.int32)
        self.ids = pa.concat_arrays([self.ids, new])
        return np.asarray(numbers[encoded.indices.to_numpy()])
