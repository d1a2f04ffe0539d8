"""Content matrices from `.npy` files: checked before they are loaded, never through pickle."""

import math
import tokenize
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gtcrec.errors import ConfigError, DataError, nearest
from gtcrec.types import Floats, Ints, ItemFeatures, Masks

__all__ = ["choose_modalities", "count_rows", "feature_files", "read_features", "read_matrix"]

_END = "_feat.npy"
_MASK_END = "_present.npy"
_FAR = 1e6
_SAMPLE = 1000  # rows that say how wide a column is
_BLOCK = 1 << 24  # numbers converted and checked at a time
_VERSIONS = {  # of .npy; version 3 is for names of fields, which no matrix of numbers has
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def feature_files(folder: Path) -> dict[str, Path]:
    """Return the `*_feat.npy` files of a folder by modality, which is what precedes `_feat`."""
    return {file.name.removesuffix(_END): file for file in sorted(folder.glob(f"[!.]*{_END}"))}


def choose_modalities(files: Mapping[str, Path], modalities: Iterable[str] | None) -> dict[str, Path]:
    """Keep the named modalities (None: all); raises `ConfigError` naming one that has no file."""
    names = list(files) if modalities is None else list(modalities)
    for name in names:
        if name not in files:
            found = ", ".join(files) or "none"
            raise ConfigError(f"data.modalities: no {name}{_END} in the data, found {found}{nearest(name, files)}")
    return {name: files[name] for name in names}


def count_rows(files: Mapping[str, Path]) -> int:
    """Return the number of rows that all matrices share, from their headers; 0 when there is no file.

    Raises `DataError` when two differ.
    """
    rows = {file.name: _read_header(file).shape[0] for file in files.values()}
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise DataError(f"feature files must have one row an item each, found different numbers of rows: {listed}")
    return next(iter(rows.values()), 0)


def read_features(
    files: Mapping[str, Path], order: Ints, memory_map: bool = False
) -> tuple[ItemFeatures, dict[str, int]]:
    """Read matrices by modality; item i gets row `order[i]`. Also return notes for `Dataset`.

    `M_present.npy` beside `M_feat.npy`, bool [rows], says which items have the content. Without it a row of zeros
    means that the item has none. With `memory_map` a matrix stays on disk: see `read_matrix`. Raises `DataError` where
    it would have to be put in another order, and for a mask that does not fit.
    """
    values: dict[str, Floats] = {}
    present: dict[str, Masks] = {}
    notes: dict[str, int] = {}
    for name, file in files.items():
        x = read_matrix(file, memory_map)
        mask = _read_mask(file, x)
        if not np.array_equal(order, np.arange(len(x))):
            if memory_map:
                raise DataError(
                    f"{file}: data.memory_map wants one row an item in the order of the items, found {len(x)} rows for "
                    f"{len(order)} items or another order; leave memory_map out"
                )
            x, mask = x[order], mask[order]
        values[name], present[name] = x, mask
        refuse_far_rows(x, mask, str(file), order)
        missing = int((~present[name]).sum())
        if missing:
            notes[f"{name}: items without content"] = missing
    return ItemFeatures(len(order), values, present), notes


def read_matrix(path: Path, memory_map: bool = False) -> Floats:
    """Read a matrix of finite numbers as float32 [rows, columns].

    With `memory_map` the numbers are checked but stay on disk and are read where they are used; what is written to the
    array does not reach the file. Raises `DataError` for a damaged or truncated file, objects, text, another number of
    axes, NaN, infinity, and with `memory_map` for what is not float32 in row order.
    """
    header = _read_header(path)
    order: Literal["F", "C"] = "F" if header.fortran else "C"
    stored = np.memmap(path, header.dtype, "c", header.offset, header.shape, order)
    if memory_map and (header.fortran or header.dtype != np.float32):
        found = f"{header.dtype} in {'column' if header.fortran else 'row'} order"
        raise DataError(f"{path}: data.memory_map wants float32 in row order, found {found}; leave memory_map out")
    x = stored if memory_map else np.empty(stored.shape, dtype=np.float32)
    for rows in _row_blocks(x):
        if not memory_map:
            with np.errstate(over="ignore"):
                x[rows] = stored[rows]
        _refuse_infinite(path, rows.start, stored[rows], x[rows])
    return x


def _row_blocks(x: Floats) -> Iterator[slice]:
    step = max(1, _BLOCK // x.shape[1])
    for start in range(0, len(x), step):
        yield slice(start, start + step)


def _rows_with_content(x: Floats) -> Masks:
    """Which rows are not all zeros, bool [rows]."""
    return np.concatenate([(x[rows] != 0).any(axis=1) for rows in _row_blocks(x)])


def _read_mask(path: Path, x: Floats) -> Masks:
    """Which rows of a matrix hold content, bool [rows], from the file beside it if there is one.

    Raises `DataError` for a file that is no mask of these rows, and numbers in a row that it calls absent.
    """
    filled, file = _rows_with_content(x), path.with_name(path.name.removesuffix(_END) + _MASK_END)
    if not file.is_file():
        return filled
    header = _parse_header(file)
    if header.dtype != np.bool_ or header.shape != (len(x),):
        found = f"{header.dtype} {list(header.shape)}"
        raise DataError(f"{file}: expected bool [{len(x)}], a mark for each row of {path.name}, found {found}")
    _check_size(file, header)
    marks = np.fromfile(file, np.uint8, offset=header.offset)
    if marks.max() > 1:
        raise DataError(f"{file}: damaged: a mark must be 0 or 1, found {marks.max()}")
    mask = marks.astype(np.bool_)
    wrong = np.flatnonzero(filled & ~mask)
    if len(wrong):
        raise DataError(f"{path}: row {wrong[0]} holds numbers, though {file.name} says that the item has no content")
    return mask


def refuse_far_rows(x: Floats, present: Masks, source: str, order: Ints) -> None:
    """Raise `DataError` for a number 10^6 times further from its column than the column's middle half is wide.

    Beside it float32 would hold nothing of the other rows. Where the middle half is constant, as in columns of marks,
    a number is measured by what the rows are in size. Row `r` of `x` [n, d] stands at `order[r]` in `source`.
    """
    rows = np.flatnonzero(present)
    sample = np.asarray(x[rows[np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLE)).astype(np.int64)]], np.float64)
    if len(sample) < 3:
        return
    low, middle, high = np.quantile(sample, (0.25, 0.5, 0.75), axis=0)
    narrow = high - low <= 1e-6 * np.abs(middle)
    size = np.median(np.abs(sample).max(axis=1)) or np.inf
    reach = np.where(narrow, size, high - low) * _FAR
    for part in _row_blocks(x):
        there = part.start + np.flatnonzero(present[part])
        block = x[part] if len(there) == len(x[part]) else x[there]
        if not len(there):
            continue
        far = (block.max(axis=0) - middle > reach) | (middle - block.min(axis=0) > reach)
        for column in np.flatnonzero(far)[:1].tolist():
            row = int(there[np.argmax(np.abs(block[:, column] - middle[column]))])
            raise DataError(
                f"{source}: row {order[row]}, column {column} (counted from 0) holds {x[row, column]:g}, more than "
                "10^6 times further out than other rows; correct it, or fill the row with zeros: then it has no content"
            )


