"""Recommended lists as a table, JSON, CSV or Parquet: columns user_id, item_id, rank, score.

Lists for all users go to Parquet in blocks of users, so that their number does not matter.
"""

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

from gtcrec.cli.console import rendered, say, table
from gtcrec.runtime.files import atomic_path, write_text
from gtcrec.types import Dataset

if TYPE_CHECKING:
    pass

__all__ = ["write_lists"]


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
    if dataset.item_metadata is None:
        return []
    return [dataset.item_metadata.titles[index] for index in dataset.items.index(row[1] for row in rows)]
