"""Content matrices from an items table: its texts or images, encoded row by row in the table's order."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from gtcrec.blocks import Executor, Results, Stage, in_blocks
from gtcrec.data.cards import image_path
from gtcrec.data.columns import find_column, read_dense, read_ids, read_texts
from gtcrec.data.encoders import TEXT_ENCODER, Encoder, encoder_files, find_encoder, image_encoder, text_encoder
from gtcrec.data.images import open_image
from gtcrec.data.tables import Table, read_table
from gtcrec.errors import ConfigError, DataError, nearest
from gtcrec.files import MANIFEST, sha256, write_json
from gtcrec.types import Floats

__all__ = ["EncodeConfig", "Encoded", "encode"]

_END = "_feat.npy"  # of the files that the readers take for content

Function = Callable[[Sequence[Any]], Floats]
"""A user's encoder: a batch of texts or of images (RGB, PIL) -> float [b, width]."""


class EncodeConfig(BaseModel):
    """What is encoded, and how: the texts of some columns, joined by a blank, or the images of one.

    An image column holds paths relative to the table's folder, or the files' bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: tuple[str, ...] = ()
    image: str | None = None
    encoder: str = Field("", description="a folder or a name on the hub; for texts all-MiniLM-L6-v2 if not given")
    dtype: Literal["float32", "float16"] = Field("float32", description="of the file")
    batch: Annotated[int, Field(ge=1)] = 32
    block: Annotated[int, Field(ge=1, description="items that a killed job loses at most")] = 512
    device: str = "cpu"


@dataclass(frozen=True)
class Encoded:
    """What became of the items: how many have a vector, how many had nothing, and which failed, with the reason."""

    rows: int
    width: int
    present: int
    empty: int
    failures: tuple[Mapping[str, Any], ...]


def encode(
    items: str | Path,
    out: str | Path,
    config: EncodeConfig,
    function: Function | None = None,
    executor: Executor | None = None,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> Encoded:
    """Write `NAME_feat.npy`, a row an item in the order of the items table, and the record `NAME_feat.json`.

    A row is zero where the item has no such content or it cannot be read. `function` is an encoder of one's own,
    called `config.encoder` in the record. A killed call is gone on with by an equal one. Raises `DataError` for
    a table that does not fit or without any content, `ConfigError` for an encoder that cannot be had.
    """
    out = Path(out)
    _check(config, out, function)
    table = read_table(Path(items))
    _check_order(table, out)
    name = config.encoder or TEXT_ENCODER
    folder = None if function else find_encoder(name)
    about = {"name": name, **({"files": encoder_files(folder)} if folder else {})}
    settings = {**config.model_dump(mode="json"), "encoder": about}
    return in_blocks(
        _contents(table, config),
        config.block,
        partial(_make_stage, config, folder, function),
        settings,
        out,
        partial(_assemble, table, config, about, out),
        executor,
        on_block,
    )


def _check(config: EncodeConfig, out: Path, function: Function | None) -> None:
    if bool(config.text) == bool(config.image):
        raise ConfigError(f"wanted text columns or an image column, found {'both' if config.text else 'neither'}")
    if not out.name.endswith(_END) or out.name == _END:
        raise ConfigError(f"{out}: wanted a name that ends in {_END}, such as text{_END}")
    if not config.encoder and (config.image or function):
        what = "a function needs a name" if function else "images need an encoder, a folder or a name on the hub"
        raise ConfigError(f"{what}: set `encoder`")


def _check_order(table: Table, out: Path) -> None:
    """Where an .inter file numbers the items, the rows must stand in the order of these numbers."""
    numbered = sorted({*table.path.parent.glob("*.inter"), *out.parent.glob("*.inter")})
    if numbered:
        key = find_column(table, "item", None, True)
        wrong = np.flatnonzero(read_dense(table, key) != np.arange(len(table)))
        for row in wrong[:1].tolist():
            raise DataError(
                f"{table.path}: {numbered[0].name} numbers the items, so rows must stand in the order of {key} from 0; "
                f"found {key} {table.columns[key][row].as_py()!r} in {table.place(row)}"
            )


def _contents(table: Table, config: EncodeConfig) -> pa.Table:
    """Return what is to be encoded: the row's number, its text or image, and marks of an image file's version."""
    for name in (*config.text, *filter(None, [config.image])):
        if name not in table.names:
            found = ", ".join(map(repr, table.names))
            raise DataError(f"{table.path}: no column {name!r}, found {found}{nearest(name, table.names)}")
    rows = pa.array(np.arange(len(table)))
    if config.text:
        cells = zip(*(read_texts(table, name) for name in config.text), strict=True)
        return pa.table({"row": rows, "content": [" ".join(filter(None, map(str.strip, row))) for row in cells]})
    column = table.columns[config.image]
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return pa.table({"row": rows, "content": column})
    places = [image_path(table, row, path) for row, path in enumerate(read_texts(table, str(config.image)))]
    marks = [_mark(place) for place in places]
    paths = [str(place.resolve()) if place else "" for place in places]
    return pa.table({"row": rows, "content": paths, "mark": marks})


def _mark(place: Path | None) -> str:
    """Return what changes when a file does, so that blocks of its old content are not taken for those of the new."""
    try:
        facts = place.stat() if place else None
    except OSError:
        return "absent"
    return f"{facts.st_size} {facts.st_mtime_ns}" if facts else ""


def _make_stage(config: EncodeConfig, folder: Path | None, function: Function | None) -> Stage:
    if function:
        encoder = Encoder(lambda contents: np.asarray(function(list(contents))), {})
    else:
        load = text_encoder if config.text else image_encoder
        encoder = load(folder or Path(), config.device)
    return partial(_encode_block, encoder, config)


def _encode_block(encoder: Encoder, config: EncodeConfig, block: pa.Table) -> pa.Table:
    """Return a block's vectors (none if no row has one) and, for rows without, the reason, "" for no content."""
    rows, contents = block["row"].to_numpy(), block["content"].to_pylist()
    filled = [place for place, content in enumerate(contents) if content not in (None, "")]
    reasons: list[str | None] = [None if content not in (None, "") else "" for content in contents]
    if config.text:
        filled.sort(key=lambda place: len(contents[place]))  # texts of one length need little padding
    x: Floats = np.zeros((len(rows), 0), dtype=config.dtype)
    for start in range(0, len(filled), config.batch):
        places = filled[start : start + config.batch]
        found = _encode_batch(encoder, config, {place: contents[place] for place in places}, reasons)
        places = [place for place in places if reasons[place] is None]
        if not places:
            continue
        found = _checked(found, rows[places], x.shape[1], config.dtype)
        if not x.shape[1]:
            x = np.zeros((len(rows), found.shape[1]), dtype=config.dtype)
        x[places] = found
        for place in np.array(places)[~found.any(axis=1)].tolist():
            reasons[place] = "its vector is zero"
    columns: dict[str, Any] = {"reason": pa.array(reasons, pa.string())}
    if x.shape[1]:
        columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    return pa.table(columns).replace_schema_metadata({"encoder": json.dumps(dict(encoder.about))})


