"""External ids as indices: sorted where all are there, or numbered batch by batch in the order in which they come."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gtcrec.data.formats.tables import Table
from gtcrec.errors import DataError
from gtcrec.types import Ints

__all__ = ["IdCoder", "IdMap", "index_ids", "refuse_repeated_ids", "sort_ids", "whole_numbers"]


@dataclass(frozen=True, eq=False)
class IdMap:
    """Indices of each row's user and item, int64 [n], and the ids by index; item i has row `feature_rows[i]`."""

    users: Ints
    items: Ints
    user_ids: NDArray[Any]
    item_ids: NDArray[Any]
    feature_rows: Ints


class IdCoder:
    """Numbers ids in the order in which they come; `ids` are those that have come, Arrow text."""

    def __init__(self) -> None:
        self.ids: Any = pa.array([], pa.string())

    def encode(self, ids: Any) -> NDArray[np.int32]:
        """Return the number of each id (an Arrow dictionary array without nulls), int32 [n]."""
        used = pc.unique(ids.indices)  # rows may have been left out
        distinct = ids.dictionary.take(used)
        known = pc.index_in(distinct, value_set=self.ids)
        new = distinct.filter(pc.is_null(known))
        codes = np.array(pc.fill_null(known, -1).to_numpy(zero_copy_only=False), dtype=np.int32)
        codes[codes < 0] = len(self.ids) + np.arange(len(new), dtype=np.int32)
        self.ids = pa.concat_arrays([self.ids, new])
        by_place = np.zeros(len(ids.dictionary), dtype=np.int32)
        by_place[used.to_numpy()] = codes
        return np.asarray(by_place[ids.indices.to_numpy()])

    def sort(self) -> tuple[Any, NDArray[np.int32]]:
        """Return the ids in the order of their text, and the place of each code in it, int32."""
        order = pc.sort_indices(self.ids)
        return self.ids.take(order), _ranks(order).astype(np.int32)


def index_ids(ids: Any) -> tuple[Ints, NDArray[Any]]:
    """Return the index of each row's id, int64 [n], and the sorted ids by index (see `sort_ids`)."""
    values, ranks = sort_ids(ids.dictionary)
    return ranks[ids.indices.to_numpy()], values


def sort_ids(text: Any) -> tuple[NDArray[Any], Ints]:
    """Return distinct ids (Arrow text) in order, int64 where all are whole numbers, else text; and each one's place."""
    keys = whole_numbers(text)
    order = pc.sort_indices(keys)
    kind = np.str_ if pa.types.is_string(keys.type) else np.int64
    return np.array(keys.take(order).to_pylist(), dtype=kind), _ranks(order)


def whole_numbers(text: Any) -> Any:
    """Return ids as int64 where each is written as a whole number is, else as they are: "007" is text."""
    try:
        whole = pc.cast(text, pa.int64())
    except pa.ArrowInvalid:
        return text
    return whole if pc.cast(whole, pa.string()).equals(text) else text


def _ranks(order: Any) -> Ints:
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order.to_numpy()] = np.arange(len(order))
    return ranks


def refuse_repeated_ids(table: Table, name: str, ids: Ints) -> None:
    """Raise `DataError` when an id stands in two rows of a table that must have one row an id."""
    order = np.argsort(ids, kind="stable")
    again = np.flatnonzero(np.diff(ids[order]) == 0)
    if len(again):
        one, two = (int(order[again[0] + k]) for k in (0, 1))
        value = table.columns[name][two].as_py()
        raise DataError(f"{name} {value!r} stands twice: {table.place(one)} and {table.place(two)}")
