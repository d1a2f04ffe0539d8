"""Vectors of users and items for vector databases, and a faiss index of the items."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gtcrec.errors import ConfigError, DataError
from gtcrec.runtime.files import atomic_path, write_json
from gtcrec.serving.trained_model import TrainedModel
from gtcrec.types import Floats, Vocabulary

__all__ = ["item_matrix", "user_matrix", "write_index", "write_vectors"]


def user_matrix(model: TrainedModel) -> Floats:
    """Return the users' vectors, float32 [n_users, d]. Raises `RunError` if scores are no inner products."""
    return _matrix(model, "users")


def item_matrix(model: TrainedModel) -> Floats:
    """Return the items' vectors, float32 [n_items, d]. Raises `RunError` if scores are no inner products."""
    return _matrix(model, "items")


def write_vectors(model: TrainedModel, folder: Path, form: Literal["npy", "parquet"] = "npy") -> None:
    """Write the vectors of users and items, and whose they are.

    "npy": `user_vectors.npy` and `item_vectors.npy`, the ids of their rows in `user_ids.json` and `item_ids.json`.
    "parquet": `users.parquet` and `items.parquet`, the latter with the columns of the items table.
    """
    users, items = user_matrix(model), item_matrix(model)
    if form == "npy":
        for name, matrix in (("user_vectors.npy", users), ("item_vectors.npy", items)):
            with atomic_path(folder / name) as temporary, temporary.open("wb") as stream:
                np.save(stream, matrix)
        _write_ids(folder / "user_ids.json", model.bundle.users)
        _write_ids(folder / "item_ids.json", model.bundle.items)
        return
    ids = pa.array(model.bundle.users.ids).cast(pa.string())
    _write_table(folder / "users.parquet", pa.table({"user_id": ids}), users)
    _write_table(folder / "items.parquet", model.item_columns, items)


def write_index(model: TrainedModel, folder: Path) -> None:
    """Write `items.faiss`, an exact index of the items' vectors by inner product; `item_ids.json` has its rows' ids.

    Raises `ConfigError` without faiss.
    """
    try:
        import faiss
    except ImportError as error:
        raise ConfigError('faiss is not installed; pip install "gtcrec[index]"') from error
    items = item_matrix(model)
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    with atomic_path(folder / "items.faiss") as temporary:
        faiss.write_index(index, str(temporary))
    _write_ids(folder / "item_ids.json", model.bundle.items)


def _matrix(model: TrainedModel, side: str) -> Floats:
    return np.ascontiguousarray(model.vectors(side).detach().float().cpu().numpy())


def _write_ids(path: Path, ids: Vocabulary) -> None:
    write_json(path, list(map(str, ids.ids.tolist())))


def _write_table(path: Path, table: pa.Table, vectors: Floats) -> None:
    if "vector" in table.column_names:
        raise DataError(f"{path.name}: the items table has a column named vector already; export vectors as npy")
    column: Any = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    with atomic_path(path) as temporary:
        pq.write_table(table.append_column("vector", column), temporary, compression="zstd")
