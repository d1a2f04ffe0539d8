"""Lists for all users, in blocks of users, so that their number does not matter."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gtcrec.experiments.model_bundle import FACTS, WEIGHTS
from gtcrec.runtime.block_jobs import BlockFn, BlockResults, Executor, run_in_blocks
from gtcrec.runtime.files import sha256
from gtcrec.serving.list_request import ListRequest
from gtcrec.serving.trained_model import TrainedModel

__all__ = ["BLOCK_USERS", "write_all_lists"]


_FIRST_TEN = ListRequest()
BLOCK_USERS = 8192
"""Users of a block: their lists make a row group of a size that readers like."""


def write_all_lists(
    folder: Path,
    out: Path,
    request: ListRequest = _FIRST_TEN,
    block_users: int = BLOCK_USERS,
    executor: Executor | None = None,
    on_block: Callable[[int, int], None] = lambda done, total: None,
    data: str | None = None,
    device: str | None = None,
) -> int:
    """Write every user's list to a Parquet file, a row group a block of users; return the number of rows.

    `folder` holds a saved recommender or a finished run. Memory is bounded by a block, whoever computes it. A killed
    call is gone on with by an equal one. Raises as `TrainedModel.load` and
    `ListRequest.candidates`, before the work.
    """
    make_lists = _MakeLists(str(folder.resolve()), data and str(Path(data).resolve()), device, request)
    sums = {name: sha256(folder / name) for name in ("config.yaml", FACTS, WEIGHTS) if (folder / name).exists()}
    settings = {"model": sums, "device": device or "cpu", "request": asdict(request)}
    make_lists.model.candidates(request)
    users = pa.table({"user": np.arange(len(make_lists.model.bundle.users))})
    return run_in_blocks(users, block_users, make_lists, settings, out, _assemble, executor, on_block)


@dataclass(frozen=True)
class _MakeLists:
    """Makes the function that lists a block of users; it travels to other processes as the folder's name."""

    folder: str
    data: str | None
    device: str | None
    request: ListRequest

    @cached_property
    def model(self) -> TrainedModel:
        return TrainedModel.load(Path(self.folder), self.data, self.device)

    def __call__(self) -> BlockFn:
        return lambda users: self.model.recommend(users["user"].to_numpy(), self.request)

    def __reduce__(self) -> Any:
        return _MakeLists, (self.folder, self.data, self.device, self.request)


def _assemble(results: BlockResults, path: Path) -> int:
    rows, writer = 0, None
    for lists in results:
        writer = writer or pq.ParquetWriter(path, lists.schema)
        writer.write_table(lists, row_group_size=max(1, len(lists)))
        rows += len(lists)
    if writer:
        writer.close()
    return rows
