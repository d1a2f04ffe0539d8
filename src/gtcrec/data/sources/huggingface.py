"""Folders of Hugging Face `datasets` in Parquet: interactions and items in the columns that are named."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from pydantic import BaseModel, ConfigDict, Field

from gtcrec.data.formats.columns import find_columns, find_item_column, read_ids, read_labels, read_numbers, read_times
from gtcrec.data.formats.tables import Table, TableFile, open_table
from gtcrec.data.sources.raw_files import Faults, RawTables
from gtcrec.errors import DataError
from gtcrec.runtime.files import atomic_path

__all__ = ["HuggingFaceConfig", "read_huggingface"]

_ROWS = 1 << 12  # of Parquet at a time: images may be in the rows
_LABELS = {
    **dict.fromkeys(("train", "training"), 0),
    **dict.fromkeys(("validation", "validate", "valid", "val", "dev", "eval", "evaluation"), 1),
    **dict.fromkeys(("test", "testing"), 2),
}
_SPLIT = re.compile(rf"(?<![a-z])({'|'.join(sorted(_LABELS, key=len, reverse=True))})(?:[_-]?set)?(?![a-z])")
_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")  # userTrain is user_train
_SIGNS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}


class HuggingFaceConfig(BaseModel):
    """Which files and columns are what.

    `interactions` and `items` are patterns of files inside the folder; items stand in the interactions' rows if not
    given. `user`, `item`, `rating`, `time` and `items_item` (the item in the items' files) are column names; None
    finds them among `columns.KNOWN`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    interactions: str = Field("**/*.parquet", description="pattern of the files of interactions")
    items: str = Field("", description="pattern of the files of items; the same files if not given")
    user: str | None = Field(None, description="column of users; this and the next are found by their usual names")
    item: str | None = Field(None, description="column of items")
    rating: str | None = Field(None, description="column of ratings")
    time: str | None = Field(None, description="column of times")
    items_item: str | None = Field(None, description="column of items in the files of items")


_DEFAULT = HuggingFaceConfig()


def read_huggingface(folder: Path, faults: Faults, config: HuggingFaceConfig = _DEFAULT) -> RawTables:
    """Return the tables of a folder of Parquet files.

    Where names of files or of their folders say two or more of train, validation and test, `x_label` does too; else a
    column `x_label` is taken over. Columns of interactions that are not taken over are noted. Items keep all columns
    of numbers, text and lists of these, and images that are in the rows go to `images/`; other columns are left out and
    noted. Items in the interactions' rows come once a row: `build` wants `--duplicates first`. Raises `DataError` when
    files or columns are missing or do not fit together.
    """
    interaction_files = _open_sources(folder, config.interactions)
    item_files = _open_sources(folder, config.items) if config.items else interaction_files
    columns = find_columns(interaction_files[0], lambda role: getattr(config, role, None), "--{}-col")
    key = find_item_column(item_files[0], config.item, config.items_item, "--items-item-col")
    others = set() if config.items else {columns[role] for role in ("user", "rating", "time", "label")}
    labels = _split_labels(folder, interaction_files, faults)
    if labels is not None and columns["label"]:
        raise DataError(
            f"{interaction_files[0].path}: found a column {columns['label']}, though the files' names say the part"
        )
    for name in set(interaction_files[0].names) - set(columns.values()) if config.items else ():
        faults.notes[f"column {name} of interactions left out"] = 1
    return RawTables(
        _interaction_batches(interaction_files, columns, labels),
        lambda out: _item_batches(item_files, key, others, out, faults),
    )


def _open_sources(folder: Path, pattern: str) -> list[TableFile]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files = [file for file in sorted(folder.glob(pattern)) if file.suffix == ".parquet" and file.name[0] != "."]
    found = [open_table(file) for file in files]
    if not found:
        raise DataError(f"{folder}: found no .parquet file that is called {pattern}")
    for source in found[1:]:
        if set(source.names) != set(found[0].names):
            other = found[0].path.name
            raise DataError(
                f"{source.path}: has other columns than {other}; name the files with --interactions and --items"
            )
    return found


def _split_labels(folder: Path, sources: Sequence[TableFile], faults: Faults) -> list[int] | None:
    """Return the part of each file, None where the names do not tell at least two; words not used are noted."""
    labels = [label for source in sources if (label := _split_label(source.path.relative_to(folder))) is not None]
    if len(labels) == len(sources) and len(set(labels)) > 1:
        return labels
    if labels:
        faults.notes["files named after a part, such as train, whose parts are not used"] = len(labels)
    return None


def _split_label(path: Path) -> int | None:
    """Return the part that the name of a file says, or that of the nearest folder which says one."""
    found = (_SPLIT.search(_WORD_STARTS.sub("_", name).lower()) for name in reversed(path.parts))
    return next((_LABELS[match[1]] for match in found if match), None)


def _common_types(sources: Sequence[TableFile], names: Sequence[str]) -> dict[str, Any]:
    """Return a type for each column that holds it in all files: it may be empty in one, whole numbers in another."""
    first = sources[0].path
    kinds = {name: pa.parquet.read_schema(first).field(name).type for name in names}
    for source in sources[1:]:
        schema = pa.parquet.read_schema(source.path)
        for name, kind in kinds.items():
            schemas = [pa.schema([(name, _plain_type(one))]) for one in (kind, schema.field(name).type)]
            try:
                kinds[name] = pa.unify_schemas(schemas, promote_options="permissive").field(name).type
            except pa.ArrowException as error:
                raise DataError(
                    f"{source.path}: column {name!r} holds {schema.field(name).type}, which does not fit {first.name}, "
                    f"where it holds {kind}"
                ) from error
    return kinds


def _interaction_batches(
    sources: Sequence[TableFile], columns: dict[str, str], labels: list[int] | None
) -> Iterator[pa.Table]:
    for k, source in enumerate(sources):
        for part in source.batches(columns.values(), _ROWS):
            made = {f"{role}_id": read_ids(part, columns[role]).cast(pa.string()) for role in ("user", "item")}
            for role, name, read in (("rating", "rating", read_numbers), ("time", "timestamp", read_times)):
                if columns[role]:
                    made[name] = pa.array(read(part, columns[role], blanks=True), from_pandas=True)
            if columns["label"]:
                made["x_label"] = pa.array(read_labels(part, columns["label"]))
            if labels is not None:
                made["x_label"] = pa.array(np.full(len(part), labels[k], dtype=np.int8))
            yield pa.table(made)


def _item_batches(
    sources: Sequence[TableFile], key: str, others: set[str], out: Path, faults: Faults
) -> Iterator[pa.Table]:
    kinds = _common_types(sources, [name for name in sources[0].names if name not in others and name != key])
    images = [name for name, kind in kinds.items() if _is_image_type(kind)]
    kept = [name for name, kind in kinds.items() if _is_plain_type(kind) and name != "item_id"]
    for name in kinds:
        if name not in images and name not in kept:
            faults.notes[f"column {name} of items left out ({kinds[name]})"] = 1
    count = 0
    for source in sources:
        for part in source.batches([key, *kept, *images], _ROWS):
            made = {
                "item_id": read_ids(part, key).cast(pa.string()),
                **{name: _cast(part, name, kinds[name]) for name in kept},
            }
            for name in images:
                cells = part.columns.column(name).to_pylist()
                made[name] = pa.array(
                    [_write_image(cell, out, f"{name}_{count + row}", faults) for row, cell in enumerate(cells)],
                    pa.string(),
                )
            count += len(part)
            yield pa.table(made)


def _plain_type(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _cast(part: Table, name: str, kind: Any) -> Any:
    try:
        return part.columns.column(name).cast(kind, safe=False)  # what a float does not hold of a number is no matter
    except pa.ArrowException as error:
        raise DataError(f"{part.path}: column {name!r} cannot be read as {kind}: {error}") from error


def _is_image_type(kind: Any) -> bool:
    return bool(pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"})


def _is_plain_type(kind: Any) -> bool:
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
