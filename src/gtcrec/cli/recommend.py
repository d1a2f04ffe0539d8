"""`gtcrec recommend`: lists as a table, JSON, CSV or Parquet, with the columns user_id, item_id, rank and score."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gtcrec.cli.options import (
    DataPath,
    Device,
    Engine,
    RayAddress,
    RunFolder,
    WorkerCount,
    split_commas,
)
from gtcrec.cli.serving.lists import (
    ListFormat,
    ListLength,
    Out,
    SafeCsv,
    TitlesOf,
    Where,
    check_output,
    write_lists,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from gtcrec.serving.list_request import ListRequest

__all__ = ["recommend"]

Ids = list[str] | None
BlockUsers = Annotated[int, typer.Option("--block-users", min=1, help="Of --all to parquet: users of a row group.")]
Exclude = Annotated[str, typer.Option("--exclude", metavar="ID,ID", help="Items that are not to be listed.")]
Candidates = Annotated[
    Path | None, typer.Option("--items", metavar="FILE", help="The only items to list: a text file, an id a line.")
]
Offset = Annotated[int, typer.Option("--offset", min=0, help="Pass over so many of the best items: the next page.")]
Diversity = Annotated[
    float, typer.Option("--diversity", min=0.0, max=0.99, help="Weight of unlikeness within a list, from 0 on.")
]


def recommend(
    folder: RunFolder,
    users: Annotated[str, typer.Option("--users", metavar="ID,ID", help="Users of the data; quotes hold commas.")] = "",
    user: Annotated[Ids, typer.Option("--user", "-u", metavar="ID", help="A user of the data; repeatable.")] = None,
    history: Annotated[Ids, typer.Option("--history", metavar="ID", help="An item of a new user; repeatable.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every user of the data.")] = False,
    old_history: Annotated[Ids, typer.Option("--liked", hidden=True)] = None,
    k: ListLength = 10,
    where: Where = None,
    exclude: Exclude = "",
    items: Candidates = None,
    offset: Offset = 0,
    diversity: Diversity = 0.0,
    form: ListFormat = "text",
    out: Out = None,
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
    if engine == "ray" and not (every and form == "parquet"):
        raise typer.BadParameter("--engine ray is for --all --format parquet")
    check_output(form, out)
    request = _read_request(k, items, split_commas(exclude), where, offset, diversity)
    if every and form == "parquet" and out:
        _write_all_users(folder, out, request, block_users, (engine, workers, ray_address), data, device)
        return
    lists, titles_of = _make_lists(folder, named, histories, request, data, device)
    write_lists(lists, titles_of, "history" if histories else "user", form, out, safe_csv)


def _read_request(
    k: int, items: Path | None, exclude: list[str], where: str | None, offset: int, diversity: float
) -> "ListRequest":
    from gtcrec.errors import DataError
    from gtcrec.serving.list_request import ListRequest

    listed = None
    if items is not None:
        try:
            lines = items.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{items}: expected UTF-8 text, an item id a line, found {error}") from error
        listed = [line.strip() for line in lines if line.strip()]
    return ListRequest(k, True, listed, exclude, where, offset, diversity)


def _make_lists(
    folder: Path,
    users: list[str],
    histories: list[list[str]],
    request: "ListRequest",
    data: str | None,
    device: str | None,
) -> tuple["pa.Table", TitlesOf]:
    """Return the lists of users, of histories or, where both are empty, of everyone, and what tells titles."""
    if users and device in (None, "cpu"):
        from gtcrec.serving.stored_lists import StoredLists

        stored = StoredLists.open(folder)
        if stored is not None:
            return stored.recommend(users, request), stored.titles_of
    from gtcrec.serving.trained_model import TrainedModel

    model = TrainedModel.load(folder, data, device)
    if histories:
        return model.recommend_for_histories(histories, request), model.titles_of
    known = model.bundle.users
    return model.recommend(known.index(users or known.ids), request), model.titles_of


def _write_all_users(
    folder: Path,
    out: Path,
    request: "ListRequest",
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
        rows = write_all_lists(folder, out, request, block_users, executor, on_block, data, device)
    say(f"{rows:,} rows: {out}")
