"""From raw tables to a data folder: filters, k-core, split, the items' content, and a report of what was left out."""

import codecs
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gtcrec.data.build.fill import fill, missing
from gtcrec.data.build.gather import gather
from gtcrec.data.build.interactions import filter_pairs, write_interactions
from gtcrec.data.build.items import ItemColumns, read_catalogue, write_items
from gtcrec.data.build.report import Drops, write_report
from gtcrec.data.features.extract import EncodeConfig
from gtcrec.data.features.provenance import Encoded
from gtcrec.data.formats.columns import find_column
from gtcrec.data.formats.streaming import Source, open_source
from gtcrec.data.splits import SplitConfig
from gtcrec.errors import DataError, nearest
from gtcrec.runtime.block_jobs import Executor
from gtcrec.runtime.files import MANIFEST, sha256, write_json, write_manifest, write_text
from gtcrec.runtime.folder import new_folder

__all__ = ["BuildConfig", "build"]

_FILES = ["interactions.parquet", "items.parquet", "report.json", "report.md"]
_ROLES = ("user", "item", "rating", "time", "label")


class BuildConfig(BaseModel):
    """What is built of which columns.

    `user`, `item`, `rating`, `time`, `label` and `items_item` (the item in the items table) are column names; None
    finds them among `columns.KNOWN`. `text`, `image`, `tags`, `category` and `numbers` become content: a matrix each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str | None = None
    item: str | None = None
    items_item: str | None = None
    rating: str | None = None
    time: str | None = None
    label: str | None = None
    title: str | None = Field(None, description="a column for people to look at; `title` if there is one")
    text: tuple[str, ...] = ()
    image: str | None = Field(None, description="a column of paths, or a pattern such as images/{item_id}.jpg")
    tags: tuple[str, ...] = ()
    tag_separator: Annotated[str, Field(min_length=1, description="between the tags of a cell")] = "|"
    category: tuple[str, ...] = Field((), description="columns with one word or phrase a cell")
    numbers: tuple[str, ...] = ()
    keep: tuple[str, ...] = Field((), description="other columns that the items keep as text")
    text_encoder: str = Field("", description="a folder or a name on the hub; all-MiniLM-L6-v2 if not given")
    image_encoder: str = Field("", description="a folder or a name on the hub; colours and layout if not given")
    device: str = Field("cpu", description="of the encoders")
    min_rating: float | None = Field(None, description="rows rated lower are no interaction")
    core: Annotated[int, Field(ge=0, description="interactions that each user and item must have; 0: any")] = 5
    duplicates: Literal["refuse", "first"] = Field("refuse", description="of an item's id in the items table")
    split: SplitConfig = SplitConfig()
    encoding: str = Field("utf-8", description="of text files")

    @field_validator("encoding")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            codecs.lookup(name)
        except LookupError as error:
            raise ValueError(f"unknown encoding {name!r}, wanted one such as utf-8, latin-1, cp1252, utf-16") from error
        return name

    @field_validator("image")
    @classmethod
    def _pattern(cls, image: str | None) -> str | None:
        for _, name, how, conversion in Formatter().parse(image or ""):
            if name is not None and (not name or how or conversion):
                raise ValueError(f"wanted columns' names between the braces, found {image!r}")
        return image


_DEFAULT = BuildConfig()


def build(
    items: str | Path,
    interactions: str | Path,
    out: str | Path,
    config: BuildConfig = _DEFAULT,
    image_root: str | Path | None = None,
    executor: Executor | None = None,
    on_stage: Callable[[str], None] = lambda what: None,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Build a data folder of an items table and an interactions table (.csv, .tsv, .jsonl, .parquet; text also .gz).

    It appears when its tables are complete: `interactions.parquet` (`user_id`, `item_id`, `rating`, `timestamp`,
    `x_label`), `items.parquet`, `images/`, `report.json`, `report.md`, `manifest.json`. Then the content is added, a
    `*_feat.npy` at a time; an equal call goes on with a killed one. Image paths are relative to `image_root`, the
    items table's folder if not given. Return the report. Raises `DataError` for input that is not as it should be and
    a folder in use.
    """
    items, interactions, out = Path(items), Path(interactions), Path(out)
    described, acted = open_source(items, config.encoding), open_source(interactions, config.encoding)
    columns, item_columns = _columns(acted, config), _item_columns(described, config)
    about, wanted = _about(items, interactions, config), _matrices(config)
    if _is_begun(out, about, wanted):
        on_stage(f"{out}: the tables are there")
    else:
        root = items.parent if image_root is None else Path(image_root)
        _build_tables(_Task(described, acted, columns, item_columns, root, out, config, about), on_stage)
    fill(out, wanted, executor, lambda name, found: on_stage(_said(name, found)), on_block)
    report: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return report


