"""Reading a catalogue from its files: an MMRec folder, or interactions in a table with ids of any kind."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from gtcrec.data.core import core_pairs
from gtcrec.data.filters import Rows, drop_low_ratings, merge_duplicates
from gtcrec.data.formats.columns import find_column, read_dense, read_labels, read_numbers
from gtcrec.data.formats.ids import name_ids, read_external, refuse_twice
from gtcrec.data.formats.item_metadata import read_cards
from gtcrec.data.formats.npy import choose_modalities, count_rows, feature_files, read_features
from gtcrec.data.formats.recbole import find_parts, is_atomic, read_atomic, read_item_file
from gtcrec.data.formats.tables import FORMATS, Table, find_table, read_table
from gtcrec.data.hide import hide
from gtcrec.errors import DataError
from gtcrec.runtime.files import MANIFEST, check_manifest
from gtcrec.types import Dataset, Interactions, Ints, ItemFeatures, ItemMetadata, Vocabulary

__all__ = ["ReadConfig", "load"]


class ReadConfig(BaseModel):
    """How to read a catalogue.

    `user`, `item`, `rating`, `time`, `label` are column names; None finds them among `columns.KNOWN`.
    Rows rated below `min_rating` are dropped. `k_core` keeps users and items that have at least k
    interactions with each other. `modalities` are the contents to read; None means all that are there.
    `memory_map` leaves content on disk, for catalogues that memory does not hold. `hidden` is the share of
    a modality's content to hide, by name, drawn from `hidden_seed` after all else: an incomplete catalogue.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str | None = None
    item: str | None = None
    rating: str | None = None
    time: str | None = None
    label: str | None = None
    min_rating: float | None = None
    k_core: Annotated[int, Field(ge=0)] = 0
    modalities: tuple[str, ...] | None = None
    memory_map: bool = False
    hidden: Mapping[str, Annotated[float, Field(ge=0, lt=1)]] = Field(default_factory=dict)
    hidden_seed: Annotated[int, Field(ge=0)] = 0


_DEFAULT = ReadConfig()


def load(path: str | Path, config: ReadConfig = _DEFAULT) -> Dataset:
    """Read a catalogue.

    `path` is a folder that holds `NAME.inter` (MMRec: tab-separated, dense integer ids) or
    `interactions.{csv,tsv,jsonl,parquet}` (ids of any kind), or such a file. Beside it may stand
    `*_feat.npy` (content, one row an item), `*_present.npy` (masks, see `read_features`) and
    `items.{csv,tsv,jsonl,parquet}`. RecBole's `NAME.inter` or `NAME.{train,valid,test}.inter` with `NAME.item` is known
    by its header. Raises `DataError` for everything that is not as it should be.
    """
    source = _find_source(Path(path))
    made = _verify(source.parent)
    table = read_table(source)
    atomic = source.suffix == ".inter" and (is_atomic(table) or source.name.endswith(".train.inter"))
    if atomic:
        table = read_atomic(table)
    columns = {role: find_column(table, role, getattr(config, role), role in ("user", "item")) for role in _ROLES}
    _refuse_repeated_header(table, columns)
    files = feature_files(source.parent)
    if source.suffix == ".inter" and not atomic:
        catalogue = _read_dense(table, columns, files, made)
    else:
        catalogue = _read_external(table, columns, files, _described(table, atomic))
    rows, low = drop_low_ratings(_rows(table, columns, catalogue, config), config.min_rating)
    rows, merged = merge_duplicates(rows, table.place)
    features, absent = read_features(choose_modalities(files, config.modalities), catalogue.order, config.memory_map)
    dataset = Dataset(
        name=(Path(path) if Path(path).is_dir() else Path(path).with_suffix("")).resolve().name,
        interactions=Interactions(rows.users, rows.items, len(catalogue.user_ids), len(catalogue.item_ids)),
        features=features,
        users=Vocabulary(catalogue.user_ids, "user"),
        items=Vocabulary(catalogue.item_ids, "item"),
        labels=rows.labels,
        times=rows.times,
        item_metadata=catalogue.item_metadata,
        notes={**low, **merged, **catalogue.notes, **absent},
    )
    dataset = _keep_core(dataset, config.k_core) if config.k_core else dataset
    return hide(dataset, config.hidden, config.hidden_seed)


_ROLES = ("user", "item", "rating", "time", "label")


def _find_source(path: Path) -> Path:
    if path.is_file():
        if path.suffix not in (".inter", *(f".{end}" for end in FORMATS)):
            raise DataError(f"{path}: wanted .inter, .csv, .tsv, .jsonl or .parquet, found {path.suffix!r}")
        return path
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    inter, tabled = sorted(path.glob("*.inter")), find_table(path, "interactions")
    named = path / f"{path.resolve().name}.inter"
    chosen = [named] if named in inter else inter
    if tabled is not None and inter:
        raise DataError(f"{path}: found both {inter[0].name} and {tabled.name}; name the file to read")
    if parts := find_parts(inter):
        return parts
    if len(chosen) > 1:
        listed = ", ".join(file.name for file in inter)
        raise DataError(f"{path}: wanted one .inter file or {named.name}, found {listed}; name the file to read")
    if tabled is None and not chosen:
        raise DataError(f"{path}: found neither {named.name} nor interactions.csv, .tsv, .jsonl or .parquet")
    return tabled or chosen[0]


def _verify(folder: Path) -> Mapping[str, Any]:
    """Check the sums where gtcrec wrote the folder; a `manifest.json` of other origin is none of ours.

    Return what the manifest says of an MMRec folder that we wrote: how many users and items there are.
    """
    manifest = folder / MANIFEST
    if not (manifest.is_file() and b'"gtcrec"' in manifest.read_bytes()):
        return {}
    about = check_manifest(folder).get("gtcrec")
    return about if isinstance(about, dict) and about.get("format") == "mmrec" else {}


