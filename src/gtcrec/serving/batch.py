"""Lists for all users, in blocks of users, so that their number does not matter."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gtcrec.runtime.block_jobs import BlockFn, BlockResults, Executor, run_in_blocks
from gtcrec.runtime.files import sha256

if TYPE_CHECKING:
    from gtcrec.experiments.run import Run

__all__ = ["BLOCK_USERS", "write_all_lists"]


BLOCK_USERS = 8192
"""Users of a block: their lists make a row group of a size that readers like."""


def write_all_lists(
    run: "Run",
    out: Path,
    k: int = 10,
    block_users: int = BLOCK_USERS,
    executor: Executor | None = None,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write the k best items of every user to a Parquet file, a row group a block of users; return the number of rows.

    Memory is bounded by a block, whoever computes it. A killed call is gone on with by an equal one. Raises
    `RunError` for a run that is not finished.
    """
    run.need_finished()
    files = {name: sha256(run.folder / name) for name in ("config.yaml", "model.safetensors")}
    settings = {"run": files, "data": run.dataset.fingerprint, "device": run.config.train.device, "k": k}
    users = pa.table({"user": np.arange(len(run.dataset.users))})
    return run_in_blocks(users, block_users, _MakeStage(run, k), settings, out, _assemble, executor, on_block)


@dataclass(frozen=True)
class _MakeStage:
    """Makes the stage from the run at hand; in another process, from its folder."""

    run: "Run"
    k: int

    def __call__(self) -> BlockFn:
        return lambda users: self.run.recommend_table(users["user"].to_numpy(), self.k)

    def __reduce__(self) -> Any:
        data, device = Path(self.run.config.data.path), self.run.config.train.device
        return _Load, (str(self.run.folder.resolve()), str(data.resolve()), device, self.k)


@dataclass(frozen=True)
class _Load:
    """`_MakeStage` as it travels."""

    folder: str
    data: str
    device: str
    k: int

    def __call__(self) -> BlockFn:
        from gtcrec.experiments.run import Run

        return _MakeStage(Run.load(self.folder, self.data, self.device), self.k)()


def _assemble(results: BlockResults, path: Path) -> int:
    rows, writer = 0, None
    for lists in results:
        writer = writer or pq.ParquetWriter(path, lists.schema)
        writer.write_table(lists, row_group_size=max(1, len(lists)))
        rows += len(lists)
    if writer:
        writer.close()
    return rows
