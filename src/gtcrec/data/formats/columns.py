"""From the columns of a table to checked arrays: names, ids, numbers, labels."""

import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gtcrec.data.formats.tables import Table
from gtcrec.errors import DataError, nearest
from gtcrec.types import Floats, Ints

__all__ = [
    "KNOWN",
    "find_column",
    "read_dense",
    "read_ids",
    "read_keys",
    "read_labels",
    "read_numbers",
    "read_strings",
    "read_texts",
    "vocabulary",
]

KNOWN: dict[str, tuple[str, ...]] = {
    "user": ("userID", "user_id", "user", "uid", "reviewerID"),
    "item": ("itemID", "item_id", "item", "iid", "asin", "movie_id", "product_id"),
    "rating": ("rating", "overall", "stars"),
    "time": ("timestamp", "time", "unixReviewTime"),
    "label": ("x_label",),
}
"""Column names that are found without being asked for, compared without case and underscores.

The first of a row wins wherever it stands; several others at once are refused. A column called `label` is
not taken for the split: in most data sets it says whether a user liked an item.
"""

_LONGEST = 256  # characters of an external id: ids are kept in arrays as wide as the longest
_NUL = chr(0)
_ALLOWED = (
    pa.types.is_string,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_boolean,
    pa.types.is_timestamp,
    pa.types.is_date,
)


def find_column(table: Table, role: str, asked: str | None, needed: bool, setting: str = "") -> str:
    """Return the name of the column for a role of `KNOWN`, "" when there is none and it is not needed.

    `asked` is the name that the config sets, `setting` what messages call that key (data.ROLE if not given). Raises
    `DataError` for a missing or an ambiguous column.
    """
    names, setting = table.names, setting or f"data.{role}"
    if asked is not None:
        if asked not in names:
            hint = nearest(asked, names)
            raise DataError(f"{table.path}: no column {asked!r} ({setting}), found {_listed(names)}{hint}")
        return asked
    if KNOWN[role][0] in names:
        return KNOWN[role][0]
    known = {_plain(name) for name in KNOWN[role]}
    found = [name for name in names if _plain(name) in known]
    if len(found) > 1:
        raise DataError(f"{table.path}: {_listed(found)} could each be the {role} column; set {setting}")
    if not found and needed:
        close = [hint for one in KNOWN[role] if (hint := nearest(one, names))][:1]
        raise DataError(
            f"{table.path}: no {role} column; found {_listed(names)}, wanted one of {_listed(KNOWN[role])}; "
            f"set {setting} to its name{''.join(close)}"
        )
    return found[0] if found else ""


def read_ids(table: Table, name: str) -> Any:
    """Return external ids as an Arrow array of int64, or of text where any id is not a whole number.

    Text such as "007" stays text; 12.0 is 12. Raises `DataError` for an id that is empty or too long.
    """
    column = _column(table, name)
    blank = _blank(column)
    if blank.any():
        raise DataError(f"{name} is empty in {table.place(_first(blank))}: each row needs a user id and an item id")
    is_text = pa.types.is_string(column.type)
    if is_text or pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        with suppress(pa.ArrowInvalid):  # some id is no whole number
            whole = pc.cast(column, pa.int64())
            if not is_text or pc.cast(whole, pa.string()).equals(column):
                return whole
    text = pc.cast(column, pa.string())
    _refuse_odd_ids(table, name, text)
    return text


def read_keys(table: Table, name: str) -> tuple[Any, NDArray[np.bool_]]:
    """Return external ids as Arrow text, exactly as written (12.0 is 12), and which are missing, bool [n].

    Raises `DataError` for an id that is too long.
    """
    column = _column(table, name)
    blank = _blank(column)
    text = pc.cast(column, pa.string())
    if pa.types.is_floating(column.type):  # each by itself: the text of an id must not depend on its neighbours
        is_whole = pc.and_(pc.equal(column, pc.floor(column)), pc.less(pc.abs(column), 2.0**53))
        whole = pc.if_else(is_whole, column, pa.scalar(None, column.type))
        text = pc.coalesce(pc.cast(pc.cast(whole, pa.int64()), pa.string()), text)
    _refuse_odd_ids(table, name, text)
    return text, blank


def _refuse_odd_ids(table: Table, name: str, text: Any) -> None:
    odd = pc.or_(pc.greater(pc.utf8_length(text), _LONGEST), pc.match_substring(text, _NUL))
    wrong = _mask(pc.fill_null(odd, False))
    if wrong.any():
        raise DataError(
            f"{name} in {table.place(_first(wrong))} must have at most {_LONGEST} characters and no NUL, "
            f"found {text[_first(wrong)].as_py()[:40]!r}..."
        )


