"""The files of a run folder."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gtcrec.errors import RunError
from gtcrec.experiments.config import RunConfig, load_config
from gtcrec.types import Dataset

__all__ = ["describe_dataset", "describe_environment", "read_stored_config", "write_per_user"]


def read_stored_config(folder: Path, path: str | None = None, device: str | None = None) -> RunConfig:
    """Return the configuration of a run, with the data at `path` and on `device` if given.

    Raises `RunError` when the folder is not a run.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        raise RunError(f"{folder}: not a run folder: config.yaml is missing")
    return load_config(path, file=file, assignments=[f"train.device={device}"] if device else [], stored=True)


def write_per_user(path: Path, table: pa.Table) -> None:
    """Write a table of ordered ids and of metrics, which have few distinct values, in a third of the usual bytes."""
    user, *metrics = table.column_names
    delta = "DELTA_BINARY_PACKED" if pa.types.is_integer(table.schema.field(user).type) else "DELTA_BYTE_ARRAY"
    pq.write_table(table, path, compression="zstd", use_dictionary=metrics, column_encoding={user: delta})


def describe_dataset(dataset: Dataset, how: Any) -> dict[str, Any]:
    """What `data.json` says of the data."""
    counts = {
        "users": len(dataset.users),
        "items": len(dataset.items),
        "interactions": len(dataset.interactions),
        "split": dict(how),
        "modalities": {
            m: {
                "width": dataset.features.values[m].shape[1],
                "present": int(dataset.features.present[m].sum()),
            }
            for m in dataset.features.names
        },
    }
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "counts": counts,
        "notes": {key: int(value) for key, value in dataset.notes.items()},
    }


def describe_environment() -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("gtcrec", "torch", "numpy", "scipy", "pyarrow")}
    return {
        "versions": versions,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
