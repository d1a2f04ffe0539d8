"""A training's state in one file: written whole or not at all, verified when read, without pickle.

The tensors lie in a safetensors file; everything else is JSON in its header, with a sha256 sum over both.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gtcrec.errors import RunError
from gtcrec.files import atomic_path

__all__ = ["load", "nested", "save", "under"]


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write named tensors and JSON-able facts to `path`, atomically."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(facts)
    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # safetensors would leave the file to its owner alone
        # One key only: safetensors writes several in an order that changes from run to run.
        save_file(plain, temporary, metadata={"gtcrec": json.dumps({"facts": text, "sha256": _sum(plain, text)})})
        temporary.chmod(mode)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote. Raises `RunError` when the file is missing or differs from what was written."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("gtcrec", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except (OSError, SafetensorError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    if _sum(tensors, about.get("facts", "")) != about.get("sha256"):
        raise RunError(f"{path}: damaged: its content differs from the sha256 sum written with it")
    facts: dict[str, Any] = json.loads(about["facts"])
    return tensors, facts


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors renamed to "prefix/name"."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def nested(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors named "prefix/name", renamed to "name"."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _sum(tensors: Mapping[str, Tensor], text: str) -> str:
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