def vocabulary(ids: Any) -> tuple[Any, NDArray[Any]]:
    """Return the sorted distinct ids of an Arrow array, as an Arrow and as a NumPy array (int64 or text)."""
    distinct = pc.unique(ids)
    distinct = distinct.take(pc.sort_indices(distinct))
    if pa.types.is_string(distinct.type):
        return distinct, np.array(distinct.to_pylist(), dtype=np.str_)
    return distinct, np.array(distinct.to_numpy(zero_copy_only=False), dtype=np.int64)


def read_dense(table: Table, name: str) -> Ints:
    """Return dense integer ids, int64 [n]; raises `DataError` naming the first that is none."""
    column = _column(table, name)
    text = pc.fill_null(pc.cast(column, pa.string()), "")
    wrong = ~_mask(pc.match_substring_regex(text, r"^[0-9]{1,18}$"))
    if wrong.any():
        row = _first(wrong)
        raise DataError(
            f"{name} must be a whole number from 0, found {text[row].as_py()!r} ({table.place(row)}); "
            "for other ids name the file interactions.tsv"
        )
    ids = np.array(pc.cast(text, pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)
    if ids.max() > 10 * len(ids) + 1000:
        row = int(ids.argmax())
        raise DataError(
            f"{name} must count from 0 without large gaps, found {ids[row]} ({table.place(row)}) "
            f"in {len(ids)} rows; for other ids name the file interactions.tsv"
        )
    return ids


def read_numbers(table: Table, name: str, blanks: bool = False) -> Floats:
    """Return a column as float64 [n]; dates become seconds since 1970, blanks NaN where they are allowed.

    Raises `DataError` for the first cell that is not a finite number.
    """
    column = _column(table, name)
    blank = _blank(column)
    if blank.any() and not blanks:
        raise DataError(f"{name} must be a number, found an empty cell ({table.place(_first(blank))})")
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        since = pc.cast(pc.cast(column, pa.timestamp("us")), pa.int64())
        return np.array(since.to_numpy(zero_copy_only=False), dtype=np.float64) / 1e6
    filled = pc.if_else(pa.array(~blank), column, pa.scalar(None, column.type))
    try:
        numbers = np.array(pc.cast(filled, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
        wrong = ~np.isfinite(numbers) & ~blank
    except pa.ArrowInvalid:
        wrong = np.array([not _is_number(cell) for cell in filled])
    if wrong.any():
        row = _first(wrong)
        raise DataError(f"{name} must be a finite number, found {str(column[row].as_py())!r} ({table.place(row)})")
    return numbers


def read_labels(table: Table, name: str) -> NDArray[np.int8]:
    """Return split labels, int8 [n]; raises `DataError` naming the first that is not 0, 1 or 2."""
    column = _column(table, name)
    numeric = pa.types.is_floating(column.type)
    text = pc.cast(pc.cast(column, pa.int64()) if numeric and _all_whole(column) else column, pa.string())
    label = pc.index_in(text, value_set=pa.array(["0", "1", "2"]))
    wrong = _mask(pc.is_null(label))
    if wrong.any():
        row = _first(wrong)
        raise DataError(
            f"unknown label {str(text[row].as_py() or '')!r} in {name} ({table.place(row)}): "
            "wanted 0 (train), 1 (valid) or 2 (test)"
        )
    return np.array(label.to_numpy(zero_copy_only=False), dtype=np.int8)


def read_texts(table: Table, name: str) -> list[str]:
    """Return a column as text, "" for empty cells."""
    return [str(cell) for cell in read_strings(table, name).to_pylist()]


def read_strings(table: Table, name: str) -> Any:
    """Return a column as Arrow text, "" for empty cells."""
    return pc.fill_null(pc.cast(_column(table, name), pa.string()), "")


def _column(table: Table, name: str) -> Any:
    column = table.columns.column(name).combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type) or pa.types.is_large_string(column.type):
        return pc.cast(column, pa.string())
    if not any(allowed(column.type) for allowed in _ALLOWED):
        raise DataError(f"{table.path}: column {name!r} must hold numbers or text, found {column.type}")
    return column


def _blank(column: Any) -> NDArray[np.bool_]:
    """Return where cells are null, NaN or empty text, bool [n]."""
    blank = pc.is_null(column, nan_is_null=True)
    if pa.types.is_string(column.type):
        blank = pc.or_(blank, pc.fill_null(pc.equal(column, ""), True))
    return _mask(blank)


def _mask(values: Any) -> NDArray[np.bool_]:
    return np.array(values.to_numpy(zero_copy_only=False), dtype=np.bool_)


def _first(wrong: NDArray[np.bool_]) -> int:
    return int(np.argmax(wrong))


def _all_whole(column: Any) -> bool:
    return bool(pc.all(pc.fill_null(pc.equal(column, pc.floor(column)), False)).as_py())


def _is_number(cell: Any) -> bool:
    try:
        number = pc.cast(cell, pa.float64()).as_py()
    except pa.ArrowInvalid:
        return False
    return number is None or math.isfinite(number)


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
