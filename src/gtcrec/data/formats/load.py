"""Reading a catalogue from its files: an MMRec folder, or interactions in a table with ids of any kind."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gtcrec.data.filters import Rows, drop_low_ratings, keep_k_core, mask_modalities, merge_duplicates
from gtcrec.data.formats.columns import find_columns, read_labels, read_numbers, read_times
from gtcrec.data.formats.ids import IdMap
from gtcrec.data.formats.item_metadata import is_file
from gtcrec.data.formats.mmrec import read_mmrec
from gtcrec.data.formats.npy import choose_modalities, feature_files, read_features
from gtcrec.data.formats.recbole import find_parts, is_atomic, read_atomic, read_item_file
from gtcrec.data.formats.tables import FORMATS, Table, TableFile, find_table, open_table, read_table
from gtcrec.data.formats.tabular import read_tabular
from gtcrec.errors import DataError, shortened, visible
from gtcrec.runtime.files import MANIFEST, OWN_SUM, check_manifest, has_manifest
from gtcrec.runtime.replacement import read_unchanged
from gtcrec.types import Dataset, Interactions, Vocabulary

__all__ = ["ReadConfig", "load", "rename_old_settings"]


_OLD_SETTINGS = {"hidden": "missing_rate", "hidden_seed": "missing_seed"}


def rename_old_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a `ReadConfig` by their names of today: the folders of version 0.1 hold others."""
    return {_OLD_SETTINGS.get(key, key): value for key, value in values.items()}


