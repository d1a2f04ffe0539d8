"""The files that a trained model needs to answer: weights, configuration, ids, seen items and, if used, item content.

A run folder holds them once its training has ended, and `gtcrec.Recommender.save` writes them alone. Neither the
training data nor a checkpoint is needed to read them back.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor, nn

from gtcrec import models
from gtcrec.errors import DataError, RunError
from gtcrec.runtime.files import MANIFEST, atomic_path, check_manifest, make_folder, write_json, write_manifest
from gtcrec.runtime.process_group import SINGLE_PROCESS
from gtcrec.training import checkpoint
from gtcrec.types import Interactions, ItemFeatures, TrainableModel, Vocabulary

__all__ = [
    "BUNDLE_FILES",
    "FACTS",
    "WEIGHTS",
    "ModelBundle",
    "is_bundle",
    "read_bundle",
    "write_bundle",
    "write_bundle_files",
]

WEIGHTS = "model.safetensors"
FACTS, _USERS, _ITEMS, _SEEN, _CONTENT = "model.json", "users.parquet", "items.parquet", "seen.npz", "content.npz"
BUNDLE_FILES = (WEIGHTS, FACTS, _USERS, _ITEMS, _SEEN, _CONTENT)


@dataclass(frozen=True, eq=False)
class ModelBundle:
    """All that a model is built of again, but its weights.

    `seen` are the training interactions; `features` the content of its items and, after these, of `n_added` items that
    came after training. `items` has the ids of all of them, `titles` a title each or nothing.
    """

    model: str
    config: Mapping[str, Any]
    seed: int
    users: Vocabulary
    items: Vocabulary
    seen: Interactions
    features: ItemFeatures
    n_added: int = 0
    titles: tuple[str, ...] = ()

    def without_unused_content(self) -> "ModelBundle":
        """Return the bundle without content if its model does not use any."""
        if models.get_spec(self.model).uses_content:
            return self
        return replace(self, features=ItemFeatures(self.features.n_items))

    @property
    def trained_features(self) -> ItemFeatures:
        """The content of the items that the training had."""
        return _rows(self.features, slice(self.seen.n_items))

    @property
    def added_features(self) -> ItemFeatures:
        """The content of the items that came after training."""
        return _rows(self.features, slice(self.seen.n_items, None))

    def build(self) -> nn.Module:
        """Return the model with weights that are still to be loaded."""
        config = models.make_config(self.model, models.complete_settings(self.model, self.config))
        return models.build_model(self.model, self.seen, self.trained_features, config, self.seed, init_weights=False)


def write_bundle_files(folder: Path, bundle: ModelBundle) -> None:
    """Write every file of a bundle but the weights and the manifest, each whole or not at all."""
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
    titles = {"title": pa.array(bundle.titles)} if bundle.titles else {}
    for name, columns in (
        (_USERS, {"user_id": pa.array(bundle.users.ids)}),
        (_ITEMS, {"item_id": pa.array(bundle.items.ids), **titles}),
    ):
        with atomic_path(folder / name) as temporary:
            pq.write_table(pa.table(columns), temporary, compression="zstd")
    _write_arrays(folder / _SEEN, {"indptr": bundle.seen.indptr, "items": bundle.seen.items.astype(np.int32)})
    content = {f"values/{m}": bundle.features.values[m] for m in bundle.features.names}
    present = {f"present/{m}": bundle.features.present[m] for m in bundle.features.names}
    _write_arrays(folder / _CONTENT, content | present)


def write_bundle(folder: Path, bundle: ModelBundle, weights: Mapping[str, Tensor]) -> None:
    """Write a bundle with its weights to an empty folder; the manifest, which makes it whole, comes last."""
    make_folder(folder)
    checkpoint.save(folder / WEIGHTS, weights, {"model": bundle.model})
    write_bundle_files(folder, bundle)
    write_manifest(folder, list(BUNDLE_FILES))


def is_bundle(folder: Path) -> bool:
    """Return whether a folder holds a bundle; run folders of version 0.1 do not."""
    return (folder / MANIFEST).is_file() and (folder / FACTS).is_file()


def read_bundle(folder: Path) -> tuple[ModelBundle, nn.Module]:
    """Read a bundle and return it with its model, weights loaded.

    Raises `RunError` when a file is missing, damaged or edited.
    """
    try:
        check_manifest(folder)
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        users = pq.read_table(folder / _USERS)
        items = pq.read_table(folder / _ITEMS)
        seen, content = (_read_arrays(folder / name) for name in (_SEEN, _CONTENT))
        counts = np.diff(seen["indptr"])
        bundle = ModelBundle(
            facts["model"],
            facts["config"],
            facts["seed"],
            Vocabulary(_ids(users["user_id"]), "user"),
            Vocabulary(_ids(items["item_id"]), "item"),
            Interactions(
                np.repeat(np.arange(len(counts)), counts),
                seen["items"].astype(np.int64),
                facts["n_users"],
                facts["n_items"],
            ),
            _features(content, len(items)),
            facts["n_added_items"],
            tuple(items["title"].to_pylist()) if "title" in items.column_names else (),
        )
    except (DataError, OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise RunError(f"{folder}: cannot be read as a saved model: {error}") from error
    model = bundle.build()
    rows = {id(p) for p in model.sparse_parameters()} if isinstance(model, TrainableModel) else set()
    sharded = {name for name, p in model.named_parameters() if id(p) in rows}
    weights, _ = checkpoint.load_shards(folder / WEIGHTS, sharded.__contains__, SINGLE_PROCESS)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"{folder / WEIGHTS}: weights of another model, or of another version's: {error}") from error
    return bundle, model


def _features(arrays: Mapping[str, Any], n_items: int) -> ItemFeatures:
    names = [name.removeprefix("values/") for name in arrays if name.startswith("values/")]
    values = {m: arrays[f"values/{m}"] for m in names}
    return ItemFeatures(n_items, values, {m: arrays[f"present/{m}"] for m in names})


def _rows(features: ItemFeatures, rows: slice) -> ItemFeatures:
    n = len(range(*rows.indices(features.n_items)))
    values = {m: features.values[m][rows] for m in features.names}
    return ItemFeatures(n, values, {m: features.present[m][rows] for m in features.names})


def _ids(column: pa.ChunkedArray) -> Any:
    return column.to_numpy() if pa.types.is_integer(column.type) else np.array(column.to_pylist(), dtype=np.str_)


def _write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def _read_arrays(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
