"""From the columns of a table to ids, numbers, times, labels and text: one function each, for every format."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gtcrec.data.formats.json_values import whole_text
from gtcrec.data.formats.tables import Table, TableFile
from gtcrec.errors import DataError, nearest
from gtcrec.types import Floats, Masks

__all__ = [
    "KNOWN",
    "decode_cells",
    "find_column",
    "find_columns",
    "find_item_column",
    "first_row",
    "number_cells",
    "parse_number",
    "read_ids",
    "read_labels",
    "read_numbers",
    "read_strings",
    "read_texts",
    "read_times",
    "require_columns",
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
_DATES = tuple(pa.timestamp(unit, zone) for unit in ("us", "ns") for zone in (None, "UTC"))


def find_columns(
    table: Table | TableFile, names: Callable[[str], str | None], setting: str, roles: tuple[str, ...] = tuple(KNOWN)
) -> dict[str, str]:
    """Return the names of an interactions table's columns by role, "" for none; see `find_column`.

    `names` gives the name that the config sets for a role, `setting` is a pattern such as "data.{}".
    """
    return {
        role: find_column(table, role, names(role), role in ("user", "item"), setting.format(role)) for role in roles
    }


def find_column(table: Table | TableFile, role: str, name: str | None, needed: bool, setting: str = "") -> str:
    """Return the name of the column for a role of `KNOWN`, "" when there is none and it is not needed.

    `name` is what the config sets, `setting` what messages call that key (data.ROLE if not given). Raises
    `DataError` for a missing or an ambiguous column.
    """
    names, setting = table.names, setting or f"data.{role}"
    if name is not None:
        require_columns(table, [name], f" ({setting})")
        return name
    if KNOWN[role][0] in names:
        return KNOWN[role][0]
    known = {_bare_name(one) for one in KNOWN[role]}
    found = [one for one in names if _bare_name(one) in known]
    if len(found) > 1:
        raise DataError(f"{table.path}: {_quoted(found)} could each be the {role} column; set {setting}")
    if not found and needed:
        close = [hint for one in KNOWN[role] if (hint := nearest(one, names))][:1]
        raise DataError(
            f"{table.path}: no {role} column; found {_quoted(names)}, expected one of {_quoted(KNOWN[role])}; "
            f"set {setting} to its name{''.join(close)}"
        )
    return found[0] if found else ""


def find_item_column(items: Table | TableFile, item: str | None, name: str | None = None, setting: str = "") -> str:
    """Return the column of ids of an items table: `name` if set, that of the interactions if there, or one found."""
    return find_column(items, "item", name or (item if item in items.names else None), True, setting)


def require_columns(table: Table | TableFile, names: Iterable[str], setting: str = "") -> None:
    """Raise `DataError` for the first column that a table lacks; `setting` says what named it."""
    for name in names:
        if name not in table.names:
            found = f"found {_quoted(table.names)}{nearest(name, table.names)}"
            raise DataError(f"{table.path}: no column {name!r}{setting}, {found}")


def read_ids(table: Table, name: str) -> Any:
    """Return external ids as an Arrow dictionary array of text, null where there is none.

    Text is kept as written, a whole number has no point (12.0 is 12), whatever other rows hold. Raises `DataError` for
    an id that is too long.
    """
    encoded = _plain_column(table, name).dictionary_encode()
    distinct = _id_texts(encoded.dictionary).dictionary_encode()  # 0.0 and -0.0 are one text
    ids = pa.DictionaryArray.from_arrays(distinct.indices.take(encoded.indices), distinct.dictionary)
    text = ids.dictionary
    odd = pc.or_(pc.greater(pc.utf8_length(text), _LONGEST), pc.match_substring(text, _NUL))
    if pc.any(odd).as_py():
        row = first_row(pc.fill_null(odd.take(ids.indices), False))
        raise DataError(
            f"{name} in {table.place(row)} must have at most {_LONGEST} characters and no NUL, "
            f"found {ids[row].as_py()[:40]!r}..."
        )
    return ids


def _id_texts(values: Any) -> Any:
    """Return values as text, null for NaN and empty text."""
    text = pc.cast(values, pa.string())
    if pa.types.is_floating(values.type):
        numbers = pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False)
        with np.errstate(invalid="ignore"):
            is_whole = np.isfinite(numbers) & (numbers == np.floor(numbers))
        whole = [
            whole_text(number) if whole else None for number, whole in zip(numbers.tolist(), is_whole, strict=True)
        ]
        text = pc.coalesce(pa.array(whole, pa.string()), text)
    if pa.types.is_decimal(values.type):
        text = pc.replace_substring_regex(text, r"\.0+$", "")
    return pc.if_else(pc.invert(pa.array(_is_blank(values))), text, pa.scalar(None, pa.string()))


def parse_number(text: str, meaning: str = "a number") -> float:
    """Return the finite number that a text holds; raises `ValueError` that says what it must have.

    >>> parse_number(" 1e3 ")
    1000.0
    """
    try:
        number = float(text.replace("_", "x"))  # Python would read 1_000
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"must have {meaning}, found {text!r}")
    return number


def number_cells(table: Table, name: str) -> tuple[Floats, Masks]:
    """Return a column as float64 [n], NaN where there is no number, and which cells hold something else, bool [n]."""
    column = _plain_column(table, name, check_text=False)
    try:
        return _cast_numbers(column)
    except pa.ArrowInvalid:
        return _parse_cells(decode_cells(table, name), parse_number)


def read_numbers(table: Table, name: str, blanks: bool = False) -> Floats:
    """Return a column as float64 [n]; dates become seconds since 1970, blanks NaN where they are allowed.

    Raises `DataError` for the first cell that is not a finite number.
    """
    return _checked_numbers(table, name, *number_cells(table, name), blanks)


def read_times(table: Table, name: str, blanks: bool = False) -> Floats:
    """Return times in seconds since 1970, float64 [n]: numbers as they are, and dates, also as text.

    A date is 2024-05-01 or 2024-05-01T10:00:00, UTC where it names no zone; blanks become NaN where they are allowed.
    A column is read in the form that most of its cells have; raises `DataError` for the first that breaks it.
    """
    column = _plain_column(table, name)
    forms = [pa.float64()] if not pa.types.is_string(column.type) else [pa.float64(), *_DATES]
    for form in forms:
        try:
            times = _cast_numbers(column, form)
            break
        except pa.ArrowInvalid:
            continue
    else:
        cells = decode_cells(table, name)
        times = min((_parse_cells(cells, parse) for parse in (parse_number, _parse_date)), key=lambda one: one[1].sum())
    return _checked_numbers(table, name, *times, blanks, "; a time may also be a date such as 2024-05-01T10:00:00")


def _cast_numbers(column: Any, form: Any = None) -> tuple[Floats, Masks]:
    """Return what `number_cells` does of an Arrow array, by its own or another type; losses below 1 us are ignored."""
    blank = _is_blank(column)
    filled = pc.if_else(pa.array(~blank), column, pa.scalar(None, column.type))
    if form is not None and pa.types.is_string(column.type):
        filled = pc.cast(filled, form)
    if pa.types.is_timestamp(filled.type) or pa.types.is_date(filled.type):
        micros = pc.cast(pc.cast(filled, pa.timestamp("us"), safe=False), pa.int64())
        return np.array(micros.to_numpy(zero_copy_only=False), dtype=np.float64) / 1e6, np.zeros_like(blank)
    numbers = pc.cast(filled, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    values = np.array(numbers, dtype=np.float64)
    return values, ~np.isfinite(values) & ~blank


def _parse_cells(cells: list[str | None], parse: Callable[[str], float]) -> tuple[Floats, Masks]:
    values, invalid = np.full(len(cells), np.nan), np.zeros(len(cells), dtype=np.bool_)
    for row, cell in enumerate(cells):
        if cell is None or cell.strip():
            try:
                values[row] = parse(cell or "")
            except ValueError:
                invalid[row] = True
    return values, invalid


def _parse_date(text: str) -> float:
    for form in _DATES:
        try:
            return float(_cast_numbers(pa.array([text.strip()]), form)[0][0])
        except pa.ArrowInvalid:
            continue
    raise ValueError(text)


def _checked_numbers(table: Table, name: str, values: Floats, invalid: Masks, blanks: bool, hint: str = "") -> Floats:
    blank = np.isnan(values) & ~invalid
    if blank.any() and not blanks:
        raise DataError(f"{name} must be a number, found an empty cell ({table.place(first_row(blank))})")
    if invalid.any():
        row = first_row(invalid)
        cell = str(table.columns.column(name)[row].as_py())
        raise DataError(f"{name} must be a finite number, found {str(cell)[:_SHOWN]!r} ({table.place(row)}){hint}")
    return values


def read_labels(table: Table, name: str) -> NDArray[np.int8]:
    """Return split labels, int8 [n]; raises `DataError` naming the first that is not 0, 1 or 2."""
    column = _plain_column(table, name)
    if pa.types.is_floating(column.type) and pc.all(pc.equal(column, pc.floor(column)), skip_nulls=False).as_py():
        column = pc.cast(column, pa.int64())
    text = pc.cast(column, pa.string())
    label = pc.index_in(text, value_set=pa.array(["0", "1", "2"]))
    if label.null_count:
        row = first_row(pc.is_null(label))
        raise DataError(
            f"unknown label {str(text[row].as_py() or '')!r} in {name} ({table.place(row)}): "
            "expected 0 (train), 1 (valid) or 2 (test)"
        )
    return np.array(label.to_numpy(zero_copy_only=False), dtype=np.int8)


def read_strings(table: Table, name: str, separator: str | None = None) -> Any:
    """Return a column as Arrow text, "" for empty cells; lists are joined by `separator`, without their empty cells.

    Raises `DataError` for a list without a separator, and for one that holds it, unless it is a blank.
    """
    column = table.columns.column(name)
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not is_list or separator is None or pa.types.is_nested(column.type.value_type):
        return pc.fill_null(pc.cast(_plain_column(table, name), pa.string()), "")
    lists = pc.cast(column, pa.list_(pa.string())).combine_chunks()
    flat = lists.flatten()
    if separator.strip() and pc.any(pc.match_substring(flat, separator)).as_py():
        rows = enumerate(lists.to_pylist())
        row, cell = next((row, one) for row, cells in rows for one in cells or () if one and separator in one)
        raise DataError(
            f"{table.path}: {name} in {table.place(row)}: {cell!r} holds {separator!r}, which stands between tags; "
            "set --tag-separator"
        )
    if flat.null_count:
        filled = [None if one is None else [cell for cell in one if cell is not None] for one in lists.to_pylist()]
        lists = pa.array(filled, pa.list_(pa.string()))
    return pc.fill_null(pc.binary_join(lists, separator), "")


def read_texts(table: Table, name: str) -> list[str]:
    """Return a column as text, "" for empty cells."""
    return [str(cell) for cell in read_strings(table, name).to_pylist()]


def decode_cells(table: Table, name: str) -> list[str | None]:
    """Return a column as text, "" for empty cells, None for what is not UTF-8: text in Parquet may be anything."""
    column = pc.cast(_plain_column(table, name, check_text=False), pa.string())
    try:
        return [cell or "" for cell in column.to_pylist()]
    except UnicodeDecodeError:
        return [_decode_cell(cell) for cell in column.view(pa.binary()).to_pylist()]


def _decode_cell(cell: bytes | None) -> str | None:
    try:
        return (cell or b"").decode()
    except UnicodeDecodeError:
        return None


def _plain_column(table: Table, name: str, check_text: bool = True) -> Any:
    """Return a column as one array of numbers, dates or text; raises `DataError` for other types and bytes as text."""
    column = table.columns.column(name).combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if any(kind(column.type) for kind in (pa.types.is_null, pa.types.is_large_string, pa.types.is_string_view)):
        column = pc.cast(column, pa.string())
    if not any(allowed(column.type) for allowed in _ALLOWED):
        raise DataError(f"{table.path}: column {name!r} must hold numbers or text, found {column.type}")
    if check_text and pa.types.is_string(column.type):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            raise DataError(f"{table.path}: column {name!r} is damaged or not UTF-8: {error}") from error
    return column


def _is_blank(column: Any) -> Masks:
    """Return where cells are null, NaN or empty text, bool [n]."""
    blank = pc.is_null(column, nan_is_null=True)
    if pa.types.is_string(column.type):
        blank = pc.or_(blank, pc.fill_null(pc.equal(column, ""), True))
    return np.array(blank.to_numpy(zero_copy_only=False), dtype=np.bool_)


def first_row(mask: Any) -> int:
    """Return the first row where a mask is true."""
    return int(np.argmax(mask))


def _quoted(names: Iterable[str]) -> str:
    """Names for an error: of long ones the beginning, of many the first."""
    every = list(names)
    shown = [repr(name if len(name) <= _SHOWN else name[:_SHOWN] + "...") for name in every[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(every) - _SHOWN:,} more" if len(every) > _SHOWN else "")


_SHOWN = 60  # letters of a name, and names


def _bare_name(name: str) -> str:
    return name.lower().replace("_", "")
