"""The files that a trained model needs to answer: weights, configuration, ids, seen items and, if used, item content.

A run folder holds them once its training has ended, and `gtcrec.Recommender.save` writes them alone. Neither the
training data nor a checkpoint is needed to read them back. Of a model whose scores are inner products the vectors of
users and items are kept too: they answer without the model. Importing this module imports no torch.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gtcrec import models
from gtcrec.errors import DataError, RunError, shortened
from gtcrec.runtime.files import MANIFEST, atomic_path, check_manifest, make_folder, sha256, write_json, write_manifest
from gtcrec.runtime.locks import hold_lock
from gtcrec.runtime.replacement import renewed_folder
from gtcrec.types import Floats, Interactions, Ints, ItemFeatures, Scorer, TrainableModel, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gtcrec.data.features.item_encoders import ItemEncoders

__all__ = [
    "FACTS",
    "WEIGHTS",
    "ModelBundle",
    "StoredVectors",
    "is_bundle",
    "load_module",
    "read_bundle",
    "read_vectors",
    "read_weights",
    "renew_bundle",
    "stored_ids",
    "with_ids",
    "write_bundle",
    "write_bundle_files",
]

WEIGHTS = "model.safetensors"
FACTS, _USERS, _ITEMS, _SEEN, _CONTENT = "model.json", "users.parquet", "items.parquet", "seen.npz", "content.npz"
_VECTORS = ("user_vectors.npy", "item_vectors.npy")
_ENCODERS = "encoders.npz"


@dataclass(frozen=True, eq=False)
class ModelBundle:
    """All that a model is built of again, but its weights.

    `seen` are the training interactions; `features` the content of its items and, after these, of `n_added` items that
    came after training. `items` has the ids of all of them, `item_columns` a row each of the items table, if any.
    `encoders` turn columns of new items into content, None where nothing is known of how the content was made.
    """

    model: str
    config: Mapping[str, Any]
    seed: int
    users: Vocabulary
    items: Vocabulary
    seen: Interactions
    features: ItemFeatures
    n_added: int = 0
    item_columns: pa.Table | None = None
    encoders: "ItemEncoders | None" = None

    def without_unused_content(self) -> "ModelBundle":
        """Return the bundle without content if its model does not use any."""
        if models.get_spec(self.model).uses_content:
            return self
        return replace(self, features=ItemFeatures(self.features.n_items), encoders=None)

    @cached_property
    def titles(self) -> tuple[str, ...]:
        """A title for each item, "" for none; empty if the data have none."""
        columns = self.item_columns
        if columns is None or "title" not in columns.column_names:
            return ()
        return tuple(title or "" for title in columns["title"].to_pylist())

    @property
    def trained_features(self) -> ItemFeatures:
        """The content of the items that the training had."""
        return _rows(self.features, slice(self.seen.n_items))

    @property
    def trained_items(self) -> Vocabulary:
        """The ids of the items that the training had."""
        return Vocabulary(self.items.ids[: self.seen.n_items], self.items.word)

    @property
    def added_features(self) -> ItemFeatures:
        """The content of the items that came after training."""
        return _rows(self.features, slice(self.seen.n_items, None))

    def build(self) -> "nn.Module":
        """Return the model with weights that are still to be loaded."""
        config = models.make_config(self.model, models.complete_settings(self.model, self.config))
        return models.build_model(self.model, self.seen, self.trained_features, config, self.seed, init_weights=False)


@dataclass(frozen=True, eq=False)
class StoredVectors:
    """What answers known users without the model: ids, titles if there are any, seen items, vectors.

    A score is an inner product of a row of `user_vectors` float32 [n_users, d] and one of `item_vectors` [n_items, d].
    Items that came after training are among these.
    """

    folder: Path
    users: pa.ChunkedArray
    items: pa.ChunkedArray
    titles: pa.ChunkedArray | None
    indptr: Ints
    seen: Ints
    user_vectors: Floats
    item_vectors: Floats

    def seen_by(self, user: int) -> Ints:
        """Return the training items of a user by index, ascending."""
        return self.seen[self.indptr[user] : self.indptr[user + 1]]

    @cached_property
    def item_columns(self) -> pa.Table | None:
        """The items table but the ids, a row an item, read and verified when first asked for; None without one."""
        try:
            check_manifest(self.folder, (_ITEMS,))
            items = _read_table(self.folder / _ITEMS)
        except (DataError, OSError, ValueError, pa.ArrowException) as error:
            raise _unreadable(self.folder, error) from error
        return items.drop_columns(["item_id"]) if items.num_columns > 1 else None


def with_ids(ids: pa.Array, columns: pa.Table | None) -> pa.Table:
    """Return the items table with its ids as the first column."""
    return pa.table({"item_id": ids}) if columns is None else columns.add_column(0, "item_id", ids)


def write_bundle_files(folder: Path, bundle: ModelBundle, scorer: Scorer) -> None:
    """Write every file of a bundle but the weights and the manifest, each whole or not at all.

    `scorer` is the model's; its vectors are written if its scores are their inner products.
    """
    bundle = bundle.without_unused_content()
    facts = {
        "format": 1,
        "model": bundle.model,
        "config": dict(bundle.config),
        "seed": bundle.seed,
        "n_users": bundle.seen.n_users,
        "n_items": bundle.seen.n_items,
        "n_added_items": bundle.n_added,
    }
    write_json(folder / FACTS, facts)
    items = with_ids(pa.array(bundle.items.ids), bundle.item_columns)
    for name, table in ((_USERS, pa.table({"user_id": pa.array(bundle.users.ids)})), (_ITEMS, items)):
        with atomic_path(folder / name) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    _write_arrays(folder / _SEEN, {"indptr": bundle.seen.indptr, "items": bundle.seen.items.astype(np.int32)})
    content = {f"values/{m}": bundle.features.values[m] for m in bundle.features.names}
    present = {f"present/{m}": bundle.features.present[m] for m in bundle.features.names}
    _write_arrays(folder / _CONTENT, content | present)
    if bundle.encoders is not None and bundle.encoders.by_modality:
        bundle.encoders.write(folder / _ENCODERS)
    _write_vectors(folder, scorer)


def write_bundle(folder: Path, bundle: ModelBundle, weights: "Mapping[str, Tensor]", scorer: Scorer) -> None:
    """Write a bundle with its weights to an empty folder; the manifest, which makes it whole, comes last."""
    from gtcrec.training import checkpoint

    make_folder(folder)
    checkpoint.save(folder / WEIGHTS, weights, {"model": bundle.model})
    write_bundle_files(folder, bundle, scorer)
    write_manifest(folder, sorted(path.name for path in folder.iterdir()))


def renew_bundle(folder: Path, bundle: ModelBundle, scorer: Scorer) -> None:
    """Write a bundle in the place of the one in a folder, at once; its weights and other files stay.

    So does the time of its training, by which a server finds the newest of several runs. Raises `RunError` when another
    process writes to the folder, or a file of it is damaged.
    """
    place = folder.resolve()
    with hold_lock(place), renewed_folder(place) as copy:
        try:
            facts = check_manifest(copy)
        except DataError as error:
            raise _unreadable(folder, error) from error
        before, trained = facts.pop("files"), (copy / FACTS).stat()
        write_bundle_files(copy, bundle, scorer)
        os.utime(copy / FACTS, ns=(trained.st_atime_ns, trained.st_mtime_ns))
        names = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
        bundled = {FACTS, _USERS, _ITEMS, _SEEN, _CONTENT, _ENCODERS, *_VECTORS}
        write_manifest(copy, sorted(names & {*before, *bundled}), facts)


def is_bundle(folder: Path) -> bool:
    """Return whether a folder holds a bundle; run folders of version 0.1 do not."""
    return (folder / MANIFEST).is_file() and (folder / FACTS).is_file()


def read_bundle(folder: Path) -> ModelBundle:
    """Read a bundle, all of whose files are verified; `load_module` reads its weights.

    Raises `RunError` when a file is missing, damaged or edited, or does not fit the others.
    """
    try:
        check_manifest(folder)
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        users, items = (_read_table(folder / name) for name in (_USERS, _ITEMS))
        seen, content = (_read_arrays(folder / name) for name in (_SEEN, _CONTENT))
        _require_facts(facts, len(users), len(items))
        _require_seen(seen["indptr"], seen["items"], len(users))
        counts = np.diff(seen["indptr"])
        return ModelBundle(
            facts["model"],
            facts["config"],
            facts["seed"],
            Vocabulary(stored_ids(users["user_id"]), "user"),
            Vocabulary(stored_ids(items["item_id"]), "item"),
            Interactions(
                np.repeat(np.arange(len(counts)), counts),
                seen["items"].astype(np.int64),
                facts["n_users"],
                facts["n_items"],
            ),
            _features(content, len(items)),
            facts["n_added_items"],
            items.drop_columns(["item_id"]) if items.num_columns > 1 else None,
            _read_encoders(folder),
        )
    except Exception as error:  # a file that fits its sum may be made by anyone, and libraries raise anything then
        raise _unreadable(folder, error) from error


def load_module(folder: Path, bundle: ModelBundle, weights_sum: str) -> "nn.Module":
    """Return the model of a bundle with its weights, whose file must still have the sha256 sum of when it was opened.

    Raises `RunError` when the weights are missing, damaged, exchanged or of another model.
    """
    path = folder / WEIGHTS
    if not path.exists() or sha256(path) != weights_sum:
        raise RunError(f"{path}: no longer the weights that were opened: expected the sha256 sum {weights_sum}")
    model = bundle.build()
    try:
        model.load_state_dict(read_weights(path, model))
    except RuntimeError as error:
        raise RunError(f"{path}: weights of another model, or of another version's: {error}") from error
    return model


def read_weights(path: Path, model: "nn.Module") -> "dict[str, Tensor]":
    """Return the saved weights of a model like `model`, whole, however many workers wrote them.

    Raises `RunError` when a file is missing or damaged.
    """
    from gtcrec.runtime.process_group import SINGLE_PROCESS
    from gtcrec.training import checkpoint

    rows = {id(p) for p in model.sparse_parameters()} if isinstance(model, TrainableModel) else set()
    sharded = {name for name, p in model.named_parameters() if id(p) in rows}
    return checkpoint.load_shards(path, sharded.__contains__, SINGLE_PROCESS)[0]


def read_vectors(folder: Path) -> StoredVectors | None:
    """Read what answers known users without the model, each of its files verified; None if a bundle has no vectors.

    Raises `RunError` when a file is missing, damaged or edited.
    """
    if not all((folder / name).exists() for name in _VECTORS):
        return None
    try:
        check_manifest(folder, (_USERS, _ITEMS, _SEEN, *_VECTORS))
        users, items = (_read_table(folder / _USERS), _read_table(folder / _ITEMS, ("item_id", "title")))
        seen = _read_arrays(folder / _SEEN)
        _require_seen(seen["indptr"], seen["items"], len(users))
        vectors = [_map_vectors(folder / name, len(ids)) for name, ids in zip(_VECTORS, (users, items), strict=True)]
        return StoredVectors(
            folder,
            users["user_id"],
            items["item_id"],
            items["title"] if "title" in items.column_names else None,
            seen["indptr"],
            seen["items"],
            *vectors,
        )
    except Exception as error:  # as in `read_bundle`
        raise _unreadable(folder, error) from error


def stored_ids(column: pa.ChunkedArray) -> Any:
    """Return a column of ids as int64 or text."""
    return column.to_numpy() if pa.types.is_integer(column.type) else np.array(column.to_pylist(), dtype=np.str_)


def _read_encoders(folder: Path) -> "ItemEncoders | None":
    """Read the encoders of a bundle; None in those of earlier versions and of models without content."""
    if not (folder / _ENCODERS).is_file():
        return None
    from gtcrec.data.features.item_encoders import read_item_encoders

    return read_item_encoders(folder / _ENCODERS)


def _require_facts(facts: Any, n_users: int, n_items: int) -> None:
    """Raise `DataError` unless the facts are of the kinds that a bundle has, and agree with the numbers of ids."""
    kinds = {"model": str, "config": dict, "seed": int, "n_users": int, "n_items": int, "n_added_items": int}
    for key, kind in kinds.items():
        found = facts.get(key) if isinstance(facts, dict) else facts
        if type(found) is not kind or (isinstance(found, int) and found < 0):
            raise DataError(f"{FACTS}: expected {key} of type {kind.__name__}, found {shortened(found)}")
    if (facts["n_users"], facts["n_items"] + facts["n_added_items"]) != (n_users, n_items):
        raise DataError(f"{FACTS}: expected {n_users} users and {n_items} items, as there are ids, found others")
    for key in {"model", "preset", "seed", "self"} & facts["config"].keys():
        raise DataError(f"{FACTS}: config: {key!r} is no setting of a model")


def _require_seen(indptr: Ints, items: Ints, n_users: int) -> None:
    """Raise `DataError` unless the seen items are rows of so many users."""
    whole = all(np.issubdtype(array.dtype, np.integer) and array.ndim == 1 for array in (indptr, items))
    if not whole or len(indptr) != n_users + 1 or indptr[0] or indptr[-1] != len(items) or (np.diff(indptr) < 0).any():
        raise DataError(f"{_SEEN}: expected the items of {n_users} users, found other rows")


def _map_vectors(path: Path, rows: int) -> Floats:
    """Return vectors that lie in a file. Raises `DataError` unless they are a float32 matrix of so many rows."""
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(found, np.ndarray) or found.dtype != np.float32 or found.ndim != 2 or len(found) != rows:
        raise DataError(f"{path}: expected a float32 matrix of {rows} rows")
    return found


def _unreadable(folder: Path, error: Exception) -> RunError:
    return RunError(f"{folder}: cannot be read as a saved model: {error}")


def _features(arrays: Mapping[str, Any], n_items: int) -> ItemFeatures:
    names = [name.removeprefix("values/") for name in arrays if name.startswith("values/")]
    values = {m: arrays[f"values/{m}"] for m in names}
    return ItemFeatures(n_items, values, {m: arrays[f"present/{m}"] for m in names})


def _rows(features: ItemFeatures, rows: slice) -> ItemFeatures:
    n = len(range(*rows.indices(features.n_items)))
    values = {m: features.values[m][rows] for m in features.names}
    return ItemFeatures(n, values, {m: features.present[m][rows] for m in features.names})


def _write_vectors(folder: Path, scorer: Scorer) -> None:
    """Write the vectors of a scorer of inner products; of another one none are left."""
    import torch

    from gtcrec.ops.scorers import DotScorer

    sides = (scorer.users, scorer.items) if isinstance(scorer, DotScorer) else ()
    if any(side.dtype != torch.float32 for side in sides):
        sides = ()
    for name, side in zip(_VECTORS, sides, strict=False):
        with atomic_path(folder / name) as temporary, temporary.open("wb") as stream:
            np.save(stream, side.detach().cpu().numpy())
    for name in _VECTORS[len(sides) :]:
        (folder / name).unlink(missing_ok=True)


def _read_table(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, all of its columns or those of `names` that it has.

    `pq.read_table` would import pandas too, which takes longer than all else here.
    """
    with pq.ParquetFile(path) as file:
        return file.read(names)


def _write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def _read_arrays(path: Path) -> dict[str, Any]:
    """Read arrays; raises `DataError` for compressed ones, of which a small file could hold more than memory does."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        if any(entry.compress_type for entry in arrays.zip.infolist()):
            raise DataError(f"{path}: expected arrays that are not compressed")
        return dict(arrays)
