"""From the raw files of a public data set to the two tables that `build` takes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from gtcrec.data.formats.columns import find_columns, find_item_column, read_ids, read_labels, read_numbers, read_times
from gtcrec.data.formats.recbole import find_parts, is_atomic, kinds_of, read_atomic, read_item_file
from gtcrec.data.formats.tables import Table, TableFile, open_table
from gtcrec.data.sources.amazon import read_amazon
from gtcrec.data.sources.huggingface import HuggingFaceConfig, read_huggingface
from gtcrec.data.sources.microlens import read_microlens
from gtcrec.data.sources.movielens import read_movielens
from gtcrec.data.sources.raw_files import Faults, RawTables, write_raw
from gtcrec.errors import ConfigError, DataError, visible

__all__ = ["Kind", "convert"]

Kind = Literal["amazon", "movielens", "microlens", "hf", "recbole"]
_DEFAULT = HuggingFaceConfig()


def convert(
    kind: Kind,
    sources: Sequence[str | Path],
    out: str | Path,
    skip_bad_lines: bool = False,
    config: HuggingFaceConfig = _DEFAULT,
) -> dict[str, Any]:
    """Write `interactions.parquet` and `items.parquet`, as `build` takes them, of the raw files of a public data set.

    `amazon` takes files of reviews and of metadata, the others one folder each (MovieLens also its archive). `config`
    names files and columns of `hf`, and columns of `recbole`. A damaged line raises `DataError` with its file and
    number, or is left out and counted in the report, which is written to `report.json` and returned.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"unknown kind {kind!r}, expected one of {', '.join(get_args(Kind))}")
    paths, faults = [Path(source) for source in sources], Faults(skip_bad_lines)
    if kind != "amazon" and len(paths) != 1:
        raise ConfigError(f"{kind} takes one source, found {len(paths)}")
    read: dict[str, Callable[[], RawTables]] = {
        "amazon": lambda: read_amazon(paths, faults),
        "movielens": lambda: read_movielens(paths[0], faults),
        "microlens": lambda: read_microlens(paths[0], faults),
        "hf": lambda: read_huggingface(paths[0], faults, config),
        "recbole": lambda: _read_recbole(paths[0], faults, config),
    }
    about = {"kind": kind, "sources": [visible(path.name) for path in paths]}
    return write_raw(Path(out), read[kind](), about, faults)


def _read_recbole(source: Path, faults: Faults, config: HuggingFaceConfig) -> RawTables:
    file = _find_atomic(source)
    table = read_atomic(file)
    columns = find_columns(
        table, lambda role: getattr(config, role, None), "--{}-col", ("user", "item", "rating", "time")
    )
    made = {f"{role}_id": read_ids(table, columns[role]).cast(pa.string()) for role in ("user", "item")}
    for role, name, read in (("rating", "rating", read_numbers), ("time", "timestamp", read_times)):
        if columns[role]:
            made[name] = pa.array(read(table, columns[role], blanks=True), from_pandas=True)
    if "x_label" in table.names:
        made["x_label"] = pa.array(read_labels(table, "x_label"))
    items = read_item_file(file.path)
    if items is None:
        return RawTables([pa.table(made)], lambda folder: [pa.table({"item_id": pc.unique(made["item_id"])})])
    key = find_item_column(items, columns["item"], config.items_item, "--items-item-col")
    return RawTables([pa.table(made)], lambda folder: [_item_table(items, key, kinds_of(items.file), faults)])


def _find_atomic(source: Path) -> TableFile:
    """Return the .inter file of a folder, or that file, as it is; raises `DataError` unless it is RecBole's."""
    files = sorted(source.glob("[!.]*.inter")) if source.is_dir() else [source]
    chosen = find_parts(files) if source.is_dir() else source
    if chosen is None and len(files) != 1:
        listed = ", ".join(file.name for file in files) or "none"
        raise DataError(f"{source}: expected one .inter file, or .train.inter and its siblings, found {listed}")
    file = open_table(chosen or files[0], separator="\t")
    if not is_atomic(file):
        raise DataError(f"{file.path}: expected RecBole's header, such as user_id:token, found {', '.join(file.names)}")
    return file


def _item_table(table: Table, key: str, kinds: dict[str, str], faults: Faults) -> pa.Table:
    """Return the items: float as numbers, token_seq as lists (a title as text), float_seq left out."""
    made: dict[str, Any] = {"item_id": read_ids(table, key).cast(pa.string())}
    for name, kind in kinds.items():
        if name in (key, "item_id"):
            continue
        column = table.columns.column(name).combine_chunks()
        if kind == "float":
            made[name] = pa.array(read_numbers(table, name, blanks=True), from_pandas=True)
        elif kind == "token_seq" and name != "title":
            made[name] = pa.array([cell.split() for cell in column.to_pylist()], pa.list_(pa.string()))
        elif kind == "float_seq":
            faults.notes[f"column {name} of items left out (float_seq)"] = 1
        else:
            made[name] = column
    return pa.table(made)
