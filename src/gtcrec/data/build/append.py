"""A day's tables, added to a data folder: its ids stay, and nothing is encoded that was encoded before.

The new folder is made beside the former one and takes its place at once, so that a reader finds one of the two.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from gtcrec.data.build.interactions import (
    INTERACTIONS,
    LEFT_OUT,
    InteractionSource,
    filter_pairs,
    read_interactions,
    write_interactions,
)
from gtcrec.data.build.items import LOST, ItemCatalog, link_image, read_item_catalog, read_items
from gtcrec.data.build.left_out import (
    ITEMS,
    StoredItems,
    left_out_writer,
    parquet_writer,
    read_stored_items,
    relative_root,
)
from gtcrec.data.build.pipeline import (
    FILES,
    BuildConfig,
    describe_sources,
    encode_missing_features,
    feature_configs,
    interaction_columns,
    item_columns,
    missing_features,
    read_report,
)
from gtcrec.data.build.report import FilterReport, describe_unused, write_report
from gtcrec.data.formats.item_metadata import is_file
from gtcrec.data.formats.tables import open_table
from gtcrec.errors import ConfigError, DataError
from gtcrec.runtime.block_jobs import Executor
from gtcrec.runtime.files import (
    MANIFEST,
    check_manifest,
    link_or_copy,
    new_folder,
    write_json,
    write_manifest,
    write_text,
)
from gtcrec.runtime.locks import hold_lock
from gtcrec.runtime.replacement import exchange_folders, restore_folder
from gtcrec.types import Masks

__all__ = ["append", "read_build_config"]


def append(
    out: str | Path,
    items: str | Path | None = None,
    interactions: str | Path | None = None,
    image_root: str | Path | None = None,
    device: str | None = None,
    executor: Executor | None = None,
    on_stage: Callable[[str], None] = lambda what: None,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Add a day's interactions and its new or changed items to a folder of `gtcrec data build`, as that was built.

    The interactions are those that a build of all tables together would have: filters see every row, those that were
    left out before too, and the split is made anew by the same rule. An item of the folder that `items` names takes
    over its row. Contents that are known are not encoded again; tags and numbers are encoded as they were fitted. The
    folder is replaced at once when all is complete; an equal call goes on with a killed one, and does nothing after it.

    Parameters
    ----------
    out : path
        The data folder.
    items, interactions : path, optional
        Tables with the columns of those that the folder was built of; at least one.
    image_root : path, optional
        Folder that image paths are relative to; that of the items table if not given.
    device : str, optional
        Of the encoders; as the folder was built if not given.
    executor : Executor, optional
        Where blocks of items are encoded; this process if None.
    on_stage, on_block : callables
        Told of each stage, and of blocks done and in all.

    Returns
    -------
    dict
        The report of the folder; `appended` counts what came in.

    Raises
    ------
    DataError
        For tables that are not as they should be, and a folder that cannot be appended to.
    """
    place = Path(out).resolve()
    tables = {"items": items, "interactions": interactions}
    paths = {name: Path(path) for name, path in tables.items() if path is not None}
    if not paths:
        raise ConfigError("expected a table of items, of interactions, or both, found none")
    with hold_lock(place):
        restore_folder(place)
        facts, config = _read_base(place)
        config = config.model_copy(update={"device": device}) if device else config
        day, fresh = describe_sources(paths), place.with_name(f".{place.name}.next")
        if facts.get("appended", [])[-1:] == [day]:
            on_stage(f"{out}: these tables were appended already")
            shutil.rmtree(fresh, ignore_errors=True)  # what a kill behind the exchange left
            return read_report(place)
        about = {**facts, "appended": [*facts.get("appended", []), day], "version": version("gtcrec")}
        if _manifest_facts(fresh) != about:
            shutil.rmtree(fresh, ignore_errors=True)
            root = Path(image_root) if image_root is not None else paths.get("items", place).parent
            _append_tables(place, fresh, config, paths, root, about, on_stage)
        try:
            encode_missing_features(fresh, feature_configs(config), executor, on_stage, on_block, former=place)
        except (ConfigError, DataError):  # an equal call could but fail again
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        exchange_folders(fresh, place)
    return read_report(place)


def read_build_config(folder: Path) -> BuildConfig:
    """Return how a folder was built. Raises `DataError` for what is no folder of `gtcrec data build`."""
    facts = _manifest_facts(folder)
    try:
        return BuildConfig.model_validate(facts["build"])
    except (KeyError, TypeError, ValidationError) as error:
        raise DataError(f"{folder}: expected a folder of `gtcrec data build`, found another or none") from error