def _refuse_infinite(path: Path, start: int, part: NDArray[Any], converted: Floats) -> None:
    wrong = ~np.isfinite(converted)
    if wrong.any():
        row, column = (int(k) for k in np.argwhere(wrong)[0])
        reason = " beyond the range of float32" if np.isfinite(part[row, column]) else ""
        raise DataError(
            f"{path}: expected finite numbers, found {part[row, column]}{reason} at row {start + row}, "
            f"column {column} (counted from 0)"
        )


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int


def _read_header(path: Path) -> _Header:
    """Read what the file claims to hold and refuse what it must not be, before any memory is taken."""
    header = _parse_header(path)
    if header.dtype.hasobject:
        raise DataError(f"{path}: holds Python objects, which need pickle; pickle is not read: save numbers")
    if header.dtype.kind not in "fiu" or header.dtype.itemsize > 8:
        raise DataError(f"{path}: expected float16/32/64 or integers, found dtype {header.dtype}")
    if len(header.shape) != 2 or min(header.shape) < 1:
        raise DataError(f"{path}: expected a matrix [items, width], found shape {list(header.shape)}")
    _check_size(path, header)
    return header


def _check_size(path: Path, header: _Header) -> None:
    shape, dtype = header.shape, header.dtype
    expected, found = header.offset + math.prod(shape) * dtype.itemsize, path.stat().st_size
    if found != expected:
        word = "truncated" if found < expected else "longer than its header says"
        raise DataError(f"{path}: {word}: {list(shape)} {dtype} needs {expected} bytes, the file has {found}")


def _parse_header(path: Path) -> _Header:
    try:
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # files of old NumPy versions are fine
            version = np.lib.format.read_magic(stream)
            if version not in _VERSIONS:
                raise ValueError(f"unknown version {version} of the format")
            shape, fortran, dtype = _VERSIONS[version](stream)
            offset = stream.tell()
    except (OSError, ValueError, TypeError, SyntaxError, KeyError, MemoryError, RecursionError) as error:
        raise DataError(f"{path}: damaged or not a .npy file: {error}") from error
    except (
        tokenize.TokenError,
        OverflowError,
        AttributeError,
        IndexError,
    ) as error:  # what NumPy raises on some broken headers
        raise DataError(f"{path}: damaged header of a .npy file: {error}") from error
    return _Header(shape, fortran, dtype, offset)