@dataclass(frozen=True)
class _Task:
    """What the tables of a folder are built of."""

    items: Source
    interactions: Source
    columns: Mapping[str, str]
    item_columns: ItemColumns
    image_root: Path
    out: Path
    config: BuildConfig
    about: Mapping[str, Any]


def _build_tables(task: _Task, on_stage: Callable[[str], None]) -> None:
    drops, config = Drops(), task.config
    on_stage(f"reading {task.items.path}")
    catalogue = read_catalogue(task.items, task.item_columns.item, config.duplicates, drops)
    on_stage(f"{len(catalogue.ids):,} items; reading {task.interactions.path}")
    found = gather(task.interactions, task.columns, catalogue.ids, config.min_rating, drops)
    read = {"interactions": found.n_read, "items": len(catalogue.chosen)}
    on_stage(f"{found.n_read:,} interactions; filtering")
    pairs = filter_pairs(found, catalogue, task.interactions, config.core, config.split, drops)
    del found
    on_stage(f"{len(pairs.rows):,} interactions kept; writing")
    with new_folder(task.out) as folder:
        write_interactions(pairs, folder)
        joins = {**dict.fromkeys(config.text, " "), **dict.fromkeys(config.tags, config.tag_separator)}
        write_items(task.items, task.item_columns, pairs.chosen, task.image_root, folder, joins, drops)
        report = {"read": read, "kept": pairs.counts(), "dropped": drops.facts()}
        write_json(folder / "report.json", report)
        write_text(folder / "report.md", write_report(report))
        write_manifest(folder, _FILES, {"gtcrec": task.about})
        os.sync()  # images are copied without a sync each


def _columns(source: Source, config: BuildConfig) -> dict[str, str]:
    """Return the interactions' column names by role, "" for none."""
    found = {
        role: find_column(source.head, role, getattr(config, role), role in ("user", "item"), f"--{role}-col")
        for role in _ROLES
    }
    if config.min_rating is not None and not found["rating"]:
        raise DataError(f"{source.path}: --min-rating needs a rating column, found none; set --rating-col")
    return found


def _item_columns(source: Source, config: BuildConfig) -> ItemColumns:
    given = config.items_item or (config.item if config.item in source.names else None)
    columns = ItemColumns(
        find_column(source.head, "item", given, True, "--items-item-col"),
        config.title or ("title" if "title" in source.names else ""),
        config.text,
        config.image or "",
        config.numbers,
        (*config.tags, *config.category, *config.keep),
    )
    for name in columns.read():
        if name not in source.names:
            listed = ", ".join(map(repr, source.names))
            raise DataError(f"{source.path}: no column {name!r}, found {listed}{nearest(name, source.names)}")
    return columns


def _matrices(config: BuildConfig) -> dict[str, EncodeConfig]:
    """Return what is encoded of the items, by the matrix's name."""
    device = config.device
    kinds = {
        "text": EncodeConfig(text=config.text, encoder=config.text_encoder, device=device),
        "image": EncodeConfig(image="image" if config.image else None, encoder=config.image_encoder, device=device),
        "tags": EncodeConfig(tags=config.tags, separator=config.tag_separator),
        "category": EncodeConfig(tags=config.category, separator="\0"),  # which no cell holds: it is one tag
        "numbers": EncodeConfig(numbers=config.numbers),
    }
    return {name: one for name, one in kinds.items() if getattr(config, name)}


def _said(name: str, found: Encoded | None) -> str:
    if found is None:
        return f"encoding {name}"
    lost = f"; {len(found.failures):,} could not be read, see {name}_feat.json" if found.failures else ""
    return f"{found.present:,} of {found.rows:,} items have {name}, {found.width} numbers each{lost}"


def _about(items: Path, interactions: Path, config: BuildConfig) -> dict[str, Any]:
    sources = {"items": items, "interactions": interactions}
    return {
        "build": config.model_dump(mode="json"),
        "sources": {word: {"name": path.name, "sha256": sha256(path)} for word, path in sources.items()},
        "version": version("gtcrec"),
    }


def _is_begun(out: Path, about: Mapping[str, Any], wanted: Mapping[str, EncodeConfig]) -> bool:
    """Whether `out` holds the tables of an equal call, but not all of its content; raises `DataError` if in use."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        made_of = json.loads((out / MANIFEST).read_text(encoding="utf-8"))["gtcrec"]
    except (OSError, ValueError, KeyError, TypeError):
        made_of = None
    if made_of != about:
        raise DataError(f"{out}: wanted a new or empty folder, found one in use, not built like this of these tables")
    if not missing(out, wanted):
        raise DataError(f"{out}: is there already, built like this of these tables")
    return True