def _manifest_facts(folder: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["gtcrec"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return facts


def _read_base(folder: Path) -> tuple[dict[str, Any], BuildConfig]:
    """Return what the folder's manifest says, all files verified, and how it was built."""
    config = read_build_config(folder)
    manifest = check_manifest(folder)
    if LEFT_OUT not in manifest["files"]:
        raise DataError(
            f"{folder}: built by an earlier version, which kept nothing of what filters left out; build it anew once"
        )
    if missing := missing_features(folder, feature_configs(config)):
        raise DataError(f"{folder}: its {missing[0]} is not encoded yet; the build's command goes on with it")
    facts: dict[str, Any] = manifest["gtcrec"]
    return facts, config


def _append_tables(
    place: Path, fresh: Path, config: BuildConfig, paths: Mapping[str, Path], root: Path, about: Mapping[str, Any],
    on_stage: Callable[[str], None],
) -> None:  # fmt: skip
    """Write the folder `fresh`, but its content, of the tables of `place` and of a day's."""
    dropped, unused, before = FilterReport(), dict[str, list[str]](), read_report(place)["kept"]
    catalog, n_anew = read_stored_items(place), 0
    is_new = np.zeros(len(catalog.items), dtype=np.bool_)
    if "items" in paths:
        on_stage(f"reading {paths['items']}")
        n_before = len(catalog.items)
        new, unused["items"] = _read_day_items(paths["items"], config, catalog.items.schema, dropped)
        catalog, is_new = catalog.updated(new, relative_root(root, place))
        n_anew = n_before + len(new) - len(catalog.items)
    sources = _stored_interactions(place)
    if "interactions" in paths:
        sources.append(_day_interactions(paths["interactions"], config, sources[0].columns))
        unused["interactions"] = describe_unused(sources[-1].file, sources[-1].columns.values())
    on_stage(f"{len(catalog.items):,} items; reading {sources[-1].file.path}")
    known = ItemCatalog(catalog.items["item_id"].combine_chunks(), np.ones(len(catalog.items), dtype=np.bool_))
    encoded = read_interactions(sources, known.ids, config.min_rating, dropped)
    pairs = filter_pairs(encoded, known, sources[-1].file.path, config.core, config.split, dropped)
    kept = pairs.counts()
    on_stage(f"{kept['interactions']:,} interactions kept, {before['interactions']:,} before; writing")
    with new_folder(fresh) as folder:
        write_interactions(pairs, folder)
        _write_items(catalog, is_new, pairs.chosen, place, folder, dropped)
        appended = {f"{name} that came in": kept[name] - before[name] for name in ("interactions", "users", "items")}
        report = {
            "read": {"interactions": encoded.n_read, "items": len(catalog.items)},
            "kept": kept,
            "appended": {**appended, "items of the folder that were given anew": n_anew},
            "dropped": dropped.facts(),
            "unused": unused,
        }
        write_json(folder / "report.json", report)
        write_text(folder / "report.md", write_report(report))
        write_manifest(folder, FILES, {"gtcrec": dict(about)})
        os.sync()  # images are copied without a sync each where the disk has no second names


def _read_day_items(
    path: Path, config: BuildConfig, schema: pa.Schema, dropped: FilterReport
) -> tuple[pa.Table, list[str]]:
    """Return the items of a table with the columns of the folder, and which of its columns have no use."""
    file = open_table(path, config.encoding)
    columns = item_columns(file, config)
    found = read_items(file, columns, read_item_catalog(file, columns.item, config.duplicates, dropped), dropped)
    for name in schema.names:
        if name not in found.column_names:
            raise DataError(f"{path}: no column {name!r}, which the items of the folder have")
    return found, describe_unused(file, columns.read())


def _stored_interactions(folder: Path) -> list[InteractionSource]:
    """Return the interactions of a folder and those that it left out."""
    kept, left_out = (open_table(folder / name) for name in (INTERACTIONS, LEFT_OUT))
    names = {"user": "user_id", "item": "item_id", "rating": "rating", "time": "timestamp", "label": "x_label"}
    columns = {role: name if name in left_out.names else "" for role, name in names.items()}
    return [InteractionSource(kept, columns), InteractionSource(left_out, columns)]


def _day_interactions(path: Path, config: BuildConfig, stored: Mapping[str, str]) -> InteractionSource:
    """Return a day's interactions by the columns that those of the folder have."""
    file = open_table(path, config.encoding)
    found = interaction_columns(file, config)
    for role, name in stored.items():
        if name and not found[role]:
            raise DataError(f"{path}: no {role} column, which the interactions of the folder have")
    return InteractionSource(file, {role: found[role] if name else "" for role, name in stored.items()})


def _write_items(
    catalog: StoredItems, is_new: Masks, chosen: Masks, place: Path, folder: Path, dropped: FilterReport
) -> None:
    """Write the chosen items, with images, and the others apart. `place` is the former folder.

    Images of new rows come first: a path names one image, and a new file of that path is the image of all who name it.
    """
    items = catalog.items
    if "image" in items.column_names:
        paths = items["image"].to_pylist()
        for row in [*np.flatnonzero(chosen & is_new).tolist(), *np.flatnonzero(chosen & ~is_new).tolist()]:
            if paths[row]:
                paths[row] = _place_image(catalog, row, paths[row], place, folder)
        lost = np.array([path is None for path in paths], dtype=np.bool_)
        dropped.drop_invalid("items", LOST, chosen, lost, lambda row: f"item {items['item_id'][row].as_py()!r}")
        column = pa.array([path or "" for path in paths], pa.string())
        items = items.set_column(items.column_names.index("image"), "image", column)
    with parquet_writer(folder / ITEMS, items.schema) as write:
        write(items.filter(pa.array(chosen)))
    with left_out_writer(folder, place, items.schema) as write_left_out:
        roots = [catalog.image_roots[row] for row in np.flatnonzero(~chosen).tolist()]
        write_left_out(items.filter(pa.array(~chosen)), np.cumsum(chosen)[~chosen], roots)


def _place_image(catalog: StoredItems, row: int, path: str, place: Path, folder: Path) -> str | None:
    """Put an item's image into the folder and return its path there, None where there is no such file."""
    root = catalog.image_roots[row]
    if root is not None:
        return link_image(
            lambda row: f"item {catalog.items['item_id'][row].as_py()!r}", place / root, folder, row, path
        )
    if not is_file(place / path):
        return None
    if not (folder / path).exists():
        link_or_copy(place / path, folder / path)
    return path
