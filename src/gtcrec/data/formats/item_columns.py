"""The columns of an items table that filters ask about: title, category, price and whatever else it holds."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gtcrec.data.formats.columns import number_cells
from gtcrec.data.formats.tables import Table
from gtcrec.types import Ints

__all__ = ["read_item_columns", "read_new_columns"]

_TEXT_COLUMNS = ("title", "image")  # whatever they look like
_WHOLE, _NUMBER, _TRUTH = r"^-?\d{1,18}$", r"^-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$", r"^(?i:true|false)$"
_CODE = r"^-?0\d"  # "007" is no number


def read_item_columns(table: Table, key: str, rows: Ints) -> tuple[pa.Table, dict[str, int]]:
    """Return all columns of an items table but the ids, and notes on what is left out.

    Item i gets row `rows[i]` of the table, nulls where that is -1. A column of text or JSON becomes whole numbers,
    numbers or truth values if all its cells are; blank cells are null. Parquet keeps its types, lists of text are
    joined by "|". Other lists, structs, bytes and damaged text are left out.
    """
    places = pa.array(np.maximum(rows, 0), mask=rows < 0)
    columns, notes = {}, {}
    for name in table.names:
        if name in (key, "item_id"):
            continue
        column = _plain_values(table.columns.column(name))
        if column is None:
            notes[f"{table.path.name}: column {name!r} left out, {table.columns.column(name).type}"] = len(table)
            continue
        if table.file.kind != "parquet" and name not in _TEXT_COLUMNS:
            column = _guess_type(column)
        columns[name] = column.take(places)
    return pa.table(columns), notes


def read_new_columns(table: Table, schema: pa.Schema) -> pa.Table:
    """Return the columns of new items that a data set's columns, as `read_item_columns` reads them, have.

    What is text there is text here, and cells that are no number are null where numbers are expected. Columns that the
    table lacks are null.
    """
    columns = {}
    for name, kind in zip(schema.names, schema.types, strict=True):
        found = _plain_values(table.columns.column(name)) if name in table.names else None
        if found is None:
            columns[name] = pa.chunked_array([pa.nulls(len(table), kind)])
        elif pa.types.is_string(kind):
            columns[name] = found.cast(kind)
        elif pa.types.is_floating(kind) and pa.types.is_string(found.type):
            numbers, wrong = number_cells(table, name)
            columns[name] = pa.chunked_array([pa.array(numbers, kind, mask=wrong | np.isnan(numbers))])
        else:
            columns[name] = _guess_type(found)
    return pa.table(columns)


def _plain_values(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Return a column as text, numbers, dates or truth values, blanks as null; None for what is none of these."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    try:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            column = pc.binary_join(column.cast(pa.list_(pa.string())), "|")
        elif pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind):
            column = column.cast(pa.string())
        elif pa.types.is_decimal(kind) or pa.types.is_floating(kind):
            column = column.cast(pa.float64())
        if pa.types.is_string(column.type):
            column.validate(full=True)
    except pa.ArrowException:
        return None
    if pa.types.is_string(column.type):
        return pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), pa.scalar(None, pa.string()), column)
    if pa.types.is_floating(column.type):
        return pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
    known = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_date, pa.types.is_timestamp)
    return column if any(check(column.type) for check in known) else None


def _guess_type(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of text as numbers or truth values if all its cells are."""
    if not pa.types.is_string(column.type) or column.null_count == len(column):
        return column
    cells = pc.utf8_trim_whitespace(column)

    def all_match(pattern: str) -> bool:
        return bool(pc.all(pc.match_substring_regex(cells, pattern)).as_py())

    if pc.any(pc.match_substring_regex(cells, _CODE)).as_py():
        return column
    for pattern, kind in ((_WHOLE, pa.int64()), (_NUMBER, pa.float64()), (_TRUTH, pa.bool_())):
        if all_match(pattern):
            return cells.cast(kind)
    return column
