"""From raw tables to a data folder: filters, k-core, split, the items' content, and a report of what was left out."""

import codecs
import json
import os
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gtcrec.data.build.interactions import (
    INTERACTIONS,
    LEFT_OUT,
    InteractionSource,
    filter_pairs,
    read_interactions,
    write_interactions,
)
from gtcrec.data.build.items import ItemColumns, read_item_catalog, write_items
from gtcrec.data.build.left_out import ITEMS, LEFT_OUT_ITEMS
from gtcrec.data.build.report import FilterReport, describe_unused, write_report
from gtcrec.data.features.extract import EncodeConfig, encode
from gtcrec.data.features.fitted import read_encoders
from gtcrec.data.features.provenance import encoder_path
from gtcrec.data.formats.columns import find_columns, find_item_column, require_columns
from gtcrec.data.formats.tables import TableFile, open_table
from gtcrec.data.splits import SplitConfig
from gtcrec.errors import ConfigError, DataError, visible
from gtcrec.runtime.block_jobs import Executor
from gtcrec.runtime.files import (
    MANIFEST,
    check_manifest,
    is_empty,
    new_folder,
    require_empty,
    sha256,
    write_json,
    write_manifest,
    write_text,
)
from gtcrec.runtime.locks import hold_lock

__all__ = [
    "FILES",
    "BuildConfig",
    "build",
    "describe_sources",
    "encode_missing_features",
    "feature_configs",
    "interaction_columns",
    "is_begun",
    "item_columns",
    "missing_features",
    "read_report",
]

FILES = [INTERACTIONS, ITEMS, LEFT_OUT, LEFT_OUT_ITEMS, "report.json", "report.md"]


class BuildConfig(BaseModel):
    """What is built of which columns.

    `user`, `item`, `rating`, `time`, `label` and `items_item` (the item in the items table) are column names; None
    finds them among `columns.KNOWN`. `text`, `image`, `tags`, `category` and `numbers` become content: a matrix each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str | None = Field(None, description="column of users; this and the next are found by their usual names")
    item: str | None = Field(None, description="column of items in the interactions table")
    items_item: str | None = Field(None, description="column of items in the items table; as `item` if not given")
    rating: str | None = Field(None, description="column of ratings")
    time: str | None = Field(None, description="column of times")
    label: str | None = Field(None, description="column of the part of a row: 0 training, 1 validation, 2 test")
    title: str | None = Field(None, description="a column for people to look at; `title` if there is one")
    text: tuple[str, ...] = Field((), description="columns of text, encoded together")
    image: str | None = Field(None, description="a column of paths, or a pattern such as images/{item_id}.jpg")
    tags: tuple[str, ...] = Field((), description="columns with several tags a cell")
    tag_separator: Annotated[str, Field(min_length=1, description="between the tags of a cell")] = "|"
    category: tuple[str, ...] = Field((), description="columns with one word or phrase a cell")
    numbers: tuple[str, ...] = Field((), description="columns of numbers")
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
    def _check_encoding(cls, name: str) -> str:
        try:
            codecs.lookup(name)
        except LookupError as error:
            raise ValueError(
                f"unknown encoding {name!r}, expected one such as utf-8, latin-1, cp1252, utf-16"
            ) from error
        return name

    @field_validator("image")
    @classmethod
    def _check_image_pattern(cls, image: str | None) -> str | None:
        for _, name, how, conversion in Formatter().parse(image or ""):
            if name is not None and (not name or how or conversion):
                raise ValueError(f"expected columns' names between the braces, found {image!r}")
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
    `*_feat.npy` at a time; an equal call goes on with a killed one. Input that is refused leaves no folder. Image paths
    are relative to `image_root`, the items table's folder if not given. Return the report. Raises `DataError` for input
    that is not as it should be and a folder in use.
    """
    items, interactions, out = Path(items), Path(interactions), Path(out)
    item_file, interaction_file = open_table(items, config.encoding), open_table(interactions, config.encoding)
    about, matrices = _build_facts(items, interactions, config), feature_configs(config)
    with hold_lock(out):
        if is_begun(out, about, matrices):
            on_stage(f"{out}: the tables are there")
        else:
            root = items.parent if image_root is None else Path(image_root)
            _build_tables(item_file, interaction_file, root, out, config, about, on_stage)
        try:
            encode_missing_features(out, matrices, executor, on_stage, on_block)
        except (ConfigError, DataError):  # an equal call could but fail again, and this folder would refuse another
            shutil.rmtree(out)
            raise
    return read_report(out)


def read_report(folder: Path) -> dict[str, Any]:
    """Return the report of a built folder."""
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report


