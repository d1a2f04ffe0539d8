"""A training's state in one file: written whole or not at all, verified when read, without pickle.

The tensors lie in a safetensors file; everything else is JSON in its header, with a sha256 sum over both. Of tables
that are spread over workers each worker writes its rows to a file beside it; it names these files with their sums.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gtcrec.errors import RunError, WriteError
from gtcrec.ops.sharded import join_rows, shard_rows
from gtcrec.runtime.files import atomic_path
from gtcrec.runtime.process_group import ProcessGroup, all_gather_object

__all__ = ["add_prefix", "load", "load_shards", "save", "save_shards", "strip_prefix"]

_SHARDS = "shards"  # the fact that names the files of the workers, and their sums


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """Write named tensors and JSON-able facts to `path`, atomically; returns the sha256 sum over them.

    Raises `WriteError` when the disk is full or a permission is missing.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(facts)
    total = _digest_tensors(plain, text)
    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # safetensors would leave the file to its owner alone
        # One key only: safetensors writes several in an order that changes from run to run.
        try:
            save_file(plain, temporary, metadata={"gtcrec": json.dumps({"facts": text, "sha256": total})})
        except SafetensorError as error:
            raise WriteError(path, str(error)) from error
        temporary.chmod(mode)
    return total


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote. Raises `RunError` when the file is missing or differs from what was written."""
    tensors, facts, _ = _read_verified(path)
    return tensors, facts


def save_shards(
    path: Path,
    tensors: Mapping[str, Tensor],
    is_shard: Callable[[str], bool],
    facts: Mapping[str, Any],
    state: str,
    workers: ProcessGroup,
) -> None:
    """Write what all workers hold together: each its own rows of those tensors whose names `is_shard` says.

    The first worker writes the other tensors, which are equal in all, to `path`. That makes the whole valid; until then
    what stood there before is, and its files stay. `state` tells the files of one checkpoint from those of the next.
    One worker writes everything to `path`.
    """
    written: list[Any] = []
    if workers.size > 1:
        own = path.with_name(f"{path.stem}.{state}.{workers.rank}-of-{workers.size}{path.suffix}")
        total = save(own, {name: tensor for name, tensor in tensors.items() if is_shard(name)}, {})
        written = all_gather_object([own.name, total], workers)  # which waits for the slowest
        tensors = {name: tensor for name, tensor in tensors.items() if not is_shard(name)}
    if workers.is_main:
        save(path, tensors, {**facts, _SHARDS: written})
        names = {name for name, _ in written}
        for old in path.parent.glob(f"{path.stem}.*-of-*{path.suffix}"):
            if old.name not in names:
                old.unlink()


def load_shards(
    path: Path, is_shard: Callable[[str], bool], workers: ProcessGroup
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_shards` wrote with any number of workers, or `save` did: of shards, the rows of this worker.

    No more than one file is held beside these. Raises `RunError` when a file is missing, damaged or of another whole.
    """
    tensors, facts = load(path)
    written = facts.pop(_SHARDS, [])
    if not written and workers.size == 1:
        return tensors, facts
    rows: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for number, part in enumerate(_read_shards(path, written) if written else [tensors]):
        for name in filter(is_shard, part):
            rows.setdefault(name, []).append(shard_rows(part[name], number, len(written) or 1, workers))
    rest = {name: tensor for name, tensor in tensors.items() if not is_shard(name)}
    return rest | {name: join_rows(pieces) for name, pieces in rows.items()}, facts


def _read_shards(path: Path, written: Sequence[tuple[str, str]]) -> Iterator[dict[str, Tensor]]:
    """What the files beside `path` hold, whose names and sums it gave."""
    for name, expected in written:
        part, _, total = _read_verified(path.with_name(name))
        if total != expected:
            raise RunError(
                f"{path.with_name(name)}: not of {path.name}: its sha256 sum is {total}, expected {expected}"
            )
        yield part


def _read_verified(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("gtcrec", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
        facts, total = str(about["facts"]), about["sha256"]
        found = _digest_tensors(tensors, facts)
    except (OSError, SafetensorError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    if found != total:
        raise RunError(f"{path}: damaged: its content differs from the sha256 sum written with it")
    return tensors, json.loads(facts), found


def add_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors renamed to "prefix/name"."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def strip_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors named "prefix/name", renamed to "name"."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _digest_tensors(tensors: Mapping[str, Tensor], text: str) -> str:
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        if tensor.numel():  # an empty one may have strides that no other type can view
            total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