def _encode_batch(
    encoder: Encoder, config: EncodeConfig, contents: Mapping[int, Any], reasons: list[str | None]
) -> Floats | None:
    """Return the vectors of the contents that can be read, and note in `reasons` why others cannot."""

    def readable() -> Iterator[Any]:
        for place, content in contents.items():
            try:
                yield content if config.text else open_image(Path(content) if isinstance(content, str) else content)
            except DataError as error:
                reasons[place] = str(error)

    each = readable()
    first = next(each, None)
    return None if first is None else encoder.encode(chain([first], each))


def _checked(found: Any, rows: NDArray[np.int64], width: int, dtype: str) -> Floats:
    """Return the encoder's vectors in the file's type. Raises `DataError` when they are not what they should be."""
    shape = np.shape(found)
    if len(shape) != 2 or shape[0] != len(rows) or shape[1] != (width or shape[1]) or not shape[1]:
        raise DataError(f"the encoder must give [{len(rows)}, {width or 'width'}] numbers, found {list(shape)}")
    with np.errstate(over="ignore"):
        x: Floats = np.asarray(found).astype(dtype)
    for row in np.flatnonzero(~np.isfinite(x).all(axis=1))[:1].tolist():
        raise DataError(f"the encoder gave NaN or a number beyond {dtype} for row {rows[row]} (counted from 0)")
    return x


def _assemble(
    table: Table, config: EncodeConfig, about: Mapping[str, Any], out: Path, results: Results, path: Path
) -> Encoded:
    """Write the matrix to `path`, the record beside `out`, and the sum into the manifest of its folder."""
    width = next((one["vector"].type.list_size for one in results if "vector" in one.column_names), 0)
    if not width:
        listed = ", ".join(map(repr, (*config.text, *filter(None, [config.image]))))
        raise DataError(f"{table.path}: no row has content that can be read in {listed}")
    reasons: list[str | None] = []
    loaded: Mapping[str, Any] = {}
    with path.open("wb") as stream:
        shape = {"descr": np.dtype(config.dtype).str, "fortran_order": False, "shape": (len(table), width)}
        np.lib.format.write_array_header_1_0(stream, shape)
        for one in results:
            reasons += one["reason"].to_pylist()
            loaded = json.loads(one.schema.metadata[b"encoder"])
            stream.write(_matrix(one, width, config.dtype).tobytes())
    encoded = _summary(table, reasons, width)
    source = {"table": table.path.name, "sha256": sha256(table.path), "text": config.text, "image": config.image}
    record = {
        "file": {"name": out.name, "sha256": sha256(path), "dtype": config.dtype},
        "source": source,
        "encoder": {**about, **loaded},
        **vars(encoded),
    }
    write_json(out.with_suffix(".json"), record)
    _enter(out, path)
    return encoded


def _matrix(block: pa.Table, width: int, dtype: str) -> Floats:
    if "vector" not in block.column_names:
        return np.zeros((len(block), width), dtype=dtype)
    vectors = block["vector"].combine_chunks()
    if vectors.type.list_size != width:
        raise DataError(f"the encoder gave vectors of {width} numbers, then of {vectors.type.list_size}")
    return np.asarray(vectors.flatten().to_numpy()).reshape(-1, width)


def _summary(table: Table, reasons: Sequence[str | None], width: int) -> Encoded:
    key = find_column(table, "item", None, False)
    ids = read_ids(table, key) if key else None
    failures = tuple(
        {"row": row, **({"item": ids[row].as_py()} if ids is not None else {}), "reason": reason}
        for row, reason in enumerate(reasons)
        if reason
    )
    present, empty = reasons.count(None), reasons.count("")
    return Encoded(len(reasons), width, present, empty, failures)


def _enter(out: Path, path: Path) -> None:
    """Replace the file's entry in the folder's manifest, if gtcrec wrote one that names it."""
    manifest = out.parent / MANIFEST
    if manifest.is_file() and b'"gtcrec"' in manifest.read_bytes():
        facts = json.loads(manifest.read_text(encoding="utf-8"))
        if out.name in facts["files"]:
            facts["files"][out.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
            write_json(manifest, facts)
