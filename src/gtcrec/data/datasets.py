"""Data sets by name, by path, or from a table in memory."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from gtcrec.data.formats.load import ReadConfig, load
from gtcrec.data.sources.registry import PUBLIC_DATA
from gtcrec.errors import DataError, config_error, shortened
from gtcrec.types import Dataset

__all__ = ["find_source", "load_dataset"]


def load_dataset(source: str | Path | Any, **options: Any) -> Dataset:
    """Read a catalog: users, items, interactions and the items' content.

    Parameters
    ----------
    source : path, name or table
        A data folder or file of interactions; the name of a folder below `data/` (or below the folder that the
        environment variable GTCREC_DATA names); or a table in memory with a column for users and one for items: a
        pyarrow, pandas or polars table, or a mapping of columns.
    **options
        How to read it, such as `user="customer"`, `min_rating=4`, `k_core=5`, `modalities=["text"]`: the fields of
        `gtcrec.data.ReadConfig`.

    Returns
    -------
    Dataset
        With external ids; `dataset.features` has one matrix a modality.

    Raises
    ------
    DataError
        For a source that is not there or not readable; it names file, line and column.
    ConfigError
        For an unknown option.

    Examples
    --------
    >>> table = {"user": ["ann", "ann", "bob"], "item": ["mug", "tea", "mug"]}
    >>> gtcrec.load_dataset(table)
    Dataset('table', 2 users, 2 items, 3 interactions)
    """
    try:
        config = ReadConfig(**options)
    except ValidationError as error:
        raise config_error(error, "load_dataset", ReadConfig) from error
    if not isinstance(source, str | Path):
        return _from_table(source, config)
    return load(find_source(source), config)


def find_source(source: str | Path) -> Path:
    """Return where a data set lies: at a path, or under its name in `data/` or in GTCREC_DATA's folder.

    Raises `DataError` saying how to get a public data set that is not there.
    """
    folder = Path(os.environ.get("GTCREC_DATA", "data")) / source
    try:
        if Path(source).exists():
            return Path(source)
        if folder.is_dir():
            return folder
    except (OSError, ValueError) as error:  # such as a name longer than the system allows
        raise DataError(
            f"{shortened(str(source))}: cannot be looked up: {getattr(error, 'strerror', None) or error}"
        ) from error
    if str(source) in PUBLIC_DATA:
        raise DataError(f"{source}: not in {folder.parent}; `gtcrec data download {source}` brings its raw files")
    raise DataError(f"{source}: no such file or folder, and none of that name in {folder.parent}")


def _from_table(source: Any, config: ReadConfig) -> Dataset:
    """Read a table in memory as the file that it would be, so that there is one reader."""
    try:
        table = pa.table(source)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(f"expected a path, a name or a table, found {type(source).__name__}: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table.parquet"
        pq.write_table(table, file)
        return load(file, config)
