"""Items that came after training, from a table of their columns: encoded as the content of the training was."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gtcrec.data.features.item_encoders import ItemEncoders
from gtcrec.data.formats.columns import find_item_column, first_row, read_ids
from gtcrec.data.formats.ids import refuse_repeated_ids, whole_numbers
from gtcrec.data.formats.item_columns import read_new_columns
from gtcrec.data.formats.item_metadata import find_inside, is_file
from gtcrec.data.formats.tables import Table
from gtcrec.errors import DataError, RunError, shortened
from gtcrec.experiments.model_bundle import ModelBundle, is_bundle, renew_bundle
from gtcrec.runtime.replacement import sweep_copies
from gtcrec.serving.inputs import check_new_items
from gtcrec.serving.trained_model import TrainedModel

__all__ = ["AddedItems", "add_items_to_folder", "encode_content", "encode_rows", "refuse_files"]


@dataclass(frozen=True)
class AddedItems:
    """What became of a table of items.

    Parameters
    ----------
    added : int
        Items that the model knows from now on.
    known : int
        Items of the table that it knew before; they stay as they were.
    encoded : mapping
        Modality -> how many of the added items have it.
    missing_columns : mapping
        Modality -> columns of its content that the table lacks, if any.
    failures : tuple of mappings
        `item`, `modality` and `reason` for each content that could not be read.
    """

    added: int
    known: int
    encoded: Mapping[str, int]
    missing_columns: Mapping[str, list[str]]
    failures: tuple[Mapping[str, Any], ...]


def add_items_to_folder(folder: str | Path, items: str | Path) -> AddedItems:
    """Encode the new items of a table and add them to a finished run or a saved recommender, in its folder.

    All later answers from the folder may hold them, and a server that serves it takes them over. The folder is replaced
    at once: a reader finds all of the new items or none.

    Parameters
    ----------
    folder : path
        A finished run or a folder of `Recommender.save`.
    items : path
        A table (.csv, .tsv, .jsonl, .parquet; text also .gz) with the columns of the items table that the data were
        built of. Paths of images are relative to its folder.

    Returns
    -------
    AddedItems

    Raises
    ------
    DataError
        For a row without an id, an id that stands twice, and a column of another type than the data's.
    RunError
        For a folder that is no finished run, content that cannot be encoded, and a model that cannot score new items.
    """
    folder = Path(folder)
    if not is_bundle(folder) and not (folder / "config.yaml").is_file():
        raise RunError(f"{folder}: neither a run folder nor a saved recommender")
    model = TrainedModel.load(folder)
    if not is_bundle(folder):
        raise RunError(f"{folder}: made by version 0.1; save it anew with Recommender.load(...).save(...)")
    model.require_adding()
    bundle, encoders = model.bundle, _require_encoders(model.bundle, model.bundle.features.names)
    table = encoders.read(Path(items))
    ids = _read_ids(table, encoders.sources.get("item_id"))
    known = set(map(str, bundle.items.ids.tolist()))
    rows = [row for row, one in enumerate(ids) if str(one) not in known]
    table, new = Table(table.file, table.columns.take(pa.array(rows, pa.int64()))), [ids[row] for row in rows]
    content, failures = encode_content(bundle, table)
    features = check_new_items(new, content, bundle.items, bundle.features)
    if new:
        columns = None if bundle.item_columns is None else read_new_columns(table, bundle.item_columns.schema)
        grown = model.add_items(new, features, columns)
        renew_bundle(folder, grown.bundle, grown.scorer)
    else:
        sweep_copies(folder)
    return AddedItems(
        len(new),
        len(ids) - len(new),
        {name: int(features.present[name].sum()) for name in features.names},
        encoders.missing_columns(table),
        tuple({"item": new[row], "modality": name, "reason": reason} for row, name, reason in failures),
    )


def encode_content(
    bundle: ModelBundle, table: Table, given: Mapping[str, Any] = MappingProxyType({})
) -> tuple[dict[str, Any], list[tuple[int, str, str]]]:
    """Return the vectors of a table's rows by modality, as the model's items have them, and what could not be read.

    That is row, modality and reason. `given` has the vectors of some modalities, which are not encoded then. Raises
    `RunError` for a modality whose encoder is not known.
    """
    expected = [name for name in bundle.features.names if name not in given]
    encoders = _require_encoders(bundle, expected)
    vectors, reasons = ItemEncoders({name: encoders.by_modality[name] for name in expected}).encode(table)
    failures = [(row, name, reason) for name, why in reasons.items() for row, reason in enumerate(why) if reason]
    return {**given, **vectors}, failures


def encode_rows(
    bundle: ModelBundle, rows: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any], folder: Path | None
) -> tuple[dict[str, Any], pa.Table | None, list[str]]:
    """Return the vectors of items given as JSON values by column, their items table, and what could not be read.

    `given` has the vectors of some modalities, which are not encoded then. Files lie in `folder`, those outside it
    count as missing. Raises as `encode_content`, and `DataError` for a value that is none of a table.
    """
    table = (bundle.encoders or ItemEncoders()).table_of(rows, folder)
    content, failures = encode_content(bundle, table, given)
    columns = None if bundle.item_columns is None else read_new_columns(table, bundle.item_columns.schema)
    items = list(rows)
    return content, columns, [f"{name} of item {items[row]!r}: {reason}" for row, name, reason in failures]


def refuse_files(bundle: ModelBundle, item: str, row: Mapping[str, Any], folder: Path | None) -> None:
    """Raise `DataError` for a column of an item that names another file than one of `folder`; each does if None."""
    encoders = bundle.encoders or ItemEncoders()
    names = {*encoders.file_columns, "image"}
    for name in names | {encoders.sources[name] for name in names if name in encoders.sources}:
        path = row.get(name)
        if path is None or path == "":
            continue
        said = f"item {item!r}: column {name!r}"
        if not isinstance(path, str):
            raise DataError(f"{said}: expected the path of a file, found {shortened(str(path))}")
        if folder is None:
            raise DataError(f"{said} names a file: the server reads files of the folder --images alone, and has none")
        place = find_inside(folder, path)
        if place is None or not is_file(place):
            raise DataError(f"{said}: expected the path of a file in the folder --images, found {shortened(path)}")


def _require_encoders(bundle: ModelBundle, modalities: Iterable[str]) -> ItemEncoders:
    encoders = bundle.encoders or ItemEncoders()
    for name in modalities:
        if name not in encoders.by_modality:
            raise RunError(
                f"{bundle.model}: how its content {name!r} was encoded is not known: `gtcrec data build` or `encode` "
                "of this version did not make it; hand over vectors with Recommender.add_items"
            )
    return encoders


def _read_ids(table: Table, source: str | None) -> list[Any]:
    """Return the ids of a table of items, in the column `source` if it is there.

    Raises `DataError` for a row without one, and for one that stands twice.
    """
    key = find_item_column(table, None, source if source in table.names else None)
    ids = read_ids(table, key)
    if ids.null_count:
        raise DataError(f"{key} is empty in {table.place(first_row(pc.is_null(ids)))}: each row needs an item id")
    refuse_repeated_ids(table, key, ids.indices.to_numpy())
    found: list[Any] = whole_numbers(ids.cast(pa.string())).to_pylist()
    return found
