"""Encoders as they were fitted, kept as files without pickle, so that later items get vectors of the same space."""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from gtcrec.data.features.encode_batch import identify_encoder, make_encode_fn
from gtcrec.data.features.encode_config import EncodeConfig
from gtcrec.data.features.encoders import load_function
from gtcrec.data.features.inputs import read_files, read_joined
from gtcrec.data.features.numeric import ColumnScale, number_vectors
from gtcrec.data.features.tags import FittedTags, tag_vectors
from gtcrec.data.formats.tables import Table
from gtcrec.errors import ConfigError, DataError
from gtcrec.runtime.files import atomic_path
from gtcrec.types import Floats

__all__ = ["FittedEncoder", "read_encoders", "write_encoders"]

_FORMAT = 1
_FACTS = "facts"  # the array that holds the JSON
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)
_IDENTITY = ("files", "source", "version", "preprocessing")  # what makes a model or a function another one


@dataclass(frozen=True, eq=False)
class FittedEncoder:
    """All that turns the content of a new item into the vector that it would have had.

    Parameters
    ----------
    config : EncodeConfig
        Which columns are encoded, and how.
    about : mapping
        The provenance: name, sha256 sums of the model's files, versions.
    width : int
        Numbers a vector.
    tags : FittedTags, optional
        What was learnt of the catalog's tags.
    scales : tuple of ColumnScale, optional
        What was learnt of its numbers. Models and descriptors learn nothing of a catalog.
    """

    config: EncodeConfig
    about: Mapping[str, Any]
    width: int
    tags: FittedTags | None = None
    scales: tuple[ColumnScale, ...] | None = None

    def encode(self, table: Table) -> tuple[Floats, list[str | None]]:
        """Return the vectors of a table's rows and why a row has none.

        A column that the table lacks counts as empty.

        Returns
        -------
        x : numpy.ndarray
            float32 or float16 [rows, width]; rows without a vector are zero.
        reasons : list of str or None
            "" where the item has no such content, None where it was read.

        Raises
        ------
        ConfigError
            When the model or function is gone, or is another one now.
        """
        table = _with_columns(table, self.config.columns)
        if self.tags is not None:
            x, reasons, _, _ = tag_vectors(table, self.config.tags, self.config.separator, self.width, self.tags)
            return x.astype(self.config.dtype), reasons
        if self.scales is not None:
            x, reasons, _, _ = number_vectors(table, self.config.numbers, self.scales)
            return x.astype(self.config.dtype), reasons
        return self._encode_contents(table)

    def require_same(self, about: Mapping[str, Any]) -> None:
        """Raise `ConfigError` unless `about` describes this encoder: the same files or source, of any version."""
        for key in _IDENTITY:
            if key in about and about[key] != self.about.get(key):
                raise ConfigError(
                    f"encoder {about.get('name')!r}: not the one that the content was made with: its {key} differ, "
                    f"expected {_shown(self.about.get(key))}, found {_shown(about[key])}"
                )

    def _encode_contents(self, table: Table) -> tuple[Floats, list[str | None]]:
        config = self.config
        contents = read_joined(table, config.text) if config.text else read_files(table, config.columns[0])
        reasons, x = list(contents.reasons), np.zeros((len(table), self.width), dtype=config.dtype)
        rows = [row for row, reason in enumerate(reasons) if reason is None]
        if not rows:
            return x, reasons
        if self.about.get("source") is not None and not self.config.function:
            raise ConfigError(
                f"encoder {self.about.get('name')!r} is a function that was given in Python; encode the items with it "
                "and hand over their vectors"
            )
        function = load_function(config.function) if config.function else None
        folder, about = identify_encoder(config, function)
        self.require_same(about)
        encode = make_encode_fn(config, folder, function)
        for start in range(0, len(rows), config.batch):
            block = rows[start : start + config.batch]
            made = encode(pa.table({"row": block, "content": [contents.values[row] for row in block]}))
            why = made["reason"].to_pylist()
            if "vector" in made.column_names:
                vectors = made["vector"].combine_chunks()
                if vectors.type.list_size != self.width:
                    raise DataError(f"the encoder gave vectors of {vectors.type.list_size} numbers, not {self.width}")
                x[block] = vectors.flatten().to_numpy().reshape(len(block), -1)
            for row, reason in zip(block, why, strict=True):
                reasons[row] = reason
        return x, reasons


def write_encoders(path: Path, encoders: Mapping[str, FittedEncoder], facts: Mapping[str, Any] | None = None) -> None:
    """Write encoders by modality, and JSON-able facts, to one `.npz` file without pickle, whole or not at all."""
    arrays: dict[str, NDArray[Any]] = {}
    listed: dict[str, Any] = {}
    for name, one in encoders.items():
        listed[name] = {"config": one.config.model_dump(mode="json"), "about": dict(one.about), "width": one.width}
        if one.tags is not None:
            listed[name]["vocabulary"] = one.tags.vocabulary
            arrays[f"{name}/idf"] = one.tags.idf
            if one.tags.components is not None:
                arrays[f"{name}/components"] = one.tags.components
        if one.scales is not None:
            listed[name]["columns"] = [asdict(column) for column in one.scales]
    text = json.dumps({"format": _FORMAT, "encoders": listed, "facts": facts or {}}, sort_keys=True)
    arrays[_FACTS] = np.frombuffer(text.encode(), dtype=np.uint8)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def read_encoders(path: str | Path) -> tuple[dict[str, FittedEncoder], dict[str, Any]]:
    """Read what `write_encoders` wrote: the encoders by modality, and the facts.

    The file has no sum of its own: check the manifest of its folder first. Raises `DataError` when it cannot be read.
    """
    try:
        with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as stored:
            arrays = dict(stored)
        value = json.loads(arrays.pop(_FACTS).tobytes())
        if value["format"] != _FORMAT:
            raise ValueError(f"expected format {_FORMAT}, found {value['format']}; a later version of gtcrec wrote it")
        return {name: _restored(name, one, arrays) for name, one in value["encoders"].items()}, value["facts"]
    except (*_DAMAGE, ValidationError) as error:
        raise DataError(f"{path}: cannot be read as fitted encoders: {error}") from error


def _restored(name: str, stored: Mapping[str, Any], arrays: Mapping[str, Any]) -> FittedEncoder:
    tags, scales = None, None
    if "vocabulary" in stored:
        tags = FittedTags(tuple(stored["vocabulary"]), arrays[f"{name}/idf"], arrays.get(f"{name}/components"))
    if "columns" in stored:
        scales = tuple(ColumnScale(**column) for column in stored["columns"])
    return FittedEncoder(EncodeConfig(**stored["config"]), stored["about"], stored["width"], tags, scales)


def _with_columns(table: Table, names: tuple[str, ...]) -> Table:
    """Return the table with an empty column for each name that it lacks."""
    columns = table.columns
    for name in names:
        if name not in columns.column_names:
            columns = columns.append_column(name, pa.nulls(len(table), pa.string()))
    return Table(table.file, columns, table.first)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:200] + "..."
