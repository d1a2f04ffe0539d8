"""`gtcrec recommend`: lists as a table, JSON, CSV or Parquet, with the columns user_id, item_id, rank and score."""

import csv
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gtcrec.cli.options import (
    DataPath,
    Device,
    Engine,
    RayAddress,
    RunFolder,
    WorkerCount,
    prepare_parent,
    split_commas,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import RenderableType

__all__ = ["recommend"]

Ids = list[str] | None
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the start of a formula
SafeCsv = Annotated[
    bool, typer.Option("--safe-csv", help="With csv: a ' before ids that a spreadsheet would take for formulas.")
]
BlockUsers = Annotated[int, typer.Option("--block-users", min=1, help="Of --all to parquet: users of a row group.")]
TitlesOf = Callable[[Sequence[Any]], list[str]]
ListFormat = Literal["text", "json", "csv", "parquet"]


def recommend(
    folder: RunFolder,
    users: Annotated[str, typer.Option("--users", metavar="ID,ID", help="Users of the data; quotes hold commas.")] = "",
    user: Annotated[Ids, typer.Option("--user", "-u", metavar="ID", help="A user of the data; repeatable.")] = None,
    history: Annotated[Ids, typer.Option("--history", metavar="ID", help="An item of a new user; repeatable.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every user of the data.")] = False,
    old_history: Annotated[Ids, typer.Option("--liked", hidden=True)] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Length of the lists.")] = 10,
    form: Annotated[ListFormat, typer.Option("--format", help="parquet needs --out.")] = "text",
    out: Annotated[Path | None, typer.Option("--out", help="Write to this file, not to stdout.")] = None,
    safe_csv: SafeCsv = False,
    data: DataPath = None,
    device: Device = None,
    block_users: BlockUsers = 8192,
    engine: Engine = "local",
    workers: WorkerCount = 1,
    ray_address: RayAddress = "",
) -> None:
    """Print the best items for users, in the ids of the data; items seen in training are left out."""
    named = [*split_commas(users), *(user or ())]
    histories = [*([history] if history else ()), *map(split_commas, old_history or ())]
    if [bool(named), bool(histories), every].count(True) != 1:
        raise typer.BadParameter("expected one of --users or --user, --history, and --all")
    if form == "parquet" and out is None:
        raise typer.BadParameter("--format parquet needs --out FILE")
    if engine == "ray" and not (every and form == "parquet"):
        raise typer.BadParameter("--engine ray is for --all --format parquet")
    prepare_parent(out)
    if every and form == "parquet" and out:
        _write_all_users(folder, out, k, block_users, (engine, workers, ray_address), data, device)
        return
    lists, titles_of = _make_lists(folder, named, histories, k, data, device)
    _write_lists(lists, titles_of, "history" if histories else "user", form, out, safe_csv)


def _make_lists(
    folder: Path, users: list[str], histories: list[list[str]], k: int, data: str | None, device: str | None
) -> tuple["pa.Table", TitlesOf]:
    """Return the lists of users, of histories or, where both are empty, of everyone, and what tells titles."""
    if users and device in (None, "cpu"):
        from gtcrec.serving.stored_lists import StoredLists

        stored = StoredLists.open(folder)
        if stored is not None:
            return stored.recommend(users, k), stored.titles_of
    from gtcrec.serving.trained_model import TrainedModel

    model = TrainedModel.load(folder, data, device)
    if histories:
        return model.recommend_for_histories(histories, k), model.titles_of
    known = model.bundle.users
    return model.recommend(known.index(users or known.ids), k), model.titles_of


def _write_all_users(
    folder: Path,
    out: Path,
    k: int,
    block_users: int,
    workers: tuple[Any, int, str],
    data: str | None,
    device: str | None,
) -> None:
    """Write the lists of all users in blocks, so that their number does not matter."""
    from gtcrec.cli.console import counted, resumable, say
    from gtcrec.runtime.block_jobs import choose_executor
    from gtcrec.serving.batch import write_all_lists

    executor = choose_executor(*workers, device or "cpu")
    with resumable("the same command goes on from here"), counted("blocks of users") as on_block:
        rows = write_all_lists(folder, out, k, block_users, executor, on_block, data, device)
    say(f"{rows:,} rows: {out}")


def _write_lists(
    lists: "pa.Table", titles_of: TitlesOf, owner: str, form: str, out: Path | None, safe: bool = False
) -> None:
    """Write recommendations to `out` or, where that is None, to stdout; "text" adds titles where the data have them."""
    from gtcrec.cli.console import say, write_out
    from gtcrec.runtime.files import atomic_path, write_text

    if out is None:
        text = _lists_as_text(lists, titles_of, owner, form, safe)
        sys.stdout.write(text) if form == "text" else write_out(text)  # a table has colours of its own
        return
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
        return rendered(_lists_table(rows, titles_of, owner))
    if safe:
        rows = [tuple(map(_safe_cell, row)) for row in rows]
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([lists.column_names, *rows])
    return stream.getvalue()


def _safe_cell(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _lists_table(rows: Sequence[tuple[Any, ...]], titles_of: TitlesOf, first_header: str) -> "RenderableType":
    """Return a table of lists that shows each user once, with the items' titles if there are any."""
    from rich.markup import escape

    from gtcrec.cli.console import table

    titles = titles_of([row[1] for row in rows])
    lines, previous = [], None
    for place, (user, item, rank, score) in enumerate(rows):
        name = "" if user == previous else escape(str(user))
        lines.append([name, str(rank), f"{score:.4f}", escape(str(item)), *map(escape, titles[place : place + 1])])
        previous = user
    headers = [first_header, "rank", "score", "item", *(["title"] if titles else [])]
    return table(headers, lines, left=(0, 3, 4))