def _refuse_repeated_header(table: Table, columns: Mapping[str, str]) -> None:
    if not table.is_text:
        return
    user, item = columns["user"], columns["item"]
    again = pc.and_(pc.equal(table.columns[user], user), pc.equal(table.columns[item], item))
    row = pc.index(again, True).as_py()
    if row >= 0:
        raise DataError(f"the header stands again in {table.place(row)}; were files joined?")


@dataclass(frozen=True, eq=False)
class _Catalogue:
    """Who and what there is: ids by index, indices by row; item i has row `order[i]` of the features."""

    users: Ints
    items: Ints
    user_ids: NDArray[Any]
    item_ids: NDArray[Any]
    order: Ints
    item_metadata: ItemMetadata | None
    notes: Mapping[str, int]


def _rows(table: Table, columns: Mapping[str, str], catalogue: _Catalogue, config: ReadConfig) -> Rows:
    rating, time, label = columns["rating"], columns["time"], columns["label"]
    return Rows(
        catalogue.users,
        catalogue.items,
        np.arange(len(table)),
        read_labels(table, label) if label else None,
        read_numbers(table, time) if time else None,
        # Ratings serve min_rating alone, so gaps matter only there.
        read_numbers(table, rating, blanks=config.min_rating is None) if rating else None,
    )


def _read_dense(
    table: Table, columns: Mapping[str, str], files: Mapping[str, Path], made: Mapping[str, Any]
) -> _Catalogue:
    users, items = read_dense(table, columns["user"]), read_dense(table, columns["item"])
    n_rows = count_rows(files)
    beyond = np.flatnonzero(items >= n_rows)
    if files and len(beyond):
        row = int(beyond[0])
        raise DataError(
            f"item {items[row]} ({table.place(row)}) lies beyond {next(iter(files.values())).name}, "
            f"which has {n_rows} rows (items 0 to {n_rows - 1})"
        )
    n_users = max(int(users.max()) + 1, made.get("users", 0))
    n_items = max(int(items.max()) + 1, n_rows, made.get("items", 0))
    folder, item_metadata = table.path.parent, None
    notes: dict[str, int] = {}
    user_ids, extra_users = name_ids(folder / "u_id_mapping.csv", columns["user"], n_users)
    item_ids, extra_items = name_ids(folder / "i_id_mapping.csv", columns["item"], n_items)
    found = find_table(folder, "items")
    if found is not None:
        described = read_table(found)
        key = columns["item"] if columns["item"] in described.names else find_column(described, "item", None, True)
        index = read_dense(described, key)
        refuse_twice(described, key, index)
        outside = int((index >= n_items).sum())
        item_metadata, notes = read_cards(described, np.where(index < n_items, index, -1), n_items)
        notes |= {f"rows of {found.name} outside the catalogue": outside} if outside else {}
    return _Catalogue(
        users, items, user_ids, item_ids, np.arange(n_items), item_metadata, {**extra_users, **extra_items, **notes}
    )


def _described(table: Table, atomic: bool) -> Table | None:
    if atomic:
        return read_item_file(table.path)
    found = find_table(table.path.parent, "items")
    return None if found is None else read_table(found)


def _read_external(
    table: Table, columns: Mapping[str, str], files: Mapping[str, Path], described: Table | None
) -> _Catalogue:
    ids = read_external(table, columns["user"], columns["item"], described)
    n_rows, n_wanted = count_rows(files), len(ids.order)
    if files and n_rows != n_wanted:
        source = f"rows in {described.path.name}" if described else f"distinct items in {table.path.name}"
        raise DataError(f"{next(iter(files.values()))} has {n_rows} rows, wanted {n_wanted}, the number of {source}")
    item_metadata, notes = (None, {}) if described is None else read_cards(described, np.argsort(ids.order), n_wanted)
    return _Catalogue(ids.users, ids.items, ids.user_ids, ids.item_ids, ids.order, item_metadata, notes)


def _keep_core(dataset: Dataset, k: int) -> Dataset:
    pairs = dataset.interactions
    keep = core_pairs(pairs.users, pairs.items, pairs.n_users, pairs.n_items, k)
    if not keep.any():
        raise DataError(f"data.k_core {k} leaves no interaction of {len(pairs)}; choose a smaller one")
    users, new_users = np.unique(pairs.users[keep], return_inverse=True)
    items, new_items = np.unique(pairs.items[keep], return_inverse=True)
    item_metadata, features = dataset.item_metadata, dataset.features
    fell = {
        f"{k}-core: interactions dropped": int((~keep).sum()),
        f"{k}-core: users dropped": pairs.n_users - len(users),
        f"{k}-core: items dropped": pairs.n_items - len(items),
    }
    return replace(
        dataset,
        interactions=Interactions(new_users, new_items, len(users), len(items)),
        features=ItemFeatures(
            len(items),
            {name: x[items] for name, x in features.values.items()},
            {name: mask[items] for name, mask in features.present.items()},
        ),
        users=Vocabulary(dataset.users.ids[users], "user"),
        items=Vocabulary(dataset.items.ids[items], "item"),
        labels=None if dataset.labels is None else dataset.labels[keep],
        times=None if dataset.times is None else dataset.times[keep],
        item_metadata=None
        if item_metadata is None
        else ItemMetadata(tuple(item_metadata.titles[i] for i in items), tuple(item_metadata.images[i] for i in items)),
        notes={**dataset.notes, **{what: count for what, count in fell.items() if count}},
    )