class ReadConfig(BaseModel):
    """How to read a data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str | None = Field(None, description="column of the users; None: found by its usual names, as all columns")
    item: str | None = Field(None, description="column of the items")
    rating: str | None = Field(None, description="column of the ratings")
    time: str | None = Field(None, description="column of the times")
    label: str | None = Field(None, description="column of the parts: 0 train, 1 valid, 2 test")
    min_rating: float | None = Field(None, description="rows rated lower are dropped")
    k_core: int = Field(0, ge=0, description="interactions that each user and item must have with the others kept")
    modalities: tuple[str, ...] | None = Field(None, description="contents to read; None: all that are there")
    memory_map: bool = Field(False, description="leave content on disk, for catalogs that memory does not hold")
    missing_rate: Mapping[str, Annotated[float, Field(ge=0, lt=1)]] = Field(
        default_factory=dict, description="modality -> share of its items to mask: an incomplete catalog"
    )
    missing_seed: int = Field(0, ge=0, description="draws the items that `missing_rate` masks")

    _rename = model_validator(mode="before")(rename_old_settings)


_DEFAULT = ReadConfig()


def load(path: str | Path, config: ReadConfig = _DEFAULT) -> Dataset:
    """Read a data set from a folder or from an interactions file.

    A folder holds `interactions.{csv,tsv,jsonl,parquet}` (ids of any kind, text also as `.gz`), `NAME.inter` (MMRec:
    tab-separated, dense integer ids) or RecBole's `NAME.inter`, `NAME.{train,valid,test}.inter` and `NAME.item`. Beside
    it may stand `*_feat.npy` (content, one row an item), `*_present.npy` (masks, see `read_features`) and an items
    table `items.{csv,tsv,jsonl,parquet}`.

    Parameters
    ----------
    path
        The folder, or the file that holds the interactions.
    config
        Names of columns, filters and modalities.

    Returns
    -------
    Dataset
        Distinct user-item pairs, ids, content as float32 [n_items, width] and times in seconds.

    Raises
    ------
    DataError
        For everything that is not as it should be; the text names file and line.
    ConfigError
        For a modality that the data do not have.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from gtcrec.data import load, write_catalog
    >>> with TemporaryDirectory() as folder:
    ...     dataset = load(write_catalog(f"{folder}/shop", n_users=30, n_items=40))
    >>> dataset.name, dataset.interactions.n_users, dataset.features.names
    ('shop', 30, ('image', 'text'))
    """
    place = Path(path)
    folder = place.parent if is_file(place) else place
    return read_unchanged(folder, lambda: _read(place, config))


def _read(path: Path, config: ReadConfig) -> Dataset:
    file = _find_interactions(path)
    sizes = _verified_sizes(file.path.parent)
    is_recbole = file.path.suffix == ".inter" and (is_atomic(file) or file.path.name.endswith(".train.inter"))
    source = read_atomic(file) if is_recbole else file
    columns = find_columns(source, lambda role: getattr(config, role), "data.{}")
    table = source if isinstance(source, Table) else source.read(columns.values())
    _refuse_repeated_header(table, columns)
    files = feature_files(file.path.parent)
    if file.path.suffix == ".inter" and not is_recbole:
        ids, metadata, notes = read_mmrec(table, columns, files, sizes)
    else:
        ids, metadata, notes = read_tabular(table, columns, files, _read_items(file.path, is_recbole))
    rows, low = drop_low_ratings(_read_rows(table, columns, ids, config), config.min_rating)
    rows, merged = merge_duplicates(rows, table.place)
    features, absent = read_features(choose_modalities(files, config.modalities), ids.feature_rows, config.memory_map)
    dataset = Dataset(
        name=_dataset_name(path),
        interactions=Interactions(rows.users, rows.items, len(ids.user_ids), len(ids.item_ids)),
        features=features,
        users=Vocabulary(ids.user_ids, "user"),
        items=Vocabulary(ids.item_ids, "item"),
        labels=rows.labels,
        times=rows.times,
        item_metadata=metadata,
        notes={**low, **merged, **notes, **absent},
    )
    dataset = keep_k_core(dataset, config.k_core) if config.k_core else dataset
    return mask_modalities(dataset, config.missing_rate, config.missing_seed)


def _dataset_name(path: Path) -> str:
    """Return the name of a folder, or of a file without its ending."""
    if path.is_file():
        path = path.with_suffix("")
        path = path.with_suffix("") if path.suffix[1:] in FORMATS else path  # packed
    return visible(path.resolve().name)  # a name may hold bytes that no file of ours can


def _find_interactions(path: Path) -> TableFile:
    try:
        path.stat()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file or folder") from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"{shortened(str(path))}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    if path.is_file():
        if path.suffix == ".inter":
            return open_table(path, separator="\t")
        if path.suffix[1:] in FORMATS or path.suffix == ".gz":
            return open_table(path)
        raise DataError(f"{path}: expected .inter, .csv, .tsv, .jsonl or .parquet, found {path.suffix!r}")
    inter, tabled = sorted(path.glob("[!.]*.inter")), find_table(path, "interactions")
    named = path / f"{path.resolve().name}.inter"
    chosen = [named] if named in inter else inter
    if tabled is not None and inter:
        raise DataError(f"{path}: found both {inter[0].name} and {tabled.name}; name the file to read")
    if parts := find_parts(inter):
        return open_table(parts, separator="\t")
    if len(chosen) > 1:
        listed = ", ".join(file.name for file in inter)
        raise DataError(f"{path}: expected one .inter file or {named.name}, found {listed}; name the file to read")
    if tabled is None and not chosen:
        raise DataError(f"{path}: found neither {named.name} nor interactions.csv, .tsv, .jsonl or .parquet")
    return open_table(tabled) if tabled else open_table(chosen[0], separator="\t")


def _verified_sizes(folder: Path) -> Mapping[str, Any]:
    """Check the sums where gtcrec wrote the folder; a `manifest.json` of other origin is none of ours.

    Return what the manifest says of an MMRec folder that we wrote: how many users and items there are. Raises
    `DataError` for a damaged file or manifest.
    """
    if not has_manifest(folder):
        return {}
    facts, path = check_manifest(folder), folder / MANIFEST
    if "gtcrec" not in facts and OWN_SUM not in facts:
        raise DataError(f"{path}: damaged or edited: the key 'gtcrec' is missing")
    about = facts.get("gtcrec")
    if not isinstance(about, dict) or about.get("format") != "mmrec":
        return {}
    for word in ("users", "items"):
        if type(about.get(word, 0)) is not int or not 0 <= about.get(word, 0) < 2**40:
            raise DataError(f"{path}: {word}: expected a whole number, found {shortened(about[word])}")
    return about


def _refuse_repeated_header(table: Table, columns: Mapping[str, str]) -> None:
    user, item = columns["user"], columns["item"]
    if not table.file.is_text or pc.index(table.columns[user], user).as_py() < 0:
        return
    again = pc.and_(pc.equal(table.columns[user], user), pc.equal(table.columns[item], item))
    row = pc.index(again, True).as_py()
    if row >= 0:
        raise DataError(f"the header stands again in {table.place(row)}; were files joined?")


def _read_items(interactions: Path, is_recbole: bool) -> Table | None:
    """Return the items table beside an interactions file, None without one."""
    if is_recbole:
        return read_item_file(interactions)
    path = find_table(interactions.parent, "items")
    return None if path is None else read_table(path)


def _read_rows(table: Table, columns: Mapping[str, str], ids: IdMap, config: ReadConfig) -> Rows:
    rating, time, label = columns["rating"], columns["time"], columns["label"]
    return Rows(
        ids.users,
        ids.items,
        np.arange(len(table), dtype=np.int32 if len(table) < 1 << 31 else np.int64),
        read_labels(table, label) if label else None,
        read_times(table, time) if time else None,
        # Ratings serve min_rating alone, so gaps matter only there.
        read_numbers(table, rating, blanks=config.min_rating is None) if rating else None,
    )
