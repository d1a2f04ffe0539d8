"""Recommended lists as a table, JSON, CSV or Parquet: columns user_id, item_id, rank, score."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import RenderableType
from rich.markup import escape

from gtcrec.console import rendered, say, table
from gtcrec.files import atomic_path, write_text
from gtcrec.types import Dataset

if TYPE_CHECKING:
    from gtcrec.run import Recommendation

__all__ = ["COLUMNS", "write_lists"]

COLUMNS = ("user_id", "item_id", "rank", "score")


def write_lists(found: Sequence["Recommendation"], dataset: Dataset, form: str, out: Path | None) -> None:
    """Write recommendations to `out` or, where that is None, to stdout.

    `form` is "table" (with titles where the data have them), "json", "csv" or "parquet"; Parquet needs `out`.
    """
    rows = [(one.user, one.item, one.rank, one.score) for one in found]
    if out is not None and form == "parquet":
        with atomic_path(out) as temporary:
            pq.write_table(_arrow(rows), temporary)
    elif out is not None:
        write_text(out, _text(rows, dataset, form))
    else:
        sys.stdout.write(_text(rows, dataset, form))
    if out is not None:
        say(f"{len(rows):,} rows: {out}")


def _text(rows: Sequence[tuple[Any, ...]], dataset: Dataset, form: str) -> str:
    if form == "table":
        return rendered(_table(rows, dataset))
    if form == "json":
        return json.dumps([dict(zip(COLUMNS, row, strict=True)) for row in rows], indent=2, ensure_ascii=False) + "\n"
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *rows])
    return stream.getvalue()


def _arrow(rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    users, items, ranks, scores = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [], [])
    arrays = [pa.array(users), pa.array(items), pa.array(ranks, pa.int32()), pa.array(scores, pa.float32())]
    return pa.Table.from_arrays(arrays, names=list(COLUMNS))


def _table(rows: Sequence[tuple[Any, ...]], dataset: Dataset) -> RenderableType:
    titles = _titles(rows, dataset)
    lines, before = [], None
    for place, (user, item, rank, score) in enumerate(rows):
        shown = "" if user == before else escape(str(user))
        title = [escape(titles[place])] if titles else []
        lines.append([shown, str(rank), f"{score:.4f}", escape(str(item)), *title])
        before = user
    headers = ["user", "rank", "score", "item", *(["title"] if titles else [])]
    return table(headers, lines, left=(0, 3, 4))


def _titles(rows: Sequence[tuple[Any, ...]], dataset: Dataset) -> list[str]:
    """Return the title of each row's item, or nothing when the data have none."""
    if dataset.cards is None:
        return []
    return [dataset.cards.titles[index] for index in dataset.items.index(row[1] for row in rows)]