def encode_missing_features(
    folder: Path,
    matrices: Mapping[str, EncodeConfig],
    executor: Executor | None,
    on_stage: Callable[[str], None],
    on_block: Callable[[int, int], None],
    former: Path | None = None,
) -> None:
    """Encode the columns of `items.parquet` that a config names into `NAME_feat.npy`, those that are not there yet.

    The manifest is renewed after each, so that a kill costs a batch. With a former folder its encoders are used again,
    and its rows for equal contents. Raises what `encode` raises.
    """
    for name in missing_features(folder, matrices):
        on_stage(f"encoding {name}")
        out, config, known = folder / _feature_file(name), matrices[name], dict[str, Any]()
        if former:
            known["fitted"] = read_encoders(encoder_path(former / out.name))[0][name]
            known["reuse"] = None if config.kind in ("tags", "numbers") else former / out.name
        encoded = encode(folder / ITEMS, out, config, executor=executor, on_block=on_block, **known)
        facts = check_manifest(folder)
        made = [one.name for one in folder.glob(f"{out.stem}.*") if one.is_file()]
        write_manifest(folder, [*facts.pop("files"), *made], facts)
        failed = len(encoded.failures)
        lost = f"; {failed:,} could not be read, see {name}_feat.json" if failed else ""
        again = f" ({encoded.reused:,} as before)" if encoded.reused else ""
        on_stage(
            f"{encoded.present:,} of {encoded.rows:,} items have {name}, {encoded.width} numbers each{again}{lost}"
        )


def missing_features(folder: Path, matrices: Mapping[str, EncodeConfig]) -> list[str]:
    """Return which matrices the folder's manifest does not name; raises `DataError` for damage."""
    files = check_manifest(folder)["files"]
    return [name for name in matrices if _feature_file(name) not in files]


def _feature_file(name: str) -> str:
    return f"{name}_feat.npy"


def _build_tables(
    item_file: TableFile, interaction_file: TableFile, image_root: Path, out: Path, config: BuildConfig,
    facts: Mapping[str, Any], on_stage: Callable[[str], None],
) -> None:  # fmt: skip
    columns, of_items = interaction_columns(interaction_file, config), item_columns(item_file, config)
    dropped = FilterReport()
    on_stage(f"reading {item_file.path}")
    catalog = read_item_catalog(item_file, of_items.item, config.duplicates, dropped)
    on_stage(f"{len(catalog.ids):,} items; reading {interaction_file.path}")
    source = InteractionSource(interaction_file, columns)
    encoded = read_interactions([source], catalog.ids, config.min_rating, dropped)
    read = {"interactions": encoded.n_read, "items": len(catalog.chosen)}
    on_stage(f"{encoded.n_read:,} interactions; filtering")
    pairs = filter_pairs(encoded, catalog, interaction_file.path, config.core, config.split, dropped)
    del encoded
    on_stage(f"{len(pairs.rows):,} interactions kept; writing")
    with new_folder(out) as folder:
        write_interactions(pairs, folder)
        contents = {kind: getattr(config, kind) for kind in ("text", "tags", "category", "numbers")}
        write_items(item_file, of_items, catalog, pairs.chosen, image_root, out, folder, dropped, contents)
        unused = {
            "interactions": describe_unused(interaction_file, columns.values(), "" if columns["time"] else "time"),
            "items": describe_unused(item_file, of_items.read()),
        }
        report = {"read": read, "kept": pairs.counts(), "dropped": dropped.facts(), "unused": unused}
        write_json(folder / "report.json", report)
        write_text(folder / "report.md", write_report(report))
        write_manifest(folder, FILES, {"gtcrec": facts})
        os.sync()  # images are copied without a sync each


def interaction_columns(source: TableFile, config: BuildConfig) -> dict[str, str]:
    """Return the interactions' column names by role, "" for none."""
    found = find_columns(source, lambda role: getattr(config, role), "--{}-col")
    if config.min_rating is not None and not found["rating"]:
        raise DataError(f"{source.path}: --min-rating needs a rating column, found none; set --rating-col")
    return found


def item_columns(source: TableFile, config: BuildConfig) -> ItemColumns:
    columns = ItemColumns(
        find_item_column(source, config.item, config.items_item, "--items-item-col"),
        config.title or ("title" if "title" in source.names else ""),
        config.text,
        config.image or "",
        config.numbers,
        (*config.tags, *config.category, *config.keep),
        {**dict.fromkeys(config.text, " "), **dict.fromkeys(config.tags, config.tag_separator)},
    )
    require_columns(source, columns.read())
    return columns


def feature_configs(config: BuildConfig) -> dict[str, EncodeConfig]:
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


def _build_facts(items: Path, interactions: Path, config: BuildConfig) -> dict[str, Any]:
    sources = describe_sources({"items": items, "interactions": interactions})
    return {"build": config.model_dump(mode="json"), "sources": sources, "version": version("gtcrec")}


def describe_sources(paths: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """Return the name and the sum of each table."""
    return {word: {"name": visible(path.name), "sha256": sha256(path)} for word, path in paths.items()}


def is_begun(out: Path, about: Mapping[str, Any], matrices: Mapping[str, EncodeConfig]) -> bool:
    """Whether `out` holds the tables of an equal call, but not all of its content; raises `DataError` if in use."""
    if is_empty(out):
        return False
    try:
        made_of = json.loads((out / MANIFEST).read_text(encoding="utf-8"))["gtcrec"]
    except (OSError, ValueError, KeyError, TypeError):
        made_of = None
    if made_of != about:
        require_empty(out, DataError, ", not built like this of these tables")
    if not missing_features(out, matrices):
        raise DataError(f"{out}: is there already, built like this of these tables")
    return True
