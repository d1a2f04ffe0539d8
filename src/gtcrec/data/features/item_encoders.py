"""The fitted encoders of all modalities of a data folder: what encodes new items from their columns."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

import pyarrow as pa

from gtcrec.data.features.fitted import FittedEncoder, read_encoders, write_encoders
from gtcrec.data.features.provenance import find_encoder_of
from gtcrec.data.formats.columns import read_ids, read_strings, read_texts
from gtcrec.data.formats.item_metadata import find_inside
from gtcrec.data.formats.json_values import json_cell
from gtcrec.data.formats.tables import Table, TableFile, open_table
from gtcrec.errors import DataError
from gtcrec.runtime.files import MANIFEST
from gtcrec.types import Floats

__all__ = ["ItemEncoders", "read_folder_encoders", "read_item_encoders"]

_MEMORY = TableFile(Path("item_columns"), "parquet")  # stands for a table that lies in no file


@dataclass(frozen=True, eq=False)
class ItemEncoders:
    """Encoders by modality.

    Parameters
    ----------
    by_modality : mapping
        Modality -> fitted encoder.
    sources : mapping
        A column of the data folder's items table -> its name in the table that the folder was built of. That of the
        image may be a pattern such as images/{item_id}.jpg.
    """

    by_modality: Mapping[str, FittedEncoder] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    def read(self, path: Path) -> Table:
        """Read a table of items, with the columns called as in the data folder.

        Raises `DataError` for a table that cannot be read.
        """
        file = open_table(path, errors="surrogateescape")
        return self._renamed(file.read(None, self._joins))

    def table(self, columns: pa.Table) -> Table:
        """Return columns in memory as a table that can be encoded; image paths are relative to the current folder."""
        return self._renamed(Table(_MEMORY, columns))

    def table_of(self, rows: Mapping[str, Mapping[str, Any]], folder: Path | None) -> Table:
        """Return rows of JSON values by item as a table that can be encoded, as one read from JSON lines.

        Paths of files are relative to `folder`; one that leads out of it counts as empty, each if there is no folder.
        Raises `DataError` for an object, and for a list in a column that takes none.
        """
        joins, columns = self._joins, {}
        for name in dict.fromkeys(name for row in rows.values() for name, value in row.items() if value is not None):
            cells = [_cell(item, name, row.get(name), joins.get(name)) for item, row in rows.items()]
            columns[name] = pa.array(cells, pa.list_(pa.string()) if name in joins else pa.string())
        columns[self.sources.get("item_id", "item_id")] = pa.array(list(rows), pa.string())
        table = self._renamed(Table(_MEMORY, pa.table(columns)))
        inside = table.columns
        for name in {*self.file_columns, "image"} & set(table.names):
            cells = [
                path if path and folder and find_inside(folder, path) else None for path in read_texts(table, name)
            ]
            inside = inside.set_column(inside.column_names.index(name), name, pa.array(cells, pa.string()))
        return Table(_MEMORY if folder is None else TableFile(folder / _MEMORY.path, _MEMORY.kind), inside)

    @property
    def file_columns(self) -> list[str]:
        """The columns that hold paths of images or other files."""
        configs = [encoder.config for encoder in self.by_modality.values()]
        return [path for config in configs if (path := config.image or config.file)]

    @property
    def _joins(self) -> dict[str, str]:
        """The columns that may hold lists, with what parts the words of a text."""
        configs = [encoder.config for encoder in self.by_modality.values()]
        joins = {name: " " for config in configs for name in config.text}
        return joins | {name: config.separator for config in configs for name in config.tags}

    def encode(self, table: Table) -> tuple[dict[str, Floats], dict[str, list[str | None]]]:
        """Return the vectors of a table's rows by modality, and why a row has none; see `FittedEncoder.encode`."""
        found = {name: one.encode(_joined(table, one.config.text)) for name, one in self.by_modality.items()}
        vectors = {name: x.astype("float32") for name, (x, _) in found.items()}
        return vectors, {name: reasons for name, (_, reasons) in found.items()}

    def missing_columns(self, table: Table) -> dict[str, list[str]]:
        """Return for each modality the columns of its content that a table lacks; modalities that lack none are out."""
        columns = {name: one.config.columns for name, one in self.by_modality.items()}
        lacking = {name: [one for one in names if one not in table.names] for name, names in columns.items()}
        return {name: names for name, names in lacking.items() if names}

    def write(self, path: Path) -> None:
        """Write the encoders to one file without pickle, whole or not at all."""
        write_encoders(path, self.by_modality, {"sources": dict(self.sources)})

    def _renamed(self, table: Table) -> Table:
        columns = table.columns
        for name, source in self.sources.items():
            if name in columns.column_names:
                continue
            if source in columns.column_names:
                columns = columns.append_column(name, columns.column(source))
            elif "{" in source:
                columns = columns.append_column(name, _fill_pattern(source, Table(table.file, columns)))
        return Table(table.file, columns)


def read_item_encoders(path: Path) -> ItemEncoders:
    """Read what `ItemEncoders.write` wrote. Raises `DataError` when it cannot be read."""
    encoders, facts = read_encoders(path)
    return ItemEncoders(encoders, facts.get("sources", {}))


def read_folder_encoders(folder: Path, modalities: Sequence[str]) -> ItemEncoders:
    """Read the encoders beside the matrices of a data folder, which has been verified, those of `modalities`.

    Matrices that another program made have none. Raises `DataError` for one that cannot be read.
    """
    places = {name: find_encoder_of(folder / f"{name}_feat.npy") for name in modalities}
    encoders = {name: one for name, place in places.items() if place for one in read_encoders(place)[0].values()}
    return ItemEncoders(encoders, _source_names(folder) if encoders else {})


def _source_names(folder: Path) -> dict[str, str]:
    """Return how the columns that a build renamed were called before it."""
    try:
        built = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["gtcrec"]["build"]
    except (OSError, ValueError, KeyError, TypeError):  # encoded, not built
        return {}
    names = {"item_id": built["items_item"] or built["item"], "title": built["title"], "image": built["image"]}
    return {name: source for name, source in names.items() if source}


def _cell(item: str, name: str, value: Any, separator: str | None) -> str | list[str] | None:
    try:
        return json_cell(value, separator)
    except ValueError as error:
        raise DataError(f"item {item!r}: column {name!r} {error}") from error


def _fill_pattern(pattern: str, table: Table) -> pa.Array:
    """Return the paths that a pattern makes of each row, "" where a column that it names is not there or empty."""
    names = [name for _, name, _, _ in Formatter().parse(pattern) if name]
    if not set(names) <= set(table.names):
        return pa.nulls(len(table), pa.string())
    cells = {name: read_ids(table, name).to_pylist() for name in names}
    rows = ({name: column[row] for name, column in cells.items()} for row in range(len(table)))
    return pa.array([pattern.format(**row) if all(row.values()) else "" for row in rows], pa.string())


def _joined(table: Table, names: Sequence[str]) -> Table:
    """Return the table with lists of text joined by a blank, as a build joins them."""
    columns = table.columns
    for name in set(names) & set(table.names):
        if pa.types.is_list(columns.column(name).type) or pa.types.is_large_list(columns.column(name).type):
            place = columns.column_names.index(name)
            columns = columns.set_column(place, name, read_strings(table, name, " "))
    return Table(table.file, columns, table.first)
