"""Recommended lists as a table, JSON, CSV or Parquet: columns user_id, item_id, rank, score.

Lists for all users go to Parquet in blocks of users, so that their number does not matter.
"""

import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import RenderableType
from rich.markup import escape

from gtcrec.cli.console import rendered, say, table
from gtcrec.runtime.block_jobs import Executor, Results, Stage, in_blocks
from gtcrec.runtime.files import atomic_path, sha256, write_text
from gtcrec.types import Dataset

if TYPE_CHECKING:
    from gtcrec.experiments.run import Run

__all__ = ["BLOCK_USERS", "write_all_lists", "write_lists"]

BLOCK_USERS = 8192
"""Users of a block: their lists make a row group of a size that readers like."""


def write_lists(found: pa.Table, dataset: Dataset, form: str, out: Path | None) -> None:
    """Write recommendations to `out` or, where that is None, to stdout.

    `form` is "table" (with titles where the data have them), "json", "csv" or "parquet"; Parquet needs `out`.
    """
    if out is not None and form == "parquet":
        with atomic_path(out) as temporary:
            pq.write_table(found, temporary)
    elif out is not None:
        write_text(out, _text(found, dataset, form))
    else:
        sys.stdout.write(_text(found, dataset, form))
    if out is not None:
        say(f"{len(found):,} rows: {out}")


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
    return in_blocks(users, block_users, _MakeStage(run, k), settings, out, _assemble, executor, on_block)


@dataclass(frozen=True)
class _MakeStage:
    """Makes the stage from the run at hand; in another process, from its folder."""

    run: "Run"
    k: int

    def __call__(self) -> Stage:
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

    def __call__(self) -> Stage:
        from gtcrec.experiments.run import Run

        return _MakeStage(Run.load(self.folder, self.data, self.device), self.k)()


def _assemble(results: Results, path: Path) -> int:
    rows, writer = 0, None
    for lists in results:
        writer = writer or pq.ParquetWriter(path, lists.schema)
        writer.write_table(lists, row_group_size=max(1, len(lists)))
        rows += len(lists)
    if writer:
        writer.close()
    return rows


def _text(found: pa.Table, dataset: Dataset, form: str) -> str:
    if form == "json":
        return json.dumps(found.to_pylist(), indent=2, ensure_ascii=False) + "\n"
    rows = list(zip(*(column.to_pylist() for column in found.columns), strict=True))
    if form == "table":
        return rendered(_table(rows, dataset, found.column_names[0].removesuffix("_id")))
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([found.column_names, *rows])
    return stream.getvalue()


def _table(rows: Sequence[tuple[Any, ...]], dataset: Dataset, who: str) -> RenderableType:
    titles = _titles(rows, dataset)
    lines, before = [], None
    for place, (user, item, rank, score) in enumerate(rows):
        shown = "" if user == before else escape(str(user))
        title = [escape(titles[place])] if titles else []
        lines.append([shown, str(rank), f"{score:.4f}", escape(str(item)), *title])
        before = user
    headers = [who, "rank", "score", "item", *(["title"] if titles else [])]
    return table(headers, lines, left=(0, 3, 4))


def _titles(rows: Sequence[tuple[Any, ...]], dataset: Dataset) -> list[str]:
    """Return the title of each row's item, or nothing when the data have none."""
    if dataset.cards is None:
        return []
    return [dataset.cards.titles[index] for index in dataset.items.index(row[1] for row in rows)]
