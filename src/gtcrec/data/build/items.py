"""The items of a build: which rows of the items table are in the catalogue, and the table that is written of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from string import Formatter
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gtcrec.data.build.left_out import ITEMS, left_out_writer, parquet_writer
from gtcrec.data.build.report import FilterReport
from gtcrec.data.formats.columns import number_cells, read_ids, read_strings, read_texts
from gtcrec.data.formats.item_metadata import find_inside, is_file
from gtcrec.data.formats.tables import Table, TableFile
from gtcrec.errors import DataError, shortened
from gtcrec.runtime.files import link_or_copy
from gtcrec.types import Ints, Masks

__all__ = [
    "LOST",
    "ItemCatalog",
    "ItemColumns",
    "convert_items",
    "link_image",
    "read_item_catalog",
    "read_items",
    "write_items",
]

LOST = "image files not found (the item stays)"
_IDS, _ROWS = 1 << 18, 1 << 11  # rows of Parquet at a time: of ids, of all columns, where a text may be long


@dataclass(frozen=True, eq=False)
class ItemCatalog:
    """The distinct items: their ids (Arrow text), and which rows of the table they are, bool [rows]."""

    ids: Any
    chosen: Masks


@dataclass(frozen=True)
class ItemColumns:
    """Columns of the items table by what they become; `image` may be a pattern such as images/{item_id}.jpg."""

    item: str
    title: str = ""
    texts: tuple[str, ...] = ()
    image: str = ""
    numbers: tuple[str, ...] = ()
    words: tuple[str, ...] = ()  # categories, tags and what is only kept
    joins: Mapping[str, str] = field(default_factory=dict)  # what stands between the texts of a list, by column

    @property
    def pattern(self) -> tuple[str, ...]:
        """The columns that the pattern of `image` names."""
        return tuple(name for _, name, _, _ in Formatter().parse(self.image) if name)

    def read(self) -> list[str]:
        """All columns that are read."""
        images = self.pattern or tuple(filter(None, [self.image]))
        named = (self.item, self.title, *self.texts, *images, *self.numbers, *self.words)
        return list(dict.fromkeys(filter(None, named)))


def read_item_catalog(
    source: TableFile, item: str, duplicates: Literal["refuse", "first"], dropped: FilterReport
) -> ItemCatalog:
    """Read the ids of an items table; rows without one are left out.

    An id that stands twice raises `DataError`, or with `first` its later rows are left out.
    """
    ids, filled = [pa.array([], pa.string())], [np.zeros(0, dtype=np.bool_)]
    for part in source.batches([item], _IDS):
        keys = read_ids(part, item)
        blank = np.asarray(keys.is_null())
        kept = dropped.drop_invalid(
            "items", "without an item id", np.ones_like(blank), blank, partial(_row_example, part)
        )
        ids.append(keys.filter(pa.array(kept)).cast(pa.string()))
        filled.append(kept)
    chosen, keys = np.concatenate(filled), pa.concat_arrays(ids)
    if not len(keys):
        raise DataError(f"{source.path}: expected items with an id in {item}, found none in {len(chosen):,} rows")
    codes = keys.dictionary_encode().indices.to_numpy()
    new = np.zeros(len(codes), dtype=np.bool_)
    new[np.unique(codes, return_index=True)[1]] = True
    if new.all():
        return ItemCatalog(keys, chosen)
    rows: Ints = np.flatnonzero(chosen)
    if duplicates == "refuse":
        _refuse_duplicates(source, item, keys, codes, new, rows)
    dropped.drop_invalid(
        "items", "with an id that an earlier row has", ~np.zeros_like(new), ~new,
        lambda k: f"row {rows[k] + 1:,}: {keys[k].as_py()!r}",
    )  # fmt: skip
    chosen[rows[~new]] = False
    return ItemCatalog(keys.filter(pa.array(new)), chosen)


def _refuse_duplicates(source: TableFile, item: str, keys: Any, codes: Any, new: Masks, rows: Any) -> None:
    two = int(np.argmin(new))
    one = int(np.argmax(codes == codes[two]))
    more = int((~new).sum()) - 1
    raise DataError(
        f"{source.path}: {item} {keys[two].as_py()!r} stands twice: {source.place(int(rows[one]))} and "
        f"{source.place(int(rows[two]))}" + (f", and {more:,} more rows repeat an id" if more else "") +
        "; --duplicates first keeps the first row of each"
    )  # fmt: skip


def write_items(
    source: TableFile,
    columns: ItemColumns,
    catalog: ItemCatalog,
    chosen: Masks,
    root: Path,
    out: Path,
    folder: Path,
    dropped: FilterReport,
    contents: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Write `items.parquet`, the chosen rows in the table's order, and the images that they name into `images/`.

    The columns are called as in the source, but the item, title and image `item_id`, `title` and `image`. The other
    items of the catalog go to `left_out_items.parquet`; `out` is where `folder` will lie. Raises `DataError` for a cell
    that is not what it should be, an image outside `root`, and where all images are missing or all columns of a kind
    of `contents` are empty.
    """
    schema = _written_schema(source, columns)
    filled: set[str] = set()
    with parquet_writer(folder / ITEMS, schema) as write, left_out_writer(folder, out, schema, root) as write_left_out:
        n_written = 0
        for part in source.batches(columns.read(), _ROWS, columns.joins):
            keep = chosen[part.first : part.first + len(part)]
            kept = convert_items(part, columns, keep, dropped, partial(link_image, part.place, root, folder))
            filled |= {name for name in schema.names if _holds_anything(kept[name])}
            write(kept)
            left_out = catalog.chosen[part.first : part.first + len(part)] & ~keep
            if left_out.any():
                rest = Table(source, part.columns.filter(pa.array(left_out)))
                before = n_written + np.cumsum(keep)[left_out]
                write_left_out(convert_items(rest, columns, left_out[left_out], FilterReport(), _keep_path), before)
            n_written += int(keep.sum())
        if columns.image and "image" not in filled:
            raise DataError(_no_image(source, columns, root, dropped))
        for kind, names in contents.items():
            if names and not filled & set(names):
                listed = ", ".join(map(repr, names))
                raise DataError(f"{source.path}: no item that stays has a value in {listed}, named by {kind}")


def _holds_anything(column: Any) -> bool:
    if pa.types.is_string(column.type):
        return bool(pc.any(pc.not_equal(pc.utf8_trim_whitespace(column), "")).as_py())
    return bool(column.null_count < len(column))


def _no_image(source: TableFile, columns: ItemColumns, root: Path, dropped: FilterReport) -> str:
    lost, examples = dropped.found("items", LOST)
    if not lost:
        return f"{source.path}: {columns.image!r} names no image"
    return (
        f"{source.path}: none of {lost:,} files that {columns.image!r} names is in {root}, such as {examples[0]}; "
        "--image-root sets the folder"
    )


def _written_schema(source: TableFile, columns: ItemColumns) -> pa.Schema:
    names = _written_names(source, columns)
    return pa.schema([(name, pa.float64() if name in columns.numbers else pa.string()) for name in names])


def _written_names(source: TableFile, columns: ItemColumns) -> list[str]:
    """Return the names of the columns as written. Raises `DataError` where two would have one name."""
    roles = {"item_id": columns.item, "title": columns.title, "image": columns.image}
    taken = {name: made for name, made in roles.items() if made}
    for name in dict.fromkeys((*columns.texts, *columns.numbers, *columns.words)):
        if taken.setdefault(name, name) != name:
            raise DataError(f"{source.path}: column {name!r} and {taken[name]!r} would both be called {name!r}")
    return list(taken)


def read_items(source: TableFile, columns: ItemColumns, catalog: ItemCatalog, dropped: FilterReport) -> pa.Table:
    """Return all items of a catalog as `items.parquet` has them, but the images' paths as the table has them."""
    parts = [
        convert_items(part, columns, catalog.chosen[part.first : part.first + len(part)], dropped, _keep_path)
        for part in source.batches(columns.read(), joins=columns.joins)
    ]
    schema = _written_schema(source, columns)
    return pa.concat_tables([part.select(schema.names).cast(schema) for part in parts])


def convert_items(
    part: Table,
    columns: ItemColumns,
    mask: Masks,
    dropped: FilterReport,
    take_image: Callable[[int, str], str | None],
) -> pa.Table:
    """Return the chosen rows of a part as `items.parquet` has them.

    `take_image(row, path)` returns an image's path as written, None where there is no such file.
    """
    made = {"item_id": read_ids(part, columns.item).cast(pa.string())}
    if columns.title:
        made["title"] = read_strings(part, columns.title)
    if columns.image:
        paths = _image_paths(part, columns)
        images = [take_image(row, path) if mask[row] and path else "" for row, path in enumerate(paths)]
        lost = np.array([image is None for image in images], dtype=np.bool_)
        about = partial(_row_example, part, cells=paths)
        dropped.drop_invalid("items", LOST, mask, lost, about)
        made["image"] = pa.array([image or "" for image in images], pa.string())
    for name in (*columns.texts, *columns.words):
        made.setdefault(name, read_strings(part, name, columns.joins.get(name)))
    for name in columns.numbers:
        numbers, odd = number_cells(part, name)
        about = partial(_row_example, part, cells=read_texts(part, name) if odd.any() else ())
        dropped.drop_invalid("items", f"cells of {name} that are no number (the item stays)", mask, odd, about)
        made[name] = pa.array(numbers, pa.float64(), mask=np.isnan(numbers))
    return pa.table(made).filter(pa.array(mask))


def _row_example(part: Table, row: int, cells: Sequence[Any] = ()) -> str:
    return f"row {part.first + row + 1:,}" + (f": {cells[row]!r}" if cells else "")


def _image_paths(part: Table, columns: ItemColumns) -> Sequence[str]:
    if not columns.pattern:
        return read_texts(part, columns.image)
    cells = {name: read_ids(part, name).to_pylist() for name in columns.pattern}
    return [
        columns.image.format(**{name: column[row] or "" for name, column in cells.items()}) for row in range(len(part))
    ]


def link_image(describe_place: Callable[[int], str], root: Path, folder: Path, row: int, path: str) -> str | None:
    """Put an image into `images/` of the folder, as a second name of the file where the disk allows it.

    Return its path there, None if there is no such file; an image that is there stays. Raises `DataError` for a path
    outside `root`, with the place of the row.
    """
    place = find_inside(root, path)
    if place is None or place == root:
        raise DataError(
            f"image {shortened(path)} ({describe_place(row)}) must be a path inside {root}; --image-root sets it"
        )
    if not is_file(place):
        return None
    inside = place.resolve()
    target = folder / "images" / inside.relative_to(root.resolve())
    if not target.exists():
        link_or_copy(inside, target)
    return target.relative_to(folder).as_posix()


def _keep_path(row: int, path: str) -> str:
    return path
