"""Items that filters leave out, kept beside those that stay: with more interactions they come in.

`left_out_items.parquet` has a column `item`, a struct of the columns of `items.parquet`. `before` says before which row
of that file the item would stand, and `image_root`, relative to the data folder, where its image lies.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gtcrec.runtime.files import atomic_path
from gtcrec.types import Ints, Masks

__all__ = [
    "ITEMS",
    "LEFT_OUT_ITEMS",
    "StoredItems",
    "left_out_writer",
    "parquet_writer",
    "read_stored_items",
    "relative_root",
]

ITEMS, LEFT_OUT_ITEMS = "items.parquet", "left_out_items.parquet"
_GROUP = 1 << 26  # bytes of a row group that is written


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Yield what adds rows to a Parquet file, which appears whole at the end."""
    group: list[pa.Table] = []

    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:

        def flush() -> None:
            if group:
                writer.write_table(pa.concat_tables(group).combine_chunks())
                group.clear()

        def add(rows: pa.Table) -> None:
            group.append(rows.select(schema.names).cast(schema))
            if sum(table.nbytes for table in group) > _GROUP:
                flush()

        yield add
        flush()


@contextmanager
def left_out_writer(
    folder: Path, out: Path, schema: pa.Schema, root: Path | None = None
) -> Iterator[Callable[..., None]]:
    """Yield what adds items of a schema to `left_out_items.parquet`: their rows, and the row before which each stands.

    Images lie below `root`, or where a third argument says for each; `out` is where `folder` will lie.
    """
    kinds = [("item", pa.struct(list(schema))), ("before", pa.int64()), ("image_root", pa.string())]
    with parquet_writer(folder / LEFT_OUT_ITEMS, pa.schema(kinds)) as write:

        def add(items: pa.Table, before: Ints, roots: list[str | None] | None = None) -> None:
            items = items.select(schema.names).cast(schema).combine_chunks()
            item = pa.StructArray.from_arrays([_whole(column) for column in items.columns], fields=list(schema))
            roots = [relative_root(root, out)] * len(items) if roots is None else roots
            columns = [item, pa.array(before, pa.int64()), pa.array(roots, pa.string())]
            write(pa.table(dict(zip(("item", "before", "image_root"), columns, strict=True))))

        yield add


def relative_root(root: Path | None, out: Path) -> str | None:
    """Return the folder that images are relative to as it is seen from a data folder; absolute on another drive."""
    if root is None:
        return None
    try:
        return os.path.relpath(root.resolve(), out.resolve())
    except ValueError:
        return str(root.resolve())


@dataclass(frozen=True, eq=False)
class StoredItems:
    """All items that a data folder has or has left out, in the order of the tables that they come from.

    `image_roots` has a folder for each, relative to the data folder; None where `image` is a path inside it.
    """

    items: pa.Table
    image_roots: list[str | None]

    def updated(self, new: pa.Table, root: str | None) -> tuple["StoredItems", Masks]:
        """Return the items with those of another table: in the place of the item of the same id, or after all.

        Their images lie below `root`. Also return which rows come from `new`, bool [n].
        """
        place = {one: row for row, one in enumerate(self.items["item_id"].to_pylist())}
        rows = np.arange(len(place))
        ids, added = new["item_id"].to_pylist(), []
        for row, one in enumerate(ids):
            if one in place:
                rows[place[one]] = len(place) + row
            else:
                added.append(len(place) + row)
        order = np.concatenate([rows, np.array(added, dtype=np.int64)])
        every = pa.concat_tables([self.items, new.select(self.items.column_names).cast(self.items.schema)])
        roots = [*self.image_roots, *[root] * len(ids)]
        merged = StoredItems(every.take(pa.array(order)).combine_chunks(), [roots[row] for row in order.tolist()])
        return merged, order >= len(place)


def read_stored_items(folder: Path) -> StoredItems:
    """Read the items of a data folder and those that it left out."""
    kept, left_out = (pq.ParquetFile(folder / name) for name in (ITEMS, LEFT_OUT_ITEMS))
    with kept, left_out:
        items, rest = kept.read(), left_out.read()
    waiting = pa.Table.from_arrays(_whole(rest["item"]).flatten(), schema=items.schema)
    places = np.concatenate([np.arange(len(items)), rest["before"].to_numpy() - 0.5])
    order = np.argsort(places, kind="stable")
    roots = [*[None] * len(items), *rest["image_root"].to_pylist()]
    return StoredItems(
        pa.concat_tables([items, waiting]).take(pa.array(order)).combine_chunks(),
        [roots[row] for row in order.tolist()],
    )


def _whole(column: pa.ChunkedArray) -> Any:
    combined = column.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined
