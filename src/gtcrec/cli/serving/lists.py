"""How the command line shows lists: as a table with titles, JSON, CSV or Parquet."""

import csv
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gtcrec.cli.options import prepare_parent

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import RenderableType

__all__ = ["ListFormat", "ListLength", "Out", "SafeCsv", "TitlesOf", "Where", "check_output", "write_lists"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the start of a formula
SafeCsv = Annotated[
    bool, typer.Option("--safe-csv", help="With csv: a ' before ids that a spreadsheet would take for formulas.")
]
ListFormat = Annotated[Literal["text", "json", "csv", "parquet"], typer.Option("--format", help="parquet needs --out.")]
ListLength = Annotated[int, typer.Option("-k", min=1, help="Length of the lists.")]
Out = Annotated[Path | None, typer.Option("--out", help="Write to this file, not to stdout.")]
Where = Annotated[
    str | None,
    typer.Option("--where", metavar="FILTER", help="Only items whose columns match: \"kind = 'mug' and price < 50\"."),
]
TitlesOf = Callable[[Sequence[Any]], list[str]]


def check_output(form: str, out: Path | None) -> None:
    """Make the folder of `out`; raise `typer.BadParameter` for Parquet without a file."""
    if form == "parquet" and out is None:
        raise typer.BadParameter("--format parquet needs --out FILE")
    prepare_parent(out)


def write_lists(
    lists: "pa.Table", titles_of: TitlesOf, owner: str, form: str, out: Path | None, safe: bool = False
) -> None:
    """Write lists to `out` or, where that is None, to stdout.

    The first column of `lists` says whose they are, the second what is listed, then come rank and score. "text" calls
    the first `owner`, the second by its name, and adds the titles of what is listed where there are any.
    """
    from gtcrec.cli.console import say, write_out
    from gtcrec.runtime.files import atomic_path, sweep_stale, write_text

    if out is None:
        text = _lists_as_text(lists, titles_of, owner, form, safe)
        sys.stdout.write(text) if form == "text" else write_out(text)  # a table has colours of its own
        return
    sweep_stale(out.parent, out.name)
    if form == "parquet":
        import pyarrow.parquet as pq

        with atomic_path(out) as temporary:
            pq.write_table(lists, temporary)
    else:
        write_text(out, _lists_as_text(lists, titles_of, owner, form, safe))
    say(f"{len(lists):,} rows: {out}")


def _lists_as_text(lists: "pa.Table", titles_of: TitlesOf, owner: str, form: str, safe: bool) -> str:
    from gtcrec.cli.console import json_text, rendered

    if form == "json":
        return json_text(lists.to_pylist())
    rows = list(zip(*(column.to_pylist() for column in lists.columns), strict=True))
    if form == "text":
        return rendered(_lists_table(rows, titles_of, owner, lists.column_names[1].split("_")[-2]))
    if safe:
        rows = [tuple(map(_safe_cell, row)) for row in rows]
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([lists.column_names, *rows])
    return stream.getvalue()


def _safe_cell(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _lists_table(rows: Sequence[tuple[Any, ...]], titles_of: TitlesOf, owner: str, listed: str) -> "RenderableType":
    """Return a table of lists that names each owner once, with titles if there are any."""
    from rich.markup import escape

    from gtcrec.cli.console import table

    titles = titles_of([row[1] for row in rows])
    lines, previous = [], None
    for place, (user, item, rank, score) in enumerate(rows):
        name = "" if user == previous else escape(str(user))
        lines.append([name, str(rank), f"{score:.4f}", escape(str(item)), *map(escape, titles[place : place + 1])])
        previous = user
    headers = [owner, "rank", "score", listed, *(["title"] if titles else [])]
    return table(headers, lines, left=(0, 3, 4))
