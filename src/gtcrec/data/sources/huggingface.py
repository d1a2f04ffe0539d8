"""Folders of Hugging Face `datasets` in Parquet: interactions and items in the columns that are named."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from pydantic import BaseModel, ConfigDict

from gtcrec.data.formats.columns import find_column, read_keys, read_numbers
from gtcrec.data.formats.streaming import Source, open_source
from gtcrec.data.formats.tables import Table
from gtcrec.data.sources.raw_files import Faults, RawTables
from gtcrec.errors import DataError
from gtcrec.runtime.files import atomic_path

__all__ = ["HuggingConfig", "read_hugging"]

_ROWS = 1 << 12  # of Parquet at a time: images may be in the rows
_SPLIT = re.compile(r"(train|validation|valid|val|dev|test)(?![a-z])")
_LABELS = {"train": 0, "validation": 1, "valid": 1, "val": 1, "dev": 1, "test": 2}
_SIGNS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}


class HuggingConfig(BaseModel):
    """Which files and columns are what.

    `interactions` and `items` are patterns of files inside the folder; items stand in the interactions' rows if not
    given. `user`, `item`, `rating`, `time` and `items_item` (the item in the items' files) are column names; None
    finds them among `columns.KNOWN`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    interactions: str = "**/*.parquet"
    items: str = ""
    user: str | None = None
    item: str | None = None
    rating: str | None = None
    time: str | None = None
    items_item: str | None = None


_DEFAULT = HuggingConfig()


def read_hugging(folder: Path, faults: Faults, config: HuggingConfig = _DEFAULT) -> RawTables:
    """Return the tables of a folder of Parquet files.

    Where file names say two or more of train, validation and test, `x_label` does too. Items keep all columns of
    numbers, text and lists of these, and images that are in the rows go to `images/`; other columns are left out and
    noted. Items in the interactions' rows come once a row: `build` wants `--duplicates first`. Raises `DataError` when
    files or columns are missing.
    """
    acted = _sources(folder, config.interactions)
    described = _sources(folder, config.items) if config.items else acted
    roles = ("user", "item", "rating", "time")
    columns = {
        role: find_column(acted[0].head, role, getattr(config, role), role in ("user", "item"), f"--{role}-col")
        for role in roles
    }
    given = config.items_item or (config.item if config.item in described[0].names else None)
    key = find_column(described[0].head, "item", given, True, "--items-item-col")
    others = set() if config.items else {columns[role] for role in ("user", "rating", "time")}
    return RawTables(
        _interactions(acted, columns, _labels(acted)),
        lambda out: _items(described, key, others, out, faults),
    )


def _sources(folder: Path, pattern: str) -> list[Source]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found = [open_source(file) for file in sorted(folder.glob(pattern)) if file.suffix == ".parquet"]
    if not found:
        raise DataError(f"{folder}: found no .parquet file that is called {pattern}")
    for source in found[1:]:
        if set(source.names) != set(found[0].names):
            other = found[0].path.name
            raise DataError(
                f"{source.path}: has other columns than {other}; name the files with --interactions and --items"
            )
    return found


def _labels(sources: Sequence[Source]) -> list[int] | None:
    """Return the part of each file, None where the names do not tell at least two."""
    found = [_SPLIT.match(source.path.name) for source in sources]
    labels = [_LABELS[match[1]] for match in found if match]
    return labels if len(labels) == len(sources) and len(set(labels)) > 1 else None


def _parts(source: Source, names: Sequence[str]) -> Iterator[Table]:
    first = 0
    try:
        with pa.parquet.ParquetFile(source.path, pre_buffer=False) as file:
            for batch in file.iter_batches(_ROWS, columns=list(names), use_threads=False):
                yield source.part([batch.column(name) for name in names], names, first)
                first += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{source.path}: cannot be read: {error}") from error


def _interactions(sources: Sequence[Source], columns: dict[str, str], labels: list[int] | None) -> Iterator[pa.Table]:
    for k, source in enumerate(sources):
        for part in _parts(source, list(dict.fromkeys(filter(None, columns.values())))):
            made = {"user_id": read_keys(part, columns["user"])[0], "item_id": read_keys(part, columns["item"])[0]}
            for role, name in (("rating", "rating"), ("time", "timestamp")):
                if columns[role]:
                    made[name] = _numbers(part, columns[role])
            if labels is not None:
                made["x_label"] = pa.array(np.full(len(part), labels[k], dtype=np.int8))
            yield pa.table(made)


def _numbers(part: Table, name: str) -> Any:
    """Return a column of numbers or times as float64; text is left to `build`, which knows dates."""
    column = part.columns.column(name).combine_chunks()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.cast(pa.string())
    return pa.array(read_numbers(part, name, blanks=True), from_pandas=True)


def _items(sources: Sequence[Source], key: str, others: set[str], out: Path, faults: Faults) -> Iterator[pa.Table]:
    schema = pa.parquet.read_schema(sources[0].path)
    kinds = {name: schema.field(name).type for name in sources[0].names if name not in others and name != key}
    images = [name for name, kind in kinds.items() if _is_image(kind)]
    kept = [name for name, kind in kinds.items() if _is_plain(kind) and name != "item_id"]
    for name in kinds:
        if name not in images and name not in kept:
            faults.notes[f"column {name} of items left out ({kinds[name]})"] = 1
    count = 0
    for source in sources:
        for part in _parts(source, [key, *kept, *images]):
            made = {"item_id": read_keys(part, key)[0], **{name: part.columns.column(name) for name in kept}}
            for name in images:
                cells = part.columns.column(name).to_pylist()
                made[name] = pa.array(
                    [_write_image(cell, out, f"{name}_{count + row}", faults) for row, cell in enumerate(cells)],
                    pa.string(),
                )
            count += len(part)
            yield pa.table(made)


def _is_image(kind: Any) -> bool:
    return bool(pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"})


def _is_plain(kind: Any) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _write_image(cell: dict[str, Any] | None, out: Path, name: str, faults: Faults) -> str:
    """Write the bytes of an image into `images/` and return its path, "" for none."""
    data = (cell or {}).get("bytes")
    if not data:
        return ""
    ends = [end for sign, end in _SIGNS.items() if data.startswith(sign)]
    if not ends:
        faults.notes["images of an unknown kind, left out"] += 1
        return ""
    (out / "images").mkdir(exist_ok=True)
    with atomic_path(out / "images" / f"{name}{ends[0]}") as temporary:
        temporary.write_bytes(data)
    return f"images/{name}{ends[0]}"
